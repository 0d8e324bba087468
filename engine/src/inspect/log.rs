//! The log as it lies in its ring: every record, valid or not, in the order of places.
//!
//! Owns the scan. Which records count is recovery's verdict; here one only sees which hang together.

use super::recognise::{log_record, page};
use super::{Checksum, Inspection, Structure};
use crate::error::{Error, Result};
use crate::format::{LogRecord, RecordHeader, RootSlot, Superblock};
use crate::metadata::LogRing;
use crate::metadata::files::Files;
use crate::storage::Disk;
use crate::units::{BLOCK_BYTES, PAGE_BYTES, Sequence};

/// The log of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogInspection {
    /// What stands in the log's first pages.
    pub heads: Vec<Inspection>,
    /// The newest root slot that can be read; the log was found by it.
    pub slot: RootSlot,
    /// Pages of the ring.
    pub pages: u64,
    /// What looks like a record, in the order of places from where the slot says that the log goes on.
    pub entries: Vec<LogEntry>,
}

/// Something in the ring that is, or was, a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Where it starts in the data file, in bytes.
    pub offset_bytes: u64,
    /// What its first page says of it.
    pub header: RecordHeader,
    /// Whether it belongs to the present.
    pub state: LogState,
    /// All of it, where it is not cut off by the end of its block.
    pub record: Option<LogRecord>,
}

/// How a record stands to the root slot that led to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogState {
    /// The chain from the slot leads to it.
    InChain,
    /// It is whole, and of another opening, or in the slot already.
    Old,
    /// It is whole, of the slot's opening and behind its chain: something between is missing.
    Detached,
    /// Its checksum is wrong: it was torn, half overwritten or damaged, or is no record of this pool.
    Invalid,
}

/// Lists the log of the pool on two disks. Fails if no root slot leads to it, or it cannot be read.
pub fn log(data: &mut dyn Disk, metadata: &mut dyn Disk) -> Result<LogInspection> {
    let mut files = Files::new(data, metadata);
    let superblock = files.superblock()?;
    let [newest, older] = files.root_slots(&superblock.pool);
    let slot = newest.or(older)?;
    let ring = LogRing::new(&slot.log, slot.log_position)?;
    let offsets = ring.head_page_offsets_bytes();
    let heads = offsets.iter().map(|offset| Ok(page(&files.data.read(*offset, PAGE_BYTES)?)));
    let heads = heads.collect::<Result<_>>()?;
    let entries =
        Scan { files, superblock, slot: &slot, next: (ring.head, slot.sequence.next()), ring: &ring };
    let entries = entries.run()?;
    Ok(LogInspection { heads, pages: ring.pages(), slot, entries })
}

struct Scan<'s, 'f> {
    files: Files<'f>,
    superblock: Superblock,
    slot: &'s RootSlot,
    ring: &'s LogRing,
    /// Where the next record of the chain stands, and its number.
    next: (u64, Sequence),
}

impl Scan<'_, '_> {
    fn run(mut self) -> Result<Vec<LogEntry>> {
        let mut entries = Vec::new();
        let start = self.ring.head;
        let end = start.checked_add(self.ring.pages());
        let end = end.ok_or_else(|| Error::damaged("the root slot names an impossible log position"))?;
        let mut position = start;
        while position < end {
            let entry = self.entry_at(position)?;
            let is_whole = entry.as_ref().is_some_and(|entry| entry.state != LogState::Invalid);
            let pages = entry.as_ref().map_or(1, |entry| u64::from(entry.header.pages));
            position += if is_whole { pages } else { 1 };
            entries.extend(entry);
        }
        Ok(entries)
    }

    fn entry_at(&mut self, position: u64) -> Result<Option<LogEntry>> {
        let offset_bytes = self.ring.offset_bytes(position);
        let block_rest = (BLOCK_BYTES - offset_bytes % BLOCK_BYTES) as usize;
        let first = self.files.data.read(offset_bytes, PAGE_BYTES)?;
        let Some(header) = LogRecord::peek(&first) else { return Ok(None) };
        let length = (usize::from(header.pages) * PAGE_BYTES).min(block_rest);
        let bytes = self.files.data.read(offset_bytes, length)?;
        let found = log_record(&bytes, Some(self.superblock.secret));
        let Structure::LogRecord(record) = found.structure else { return Ok(None) };
        let state = self.state_of(position, &header, found.checksum);
        Ok(Some(LogEntry { offset_bytes, header, state, record }))
    }

    fn state_of(&mut self, position: u64, header: &RecordHeader, checksum: Checksum) -> LogState {
        if checksum != Checksum::Right {
            return LogState::Invalid;
        }
        let of_this_opening = header.incarnation == self.slot.incarnation;
        if of_this_opening && (position, header.sequence) == self.next {
            self.next = (position + u64::from(header.pages), header.sequence.next());
            return LogState::InChain;
        }
        if of_this_opening && header.sequence >= self.next.1 { LogState::Detached } else { LogState::Old }
    }
}
