//! The log, as far as recovery did not look at it: what the older root slot needs.
//!
//! Owns the check that either slot and the log give the same present. The chain behind the newer slot is recovery's.

use super::report::Notes;
use crate::error::{Error, Place};
use crate::format::{LogRecord, RootSlot, Superblock};
use crate::metadata::LogRing;
use crate::metadata::files::Files;
use crate::units::PAGE_BYTES;

/// Checks that the records from `older` on reach the state of `newest`.
pub(super) fn check_older_chain(
    files: &mut Files<'_>,
    superblock: &Superblock,
    newest: &RootSlot,
    older: &RootSlot,
    notes: &mut Notes<'_>,
) {
    if older.sequence > newest.sequence || older.log_position > newest.log_position {
        notes.add(Error::damaged("the older root slot is ahead of the newer one in the log"));
        return;
    }
    let mut ring = match LogRing::new(&older.log, older.log_position) {
        Ok(ring) => ring,
        Err(error) => return notes.add(error),
    };
    let mut expected = older.sequence.next();
    while expected <= newest.sequence {
        match record_at(files, superblock, &ring) {
            Ok(record) if record.sequence == expected && record.incarnation == older.incarnation => {
                ring.head += u64::from(record.pages);
                expected = expected.next();
            }
            _ => {
                let message = "the older root slot needs this log record, and it cannot be read";
                return notes.add(Error::damaged(message).at(Place::Record(expected)));
            }
        }
    }
}

fn record_at(files: &mut Files<'_>, superblock: &Superblock, ring: &LogRing) -> Result<LogRecord, Error> {
    let offset = ring.offset_bytes(ring.head);
    let first = files.data.read(offset, PAGE_BYTES)?;
    let pages = LogRecord::peek(&first).map_or(1, |header| u64::from(header.pages));
    if pages > ring.contiguous_pages(ring.head) {
        return Err(Error::damaged("a log record reaches into the next block"));
    }
    LogRecord::decode(&files.data.read(offset, pages as usize * PAGE_BYTES)?, superblock.secret)
}
