//! The NBD protocol as a server speaks it: fixed newstyle, structured replies, block status. Bytes in, bytes out.
//!
//! In order of what happens on a connection:
//!
//! 1. The server sends [`Handshake::greeting`].
//! 2. The client's flags and options go into [`Handshake::receive`], which looks exports up by [`Exports`] and writes
//!    the answers, until a [`Session`] is agreed or the connection must be closed.
//! 3. Each request is 28 bytes, decoded by [`RequestHeader::decode`]; a WRITE is followed by
//!    [`RequestHeader::payload_bytes`] of data, also when it is refused.
//! 4. [`check`] makes a [`Command`] of it or says which [`Errno`] the client gets.
//! 5. The encoders in [`reply`] write what came of it.
//!
//! Owns every byte of the protocol and every rule that can be checked without looking at data. Never does I/O, never
//! waits, and knows nothing of volumes. No bytes make it panic, and it keeps no more of them than one option may have.
//!
//! "The spec" in comments is `doc/proto.md` of the NetworkBlockDevice project.

pub mod constants;
mod error;
mod export;
mod fields;
mod handshake;
mod meta_context;
mod option;
mod option_reply;
pub mod reply;
mod request;
mod step;

#[cfg(test)]
mod handshake_tests;
#[cfg(test)]
mod meta_context_tests;
#[cfg(test)]
mod property_tests;
#[cfg(test)]
mod request_tests;
#[cfg(test)]
mod talk;

pub use error::Errno;
pub use export::{Export, Exports};
pub use handshake::Handshake;
pub use meta_context::{Context, MetaContext};
pub use reply::Extent;
pub use request::{BadMagic, Command, RequestHeader, check};
pub use step::{CloseReason, Limits, Session, Step};

/// The longest payload of a WRITE, and the longest answer to a READ.
///
/// The spec wants that no payload up to this length is taken for an attack.
pub const PAYLOAD_BYTES_MAX: u32 = 32 << 20;

/// The longest string of the protocol: a name, a query or a message.
pub const STRING_BYTES_MAX: usize = 4096;
