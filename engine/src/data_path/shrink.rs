//! Makes a volume smaller: what lies behind the new end goes first, then the size.
//!
//! Owns the order. From the beginning on nothing is read or written behind the new end. Then the mappings there are taken
//! away, by slices as a discard does it; only the delta behind the last of them changes the size. Were the size durable
//! before, the volume could grow again after a crash and show what it had lost. A crash or failure midway leaves the old
//! size, and zeros in a part of the tail.

use super::change::update;
use super::control::check_size;
use super::room::Room;
use super::{Core, Key, Task, Then};
use crate::canary::{self, Canary};
use crate::error::{Error, ErrorKind, Place, Result};
use crate::format::{Delta, VolumeRecord};
use crate::metadata::Fault;
use crate::metadata::tree::LAST_KEY;
use crate::request::Request;
use crate::units::{SECTOR_BYTES, SectorMask, VirtualBlock, VolumeId};
use std::ops::ControlFlow;

/// A volume on its way to a smaller size.
#[derive(Clone, Copy)]
pub struct ShrinkTask {
    pub key: Key,
    pub volume: VolumeId,
    pub size_bytes: u64,
}

/// What is still mapped behind the new end.
enum Tail {
    /// Nothing.
    Gone,
    /// Sectors of the block in which the end lies.
    Sectors(VirtualBlock, SectorMask),
    /// Whole blocks: the first, and how far one slice reaches.
    Blocks(VirtualBlock, VirtualBlock),
}

impl ShrinkTask {
    /// The block in which the new end lies, or the first behind it, and its sectors behind the end.
    fn end(&self) -> (VirtualBlock, SectorMask) {
        let block = VirtualBlock::containing(self.size_bytes);
        let first = (self.size_bytes - block.offset_bytes()) / SECTOR_BYTES;
        (block, SectorMask::FULL.without(SectorMask::range(0, first as u32)))
    }
}

impl Core {
    /// The way to a smaller size, if that is what `request` asks for. It is judged when it is decided: before, another
    /// request may change the size.
    pub(super) fn as_shrink(&self, key: Key, request: &Request) -> Option<ShrinkTask> {
        let Request::Resize { volume, size_bytes } = *request else { return None };
        let record = self.metadata.volumes.active(volume).ok()?;
        (size_bytes < record.size_bytes).then_some(ShrinkTask { key, volume, size_bytes })
    }

    pub(super) fn start_shrink(&mut self, task: ShrinkTask) {
        let ShrinkTask { key, volume, size_bytes } = task;
        if let Err(error) = check_size(size_bytes).and_then(|()| self.changeable(volume).map(drop)) {
            return self.part_done(key, Err(error));
        }
        self.shrinking.insert(volume, size_bytes);
        if canary::broken(Canary::SizeAheadOfTail) {
            self.resized_too_early(volume, size_bytes);
        }
        self.shrink(task);
    }

    /// Where a volume ends for those who read and write now.
    pub(super) fn end_bytes(&self, record: &VolumeRecord) -> u64 {
        self.shrinking.get(&record.id).map_or(record.size_bytes, |limit| record.size_bytes.min(*limit))
    }

    /// Whether a range of a volume is there now; it may have been when the request came.
    pub(super) fn check_still_there(&self, record: &VolumeRecord, end_bytes: u64) -> Result<()> {
        let size_bytes = self.end_bytes(record);
        if end_bytes <= size_bytes {
            return Ok(());
        }
        let message = format!("the range ends behind the volume's {size_bytes} bytes");
        Err(Error::invalid(message).at(Place::Volume(record.id)))
    }

    /// A volume that is becoming smaller is neither what it was nor what it will be.
    pub(super) fn check_not_shrinking(&self, volume: VolumeId) -> Result<()> {
        if self.shrinking.contains_key(&volume) {
            let message = "it is being made smaller; try again when that is done";
            return Err(Error::new(ErrorKind::Busy, message).at(Place::Volume(volume)));
        }
        Ok(())
    }

