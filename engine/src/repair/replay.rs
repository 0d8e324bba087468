//! The log's records, applied to the new trees: as recovery does, and on after what is lost.
//!
//! Owns what a delta does where something is lost: what it publishes is there again, what it would need stays lost, and
//! one for a volume without a record changes nothing. Read next: `metadata/recovery.rs`.

use super::log::Log;
use crate::error::{Error, ErrorKind, Place, Result};
use crate::format::{Delta, Mapping};
use crate::metadata::files::Files;
use crate::metadata::load::load_page;
use crate::metadata::recovery::{Checked, data_arrived};
use crate::metadata::{Fault, Metadata};
use crate::units::{PAGE_BYTES, Sequence, VolumeId};

/// The file grows by so many pages when changes need more.
const GROWTH_PAGES: u64 = 1024;

/// What became of the records.
#[derive(Default)]
pub(super) struct Replayed {
    /// Data of unproven deltas that was verified and counts.
    pub checked: Vec<Checked>,
    pub dropped_at: Option<Sequence>,
    pub skipped: u64,
    pub records: u64,
}

/// Applies the records of `log` to `state`. The proven ones unseen, the others as long as their data is what they say.
/// `files` are the old data file and the new metadata file.
pub(super) fn replay(files: &mut Files<'_>, state: &mut Metadata, log: &Log) -> Result<Replayed> {
    let mut replayed = Replayed::default();
    for record in &log.records {
        let seen = record.sequence > log.synced;
        for delta in &record.deltas {
            if seen && !data_arrived(files, delta)? {
                replayed.dropped_at = Some(record.sequence);
                return Ok(replayed);
            }
            if let (true, Delta::Publish { data_block, sectors, .. }) = (seen, delta) {
                replayed.checked.push((*data_block, *sectors));
            }
            let applied = apply_what_is_left(files, state, delta);
            replayed.skipped += applied.map_err(|error| error.at(Place::Record(record.sequence)))?;
        }
        replayed.records += 1;
    }
    Ok(replayed)
}

/// Applies a delta as far as the volumes that it names are there. Returns how many changes were left out.
fn apply_what_is_left(files: &mut Files<'_>, state: &mut Metadata, delta: &Delta) -> Result<u64> {
    let is_there = |volume: &VolumeId| state.volumes.get(*volume).is_some();
    match delta {
        Delta::Create { .. } => {}
        Delta::Snapshot { cuts } => {
            let left: Vec<_> = cuts.iter().filter(|(source, _)| is_there(source)).cloned().collect();
            let skipped = (cuts.len() - left.len()) as u64;
            apply(files, state, &Delta::Snapshot { cuts: left })?;
            return Ok(skipped);
        }
        Delta::Delete { volumes } => {
            let left: Vec<_> = volumes.iter().filter(|volume| is_there(volume)).copied().collect();
            let skipped = (volumes.len() - left.len()) as u64;
            apply(files, state, &Delta::Delete { volumes: left })?;
            return Ok(skipped);
        }
        delta if delta.volume().is_some_and(|volume| !is_there(&volume)) => return Ok(1),
        Delta::Rollback { volume, snapshot, .. } if !is_there(snapshot) => {
            let message =
                "it was rolled back to a snapshot whose record is lost: what it holds cannot be told";
            return Err(Error::damaged(message).at(Place::Volume(*volume)));
        }
        Delta::Publish { .. } => make_room_for_layers(files, state, delta)?,
        _ => {}
    }
    apply(files, state, delta)?;
    Ok(0)
}

/// Where sectors are lost, what was published over them may be in the way of what is published now: a mapping has two
/// layers. What was there before the loss would tell, so the layer in between is lost as well.
fn make_room_for_layers(files: &mut Files<'_>, state: &mut Metadata, delta: &Delta) -> Result<()> {
    let Delta::Publish { volume, virtual_block, data_block, sectors, .. } = *delta else { return Ok(()) };
    let current = retried(files, state, &mut |state| {
        let root = state.volumes.get(volume).and_then(|record| record.root);
        state.forest.lookup(&root, virtual_block).map(|found| found.mapping)
    })?;
    let Some(mapping) = current.filter(|mapping| !mapping.lost().is_empty()) else { return Ok(()) };
    if Mapping::publish(current, data_block, sectors).is_ok() {
        return Ok(());
    }
    retried(files, state, &mut |state| {
        let root = &mut state.volumes.change(volume)?.root;
        state.forest.lose(volume, root, virtual_block, mapping.upper.mask.without(sectors))
    })
}

pub(super) fn apply(files: &mut Files<'_>, state: &mut Metadata, delta: &Delta) -> Result<()> {
    retried(files, state, &mut |state| state.apply(delta))
}

/// Does something that may need pages in memory or free ones, and gets these.
pub(super) fn retried<T>(
    files: &mut Files<'_>,
    state: &mut Metadata,
    action: &mut dyn FnMut(&mut Metadata) -> std::result::Result<T, Fault>,
) -> Result<T> {
    let mut growths = 0;
    loop {
        match action(state) {
            Ok(value) => {
                state.forest.events.clear();
                return Ok(value);
            }
            Err(Fault::Missing(pointer)) => load_page(files, state, &pointer)?,
            Err(Fault::Failed(error)) if error.kind() == ErrorKind::NoSpace && growths < 64 => {
                growths += 1;
                grow(files, state, GROWTH_PAGES)?;
            }
            Err(Fault::Failed(error)) => return Err(error),
        }
    }
}

/// Makes the new metadata file longer.
pub(super) fn grow(files: &mut Files<'_>, state: &mut Metadata, pages: u64) -> Result<()> {
    let page_bytes = PAGE_BYTES as u64;
    let now = state.forest.page_counts.len();
    files.metadata.allocate(now * page_bytes, pages * page_bytes)?;
    state.forest.grow_pages(now + pages);
    Ok(())
}
