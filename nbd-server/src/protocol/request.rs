//! Decodes requests and says which of them may be carried out.
//!
//! Owns everything that can be said of a request without looking at data, and the order in which it is said. What a
//! command does is for those who carry it out.

use super::constants::*;
use super::fields::Fields;
use super::{Errno, PAYLOAD_BYTES_MAX, Session};
use std::fmt;

/// The 28 bytes before the payload, if any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHeader {
    /// Command flags.
    pub flags: u16,
    /// The command as sent, known or not.
    pub command: u16,
    /// What the client knows its request by.
    pub cookie: u64,
    /// The first byte of the range.
    pub offset_bytes: u64,
    /// The length of the range, and of the payload of a WRITE.
    pub length_bytes: u32,
}

// offset  size  field
//      0     4  REQUEST_MAGIC
//      4     2  flags
//      6     2  command
//      8     8  cookie
//     16     8  offset
//     24     4  length
impl RequestHeader {
    /// The length of a header.
    pub const BYTES: usize = 28;

    /// Reads a header. Fails if the magic is wrong: then nobody knows where the next request begins, and the
    /// connection must be dropped.
    pub fn decode(bytes: &[u8; Self::BYTES]) -> Result<Self, BadMagic> {
        Self::fields(&mut Fields(bytes)).ok_or(BadMagic)
    }

    fn fields(fields: &mut Fields) -> Option<Self> {
        (fields.u32()? == REQUEST_MAGIC).then_some(())?;
        Some(Self {
            flags: fields.u16()?,
            command: fields.u16()?,
            cookie: fields.u64()?,
            offset_bytes: fields.u64()?,
            length_bytes: fields.u32()?,
        })
    }

    /// How many bytes follow the header: the length of a WRITE, however long, and 0 for everything else.
    pub fn payload_bytes(&self) -> u32 {
        if self.command == CMD_WRITE { self.length_bytes } else { 0 }
    }

    /// Whether the range has a byte that the export does not have. A range of no bytes has none, wherever it is.
    fn passes_end(&self, size_bytes: u64) -> bool {
        let left = size_bytes.saturating_sub(self.offset_bytes);
        u64::from(self.length_bytes) > left
    }

    fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

/// A request did not begin with the magic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadMagic;

impl fmt::Display for BadMagic {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a request does not begin with the magic number")
    }
}

impl std::error::Error for BadMagic {}

/// A request that may be carried out. A range of length 0 is nothing to do, and may lie anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Send the range, in one chunk if `df`.
    Read {
        /// At most one content chunk, holes written out.
        df: bool,
    },
    /// Write the payload.
    Write {
        /// Reply when it is durable.
        fua: bool,
    },
    /// Finish everything, reply to this with nothing, close.
    Disconnect,
    /// Make durable what was replied to. Offset and length mean nothing.
    Flush,
    /// Discard the range, or as much as is easy.
    Trim {
        /// Reply when it is durable.
        fua: bool,
    },
    /// Read the range ahead.
    Cache,
    /// Make the range read as zeroes.
    WriteZeroes {
        /// Reply when it is durable.
        fua: bool,
        /// Provision the whole range.
        no_hole: bool,
        /// Fail with ENOTSUP, and change nothing, if it would take as long as a write.
        fast: bool,
    },
    /// Tell the state of the range in every agreed context.
    BlockStatus {
        /// Exactly one extent a context, not beyond the range.
        one: bool,
    },
}

/// Says whether a request may be carried out, or else what to answer.
///
/// What the client should never send in any state comes first: an unknown command or a flag that does not belong to it
/// (EINVAL). Then what this export never does (EPERM), then lengths, then the place. DISC never fails: a client that
/// wants to go goes.
pub fn check(header: &RequestHeader, session: &Session) -> Result<Command, Errno> {
    let command = command_of(header, session)?;
    match command {
        Command::Disconnect | Command::Flush => {}
        Command::Read { df } => check_read(header, session, df)?,
        Command::Write { .. } => check_write(header, session)?,
        Command::Trim { .. } => {
            check_writable(session)?;
            check_end(header, session, Errno::EINVAL)?;
        }
        Command::Cache => check_end(header, session, Errno::EINVAL)?,
        Command::WriteZeroes { no_hole, fast, .. } => check_zeroes(header, session, no_hole && fast)?,
        Command::BlockStatus { .. } => check_status(header, session)?,
    }
    Ok(command)
}

