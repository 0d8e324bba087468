//! A disk in memory: sparse, in order, every operation complete at once.
//!
//! Owns bytes and counters, so that tests can count what an operation costs. Never fails but at its end, never
//! loses anything: crashes and faults belong to the simulated disk of the tests. Read next: `mod.rs`.

use super::{Completion, Disk, DiskError, Operation, Ticket};
use crate::units::PAGE_BYTES;
use rustc_hash::FxHashMap;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

/// What a disk was asked to do so far, failed operations included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskCounters {
    /// Read operations.
    pub reads: u64,
    /// Write operations.
    pub writes: u64,
    /// Bytes that reads asked for.
    pub bytes_read: u64,
    /// Bytes that writes brought.
    pub bytes_written: u64,
    /// Sync operations: device flushes.
    pub syncs: u64,
    /// Punch operations.
    pub punches: u64,
    /// Allocate operations.
    pub allocations: u64,
}

impl DiskCounters {
    /// What was asked for since the counters stood at `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            reads: self.reads - earlier.reads,
            writes: self.writes - earlier.writes,
            bytes_read: self.bytes_read - earlier.bytes_read,
            bytes_written: self.bytes_written - earlier.bytes_written,
            syncs: self.syncs - earlier.syncs,
            punches: self.punches - earlier.punches,
            allocations: self.allocations - earlier.allocations,
        }
    }

    fn count(&mut self, operation: &Operation) {
        match operation {
            Operation::Read { buffer, .. } => {
                self.reads += 1;
                self.bytes_read += buffer.len() as u64;
            }
            Operation::Write { bytes, .. } => {
                self.writes += 1;
                self.bytes_written += bytes.len() as u64;
            }
            Operation::Sync => self.syncs += 1,
            Operation::Punch { .. } => self.punches += 1,
            Operation::Allocate { .. } => self.allocations += 1,
        }
    }
}

type Page = [u8; PAGE_BYTES];

/// A sparse disk in memory. A clone is an independent disk of the same content; it shares unchanged pages, and
/// completions that were not taken stay with the original.
#[derive(Debug, Default)]
pub struct MemoryDisk {
    size_bytes: u64,
    // Pages that are not here read as zeros.
    pages: FxHashMap<u64, Arc<Page>>,
    counters: DiskCounters,
    completed: VecDeque<Completion>,
}

impl MemoryDisk {
    /// A disk of `size_bytes` zeros. It grows by [`Operation::Allocate`].
    pub fn new(size_bytes: u64) -> Self {
        Self { size_bytes, ..Self::default() }
    }

    /// What the disk was asked to do since it was made, its ancestors by cloning included.
    pub fn counters(&self) -> DiskCounters {
        self.counters
    }

    /// How many bytes of memory the content takes: a multiple of 4 KiB, without punched and never written pages.
    pub fn stored_bytes(&self) -> u64 {
        (self.pages.len() * PAGE_BYTES) as u64
    }

    fn perform(&mut self, operation: &mut Operation) -> Result<(), DiskError> {
        match operation {
            Operation::Read { offset_bytes, buffer } => self.read(*offset_bytes, buffer),
            Operation::Write { offset_bytes, bytes } => self.write(*offset_bytes, bytes),
            Operation::Sync => Ok(()),
            Operation::Punch { offset_bytes, length_bytes } => {
                self.punch(*offset_bytes, *length_bytes);
                Ok(())
            }
            Operation::Allocate { offset_bytes, length_bytes } => {
                let end = offset_bytes.checked_add(*length_bytes).ok_or(DiskError::NoSpace)?;
                self.size_bytes = self.size_bytes.max(end);
                Ok(())
            }
        }
    }

    fn read(&self, offset_bytes: u64, buffer: &mut [u8]) -> Result<(), DiskError> {
        self.check_range(offset_bytes, buffer.len())?;
        for (page, inside, part) in pieces(offset_bytes, buffer.len() as u64) {
            match self.pages.get(&page) {
                Some(bytes) => buffer[part].copy_from_slice(&bytes[inside]),
                None => buffer[part].fill(0),
            }
        }
        Ok(())
    }

    fn write(&mut self, offset_bytes: u64, bytes: &[u8]) -> Result<(), DiskError> {
        self.check_range(offset_bytes, bytes.len())?;
        for (page, inside, part) in pieces(offset_bytes, bytes.len() as u64) {
            let stored = self.pages.entry(page).or_insert_with(|| Arc::new([0; PAGE_BYTES]));
            Arc::make_mut(stored)[inside].copy_from_slice(&bytes[part]);
        }
        Ok(())
    }

    fn punch(&mut self, offset_bytes: u64, length_bytes: u64) {
        let end = offset_bytes.saturating_add(length_bytes).min(self.size_bytes);
        for (page, inside, _) in pieces(offset_bytes, end.saturating_sub(offset_bytes)) {
            if inside.len() == PAGE_BYTES {
                self.pages.remove(&page);
            } else if let Some(stored) = self.pages.get_mut(&page) {
                Arc::make_mut(stored)[inside].fill(0);
            }
        }
    }

    fn check_range(&self, offset_bytes: u64, length_bytes: usize) -> Result<(), DiskError> {
        let end = offset_bytes.checked_add(length_bytes as u64).ok_or(DiskError::Short)?;
        if end <= self.size_bytes { Ok(()) } else { Err(DiskError::Short) }
    }
}

