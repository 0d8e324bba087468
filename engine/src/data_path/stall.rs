//! Writes that find no room: who waits, in which order, and for how long.
//!
//! Owns the line of waiting writes and the policy. Only writes that need a new block, or pages of metadata for one, wait;
//! they hold nothing meanwhile, so that reads, overwrites, discards, snapshots and deletions go on, on the same blocks
//! too. Who came first is served first. That nothing comes any more is judged here; what makes room is `extend.rs`,
//! `unmap.rs`, `collapse_walks.rs`, `reclaim.rs` and whoever makes room on the host.

use super::job::Job;
use super::write::WriteTask;
use super::{Core, Key, Task};
use crate::error::{Error, ErrorKind};
use crate::request::{NoSpacePolicy, RequestId};
use crate::settings::NoSpace;
use crate::units::{SectorMask, VolumeId};
use rustc_hash::FxHashSet;
use std::collections::BTreeMap;

/// How often the host is asked again whether it has room, in milliseconds.
const RETRY_MS: u64 = 1000;
/// Waiters that are woken beyond the blocks that are ready: some need none any more.
const WOKEN_BEYOND: usize = 64;

/// What a write waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Shortage {
    /// A data block of the pool.
    Blocks,
    /// Room on the host for what the pool has: a write was refused for want of it.
    Host,
    /// Pages of the metadata file.
    Metadata,
}

/// A place in the line. A write keeps it until it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    number: u64,
    since_ms: u64,
}

struct Waiter {
    task: WriteTask,
    shortage: Shortage,
    since_ms: u64,
}

/// Writes that wait for room.
#[derive(Default)]
pub struct StallState {
    waiters: BTreeMap<u64, Waiter>,
    next_number: u64,
    /// Since when nothing has come, by shortage; until a write got what it needed.
    stuck_since_ms: [Option<u64>; 3],
    retried_ms: u64,
    /// Room on the host may have come: who waits for it tries again.
    host_changed: bool,
    /// More waiters can be woken than were.
    pub more: bool,
    /// An overwrite of data that was there needed room on the host.
    pub overwrites_need_room: bool,
}

/// What there is to say of waiting writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StallStatus {
    /// Writes that wait: requests, and the pool's own to its log and metadata.
    pub writes: u64,
    /// How long the oldest has waited, in milliseconds.
    pub oldest_ms: u64,
    /// What holds them up, if it is known that nothing comes by itself.
    pub shortage: Option<Shortage>,
    /// An overwrite of data that was there needed room on the host: its file system does not write in place.
    pub overwrites_need_room: bool,
}

impl StallState {
    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.waiters.is_empty()
    }

    /// Whether somebody waits for a data block.
    pub fn wants_block(&self) -> bool {
        self.waiters.values().any(|waiter| waiter.shortage == Shortage::Blocks)
    }

    /// The host may have room again.
    pub fn ask_host_again(&mut self) {
        self.host_changed = true;
    }

    /// Everybody who waits, in order, for a pool that failed.
    pub fn drain(&mut self) -> impl Iterator<Item = Task> {
        std::mem::take(&mut self.waiters).into_values().map(|waiter| Task::Write(waiter.task))
    }

    fn take(&mut self, numbers: &[u64]) -> Vec<Waiter> {
        numbers.iter().filter_map(|number| self.waiters.remove(number)).collect()
    }

    fn numbers(&self, fits: impl Fn(&Waiter) -> bool) -> Vec<u64> {
        self.waiters.iter().filter(|(_, waiter)| fits(waiter)).map(|(number, _)| *number).collect()
    }
}

impl Core {
    /// Puts a write into the line. It gives up its locks: whoever discards or overwrites there may go on.
    pub(super) fn stall(&mut self, mut task: WriteTask, shortage: Shortage) {
        let locked = std::mem::replace(&mut task.locked, SectorMask::EMPTY);
        self.unlock(task.place(), locked);
        (task.merged, task.copied) = (None, None);
        let place = task.line.unwrap_or_else(|| {
            self.stall.next_number += 1;
            Place { number: self.stall.next_number, since_ms: self.now_ms }
        });
        task.line = Some(place);
        self.stall.waiters.insert(place.number, Waiter { task, shortage, since_ms: place.since_ms });
    }

    /// Puts a write aside until a data block can be given out.
    pub(super) fn wait_for_block(&mut self, task: WriteTask) {
        if let Err(error) = self.check_healthy() {
            return self.fail_task(Task::Write(task), &error);
        }
        self.slab.ask_again();
        if let Some(number) = self.space.newest_freed() {
            self.commit.want_proof(number);
        }
        self.stall(task, Shortage::Blocks);
    }

