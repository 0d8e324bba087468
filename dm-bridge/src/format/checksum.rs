//! Checksums of metadata blocks: CRC-32C without its final inversion, XORed with a number for each kind of block.
//!
//! Owns these numbers. As every kind has its own, the checksum also tells what a block is.

use super::{Block, get_u32, put_u32};
use crate::error::{Error, Result};

/// What a metadata block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BlockKind {
    /// The first block, or the copy of it that is a metadata snapshot.
    Superblock,
    /// A node of any tree.
    BtreeNode,
    /// Two bits a block of a space map.
    Bitmap,
    /// Where the bitmaps of the metadata space map are.
    MetadataIndex,
}

impl BlockKind {
    /// All of them.
    pub const ALL: [BlockKind; 4] =
        [BlockKind::Superblock, BlockKind::BtreeNode, BlockKind::Bitmap, BlockKind::MetadataIndex];

    const fn seed(self) -> u32 {
        match self {
            BlockKind::Superblock => 160_774,
            BlockKind::BtreeNode => 121_107,
            BlockKind::Bitmap => 240_779,
            BlockKind::MetadataIndex => 160_478,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            BlockKind::Superblock => "superblock",
            BlockKind::BtreeNode => "btree node",
            BlockKind::Bitmap => "space map bitmap",
            BlockKind::MetadataIndex => "metadata space map index",
        }
    }
}

/// The checksum that a block of `kind` should have in its first four bytes.
pub fn checksum(block: &Block, kind: BlockKind) -> u32 {
    !crc32c::crc32c(&block[4..]) ^ kind.seed()
}

/// Puts the checksum into a block that is otherwise complete.
pub fn seal(block: &mut Block, kind: BlockKind) {
    let sum = checksum(block, kind);
    put_u32(block, 0, sum);
}

/// What a block is by its checksum; `None` if that fits no kind.
pub fn kind_of(block: &Block) -> Option<BlockKind> {
    let seed = get_u32(block, 0) ^ !crc32c::crc32c(&block[4..]);
    BlockKind::ALL.into_iter().find(|kind| kind.seed() == seed)
}

/// Fails unless `block` has the checksum of `kind`, and says what it is instead.
pub(super) fn verify(block: &Block, kind: BlockKind, number: u64) -> Result<()> {
    let (stored, computed) = (get_u32(block, 0), checksum(block, kind));
    if stored == computed {
        return Ok(());
    }
    let wanted = kind.name();
    let message = match kind_of(block) {
        Some(other) => format!("this should be a {wanted} and is a {}", other.name()),
        None if block.iter().all(|byte| *byte == 0) => format!("this should be a {wanted} and is all zero"),
        None => format!("the checksum of this {wanted} is {stored:#010x} and should be {computed:#010x}"),
    };
    Err(Error::damaged(number, 0, message))
}

/// Fails unless the block says that its number is `number`.
pub(super) fn verify_number(block: &Block, offset: usize, number: u64) -> Result<()> {
    let stored = super::get_u64(block, offset);
    if stored == number {
        return Ok(());
    }
    Err(Error::damaged(number, offset, format!("the block says that it is block {stored}")))
}
