//! dm-thin's bytes, under the kernel's own names: one file a structure with picture, encode and decode.
//!
//! Everything is little-endian, in blocks of 4096 bytes; the number of a block is its byte offset divided by 4096. Does no
//! I/O and panics on no bytes. Read next: `superblock.rs`, then `btree_node.rs`.

mod btree_node;
mod checksum;
mod device_details;
mod mapping;
mod space_map;
mod superblock;

pub use btree_node::{BtreeNode, MAX_INTERNAL_ENTRIES, NodeFlags, max_entries};
pub use checksum::{BlockKind, checksum, kind_of, seal};
pub use device_details::DeviceDetails;
pub use mapping::{BlockTime, DATA_BLOCK_LIMIT, TIME_LIMIT};
pub use space_map::{
    Bitmap, ENTRIES_PER_BITMAP, IndexEntry, MAX_METADATA_BITMAPS, MAX_METADATA_BLOCKS, MetadataIndex,
    SpaceMapRoot,
};
pub use superblock::{DATA_BLOCK_SECTORS_MIN, DEVICE_ID_LIMIT, Superblock, data_block_sectors_are_valid};

/// Bytes of a metadata block.
pub const BLOCK_BYTES: usize = 4096;
/// Bytes of a sector, the unit in which dm-thin gives sizes.
pub const SECTOR_BYTES: u64 = 512;

/// One metadata block.
pub type Block = [u8; BLOCK_BYTES];

/// The number of 32 bits at `offset`. The offset is a constant of a structure, or checked before.
pub(crate) fn get_u32(bytes: &[u8], offset: usize) -> u32 {
    let mut field = [0; 4];
    field.copy_from_slice(&bytes[offset..offset + 4]);
    u32::from_le_bytes(field)
}

/// The number of 64 bits at `offset`.
pub(crate) fn get_u64(bytes: &[u8], offset: usize) -> u64 {
    let mut field = [0; 8];
    field.copy_from_slice(&bytes[offset..offset + 8]);
    u64::from_le_bytes(field)
}

pub(crate) fn put_u32(bytes: &mut [u8], offset: usize, value: u32) {
    bytes[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
}

pub(crate) fn put_u64(bytes: &mut [u8], offset: usize, value: u64) {
    bytes[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
}
