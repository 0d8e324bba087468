//! What comes of a handshake: it goes on, a session begins, or the connection must be closed.
//!
//! Owns the limits on a client and the words for the log. The rules are in `handshake.rs`.

use super::{Context, Export};
use std::fmt;

/// What a client may send in a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How many options; more close the connection.
    pub options_max: u32,
    /// How many bytes of data in an option; more close the connection at once. Up to this, what is too long for the
    /// protocol is refused and negotiation goes on.
    pub option_bytes_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { options_max: 4096, option_bytes_max: 64 << 10 }
    }
}

/// What comes of received bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// More bytes are needed.
    Continue,
    /// Transmission begins; bytes behind the consumed ones are requests.
    Transmit(Session),
    /// Send the output, then close.
    Close(CloseReason),
}

/// What was agreed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The export.
    pub export: Export,
    /// Whether replies are structured: then those to READ must be.
    pub structured_replies: bool,
    /// What BLOCK_STATUS answers for, in the order of the answers to SET_META_CONTEXT. Empty unless set for the very
    /// name by which the export was then chosen.
    pub contexts: Vec<Context>,
}

/// Why a connection must be closed, for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The client asked for it.
    Aborted,
    /// The client set flags that it was not offered.
    UnknownClientFlags(u32),
    /// An option does not begin with the magic.
    BadOptionMagic(u64),
    /// An option is longer than any may be.
    OptionTooLong {
        /// The option.
        option: u32,
        /// The length of its data.
        length_bytes: u32,
    },
    /// More options than a client may send.
    TooManyOptions,
    /// More answers than a client may ask for.
    TooManyAnswers,
    /// EXPORT_NAME with bytes that are no name. It has no other way to say no.
    BadExportName,
    /// EXPORT_NAME of an export that is not there.
    UnknownExport(String),
    /// The handshake was over already.
    Over,
}

impl fmt::Display for CloseReason {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Aborted => write!(out, "the client ended the negotiation"),
            Self::UnknownClientFlags(flags) => write!(out, "unknown client flags {flags:#x}"),
            Self::BadOptionMagic(magic) => write!(out, "an option begins with {magic:#018x}"),
            Self::OptionTooLong { option, length_bytes } => {
                write!(out, "option {option} has {length_bytes} bytes of data")
            }
            Self::TooManyOptions => write!(out, "too many options"),
            Self::TooManyAnswers => write!(out, "too long answers were asked for"),
            Self::BadExportName => write!(out, "the name of the export is malformed"),
            Self::UnknownExport(name) => write!(out, "there is no export {name:?}"),
            Self::Over => write!(out, "the handshake is over"),
        }
    }
}