/// Cuts a byte range of the disk at page borders: page number, range inside the page, range inside the whole.
fn pieces(offset_bytes: u64, length_bytes: u64) -> impl Iterator<Item = (u64, Range<usize>, Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == length_bytes {
            return None;
        }
        let at = offset_bytes + done;
        let first = (at % PAGE_BYTES as u64) as usize;
        let length = (length_bytes - done).min((PAGE_BYTES - first) as u64) as usize;
        let part = done as usize..done as usize + length;
        done += length as u64;
        Some((at / PAGE_BYTES as u64, first..first + length, part))
    })
}

impl Clone for MemoryDisk {
    fn clone(&self) -> Self {
        Self {
            size_bytes: self.size_bytes,
            pages: self.pages.clone(),
            counters: self.counters,
            completed: VecDeque::new(),
        }
    }
}

impl Disk for MemoryDisk {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn submit(&mut self, ticket: Ticket, mut operation: Operation) {
        self.counters.count(&operation);
        let result = self.perform(&mut operation);
        self.completed.push_back(Completion { ticket, operation, result });
    }

    fn next_completion(&mut self) -> Option<Completion> {
        self.completed.pop_front()
    }

    fn truncate(&mut self, size_bytes: u64) -> Result<(), DiskError> {
        let gone = self.size_bytes.saturating_sub(size_bytes);
        self.punch(size_bytes, gone);
        self.size_bytes -= gone;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Blocking, Buffer};
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;

    const SIZE: usize = 5 * PAGE_BYTES;

    proptest! {
        #[test]
        fn behaves_as_an_array_of_bytes(steps in prop::collection::vec((any::<bool>(), 0..SIZE, 0..SIZE, 1u8..), 1..20)) {
            let mut disk = MemoryDisk::new(SIZE as u64);
            let mut model = vec![0u8; SIZE];
            for (punch, start, length, value) in steps {
                let length = length.min(SIZE - start);
                let mut blocking = Blocking::data(&mut disk);
                if punch {
                    blocking.punch(start as u64, length as u64).unwrap();
                } else {
                    blocking.write(start as u64, Bytes::from(vec![value; length])).unwrap();
                }
                model[start..start + length].fill(if punch { 0 } else { value });
                prop_assert_eq!(&blocking.read(0, SIZE).unwrap()[..], &model[..]);
            }
        }
    }

    #[test]
    fn completes_in_order_and_hands_the_buffers_back() {
        let mut disk = MemoryDisk::new(4096);
        disk.submit(Ticket(9), Operation::Write { offset_bytes: 0, bytes: Bytes::from_static(b"block") });
        disk.submit(Ticket(3), Operation::Read { offset_bytes: 0, buffer: Buffer::zeroed(5) });
        assert_eq!(disk.next_completion().unwrap().ticket, Ticket(9));
        let read = disk.next_completion().unwrap();
        assert_eq!((read.ticket, read.result), (Ticket(3), Ok(())));
        assert!(matches!(read.operation, Operation::Read { buffer, .. } if &buffer[..] == b"block"));
        assert!(disk.next_completion().is_none());
    }

    #[test]
    fn nothing_moves_behind_the_end_until_it_is_allocated() {
        let mut disk = MemoryDisk::new(4096);
        let write = |offset_bytes| Operation::Write { offset_bytes, bytes: Bytes::from_static(&[1; 1024]) };
        for offset in [3584, 4096, u64::MAX] {
            disk.submit(Ticket(0), write(offset));
            assert_eq!(disk.next_completion().unwrap().result, Err(DiskError::Short));
        }
        assert_eq!(Blocking::data(&mut disk).read(0, 4096).unwrap()[..], [0; 4096]);
        Blocking::data(&mut disk).allocate(4096, 4096).unwrap();
        disk.submit(Ticket(0), write(3584));
        assert_eq!(disk.next_completion().unwrap().result, Ok(()));
        assert_eq!(disk.size_bytes(), 8192);
    }

    #[test]
    fn a_clone_is_independent() {
        let mut disk = MemoryDisk::new(8192);
        Blocking::data(&mut disk).write(0, Bytes::from_static(&[1; 8192])).unwrap();
        let mut copy = disk.clone();
        Blocking::data(&mut copy).punch(0, 4096).unwrap();
        assert_eq!((disk.stored_bytes(), copy.stored_bytes()), (8192, 4096));
        assert_eq!(Blocking::data(&mut disk).read(0, 1).unwrap()[0], 1);
        assert_eq!(Blocking::data(&mut copy).read(0, 1).unwrap()[0], 0);
    }

    #[test]
    fn counters_tell_what_was_asked_for() {
        let mut disk = MemoryDisk::new(8192);
        let mut blocking = Blocking::data(&mut disk);
        blocking.write(0, Bytes::from_static(&[1; 4096])).unwrap();
        blocking.sync().unwrap();
        let before = disk.counters();
        let mut blocking = Blocking::data(&mut disk);
        blocking.read(0, 512).unwrap();
        blocking.punch(0, 4096).unwrap();
        blocking.allocate(0, 16384).unwrap();
        let expected =
            DiskCounters { reads: 1, bytes_read: 512, punches: 1, allocations: 1, ..Default::default() };
        assert_eq!(disk.counters().since(&before), expected);
        assert_eq!((before.writes, before.bytes_written, before.syncs), (1, 4096, 1));
    }
}
