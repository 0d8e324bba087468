//! In the background: free blocks go back to the host, out of the foreground's way.
//!
//! Owns when something is punched, and how much at a time. One punch is in flight; those who ask for a trim come first, then
//! queued blocks, then discarded sectors. Nobody waits for any of it but a trim. What may be punched is `space.rs`'s
//! answer for blocks and `sector_punch.rs`'s for sectors.

use super::operations::Pending;
use super::sector_punch::SectorPunches;
use super::trim::{self, TrimTask};
use super::{Core, Side};
use crate::settings::DiscardPolicy;
use crate::storage::{DiskError, Operation};
use crate::units::{BLOCK_BYTES, DataBlock};
use std::collections::VecDeque;

/// The longest punch, in blocks: 64 MiB.
const BLOCKS_MAX: u64 = 1024;
/// The longest one while somebody uses the pool, at first and at least: 1 MiB. A file system lets nobody write to the file
/// meanwhile, and some let nobody read.
const BUSY_BLOCKS_MIN: u64 = 16;
/// A punch that takes longer is followed by a shorter one, in milliseconds.
const LONG_MS: u64 = 1;
/// While somebody uses the pool, punches rest so many times as long as they take.
const REST_FACTOR: u64 = 9;
/// Short punches without a rest between them, while somebody uses the pool.
const PUNCHES_A_REST: u64 = 16;
/// Somebody used the pool within this time: he uses it still, in milliseconds.
const BUSY_MS: u64 = 100;
/// With the policy `lazy` the pool must have given out no block for so many times as long.
const LAZY_FACTOR: u64 = 60;
/// Blocks that are queued in one turn.
const RETIRED_A_TURN: u64 = 16 * 1024;
/// A closing pool goes on giving space back for so long, in milliseconds.
const FAREWELL_MS: u64 = 2000;

/// What is being punched and how fast.
pub struct PunchState {
    /// Since when something is being punched.
    running_ms: Option<u64>,
    /// How many blocks a punch takes while somebody uses the pool.
    busy_blocks: u64,
    /// Blocks and punches since the last rest.
    since_rest: (u64, u64),
    /// No punch before this time, while somebody uses the pool.
    rests_until_ms: u64,
    /// When a block was given out for the last time.
    taken_ms: Option<u64>,
    /// When somebody asked for something for the last time.
    asked_ms: Option<u64>,
    closing_since_ms: Option<u64>,
    /// Where the data file ends, in blocks: behind it the host holds nothing.
    end_block: u64,
    /// The host cannot give space back. It is asked once.
    is_unsupported: bool,
    /// The last punch failed: nothing is retired before a block is given out again.
    has_failed: bool,
    /// Sectors that were discarded.
    pub(super) sectors: SectorPunches,
    /// Who waits for all that is free to be punched, in order.
    pub(super) trims: VecDeque<TrimTask>,
}

impl Default for PunchState {
    fn default() -> Self {
        Self {
            running_ms: None,
            busy_blocks: BUSY_BLOCKS_MIN,
            since_rest: (0, 0),
            rests_until_ms: 0,
            taken_ms: None,
            asked_ms: None,
            closing_since_ms: None,
            end_block: 0,
            is_unsupported: false,
            has_failed: false,
            sectors: SectorPunches::default(),
            trims: VecDeque::new(),
        }
    }
}

impl PunchState {
    /// Whether nothing is being punched.
    pub fn is_quiet(&self) -> bool {
        self.running_ms.is_none()
    }

    /// Whether it is known what a pool that is being closed gives back.
    pub fn is_closing(&self) -> bool {
        self.closing_since_ms.is_some()
    }

    /// Whether the host has said that it cannot give space back.
    pub fn is_unsupported(&self) -> bool {
        self.is_unsupported
    }

    /// The data file reaches so far at least.
    pub fn note_end(&mut self, end_block: u64) {
        self.end_block = self.end_block.max(end_block);
    }

    /// Where the data file ends, in blocks.
    pub fn end_block(&self) -> u64 {
        self.end_block
    }

    /// A block was given out.
    pub fn note_taken(&mut self, now_ms: u64) {
        self.taken_ms = Some(now_ms);
        self.has_failed = false;
    }

