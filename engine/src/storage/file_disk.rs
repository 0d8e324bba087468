//! A regular file as a disk: pread, pwrite, fdatasync and fallocate, every operation complete at once.
//!
//! Owns the open file and its lock: whoever opens for writing is alone, in this process too, and those who only
//! read share. The lock sits on the open file description that does the I/O, so it lives as long as anything that
//! could still write. Never retries a failed sync, never looks into the bytes. Read next: `mod.rs`.

use super::{Completion, Disk, DiskError, Operation, Ticket};
use crate::error::{Error, ErrorKind, Result};
use rustix::fs::{FallocateFlags, SeekFrom};
use std::collections::VecDeque;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

const ZEROS_BYTES: u64 = 1 << 20;

/// A regular file as a disk.
///
/// Whoever writes near a file size limit must ignore SIGXFSZ; the limit then shows as [`DiskError::NoSpace`].
#[derive(Debug)]
pub struct FileDisk {
    file: File,
    size_bytes: u64,
    completed: VecDeque<Completion>,
}

impl FileDisk {
    /// Makes a sparse file of `size_bytes` that only its owner may read and write, and opens it for writing.
    ///
    /// Once this returns, the file's name and size survive a power loss. [`ErrorKind::Exists`] if the name is taken;
    /// after any other error the file is gone again.
    pub fn create(path: impl AsRef<Path>, size_bytes: u64) -> Result<Self> {
        let path = path.as_ref();
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).mode(0o600).open(path);
        let file = file.map_err(|cause| open_error(path, &cause))?;
        lock(path, file.try_lock())?;
        let prepared =
            file.set_len(size_bytes).and_then(|()| file.sync_all()).and_then(|()| sync_parent(path));
        match prepared {
            Ok(()) => Ok(Self { file, size_bytes, completed: VecDeque::new() }),
            Err(cause) => {
                // The first error is the one to tell; a file that stays behind is visible enough.
                let _ = std::fs::remove_file(path);
                Err(open_error(path, &cause))
            }
        }
    }

    /// Opens a file for reading and writing. [`ErrorKind::InUse`] if anybody has it open, for reading included.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = open_file(path, OpenOptions::new().read(true).write(true))?;
        lock(path, file.try_lock())?;
        Self::from_locked(path, file)
    }

    /// Opens a file for reading. Any number of readers share it; [`ErrorKind::InUse`] if somebody writes.
    ///
    /// Operations that would change the file fail with [`DiskError::Io`].
    pub fn open_read_only(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = open_file(path, OpenOptions::new().read(true))?;
        lock(path, file.try_lock_shared())?;
        Self::from_locked(path, file)
    }

    fn from_locked(path: &Path, file: File) -> Result<Self> {
        // Asked for only now: before the lock was ours somebody could have extended the file.
        let size_bytes = file.metadata().map_err(|cause| open_error(path, &cause))?.len();
        Ok(Self { file, size_bytes, completed: VecDeque::new() })
    }

    fn perform(&mut self, operation: &mut Operation) -> std::result::Result<(), DiskError> {
        match operation {
            Operation::Read { offset_bytes, buffer } => self.file.read_exact_at(buffer, *offset_bytes)?,
            Operation::Write { offset_bytes, bytes } => {
                self.check_end(*offset_bytes, bytes.len() as u64)?;
                self.file.write_all_at(bytes, *offset_bytes)?;
            }
            Operation::Sync => self.file.sync_data()?,
            Operation::Punch { length_bytes: 0, .. } | Operation::Allocate { length_bytes: 0, .. } => {}
            Operation::Punch { offset_bytes, length_bytes } => {
                let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                self.fallocate(mode, *offset_bytes, *length_bytes)?;
            }
            Operation::Allocate { offset_bytes, length_bytes } => {
                self.allocate(*offset_bytes, *length_bytes)?;
            }
        }
        Ok(())
    }

    fn check_end(&self, offset_bytes: u64, length_bytes: u64) -> std::result::Result<(), DiskError> {
        match offset_bytes.checked_add(length_bytes) {
            Some(end) if end <= self.size_bytes => Ok(()),
            _ => Err(DiskError::Short),
        }
    }

    fn allocate(&mut self, offset_bytes: u64, length_bytes: u64) -> io::Result<()> {
        let allocated = match self.fallocate(FallocateFlags::empty(), offset_bytes, length_bytes) {
            Err(cause) if cause.kind() == io::ErrorKind::Unsupported => {
                self.allocate_by_writing(offset_bytes, length_bytes)
            }
            other => other,
        };
        // Also after an error: part of the range may have been added.
        self.size_bytes = self.file.metadata()?.len();
        allocated
    }

    /// For file systems without fallocate: writes zeros where nothing is stored yet.
    fn allocate_by_writing(&self, offset_bytes: u64, length_bytes: u64) -> io::Result<()> {
        let end = offset_bytes.checked_add(length_bytes).ok_or(io::ErrorKind::FileTooLarge)?;
        let old_end = end.min(self.size_bytes);
        let mut at = offset_bytes;
        while at < old_end {
            let hole = self.seek(SeekFrom::Hole(at))?.min(old_end);
            at = if hole < old_end { self.seek(SeekFrom::Data(hole))?.min(old_end) } else { old_end };
            self.write_zeros(hole, at)?;
        }
        self.write_zeros(offset_bytes.max(self.size_bytes), end)
    }

    /// Where the next hole or data begins; the end of the file where there is no more of it.
    fn seek(&self, target: SeekFrom) -> io::Result<u64> {
        match rustix::fs::seek(&self.file, target) {
            Err(rustix::io::Errno::NXIO) => Ok(self.size_bytes),
            other => Ok(other?),
        }
    }

    fn write_zeros(&self, start: u64, end: u64) -> io::Result<()> {
        let zeros = vec![0; end.saturating_sub(start).min(ZEROS_BYTES) as usize];
        let mut at = start;
        while at < end {
            let length = (end - at).min(ZEROS_BYTES);
            self.file.write_all_at(&zeros[..length as usize], at)?;
            at += length;
        }
        Ok(())
    }

    fn fallocate(&self, mode: FallocateFlags, offset_bytes: u64, length_bytes: u64) -> io::Result<()> {
        let call = || rustix::fs::fallocate(&self.file, mode, offset_bytes, length_bytes);
        Ok(rustix::io::retry_on_intr(call)?)
    }
}

