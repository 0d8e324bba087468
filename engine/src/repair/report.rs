//! What a repair tells: what was bad, what came back, and what is lost, in bytes of volumes.
//!
//! Owns the types of the report. Knows no trees. Read next: `mod.rs`.

use crate::error::Error;
use crate::units::{Generation, Sequence, VolumeId};

/// How far a repair has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Pages read so far.
    pub pages_done: u64,
    /// Pages that will have been read at the end, estimated. Never less than `pages_done`.
    pub pages_total: u64,
}

/// What a repair found and made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RepairReport {
    /// The root slot that the new metadata starts from.
    pub slot: Generation,
    /// What could not be used, in the order in which it was found.
    pub problems: Vec<Error>,
    /// Pages that nothing led to any more, put back by their counts.
    pub reattached_pages: u64,
    /// Volume records could not be read: volumes may be missing, or come back under new names.
    pub records_lost: bool,
    /// Volumes whose records are lost and whose mappings are not, under their new names.
    pub recovered_volumes: Vec<String>,
    /// Changes in the log that could not be made, because the record of their volume is lost.
    pub skipped_deltas: u64,
    /// Log records behind the root slot that are part of the new metadata.
    pub records: u64,
    /// Where the log ended because data of an unproven change had not reached the disk.
    pub dropped_at: Option<Sequence>,
    /// Volumes and snapshots in the new metadata, those being deleted included.
    pub volumes: u64,
    /// What reads as an error from now on, by volume and offset; also what an earlier repair had lost.
    pub losses: Vec<Loss>,
    /// Bytes that the new metadata file takes.
    pub metadata_bytes: u64,
}

/// A byte range of a volume that is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// The volume's number.
    pub volume: VolumeId,
    /// Its name.
    pub name: String,
    /// Where the range starts, in bytes.
    pub offset_bytes: u64,
    /// How long it is, in bytes.
    pub length_bytes: u64,
}