    pub(super) fn shrink(&mut self, task: ShrinkTask) {
        let record = match self.metadata.volumes.active(task.volume) {
            Ok(record) => record.clone(),
            Err(_) => return self.fail_shrink(&task, &super::fail::gone(task.volume)),
        };
        // Also against the writes that are inside the volume: one that copies a block copies its tail.
        let (first, last) = (task.end().0, VirtualBlock(LAST_KEY));
        if !self.locks.range_is_free(task.volume, first, last) {
            return self.locks.wait_for_range(task.volume, first, last, Task::Shrink(task));
        }
        match self.tail(&task, &record) {
            Ok(Tail::Gone) => self.end_shrink(task, record),
            Ok(Tail::Sectors(virtual_block, sectors)) => {
                self.cut_tail(task, &record, Delta::Clear { volume: task.volume, virtual_block, sectors });
            }
            Ok(Tail::Blocks(first, last)) => {
                self.cut_tail(task, &record, Delta::Unmap { volume: task.volume, first, last });
            }
            Err(fault) => self.put_off(fault, Task::Shrink(task)),
        }
    }

    fn tail(&self, task: &ShrinkTask, record: &VolumeRecord) -> std::result::Result<Tail, Fault> {
        let (end, behind) = task.end();
        let (mut found, last) = (None, VirtualBlock(LAST_KEY));
        self.metadata.forest.mappings(&record.root, end, last, |block, mapping| {
            let sectors =
                if block == end { mapping.visible().intersection(behind) } else { SectorMask::FULL };
            found = (!sectors.is_empty()).then_some((block, sectors));
            if found.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        let Some((block, sectors)) = found else { return Ok(Tail::Gone) };
        if block == end && behind != SectorMask::FULL {
            return Ok(Tail::Sectors(block, sectors));
        }
        let budget = self.options.slice_mappings;
        Ok(Tail::Blocks(block, self.metadata.forest.plan_unmap(&record.root, block, last, budget)?))
    }

    /// Takes a piece of the tail away; the next one goes when its record is written.
    fn cut_tail(&mut self, task: ShrinkTask, record: &VolumeRecord, delta: Delta) {
        let pages = 2 * self.metadata.forest.pages_needed(&record.root) as u64;
        let needed = Room { log_pages: 1, metadata_pages: pages, unproven_bytes: 0 };
        if !self.admit_unmap(needed) {
            return self.wait_for_room(Task::Shrink(task));
        }
        match self.apply_unmap(task.volume, &delta) {
            Ok(()) => {
                self.settle(needed);
                self.append(delta, Then::Run(Task::Shrink(task)));
            }
            Err(fault) => {
                self.withdraw(needed);
                self.put_off(fault, Task::Shrink(task));
            }
        }
    }

    fn end_shrink(&mut self, task: ShrinkTask, record: VolumeRecord) {
        let delta = update(&VolumeRecord { size_bytes: task.size_bytes, ..record });
        let log_pages = super::commit::Commit::pages_for(delta.encoded_bytes());
        let needed = Room { log_pages, ..Room::default() };
        if !self.admit_unmap(needed) {
            return self.wait_for_room(Task::Shrink(task));
        }
        match self.apply(&delta) {
            Ok(()) => {
                self.settle(needed);
                self.shrinking.remove(&task.volume);
                self.append(delta, Then::Part(task.key));
            }
            Err(fault) => {
                self.withdraw(needed);
                self.put_off(fault, Task::Shrink(task));
            }
        }
    }

    /// It is given up: the volume keeps its size, and the rest of its tail.
    pub(super) fn fail_shrink(&mut self, task: &ShrinkTask, error: &Error) {
        self.shrinking.remove(&task.volume);
        self.part_done(task.key, Err(error.clone()));
    }

    /// The canary: the size first.
    fn resized_too_early(&mut self, volume: VolumeId, size_bytes: u64) {
        let Ok(record) = self.metadata.volumes.active(volume).cloned() else { return };
        let delta = update(&VolumeRecord { size_bytes, ..record });
        let needed = Room { log_pages: 1, ..Room::default() };
        if self.admit_unmap(needed) && self.apply(&delta).is_ok() {
            self.settle(needed);
            self.append(delta, Then::Nothing);
        }
    }
}
