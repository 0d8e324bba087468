//! Makes a pool smaller that nobody has open.
//!
//! Owns the order of it. The pool is opened and closed, so that the log is empty and both root slots hold one state. What
//! stands behind the new end is moved to free blocks before it, in rounds (`round.rs`): data copied (`copy.rs`) and
//! synced, mappings changed, both root slots written. When nothing is left there both slots get the smaller size, and
//! then the data file is truncated. A crash at any moment leaves the state before a round or the one behind it; to shrink
//! again goes on from there. `docs/format.md`, Making a pool smaller, argues why.

mod copy;
mod fit;
mod round;
#[cfg(test)]
mod tests;

pub use fit::FREE_BLOCKS_AT_LEAST;

use crate::canary::{self, Canary};
use crate::error::{Error, ErrorKind, Result};
use crate::metadata::files::Files;
use crate::metadata::recovery::{Recovered, recover};
use crate::metadata::{Metadata, SlotFacts, write_slots};
use crate::options::{OpenOptions, Owner};
use crate::pool::Pool;
use crate::storage::Disk;
use crate::units::{BLOCK_BYTES, Incarnation, Sequence};

/// What a pool is to become, and how.
#[derive(Clone, Debug)]
pub struct ShrinkOptions {
    /// Data blocks that the pool will have, its log included.
    pub to_blocks: u64,
    /// Data blocks that are moved between two checkpoints, at most. An interruption costs what was moved since the last.
    pub round_blocks: u64,
    /// How the pool is opened before.
    pub open: OpenOptions,
}

impl ShrinkOptions {
    /// To `to_blocks` data blocks, in rounds of 1 GiB.
    pub fn new(to_blocks: u64, open: OpenOptions) -> Self {
        Self { to_blocks, round_blocks: 16 * 1024, open }
    }
}

/// How far a pool's becoming smaller has come. The first one tells what there is to do, before anything is moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Data blocks moved so far.
    pub blocks_done: u64,
    /// Data blocks that have to be moved, all together.
    pub blocks_total: u64,
}

/// What a pool became.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShrinkReport {
    /// Data blocks that the pool had.
    pub from_blocks: u64,
    /// Data blocks that it has now.
    pub to_blocks: u64,
    /// Data blocks that are in use, those of the log included.
    pub used_blocks: u64,
    /// Data blocks that were moved.
    pub moved_blocks: u64,
    /// Whether the data file ends where the pool ends. A device stays as long as it is.
    pub truncated: bool,
}

/// Makes the pool on two disks smaller. Nobody may have it open. To a size that it has already only the data file is
/// truncated, as after an interruption just before the end.
///
/// Fails with `Invalid` for a larger size, `NoSpace` with figures if what is in use or promised to volumes does not fit, or if the metadata file
/// cannot take what moving needs. After any error, and after an interruption, the pool is whole; it has its old size.
pub fn shrink_pool(
    data: &mut dyn Disk,
    metadata: &mut dyn Disk,
    options: &ShrinkOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<ShrinkReport> {
    let reserved_blocks = settle(data, metadata, &options.open)?;
    let mut files = Files::new(data, metadata);
    let found = recover(&mut files)?;
    Shrink::of(files, found, options, progress)?.run(reserved_blocks)
}

/// Brings what a crash left to its end, deletions too, and closes the pool. Gives the blocks that are promised to volumes and
/// that they do not have yet.
pub(crate) fn settle<'a>(
    data: &'a mut dyn Disk,
    metadata: &'a mut dyn Disk,
    options: &OpenOptions,
) -> Result<u64> {
    const IDLE_MS: u64 = 1000;
    // A count that never ends only keeps more free than is promised.
    const ROUNDS_MAX: u32 = 100_000;
    // Joining layers may free something, but takes as long as it takes.
    let options = OpenOptions { collapse_bytes_per_s: 0, ..options.clone() };
    let mut pool = Pool::open(data, metadata, &options)?;
    for _ in 0..ROUNDS_MAX {
        let before = pool.status();
        if let Some(failure) = before.failure {
            return Err(failure);
        }
        if before.deleting == 0 && !before.counts_reserved {
            break;
        }
        pool.idle(IDLE_MS);
        let after = pool.status();
        let stands_still = (after.deleting, after.used_blocks, after.composed)
            == (before.deleting, before.used_blocks, before.composed);
        if stands_still && !after.counts_reserved {
            // What is not deleted yet moves as everything does.
            break;
        }
    }
    let reserved_blocks = pool.status().reserved_blocks;
    pool.close().map(|_| reserved_blocks)
}

