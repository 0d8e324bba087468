//! The only folder that touches files: operations go in, completions come out.
//!
//! A [`Disk`] takes operations that own their buffers and hands them back when they are done, in any order.
//! What may be assumed of a disk stands in `docs/format.md`; nothing else may be. Never decides, never retries,
//! never looks into the bytes. Files: `buffer.rs` (aligned memory), `memory_disk.rs`, `disk_file.rs` (open files and
//! devices), `file_disk.rs` (one operation at a time on them), `blocking.rs` (the same with waiting, for recovery and
//! tools), `reactor.rs` (many operations at a time, on files and sockets).

mod arena;
mod blocking;
mod buffer;
mod device;
mod disk_file;
mod file_disk;
mod file_io;
mod memory_disk;
mod reactor;
mod ring;
mod threads;

pub use arena::reserve as reserve_buffers;
pub use blocking::Blocking;
pub use buffer::Buffer;
pub use device::wipe_signatures;
pub use disk_file::{CacheMode, DiskFile};
pub use file_disk::FileDisk;
pub use memory_disk::{DiskCounters, MemoryDisk};
pub use reactor::{Event, Reactor, ReactorKind, SocketToken, Waker, reactor};

use bytes::Bytes;

/// Chosen by whoever submits; comes back with the completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// One operation on a disk. It owns its memory from submission to completion.
#[derive(Debug)]
pub enum Operation {
    /// Fill `buffer` from `offset_bytes`. Reading behind the end of the disk is an error.
    Read {
        /// Where to read, in bytes.
        offset_bytes: u64,
        /// Filled whole when the operation succeeds; its content means nothing when it fails.
        buffer: Buffer,
    },
    /// Write `bytes` at `offset_bytes`. Writing behind the end of the disk is an error; see [`Operation::Allocate`].
    Write {
        /// Where to write, in bytes.
        offset_bytes: u64,
        /// What to write. Nobody can change it while the operation runs.
        bytes: Bytes,
    },
    /// Make every write, punch and allocation that *completed before this was submitted* survive a power loss.
    Sync,
    /// Give the space of the range back; it reads as zeros afterwards.
    Punch {
        /// Where the range starts, in bytes.
        offset_bytes: u64,
        /// How long it is, in bytes.
        length_bytes: u64,
    },
    /// Make room for the range, extending the disk where it is shorter: written bytes stay as they are, new ones
    /// read as zeros, and once this has completed writes into the range do not fail for lack of space.
    Allocate {
        /// Where the range starts, in bytes.
        offset_bytes: u64,
        /// How long it is, in bytes.
        length_bytes: u64,
    },
}

/// Why an operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DiskError {
    /// The device failed; with the system's error number where there is one.
    Io(Option<i32>),
    /// No space on the host, or a quota or file size limit was reached.
    NoSpace,
    /// Fewer bytes were moved than asked for (beyond the end, or a device that stopped early).
    Short,
    /// The disk does not support this operation.
    Unsupported,
}

/// What became of an operation.
#[derive(Debug)]
pub struct Completion {
    /// The ticket it was submitted with.
    pub ticket: Ticket,
    /// The operation, with its memory.
    pub operation: Operation,
    /// Whether it was carried out. After an error nothing is known about the bytes it named.
    pub result: std::result::Result<(), DiskError>,
}

/// What a host holds of a file, and what it could hold, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostRoom {
    /// Allocated for the file.
    pub allocated_bytes: u64,
    /// Free on its file system, for this user.
    pub free_bytes: u64,
    /// Size of its file system.
    pub total_bytes: u64,
}

impl HostRoom {
    /// The largest file that the host can hold beside what else is there, less a margin: a twentieth of its file system, at
    /// most 1 GiB.
    pub fn holds_at_most(&self) -> u64 {
        let margin = (self.total_bytes / 20).min(1 << 30);
        self.allocated_bytes + self.free_bytes.saturating_sub(margin)
    }
}

/// A disk: operations in, completions out, in any order.
pub trait Disk {
    /// The size of the disk now, in bytes.
    fn size_bytes(&self) -> u64;

    /// What its host holds and could hold; none if that is not known.
    fn host_room(&self) -> Option<HostRoom> {
        None
    }

    /// Starts an operation. It may complete at once or later; it never blocks for long.
    fn submit(&mut self, ticket: Ticket, operation: Operation);

    /// Takes one completed operation. Waits for one if any is in flight; `None` if none is.
    fn next_completion(&mut self) -> Option<Completion>;

    /// Makes the disk end at `size_bytes` and gives what is behind that back to the host, at once. Nothing may be in
    /// flight. Until the next sync a power loss may undo it. `Unsupported` where the size is given, as that of a device.
    fn truncate(&mut self, size_bytes: u64) -> std::result::Result<(), DiskError> {
        let _ = size_bytes;
        Err(DiskError::Unsupported)
    }
}

impl<D: Disk + ?Sized> Disk for &mut D {
    fn size_bytes(&self) -> u64 {
        (**self).size_bytes()
    }

    fn submit(&mut self, ticket: Ticket, operation: Operation) {
        (**self).submit(ticket, operation);
    }

    fn next_completion(&mut self) -> Option<Completion> {
        (**self).next_completion()
    }

    fn truncate(&mut self, size_bytes: u64) -> std::result::Result<(), DiskError> {
        (**self).truncate(size_bytes)
    }
}
