//! dm-thin's metadata: what we write is given to the kernel and to thin-provisioning-tools, what they write to us.
//!
//! `pools.rs` makes random pools, `tools.rs` runs Debian's tools, `kernel.rs` the kernel in the lab. `matrix.rs` breaks metadata
//! in every way we know and prints who finds it, `damage.rs` at random, `cuts.rs` by power cuts while it is written. `search.rs` looks
//! for wrong data in what is salvaged.

mod cuts;
mod damage;
mod export;
mod fixtures;
mod image;
mod import;
mod kernel;
mod matrix;
mod pictures;
mod pools;
mod round_trips;
mod search;
mod tools;
