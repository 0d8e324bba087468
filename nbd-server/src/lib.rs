//! Serves the volumes and snapshots of a pool to NBD clients.
//!
//! Owns the protocol ([`protocol`], which does no I/O) and the event loops that carry bytes between sockets, the
//! engine and its disks. Decides nothing about blocks.

#![forbid(unsafe_code)]

pub mod protocol;