    /// Somebody asked for something.
    pub fn note_asked(&mut self, now_ms: u64) {
        self.asked_ms = Some(now_ms);
    }

    /// Something is being punched from now on.
    pub fn begin(&mut self, now_ms: u64) {
        self.running_ms = Some(now_ms);
    }

    /// It is over. The next one is as long as this one was quick, if that says anything; behind long ones and behind
    /// several short ones there is a rest.
    fn end(&mut self, now_ms: u64, blocks: u64, rest_ms: u64) {
        let took_ms = self.running_ms.take().map_or(0, |since| now_ms.saturating_sub(since));
        let is_full = blocks >= self.busy_blocks;
        self.since_rest = (self.since_rest.0 + blocks, self.since_rest.1 + 1);
        if took_ms > LONG_MS || self.since_rest.0 >= self.busy_blocks || self.since_rest.1 >= PUNCHES_A_REST {
            self.rests_until_ms = now_ms + rest_ms.max(took_ms * REST_FACTOR);
            self.since_rest = (0, 0);
        }
        if took_ms > LONG_MS {
            self.busy_blocks = (self.busy_blocks / 2).max(BUSY_BLOCKS_MIN);
        } else if is_full {
            self.busy_blocks = (self.busy_blocks * 2).min(BLOCKS_MAX);
        }
    }
}

impl Core {
    /// Starts a punch if one is due.
    pub(super) fn run_punches(&mut self) {
        self.keep_what_stays();
        if self.closing {
            self.fail_trims(&trim::closing());
        }
        if self.only_closing() {
            self.retire_at_the_end();
        } else {
            self.retire_when_idle();
        }
        if !self.punch.is_quiet() {
            return;
        }
        let is_busy = self.is_busy();
        if !is_busy {
            // How long one takes says nothing about how long it takes beside others.
            self.punch.busy_blocks = BUSY_BLOCKS_MIN;
        }
        let most = if is_busy { self.punch.busy_blocks } else { BLOCKS_MAX };
        if self.has_trim() && (!self.has_other_requests() || self.has_rested()) {
            return self.start_trim_punch(most);
        }
        if is_busy && !self.has_rested() {
            return;
        }
        if let Some((first, blocks)) = self.space.take_punch(most) {
            self.start_punch(first, blocks, false);
        } else if self.punches_sectors() {
            self.start_sector_punches();
        }
    }

    /// Whether time alone will have something punched.
    pub(super) fn punches_want_time(&self) -> bool {
        let retires = self.retires() && self.space.keeps_more_than(self.spare_at_most());
        let sectors = self.gives_back() && !self.punch.sectors.is_empty();
        retires || sectors || self.space.has_to_punch() || self.has_trim() || !self.punch.is_quiet()
    }

    /// Whether space is given back to the host without being asked for it.
    pub(super) fn gives_back(&self) -> bool {
        self.settings.discard != DiscardPolicy::Off && !self.punch.is_unsupported
    }

    fn retires(&self) -> bool {
        self.gives_back() && !self.punch.has_failed
    }

    /// Whether no new block has been asked for in a while: the next slab is a small one.
    pub(super) fn is_idle_for_blocks(&self) -> bool {
        let wait_ms = match self.settings.discard {
            DiscardPolicy::Lazy => self.options.reclaim_after_ms * LAZY_FACTOR,
            _ => self.options.reclaim_after_ms,
        };
        self.punch.taken_ms.is_none_or(|taken_ms| self.now_ms >= taken_ms + wait_ms)
    }

    /// Free blocks that are kept over an idle time: half as many again as are asked for when there are too few, so that a
    /// write now and then does not have the same blocks allocated and punched over and over.
    fn spare_at_most(&self) -> u64 {
        // The smallest slab has one block.
        (self.options.spare_blocks * 3 / 2).max(1)
    }

    /// What nobody punches stays for the next writes.
    fn keep_what_stays(&mut self) {
        self.keep_for_reservations();
        let recycled = if self.gives_back() { self.options.recycle_blocks } else { u64::MAX };
        self.space.set_recycle_blocks(recycled);
        if !self.gives_back() {
            self.punch.sectors.clear();
        }
        if !self.gives_back() || !self.space.has_to_punch() {
            self.space.keep_queued();
        }
    }

