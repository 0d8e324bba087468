//! The root slot: one checkpoint. Every page that matters is found from here, and the log behind it.
//!
//! Owns the rule that a slot's meaning lies in one unit, which a disk writes whole or not at all. Does not choose
//! between slots; recovery does. Read next: `page.rs`, `log_record.rs`.

use super::checksum::crc32;
use super::codec::{Reader, U48_LIMIT, Writer, from_body, to_body};
use super::mapping::DATA_BLOCK_LIMIT;
use super::page::Pointer;
use crate::error::{Error, ErrorKind, Result};
use crate::options::Owner;
use crate::request::Uuid;
use crate::storage::Buffer;
use crate::units::{DataBlock, Generation, Incarnation, PAGE_BYTES, Sequence, UNIT_BYTES, VolumeId};

// offset  size  field
//      0     4  CRC-32 of bytes 4..512
//      4     4  length of the body
//      8     8  magic "VELROOT1"
//     16    16  pool uuid
//     32     8  generation
//     40   472  body, in the order of `RootSlot`, then the unknown tail, then zeros
//    512  3584  zero
const MAGIC: &[u8; 8] = b"VELROOT1";
const HEADER_BYTES: usize = 40;
const PAYLOAD_BYTES: usize = UNIT_BYTES as usize;
const BODY_BYTES_MAX: usize = PAYLOAD_BYTES - HEADER_BYTES;

/// A run of data blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct Extent {
    /// Its first block.
    pub first: DataBlock,
    /// How many blocks it has.
    pub blocks: u64,
}

/// One checkpoint: the tree as of one record, and where the log goes on behind it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RootSlot {
    /// The checkpoint's number; the slot stands in page `1 + generation % 2`.
    pub generation: Generation,
    /// The opening whose records are behind this checkpoint.
    pub incarnation: Incarnation,
    /// The last record that the tree holds.
    pub sequence: Sequence,
    /// Ring position, in pages, of the first record behind `sequence`.
    pub log_position: u64,
    /// The pool was closed: the log is empty.
    pub clean: bool,
    /// Who has the pool.
    pub owner: Owner,
    /// The number that the next volume gets.
    pub next_volume: VolumeId,
    /// The tree of volume records.
    pub volumes: Option<Pointer>,
    /// Data blocks that the pool may use.
    pub data_blocks: u64,
    /// Pages of the metadata file that the pool may use, places of superblocks and slots included.
    pub metadata_pages: u64,
    /// The tree of counts of data blocks.
    pub data_counts: Option<Pointer>,
    /// The tree of counts of data blocks that do not fit in a byte.
    pub data_overflow: Option<Pointer>,
    /// The tree of counts of pages.
    pub page_counts: Option<Pointer>,
    /// The tree of counts of pages that do not fit in a byte.
    pub page_overflow: Option<Pointer>,
    /// Where the log is, in order.
    pub log: Vec<Extent>,
    /// What a newer program wrote behind the fields above. Kept.
    pub unknown_tail: Vec<u8>,
}

impl RootSlot {
    /// A page with this slot.
    ///
    /// Fails with `Limit` when it does not fit in one unit. It always fits with a host name of at most 64 bytes, a log
    /// of at most 4 extents and no unknown tail. Panics when the log does not lie in the data file.
    pub fn encode(&self, pool: &Uuid) -> Result<Buffer> {
        self.check().expect("only a slot that can be read is written");
        let body = self.encode_body();
        if body.len() > BODY_BYTES_MAX {
            let message =
                format!("the root slot takes {} of {BODY_BYTES_MAX} bytes: host or log too long", body.len());
            return Err(Error::new(ErrorKind::Limit, message));
        }
        let mut out = Writer::with_capacity(PAYLOAD_BYTES);
        out.u32(body.len() as u32);
        out.bytes(MAGIC);
        out.bytes(pool);
        out.u64(self.generation.0);
        out.bytes(&body);
        out.zeros_to(PAYLOAD_BYTES - 4);
        let payload = out.finish();
        let mut page = Buffer::zeroed(PAGE_BYTES);
        page[..4].copy_from_slice(&crc32(&payload).to_le_bytes());
        page[4..PAYLOAD_BYTES].copy_from_slice(&payload);
        Ok(page)
    }

    /// Reads a slot of `pool` from a page, or from its first 512 bytes.
    ///
    /// Fails with `Damaged` for anything that [`RootSlot::encode`] has not written for this pool.
    pub fn decode(bytes: &[u8], pool: &Uuid) -> Result<Self> {
        let mut reader = Reader::new(Reader::new(bytes).bytes(PAYLOAD_BYTES)?);
        let checksum = reader.u32()?;
        if checksum != crc32(reader.rest()) {
            return Err(Error::damaged("root slot: checksum mismatch"));
        }
        let body_bytes = reader.u32()?;
        if reader.array()? != *MAGIC {
            return Err(Error::damaged("root slot: the magic is missing"));
        }
        if reader.array()? != *pool {
            return Err(Error::damaged("root slot: it belongs to another pool"));
        }
        let generation = Generation(reader.u64()?);
        let slot = Self::decode_body(generation, reader.bytes(body_bytes as usize)?)?;
        slot.check()?;
        Ok(slot)
    }

