//! An open file or block device of a pool: how it is opened, made, locked, and which way bytes take to it.
//!
//! Owns the descriptors and the lock: whoever opens for writing is alone, in this process too, and those who only
//! read share. The lock sits on the open file description that writes, so it lives as long as anything that could
//! still write. Moving bytes is `file_io.rs`; who calls that is `file_disk.rs`, `ring.rs` and `threads.rs`.

use super::{HostRoom, device};
use crate::error::{Error, ErrorKind, Result};
use rustix::fs::{IFlags, OFlags};
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// Which way bytes take between a pool and its files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheMode {
    /// Reads and writes go past the page cache. What is promised after a power loss is the most, for any medium.
    Direct,
    /// Writes go past the page cache, reads through it, so that blocks which clones share are read from disk once.
    /// Promises what `Direct` does.
    Cached,
    /// Reads and writes go through the page cache. A 512-byte unit whose overwrite was not yet flushed may hold a
    /// mixture of old and new bytes after a power loss.
    Writeback,
}

impl CacheMode {
    /// Its name on command lines and in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Cached => "cached",
            Self::Writeback => "writeback",
        }
    }
}

/// An open file or block device.
///
/// Whoever writes near a file size limit must ignore SIGXFSZ; the limit then shows as
/// [`DiskError::NoSpace`](super::DiskError::NoSpace).
#[derive(Debug)]
pub struct DiskFile {
    /// Written, synced and punched through this; the lock sits on it.
    writer: File,
    /// Read through this in mode `Cached`.
    reader: Option<File>,
    mode: CacheMode,
    is_device: bool,
    size_bytes: AtomicU64,
}

impl DiskFile {
    /// Makes a sparse file of `size_bytes` that only its owner may read and write, and opens it for writing.
    ///
    /// Once this returns, the file's name and size survive a power loss. [`ErrorKind::Exists`] if the name is taken;
    /// after any other error the file is gone again.
    pub fn create(path: impl AsRef<Path>, size_bytes: u64, mode: CacheMode) -> Result<Self> {
        let path = path.as_ref();
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).mode(0o600).open(path);
        let file = file.map_err(|cause| open_error(path, &cause))?;
        let prepared =
            Self::prepare(path, &file, size_bytes).and_then(|()| Self::with_mode(path, file, mode));
        if prepared.is_err() {
            // The first error is the one to tell; a file that stays behind is visible enough.
            let _ = std::fs::remove_file(path);
        }
        prepared
    }

    fn prepare(path: &Path, file: &File, size_bytes: u64) -> Result<()> {
        lock(path, file.try_lock())?;
        forbid_copy_on_write(file);
        let prepared =
            file.set_len(size_bytes).and_then(|()| file.sync_all()).and_then(|()| sync_parent(path));
        prepared.map_err(|cause| open_error(path, &cause))
    }

    /// Opens a file or block device for reading and writing. [`ErrorKind::InUse`] if anybody has it open, for reading
    /// included, or if the kernel uses the device.
    pub fn open(path: impl AsRef<Path>, mode: CacheMode) -> Result<Self> {
        let path = path.as_ref();
        let file = open_file(path, OpenOptions::new().read(true).write(true), OFlags::EXCL)?;
        lock(path, file.try_lock())?;
        require_same(path, &file)?;
        Self::with_mode(path, file, mode)
    }

    /// As [`DiskFile::open`], in the mode that is best for it: `Direct` for a device, `Cached` for a file, `Writeback`
    /// where the file system cannot write past its cache. [`DiskFile::mode`] tells which it became.
    pub fn open_in_best_mode(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let device = is_device(path).map_err(|cause| open_error(path, &cause))?;
        let best = if device { CacheMode::Direct } else { CacheMode::Cached };
        match Self::open(path, best) {
            Err(error) if error.kind() == ErrorKind::Unsupported && !device => {
                Self::open(path, CacheMode::Writeback)
            }
            other => other,
        }
    }

    /// Opens a file or block device for reading. Any number of readers share it; [`ErrorKind::InUse`] if somebody
    /// writes. Operations that would change it fail with [`DiskError::Io`](super::DiskError::Io).
    pub fn open_read_only(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = open_file(path, OpenOptions::new().read(true), OFlags::empty())?;
        lock(path, file.try_lock_shared())?;
        require_same(path, &file)?;
        Self::with_mode(path, file, CacheMode::Writeback)
    }

    /// Takes a block device, or a file that is there already, for a new pool. [`ErrorKind::Exists`] if anything but
    /// zeros stands where file systems, partition tables and volume managers put their signatures, unless `force`.
    pub fn take_over(path: impl AsRef<Path>, mode: CacheMode, force: bool) -> Result<Self> {
        let path = path.as_ref();
        let disk = Self::open(path, mode)?;
        if !force {
            device::refuse_signature(path, &disk)?;
        }
        Ok(disk)
    }

    fn with_mode(path: &Path, file: File, mode: CacheMode) -> Result<Self> {
        let failed = |cause: io::Error| open_error(path, &cause);
        let reader = match mode {
            CacheMode::Cached => Some(File::open(path_of(&file)).map_err(failed)?),
            CacheMode::Direct | CacheMode::Writeback => None,
        };
        if mode != CacheMode::Writeback {
            write_past_cache(path, &file, mode)?;
        }
        let is_device = file.metadata().map_err(failed)?.file_type().is_block_device();
        // Asked for only now: before the lock was ours somebody could have extended the file.
        let size_bytes = device::size_bytes(&file).map_err(failed)?;
        Ok(Self { writer: file, reader, mode, is_device, size_bytes: AtomicU64::new(size_bytes) })
    }

    /// The size now, in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes.load(Ordering::Acquire)
    }

    /// Looks at the size again, after it may have changed.
    pub(super) fn refresh_size(&self) -> io::Result<()> {
        self.size_bytes.store(device::size_bytes(&self.writer)?, Ordering::Release);
        Ok(())
    }

    /// Which way its bytes take.
    pub fn mode(&self) -> CacheMode {
        self.mode
    }

    /// Whether it is a block device, whose size nobody here can change.
    pub fn is_device(&self) -> bool {
        self.is_device
    }

    /// What the host has allocated for it, in bytes; the whole size of a device.
    pub fn host_bytes(&self) -> io::Result<u64> {
        if self.is_device {
            return Ok(self.size_bytes());
        }
        Ok(self.writer.metadata()?.blocks() * 512)
    }

    /// What the host holds of it, and could hold. A device is all there is of it, once it was looked at anew.
    pub fn host_room(&self) -> io::Result<HostRoom> {
        if self.is_device {
            self.refresh_size()?;
            return Ok(HostRoom { allocated_bytes: self.size_bytes(), ..HostRoom::default() });
        }
        let host = rustix::fs::fstatvfs(&self.writer)?;
        Ok(HostRoom {
            allocated_bytes: self.host_bytes()?,
            free_bytes: host.f_bavail * host.f_frsize,
            total_bytes: host.f_blocks * host.f_frsize,
        })
    }

    /// Written, synced, allocated and punched through this.
    pub(super) fn writer(&self) -> &File {
        &self.writer
    }

    /// Read through this.
    pub(super) fn reader(&self) -> &File {
        self.reader.as_ref().unwrap_or(&self.writer)
    }
}

