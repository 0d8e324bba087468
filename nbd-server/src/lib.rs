//! Serves the volumes and snapshots of a pool to NBD clients.
//!
//! Owns the protocol ([`protocol`], which does no I/O) and the threads that carry bytes between sockets, the engine
//! and its disks. Decides nothing about blocks. A [`Server`] is started over an open [`vellum_engine::Core`] and the
//! files it was opened from; the walk of a request stands at the top of `worker.rs`.

#![forbid(unsafe_code)]

mod changes;
mod connection;
mod errors;
mod exports;
mod limits;
mod listener;
mod output;
mod pending;
pub mod protocol;
mod reply;
mod server;
mod shared;
mod worker;

pub use limits::Limits;
pub use server::{Config, Handle, Server};
