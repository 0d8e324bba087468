//! Turns what the engine answered into what the client is told.
//!
//! Owns the choice between simple and structured replies, and the chunks of the latter. The bytes of each are
//! `protocol/reply.rs`'s.

use crate::errors::errno;
use crate::output::Output;
use crate::protocol::{Errno, MetaContext, Session, reply as wire};
use vellum_engine::error::Error;
use vellum_engine::request::{Extent, Segment};

/// `NBD_STATE_HOLE | NBD_STATE_ZERO`.
const HOLE_AND_ZERO: u32 = 3;

/// A request as far as its reply needs it.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// The client's name for it.
    pub cookie: u64,
    /// Where it began, in bytes.
    pub offset_bytes: u64,
    /// One chunk only (`NBD_CMD_FLAG_DF`), or one extent only (`NBD_CMD_FLAG_REQ_ONE`).
    pub one: bool,
}

/// Something went wrong.
pub fn engine_error(output: &mut Output, session: &Session, asked: &Asked, error: &Error) {
    failure(output, session, asked, errno(error), error.message());
}

/// Something went wrong; `message` is for people.
pub fn failure(output: &mut Output, session: &Session, asked: &Asked, errno: Errno, message: &str) {
    wire::failure(output.headers(), asked.cookie, session.structured_replies, errno, message);
}

/// It is done.
pub fn done(output: &mut Output, session: &Session, asked: &Asked) {
    if session.structured_replies {
        wire::done(output.headers(), asked.cookie);
    } else {
        wire::simple(output.headers(), asked.cookie, Ok(()));
    }
}

/// What was read.
pub fn data(output: &mut Output, session: &Session, asked: &Asked, segments: Vec<Segment>) {
    if !session.structured_replies {
        wire::simple(output.headers(), asked.cookie, Ok(()));
        segments.into_iter().for_each(|segment| payload(output, segment));
    } else if segments.is_empty() {
        wire::done(output.headers(), asked.cookie);
    } else if asked.one && segments.len() > 1 {
        let length: u64 = segments.iter().map(length_bytes).sum();
        wire::data_header(output.headers(), asked.cookie, true, asked.offset_bytes, length as u32);
        segments.into_iter().for_each(|segment| payload(output, segment));
    } else {
        chunks(output, asked, segments);
    }
}

fn chunks(output: &mut Output, asked: &Asked, segments: Vec<Segment>) {
    let mut at = asked.offset_bytes;
    let last = segments.len() - 1;
    for (index, segment) in segments.into_iter().enumerate() {
        let length = length_bytes(&segment);
        let is_last = index == last;
        match segment {
            Segment::Zeros(_) => wire::hole(output.headers(), asked.cookie, is_last, at, length as u32),
            Segment::Bytes(bytes) => {
                wire::data_header(output.headers(), asked.cookie, is_last, at, length as u32);
                output.payload(bytes);
            }
        }
        at += length;
    }
}

fn length_bytes(segment: &Segment) -> u64 {
    match segment {
        Segment::Zeros(length) => *length,
        Segment::Bytes(bytes) => bytes.len() as u64,
    }
}

fn payload(output: &mut Output, segment: Segment) {
    match segment {
        Segment::Zeros(length) => output.zeros(length),
        Segment::Bytes(bytes) => output.payload(bytes),
    }
}

/// What a range consists of: one chunk a context that was agreed upon.
pub fn status(output: &mut Output, session: &Session, asked: &Asked, extents: &[Extent]) {
    let last = session.contexts.len().saturating_sub(1);
    for (index, context) in session.contexts.iter().enumerate() {
        let mut told = extents_of(context.kind, extents);
        if asked.one {
            told.truncate(1);
        }
        wire::block_status(output.headers(), asked.cookie, index == last, context.id, &told);
    }
}

/// Extents as one context sees them, neighbours of one kind joined.
fn extents_of(context: MetaContext, extents: &[Extent]) -> Vec<wire::Extent> {
    let mut told: Vec<wire::Extent> = Vec::with_capacity(extents.len());
    for extent in extents {
        let flags = match context {
            MetaContext::Allocation if extent.mapped => 0,
            MetaContext::Allocation => HOLE_AND_ZERO,
            MetaContext::Shared => u32::from(extent.shared),
        };
        let length_bytes = extent.length_bytes as u32;
        match told.last_mut().filter(|last| last.flags == flags) {
            Some(last) => last.length_bytes += length_bytes,
            None => told.push(wire::Extent { length_bytes, flags }),
        }
    }
    told
}
