//! In the background, while syncs are frequent: free blocks are written with zeros before they are given out.
//!
//! Owns the operations for that, and the measure of "frequent". The first write into space that was only allocated
//! makes the file system commit its journal with the sync, a second flush; a block that was written costs one flush, as
//! an overwrite does. Nobody maps these blocks, and they are given out only once their zeros have arrived, so what a
//! crash leaves in them is nobody's. A load that seldom syncs does not pay for it, nor one on a device, which has no journal.

use super::operations::Pending;
use super::{Core, Side, Then};
use crate::canary::{self, Canary};
use crate::storage::{Buffer, DiskError, Operation};
use crate::units::{BLOCK_BYTES, DataBlock};
use bytes::Bytes;

/// One sync for so many new blocks counts as frequent.
const BLOCKS_A_SYNC: u64 = 4;
/// Blocks that one operation writes.
const BLOCKS_AN_OPERATION: u64 = 16;

/// What is known of the load, and the run of blocks that is being written.
#[derive(Default)]
pub struct WriteAheadState {
    /// Since the last judgement.
    syncs: u64,
    blocks_taken: u64,
    syncs_are_frequent: bool,
    running: Option<Running>,
    zeros: Bytes,
}

struct Running {
    first: DataBlock,
    blocks: u64,
    writes_left: u64,
    failed: bool,
}

impl WriteAheadState {
    /// Whether nothing of this is in flight.
    pub fn is_quiet(&self) -> bool {
        self.running.is_none()
    }

    fn judge(&mut self, window: u64) {
        if self.syncs + self.blocks_taken >= window {
            self.syncs_are_frequent =
                self.blocks_taken > 0 && self.syncs * BLOCKS_A_SYNC >= self.blocks_taken;
            self.syncs = 0;
            self.blocks_taken = 0;
        }
    }
}

impl Core {
    /// A new block was given out.
    pub(super) fn note_block_taken(&mut self) {
        self.punch.note_taken(self.now_ms);
        self.write_ahead.blocks_taken += 1;
        self.write_ahead.judge(self.options.sync_window);
    }

    /// A sync of the data file is over.
    pub(super) fn note_sync(&mut self) {
        self.write_ahead.syncs += 1;
        self.write_ahead.judge(self.options.sync_window);
    }

    /// Starts a run of blocks when few written ones are left.
    pub(super) fn run_write_ahead(&mut self) {
        let wanted = self.options.written_ahead_blocks;
        let short = self.space.counts().recycled < wanted.div_ceil(2);
        if self.options.data_is_device
            || !self.write_ahead.syncs_are_frequent
            || !self.write_ahead.is_quiet()
            || !short
        {
            return;
        }
        let Some((first, blocks)) = self.space.take_fresh(wanted) else { return };
        if self.write_ahead.zeros.is_empty() {
            self.write_ahead.zeros = Buffer::zeroed((BLOCKS_AN_OPERATION * BLOCK_BYTES) as usize).freeze();
        }
        let mut writes_left = 0;
        for start in (0..blocks).step_by(BLOCKS_AN_OPERATION as usize) {
            let length = (blocks - start).min(BLOCKS_AN_OPERATION) * BLOCK_BYTES;
            let bytes = self.write_ahead.zeros.slice(..length as usize);
            let offset_bytes = DataBlock(first.0 + start).offset_bytes();
            self.submit_operation(Side::Data, Operation::Write { offset_bytes, bytes }, Pending::WriteAhead);
            writes_left += 1;
        }
        self.write_ahead.running = Some(Running { first, blocks, writes_left, failed: false });
        if canary::broken(Canary::WriteAheadRacesWrite) {
            self.space.written_ahead(first, blocks, true);
        }
    }

    pub(super) fn write_ahead_done(&mut self, result: Result<(), DiskError>) {
        self.commit.data_changed();
        let Some(running) = &mut self.write_ahead.running else { return };
        running.writes_left -= 1;
        running.failed |= result.is_err();
        if running.writes_left == 0 && self.failure.is_none() {
            let (first, blocks, failed) = (running.first, running.blocks, running.failed);
            self.commit.wait_for_sync(Then::WrittenAhead(first, blocks, !failed));
        }
    }

    /// The zeros have been synced with what the file system has to note about them; or they were not all written, and
    /// the blocks are as free as before.
    pub(super) fn write_ahead_synced(&mut self, first: DataBlock, blocks: u64, written: bool) {
        self.write_ahead.running = None;
        if !canary::broken(Canary::WriteAheadRacesWrite) {
            self.space.written_ahead(first, blocks, written);
        }
    }
}
