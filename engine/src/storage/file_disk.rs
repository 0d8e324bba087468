//! A regular file or block device as a disk: every operation complete at once, on the thread that submits it.
//!
//! For tools, recovery and tests, which do one thing at a time. Read next: `disk_file.rs`, `file_io.rs`.

use super::{CacheMode, Completion, Disk, DiskError, DiskFile, HostRoom, Operation, Ticket};
use crate::error::Result;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

/// A file or block device as a disk that does one operation at a time.
#[derive(Debug)]
pub struct FileDisk {
    file: Arc<DiskFile>,
    completed: VecDeque<Completion>,
}

impl FileDisk {
    /// Makes a sparse file, as [`DiskFile::create`] does, in mode `Writeback`.
    pub fn create(path: impl AsRef<Path>, size_bytes: u64) -> Result<Self> {
        Ok(Self::over(Arc::new(DiskFile::create(path, size_bytes, CacheMode::Writeback)?)))
    }

    /// Opens for reading and writing, as [`DiskFile::open`] does, in mode `Writeback`.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Ok(Self::over(Arc::new(DiskFile::open(path, CacheMode::Writeback)?)))
    }

    /// Opens for reading, as [`DiskFile::open_read_only`] does.
    pub fn open_read_only(path: impl AsRef<Path>) -> Result<Self> {
        Ok(Self::over(Arc::new(DiskFile::open_read_only(path)?)))
    }

    /// A disk over what is open already.
    pub fn over(file: Arc<DiskFile>) -> Self {
        Self { file, completed: VecDeque::new() }
    }

    /// What it stands on.
    pub fn file(&self) -> &Arc<DiskFile> {
        &self.file
    }
}

impl Disk for FileDisk {
    fn size_bytes(&self) -> u64 {
        self.file.size_bytes()
    }

    fn host_room(&self) -> Option<HostRoom> {
        self.file.host_room().ok()
    }

    fn submit(&mut self, ticket: Ticket, mut operation: Operation) {
        let result = self.file.perform(&mut operation);
        self.completed.push_back(Completion { ticket, operation, result });
    }

    fn next_completion(&mut self) -> Option<Completion> {
        self.completed.pop_front()
    }

    fn truncate(&mut self, size_bytes: u64) -> std::result::Result<(), DiskError> {
        self.file.truncate(size_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Blocking, Buffer};
    use super::*;
    use crate::error::ErrorKind;
    use bytes::Bytes;
    use std::io;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::path::PathBuf;

    fn directory_and_path() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pool.data");
        (directory, path)
    }

    #[test]
    fn a_new_file_is_sparse_private_and_never_replaces_another() {
        let (_directory, path) = directory_and_path();
        let disk = FileDisk::create(&path, 1 << 30).unwrap();
        assert_eq!(disk.size_bytes(), 1 << 30);
        let metadata = std::fs::metadata(&path).unwrap();
        assert_eq!((metadata.len(), metadata.permissions().mode() & 0o777), (1 << 30, 0o600));
        assert!(metadata.blocks() * 512 < 1 << 20);
        assert_eq!(FileDisk::create(&path, 0).unwrap_err().kind(), ErrorKind::Exists);
    }

    #[test]
    fn a_failed_create_leaves_nothing_behind() {
        let (_directory, path) = directory_and_path();
        FileDisk::create(&path, u64::MAX).unwrap_err();
        assert!(!path.exists());
    }

    #[test]
    fn bytes_stay_over_openings() {
        let (_directory, path) = directory_and_path();
        let mut disk = FileDisk::create(&path, 8192).unwrap();
        Blocking::data(&mut disk).write(1000, Bytes::from_static(b"vellum")).unwrap();
        Blocking::data(&mut disk).sync().unwrap();
        drop(disk);
        let mut disk = FileDisk::open(&path).unwrap();
        assert_eq!(&Blocking::data(&mut disk).read(1000, 6).unwrap()[..], b"vellum");
        assert_eq!(disk.size_bytes(), 8192);
    }