/// The command with its flags. FUA is valid on all of them, "even by ignoring the bit".
fn command_of(header: &RequestHeader, session: &Session) -> Result<Command, Errno> {
    let fua = header.has(CMD_FLAG_FUA);
    let df_offered = if session.structured_replies { CMD_FLAG_DF } else { 0 };
    let (command, flags) = match header.command {
        CMD_READ => (Command::Read { df: header.has(CMD_FLAG_DF) }, df_offered),
        CMD_WRITE => (Command::Write { fua }, 0),
        CMD_DISC => (Command::Disconnect, !0),
        CMD_FLUSH => (Command::Flush, 0),
        CMD_TRIM => (Command::Trim { fua }, 0),
        CMD_CACHE => (Command::Cache, 0),
        CMD_WRITE_ZEROES => {
            let (no_hole, fast) = (header.has(CMD_FLAG_NO_HOLE), header.has(CMD_FLAG_FAST_ZERO));
            (Command::WriteZeroes { fua, no_hole, fast }, CMD_FLAG_NO_HOLE | CMD_FLAG_FAST_ZERO)
        }
        CMD_BLOCK_STATUS => (Command::BlockStatus { one: header.has(CMD_FLAG_REQ_ONE) }, CMD_FLAG_REQ_ONE),
        _ => return Err(Errno::EINVAL),
    };
    let foreign = header.flags & !(flags | CMD_FLAG_FUA);
    if foreign == 0 { Ok(command) } else { Err(Errno::EINVAL) }
}

/// The spec has EOVERFLOW for "`NBD_CMD_READ` when `NBD_CMD_FLAG_DF` is supported" and for commands "without payload"
/// only. The payload of a READ is its answer, so an over-long one without DF is EINVAL.
fn check_read(header: &RequestHeader, session: &Session, df: bool) -> Result<(), Errno> {
    if header.length_bytes > PAYLOAD_BYTES_MAX {
        return Err(if df { Errno::EOVERFLOW } else { Errno::EINVAL });
    }
    check_end(header, session, Errno::EINVAL)
}

fn check_write(header: &RequestHeader, session: &Session) -> Result<(), Errno> {
    check_writable(session)?;
    if header.length_bytes > PAYLOAD_BYTES_MAX {
        return Err(Errno::EINVAL);
    }
    check_end(header, session, Errno::ENOSPC)
}

/// `written` says that the zeroes can only be made by writing them: that is never faster than a write.
fn check_zeroes(header: &RequestHeader, session: &Session, written: bool) -> Result<(), Errno> {
    check_writable(session)?;
    check_end(header, session, Errno::ENOSPC)?;
    if written && header.length_bytes > 0 { Err(Errno::ENOTSUP) } else { Ok(()) }
}

/// Length 0 is refused here: a successful answer must have an extent, and no extent may be empty.
fn check_status(header: &RequestHeader, session: &Session) -> Result<(), Errno> {
    if session.contexts.is_empty() || header.length_bytes == 0 {
        return Err(Errno::EINVAL);
    }
    check_end(header, session, Errno::EINVAL)
}

fn check_writable(session: &Session) -> Result<(), Errno> {
    if session.export.read_only { Err(Errno::EPERM) } else { Ok(()) }
}

fn check_end(header: &RequestHeader, session: &Session, errno: Errno) -> Result<(), Errno> {
    if header.passes_end(session.export.size_bytes) { Err(errno) } else { Ok(()) }
}
