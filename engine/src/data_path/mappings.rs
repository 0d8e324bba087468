//! Where a snapshot has its blocks, for somebody who reads the data file without the engine.
//!
//! Owns runs while they are put together. Only what does not change by itself is told. An answer may end early, so that it never
//! holds the core for long.

use super::{Core, Key, Task};
use crate::error::{Error, Place, Result};
use crate::format::{Mapping, VolumeKind, VolumeRecord};
use crate::metadata::Fault;
use crate::metadata::tree::LAST_KEY;
use crate::request::{MappedRun, Mappings, Outcome};
use crate::units::{SECTOR_BYTES, VirtualBlock, VolumeId};
use std::ops::ControlFlow;

/// Mappings that one answer has at most.
const MAPPINGS_MAX: u32 = 4096;

/// A look at mappings.
pub struct MappingsTask {
    pub key: Key,
    volume: VolumeId,
    first: VirtualBlock,
}

impl Core {
    pub(super) fn start_mappings(&mut self, key: Key, volume: VolumeId, first: VirtualBlock) -> Result<()> {
        if self.check_range(volume, 0, 0)? == VolumeKind::Volume {
            let message = "a volume goes on changing; take a snapshot of it first";
            return Err(Error::invalid(message).at(Place::Volume(volume)));
        }
        self.start_part(key, Task::Mappings(MappingsTask { key, volume, first }));
        Ok(())
    }

    pub(super) fn mappings(&mut self, task: MappingsTask) {
        match self.mappings_of(&task) {
            Ok(mappings) => {
                self.set_outcome(task.key, Outcome::Mappings(mappings));
                self.part_done(task.key, Ok(()));
            }
            Err(Fault::Missing(pointer)) => self.wait_for_page(pointer, Task::Mappings(task)),
            Err(Fault::Failed(error)) => self.fail_task(Task::Mappings(task), &error),
        }
    }

    fn mappings_of(&self, task: &MappingsTask) -> std::result::Result<Mappings, Fault> {
        let record = self.metadata.volumes.active(task.volume)?;
        let mut runs: Vec<MappedRun> = Vec::new();
        let (mut next, mut left, mut lost) = (task.first, MAPPINGS_MAX, None);
        let last = VirtualBlock(LAST_KEY);
        let walked = self.metadata.forest.mappings(&record.root, task.first, last, |block, mapping| {
            lost = lost_in(record, block, mapping);
            if lost.is_some() {
                return ControlFlow::Break(());
            }
            add(&mut runs, block, mapping);
            next = VirtualBlock(block.0 + 1);
            left -= 1;
            if left > 0 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        if let Some(lost) = lost {
            return Err(lost.into());
        }
        match walked {
            // What was seen so far is an answer too.
            Err(Fault::Missing(_)) if !runs.is_empty() => Ok(Mappings { runs, next: Some(next) }),
            Err(fault) => Err(fault),
            Ok(()) => Ok(Mappings { runs, next: (left == 0).then_some(next) }),
        }
    }
}

/// What is lost is in no data block.
fn lost_in(record: &VolumeRecord, block: VirtualBlock, mapping: Mapping) -> Option<Error> {
    let (first, count) = mapping.lost().runs().next()?;
    let offset = block.offset_bytes() + u64::from(first) * SECTOR_BYTES;
    let place = Place::Range(record.id, offset, u64::from(count) * SECTOR_BYTES);
    Some(Error::damaged("sectors are lost, and are in no data block").at(place))
}

fn add(runs: &mut Vec<MappedRun>, virtual_block: VirtualBlock, mapping: Mapping) {
    let is_whole = mapping.lower.is_none() && mapping.upper.mask.is_full();
    let data_block = mapping.upper.block;
    let goes_on = |last: &&mut MappedRun| {
        let ends = (last.virtual_block.0 + last.blocks, last.data_block.0 + last.blocks);
        last.is_whole == is_whole && ends == (virtual_block.0, data_block.0)
    };
    match runs.last_mut().filter(goes_on) {
        Some(last) => last.blocks += 1,
        None => runs.push(MappedRun { virtual_block, data_block, blocks: 1, is_whole }),
    }
}
