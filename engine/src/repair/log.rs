//! The log of a damaged pool: that it is this pool's, what it holds behind a root slot, and that nothing durable is
//! missing in it.
//!
//! Owns the refusals. A gap in the log refuses repair as it refuses an opening: what the missing record changed, and so
//! what is stale since, nobody can tell. Applies nothing; see `replay.rs`.

use crate::error::{Error, ErrorKind, Place, Result};
use crate::format::{Delta, LogHead, LogRecord, RootSlot, Superblock};
use crate::metadata::LogRing;
use crate::metadata::files::Files;
use crate::metadata::log_ring::PAGES_PER_BLOCK;
use crate::metadata::recovery::{check_log_head, look_for_evidence, read_again, read_chain};
use crate::units::{Incarnation, PAGE_BYTES, Sequence, VolumeId};
use rustc_hash::FxHashSet;

/// What the log says behind one root slot.
pub(super) struct Log {
    /// The ring, its head behind the last record.
    pub ring: LogRing,
    pub records: Vec<LogRecord>,
    /// The last record that is part of the present.
    pub sequence: Sequence,
    /// The last record known to be durable.
    pub synced: Sequence,
    /// The newest opening that has written anything.
    pub incarnation: Incarnation,
}

impl Log {
    /// Reads the log behind `slot`. Fails where an opening from that slot would have to, but does without log heads if
    /// both are damaged and the log holds records of this pool.
    pub fn read(files: &mut Files<'_>, superblock: &Superblock, slot: &RootSlot) -> Result<Self> {
        let mut ring = LogRing::new(&slot.log, slot.log_position)?;
        match check_log_head(files, superblock, slot, &ring) {
            Ok(()) => {}
            Err(error) if heads_are_damaged(files, superblock, &ring)? => {
                if !holds_a_record(files, superblock, &ring)? {
                    return Err(error);
                }
            }
            Err(error) => return Err(error),
        }
        let chain = read_chain(files, superblock, slot, &mut ring)?;
        let records = chain.iter().map(|found| read_again(files, superblock, &ring, found));
        let records = records.collect::<Result<Vec<_>>>()?;
        let sequence = records.last().map_or(slot.sequence, |record| record.sequence);
        let synced = look_for_evidence(files, superblock, slot, &ring, sequence)?;
        let synced = records.iter().map(|record| record.synced).fold(synced, Sequence::max);
        Ok(Self { ring, records, sequence, synced, incarnation: slot.incarnation })
    }

    /// Volumes that the records change, and that neither `known` has nor the records make.
    pub fn changes_only(&self, mut known: FxHashSet<VolumeId>) -> bool {
        self.records.iter().flat_map(|record| &record.deltas).all(|delta| match delta {
            Delta::Create { record } => {
                known.insert(record.id);
                true
            }
            Delta::Snapshot { cuts } => cuts.iter().all(|(source, record)| {
                known.insert(record.id);
                known.contains(source)
            }),
            Delta::Delete { volumes } => volumes.iter().all(|volume| known.contains(volume)),
            Delta::Rollback { volume, snapshot, old } => {
                known.insert(*old);
                known.contains(volume) && known.contains(snapshot)
            }
            one => one.volume().is_none_or(|volume| known.contains(&volume)),
        })
    }
}

/// Whether neither log head can be read, and neither is another pool's.
fn heads_are_damaged(files: &mut Files<'_>, superblock: &Superblock, ring: &LogRing) -> Result<bool> {
    for offset in ring.head_page_offsets_bytes() {
        if offset + PAGE_BYTES as u64 > files.data.size_bytes() {
            return Ok(false);
        }
        let page = files.data.read(offset, PAGE_BYTES)?;
        let is_other = |error: &Error| error.kind() == ErrorKind::Mismatch && LogHead::is_one(&page);
        if LogHead::decode(&page, &superblock.pool).map_or_else(|error| is_other(&error), |_| true) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether the log holds a record of this pool, of whatever opening: nobody else knows the secret.
fn holds_a_record(files: &mut Files<'_>, superblock: &Superblock, ring: &LogRing) -> Result<bool> {
    for block in ring.blocks() {
        let bytes = files.data.read(block.offset_bytes(), PAGES_PER_BLOCK as usize * PAGE_BYTES)?;
        let mut pages = (0..PAGES_PER_BLOCK as usize).map(|page| &bytes[page * PAGE_BYTES..]);
        if pages.any(|rest| LogRecord::is_intact(rest, superblock.secret)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The volumes that a delta makes.
pub(super) fn made_by(delta: &Delta) -> Vec<VolumeId> {
    match delta {
        Delta::Create { record } => vec![record.id],
        Delta::Snapshot { cuts } => cuts.iter().map(|(_, record)| record.id).collect(),
        Delta::Rollback { old, .. } => vec![*old],
        _ => Vec::new(),
    }
}

/// The error of a log that cannot be used, with what to do.
pub(super) fn refused(error: &Error) -> Error {
    let message = format!("repair cannot go on: {}", error.message());
    let new = Error::new(error.kind(), message);
    error.place().map_or(new.clone(), |place: Place| new.at(place))
}
