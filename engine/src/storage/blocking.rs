//! One operation at a time on any disk, for recovery and tools that have nothing else to do meanwhile.
//!
//! Owns the translation of a disk's errors into the engine's, with the place. Never retries and never looks into
//! the bytes. Must not be used while operations of somebody else are in flight on the same disk. Read next: `mod.rs`.

use super::{Buffer, Disk, DiskError, Operation, Ticket};
use crate::error::{Error, ErrorKind, Place, Result};
use bytes::Bytes;

/// A disk on which every call waits for its operation.
pub struct Blocking<'a, D: Disk + ?Sized> {
    disk: &'a mut D,
    place: fn(u64) -> Place,
    next_ticket: u64,
}

impl<'a, D: Disk + ?Sized> Blocking<'a, D> {
    /// The disk that holds the data file; errors name offsets of it.
    pub fn data(disk: &'a mut D) -> Self {
        Self { disk, place: Place::DataOffset, next_ticket: 0 }
    }

    /// The disk that holds the metadata file; errors name offsets of it.
    pub fn metadata(disk: &'a mut D) -> Self {
        Self { disk, place: Place::MetadataOffset, next_ticket: 0 }
    }

    /// The size of the disk now, in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.disk.size_bytes()
    }

    /// Reads `length_bytes` at `offset_bytes`; all of them or none.
    pub fn read(&mut self, offset_bytes: u64, length_bytes: usize) -> Result<Buffer> {
        let buffer = Buffer::zeroed(length_bytes);
        match self.run("read", offset_bytes, Operation::Read { offset_bytes, buffer })? {
            Operation::Read { buffer, .. } => Ok(buffer),
            other => panic!("the disk answered a read with {other:?}"),
        }
    }

    /// Writes `bytes` at `offset_bytes`. They survive a power loss only after [`Blocking::sync`].
    pub fn write(&mut self, offset_bytes: u64, bytes: Bytes) -> Result<()> {
        self.run("write", offset_bytes, Operation::Write { offset_bytes, bytes }).map(drop)
    }

    /// Makes everything done before survive a power loss. After an error it must not be tried again.
    pub fn sync(&mut self) -> Result<()> {
        self.run("sync", 0, Operation::Sync).map(drop)
    }

    /// Gives the space of a range back; it reads as zeros afterwards.
    pub fn punch(&mut self, offset_bytes: u64, length_bytes: u64) -> Result<()> {
        self.run("punch", offset_bytes, Operation::Punch { offset_bytes, length_bytes }).map(drop)
    }

    /// Makes room for a range, extending the disk where it is shorter.
    pub fn allocate(&mut self, offset_bytes: u64, length_bytes: u64) -> Result<()> {
        self.run("allocate", offset_bytes, Operation::Allocate { offset_bytes, length_bytes }).map(drop)
    }

    /// Makes the disk end at `size_bytes`. Fails with `Unsupported` where the size is given, as that of a device.
    pub fn truncate(&mut self, size_bytes: u64) -> Result<()> {
        let place = (self.place)(size_bytes);
        self.disk.truncate(size_bytes).map_err(|cause| cause.into_error("truncate").at(place))
    }

    fn run(&mut self, action: &str, offset_bytes: u64, operation: Operation) -> Result<Operation> {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.disk.submit(ticket, operation);
        let place = (self.place)(offset_bytes);
        let Some(completion) = self.disk.next_completion() else {
            return Err(Error::new(ErrorKind::Io, format!("{action}: the disk stopped answering")).at(place));
        };
        assert_eq!(completion.ticket, ticket, "another operation was in flight on a blocking disk");
        completion.result.map_err(|cause| cause.into_error(action).at(place))?;
        Ok(completion.operation)
    }
}

impl DiskError {
    /// The same failure as an error of the engine; `action` is what was tried, such as "read".
    pub fn into_error(self, action: &str) -> Error {
        let (kind, cause) = match self {
            Self::Io(Some(code)) => (ErrorKind::Io, std::io::Error::from_raw_os_error(code).to_string()),
            Self::Io(None) => (ErrorKind::Io, "the device failed".to_owned()),
            Self::NoSpace => (ErrorKind::NoSpace, "the host has no space left for this file".to_owned()),
            Self::Short => (ErrorKind::Io, "the file or device ends too early".to_owned()),
            Self::Unsupported => (ErrorKind::Unsupported, "not supported by the file system".to_owned()),
        };
        Error::new(kind, format!("{action}: {cause}"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Completion, MemoryDisk};
    use super::*;

    #[test]
    fn operations_take_effect_in_order() {
        let mut disk = MemoryDisk::new(8192);
        let mut blocking = Blocking::data(&mut disk);
        blocking.write(512, Bytes::from_static(&[7; 1024])).unwrap();
        blocking.sync().unwrap();
        blocking.punch(1024, 512).unwrap();
        blocking.allocate(8192, 4096).unwrap();
        assert_eq!(blocking.size_bytes(), 12288);
        let read = blocking.read(0, 2048).unwrap();
        assert_eq!(&read[512..1024], [7; 512]);
        assert_eq!(&read[1024..], [0; 1024]);
    }

    #[test]
    fn errors_name_the_file_and_the_offset() {
        let mut disk = MemoryDisk::new(4096);
        let error = Blocking::metadata(&mut disk).read(4096, 512).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
        assert_eq!(error.place(), Some(Place::MetadataOffset(4096)));
        let error = Blocking::data(&mut disk).read(8192, 512).unwrap_err();
        assert_eq!(error.place(), Some(Place::DataOffset(8192)));
    }

    #[test]
    fn every_disk_error_has_a_kind() {
        assert_eq!(DiskError::NoSpace.into_error("write").kind(), ErrorKind::NoSpace);
        assert_eq!(DiskError::Unsupported.into_error("punch").kind(), ErrorKind::Unsupported);
        assert!(DiskError::Io(Some(5)).into_error("sync").message().starts_with("sync: Input/output error"));
    }

    #[test]
    fn a_disk_that_stops_answering_is_an_error() {
        struct DeadDisk;
        impl Disk for DeadDisk {
            fn size_bytes(&self) -> u64 {
                0
            }
            fn submit(&mut self, _: Ticket, _: Operation) {}
            fn next_completion(&mut self) -> Option<Completion> {
                None
            }
        }
        let disk: &mut dyn Disk = &mut DeadDisk;
        assert_eq!(Blocking::data(disk).sync().unwrap_err().kind(), ErrorKind::Io);
    }
}
