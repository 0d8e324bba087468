//! In the background: blocks made ready in slabs, free blocks given back to the host, and the metadata file's growth.
//!
//! Owns the operations for these; what they change is `space.rs` and the forest's free pages. One of each runs at a
//! time. Room becomes usable only once its allocation has been synced.

use super::operations::Pending;
use super::{Core, Side, Then};
use crate::canary::{self, Canary};
use crate::storage::{DiskError, Operation};
use crate::units::{BLOCK_BYTES, DataBlock, Generation, PAGE_BYTES};

/// Fewer pages than these are not worth a step.
const GROWTH_PAGES_MIN: u64 = 16;

/// The slab that is being made ready.
#[derive(Default)]
pub struct SlabState {
    running: bool,
    /// How many blocks the next one has; halved when the host has no room for so many.
    blocks: u64,
    /// The host refused a single block, until something changes.
    refused: bool,
    punching: bool,
}

impl SlabState {
    /// Whether a slab is on its way.
    pub fn is_running(&self) -> bool {
        self.running
    }

    /// Whether the host had no room for a single block the last time it was asked.
    pub fn was_refused(&self) -> bool {
        self.refused
    }

    /// Somebody needs a block: the host is asked again, also if it had no room the last time.
    pub fn ask_again(&mut self) {
        self.refused = false;
    }
}

/// The growth of the metadata file that is under way.
#[derive(Default)]
pub struct GrowthState {
    to_pages: Option<u64>,
    wanted: bool,
    /// Pages that somebody waits for.
    missing_pages: u64,
    /// Pages that the host may have room for, once it had none for more.
    at_most_pages: Option<u64>,
    /// The host had no room the last time.
    refused: bool,
    /// The generation in which the host had no room. It is asked again in the next one.
    failed: Option<Generation>,
}

impl GrowthState {
    /// Forgets that the host had no room: the next want asks it again.
    pub fn ask_again(&mut self) {
        self.failed = None;
    }

    /// Whether the host had no room the last time it was asked.
    pub fn was_refused(&self) -> bool {
        self.refused
    }

    /// Whether the last try found no room, and asking again is of no use yet.
    pub fn has_failed(&self) -> bool {
        self.failed.is_some()
    }
}

impl Core {
    /// Starts what is due.
    pub(super) fn run_reclaim(&mut self) {
        if self.failure.is_some() || self.only_closing() {
            return;
        }
        let ahead = self.options.slab_blocks / 4;
        let short = self.space.ready() <= ahead || self.stall.wants_block() || self.reservations_lack_slabs();
        if short && !self.slab.running && !self.slab.refused {
            self.start_slab();
        }
        self.run_write_ahead();
        if !self.slab.punching {
            self.start_punch();
        }
        if self.growth.wanted && self.growth.to_pages.is_none() {
            self.start_growth();
        }
    }

    /// Whether nothing of this is in flight.
    pub(super) fn reclaim_is_quiet(&self) -> bool {
        let slabs = !self.slab.running && !self.slab.punching && self.write_ahead.is_quiet();
        slabs && self.growth.to_pages.is_none()
    }

    fn start_slab(&mut self) {
        let blocks = if self.slab.blocks == 0 { self.options.slab_blocks } else { self.slab.blocks };
        let Some((first, blocks)) = self.space.take_holes(blocks) else { return };
        self.slab.running = true;
        let allocate =
            Operation::Allocate { offset_bytes: first.offset_bytes(), length_bytes: blocks * BLOCK_BYTES };
        self.submit_operation(Side::Data, allocate, Pending::Slab(first, blocks));
    }

    pub(super) fn slab_allocated(&mut self, first: DataBlock, blocks: u64, result: Result<(), DiskError>) {
        self.commit.data_changed();
        if canary::broken(Canary::RoomUncertain) {
            return self.slab_synced(first, blocks);
        }
        let Err(cause) = result else {
            self.slab.blocks = 0;
            return self.commit.wait_for_sync(Then::Slab(first, blocks));
        };
        self.slab.running = false;
        self.space.return_holes(first, blocks);
        self.slab.blocks = (blocks / 2).max(1);
        if blocks == 1 {
            self.slab.refused = true;
            self.fail_block_waiters(cause);
            self.wake_reservations();
        }
    }

