//! The log heads: the first two pages of the log, written in turn. By them a data file is known to belong to its
//! metadata.
//!
//! Owns the words for a wrong data file. Says nothing of where records are; the root slot does.

use super::checksum::crc32;
use super::codec::{Reader, Writer, uuid_text};
use crate::error::{Error, ErrorKind, Result};
use crate::request::Uuid;
use crate::storage::Buffer;
use crate::units::{Incarnation, PAGE_BYTES, UNIT_BYTES};

// offset  size  field
//      0     8  magic "VELLOGHD"
//      8    16  pool uuid
//     24     8  newest incarnation
//     32   476  zero
//    508     4  CRC-32 of bytes 0..508
//    512  3584  zero
const MAGIC: &[u8; 8] = b"VELLOGHD";
const PAYLOAD_BYTES: usize = UNIT_BYTES as usize;
const CHECKSUM_OFFSET: usize = PAYLOAD_BYTES - 4;

/// Which pool a log belongs to, and its newest opening.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogHead {
    /// The pool's uuid.
    pub pool: Uuid,
    /// The newest opening for writing whose verdict is on disk.
    pub incarnation: Incarnation,
}

impl LogHead {
    /// Whether a page starts as a log head of any pool does.
    pub fn is_one(bytes: &[u8]) -> bool {
        bytes.starts_with(MAGIC)
    }

    /// A page with this head.
    pub fn encode(&self) -> Buffer {
        let mut out = Writer::with_capacity(PAYLOAD_BYTES);
        out.bytes(MAGIC);
        out.bytes(&self.pool);
        out.u64(self.incarnation.0);
        out.zeros_to(CHECKSUM_OFFSET);
        let payload = out.finish();
        let mut page = Buffer::zeroed(PAGE_BYTES);
        page[..CHECKSUM_OFFSET].copy_from_slice(&payload);
        page[CHECKSUM_OFFSET..PAYLOAD_BYTES].copy_from_slice(&crc32(&payload).to_le_bytes());
        page
    }

    /// Reads the head of the log of `pool`.
    ///
    /// Fails with `Mismatch` when this is no log head or another pool's, and with `Damaged` when the checksum is wrong.
    pub fn decode(bytes: &[u8], pool: &Uuid) -> Result<Self> {
        if !bytes.starts_with(MAGIC) {
            return Err(mismatch("the data file does not carry this pool's log"));
        }
        let mut checked = Reader::new(bytes);
        let covered = checked.bytes(CHECKSUM_OFFSET)?;
        if checked.u32()? != crc32(covered) {
            return Err(Error::damaged("log head: checksum mismatch"));
        }
        let mut reader = Reader::new(covered);
        reader.bytes(MAGIC.len())?;
        let head = Self { pool: reader.array()?, incarnation: Incarnation(reader.u64()?) };
        if head.pool != *pool {
            let (found, expected) = (uuid_text(&head.pool), uuid_text(pool));
            return Err(mismatch(format!(
                "the data file belongs to pool {found}, the metadata to pool {expected}"
            )));
        }
        Ok(head)
    }
}

fn mismatch(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Mismatch, message)
}

#[cfg(test)]
mod tests {
    use super::super::golden;
    use super::*;

    const SAMPLE: LogHead = LogHead { pool: golden::POOL, incarnation: Incarnation(9) };

    #[test]
    fn round_trip() {
        let page = SAMPLE.encode();
        assert_eq!(page.len(), PAGE_BYTES);
        assert_eq!(LogHead::decode(&page, &golden::POOL), Ok(SAMPLE));
    }

    #[test]
    fn golden_bytes() {
        golden::assert_golden(
            &SAMPLE.encode(),
            "56454c4c4f474844a0a1a2a3a4a5a6a7a8a9aaabacadaeaf0900000000000000",
            0x8217_6372_7ce4_4fe9,
        );
    }

    #[test]
    fn a_wrong_data_file_is_refused_by_name() {
        let error = LogHead::decode(&SAMPLE.encode(), &golden::OTHER_POOL).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Mismatch);
        assert!(error.message().contains("a0a1a2a3-") && error.message().contains("b0b0b0b0-"), "{error}");
        assert_eq!(LogHead::decode(&[0; 4096], &golden::POOL).unwrap_err().kind(), ErrorKind::Mismatch);
    }

    #[test]
    fn damage_is_seen() {
        let mut page = SAMPLE.encode();
        page[9] ^= 1;
        assert_eq!(LogHead::decode(&page, &golden::POOL).unwrap_err().kind(), ErrorKind::Damaged);
        golden::damage(&SAMPLE.encode(), |bytes| drop(LogHead::decode(bytes, &golden::POOL)));
    }
}
