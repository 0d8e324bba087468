//! What the benches share: a file system to count on, a client, the servers that are compared, large pools.
//!
//! Owns no measurement. One file a thing: `host.rs`, `load.rs`, `server.rs`, `pools.rs`, `stat.rs`.

pub mod host;
pub mod load;
pub mod pools;
pub mod server;
pub mod stat;
