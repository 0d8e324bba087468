//! Punches every free block of a part of the pool, whatever the host is believed to hold: after a crash nobody knows.
//!
//! Owns trims under way. Blocks are taken out of the allocator run by run while they are being punched, so that a trim goes on
//! beside writes. What was freed and is not proven is waited for. How fast it goes is `punch.rs`'s.

use super::{Core, DeltaNumber, Key, Task};
use crate::error::{Error, ErrorKind, Result};
use crate::request::{Outcome, Trimmed};
use crate::storage::DiskError;
use crate::units::{BLOCK_BYTES, DataBlock};

/// Blocks that one request looks at: 1 GiB.
const SLICE_BLOCKS: u64 = 16 * 1024;

/// A trim of a part of the pool.
pub struct TrimTask {
    pub key: Key,
    next: DataBlock,
    end: DataBlock,
    /// What was freed before it began is proven: under load there is always something that is not.
    has_waited: bool,
    punched_bytes: u64,
}

impl Core {
    pub(super) fn start_trim(&mut self, key: Key, first_block: u64) -> Result<()> {
        if self.punch.is_unsupported() {
            return Err(unsupported());
        }
        let end = self.trim_end();
        if first_block >= end {
            self.set_outcome(key, Outcome::Trimmed(Trimmed { next_block: None, punched_bytes: 0 }));
            return Ok(());
        }
        let (next, end) =
            (DataBlock(first_block), DataBlock(end.min(first_block.saturating_add(SLICE_BLOCKS))));
        self.start_part(key, Task::Trim(TrimTask { key, next, end, has_waited: false, punched_bytes: 0 }));
        Ok(())
    }

    /// Behind the end of the file there is nothing to give back.
    fn trim_end(&self) -> u64 {
        self.metadata.forest.data_counts.len().min(self.punch.end_block())
    }

    pub(super) fn trim(&mut self, mut task: TrimTask) {
        if self.closing {
            return self.part_done(task.key, Err(closing()));
        }
        let unproven = self.space.newest_freed().filter(|number: &DeltaNumber| *number > self.commit.proven);
        match unproven {
            Some(number) if !task.has_waited => {
                task.has_waited = true;
                self.wait_for_proof(number, Task::Trim(task));
            }
            _ => self.punch.trims.push_back(task),
        }
    }

    /// Whether somebody waits for a trim.
    pub(super) fn has_trim(&self) -> bool {
        !self.punch.trims.is_empty()
    }

    /// Punches the next free run of the first trim, or ends it.
    pub(super) fn start_trim_punch(&mut self, most_blocks: u64) {
        let Some(task) = self.punch.trims.front_mut() else { return };
        match self.space.take_free(task.next, task.end, most_blocks) {
            Some((first, blocks)) => {
                task.next = DataBlock(first.0 + blocks);
                self.start_punch(first, blocks, true);
            }
            None => self.trim_ends(Ok(())),
        }
    }

    /// A punch for the first trim is over.
    pub(super) fn trim_goes_on(&mut self, blocks: u64, result: std::result::Result<(), DiskError>) {
        match (result, self.punch.trims.front_mut()) {
            (Ok(()), Some(task)) => task.punched_bytes += blocks * BLOCK_BYTES,
            (Err(DiskError::Unsupported), _) => self.trim_ends(Err(unsupported())),
            (Err(cause), _) => self.trim_ends(Err(cause.into_error("giving space back to the host"))),
            (Ok(()), None) => {}
        }
    }

    fn trim_ends(&mut self, result: Result<()>) {
        let Some(task) = self.punch.trims.pop_front() else { return };
        let is_last = task.end.0 >= self.trim_end();
        let next_block = (!is_last).then_some(task.end.0);
        let trimmed = Trimmed { next_block, punched_bytes: task.punched_bytes };
        self.set_outcome(task.key, Outcome::Trimmed(trimmed));
        self.part_done(task.key, result);
    }

    /// Gives up the trims that wait, on a pool that failed.
    pub(super) fn fail_trims(&mut self, error: &Error) {
        for task in std::mem::take(&mut self.punch.trims) {
            self.part_done(task.key, Err(error.clone()));
        }
    }
}

/// What a trim is told that a closing pool ends.
pub fn closing() -> Error {
    Error::new(ErrorKind::Busy, "the pool is being closed; what is left is free all the same")
}

fn unsupported() -> Error {
    let message = "the file system or device that holds the data cannot give space back; free blocks are used again by the pool";
    Error::new(ErrorKind::Unsupported, message)
}