    /// The host had no room for data that was being written: the write is decided anew when it has.
    pub(super) fn wait_for_host(&mut self, mut job: Box<Job>) {
        if job.is_overwrite() {
            self.stall.overwrites_need_room = true;
        }
        let task = self.take_back(&mut job);
        self.stall(task, Shortage::Host);
    }

    /// Whether somebody who came earlier can have the next block.
    pub(super) fn is_behind_others(&self, task: &WriteTask) -> bool {
        let number = task.line.map_or(u64::MAX, |place| place.number);
        let first = self.stall.waiters.iter().find(|(_, waiter)| waiter.shortage == Shortage::Blocks);
        first.is_some_and(|(other, waiter)| *other < number && self.block_is_available(waiter.task.volume))
    }

    /// Whether a new block may be given to `volume` now.
    pub(super) fn block_is_available(&self, volume: VolumeId) -> bool {
        self.space.ready() > 0 && self.may_take(volume)
    }

    /// A write got what it needed.
    pub(super) fn note_room(&mut self, shortage: Shortage) {
        self.stall.stuck_since_ms[shortage as usize] = None;
    }

    /// Wakes, in order, whom what has become true lets go on.
    pub(super) fn wake_stalled(&mut self, room_changed: bool) {
        self.stall.more = false;
        if self.stall.is_empty() {
            return;
        }
        let host_changed = std::mem::take(&mut self.stall.host_changed);
        let can_go = |waiter: &Waiter| match waiter.shortage {
            Shortage::Blocks => self.block_is_available(waiter.task.volume),
            Shortage::Host => host_changed,
            Shortage::Metadata => room_changed,
        };
        let mut numbers = self.stall.numbers(can_go);
        let woken_at_most = self.space.ready() as usize + WOKEN_BEYOND;
        self.stall.more = numbers.len() > woken_at_most;
        numbers.truncate(woken_at_most);
        for waiter in self.stall.take(&numbers).into_iter().rev() {
            // In front of whoever came later.
            self.ready.push_front(Task::Write(waiter.task));
        }
    }

    /// Judges whether anything comes to those who wait, and fails those who shall not wait longer.
    pub(super) fn judge_stalled(&mut self) {
        if self.stall.is_empty() {
            return;
        }
        if self.closing {
            // What is only late still comes; what is known not to come is not waited for.
            let lacks_blocks = self.no_block_comes();
            let error = Error::new(ErrorKind::NoSpace, "the pool is being closed, and has no room for this");
            let is_late = |waiter: &Waiter| waiter.shortage == Shortage::Blocks && !lacks_blocks;
            return self.fail_stalled(|waiter| !is_late(waiter), &error);
        }
        for shortage in [Shortage::Blocks, Shortage::Host, Shortage::Metadata] {
            let is_waited_for = self.stall.waiters.values().any(|waiter| waiter.shortage == shortage);
            if is_waited_for && self.is_stuck(shortage) {
                self.apply_policy(shortage);
            }
        }
        if !self.stall.is_empty() && self.now_ms >= self.stall.retried_ms + RETRY_MS {
            self.stall.retried_ms = self.now_ms;
            self.slab.ask_again();
            self.stall.host_changed = true;
            self.growth.ask_again();
            self.room.changed = true;
        }
    }

    fn is_stuck(&mut self, shortage: Shortage) -> bool {
        match shortage {
            Shortage::Blocks => {
                // The extension comes first: a walk through all volumes is work for everybody.
                self.no_block_comes() && !self.grows_by_itself() && !self.collapse_for_blocks()
            }
            Shortage::Host => true,
            Shortage::Metadata => self.metadata_is_full(),
        }
    }

    /// Whether no block is ready, and none is on its way.
    pub(super) fn no_block_comes(&self) -> bool {
        let holes = self.space.counts().holes > 0 && !self.slab.was_refused();
        let comes = holes || self.space.is_expecting() || self.slab.is_running() || self.is_extending;
        let mut waiting = self.stall.waiters.values().filter(|waiter| waiter.shortage == Shortage::Blocks);
        // What is ready may be reserved for others.
        let is_all_taken = self.space.ready() == 0
            || !self.stall.is_empty() && !waiting.any(|waiter| self.block_is_available(waiter.task.volume));
        !comes && !self.collapse.may_help() && is_all_taken
    }

    fn apply_policy(&mut self, shortage: Shortage) {
        let now_ms = self.now_ms;
        let since_ms = *self.stall.stuck_since_ms[shortage as usize].get_or_insert(now_ms);
        let timeout_ms = u64::from(self.settings.no_space_timeout_s) * 1000;
        let is_over = timeout_ms > 0 && now_ms >= since_ms + timeout_ms;
        let volumes: FxHashSet<VolumeId> =
            self.stall.waiters.values().map(|waiter| waiter.task.volume).collect();
        let failing: FxHashSet<VolumeId> = volumes
            .into_iter()
            .filter(|volume| is_over || self.no_space_policy(*volume) == NoSpace::Error)
            .collect();
        if !failing.is_empty() {
            // The next one asks the host again.
            self.growth.ask_again();
            let error = self.no_space_error(shortage);
            let fails =
                |waiter: &Waiter| waiter.shortage == shortage && failing.contains(&waiter.task.volume);
            self.fail_stalled(fails, &error);
        }
    }

