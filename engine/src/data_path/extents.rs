//! What a range of a volume consists of, without reading it: for clients that copy only what is there.
//!
//! Owns extents while they are put together. The answer may end before the range does, so that it never holds the
//! core for long.

use super::read::runs_of;
use super::{Core, Key, Task};
use crate::format::LOST;
use crate::metadata::Fault;
use crate::request::{Extent, Outcome};
use crate::units::{BLOCK_BYTES, DataBlock, SECTOR_BYTES, VirtualBlock, VolumeId};
use std::ops::ControlFlow;

/// Extents that one answer has at most.
const EXTENTS_MAX: usize = 4096;
/// Mappings that one answer looks at at most.
const MAPPINGS_MAX: u32 = 16 * 1024;

/// A look at one range.
pub struct ExtentsTask {
    pub key: Key,
    pub volume: VolumeId,
    pub offset_bytes: u64,
    pub length_bytes: u64,
}

/// Extents in order, neighbours of one kind joined.
struct Extents {
    list: Vec<Extent>,
    position: u64,
    end: u64,
    mappings_left: u32,
}

impl Core {
    pub(super) fn extents(&mut self, task: ExtentsTask) {
        match self.extents_of(&task) {
            Ok(list) => {
                self.set_outcome(task.key, Outcome::Extents(list));
                self.part_done(task.key, Ok(()));
            }
            Err(Fault::Missing(pointer)) => self.wait_for_page(pointer, Task::Extents(task)),
            Err(Fault::Failed(error)) => self.fail_task(Task::Extents(task), &error),
        }
    }

    fn extents_of(&self, task: &ExtentsTask) -> Result<Vec<Extent>, Fault> {
        let record = self.metadata.volumes.active(task.volume)?;
        let end = task.offset_bytes + task.length_bytes;
        self.check_still_there(record, end)?;
        let mut extents =
            Extents { list: Vec::new(), position: task.offset_bytes, end, mappings_left: MAPPINGS_MAX };
        if task.length_bytes == 0 {
            return Ok(extents.list);
        }
        let first = VirtualBlock::containing(task.offset_bytes);
        let last = VirtualBlock::containing(end - 1);
        let forest = &self.metadata.forest;
        let looked =
            forest.mappings_and_owners(&record.root, first, last, |block, mapping, exclusive_path| {
                let is_alone = |block: DataBlock| exclusive_path && forest.data_counts.get(block.0) == 1;
                for (first, count, source) in runs_of(&mapping) {
                    // A write goes to a new block also where only the upper layer is shared.
                    // So it does where all is lost; what is lost below an owned layer is written there.
                    let owned = (source == LOST || is_alone(source)) && is_alone(mapping.upper.block);
                    let from = block.offset_bytes() + u64::from(first) * SECTOR_BYTES;
                    extents.add_mapped(from, from + u64::from(count) * SECTOR_BYTES, !owned);
                }
                extents.block_is_over(block)
            });
        match looked {
            // What was seen so far is an answer too.
            Err(Fault::Missing(_)) if !extents.list.is_empty() => {}
            other => {
                other?;
                extents.finish();
            }
        }
        Ok(extents.list)
    }
}

impl Extents {
    fn add_mapped(&mut self, from: u64, to: u64, shared: bool) {
        self.add_to(from, false, false);
        self.add_to(to, true, shared);
    }

    fn add_to(&mut self, to: u64, mapped: bool, shared: bool) {
        let length_bytes = to.min(self.end).saturating_sub(self.position);
        if length_bytes == 0 {
            return;
        }
        self.position += length_bytes;
        match self.list.last_mut().filter(|last| (last.mapped, last.shared) == (mapped, shared)) {
            Some(last) => last.length_bytes += length_bytes,
            None => self.list.push(Extent { length_bytes, mapped, shared }),
        }
    }

    /// What is behind the last mapping of a block is known only up to the block's end.
    fn block_is_over(&mut self, block: VirtualBlock) -> ControlFlow<()> {
        self.mappings_left -= 1;
        if self.mappings_left == 0 || self.list.len() >= EXTENTS_MAX {
            self.add_to(block.offset_bytes() + BLOCK_BYTES, false, false);
            self.end = self.position;
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }

    fn finish(&mut self) {
        self.add_to(self.end, false, false);
    }
}
