//! Volume records: names, numbers, origins, sizes, and the hidden volume that holds the log.
//!
//! Owns what must hold between records, and between a record and the end of its mappings. What is inside the trees is
//! `walk.rs`'s affair.

use super::report::{Information, Notes};
use super::trace::Pages;
use crate::error::{Error, Place};
use crate::format::{Extent, Mapping, RootSlot, VolumeKind, VolumeRecord, VolumeState};
use crate::metadata::{LOG_VOLUME, Metadata};
use crate::units::{BLOCK_BYTES, DataBlock, SECTOR_BYTES, SectorMask, VirtualBlock, VolumeId};
use rustc_hash::FxHashSet;

/// Checks all records of one state; `state` is the same where counts are known.
pub(super) fn check_volumes(
    records: &[VolumeRecord],
    next_volume: VolumeId,
    pages: &mut Pages<'_, '_>,
    notes: &mut Notes<'_>,
) {
    let mut names = FxHashSet::default();
    for record in records {
        for problem in problems_of(record, next_volume) {
            notes.add(Error::damaged(problem).at(Place::Volume(record.id)));
        }
        if record.has_name() && !names.insert(record.name.as_str()) {
            let message = format!("the name '{}' is taken by another volume", record.name);
            notes.add(Error::damaged(message).at(Place::Volume(record.id)));
        }
        if record.state == VolumeState::Active {
            check_end(record, pages, notes);
        }
    }
    let deleting = records.iter().filter(|record| record.state == VolumeState::Deleting).count();
    if deleting > 0 {
        notes.information.push(Information::DeletionsToFinish(deleting as u64));
    }
}

fn problems_of(record: &VolumeRecord, next_volume: VolumeId) -> Vec<String> {
    let mut problems = Vec::new();
    if let Err(error) = record.check() {
        problems.push(error.message().to_owned());
    }
    if record.id >= next_volume {
        problems.push("its number was never given out".to_owned());
    }
    if record.origin.is_some_and(|origin| origin >= record.id) {
        problems.push("its origin is younger than itself".to_owned());
    }
    if record.kind == VolumeKind::Snapshot && record.origin.is_none() && record.received.is_none() {
        problems.push("a snapshot of nothing".to_owned());
    }
    if !record.size_bytes.is_multiple_of(SECTOR_BYTES) {
        problems.push(format!("its size of {} bytes is no multiple of {SECTOR_BYTES}", record.size_bytes));
    }
    if (record.kind == VolumeKind::Hidden) != (record.id == LOG_VOLUME) {
        problems.push("the log's volume is hidden, and only that".to_owned());
    }
    problems
}

/// Nothing may be mapped behind the end of a volume.
fn check_end(record: &VolumeRecord, pages: &mut Pages<'_, '_>, notes: &mut Notes<'_>) {
    let Some((block, mapping)) = pages.last_mapping(record) else { return };
    let sectors = 16 - u64::from(mapping.visible().0.leading_zeros());
    let end = block.0.saturating_mul(BLOCK_BYTES).saturating_add(sectors * SECTOR_BYTES);
    if end > record.size_bytes {
        let excess = end - record.size_bytes;
        let message = "bytes are mapped behind the end of the volume";
        notes.add(Error::damaged(message).at(Place::Range(record.id, record.size_bytes, excess)));
    }
}

/// The log's volume must map exactly the blocks that the root slot names, and nobody else may.
pub(super) fn check_log_volume(
    records: &[VolumeRecord],
    slot: &RootSlot,
    state: Option<&Metadata>,
    pages: &mut Pages<'_, '_>,
    notes: &mut Notes<'_>,
) {
    let Some(record) = records.iter().find(|record| record.id == LOG_VOLUME) else {
        return notes.add(Error::damaged("there is no record of it").at(Place::Volume(LOG_VOLUME)));
    };
    let named =
        slot.log.iter().flat_map(|Extent { first, blocks }| (0..*blocks).map(|i| DataBlock(first.0 + i)));
    let mut named = (0..).map(VirtualBlock).zip(named);
    let mut wrong = false;
    pages.mappings(record, &mut |block, mapping| {
        let expected = named.next().map(|(at, data)| (at, Mapping::single(data, SectorMask::FULL)));
        wrong |= expected != Some((block, mapping));
        let count = state.map_or(1, |state| state.forest.data_counts.get(mapping.upper.block.0));
        if count != 1 {
            let error = Error::damaged(format!("a block of the log has a count of {count}"));
            notes.add(error.at(Place::Block(mapping.upper.block)));
        }
    });
    if wrong || named.next().is_some() {
        let error = Error::damaged("what the log's volume maps is not what the root slot names as the log");
        notes.add(error.at(Place::Volume(LOG_VOLUME)));
    }
}
