//! What one client may take of the server, so that no client can take all of it.
//!
//! Owns the limits and their defaults.

use crate::protocol;
use std::time::Duration;

/// Limits of a server and of each of its clients.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Clients at a time; more are turned away. Those in use open 1 to 16 connections.
    pub connections: usize,
    /// Requests of one client that are carried out at a time; the rest stays in its socket.
    pub requests: usize,
    /// Bytes of one client's reads and writes in memory at a time. One request is always carried out.
    pub bytes: u64,
    /// How long a client may take to agree on an export.
    pub handshake: Duration,
    /// How long clients may take to fetch their last replies when the server stops.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 128,
            requests: 1024,
            bytes: u64::from(protocol::PAYLOAD_BYTES_MAX),
            handshake: Duration::from_secs(10),
            drain: Duration::from_secs(10),
        }
    }
}