/// A pool while it becomes smaller.
struct Shrink<'f, 'p> {
    files: Files<'f>,
    state: Metadata,
    incarnation: Incarnation,
    sequence: Sequence,
    log_position: u64,
    to_blocks: u64,
    round_blocks: u64,
    report_progress: &'p mut dyn FnMut(Progress),
    progress: Progress,
}

impl<'f, 'p> Shrink<'f, 'p> {
    /// Nothing was changed since the pool was closed, so there is nothing to be recovered.
    fn of(
        files: Files<'f>,
        found: Recovered,
        options: &ShrinkOptions,
        report_progress: &'p mut dyn FnMut(Progress),
    ) -> Result<Self> {
        if let Some(fallback) = found.findings.fallback {
            return Err(fallback.cause);
        }
        if found.findings.records > 0 || !found.metadata.slot.clean {
            let message = "the pool was closed, and is not: does somebody else write to its files?";
            return Err(Error::new(ErrorKind::InUse, message));
        }
        found.metadata.volumes.check_no_pictures()?;
        Ok(Self {
            files,
            incarnation: found.incarnation,
            sequence: found.sequence,
            log_position: found.ring.head,
            state: found.metadata,
            to_blocks: options.to_blocks,
            round_blocks: options.round_blocks.max(1),
            report_progress,
            progress: Progress::default(),
        })
    }

    fn run(mut self, reserved_blocks: u64) -> Result<ShrinkReport> {
        let counts = &self.state.forest.data_counts;
        let (from_blocks, used_blocks) = (counts.len(), counts.in_use());
        fit::require(from_blocks, used_blocks, reserved_blocks, self.to_blocks)?;
        self.progress.blocks_total = counts.in_use_from(self.to_blocks);
        (self.report_progress)(self.progress);
        self.move_log()?;
        while self.move_some()? {}
        if self.to_blocks < from_blocks {
            self.state.forest.truncate_blocks(self.to_blocks)?;
            self.write_both_slots(0)?;
        }
        let truncated = self.truncate_file()?;
        let moved_blocks = self.progress.blocks_done;
        Ok(ShrinkReport { from_blocks, to_blocks: self.to_blocks, used_blocks, moved_blocks, truncated })
    }

    /// Writes the present state in both root slots, so that neither needs a block that was moved or is behind the end.
    fn write_both_slots(&mut self, page_numbers: u64) -> Result<()> {
        self.make_room(page_numbers)?;
        let slots = if canary::broken(Canary::TruncatedAheadOfSlots) { 1 } else { 2 };
        let facts = SlotFacts {
            incarnation: self.incarnation,
            sequence: self.sequence,
            log_position: self.log_position,
            clean: true,
            owner: Owner::default(),
        };
        write_slots(&mut self.files, &mut self.state, &facts, slots)
    }

    /// Gives what is behind the end back to the host. Whether the file could be truncated.
    fn truncate_file(&mut self) -> Result<bool> {
        let data = &mut self.files.data;
        let size_bytes = self.to_blocks * BLOCK_BYTES;
        if data.size_bytes() <= size_bytes {
            return Ok(true);
        }
        match data.truncate(size_bytes) {
            Ok(()) => data.sync().map(|()| true),
            Err(error) if error.kind() == ErrorKind::Unsupported => Ok(false),
            Err(error) => Err(error),
        }
    }
}