    fn retire_when_idle(&mut self) {
        if !self.is_idle_for_blocks() || self.stall.wants_block() {
            return;
        }
        self.slab.start_small();
        if self.retires() && self.space.keeps_more_than(self.spare_at_most()) {
            self.space.retire(self.options.spare_blocks, RETIRED_A_TURN);
        }
    }

    /// A pool that is being closed leaves nothing on the host that nobody maps, if that takes no longer than a moment.
    fn retire_at_the_end(&mut self) {
        // Closing goes on in the next step, when it is known what there is to be given back.
        self.room.changed |= self.punch.closing_since_ms.is_none();
        let since = *self.punch.closing_since_ms.get_or_insert(self.now_ms);
        if self.now_ms > since + FAREWELL_MS {
            self.space.keep_queued();
        } else if self.retires() && self.settings.discard == DiscardPolicy::Eager {
            self.space.retire(0, RETIRED_A_TURN);
        }
    }

    fn punches_sectors(&self) -> bool {
        self.settings.discard == DiscardPolicy::Eager || self.is_idle_for_blocks()
    }

    fn is_busy(&self) -> bool {
        let lately = self.punch.asked_ms.is_some_and(|asked| self.now_ms < asked + BUSY_MS);
        !self.only_closing() && (lately || self.has_other_requests())
    }

    /// Whether anybody waits for anything but a trim.
    fn has_other_requests(&self) -> bool {
        self.requests.len() > self.punch.trims.len()
    }

    fn has_rested(&self) -> bool {
        self.now_ms >= self.punch.rests_until_ms
    }

    /// Has the host take a run of free blocks back.
    pub(super) fn start_punch(&mut self, first: DataBlock, blocks: u64, for_trim: bool) {
        self.punch.begin(self.now_ms);
        let punch =
            Operation::Punch { offset_bytes: first.offset_bytes(), length_bytes: blocks * BLOCK_BYTES };
        self.submit_operation(Side::Data, punch, Pending::Punch(first, blocks, for_trim));
    }

    pub(super) fn punch_done(
        &mut self,
        first: DataBlock,
        blocks: u64,
        for_trim: bool,
        result: Result<(), DiskError>,
    ) {
        self.punch_ends(blocks, result);
        if for_trim {
            self.space.trimmed(first, blocks);
            self.trim_goes_on(blocks, result);
        } else {
            // One that failed may have punched a part.
            self.space.punched(first, blocks, result != Err(DiskError::Unsupported));
        }
        self.wake_reservations();
    }

    /// A punch is over, of so many blocks, or of sectors of one.
    pub(super) fn punch_ends(&mut self, blocks: u64, result: Result<(), DiskError>) {
        self.commit.data_changed();
        self.slab.ask_again();
        self.stall.ask_host_again();
        self.punch.end(self.now_ms, blocks, self.options.punch_rest_ms);
        self.punch.is_unsupported |= result == Err(DiskError::Unsupported);
        self.punch.has_failed |= result.is_err();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_punch_is_followed_by_a_long_rest_and_a_shorter_one() {
        let mut punch = PunchState::default();
        let mut end = |begun_ms, now_ms, blocks| {
            punch.begin(begun_ms);
            punch.end(now_ms, blocks, 20);
            (punch.busy_blocks, punch.rests_until_ms)
        };
        assert_eq!(end(10, 10, BUSY_BLOCKS_MIN), (2 * BUSY_BLOCKS_MIN, 30));
        assert_eq!(end(30, 30, 2 * BUSY_BLOCKS_MIN), (4 * BUSY_BLOCKS_MIN, 50));
        assert_eq!(end(100, 110, 1), (2 * BUSY_BLOCKS_MIN, 200));
        // Short ones say nothing, and rest together.
        for _ in 1..PUNCHES_A_REST {
            assert_eq!(end(300, 300, 1), (2 * BUSY_BLOCKS_MIN, 200));
        }
        assert_eq!(end(300, 300, 1), (2 * BUSY_BLOCKS_MIN, 320));
    }
}
