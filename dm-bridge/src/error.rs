//! One error type: a kind that callers match on, the place where it happened, and its cause.
//!
//! Owns the wording of places. A place is a byte of the metadata device, a byte of XML, a thin device, or a pair of them.

use crate::format::BLOCK_BYTES;
use std::{fmt, io};

/// What a caller can do about an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The device refused or failed a read or a write.
    Io,
    /// Bytes on the device are not what dm-thin writes there. A check tells what is affected.
    Damaged,
    /// No dm-thin metadata, or metadata of a version or feature that this library does not know.
    Unsupported,
    /// What was given cannot be written as it stands: order, range, number.
    Invalid,
    /// A limit of dm-thin's format or of this library was reached.
    Limit,
    /// The metadata device is too small for what should be written.
    NoSpace,
    /// The XML is malformed, or says something that the format does not know.
    Xml,
}

/// Where something is or happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Block of the metadata device, in units of 4096 bytes.
    pub block: Option<u64>,
    /// Byte inside that block.
    pub byte: Option<u32>,
    /// Number of the thin device.
    pub device: Option<u64>,
    /// Byte of the XML text.
    pub xml: Option<u64>,
}

impl Place {
    /// A block of the metadata device.
    pub fn block(block: u64) -> Self {
        Self { block: Some(block), ..Self::default() }
    }

    /// A byte of a block of the metadata device.
    pub fn byte(block: u64, byte: usize) -> Self {
        Self { block: Some(block), byte: u32::try_from(byte).ok(), ..Self::default() }
    }

    /// A thin device.
    pub fn device(device: u64) -> Self {
        Self { device: Some(device), ..Self::default() }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        if let Some(device) = self.device {
            write!(out, "device {device}")?;
            separator = ", ";
        }
        if let Some(block) = self.block {
            let byte = u64::from(self.byte.unwrap_or(0));
            let offset = block.saturating_mul(BLOCK_BYTES as u64).saturating_add(byte);
            write!(out, "{separator}metadata block {block}, byte {offset}")?;
            separator = ", ";
        }
        if let Some(byte) = self.xml {
            write!(out, "{separator}byte {byte} of the XML")?;
        }
        Ok(())
    }
}

/// Why something could not be read or written.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    place: Place,
    source: Option<io::Error>,
}

/// What everything here returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error without a place yet.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), place: Place::default(), source: None }
    }

    /// Damage at a byte of a block.
    pub fn damaged(block: u64, byte: usize, message: impl Into<String>) -> Self {
        Self { place: Place::byte(block, byte), ..Self::new(ErrorKind::Damaged, message) }
    }

    /// A failed operation on a device, at a byte offset of it.
    pub fn io(offset: u64, doing: &str, source: io::Error) -> Self {
        let message = format!("{doing}: {source}");
        let block = BLOCK_BYTES as u64;
        let place = Place::byte(offset / block, (offset % block) as usize);
        Self { place, source: Some(source), ..Self::new(ErrorKind::Io, message) }
    }

    /// Adds the thin device, unless one is named already.
    pub fn with_device(mut self, device: u64) -> Self {
        self.place.device.get_or_insert(device);
        self
    }

    /// Adds the block, unless one is named already.
    pub fn with_block(mut self, block: u64) -> Self {
        self.place.block.get_or_insert(block);
        self
    }

    /// Adds the byte of the XML, unless one is named already.
    pub fn with_xml(mut self, byte: u64) -> Self {
        self.place.xml.get_or_insert(byte);
        self
    }

    /// What a caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Where it happened.
    pub fn place(&self) -> Place {
        self.place
    }

    /// What is wrong, without the place.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:?}", self.kind)?;
        if self.place != Place::default() {
            write!(out, " ({})", self.place)?;
        }
        write!(out, ": {}", self.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_its_place() {
        let error = Error::damaged(3, 16, "too many entries").with_device(7);
        assert_eq!(error.to_string(), "Damaged (device 7, metadata block 3, byte 12304): too many entries");
    }
}
