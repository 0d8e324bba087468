//! Makes one whole data block of every mapping.
//!
//! Owns where a mapping is filled. Nothing is written that any mapping sees. A block that one leaf entry alone names is filled
//! in place: outside the masks of that entry nobody sees it. Where every layer has other owners, who may see other
//! sectors of the blocks, a free block gets a copy. What is met again through a shared page, or word by word in another
//! leaf, gets the place that it got before.

use super::Plan;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{Layer, Mapping};
use crate::metadata::counts::Counts;
use crate::metadata::files::Files;
use crate::storage::Buffer;
use crate::units::{BLOCK_BYTES, DataBlock, SECTOR_BYTES, SectorMask};
use rustc_hash::FxHashMap;

/// A mapping as a key: blocks and masks of both layers.
type Key = (u64, u16, u64, u16);

/// How far the filling has come. Counts what it would write unless it is told to write.
#[derive(Default)]
pub(super) struct Filling {
    writes: bool,
    /// Where mappings were filled that may be met again.
    placed: FxHashMap<Key, DataBlock>,
    /// No free block before it is left.
    next_free: u64,
    copied: u64,
    filled: u64,
    copy_bytes: u64,
    clear_bytes: u64,
}

impl Filling {
    /// One that writes.
    pub fn writing() -> Self {
        Self { writes: true, ..Self::default() }
    }

    /// What was counted.
    pub fn tell(&self, plan: &mut Plan) {
        plan.blocks_to_copy = self.copied;
        plan.blocks_to_fill = self.filled;
        plan.bytes_to_copy = self.copy_bytes;
        plan.bytes_to_clear = self.clear_bytes;
    }

    /// The block that holds all of `mapping`, and whether anything else may name it.
    pub fn place(
        &mut self,
        files: &mut Files<'_>,
        counts: &Counts,
        mapping: Mapping,
        exclusive_path: bool,
    ) -> Result<(DataBlock, bool)> {
        let is_own = |layer: &Layer| counts.get(layer.block.0) == 1;
        let whole = mapping.lower.is_none() && mapping.upper.mask.is_full();
        if whole {
            return Ok((mapping.upper.block, !(exclusive_path && is_own(&mapping.upper))));
        }
        let key = key_of(&mapping);
        if let Some(block) = self.placed.get(&key) {
            return Ok((*block, true));
        }
        let own = mapping.layers().filter(is_own).max_by_key(|layer| layer.mask.count());
        let block = match own {
            Some(layer) => layer.block,
            None => self.free_block(counts)?,
        };
        self.fill(files, block, mapping, own.map_or(SectorMask::EMPTY, |layer| layer.mask))?;
        self.copied += u64::from(own.is_none());
        self.filled += u64::from(own.is_some());
        let shared = !exclusive_path || own.is_none();
        if shared {
            self.placed.insert(key, block);
        }
        Ok((block, shared))
    }

    fn free_block(&mut self, counts: &Counts) -> Result<DataBlock> {
        let free = counts.first_zero(self.next_free).filter(|block| *block < counts.len());
        match free {
            Some(block) => {
                self.next_free = block + 1;
                Ok(DataBlock(block))
            }
            // While it counts, what lacks is told with all figures at the end.
            None if !self.writes => Ok(DataBlock(counts.len())),
            None => Err(Error::new(ErrorKind::NoSpace, "the pool has no free block for a copy")),
        }
    }

    /// Brings what the mapping sees to `block`, which has the sectors `there`, and zeros to where it sees nothing.
    fn fill(
        &mut self,
        files: &mut Files<'_>,
        block: DataBlock,
        mapping: Mapping,
        there: SectorMask,
    ) -> Result<()> {
        let visible = mapping.visible();
        for layer in mapping.layers().filter(|layer| layer.block != block) {
            for (first, count) in layer.mask.runs() {
                self.copy_bytes += u64::from(count) * SECTOR_BYTES;
                if self.writes {
                    copy(files, layer.block, block, first, count)?;
                }
            }
        }
        debug_assert!(visible.contains(there));
        for (first, count) in SectorMask::FULL.without(visible).runs() {
            self.clear_bytes += u64::from(count) * SECTOR_BYTES;
            if self.writes {
                clear(files, block, first, count)?;
            }
        }
        Ok(())
    }
}

fn key_of(mapping: &Mapping) -> Key {
    let lower = mapping.lower.map_or((0, 0), |layer| (layer.block.0, layer.mask.0));
    (mapping.upper.block.0, mapping.upper.mask.0, lower.0, lower.1)
}

fn copy(files: &mut Files<'_>, from: DataBlock, to: DataBlock, first: u32, count: u32) -> Result<()> {
    let inside = u64::from(first) * SECTOR_BYTES;
    let length = u64::from(count) * SECTOR_BYTES;
    let bytes = files.data.read(from.offset_bytes() + inside, length as usize)?;
    files.data.write(to.offset_bytes() + inside, bytes.freeze())
}

/// The kernel reads what stands there, so zeros are written: a device that is told to forget may keep what was there.
fn clear(files: &mut Files<'_>, block: DataBlock, first: u32, count: u32) -> Result<()> {
    let offset = block.offset_bytes() + u64::from(first) * SECTOR_BYTES;
    let length = u64::from(count) * SECTOR_BYTES;
    debug_assert!(length <= BLOCK_BYTES);
    files.data.write(offset, Buffer::zeroed(length as usize).freeze())
}