impl Disk for FileDisk {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn submit(&mut self, ticket: Ticket, mut operation: Operation) {
        let result = self.perform(&mut operation);
        self.completed.push_back(Completion { ticket, operation, result });
    }

    fn next_completion(&mut self) -> Option<Completion> {
        self.completed.pop_front()
    }
}

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

fn open_file(path: &Path, options: &OpenOptions) -> Result<File> {
    // Looked at before it is opened: opening a pipe would wait for its other end.
    let metadata = std::fs::metadata(path).map_err(|cause| open_error(path, &cause))?;
    if !metadata.is_file() {
        let message = format!("{}: not a regular file", path.display());
        return Err(Error::new(ErrorKind::Unsupported, message));
    }
    options.open(path).map_err(|cause| open_error(path, &cause))
}

fn lock(path: &Path, locked: std::result::Result<(), TryLockError>) -> Result<()> {
    match locked {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            let message = format!("{}: opened elsewhere; close it there first", path.display());
            Err(Error::new(ErrorKind::InUse, message))
        }
        Err(TryLockError::Error(cause)) => Err(open_error(path, &cause)),
    }
}

/// Without this a power loss could take the name of a new file.
fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

fn open_error(path: &Path, cause: &io::Error) -> Error {
    use io::ErrorKind as Cause;
    let kind = match cause.kind() {
        Cause::NotFound => ErrorKind::NotFound,
        Cause::AlreadyExists => ErrorKind::Exists,
        Cause::StorageFull | Cause::QuotaExceeded | Cause::FileTooLarge => ErrorKind::NoSpace,
        _ => ErrorKind::Io,
    };
    Error::new(kind, format!("{}: {cause}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::super::{Blocking, Buffer};
    use super::*;
    use bytes::Bytes;
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
        let duplicate = disk.file.try_clone().unwrap();
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
        disk.allocate_by_writing(65536, (4 << 20) - 65536).unwrap();
        let metadata = std::fs::metadata(&path).unwrap();
        assert_eq!(metadata.len(), 4 << 20);
        assert!(metadata.blocks() * 512 >= (4 << 20) - 65536);
        disk.size_bytes = metadata.len();
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
