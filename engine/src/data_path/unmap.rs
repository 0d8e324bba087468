//! Takes mappings away: sectors of one block, or ranges of blocks in slices.
//!
//! Owns clears and unmaps, for discards, zeroing and deletions. Both wait for writes in flight, so that nothing
//! is published into a mapping that is gone. The blocks become free as `space.rs` says.

use super::room::Room;
use super::{Core, Key, Task, Then};
use crate::error::{Error, Place};
use crate::format::{Delta, VolumeState};
use crate::metadata::tree::{LAST_KEY, Root};
use crate::metadata::{Fault, Found};
use crate::units::{SectorMask, VirtualBlock, VolumeId};
use std::ops::ControlFlow;

/// Sectors of one block that shall read as zeros.
pub struct ClearTask {
    pub key: Key,
    pub volume: VolumeId,
    pub virtual_block: VirtualBlock,
    pub sectors: SectorMask,
    /// Somebody writes zeros there: it gets the room of a write, and waits for more as a write does.
    pub is_write: bool,
}

/// A range of blocks that shall not be mapped.
pub struct UnmapTask {
    pub then: UnmapThen,
    pub volume: VolumeId,
    pub next: VirtualBlock,
    pub last: VirtualBlock,
}

/// What an unmap is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum UnmapThen {
    /// A part of a request.
    Part(Key),
    /// The volume goes when nothing is mapped in it any more.
    Forget,
}

impl Core {
    pub(super) fn clear(&mut self, task: ClearTask) {
        let place = (task.volume, task.virtual_block);
        if self.locks.range_waits(place) {
            return self.locks.wait_behind_range(place, Task::Clear(task));
        }
        let record = match self.writable(task.volume) {
            Ok(record) => record,
            Err(error) => return self.part_done(task.key, Err(error)),
        };
        let found = match self.metadata.forest.lookup(&record.root, task.virtual_block) {
            Ok(found) => found,
            Err(Fault::Missing(pointer)) => return self.wait_for_page(pointer, Task::Clear(task)),
            Err(Fault::Failed(error)) => return self.part_done(task.key, Err(error)),
        };
        let needed = Room::for_mapping(&self.metadata.forest, record);
        if !self.locks.lock(place, task.sectors) {
            return self.locks.wait(place, Task::Clear(task));
        }
        if found.mapping.is_some_and(|mapping| mapping.visible().overlaps(task.sectors)) {
            self.clear_mapped(task, &found, needed);
        } else {
            self.nothing_to_do(task.key);
            self.unlock(place, task.sectors);
        }
    }

    fn clear_mapped(&mut self, task: ClearTask, found: &Found, needed: Room) {
        let ClearTask { key, volume, virtual_block, sectors, is_write } = task;
        let has_room = if is_write { self.admit(needed) } else { self.admit_unmap(needed) };
        if !has_room {
            self.unlock((volume, virtual_block), sectors);
            return self.wait_for_room(Task::Clear(task));
        }
        let left = self.left_behind(volume, found, sectors);
        let delta = Delta::Clear { volume, virtual_block, sectors };
        match self.apply(&delta) {
            Ok(()) => {
                self.settle(needed);
                self.append(delta, Then::Part(key));
                self.note_discarded((volume, virtual_block), &left);
            }
            Err(fault) => {
                self.withdraw(needed);
                self.unlock((volume, virtual_block), sectors);
                return self.put_off(fault, Task::Clear(task));
            }
        }
        self.unlock((volume, virtual_block), sectors);
    }

    /// Tries again when the missing page is there, or gives up.
    pub(super) fn put_off(&mut self, fault: Fault, task: Task) {
        match fault {
            Fault::Missing(pointer) => self.wait_for_page(pointer, task),
            Fault::Failed(error) => self.fail_task(task, &error),
        }
    }

    pub(super) fn unmap(&mut self, task: UnmapTask) {
        let for_deletion = task.then == UnmapThen::Forget;
        let Some(record) = self.metadata.volumes.get(task.volume) else {
            if !for_deletion {
                self.unmap_ends(&task, Err(super::fail::gone(task.volume)));
            }
            return;
        };
        if record.state == VolumeState::Deleting && !for_deletion {
            return self.unmap_ends(&task, Err(super::fail::gone(task.volume)));
        }
        if !for_deletion && let Err(error) = self.writable(task.volume) {
            return self.unmap_ends(&task, Err(error));
        }
        if for_deletion && self.closing {
            // The next opening goes on.
            return;
        }
        let root = record.root;
        if !for_deletion && !self.locks.range_is_free(task.volume, task.next, task.last) {
            return self.locks.wait_for_range(task.volume, task.next, task.last, Task::Unmap(task));
        }
        match self.next_slice(&root, &task) {
            Ok(Some((first, reach))) => self.unmap_slice(task, first, reach),
            Ok(None) => self.unmap_ends(&task, Ok(())),
            Err(fault) => self.put_off(fault, Task::Unmap(task)),
        }
    }

