//! Space maps: how many owners every block has, for the data device and for the metadata device itself.
//!
//! Owns roots, index entries, bitmaps and the index of the metadata space map. A count is two bits in a bitmap; three stands
//! for three or more, and then the number is in a tree of 32-bit counts whose key is the block.

use super::checksum::{BlockKind, seal, verify, verify_number};
use super::{BLOCK_BYTES, Block, get_u32, get_u64, put_u32, put_u64};
use crate::error::Result;

const HEADER_BYTES: usize = 16;
const BLOCKNR: usize = 8;
/// Blocks that one bitmap counts.
pub const ENTRIES_PER_BITMAP: u64 = ((BLOCK_BYTES - HEADER_BYTES) * 4) as u64;
/// Bitmaps that the index of the metadata space map has room for.
pub const MAX_METADATA_BITMAPS: usize = 255;
/// Blocks of a metadata device that dm-thin uses, 15.875 GiB; it leaves the rest of a larger one alone.
pub const MAX_METADATA_BLOCKS: u64 = MAX_METADATA_BITMAPS as u64 * ENTRIES_PER_BITMAP;

/// Where a space map is, and its totals. 32 bytes, in a field of 128 of the superblock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpaceMapRoot {
    /// Blocks of the device.
    pub nr_blocks: u64,
    /// Blocks with a count above zero.
    pub nr_allocated: u64,
    /// Data: root of the tree of index entries. Metadata: the index block.
    pub bitmap_root: u64,
    /// Root of the tree of counts from three on.
    pub ref_count_root: u64,
}

impl SpaceMapRoot {
    // offset  size  field
    //      0     8  blocks
    //      8     8  allocated blocks
    //     16     8  bitmap root
    //     24     8  reference count root
    pub(super) fn decode(bytes: &[u8]) -> Self {
        Self {
            nr_blocks: get_u64(bytes, 0),
            nr_allocated: get_u64(bytes, 8),
            bitmap_root: get_u64(bytes, 16),
            ref_count_root: get_u64(bytes, 24),
        }
    }

    pub(super) fn encode(&self, out: &mut [u8]) {
        put_u64(out, 0, self.nr_blocks);
        put_u64(out, 8, self.nr_allocated);
        put_u64(out, 16, self.bitmap_root);
        put_u64(out, 24, self.ref_count_root);
    }

    /// Bitmaps that it takes to count all blocks.
    pub fn bitmaps(&self) -> u64 {
        self.nr_blocks.div_ceil(ENTRIES_PER_BITMAP)
    }
}

/// Where a bitmap is and what it says in sum. The kernel trusts the sums when it looks for a free block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IndexEntry {
    /// Block of the bitmap.
    pub bitmap: u64,
    /// Entries that are free.
    pub nr_free: u32,
    /// Every entry below this one is in use.
    pub none_free_before: u32,
}

impl IndexEntry {
    /// Bytes of an encoded one.
    pub const BYTES: usize = 16;

    // offset  size  field
    //      0     8  block of the bitmap
    //      8     4  free entries
    //     12     4  none free before
    /// Reads any bytes; every value means something.
    pub fn decode(bytes: &[u8; Self::BYTES]) -> Self {
        Self { bitmap: get_u64(bytes, 0), nr_free: get_u32(bytes, 8), none_free_before: get_u32(bytes, 12) }
    }

    /// The bytes of the tree's value, and of the index block's.
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        put_u64(&mut bytes, 0, self.bitmap);
        put_u32(&mut bytes, 8, self.nr_free);
        put_u32(&mut bytes, 12, self.none_free_before);
        bytes
    }
}

/// A block of two-bit counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bitmap {
    bytes: Box<Block>,
}

impl Default for Bitmap {
    fn default() -> Self {
        Self { bytes: Box::new([0; BLOCK_BYTES]) }
    }
}

impl Bitmap {
    // offset  size  field
    //      0     4  checksum
    //      4     4  unused
    //      8     8  own block number
    //     16  4080  counts, four a byte, the first in the lowest bits; the lower bit of the two is worth two
    /// Reads the bitmap in block `number`. Fails with `Damaged` if the checksum or the own number is wrong.
    pub fn decode(bytes: Box<Block>, number: u64) -> Result<Self> {
        verify(&bytes, BlockKind::Bitmap, number)?;
        verify_number(&bytes, BLOCKNR, number)?;
        Ok(Self { bytes })
    }

