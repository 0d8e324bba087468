//! What every reader gives and every writer takes: a pool, its devices in order, their mappings in order as runs.
//!
//! Owns these words and nothing that moves them. Metadata and XML each have a reader and a writer; any reader can feed any
//! writer, and neither holds a pool in memory.

use crate::error::Result;
use crate::format::DeviceDetails;

/// What is true of the whole pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolHeader {
    /// All zero in practice, but for pools that Vellum gave away.
    pub uuid: [u8; 16],
    /// The pool's time; goes up by one with every snapshot.
    pub time: u32,
    /// Userspace's own number; LVM compares it with its own record.
    pub transaction_id: u64,
    /// Whether the kernel wants a check before it writes again. A writer of metadata clears it.
    pub needs_check: bool,
    /// Size of a data block in sectors of 512 bytes.
    pub data_block_sectors: u32,
    /// Data blocks of the pool.
    pub nr_data_blocks: u64,
}

/// Neighbouring mappings: virtual and data blocks go up together, at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// First virtual block.
    pub virtual_begin: u64,
    /// First data block.
    pub data_begin: u64,
    /// Number of blocks, at least one.
    pub length: u64,
    /// When they were mapped.
    pub time: u32,
}

impl Run {
    /// Whether `next` goes on where this one ends, so that both are one run.
    pub fn is_continued_by(&self, next: &Run) -> bool {
        self.time == next.time
            && self.virtual_begin.checked_add(self.length) == Some(next.virtual_begin)
            && self.data_begin.checked_add(self.length) == Some(next.data_begin)
    }
}

/// Takes a pool: `begin`, then for each device `device`, its runs, `device_end`, then `end`.
///
/// Devices come in the order of their numbers, runs in the order of virtual blocks and without overlaps. A sink fails with
/// `Invalid` where that is not so.
pub trait Sink {
    /// The pool; called once and first.
    fn begin(&mut self, header: &PoolHeader) -> Result<()>;
    /// A thin device.
    fn device(&mut self, id: u32, details: &DeviceDetails) -> Result<()>;
    /// Mappings of the last device.
    fn run(&mut self, run: &Run) -> Result<()>;
    /// There are no more mappings of the last device.
    fn device_end(&mut self) -> Result<()>;
    /// There are no more devices. A sink on a device returns when all is durable.
    fn end(&mut self) -> Result<()>;
}
