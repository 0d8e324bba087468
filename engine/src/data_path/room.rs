//! Room before promise: log pages, metadata pages and unproven bytes are set aside before a change is begun.
//!
//! Owns what is set aside, and who waits for room or proof. What makes room is `checkpoint.rs` and `reclaim.rs`; writes
//! that get none wait in `stall.rs`.

use super::stall::Shortage;
use super::{Core, DeltaNumber, MetadataState, Task};
use crate::canary::{self, Canary};
use crate::units::Generation;

/// Metadata pages that only unmaps may take, so that a full pool can be emptied: a few slices of them.
const UNMAP_PAGES: u64 = 256;
/// Checkpoints after which pages freed before are free.
const CHECKPOINTS_TO_RELEASE: u64 = 3;

/// How often the host is asked again, in milliseconds.
const RETRY_MS: u64 = 1000;

/// What a change may need at worst; or the sum of what is set aside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// Pages of the log.
    pub log_pages: u64,
    /// Pages of the metadata file.
    pub metadata_pages: u64,
    /// Bytes of data that recovery may have to check.
    pub unproven_bytes: u64,
}

/// Set aside, and what is known about getting more.
#[derive(Default)]
pub struct RoomState {
    /// Set aside beside the log's pages, which `commit.rs` counts.
    reserved: Room,
    /// The generation since which metadata pages have been short and the file could not grow.
    full_since: Option<Generation>,
    /// The last change that asked would not have got its metadata pages had it been the only one.
    is_starved: bool,
    /// The last change that asked for metadata pages got none and failed.
    refused: bool,
    /// Something was given back: who waits should try again.
    pub changed: bool,
    /// When the host was asked again for the last time.
    pub retried_ms: u64,
    /// The last delta whose proof has been acted upon.
    pub proven: DeltaNumber,
}

impl Core {
    /// Sets room aside for a write. If there is none, says to the background what is missing.
    pub(super) fn admit(&mut self, needed: Room) -> bool {
        self.admit_above(needed, self.metadata_floor())
    }

    /// Free metadata pages that writes leave for checkpoints and for what frees pages.
    fn metadata_floor(&self) -> u64 {
        2 * self.metadata.checkpoint_pages_at_most() as u64 + UNMAP_PAGES
    }

    /// Free metadata pages above the floor that are called few.
    fn metadata_margin(&self) -> u64 {
        self.options.metadata_step_pages.max(self.metadata.forest.page_counts.len() / 16)
    }

    /// Whether the metadata file takes what writes need.
    pub(super) fn metadata_state(&self) -> MetadataState {
        if !self.growth.was_refused() {
            return MetadataState::Ok;
        }
        let free = self.metadata.forest.pages.free_pages();
        let above = free.checked_sub(self.metadata_floor() + self.room.reserved.metadata_pages);
        match above {
            None => MetadataState::Full,
            _ if self.room.refused => MetadataState::Full,
            Some(above) if above < self.metadata_margin() => MetadataState::NearFull,
            Some(_) => MetadataState::Ok,
        }
    }

    /// Sets room aside for a change that frees something, down to what checkpoints need.
    pub(super) fn admit_unmap(&mut self, needed: Room) -> bool {
        self.admit_above(needed, 2 * self.metadata.checkpoint_pages_at_most() as u64)
    }

    fn admit_above(&mut self, needed: Room, floor: u64) -> bool {
        let floor = if canary::broken(Canary::CheckpointWithoutRoom) { 0 } else { floor };
        let free = self.metadata.forest.pages.free_pages();
        let wanted = floor + self.room.reserved.metadata_pages + needed.metadata_pages;
        // What is set aside for changes under way comes back, most of it: that is waited for.
        self.room.is_starved = free < wanted - self.room.reserved.metadata_pages;
        if free < wanted {
            self.metadata_is_short(wanted - free);
            return false;
        }
        if free - wanted < self.metadata_margin() / 2 {
            // Ahead of need, so that nobody has to wait for it.
            self.want_growth(0);
        }
        let unproven = self.unproven.bytes() + self.room.reserved.unproven_bytes;
        if unproven > 0 && unproven + needed.unproven_bytes > self.options.unproven_limit_bytes {
            self.commit.want_proof(self.commit.newest());
            return false;
        }
        if !self.commit.reserve(needed.log_pages) {
            self.checkpoint.want();
            return false;
        }
        self.room.full_since = None;
        if needed.metadata_pages > 0 {
            self.room.refused = false;
            self.note_room(Shortage::Metadata);
        }
        self.room.reserved.metadata_pages += needed.metadata_pages;
        self.room.reserved.unproven_bytes += needed.unproven_bytes;
        true
    }