    /// What happens to writes of `volume` that find no room.
    fn no_space_policy(&self, volume: VolumeId) -> NoSpace {
        if !self.options.can_wait {
            return NoSpace::Error;
        }
        let record = self.metadata.volumes.get(volume);
        // Whoever makes a picture is told at once: it does not wait before those who write.
        if record.is_some_and(|record| record.is_writable() && self.shown_by(record).is_some()) {
            return NoSpace::Error;
        }
        match record.map(|record| record.properties.no_space()) {
            Some(NoSpacePolicy::Stall) => NoSpace::Stall,
            Some(NoSpacePolicy::Error) => NoSpace::Error,
            Some(NoSpacePolicy::AsPool) | None => self.settings.no_space,
        }
    }

    pub(super) fn no_space_error(&self, shortage: Shortage) -> Error {
        let message = match shortage {
            Shortage::Blocks if self.space.counts().holes == 0 => {
                "the pool is full; delete snapshots or volumes, discard what is not needed, or extend the pool"
            }
            Shortage::Blocks => "the file system that holds the data file has no room; free some there",
            Shortage::Host => {
                "the file system that holds the data file has no room to write what is there; free some"
            }
            Shortage::Metadata => {
                "the metadata file is full and cannot grow; delete snapshots or volumes, or give its file system room"
            }
        };
        Error::new(ErrorKind::NoSpace, message)
    }

    fn fail_stalled(&mut self, fails: impl Fn(&Waiter) -> bool, error: &Error) {
        let numbers = self.stall.numbers(fails);
        for waiter in self.stall.take(&numbers) {
            self.fail_task(Task::Write(waiter.task), error);
        }
    }

    /// No block can be had, and waiting does not change that.
    pub(super) fn fail_waiting_for_blocks(&mut self, error: &Error) {
        self.fail_stalled(|waiter| waiter.shortage == Shortage::Blocks, error);
    }

    /// Whether somebody waits for room that does not come by itself.
    pub fn somebody_is_stuck(&self) -> bool {
        !self.stall.is_empty() && self.shortage().is_some()
    }

    /// Lets nobody wait any more for whom `is_gone` says that nobody asks: a client that left.
    pub fn cancel_waiting(&mut self, is_gone: impl Fn(RequestId) -> bool) {
        let of = |key: Key| self.requests.get(&key).map(|request| request.id);
        // What is only late comes soon: a client that sends no more may want its answers.
        let is_stuck = |waiter: &&Waiter| self.stall.stuck_since_ms[waiter.shortage as usize].is_some();
        let keys = self.stall.waiters.values().filter(is_stuck).map(|waiter| waiter.task.key);
        let gone: FxHashSet<Key> = keys.filter(|key| of(*key).is_some_and(&is_gone)).collect();
        if !gone.is_empty() {
            let error = Error::new(ErrorKind::NoSpace, "whoever asked left before there was room");
            self.fail_stalled(|waiter| gone.contains(&waiter.task.key), &error);
        }
    }

    /// What is missing, if it is known that it does not come by itself.
    pub(super) fn shortage(&self) -> Option<Shortage> {
        if self.refused.count() > 0 {
            return Some(Shortage::Host);
        }
        [Shortage::Host, Shortage::Blocks, Shortage::Metadata].into_iter().find(|shortage| {
            let is_stuck = self.stall.stuck_since_ms[*shortage as usize].is_some();
            // While somebody waits, asking the host again is no news; a block that was given out is.
            let is_missing = *shortage != Shortage::Blocks || self.stall.wants_block();
            is_stuck && (is_missing || self.no_block_comes())
        })
    }

    /// What there is to say of waiting writes.
    pub(super) fn stall_status(&self) -> StallStatus {
        let keys: FxHashSet<Key> = self.stall.waiters.values().map(|waiter| waiter.task.key).collect();
        let since_ms = self.stall.waiters.values().map(|waiter| waiter.since_ms);
        let oldest = since_ms.chain(self.refused.since_ms()).min();
        StallStatus {
            writes: keys.len() as u64 + self.refused.count(),
            oldest_ms: oldest.map_or(0, |since_ms| self.now_ms - since_ms),
            shortage: self.shortage(),
            overwrites_need_room: self.stall.overwrites_need_room,
        }
    }
}