    #[test]
    fn a_writer_is_alone_and_readers_share() {
        let (_directory, path) = directory_and_path();
        let kind = |opened: Result<FileDisk>| opened.map(drop).map_err(|error| error.kind());
        let writer = FileDisk::create(&path, 4096).unwrap();
        assert_eq!(kind(FileDisk::open(&path)), Err(ErrorKind::InUse));
        assert_eq!(kind(FileDisk::open_read_only(&path)), Err(ErrorKind::InUse));
        drop(writer);
        let reader = FileDisk::open_read_only(&path).unwrap();
        assert_eq!(kind(FileDisk::open_read_only(&path)), Ok(()));
        assert_eq!(kind(FileDisk::open(&path)), Err(ErrorKind::InUse));
        drop(reader);
        assert_eq!(kind(FileDisk::open(&path)), Ok(()));
    }

    #[test]
    fn the_lock_lives_as_long_as_the_last_descriptor_that_could_write() {
        let (_directory, path) = directory_and_path();
        let disk = FileDisk::create(&path, 4096).unwrap();
        let duplicate = disk.file.writer().try_clone().unwrap();
        drop(disk);
        assert_eq!(FileDisk::open(&path).unwrap_err().kind(), ErrorKind::InUse);
        drop(duplicate);
        FileDisk::open(&path).unwrap();
    }

    #[test]
    fn opening_what_is_no_file_says_so() {
        let (directory, path) = directory_and_path();
        assert_eq!(FileDisk::open(&path).unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(FileDisk::open_read_only(directory.path()).unwrap_err().kind(), ErrorKind::Unsupported);
    }

    #[test]
    fn nothing_moves_behind_the_end() {
        let (_directory, path) = directory_and_path();
        let mut disk = FileDisk::create(&path, 4096).unwrap();
        let run = |disk: &mut FileDisk, operation| {
            disk.submit(Ticket(1), operation);
            disk.next_completion().unwrap().result
        };
        let read = Operation::Read { offset_bytes: 3584, buffer: Buffer::zeroed(1024) };
        assert_eq!(run(&mut disk, read), Err(DiskError::Short));
        for offset_bytes in [3584, 4096, u64::MAX] {
            let write = Operation::Write { offset_bytes, bytes: Bytes::from_static(&[1; 1024]) };
            assert_eq!(run(&mut disk, write), Err(DiskError::Short));
        }
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 4096);
    }

    #[test]
    fn a_reader_cannot_write() {
        let (_directory, path) = directory_and_path();
        drop(FileDisk::create(&path, 4096).unwrap());
        let mut disk = FileDisk::open_read_only(&path).unwrap();
        disk.submit(Ticket(1), Operation::Write { offset_bytes: 0, bytes: Bytes::from_static(&[1]) });
        assert!(matches!(disk.next_completion().unwrap().result, Err(DiskError::Io(Some(_)))));
    }

    #[test]
    fn allocation_keeps_bytes_and_extends_with_zeros() {
        let (_directory, path) = directory_and_path();
        let mut disk = FileDisk::create(&path, 1 << 20).unwrap();
        let mut blocking = Blocking::data(&mut disk);
        blocking.write(65536, Bytes::from_static(&[9; 4096])).unwrap();
        blocking.allocate(0, 2 << 20).unwrap();
        let read = blocking.read(0, 2 << 20).unwrap();
        assert_eq!(read.iter().filter(|byte| **byte == 9).count(), 4096);
        assert_eq!(read.iter().filter(|byte| **byte == 0).count(), (2 << 20) - 4096);
        assert_eq!(blocking.size_bytes(), 2 << 20);
        assert!(std::fs::metadata(&path).unwrap().blocks() * 512 >= 2 << 20);
    }

