//! Joins the two layers of blocks that own both: the smaller is copied into the larger, in place.
//!
//! Owns the walk over a volume's two-layer mappings. Needs no free block, and frees one for every block it joins.

use super::gather::{GatherKind, whole_block};
use super::room::Room;
use super::write::WriteTask;
use super::{Core, Key, Task};
use crate::error::Error;
use crate::format::Mapping;
use crate::metadata::tree::LAST_KEY;
use crate::metadata::{Fault, Found};
use crate::request::Outcome;
use crate::storage::Buffer;
use crate::units::{DataBlock, SectorMask, VirtualBlock, VolumeId};
use std::ops::ControlFlow;

/// A walk over the mappings of a volume.
pub struct CollapseTask {
    key: Key,
    volume: VolumeId,
    next: VirtualBlock,
    freed: u64,
    locked: bool,
}

impl CollapseTask {
    pub fn new(key: Key, volume: VolumeId) -> Self {
        Self { key, volume, next: VirtualBlock(0), freed: 0, locked: false }
    }
}

impl Core {
    pub(super) fn collapse(&mut self, mut task: CollapseTask) {
        match self.next_two_layers(&task) {
            Ok(Some(block)) => {
                if task.locked && block != task.next {
                    self.unlock((task.volume, task.next), SectorMask::FULL);
                    task.locked = false;
                }
                task.next = block;
                self.collapse_block(task);
            }
            Ok(None) => {
                if task.locked {
                    self.unlock((task.volume, task.next), SectorMask::FULL);
                }
                self.set_outcome(task.key, Outcome::Freed(task.freed));
                self.part_done(task.key, Ok(()));
            }
            Err(fault) => self.put_off(fault, Task::Collapse(task)),
        }
    }

    fn next_two_layers(&self, task: &CollapseTask) -> Result<Option<VirtualBlock>, Fault> {
        let root = self.metadata.volumes.active(task.volume)?.root;
        let mut next = None;
        self.metadata.forest.mappings(&root, task.next, VirtualBlock(LAST_KEY), |block, mapping| {
            next = mapping.lower.map(|_| block);
            if next.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        Ok(next)
    }

    fn collapse_block(&mut self, mut task: CollapseTask) {
        let place = (task.volume, task.next);
        if !task.locked {
            if self.locks.range_waits(place) {
                return self.locks.wait_behind_range(place, Task::Collapse(task));
            }
            if !self.locks.lock(place, SectorMask::FULL) {
                return self.locks.wait(place, Task::Collapse(task));
            }
            task.locked = true;
        }
        let record = match self.metadata.volumes.active(task.volume) {
            Ok(record) => record,
            Err(error) => return self.fail_task(Task::Collapse(task), &error),
        };
        let found = match self.metadata.forest.lookup(&record.root, task.next) {
            Ok(found) => found,
            Err(fault) => return self.put_off(fault, Task::Collapse(task)),
        };
        match found.mapping.and_then(|mapping| self.owned_layers(&found, &mapping)) {
            Some((into, from)) => self.start_joining(task, &found, into, from),
            None => self.collapse_next(task),
        }
    }

    /// The block that takes the other's sectors, and those sectors; only if both are owned.
    fn owned_layers(&self, found: &Found, mapping: &Mapping) -> Option<(DataBlock, SectorMask)> {
        let lower = mapping.lower?;
        let upper = mapping.upper;
        let owned = self.is_exclusive(found, upper.block) && self.is_exclusive(found, lower.block);
        let (into, from) =
            if upper.mask.count() >= lower.mask.count() { (upper, lower) } else { (lower, upper) };
        owned.then_some((into.block, from.mask))
    }

    fn start_joining(&mut self, task: CollapseTask, found: &Found, into: DataBlock, sectors: SectorMask) {
        if let Some(number) = self.unproven_for(found, into, sectors) {
            return self.wait_for_proof(number, Task::Collapse(task));
        }
        if self.space.is_pinned_by_others(into, task.volume) {
            return self.waiting_for_pins.push_back(Task::Collapse(task));
        }
        let mut write = whole_block(task.key, task.volume, task.next);
        write.copied = Some((sectors, bytes::Bytes::new()));
        let after = Some(Task::Collapse(CollapseTask {
            next: VirtualBlock(task.next.0 + 1),
            freed: task.freed + 1,
            locked: false,
            ..task
        }));
        self.gather_then(write, found, sectors, GatherKind::Collapse(into), after);
    }

    fn collapse_next(&mut self, mut task: CollapseTask) {
        self.unlock((task.volume, task.next), SectorMask::FULL);
        task.locked = false;
        task.next = VirtualBlock(task.next.0 + 1);
        self.ready.push_back(Task::Collapse(task));
    }

    pub(super) fn collapse_gathered(
        &mut self,
        mut task: WriteTask,
        into: DataBlock,
        image: Buffer,
        after: Option<Task>,
    ) {
        let Some((sectors, _)) = task.copied else { return };
        let room = if self.still_owned(&task, into) { self.room_for(&task, sectors) } else { None };
        let Some(needed) = room else {
            // It was shared meanwhile, or there is no room for its delta now: it stays as it is.
            self.unlock(task.place(), task.locked);
            return self.collapse_goes_on(after);
        };
        task.copied = Some((sectors, image.freeze()));
        self.start_collapse(task, into, sectors, needed, after);
    }

    /// Goes on behind a block that was not joined after all.
    pub(super) fn collapse_goes_on(&mut self, after: Option<Task>) {
        if let Some(Task::Collapse(mut next)) = after {
            next.freed -= 1;
            self.ready.push_back(Task::Collapse(next));
        }
    }

    fn room_for(&mut self, task: &WriteTask, sectors: SectorMask) -> Option<Room> {
        let record = self.metadata.volumes.active(task.volume).ok()?;
        let needed = Room::for_mapping(&self.metadata.forest, record).with_sectors(sectors);
        self.admit_unmap(needed).then_some(needed)
    }

    fn still_owned(&self, task: &WriteTask, into: DataBlock) -> bool {
        let root = self.metadata.volumes.get(task.volume).and_then(|record| record.root);
        let found = self.metadata.forest.lookup(&root, task.virtual_block);
        found.is_ok_and(|found| {
            let layers = found.mapping.and_then(|mapping| self.owned_layers(&found, &mapping));
            layers.is_some_and(|(block, _)| block == into)
        })
    }

    pub(super) fn fail_collapse(&mut self, task: &CollapseTask, error: &Error) {
        if task.locked {
            self.unlock((task.volume, task.next), SectorMask::FULL);
        }
        self.part_done(task.key, Err(error.clone()));
    }
}