    fn encode_body(&self) -> Vec<u8> {
        let mut body = to_body(&(
            self.incarnation,
            self.sequence,
            self.log_position,
            self.clean,
            &self.owner,
            self.next_volume,
            self.volumes,
            self.data_blocks,
            self.metadata_pages,
            (self.data_counts, self.data_overflow, self.page_counts, self.page_overflow),
            &self.log,
        ));
        body.extend_from_slice(&self.unknown_tail);
        body
    }

    fn decode_body(generation: Generation, body: &[u8]) -> Result<Self> {
        let (fields, used) = from_body(body)?;
        let (
            incarnation,
            sequence,
            log_position,
            clean,
            owner,
            next_volume,
            volumes,
            data_blocks,
            pages,
            trees,
            log,
        ) = fields;
        let (data_counts, data_overflow, page_counts, page_overflow) = trees;
        Ok(Self {
            generation,
            incarnation,
            sequence,
            log_position,
            clean,
            owner,
            next_volume,
            volumes,
            data_blocks,
            metadata_pages: pages,
            data_counts,
            data_overflow,
            page_counts,
            page_overflow,
            log,
            unknown_tail: body.get(used..).unwrap_or_default().to_vec(),
        })
    }

    fn check(&self) -> Result<()> {
        let in_file = |extent: &Extent| {
            let end = extent.first.0.checked_add(extent.blocks);
            extent.blocks > 0 && end.is_some_and(|end| end <= self.data_blocks)
        };
        if self.data_blocks > DATA_BLOCK_LIMIT
            || self.metadata_pages > U48_LIMIT
            || self.generation.0 >= U48_LIMIT
        {
            return Err(Error::damaged("root slot: a size or generation is beyond what the format can hold"));
        }
        if !self.log.iter().all(in_file) {
            return Err(Error::damaged("root slot: the log lies outside the data file"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::golden;
    use super::*;

    fn sample() -> RootSlot {
        let extent = |index: u64| Extent { first: DataBlock(index * 64), blocks: 64 };
        RootSlot {
            generation: Generation(12),
            incarnation: Incarnation(9),
            sequence: Sequence(1000),
            log_position: 4711,
            clean: false,
            owner: Owner { host: "h".repeat(64), boot_id: [0xb1; 16], pid: 4242, kernel: false },
            next_volume: VolumeId(17),
            volumes: Some(golden::leaf_pointer(100)),
            data_blocks: 1 << 20,
            metadata_pages: 8192,
            data_counts: Some(golden::inner_pointer(101)),
            data_overflow: Some(golden::leaf_pointer(103)),
            page_counts: Some(golden::inner_pointer(104)),
            page_overflow: Some(golden::leaf_pointer(106)),
            log: (0..4).map(extent).collect(),
            unknown_tail: Vec::new(),
        }
    }

    #[test]
    fn round_trip_at_its_longest() {
        let page = sample().encode(&golden::POOL).unwrap();
        assert_eq!(page.len(), PAGE_BYTES);
        assert_eq!(RootSlot::decode(&page, &golden::POOL), Ok(sample()));
        assert!(
            page[PAYLOAD_BYTES..].iter().all(|byte| *byte == 0),
            "the meaning of a slot lies in one unit"
        );
        let empty = RootSlot::default();
        assert_eq!(RootSlot::decode(&empty.encode(&golden::POOL).unwrap(), &golden::POOL), Ok(empty));
    }

    #[test]
    fn golden_bytes() {
        golden::assert_golden(
            &sample().encode(&golden::POOL).unwrap(),
            "c139440e6701000056454c524f4f5431a0a1a2a3a4a5a6a7a8a9aaabacadaeaf0c00000000000000\
             0900000000000000e8030000000000006712000000000000",
            0x79d7_0a9d_d3d9_5746,
        );
    }

    #[test]
    fn an_unknown_tail_is_kept() {
        let slot = RootSlot { unknown_tail: b"from the future".to_vec(), ..sample() };
        assert_eq!(RootSlot::decode(&slot.encode(&golden::POOL).unwrap(), &golden::POOL), Ok(slot));
    }

    #[test]
    fn what_does_not_fit_in_a_unit_is_refused() {
        let slot = RootSlot { log: vec![Extent { first: DataBlock(0), blocks: 1 }; 100], ..sample() };
        assert_eq!(slot.encode(&golden::POOL).unwrap_err().kind(), ErrorKind::Limit);
    }

    #[test]
    fn garbage_is_damaged() {
        let page = sample().encode(&golden::POOL).unwrap();
        let kind = |bytes: &[u8], pool: &Uuid| RootSlot::decode(bytes, pool).unwrap_err().kind();
        assert_eq!(kind(&page, &golden::OTHER_POOL), ErrorKind::Damaged);
        assert_eq!(kind(&[0; PAGE_BYTES], &golden::POOL), ErrorKind::Damaged);
        assert_eq!(kind(&page[..100], &golden::POOL), ErrorKind::Damaged);
        let mut torn = page.to_vec();
        torn[300] ^= 1;
        assert_eq!(kind(&torn, &golden::POOL), ErrorKind::Damaged);
    }

    #[test]
    fn damage_under_a_right_checksum_never_panics() {
        golden::damage(&sample().encode(&golden::POOL).unwrap()[..PAYLOAD_BYTES], |bytes| {
            let mut bytes = bytes.to_vec();
            if let Some((checksum, covered)) = bytes.split_first_chunk_mut() {
                *checksum = crc32(covered).to_le_bytes();
            }
            drop(RootSlot::decode(&bytes, &golden::POOL));
        });
    }
}