    #[test]
    fn without_fallocate_holes_and_the_new_end_are_written() {
        let (_directory, path) = directory_and_path();
        let mut disk = FileDisk::create(&path, 3 << 20).unwrap();
        Blocking::data(&mut disk).write(1 << 20, Bytes::from_static(&[9; 65536])).unwrap();
        disk.file.allocate_by_writing(65536, (4 << 20) - 65536).unwrap();
        let metadata = std::fs::metadata(&path).unwrap();
        assert_eq!(metadata.len(), 4 << 20);
        assert!(metadata.blocks() * 512 >= (4 << 20) - 65536);
        disk.file.refresh_size().unwrap();
        let read = Blocking::data(&mut disk).read(0, 4 << 20).unwrap();
        let expected = |at: usize| if (1 << 20..(1 << 20) + 65536).contains(&at) { 9 } else { 0 };
        assert!(read.iter().enumerate().all(|(at, byte)| *byte == expected(at)));
    }

    #[test]
    fn punched_space_reads_as_zeros_and_goes_back_where_supported() {
        let (_directory, path) = directory_and_path();
        let mut disk = FileDisk::create(&path, 1 << 20).unwrap();
        Blocking::data(&mut disk).write(0, Bytes::from(vec![9; 1 << 20])).unwrap();
        let before = std::fs::metadata(&path).unwrap().blocks();
        disk.submit(Ticket(1), Operation::Punch { offset_bytes: 65536, length_bytes: 1 << 19 });
        match disk.next_completion().unwrap().result {
            Err(DiskError::Unsupported) => return,
            other => other.unwrap(),
        }
        let read = Blocking::data(&mut disk).read(65536, 1 << 19).unwrap();
        assert!(read.iter().all(|byte| *byte == 0));
        assert!(std::fs::metadata(&path).unwrap().blocks() < before);
        assert_eq!(disk.size_bytes(), 1 << 20);
    }

    #[test]
    fn a_full_host_is_told_apart_from_a_broken_one() {
        let from_code = |code| DiskError::from(io::Error::from_raw_os_error(code));
        use rustix::io::Errno;
        for errno in [Errno::NOSPC, Errno::DQUOT, Errno::FBIG] {
            assert_eq!(from_code(errno.raw_os_error()), DiskError::NoSpace);
        }
        assert_eq!(from_code(Errno::OPNOTSUPP.raw_os_error()), DiskError::Unsupported);
        assert_eq!(from_code(Errno::IO.raw_os_error()), DiskError::Io(Some(5)));
    }

    #[test]
    fn a_file_ends_where_it_is_truncated_and_grows_again_with_zeros() {
        let (_directory, path) = directory_and_path();
        let mut disk = FileDisk::create(&path, 1 << 20).unwrap();
        let mut blocking = Blocking::data(&mut disk);
        blocking.write(0, Bytes::from(vec![3; 1 << 20])).unwrap();
        blocking.truncate(8192).unwrap();
        blocking.truncate(1 << 20).expect("a file is not made longer");
        assert_eq!((blocking.size_bytes(), std::fs::metadata(&path).unwrap().len()), (8192, 8192));
        assert!(blocking.write(8192, Bytes::from_static(&[1; 512])).is_err());
        blocking.allocate(8192, 4096).unwrap();
        let read = blocking.read(4096, 8192).unwrap();
        assert!(read[..4096].iter().all(|byte| *byte == 3) && read[4096..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn an_allocation_beyond_the_limits_of_the_file_system_changes_nothing() {
        let (_directory, path) = directory_and_path();
        let mut disk = FileDisk::create(&path, 4096).unwrap();
        let offset_bytes = i64::MAX as u64 - 4096;
        disk.submit(Ticket(1), Operation::Allocate { offset_bytes, length_bytes: 1 << 20 });
        assert_eq!(disk.next_completion().unwrap().result, Err(DiskError::NoSpace));
        assert_eq!(disk.size_bytes(), 4096);
        Blocking::data(&mut disk).write(0, Bytes::from_static(&[1; 4096])).unwrap();
    }
}
