//! One error type: a kind that callers match on, the place where it happened, and its cause.
//!
//! Owns the wording of errors. Knows units and nothing else. The kinds say what a caller may do next.

use crate::units::{DataBlock, PageNumber, Sequence, VolumeId};
use std::fmt;

/// What a caller can do about an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The disk refused or failed an operation. What was not yet flushed may be lost.
    Io,
    /// A write needs space that the pool or its host does not have. Free or add space and try again.
    NoSpace,
    /// Bytes on disk are not what was written there. `check` tells what is affected.
    Damaged,
    /// The files are a pool, but not the one that was asked for or not of one state (wrong data file, older metadata).
    Mismatch,
    /// The file is no pool, or a pool of a version or feature that this program does not know.
    Unsupported,
    /// Another process, or another opening of this one, has the pool.
    InUse,
    /// No volume or snapshot of that name or number.
    NotFound,
    /// The name is taken.
    Exists,
    /// The request cannot be carried out as it stands: range, name, size, or a snapshot that cannot be written.
    Invalid,
    /// A hold, a connection or a running operation keeps the object.
    Busy,
    /// The pool takes no writes since an earlier failure.
    ReadOnly,
    /// A limit of the format or of the options was reached.
    Limit,
}

/// Where an [`Error`] happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Place {
    /// A page of the metadata file.
    Page(PageNumber),
    /// A block of the data file.
    Block(DataBlock),
    /// A record of the log.
    Record(Sequence),
    /// A volume or snapshot.
    Volume(VolumeId),
    /// A byte range of a volume: volume, offset and length in bytes.
    Range(VolumeId, u64, u64),
    /// A byte offset of the metadata file.
    MetadataOffset(u64),
    /// A byte offset of the data file.
    DataOffset(u64),
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Page(page) => write!(out, "metadata page {page}"),
            Self::Block(block) => write!(out, "data block {block}"),
            Self::Record(sequence) => write!(out, "log record {sequence}"),
            Self::Volume(volume) => write!(out, "volume {volume}"),
            Self::Range(volume, offset, length) => {
                write!(out, "volume {volume}, bytes {offset}..{}", offset + length)
            }
            Self::MetadataOffset(offset) => write!(out, "metadata file, offset {offset:#x}"),
            Self::DataOffset(offset) => write!(out, "data file, offset {offset:#x}"),
        }
    }
}

/// An error of the engine: kind, place and cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    kind: ErrorKind,
    place: Option<Place>,
    message: std::borrow::Cow<'static, str>,
}

/// A result of the engine.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of `kind`, explained by `message` in words that say what to do where that is known.
    pub fn new(kind: ErrorKind, message: impl Into<std::borrow::Cow<'static, str>>) -> Self {
        Self { kind, place: None, message: message.into() }
    }

    /// The same error with the place where it happened; the first place named stays.
    #[must_use]
    pub fn at(mut self, place: Place) -> Self {
        self.place.get_or_insert(place);
        self
    }

    /// What the caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Where it happened, where that is known.
    pub fn place(&self) -> Option<Place> {
        self.place
    }

    /// What happened, without kind and place.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Bytes on disk are not what was written there.
    pub fn damaged(message: impl Into<std::borrow::Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Damaged, message)
    }

    /// The request cannot be carried out as it stands.
    pub fn invalid(message: impl Into<std::borrow::Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:?}", self.kind)?;
        if let Some(place) = self.place {
            write!(out, " ({place})")?;
        }
        write!(out, ": {}", self.message)
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_names_kind_place_and_cause() {
        let error = Error::damaged("checksum mismatch").at(Place::Page(PageNumber(812)));
        assert_eq!(error.to_string(), "Damaged (metadata page 812): checksum mismatch");
        assert_eq!(error.at(Place::Page(PageNumber(1))).place(), Some(Place::Page(PageNumber(812))));
    }
}
