//! In the background: blocks made ready in slabs, and the metadata file's growth.
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
/// A slab has so many times as many blocks as the one before, as long as they are used up.
const SLAB_GROWTH: u64 = 4;

/// The slab that is being made ready.
#[derive(Default)]
pub struct SlabState {
    running: bool,
    /// How many blocks the next one has; 0 for a small one.
    blocks: u64,
    /// The host may have room for so many, once it had none for more.
    at_most_blocks: Option<u64>,
    /// The host refused a single block, until something changes.
    refused: bool,
}

impl SlabState {
    /// Whether a slab is on its way.
    pub fn is_running(&self) -> bool {
        self.running
    }

    /// Nobody has needed a block for a while: the next slab is a small one.
    pub fn start_small(&mut self) {
        self.blocks = 0;
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
        if self.failure.is_some() || self.is_closed() {
            return;
        }
        self.run_punches();
        if self.only_closing() {
            return;
        }
        let ahead = self.next_slab_blocks() / 4;
        // What is being written ahead comes back.
        let at_hand = self.space.ready() + self.space.counts().write_ahead;
        let short = at_hand <= ahead || self.stall.wants_block() || self.reservations_lack_slabs();
        if short && !self.slab.running && !self.slab.refused {
            self.start_slab();
        }
        self.run_write_ahead();
        if self.growth.wanted && self.growth.to_pages.is_none() {
            self.start_growth();
        }
    }

    /// Whether nothing of this is in flight.
    pub(super) fn reclaim_is_quiet(&self) -> bool {
        let slabs = !self.slab.running && self.write_ahead.is_quiet();
        slabs && self.punch.is_quiet() && !self.space.has_to_punch() && self.growth.to_pages.is_none()
    }

    /// How many blocks the next slab has: few after an idle time, more while they are used up.
    fn next_slab_blocks(&self) -> u64 {
        let is_small = self.slab.blocks == 0 || self.is_idle_for_blocks();
        let blocks = match is_small {
            _ if self.reservations_lack_slabs() => self.options.slab_blocks,
            true => self.options.spare_blocks,
            false => self.slab.blocks,
        };
        let blocks = blocks.min(self.slab.at_most_blocks.unwrap_or(blocks));
        blocks.clamp(1, self.options.slab_blocks.max(1))
    }

    fn start_slab(&mut self) {
        let Some((first, blocks)) = self.space.take_holes(self.next_slab_blocks()) else { return };
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
            self.punch.note_end(first.0 + blocks);
            self.slab.at_most_blocks = None;
            self.slab.blocks = (self.next_slab_blocks() * SLAB_GROWTH).min(self.options.slab_blocks);
            return self.commit.wait_for_sync(Then::Slab(first, blocks));
        };
        self.slab.running = false;
        self.space.return_holes(first, blocks);
        self.slab.at_most_blocks = Some((blocks / 2).max(1));
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