    /// The next blocks to unmap: where they begin and how far one slice reaches.
    fn next_slice(
        &self,
        root: &Root,
        task: &UnmapTask,
    ) -> Result<Option<(VirtualBlock, VirtualBlock)>, Fault> {
        if root.is_none() || task.next > task.last {
            return Ok(None);
        }
        let mut first = None;
        if task.then == UnmapThen::Forget {
            // What a deleted snapshot shares goes without being looked at.
            first = Some(task.next);
        } else {
            self.metadata.forest.mappings(root, task.next, task.last, |block, _| {
                first = Some(block);
                ControlFlow::Break(())
            })?;
        }
        let Some(first) = first else { return Ok(None) };
        let budget = self.options.slice_mappings;
        Ok(Some((first, self.metadata.forest.plan_unmap(root, first, task.last, budget)?)))
    }

    fn unmap_slice(&mut self, task: UnmapTask, first: VirtualBlock, reach: VirtualBlock) {
        let Some(record) = self.metadata.volumes.get(task.volume) else { return };
        // A range may cut two paths through the tree, at its beginning and at its end.
        let pages = 2 * self.metadata.forest.pages_needed(&record.root) as u64;
        let needed = Room { log_pages: 1, metadata_pages: pages, unproven_bytes: 0 };
        if !self.admit_unmap(needed) {
            return self.wait_for_room(Task::Unmap(task));
        }
        let delta = Delta::Unmap { volume: task.volume, first, last: reach };
        match self.apply_unmap(task.volume, &delta) {
            Ok(()) => {
                self.settle(needed);
                self.append_slice(task, delta, reach);
            }
            Err(fault) => {
                self.withdraw(needed);
                self.put_off(fault, Task::Unmap(task));
            }
        }
    }

    /// Applies a delta that takes mappings of `volume` away.
    pub(super) fn apply_unmap(&mut self, volume: VolumeId, delta: &Delta) -> Result<(), Fault> {
        let before = self.mapped_blocks(volume);
        self.apply(delta)?;
        self.metadata_was_freed();
        self.checkpoint.note_unmapped(before - self.mapped_blocks(volume));
        Ok(())
    }

    fn mapped_blocks(&self, volume: VolumeId) -> u64 {
        let root = self.metadata.volumes.get(volume).and_then(|record| record.root);
        root.map_or(0, |(_, pointer)| pointer.mapped)
    }

    /// The next slice goes on when this one's record is written, so that one turn does not hold everybody up.
    fn append_slice(&mut self, task: UnmapTask, delta: Delta, reach: VirtualBlock) {
        let then = match task.then {
            UnmapThen::Part(key) if reach >= task.last => Then::Part(key),
            _ => Then::Run(Task::Unmap(UnmapTask { next: VirtualBlock(reach.0.saturating_add(1)), ..task })),
        };
        self.append(delta, then);
    }

    fn unmap_ends(&mut self, task: &UnmapTask, result: Result<(), Error>) {
        match (task.then, result) {
            (UnmapThen::Part(key), Ok(())) => self.nothing_to_do(key),
            (UnmapThen::Part(key), Err(error)) => self.part_done(key, Err(error)),
            (UnmapThen::Forget, Ok(())) => self.forget(task.volume),
            // It was answered, so it is tried again now and then; what is damaged keeps what it maps.
            (UnmapThen::Forget, Err(_)) if self.failure.is_none() => {
                let again = self.deletion(task.volume);
                self.waiting_for_room.push_back(Task::Unmap(again));
            }
            (UnmapThen::Forget, Err(_)) => {}
        }
    }

    fn forget(&mut self, volume: VolumeId) {
        let needed = Room { log_pages: 1, ..Room::default() };
        if !self.admit_unmap(needed) {
            return self.wait_for_room(Task::Unmap(self.deletion(volume)));
        }
        let gone = self.metadata.volumes.get(volume).cloned();
        let delta = Delta::Forget { volume };
        match self.apply(&delta) {
            Ok(()) => {
                gone.iter().for_each(|record| self.collapse_after(record));
                self.settle(needed);
                self.append(delta, Then::Nothing);
            }
            Err(_) => self.withdraw(needed),
        }
    }

    /// The task that takes a deleted volume down.
    pub(super) fn deletion(&self, volume: VolumeId) -> UnmapTask {
        UnmapTask { then: UnmapThen::Forget, volume, next: VirtualBlock(0), last: VirtualBlock(LAST_KEY) }
    }

    pub(super) fn fail_unmap(&mut self, task: &UnmapTask, error: &Error) {
        self.unmap_ends(task, Err(error.clone().at(Place::Volume(task.volume))));
    }
}
