//! Writes checkpoints, beside everything else: R durable, pages, sync, root slot, sync (L6).
//!
//! Owns the running checkpoint and who waits for one. What is in it is frozen by `metadata/checkpoint.rs`.

use super::commit::Mark;
use super::operations::Pending;
use super::{Core, DeltaNumber, Key, Side, Then};
use crate::canary::{self, Canary};
use crate::format::ROOT_SLOT_PAGES;
use crate::metadata::{Frozen, SlotFacts};
use crate::options::Owner;
use crate::storage::{DiskError, Operation};
use crate::units::{Generation, Sequence};

/// Mappings that recovery may have to take down again; some 30 to 60 ns each.
const REDO_MAPPINGS_MAX: u64 = 2 << 20;

/// The running checkpoint.
struct Running {
    frozen: Frozen,
    /// Everything up to this record and delta is in it.
    mark: Mark,
    stage: Stage,
    waiters: Vec<Then>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    AwaitDurable,
    Pages(usize),
    Sync,
    Slot,
    SlotSync,
}

/// Checkpoints of a pool.
#[derive(Default)]
pub struct CheckpointState {
    running: Option<Running>,
    wanted: bool,
    waiters: Vec<Then>,
    /// What the newest durable slot holds, and where the log goes on behind it.
    last: (DeltaNumber, u64),
    /// The generation of the newest durable slot: all pages of it and of older ones can be read again.
    durable: Generation,
    close: Close,
    /// Mappings that unmaps have taken down since the last checkpoint, for recovery to take down again.
    unmapped: u64,
}

/// How far closing has come: both root slots get the last state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Close {
    #[default]
    No,
    First(Key),
    Clean(Key),
}

impl CheckpointState {
    /// A state whose two slots both hold everything up to `position` in the log, the newer one as `durable`.
    pub fn new(position: u64, durable: Generation) -> Self {
        Self { last: (DeltaNumber(0), position), durable, ..Self::default() }
    }

    /// An unmap has taken down so many mappings; few bytes of log may be much work to redo.
    pub fn note_unmapped(&mut self, mappings: u64) {
        self.unmapped += mappings;
    }

    /// Wants a checkpoint soon.
    pub fn want(&mut self) {
        self.wanted = true;
    }

    /// The record that has to be durable before the checkpoint goes on.
    pub fn awaits(&self) -> Option<Sequence> {
        self.running
            .as_ref()
            .filter(|running| running.stage == Stage::AwaitDurable)
            .map(|running| running.mark.sequence)
    }

    /// Wants a checkpoint of the state as it is now, and something to happen when its slot is durable.
    pub fn then(&mut self, then: Then) {
        self.waiters.push(then);
        self.wanted = true;
    }

    /// Everybody who waits for a checkpoint, for a pool that failed.
    pub fn drain(&mut self) -> Vec<Then> {
        let mut waiters = std::mem::take(&mut self.waiters);
        waiters.extend(self.running.take().into_iter().flat_map(|running| running.waiters));
        if let Close::First(key) | Close::Clean(key) = std::mem::take(&mut self.close) {
            waiters.push(Then::Part(key));
        }
        self.wanted = false;
        waiters
    }
}

impl Core {
    pub(super) fn start_checkpoint_request(&mut self, key: Key) {
        if let Some(request) = self.requests.get_mut(&key) {
            request.parts += 1;
        }
        self.checkpoint.then(Then::Part(key));
    }

    pub(super) fn start_close(&mut self, key: Key) {
        self.start_all_limited();
        self.closing = true;
        self.set_durable(key, true);
        if let Some(request) = self.requests.get_mut(&key) {
            request.parts += 1;
        }
        self.checkpoint.close = Close::First(key);
    }

    /// Starts a checkpoint if one is due, and moves the running one on.
    pub(super) fn run_checkpoint(&mut self) {
        if self.failure.is_some() {
            return;
        }
        if self.checkpoint.running.is_none() && self.checkpoint_is_due() {
            self.start_checkpoint();
        }
        let durable = self.commit.durable.sequence;
        let ahead = canary::broken(Canary::CheckpointAheadOfData);
        if self.checkpoint.awaits().is_some_and(|sequence| durable >= sequence || ahead) {
            self.write_checkpoint_pages();
        }
    }

    fn checkpoint_is_due(&self) -> bool {
        let log_half_full = self.commit.ring.used_pages() >= self.commit.ring.pages() / 2;
        let many_pages = self.metadata.forest.dirty_pages() >= self.options.checkpoint_pages;
        let much_to_redo = self.checkpoint.unmapped >= REDO_MAPPINGS_MAX / 2;
        let closing = self.checkpoint.close != Close::No && self.closes_now();
        self.checkpoint.wanted
            || log_half_full
            || many_pages
            || much_to_redo
            || closing
            || self.commit.proof_starves()
    }

    /// Nobody waits for anything but the end: the log gets nothing more.
    pub(super) fn only_closing(&self) -> bool {
        self.closing && self.requests.len() <= 1
    }

    /// Whether the closing was answered: from now on the files are somebody else's.
    pub(super) fn is_closed(&self) -> bool {
        self.closing && self.requests.is_empty()
    }

    /// Closing waits until nothing else is being carried out.
    fn closes_now(&self) -> bool {
        let quiet = self.jobs.is_empty() && self.gathers.is_empty() && self.page_loads.is_empty();
        self.only_closing() && quiet && self.punch.is_closing() && self.reclaim_is_quiet()
    }

