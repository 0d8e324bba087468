//! Makes the pool larger while it is used.
//!
//! Owns the steps of an extension: the host is asked for the end of it, metadata pages for its counts are set aside, both
//! root slots learn the new size, and only then blocks of it are given out: until then the older slot, which may be all
//! that recovery can read, knows no such block.

use super::operations::Pending;
use super::room::Room;
use super::{Core, Key, Side, Task, Then};
use crate::error::{Error, ErrorKind, Result};
use crate::storage::{DiskError, Operation};
use crate::units::{BLOCK_BYTES, DATA_BLOCKS_MAX, DataBlock};

/// An extension under way.
pub struct ExtendTask {
    pub key: Key,
    /// Data blocks that the pool will have.
    to_blocks: u64,
    /// Root slots that know the new size; none before the counts have grown.
    slots: Option<u32>,
}

impl Core {
    pub(super) fn start_extend(&mut self, key: Key, to_blocks: u64) -> Result<()> {
        let now = self.metadata.forest.data_counts.len();
        if to_blocks > DATA_BLOCKS_MAX {
            return Err(Error::new(ErrorKind::Limit, "a pool has at most 2^32 data blocks: 256 TiB"));
        }
        if self.is_extending {
            return Err(Error::new(ErrorKind::Busy, "the pool is being extended already; wait for that"));
        }
        if to_blocks < now {
            return Err(Error::invalid(format!(
                "the pool has {now} data blocks; a pool is not made smaller while it is open"
            )));
        }
        if to_blocks == now {
            return Ok(());
        }
        self.is_extending = true;
        if let Some(request) = self.requests.get_mut(&key) {
            request.parts += 1;
        }
        // A device that is too short says so, and a file system whose files cannot be so long.
        let last = DataBlock(to_blocks - 1);
        let allocate = Operation::Allocate { offset_bytes: last.offset_bytes(), length_bytes: BLOCK_BYTES };
        self.submit_operation(Side::Data, allocate, Pending::Extension(key, to_blocks));
        Ok(())
    }

    pub(super) fn extension_allocated(
        &mut self,
        key: Key,
        to_blocks: u64,
        result: std::result::Result<(), DiskError>,
    ) {
        self.commit.data_changed();
        match (result, self.check_healthy()) {
            (Ok(()), Ok(())) => {
                self.punch.note_end(to_blocks);
                self.ready.push_back(Task::Extend(ExtendTask { key, to_blocks, slots: None }));
            }
            (_, Err(error)) => self.extension_over(key, Err(error)),
            (Err(DiskError::NoSpace), _) => {
                let message = "the data file cannot become so long: enlarge its device, or free space on its file system";
                self.extension_over(key, Err(Error::new(ErrorKind::NoSpace, message)));
            }
            (Err(cause), _) => self.extension_over(key, Err(cause.into_error("allocation in the data file"))),
        }
    }

    pub(super) fn extend(&mut self, task: ExtendTask) {
        match task.slots {
            None => self.extend_counts(task),
            Some(slots @ 0..2) => {
                let next = ExtendTask { slots: Some(slots + 1), ..task };
                self.checkpoint.then(Then::Run(Task::Extend(next)));
            }
            Some(_) => {
                self.space.grow(task.to_blocks);
                self.slab.ask_again();
                self.extension_over(task.key, Ok(()));
            }
        }
    }

    fn extend_counts(&mut self, task: ExtendTask) {
        let pages = 2 * self.metadata.checkpoint_pages_to_extend(task.to_blocks) as u64;
        let needed = Room { metadata_pages: pages, ..Room::default() };
        if !self.admit(needed) {
            return self.wait_for_room(Task::Extend(task));
        }
        self.metadata.forest.grow_blocks(task.to_blocks);
        self.settle(needed);
        self.ready.push_back(Task::Extend(ExtendTask { slots: Some(0), ..task }));
    }

    pub(super) fn extension_over(&mut self, key: Key, result: Result<()>) {
        self.is_extending = false;
        self.note_extended(key, result.is_ok());
        self.part_done(key, result);
    }
}
