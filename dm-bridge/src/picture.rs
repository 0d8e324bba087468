//! A picture of a pool that goes on: metadata of dm-thin by which snapshots can be read in the pool's own data file.
//!
//! Owns what such metadata looks like, and that nobody writes by it. The blocks that it names stay the pool's, which has to keep them
//! where they are. So it says two things that a pool of the kernel's does not: a read-only feature that no kernel
//! knows, for which Linux takes it from a read-only device alone, and that it needs a check, for which it is not
//! written even there. Every mapping has time 0 and every device the snapshotted time 1: all is shared with somebody.

use crate::device::Target;
use crate::error::Error as ThinError;
use crate::export::{DATA_BLOCK_SECTORS, Failure, POOL_TIME, verify};
use crate::format::DeviceDetails;
use crate::stream::{PoolHeader, Run, Sink};
use crate::writer::{MetadataWriter, Packing, Written};
use vellum_engine::error::{Error as PoolError, ErrorKind};
use vellum_engine::request::MappedRun;

/// Writes a picture: devices in the order of their numbers, the mappings of each in order.
pub struct PictureWriter<T> {
    writer: MetadataWriter<T>,
    is_in_device: bool,
    may_be_valid: bool,
}

impl<T: Target> PictureWriter<T> {
    /// Begins the metadata of a pool of so many data blocks. What the target held is lost.
    ///
    /// Fails as [`MetadataWriter`] does.
    pub fn begin(target: T, nr_data_blocks: u64) -> Result<Self, ThinError> {
        let mut writer = MetadataWriter::new(target, Packing::Shareable)?.as_picture();
        writer.begin(&PoolHeader {
            time: POOL_TIME,
            data_block_sectors: DATA_BLOCK_SECTORS,
            nr_data_blocks,
            ..PoolHeader::default()
        })?;
        Ok(Self { writer, is_in_device: false, may_be_valid: false })
    }

    /// The next device.
    pub fn device(&mut self, id: u32) -> Result<(), ThinError> {
        self.end_device()?;
        self.is_in_device = true;
        self.writer.device(id, &DeviceDetails { snapshotted_time: POOL_TIME, ..DeviceDetails::default() })
    }

    /// Mappings of the last device. Blocks that are not whole are refused.
    pub fn run(&mut self, run: &MappedRun) -> Result<(), Failure> {
        let MappedRun { virtual_block, data_block, blocks, is_whole } = *run;
        if !is_whole {
            let message = format!("virtual block {virtual_block} of a picture has holes or a second layer");
            return Err(PoolError::new(ErrorKind::Invalid, message).into());
        }
        let (virtual_begin, data_begin, time) = (virtual_block.0, data_block.0, POOL_TIME - 1);
        Ok(self.writer.run(&Run { virtual_begin, data_begin, length: blocks, time })?)
    }

    /// Makes it valid, once all of it is durable and was checked. If it fails, what is on the target may be valid all the same:
    /// [`PictureWriter::retract`] sees to it that it is not.
    pub fn end(&mut self) -> Result<Written, Failure> {
        self.end_device()?;
        let superblock = self.writer.prepare()?;
        verify(&self.writer, &superblock)?;
        self.may_be_valid = true;
        self.writer.commit(&superblock)?;
        Ok(self.writer.written())
    }

    /// Sees to it that nobody takes what was written, also after a power loss. If this fails, somebody may: then what it names has to
    /// stay.
    pub fn retract(&mut self) -> Result<(), ThinError> {
        if self.may_be_valid {
            self.writer.retract()?;
            self.may_be_valid = false;
        }
        Ok(())
    }

    fn end_device(&mut self) -> Result<(), ThinError> {
        if std::mem::take(&mut self.is_in_device) { self.writer.device_end() } else { Ok(()) }
    }
}
