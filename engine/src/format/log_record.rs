//! Log records: deltas under one checksum, in whole pages.
//!
//! Owns the bytes of a record and the seed that keeps other pools, other openings and user data from passing for one.
//! Where records stand and when they count is `log`'s affair. Read next: `delta.rs`.

use super::checksum::crc32_seeded;
use super::codec::{Reader, Writer};
use super::delta::Delta;
use crate::canary::{self, Canary};
use crate::error::{Error, Place, Result};
use crate::storage::Buffer;
use crate::units::{BLOCK_BYTES, Incarnation, PAGE_BYTES, Sequence};

// offset  size  field
//      0     4  CRC-32 of secret, incarnation and bytes 4.. to the end of the last page
//      4     4  magic "VREC"
//      8     2  length in pages
//     10     2  number of deltas
//     12     4  zero
//     16     8  sequence
//     24     8  incarnation
//     32     8  synced
//     40     4  bytes of deltas
//     44     4  zero
//     48        deltas, then zeros
const MAGIC: &[u8; 4] = b"VREC";
/// Bytes of the header of a record.
pub const RECORD_HEADER_BYTES: usize = 48;
/// Pages that a record may have, for it does not cross a data block.
pub const RECORD_PAGES_MAX: usize = BLOCK_BYTES as usize / PAGE_BYTES;

/// A log record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRecord {
    /// Its number, one more than that of the record before it.
    pub sequence: Sequence,
    /// The opening that wrote it.
    pub incarnation: Incarnation,
    /// The highest record known durable when this one was composed.
    pub synced: Sequence,
    /// The pages that it was found in.
    pub pages: u16,
    /// What it says.
    pub deltas: Vec<Delta>,
}

/// What the first page of something that may be a record says about it. Proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// Its number.
    pub sequence: Sequence,
    /// The opening that wrote it.
    pub incarnation: Incarnation,
    /// The highest record known durable when it was composed.
    pub synced: Sequence,
    /// Its length in pages, 1 to [`RECORD_PAGES_MAX`].
    pub pages: u16,
    /// How many deltas it holds.
    pub deltas: u16,
    /// How many bytes they take.
    pub delta_bytes: u32,
}

impl LogRecord {
    /// Pages of a record with `delta_bytes` bytes of deltas.
    pub const fn pages_for(delta_bytes: usize) -> usize {
        (RECORD_HEADER_BYTES + delta_bytes).div_ceil(PAGE_BYTES)
    }

    /// Bytes of all deltas.
    pub fn delta_bytes(&self) -> usize {
        self.deltas.iter().map(Delta::encoded_bytes).sum()
    }

    /// The record in `pages` pages, whatever `self.pages` says; what it does not fill is zeros.
    ///
    /// Panics when it does not fit, `pages` is more than [`RECORD_PAGES_MAX`], or a delta cannot be stored.
    pub fn encode(&self, secret: u64, pages: usize) -> Buffer {
        assert!((1..=RECORD_PAGES_MAX).contains(&pages), "a record of {pages} pages");
        let mut deltas = Vec::new();
        self.deltas.iter().for_each(|delta| delta.encode_into(&mut deltas));
        let mut out = Writer::with_capacity(RECORD_HEADER_BYTES);
        out.bytes(MAGIC);
        out.u16(pages as u16);
        out.u16(u16::try_from(self.deltas.len()).expect("a record holds fewer deltas than bytes"));
        out.u32(0);
        out.u64(self.sequence.0);
        out.u64(self.incarnation.0);
        out.u64(self.synced.0);
        out.u32(deltas.len() as u32);
        out.zeros_to(RECORD_HEADER_BYTES - 4);
        let mut record = Buffer::zeroed(pages * PAGE_BYTES);
        record[4..RECORD_HEADER_BYTES].copy_from_slice(&out.finish());
        record[RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + deltas.len()].copy_from_slice(&deltas);
        let checksum = crc32_seeded(&[secret, self.incarnation.0], &record[4..]);
        record[..4].copy_from_slice(&checksum.to_le_bytes());
        record
    }

    /// What the first page says about the record that may start with it; nothing if it cannot be one.
    pub fn peek(first_page: &[u8]) -> Option<RecordHeader> {
        read_header(&mut Reader::new(first_page)).ok()
    }

    /// Reads a record from all its pages; what is behind them is not looked at.
    ///
    /// Fails with `Damaged` unless every byte is as written under `secret` and the incarnation that the header names,
    /// and with `Unsupported` when a delta is of an unknown kind.
    pub fn decode(bytes: &[u8], secret: u64) -> Result<Self> {
        let mut reader = Reader::new(bytes);
        let header = read_header(&mut reader)?;
        Self::decode_deltas(bytes, secret, &header, reader)
            .map_err(|error| error.at(Place::Record(header.sequence)))
    }

    /// Whether every byte is as written under `secret` and the incarnation that the header names.
    pub fn is_intact(bytes: &[u8], secret: u64) -> bool {
        let Some(header) = Self::peek(bytes) else { return false };
        bytes.get(4..usize::from(header.pages) * PAGE_BYTES).is_some_and(|rest| {
            crc32_seeded(&[secret, header.incarnation.0], rest).to_le_bytes() == bytes[..4]
        })
    }

