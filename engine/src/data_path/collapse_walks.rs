//! Which volumes are walked for blocks whose layers can be joined, and how fast.
//!
//! Owns the queue of walks; one goes on at a time. They are begun when a snapshot is gone, when free blocks are short, and
//! on request. What a walk does is `collapse.rs`. In the background it has a budget of bytes a second, so that it does not
//! stand in anybody's way; who waits for a walk has none.

use super::collapse::{Cause, CollapseTask};
use super::{Core, Task};
use crate::format::{VolumeKind, VolumeRecord, VolumeState};
use crate::units::{Generation, SECTOR_BYTES, SectorMask, VolumeId};
use std::collections::VecDeque;

/// Steps that one turn takes at most: some hundred microseconds.
const STEPS_A_TURN: u32 = 4;
/// A part of the budget that may be spent at once, in milliseconds.
const BURST_MS: u64 = 100;
/// How long a shortage that no walk could help is believed to last, unless something is deleted.
const EXHAUSTED_MS: u64 = 10_000;

/// Walks to come, and the one that goes on.
#[derive(Default)]
pub struct CollapseWalks {
    waiting: VecDeque<CollapseTask>,
    /// One is on its way: it waits for a page, a lock, a proof, or for its data.
    under_way: Option<Cause>,
    steps_left: u32,
    /// Bytes copied that the budget does not cover yet, and since when.
    spent_bytes: u64,
    spent_ms: u64,
    /// Blocks freed since the opening.
    freed: u64,
    /// Before this time no shortage begins walks again.
    exhausted_until_ms: u64,
}

/// What joining layers has come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CollapseStatus {
    /// Volumes that are still to be walked.
    pub walks: u64,
    /// Data blocks that were freed since the pool was opened.
    pub freed_blocks: u64,
}

impl CollapseWalks {
    /// What has come of it so far.
    pub fn status(&self) -> CollapseStatus {
        let walks = self.waiting.len() as u64 + u64::from(self.under_way.is_some());
        CollapseStatus { walks, freed_blocks: self.freed }
    }

    /// Whether a walk waits for the next turn.
    pub fn wants_turn(&self) -> bool {
        !self.waiting.is_empty() && self.under_way.is_none()
    }

    /// Whether a walk that somebody waits for needs nothing but another turn.
    pub fn wants_turn_now(&self) -> bool {
        self.wants_turn() && self.waiting.iter().any(|task| task.cause != Cause::Background)
    }

    /// Whether free blocks may come of a walk that was begun for them.
    pub fn may_help(&self) -> bool {
        let waits = self.waiting.iter().any(|task| task.cause == Cause::Shortage);
        waits || self.under_way == Some(Cause::Shortage)
    }

    /// A new turn begins.
    pub fn new_turn(&mut self) {
        self.steps_left = STEPS_A_TURN;
    }

    /// Everything that waits, for a pool that failed.
    pub fn drain(&mut self) -> VecDeque<CollapseTask> {
        std::mem::take(&mut self.waiting)
    }

    fn has_budget(&mut self, now_ms: u64, bytes_per_s: u64) -> bool {
        let earned = now_ms.saturating_sub(self.spent_ms).saturating_mul(bytes_per_s) / 1000;
        if earned > 0 {
            self.spent_bytes = self.spent_bytes.saturating_sub(earned);
            self.spent_ms = now_ms;
        }
        bytes_per_s > 0 && self.spent_bytes <= bytes_per_s.saturating_mul(BURST_MS) / 1000
    }

    /// The next walk that may take a step: those that somebody waits for come first.
    fn next(&mut self, now_ms: u64, bytes_per_s: u64) -> Option<CollapseTask> {
        if let Some(urgent) = self.waiting.iter().position(|task| task.cause != Cause::Background) {
            return self.waiting.remove(urgent);
        }
        if !self.waiting.is_empty() && self.has_budget(now_ms, bytes_per_s) {
            return self.waiting.pop_front();
        }
        None
    }
}

impl Core {
    /// Walks a volume on request.
    pub(super) fn start_collapse_request(&mut self, key: super::Key, volume: VolumeId) {
        if let Some(request) = self.requests.get_mut(&key) {
            request.parts += 1;
        }
        let task = CollapseTask::new(Cause::Request(key), volume, Generation(0));
        self.collapse.waiting.push_back(task);
    }

