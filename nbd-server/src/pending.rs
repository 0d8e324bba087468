//! Requests that the engine has: whose they are, and what comes next when it has answered.
//!
//! Owns the translation of one command into one request of the engine, or several one after the other: a zeroing that
//! keeps its space allocated, and a prefetch, go in pieces, so that none takes much memory or time.

use crate::protocol::Command;
use crate::reply::Asked;
use bytes::Bytes;
use std::sync::mpsc;
use vellum_engine::request::{Reply, Request};
use vellum_engine::units::VolumeId;

/// Zeros that are written at a time, in bytes.
const ZEROES_BYTES: u64 = 4 << 20;
/// A prefetch reads so much at a time, in bytes.
const PREFETCH_BYTES: u64 = 1 << 20;
/// A prefetch reads no more than this in all: it is a hint, and memory is everybody's.
const PREFETCH_BYTES_MAX: u64 = 32 << 20;

/// What the answer to a question for extents may take, about, in bytes.
const STATUS_BYTES: u64 = 128 << 10;

/// A request that the engine has.
pub enum Pending {
    /// A client's.
    Client(ClientRequest),
    /// Somebody's who waits at the other end.
    Control(mpsc::SyncSender<Reply>),
}

/// A client's request.
pub struct ClientRequest {
    /// Which connection of this thread.
    pub connection: usize,
    /// What the reply needs to know.
    pub asked: Asked,
    /// Bytes that count against the client's limit.
    pub bytes: u64,
    /// What is left to do afterwards.
    rest: Rest,
}

/// Pieces that follow.
enum Rest {
    Nothing,
    Zeroes { volume: VolumeId, from: u64, to: u64, fua: bool },
    Prefetch { volume: VolumeId, from: u64, to: u64 },
}

impl ClientRequest {
    /// A client's `command` on `volume`, and the first thing to ask of the engine for it. None if there is nothing to
    /// do.
    pub fn new(
        connection: usize,
        asked: Asked,
        volume: VolumeId,
        command: &Command,
        length_bytes: u64,
        payload: Bytes,
    ) -> (Self, Option<Request>) {
        let offset_bytes = asked.offset_bytes;
        let mut rest = Rest::Nothing;
        let mut bytes = 0;
        let request = match *command {
            Command::Read { .. } => {
                bytes = length_bytes;
                Some(Request::Read { volume, offset_bytes, length_bytes })
            }
            Command::Write { fua } => {
                bytes = length_bytes;
                Some(Request::Write { volume, offset_bytes, bytes: payload, fua })
            }
            Command::Flush => Some(Request::Flush),
            Command::Trim { fua } => Some(Request::Discard { volume, offset_bytes, length_bytes, fua }),
            Command::WriteZeroes { fua, no_hole: false, .. } => {
                Some(Request::WriteZeroes { volume, offset_bytes, length_bytes, keep_allocated: false, fua })
            }
            Command::WriteZeroes { fua, no_hole: true, .. } => {
                bytes = length_bytes.min(ZEROES_BYTES);
                rest = Rest::Zeroes { volume, from: offset_bytes, to: offset_bytes + length_bytes, fua };
                rest.next()
            }
            Command::Cache => {
                bytes = length_bytes.min(PREFETCH_BYTES);
                let to = offset_bytes + length_bytes.min(PREFETCH_BYTES_MAX);
                rest = Rest::Prefetch { volume, from: offset_bytes, to };
                rest.next()
            }
            Command::BlockStatus { .. } => {
                bytes = STATUS_BYTES;
                Some(Request::Extents { volume, offset_bytes, length_bytes })
            }
            Command::Disconnect => None,
        };
        (Self { connection, asked, bytes, rest }, request)
    }

    /// What is to be asked of the engine after a piece that went well.
    pub fn next(&mut self) -> Option<Request> {
        self.rest.next()
    }

    /// Whether what the engine reads is not for the client.
    pub fn is_prefetch(&self) -> bool {
        matches!(self.rest, Rest::Prefetch { .. })
    }
}

impl Rest {
    fn next(&mut self) -> Option<Request> {
        match self {
            Self::Zeroes { volume, from, to, fua } if *from < *to => {
                // Pieces begin where a piece may begin in every volume, so that only the ends are cut inside a block.
                let end = (*from / ZEROES_BYTES + 1) * ZEROES_BYTES;
                let (offset_bytes, length_bytes) = (*from, end.min(*to) - *from);
                *from += length_bytes;
                // The last one's sync covers those before, which have been answered by then.
                let fua = *fua && *from == *to;
                Some(Request::WriteZeroes {
                    volume: *volume,
                    offset_bytes,
                    length_bytes,
                    keep_allocated: true,
                    fua,
                })
            }
            Self::Prefetch { volume, from, to } if *from < *to => {
                let (offset_bytes, length_bytes) = (*from, PREFETCH_BYTES.min(*to - *from));
                *from += length_bytes;
                Some(Request::Read { volume: *volume, offset_bytes, length_bytes })
            }
            Self::Nothing | Self::Zeroes { .. } | Self::Prefetch { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_zeroes_go_in_pieces_and_only_the_last_is_forced_out() {
        let asked = Asked { cookie: 1, offset_bytes: 5, one: false };
        let command = Command::WriteZeroes { fua: true, no_hole: true, fast: false };
        let length = 3 * ZEROES_BYTES;
        let (mut request, first) = ClientRequest::new(0, asked, VolumeId(1), &command, length, Bytes::new());
        let mut at = 5;
        let mut next = first;
        while let Some(piece) = next {
            let Request::WriteZeroes { offset_bytes, length_bytes, keep_allocated: true, fua, .. } = piece
            else {
                panic!("{piece:?}")
            };
            assert_eq!(offset_bytes, at);
            at += length_bytes;
            assert_eq!(fua, at == 5 + length);
            next = request.next();
        }
        assert_eq!(at, 5 + length);
    }
}