impl AsFd for DiskFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.writer.as_fd()
    }
}

/// The same file again, as a path: what its name leads to may have changed since it was opened.
fn path_of(file: &File) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

fn write_past_cache(path: &Path, file: &File, mode: CacheMode) -> Result<()> {
    let changed =
        rustix::fs::fcntl_getfl(file).and_then(|flags| rustix::fs::fcntl_setfl(file, flags | OFlags::DIRECT));
    changed.map_err(|cause| match cause {
        rustix::io::Errno::INVAL => {
            let message = format!(
                "{}: its file system cannot write past the page cache, which mode {} needs; use mode writeback",
                path.display(),
                mode.name()
            );
            Error::new(ErrorKind::Unsupported, message)
        }
        other => open_error(path, &other.into()),
    })
}

/// Copy-on-write file systems would move every overwrite, and need new space for it. Only an empty file can be told
/// so; others ignore the flag or refuse it, which changes nothing.
fn forbid_copy_on_write(file: &File) {
    if let Ok(flags) = rustix::fs::ioctl_getflags(file) {
        let _ = rustix::fs::ioctl_setflags(file, flags | IFlags::NOCOW);
    }
}

/// Between the opening and the lock somebody may have put another file in its place, as new metadata takes that of old.
fn require_same(path: &Path, file: &File) -> Result<()> {
    let failed = |cause: io::Error| open_error(path, &cause);
    let (named, opened) = (path.metadata().map_err(failed)?, file.metadata().map_err(failed)?);
    if (named.dev(), named.ino()) == (opened.dev(), opened.ino()) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::InUse, format!("'{}' was replaced just now", path.display())))
}

fn is_device(path: &Path) -> io::Result<bool> {
    Ok(std::fs::metadata(path)?.file_type().is_block_device())
}

/// Opens a file, or a device with `device_flags`: EXCL is refused while the kernel has the device itself, as mounted,
/// part of a mapping, or swapped to.
fn open_file(path: &Path, options: &mut OpenOptions, device_flags: OFlags) -> Result<File> {
    // Looked at before it is opened: opening a pipe would wait for its other end.
    let metadata = std::fs::metadata(path).map_err(|cause| open_error(path, &cause))?;
    let device = metadata.file_type().is_block_device();
    if !metadata.is_file() && !device {
        let message = format!("{}: neither a regular file nor a block device", path.display());
        return Err(Error::new(ErrorKind::Unsupported, message));
    }
    if device {
        options.custom_flags(device_flags.bits() as i32);
    }
    options.open(path).map_err(|cause| match cause.kind() {
        io::ErrorKind::ResourceBusy => {
            let message =
                format!("{}: mounted or used by the kernel; release it there first", path.display());
            Error::new(ErrorKind::InUse, message)
        }
        _ => open_error(path, &cause),
    })
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
