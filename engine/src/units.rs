//! The units of the engine as types, so that a block of a volume is never taken for a block of a file.
//!
//! Owns: sizes, identifiers, the sector mask. Knows nothing of bytes on disk. Read next: `format/mod.rs`.

use std::fmt;

/// Bytes of a block, the unit of mapping and sharing.
pub const BLOCK_BYTES: u64 = 64 * 1024;
/// Bytes of a sector, the unit of validity inside a block.
pub const SECTOR_BYTES: u64 = 4096;
/// Bytes of a unit, the atom of a disk: it is written whole or not at all.
pub const UNIT_BYTES: u64 = 512;
/// Sectors of a block.
pub const SECTORS_PER_BLOCK: u32 = (BLOCK_BYTES / SECTOR_BYTES) as u32;
/// Data blocks of the largest pool. Its counts take 4 GiB of memory.
pub const DATA_BLOCKS_MAX: u64 = 1 << 32;
/// Bytes of a page of the metadata file and of a page of the log.
pub const PAGE_BYTES: usize = 4096;

macro_rules! unit {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, bincode::Encode, bincode::Decode)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(out)
            }
        }
    };
}

unit!(
    /// Number of a 64 KiB block inside a volume.
    VirtualBlock
);
unit!(
    /// Number of a 64 KiB block inside the data file; it starts at `n * BLOCK_BYTES`.
    DataBlock
);
unit!(
    /// Number of a 4 KiB page inside the metadata file; it starts at `n * PAGE_BYTES`.
    PageNumber
);
unit!(
    /// Number of a volume or snapshot inside its pool, never used again after a deletion.
    VolumeId
);
unit!(
    /// Number of a checkpoint; a page carries the generation of the checkpoint that wrote it.
    Generation
);
unit!(
    /// Number of a log record, counted over the whole life of a pool.
    Sequence
);
unit!(
    /// An opening of the pool for writing; part of every log record's checksum. The upper half counts openings, the
    /// lower half is random, so that two copies of a pool do not share one.
    Incarnation
);

impl Incarnation {
    /// How many openings there have been, this one included.
    pub const fn opening(self) -> u64 {
        self.0 >> 32
    }

    /// The opening after this one.
    pub const fn next(self, nonce: u32) -> Self {
        Self(((self.opening() + 1) << 32) | nonce as u64)
    }
}

impl DataBlock {
    /// Where the block starts in the data file, in bytes.
    pub const fn offset_bytes(self) -> u64 {
        self.0 * BLOCK_BYTES
    }
}

impl PageNumber {
    /// Where the page starts in the metadata file, in bytes.
    pub const fn offset_bytes(self) -> u64 {
        self.0 * PAGE_BYTES as u64
    }
}

impl VirtualBlock {
    /// The block that holds the byte at `offset_bytes` of a volume.
    pub const fn containing(offset_bytes: u64) -> Self {
        Self(offset_bytes / BLOCK_BYTES)
    }

    /// Where the block starts in its volume, in bytes.
    pub const fn offset_bytes(self) -> u64 {
        self.0 * BLOCK_BYTES
    }
}

impl Sequence {
    /// The record behind this one.
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// A set of the sixteen sectors of a block: bit `n` is the sector at `n * SECTOR_BYTES`.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, bincode::Encode, bincode::Decode)]
pub struct SectorMask(pub u16);

impl SectorMask {
    /// No sector.
    pub const EMPTY: Self = Self(0);
    /// Every sector of a block.
    pub const FULL: Self = Self(u16::MAX);

    /// The sectors `first..first + count`.
    pub const fn range(first: u32, count: u32) -> Self {
        debug_assert!(first + count <= SECTORS_PER_BLOCK);
        Self((((1u32 << count) - 1) << first) as u16)
    }

    /// Whether no sector is in the set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether every sector is in the set.
    pub const fn is_full(self) -> bool {
        self.0 == u16::MAX
    }

    /// How many sectors are in the set.
    pub const fn count(self) -> u32 {
        self.0.count_ones()
    }

    /// Sectors in either set.
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Sectors in both sets.
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Sectors in this set and not in `other`.
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether the sets share a sector.
    pub const fn overlaps(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether every sector of `other` is in this set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether sector `index` is in the set.
    pub const fn has(self, index: u32) -> bool {
        self.0 & (1 << index) != 0
    }

    /// The runs of neighbouring sectors as `(first, count)`, in order.
    pub fn runs(self) -> impl Iterator<Item = (u32, u32)> {
        let mut rest = u32::from(self.0);
        let mut base = 0;
        std::iter::from_fn(move || {
            if rest == 0 {
                return None;
            }
            let skip = rest.trailing_zeros();
            let length = (rest >> skip).trailing_ones();
            let first = base + skip;
            base = first + length;
            rest = rest >> skip >> length;
            Some((first, length))
        })
    }
}

impl fmt::Debug for SectorMask {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "SectorMask({:#06x})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_cover_exactly_the_mask() {
        for bits in 0..=u16::MAX {
            let mask = SectorMask(bits);
            let joined = mask.runs().fold(SectorMask::EMPTY, |all, (first, count)| {
                let run = SectorMask::range(first, count);
                assert!(!all.overlaps(run));
                all.union(run)
            });
            assert_eq!(joined, mask);
        }
    }
}