    /// The change has been applied: its log pages stay set aside until they are written.
    pub(super) fn settle(&mut self, needed: Room) {
        self.room.reserved.metadata_pages -= needed.metadata_pages;
        self.room.reserved.unproven_bytes -= needed.unproven_bytes;
        self.room.changed = true;
    }

    /// The change does not come.
    pub(super) fn withdraw(&mut self, needed: Room) {
        self.settle(needed);
        self.commit.unreserve(needed.log_pages);
    }

    fn metadata_is_short(&mut self, pages: u64) {
        self.want_growth(pages);
        if self.growth.has_failed() && self.room.is_starved {
            let now = self.metadata.forest.building;
            self.room.full_since.get_or_insert(now);
            if !self.metadata_is_full() {
                self.checkpoint.want();
            }
        }
    }

    /// Whether the metadata file cannot grow, and checkpoints have released all that was freed.
    pub(super) fn metadata_is_full(&self) -> bool {
        if !self.growth.has_failed() {
            return false;
        }
        let since = self.room.full_since.map(|generation| generation.0 + CHECKPOINTS_TO_RELEASE);
        since.is_some_and(|generation| self.metadata.forest.building.0 > generation)
    }

    /// Mappings were taken down: what they free may be enough.
    pub(super) fn metadata_was_freed(&mut self) {
        self.room.full_since = None;
    }

    /// Puts a task aside until something was given back, or fails it when nothing will be.
    pub(super) fn wait_for_room(&mut self, task: Task) {
        if let Err(error) = self.check_healthy() {
            return self.fail_task(task, &error);
        }
        // A deletion was answered: it goes on whenever there is room.
        if !self.room.is_starved || !self.metadata_is_full() || task.is_deletion() {
            return self.waiting_for_room.push_back(task);
        }
        self.room.refused = true;
        let task = match task {
            Task::Write(task) => return self.stall(task, Shortage::Metadata),
            Task::Clear(task) if task.is_write => return self.stall(task.into_write(), Shortage::Metadata),
            other => other,
        };
        // The next one asks the host again.
        self.growth.ask_again();
        let error = self.no_space_error(Shortage::Metadata);
        self.fail_task(task, &error);
    }

    /// Puts a task aside until `number` is proven.
    pub(super) fn wait_for_proof(&mut self, number: DeltaNumber, task: Task) {
        if let Err(error) = self.check_healthy() {
            return self.fail_task(task, &error);
        }
        self.commit.want_proof(number);
        self.waiting_for_proof.push_back((number, task));
    }

    /// Once a second the host is asked again for those who wait for room, and what failed in the background goes on.
    pub(super) fn retry_when_due(&mut self) {
        if self.waiting_for_room.is_empty() || self.now_ms < self.room.retried_ms + RETRY_MS {
            return;
        }
        self.room.retried_ms = self.now_ms;
        self.growth.ask_again();
        self.room.changed = true;
    }

    /// Wakes whoever what has become true lets go on.
    pub(super) fn wake(&mut self) {
        let proven = self.commit.proven;
        for _ in 0..self.waiting_for_proof.len() {
            if let Some((number, task)) = self.waiting_for_proof.pop_front() {
                if number <= proven {
                    self.ready.push_back(task);
                } else {
                    self.waiting_for_proof.push_back((number, task));
                }
            }
        }
        let room_changed = std::mem::take(&mut self.room.changed);
        if room_changed {
            self.ready.append(&mut self.waiting_for_room);
        }
        self.wake_stalled(room_changed);
    }
}
