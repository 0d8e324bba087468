//! Moves bytes between memory and an open file, one operation at a time, on the thread that asks.
//!
//! Owns the system calls: pread, pwrite, fdatasync, fallocate, and what stands in for the last where it is missing.
//! Never retries a failed sync, never looks into the bytes.

use super::{Buffer, DiskError, DiskFile, Operation, device};
use rustix::fs::{FallocateFlags, SeekFrom};
use std::io;
use std::os::unix::fs::FileExt;

const ZEROS_BYTES: u64 = 1 << 20;

impl DiskFile {
    /// Carries `operation` out and waits for it.
    pub(super) fn perform(&self, operation: &mut Operation) -> Result<(), DiskError> {
        match operation {
            Operation::Read { offset_bytes, buffer } => self.read(*offset_bytes, buffer)?,
            Operation::Write { offset_bytes, bytes } => {
                self.check_end(*offset_bytes, bytes.len() as u64)?;
                self.writer().write_all_at(bytes, *offset_bytes)?;
            }
            Operation::Sync => self.writer().sync_data()?,
            Operation::Punch { length_bytes: 0, .. } | Operation::Allocate { length_bytes: 0, .. } => {}
            Operation::Punch { offset_bytes, length_bytes } => self.punch(*offset_bytes, *length_bytes)?,
            Operation::Allocate { offset_bytes, length_bytes } => {
                self.allocate(*offset_bytes, *length_bytes)?;
            }
        }
        Ok(())
    }

    /// Gives space back. A device that cannot unmap with zeros in its place is asked to discard, which promises nothing
    /// about the bytes: nobody reads them before they are written again.
    fn punch(&self, offset_bytes: u64, length_bytes: u64) -> Result<(), DiskError> {
        match self.fallocate(PUNCH, offset_bytes, length_bytes) {
            Err(cause) if cause.kind() == io::ErrorKind::Unsupported && self.is_device() => {
                Ok(device::discard(self.writer(), offset_bytes, length_bytes)?)
            }
            other => Ok(other?),
        }
    }

    /// Fills `buffer` from `offset_bytes`.
    pub(super) fn read(&self, offset_bytes: u64, buffer: &mut [u8]) -> Result<(), DiskError> {
        Ok(self.reader().read_exact_at(buffer, offset_bytes)?)
    }

    /// Nothing is written behind the end.
    pub(super) fn check_end(&self, offset_bytes: u64, length_bytes: u64) -> Result<(), DiskError> {
        match offset_bytes.checked_add(length_bytes) {
            Some(end) if end <= self.size_bytes() => Ok(()),
            _ => Err(DiskError::Short),
        }
    }

    /// Makes a file end at `size_bytes`, if it is longer.
    pub(super) fn truncate(&self, size_bytes: u64) -> Result<(), DiskError> {
        if self.is_device() {
            return Err(DiskError::Unsupported);
        }
        if size_bytes < self.size_bytes() {
            self.writer().set_len(size_bytes)?;
            self.refresh_size()?;
        }
        Ok(())
    }

    fn allocate(&self, offset_bytes: u64, length_bytes: u64) -> Result<(), DiskError> {
        if self.is_device() {
            return self.allocate_on_device(offset_bytes, length_bytes);
        }
        let allocated = match self.fallocate(FallocateFlags::empty(), offset_bytes, length_bytes) {
            Err(cause) if cause.kind() == io::ErrorKind::Unsupported => {
                self.allocate_by_writing(offset_bytes, length_bytes)
            }
            other => other,
        };
        // Also after an error: part of the range may have been added.
        self.refresh_size()?;
        Ok(allocated?)
    }

    /// A device has all its room, and no more than it has.
    pub(super) fn allocate_on_device(&self, offset_bytes: u64, length_bytes: u64) -> Result<(), DiskError> {
        if self.check_end(offset_bytes, length_bytes).is_ok() {
            return Ok(());
        }
        // It may have been enlarged since it was opened.
        self.refresh_size()?;
        self.check_end(offset_bytes, length_bytes).map_err(|_| DiskError::NoSpace)
    }

    /// For file systems without fallocate: writes zeros where nothing is stored yet.
    pub(super) fn allocate_by_writing(&self, offset_bytes: u64, length_bytes: u64) -> io::Result<()> {
        let end = offset_bytes.checked_add(length_bytes).ok_or(io::ErrorKind::FileTooLarge)?;
        let size_bytes = self.size_bytes();
        let old_end = end.min(size_bytes);
        let mut at = offset_bytes;
        while at < old_end {
            let hole = self.seek(SeekFrom::Hole(at))?.min(old_end);
            at = if hole < old_end { self.seek(SeekFrom::Data(hole))?.min(old_end) } else { old_end };
            self.write_zeros(hole, at)?;
        }
        self.write_zeros(offset_bytes.max(size_bytes), end)
    }

    /// Where the next hole or data begins; the end of the file where there is no more of it.
    fn seek(&self, target: SeekFrom) -> io::Result<u64> {
        match rustix::fs::seek(self.writer(), target) {
            Err(rustix::io::Errno::NXIO) => Ok(self.size_bytes()),
            other => Ok(other?),
        }
    }

    fn write_zeros(&self, start: u64, end: u64) -> io::Result<()> {
        let zeros = Buffer::zeroed(end.saturating_sub(start).min(ZEROS_BYTES) as usize);
        let mut at = start;
        while at < end {
            let length = (end - at).min(ZEROS_BYTES);
            self.writer().write_all_at(&zeros[..length as usize], at)?;
            at += length;
        }
        Ok(())
    }

    fn fallocate(&self, mode: FallocateFlags, offset_bytes: u64, length_bytes: u64) -> io::Result<()> {
        let call = || rustix::fs::fallocate(self.writer(), mode, offset_bytes, length_bytes);
        Ok(rustix::io::retry_on_intr(call)?)
    }
}

/// Gives space back and leaves the size alone.
pub const PUNCH: FallocateFlags = FallocateFlags::PUNCH_HOLE.union(FallocateFlags::KEEP_SIZE);

impl From<io::Error> for DiskError {
    fn from(cause: io::Error) -> Self {
        use io::ErrorKind as Kind;
        match cause.kind() {
            Kind::StorageFull | Kind::QuotaExceeded | Kind::FileTooLarge => Self::NoSpace,
            Kind::UnexpectedEof | Kind::WriteZero => Self::Short,
            Kind::Unsupported => Self::Unsupported,
            _ => Self::Io(cause.raw_os_error()),
        }
    }
}