    fn start_checkpoint(&mut self) {
        self.compose_all();
        let position = self.commit.ring.head;
        let clean = matches!(self.checkpoint.close, Close::Clean(_)) && self.closes_now();
        let facts = SlotFacts {
            incarnation: self.commit.incarnation(),
            sequence: self.commit.composed.sequence,
            log_position: position,
            clean,
            owner: if clean { Owner::default() } else { self.options.owner.clone() },
        };
        match self.metadata.freeze(facts) {
            Ok(frozen) => {
                let mark = self.commit.composed;
                let waiters = std::mem::take(&mut self.checkpoint.waiters);
                self.checkpoint.wanted = false;
                self.checkpoint.unmapped = 0;
                self.checkpoint.running = Some(Running { frozen, mark, stage: Stage::AwaitDurable, waiters });
            }
            Err(error) => self.fail(error),
        }
    }

    fn write_checkpoint_pages(&mut self) {
        let Some(running) = &mut self.checkpoint.running else { return };
        let pages = std::mem::take(&mut running.frozen.pages);
        running.stage = Stage::Pages(pages.len());
        let none = pages.is_empty();
        for (page, bytes) in pages {
            let write = Operation::Write { offset_bytes: page.offset_bytes(), bytes };
            self.submit_operation(Side::Metadata, write, Pending::CheckpointPage);
        }
        if none {
            self.sync_checkpoint_pages();
        }
    }

    pub(super) fn checkpoint_page_done(&mut self, result: Result<(), DiskError>) {
        if let Err(cause) = result {
            return self.fail(cause.into_error("write of the metadata file"));
        }
        let Some(running) = &mut self.checkpoint.running else { return };
        if let Stage::Pages(left) = &mut running.stage {
            *left -= 1;
            if *left == 0 {
                self.sync_checkpoint_pages();
            }
        }
    }

    fn sync_checkpoint_pages(&mut self) {
        if canary::broken(Canary::SlotAheadOfPages) {
            return self.write_slot();
        }
        self.set_stage(Stage::Sync);
        self.submit_operation(Side::Metadata, Operation::Sync, Pending::CheckpointSync);
    }

    fn set_stage(&mut self, stage: Stage) {
        if let Some(running) = &mut self.checkpoint.running {
            running.stage = stage;
        }
    }

    pub(super) fn checkpoint_pages_synced(&mut self, result: Result<(), DiskError>) {
        match result {
            Ok(()) => self.write_slot(),
            Err(cause) => self.fail(cause.into_error("sync of the metadata file")),
        }
    }

    fn write_slot(&mut self) {
        let Some(running) = &self.checkpoint.running else { return };
        let slot = &running.frozen.slot;
        let page = ROOT_SLOT_PAGES[(slot.generation.0 % 2) as usize];
        match slot.encode(&self.metadata.superblock.pool) {
            Ok(buffer) => {
                self.set_stage(Stage::Slot);
                let write = Operation::Write { offset_bytes: page.offset_bytes(), bytes: buffer.freeze() };
                self.submit_operation(Side::Metadata, write, Pending::Slot);
            }
            Err(error) => self.fail(error),
        }
    }

    pub(super) fn slot_written(&mut self, result: Result<(), DiskError>) {
        match result {
            Ok(()) => {
                self.set_stage(Stage::SlotSync);
                self.submit_operation(Side::Metadata, Operation::Sync, Pending::SlotSync);
            }
            Err(cause) => self.fail(cause.into_error("write of the root slot")),
        }
    }

    /// The slot is durable: what only the slot that it replaced needed is free.
    pub(super) fn slot_synced(&mut self, result: Result<(), DiskError>) {
        if let Err(cause) = result {
            return self.fail(cause.into_error("sync of the root slot"));
        }
        let Some(running) = self.checkpoint.running.take() else { return };
        let slot = &running.frozen.slot;
        let (older_number, older_position) = self.checkpoint.last;
        self.checkpoint.last = (running.mark.number, slot.log_position);
        self.metadata.forest.pages.release(slot.generation);
        self.checkpoint.durable = slot.generation;
        self.commit.in_both_slots(older_number);
        self.commit.ring.tail =
            if canary::broken(Canary::LogReleasedEarly) { slot.log_position } else { older_position };
        self.room.changed = true;
        let (clean, is_last) = (slot.clean, running.mark == self.commit.composed);
        running.waiters.into_iter().for_each(|then| self.happen(then));
        self.close_goes_on(clean, is_last);
    }

    /// Drops pages from memory where they are too many. A task that waits for a page has used the others it needs when it
    /// began to wait; they stay, or it would never have all of them at once.
    pub(super) fn bound_cache(&mut self) {
        let forest = &mut self.metadata.forest;
        let unwritten = canary::broken(Canary::EvictUnwritten);
        let newest = if unwritten { forest.building } else { self.checkpoint.durable };
        let waiting = self.page_loads.values().map(|load| load.since).min();
        let protected = waiting.unwrap_or(forest.cache.clock());
        forest.bound_cache(self.options.cache_bytes, newest, protected);
        forest.cache.tick();
    }

    fn close_goes_on(&mut self, clean: bool, is_last: bool) {
        match self.checkpoint.close {
            Close::First(key) if is_last && self.closes_now() => {
                self.checkpoint.close = Close::Clean(key);
                self.checkpoint.wanted = true;
            }
            Close::Clean(key) if clean => {
                self.checkpoint.close = Close::No;
                self.part_done(key, Ok(()));
            }
            _ => {}
        }
    }
}