    /// A deleted snapshot is taken down: what it shared may be its sharers' own. They have changed since it was made, or
    /// they have no second layer above what was shared.
    pub(super) fn collapse_after(&mut self, gone: &VolumeRecord) {
        self.collapse.exhausted_until_ms = 0;
        if gone.kind != VolumeKind::Snapshot || self.options.collapse_bytes_per_s == 0 {
            return;
        }
        // A picture is younger than what it shows, and shares with clones of that, too.
        let shown = self.shown_by(gone);
        let since = if shown.is_some() { Generation(0) } else { gone.generation_of_birth };
        let is_sharer = |record: &&VolumeRecord| {
            let origin = record.origin;
            Some(record.id) == gone.origin || origin == Some(gone.id) || shown.is_some() && origin == shown
        };
        let sharers: Vec<VolumeId> = self.writable_volumes().filter(is_sharer).map(|r| r.id).collect();
        for volume in sharers {
            let task = CollapseTask::new(Cause::Background, volume, since);
            let is_same =
                |other: &&mut CollapseTask| other.cause == Cause::Background && other.volume == volume;
            // One walk of a volume looks for all that is gone.
            match self.collapse.waiting.iter_mut().find(is_same) {
                Some(waiting) => waiting.begin_again(task.since()),
                None => self.collapse.waiting.push_back(task),
            }
        }
    }

    /// Nothing is free and nothing is on its way: whether walking all volumes may free something.
    pub(super) fn collapse_for_blocks(&mut self) -> bool {
        if self.collapse.may_help() {
            return true;
        }
        if self.now_ms < self.collapse.exhausted_until_ms || self.closing {
            return false;
        }
        self.collapse.exhausted_until_ms = self.now_ms + EXHAUSTED_MS;
        let volumes: Vec<VolumeId> = self.writable_volumes().map(|record| record.id).collect();
        let walks =
            volumes.into_iter().map(|volume| CollapseTask::new(Cause::Shortage, volume, Generation(0)));
        self.collapse.waiting.extend(walks);
        self.collapse.may_help()
    }

    fn writable_volumes(&self) -> impl Iterator<Item = &VolumeRecord> {
        let records = self.metadata.volumes.iter();
        records
            .filter(|record| record.kind == VolumeKind::Volume && record.state == VolumeState::Active)
            .filter(|record| !self.unborn.contains(&record.id))
    }

    /// Takes some steps.
    pub(super) fn run_collapse(&mut self) {
        if self.failure.is_some() {
            return;
        }
        if self.closing {
            let before = self.collapse.waiting.len();
            self.collapse.waiting.retain(|task| matches!(task.cause, Cause::Request(_)));
            // Who waits for a block that a walk might have freed waits in vain.
            self.room.changed |= self.collapse.waiting.len() < before;
        }
        while self.collapse.under_way.is_none() && self.collapse.steps_left > 0 {
            let Some(task) = self.collapse.next(self.now_ms, self.options.collapse_bytes_per_s) else {
                break;
            };
            self.collapse.steps_left -= 1;
            self.collapse.under_way = Some(task.cause);
            self.collapse(task);
        }
    }

    /// The walk goes on when its turn comes.
    pub(super) fn collapse_rests(&mut self, mut task: CollapseTask) {
        self.collapse.under_way = None;
        self.collapse.freed += task.freed - task.counted;
        task.counted = task.freed;
        self.collapse.waiting.push_front(task);
    }

    /// A walk is over.
    pub(super) fn walk_ends(&mut self, task: &CollapseTask) {
        self.collapse.under_way = None;
        self.collapse.freed += task.freed - task.counted;
        if task.freed > 0 {
            self.collapse.exhausted_until_ms = 0;
        }
        // Who waits for a block learns whether there is one.
        self.room.changed = true;
    }

    /// Sectors are about to be copied.
    pub(super) fn collapse_costs(&mut self, sectors: SectorMask) {
        self.collapse.spent_bytes += u64::from(sectors.count()) * SECTOR_BYTES;
    }

    /// Gives up the walks that wait.
    pub(super) fn fail_walks(&mut self, tasks: &mut VecDeque<Task>) {
        tasks.extend(self.collapse.drain().into_iter().map(Task::Collapse));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_background_has_a_budget_and_who_waits_has_none() {
        let mut walks = CollapseWalks::default();
        let task = |cause| CollapseTask::new(cause, VolumeId(1), Generation(0));
        walks.waiting.extend([task(Cause::Background), task(Cause::Shortage)]);
        walks.spent_bytes = 1000;
        assert!(walks.next(0, 1000).is_some_and(|task| task.cause == Cause::Shortage));
        assert!(walks.next(800, 1000).is_none(), "200 bytes are not earned yet, and 100 may be owed");
        assert!(walks.next(900, 1000).is_some());
    }
}