    fn decode_deltas(
        bytes: &[u8],
        secret: u64,
        header: &RecordHeader,
        mut reader: Reader<'_>,
    ) -> Result<Self> {
        let mut whole = Reader::new(Reader::new(bytes).bytes(usize::from(header.pages) * PAGE_BYTES)?);
        let checksum = whole.u32()?;
        let intact = checksum == crc32_seeded(&[secret, header.incarnation.0], whole.rest());
        if !intact && !canary::broken(Canary::RecordChecksumIgnored) {
            return Err(Error::damaged("log record: checksum mismatch"));
        }
        let mut body = Reader::new(reader.bytes(header.delta_bytes as usize)?);
        let mut deltas = Vec::with_capacity(usize::from(header.deltas).min(PAGE_BYTES));
        while !body.is_empty() {
            deltas.push(Delta::read(&mut body)?);
        }
        if deltas.len() != usize::from(header.deltas) {
            return Err(Error::damaged("log record: wrong number of deltas"));
        }
        let RecordHeader { sequence, incarnation, synced, pages, .. } = *header;
        Ok(Self { sequence, incarnation, synced, pages, deltas })
    }
}

fn read_header(reader: &mut Reader<'_>) -> Result<RecordHeader> {
    reader.u32()?;
    let magic = reader.array()?;
    let (pages, deltas, _) = (reader.u16()?, reader.u16()?, reader.u32()?);
    let (sequence, incarnation, synced) = (reader.u64()?, reader.u64()?, reader.u64()?);
    let (delta_bytes, _) = (reader.u32()?, reader.u32()?);
    let room = (usize::from(pages) * PAGE_BYTES).saturating_sub(RECORD_HEADER_BYTES);
    let length_ok = (1..=RECORD_PAGES_MAX).contains(&usize::from(pages)) && delta_bytes as usize <= room;
    if magic != *MAGIC || !length_ok {
        return Err(Error::damaged("log record: this is none"));
    }
    Ok(RecordHeader {
        sequence: Sequence(sequence),
        incarnation: Incarnation(incarnation),
        synced: Sequence(synced),
        pages,
        deltas,
        delta_bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::super::golden;
    use super::*;
    use crate::error::ErrorKind;
    use crate::units::{DataBlock, SectorMask, VirtualBlock, VolumeId};

    const SECRET: u64 = 0x5ec2_e700_5ec2_e700;

    fn sample(deltas: u64) -> LogRecord {
        let publish = |index: u64| Delta::Publish {
            volume: VolumeId(1),
            virtual_block: VirtualBlock(index),
            data_block: DataBlock(index + 100),
            sectors: SectorMask::FULL,
            crc: index as u32,
        };
        let deltas: Vec<Delta> = (0..deltas).map(publish).collect();
        let pages = LogRecord::pages_for(deltas.iter().map(Delta::encoded_bytes).sum());
        LogRecord {
            sequence: Sequence(77),
            incarnation: Incarnation(9),
            synced: Sequence(70),
            pages: pages as u16,
            deltas,
        }
    }

    fn encode(record: &LogRecord) -> Buffer {
        record.encode(SECRET, usize::from(record.pages))
    }

    #[test]
    fn round_trip() {
        for (deltas, pages) in [(0, 1), (1, 1), (119, 1), (120, 2), (1926, 16)] {
            let record = sample(deltas);
            let bytes = encode(&record);
            assert_eq!((usize::from(record.pages), bytes.len()), (pages, pages * PAGE_BYTES));
            let header = LogRecord::peek(&bytes[..PAGE_BYTES]).unwrap();
            assert_eq!(
                (header.sequence, header.synced, header.pages),
                (Sequence(77), Sequence(70), record.pages)
            );
            assert_eq!(header.delta_bytes as usize, record.delta_bytes());
            assert_eq!(LogRecord::decode(&bytes, SECRET), Ok(record));
        }
    }

    #[test]
    fn padding_belongs_to_the_record() {
        let record = LogRecord { pages: 5, ..sample(3) };
        let mut bytes = encode(&record);
        assert_eq!(LogRecord::decode(&bytes, SECRET), Ok(record));
        bytes[5 * PAGE_BYTES - 1] = 1;
        assert!(LogRecord::decode(&bytes, SECRET).is_err());
    }

    #[test]
    fn golden_bytes() {
        golden::assert_golden(
            &encode(&sample(2)),
            "fd418d045652454301000200000000004d0000000000000009000000000000004600000000000000\
             440000000000000001001e00010000000000000000000000000000006400000000000000ffff0000\
             0000",
            0xfa02_fe71_97ff_c456,
        );
    }

    /// Neither another pool's record, nor one of another opening with its header made up, passes for this pool's.
    #[test]
    fn the_seed_keeps_strangers_out() {
        let bytes = encode(&sample(2));
        let error = LogRecord::decode(&bytes, SECRET + 1).unwrap_err();
        assert_eq!((error.kind(), error.place()), (ErrorKind::Damaged, Some(Place::Record(Sequence(77)))));
        let mut forged = bytes.to_vec();
        forged[24] += 1;
        assert!(LogRecord::decode(&forged, SECRET).is_err());
    }

    #[test]
    fn what_is_no_record_is_not_peeked() {
        let bytes = encode(&sample(2));
        assert!(LogRecord::peek(&[0; PAGE_BYTES]).is_none());
        assert!(LogRecord::peek(&bytes[..40]).is_none());
        for (offset, value) in [(4, 0), (8, 0), (8, 17), (42, 1)] {
            let mut bytes = bytes.to_vec();
            bytes[offset] = value;
            assert!(LogRecord::peek(&bytes).is_none());
        }
    }

    #[test]
    fn damage_under_a_right_checksum_never_panics() {
        golden::damage(&encode(&sample(3)), |bytes| {
            let mut bytes = bytes.to_vec();
            bytes.resize(PAGE_BYTES, 0);
            if let Some(header) = LogRecord::peek(&bytes) {
                let checksum = crc32_seeded(&[SECRET, header.incarnation.0], &bytes[4..]);
                bytes[..4].copy_from_slice(&checksum.to_le_bytes());
            }
            drop(LogRecord::decode(&bytes, SECRET));
        });
    }
}
