//! The machinery of the crash tests: a disk that loses what it may lose, a model that knows what must be kept,
//! and a driver that runs the engine between the two.
//!
//! Everything is decided by a seed; nothing here looks at a file, and at a clock only to tell how fast it was
//! or that a server does not answer.
//! Read first `sim_disk/mod.rs`, then `model/mod.rs`, `driver/mod.rs`. The tests that use it: `tests/model`,
//! `tests/crash`, `tests/faults`.
//!
//! Five are other matters: `thin.rs`, thin devices for `tests/dm`; `program.rs`, which runs real programs for `tests/clients`, `tests/kill` and `tests/space`;
//! `place.rs`, file systems for them; `nbd_client.rs`, for tests of a whole server; and `lab`, real kernels in virtual
//! machines.

pub mod adapter;
pub mod driver;
pub mod lab;
pub mod model;
pub mod nbd_client;
pub mod place;
pub mod program;
pub mod rng;
pub mod sim_disk;
pub mod tag;
pub mod thin;
pub mod workload;