    /// A failure other than a full host is told to those who wait: waiting does not mend it.
    fn fail_block_waiters(&mut self, cause: DiskError) {
        if cause != DiskError::NoSpace {
            let error = cause.into_error("allocation in the data file");
            self.fail_waiting_for_blocks(&error);
        }
    }

    pub(super) fn slab_synced(&mut self, first: DataBlock, blocks: u64) {
        self.slab.running = false;
        self.stall.ask_host_again();
        self.space.slab_ready(first, blocks);
        self.wake_reservations();
    }

    fn start_punch(&mut self) {
        let Some((first, blocks)) = self.space.take_punch() else { return };
        self.slab.punching = true;
        let punch =
            Operation::Punch { offset_bytes: first.offset_bytes(), length_bytes: blocks * BLOCK_BYTES };
        self.submit_operation(Side::Data, punch, Pending::Punch(first, blocks));
    }

    pub(super) fn punch_done(&mut self, first: DataBlock, blocks: u64, result: Result<(), DiskError>) {
        self.commit.data_changed();
        self.slab.punching = false;
        self.slab.ask_again();
        self.stall.ask_host_again();
        self.space.punched(first, blocks, result.is_ok());
        self.wake_reservations();
    }

    /// Wants the metadata file to grow by a step, and by so many pages at least.
    pub(super) fn want_growth(&mut self, pages: u64) {
        self.growth.wanted = self.growth.failed != Some(self.metadata.forest.building);
        self.growth.missing_pages = self.growth.missing_pages.max(pages);
    }

    fn start_growth(&mut self) {
        self.growth.wanted = false;
        let now = self.metadata.forest.page_counts.len();
        let missing = std::mem::take(&mut self.growth.missing_pages);
        let step = self.options.metadata_step_pages.max(1).max(missing);
        let to = now + self.growth.at_most_pages.map_or(step, |most| most.min(step));
        self.growth.to_pages = Some(to);
        let page = PAGE_BYTES as u64;
        let allocate = Operation::Allocate { offset_bytes: now * page, length_bytes: (to - now) * page };
        self.submit_operation(Side::Metadata, allocate, Pending::Growth);
    }

    pub(super) fn growth_allocated(&mut self, result: Result<(), DiskError>) {
        match result {
            Ok(()) => {
                self.submit_operation(Side::Metadata, Operation::Sync, Pending::GrowthSync);
            }
            Err(_) => self.growth_refused(),
        }
    }

    pub(super) fn growth_synced(&mut self, result: Result<(), DiskError>) {
        match result {
            Ok(()) => self.growth_over(true),
            // What else this sync should have covered is not known any more.
            Err(cause) => self.fail(cause.into_error("sync of the metadata file")),
        }
    }

    /// The host has no room for so many pages. Half of them will do too, down to a few.
    fn growth_refused(&mut self) {
        let now = self.metadata.forest.page_counts.len();
        let asked = self.growth.to_pages.map_or(0, |to| to - now);
        if asked > GROWTH_PAGES_MIN {
            self.growth.to_pages = None;
            self.growth.wanted = true;
            self.growth.at_most_pages = Some((asked / 2).max(GROWTH_PAGES_MIN));
        } else {
            self.growth_over(false);
        }
    }

    fn growth_over(&mut self, done: bool) {
        let Some(to) = self.growth.to_pages.take() else { return };
        self.growth.at_most_pages = None;
        self.growth.refused = !done;
        self.growth.failed = (!done).then_some(self.metadata.forest.building);
        if done {
            self.metadata.forest.grow_pages(to);
            self.metadata_was_freed();
        }
        self.room.changed = true;
    }
}