    /// The block, to be written as block `number`.
    pub fn encode(&mut self, number: u64) -> &Block {
        put_u64(&mut self.bytes[..], BLOCKNR, number);
        seal(&mut self.bytes, BlockKind::Bitmap);
        &self.bytes
    }

    /// The count of `entry`: 0, 1, 2, or 3 for three and more.
    pub fn get(&self, entry: usize) -> u8 {
        let bits = self.bytes[HEADER_BYTES + entry / 4] >> (entry % 4 * 2);
        (bits & 1) << 1 | (bits >> 1) & 1
    }

    /// Sets the count of `entry`; every count above three is three.
    pub fn set(&mut self, entry: usize, count: u32) {
        let count = count.min(3) as u8;
        let byte = &mut self.bytes[HEADER_BYTES + entry / 4];
        let shift = entry % 4 * 2;
        *byte = *byte & !(3 << shift) | (count >> 1 | (count & 1) << 1) << shift;
    }

    /// Sets the first `count` entries to one.
    pub fn fill_ones(&mut self, count: usize) {
        self.bytes[HEADER_BYTES..HEADER_BYTES + count / 4].fill(0xaa);
        for entry in count / 4 * 4..count {
            self.set(entry, 1);
        }
    }

    /// The four entries from `entry` on, which must be a multiple of four, as the byte that holds them.
    pub fn four(&self, entry: usize) -> u8 {
        self.bytes[HEADER_BYTES + entry / 4]
    }
}

/// The block that says where the bitmaps of the metadata space map are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetadataIndex {
    /// Entries in order; those that are not used are zero.
    pub entries: Vec<IndexEntry>,
}

impl MetadataIndex {
    // offset  size  field
    //      0     4  checksum
    //      4     4  zero
    //      8     8  own block number
    //     16  4080  255 index entries
    /// Reads the index in block `number`. Fails with `Damaged` if the checksum or the own number is wrong.
    pub fn decode(bytes: &Block, number: u64) -> Result<Self> {
        verify(bytes, BlockKind::MetadataIndex, number)?;
        verify_number(bytes, BLOCKNR, number)?;
        let entries = bytes[HEADER_BYTES..].as_chunks().0.iter().map(IndexEntry::decode).collect();
        Ok(Self { entries })
    }

    /// The block, to be written as block `number`. There must be at most 255 entries.
    pub fn encode(&self, number: u64) -> Box<Block> {
        assert!(self.entries.len() <= MAX_METADATA_BITMAPS, "the writer keeps to the largest device");
        let mut bytes = Box::new([0; BLOCK_BYTES]);
        put_u64(&mut bytes[..], BLOCKNR, number);
        for (entry, out) in self.entries.iter().zip(bytes[HEADER_BYTES..].as_chunks_mut().0) {
            *out = entry.encode();
        }
        seal(&mut bytes, BlockKind::MetadataIndex);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lower_bit_is_worth_two() {
        let mut bitmap = Bitmap::default();
        for entry in 0..8 {
            bitmap.set(entry, entry as u32 % 5);
        }
        assert_eq!(&bitmap.bytes[16..18], [0b11_01_10_00, 0b01_10_00_11]);
        assert!((0..8).all(|entry| u32::from(bitmap.get(entry)) == (entry as u32 % 5).min(3)));
        bitmap.fill_ones(7);
        assert_eq!((bitmap.four(0), bitmap.get(6), bitmap.get(7)), (0xaa, 1, 2));
    }

    #[test]
    fn blocks_go_there_and_back() {
        let mut bitmap = Bitmap::default();
        bitmap.set(16319, 3);
        let bytes = Box::new(*bitmap.encode(9));
        assert_eq!(Bitmap::decode(bytes.clone(), 9).expect("it is whole"), bitmap);
        assert!(Bitmap::decode(bytes, 10).is_err());
        let entry = IndexEntry { bitmap: 4, nr_free: 5, none_free_before: 6 };
        let bytes = MetadataIndex { entries: vec![entry] }.encode(3);
        let index = MetadataIndex::decode(&bytes, 3).expect("it is whole");
        assert_eq!(
            (index.entries.len(), index.entries[0], index.entries[1]),
            (255, entry, IndexEntry::default())
        );
    }
}
