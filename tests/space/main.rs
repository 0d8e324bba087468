//! Pools and hosts that run full, with real clients, and space that goes back to the host.
//!
//! Whoever has no room waits and goes on, or is told in time, as the pool's settings say; nobody else notices, and
//! nothing that was acknowledged is lost. Files: `bench.rs` (a served pool), `stall.rs` (fio), `host_full.rs` (file systems,
//! limits and quotas of the host), `connection.rs` (one connection while a write waits), `crowd.rs` (several clients, kills,
//! snapshots), `give_back.rs` (what the data file takes). What needs a kernel's client is in `tests/lab/space.sh`.
//!
//! `VELLUM_STALL_SECONDS` says how long writes are left waiting, and how long a time-out is; `VELLUM_FILL_BYTES` how much is
//! written before it is given back.

mod bench;
mod connection;
mod crowd;
mod give_back;
mod host_full;
mod stall;
