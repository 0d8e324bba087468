//! The end of a repair: the log replayed, two checkpoints, the superblocks; and what of the volumes is lost now.
//!
//! Owns the order in which the new metadata file becomes a pool, superblocks last, and the last step on the data file.

use super::replay::{apply, grow, replay, retried};
use super::report::{Loss, RepairReport};
use super::{Checked, Incarnation, LogRing, Made, Metadata, PAGE_BYTES, Plan, Repair, RepairOptions};
use crate::error::Result;
use crate::format::{
    Delta, LOST_RANGES, LogHead, Mapping, ROOT_SLOT_PAGES, SUPERBLOCK_PAGES, VolumeKind, VolumeState,
};
use crate::metadata::files::Files;
use crate::metadata::tree::LAST_KEY;
use crate::metadata::{Fault, SlotFacts, write_checkpoint};
use crate::options::Owner;
use crate::storage::{Blocking, Disk};
use crate::units::{Generation, SECTOR_BYTES, SectorMask, VirtualBlock, VolumeId};
use std::ops::ControlFlow;

/// Mapping pages kept in memory while losses are looked for.
const CACHE_PAGES: usize = 4096;

/// What has to be written to the data file.
pub(super) struct Head {
    checked: Vec<Checked>,
    offset_bytes: u64,
    head: LogHead,
}

/// Replays the log on the trees in `files`, the old data file and the new metadata file, and makes the file a pool.
pub(super) fn finish(
    mut files: Files<'_>,
    plan: Plan,
    made: Made,
    options: &RepairOptions,
) -> Result<Repair> {
    let Plan { log, mut report, .. } = plan;
    let Made { mut state, any_lost } = made;
    allocate(&mut files, &state)?;
    let replayed = replay(&mut files, &mut state, &log)?;
    cut_tails(&mut files, &mut state)?;
    report.records = replayed.records;
    report.skipped_deltas = replayed.skipped;
    report.dropped_at = replayed.dropped_at;
    report.volumes = state.volumes.iter().filter(|record| record.kind != VolumeKind::Hidden).count() as u64;
    if any_lost || replayed.skipped > 0 {
        report.losses = losses(&mut files, &mut state)?;
    }
    let used = state.volumes.iter().map(|record| record.id.0 + 1).max().unwrap_or(0);
    state.next_volume = state.next_volume.max(VolumeId(used));
    let mut superblock = state.superblock.clone();
    superblock.incompatible &= !LOST_RANGES;
    if any_lost {
        superblock.incompatible |= LOST_RANGES;
    }
    let incarnation = log.incarnation.next(options.nonce);
    write_slots(&mut files, &mut state, incarnation, log.sequence, &log.ring)?;
    for page in SUPERBLOCK_PAGES {
        files.metadata.write(page.offset_bytes(), superblock.encode().freeze())?;
    }
    files.metadata.sync()?;
    report.metadata_bytes = state.forest.page_counts.len() * PAGE_BYTES as u64;
    let head = LogHead { pool: superblock.pool, incarnation };
    let offset_bytes = log.ring.head_offset_bytes(incarnation);
    Ok(Repair { report, head: Head { checked: replayed.checked, offset_bytes, head } })
}

/// What was lost by the size that a volume had in the base may lie behind the end that the log gave it.
fn cut_tails(files: &mut Files<'_>, state: &mut Metadata) -> Result<()> {
    let sizes: Vec<(VolumeId, u64)> = state
        .volumes
        .iter()
        .filter(|record| record.state == VolumeState::Active && record.kind != VolumeKind::Hidden)
        .map(|record| (record.id, record.size_bytes))
        .collect();
    for (volume, size_bytes) in sizes {
        let end = VirtualBlock::containing(size_bytes);
        let inside = SectorMask::range(0, ((size_bytes - end.offset_bytes()) / SECTOR_BYTES) as u32);
        let mut first = end;
        if !inside.is_empty() {
            let (virtual_block, sectors) = (end, SectorMask::FULL.without(inside));
            apply(files, state, &Delta::Clear { volume, virtual_block, sectors })?;
            first.0 += 1;
        }
        apply(files, state, &Delta::Unmap { volume, first, last: VirtualBlock(LAST_KEY) })?;
    }
    Ok(())
}

fn allocate(files: &mut Files<'_>, state: &Metadata) -> Result<()> {
    let whole = state.forest.page_counts.len() * PAGE_BYTES as u64;
    let have = files.metadata.size_bytes();
    if have < whole { files.metadata.allocate(have, whole - have) } else { Ok(()) }
}

/// Both root slots get the same state, as at an opening.
fn write_slots(
    files: &mut Files<'_>,
    state: &mut Metadata,
    incarnation: Incarnation,
    sequence: crate::units::Sequence,
    ring: &LogRing,
) -> Result<()> {
    let needed = 2 * state.checkpoint_pages_at_most() as u64 + 64;
    let free = state.forest.pages.free_pages();
    if free < needed {
        // Counts of the new pages take pages themselves.
        grow(files, state, (needed - free) * 2)?;
    }
    for _ in ROOT_SLOT_PAGES {
        let facts = SlotFacts {
            incarnation,
            sequence,
            log_position: ring.head,
            clean: true,
            owner: Owner::default(),
        };
        let frozen = state.freeze(facts)?;
        let generation: Generation = frozen.slot.generation;
        write_checkpoint(files, &state.superblock.pool, frozen)?;
        state.forest.pages.release(generation);
    }
    Ok(())
}

/// Every lost range of every volume in use.
fn losses(files: &mut Files<'_>, state: &mut Metadata) -> Result<Vec<Loss>> {
    let visible: Vec<(VolumeId, String)> = state
        .volumes
        .iter()
        .filter(|record| record.state == VolumeState::Active && record.kind != VolumeKind::Hidden)
        .map(|record| (record.id, record.name.clone()))
        .collect();
    let mut losses = Vec::new();
    for (volume, name) in visible {
        losses_of(files, state, volume, &name, &mut losses)?;
    }
    Ok(losses)
}

fn losses_of(
    files: &mut Files<'_>,
    state: &mut Metadata,
    volume: VolumeId,
    name: &str,
    losses: &mut Vec<Loss>,
) -> Result<()> {
    let mut next = 0;
    retried(files, state, &mut |state| {
        let root = state.volumes.get(volume).and_then(|record| record.root);
        let visited =
            state.forest.mappings(&root, VirtualBlock(next), VirtualBlock(LAST_KEY), |block, mapping| {
                add_losses(losses, volume, name, block, mapping);
                next = block.0 + 1;
                ControlFlow::Continue(())
            });
        let newest = Generation(state.forest.building.0.saturating_sub(1));
        if matches!(visited, Err(Fault::Missing(_))) && state.forest.cache.len() > CACHE_PAGES {
            state.forest.shrink_cache(CACHE_PAGES / 2, newest);
        }
        visited
    })
}

fn add_losses(losses: &mut Vec<Loss>, volume: VolumeId, name: &str, block: VirtualBlock, mapping: Mapping) {
    for (first, count) in mapping.lost().runs() {
        let offset_bytes = block.offset_bytes() + u64::from(first) * SECTOR_BYTES;
        let length_bytes = u64::from(count) * SECTOR_BYTES;
        match losses.last_mut() {
            Some(last) if last.volume == volume && last.offset_bytes + last.length_bytes == offset_bytes => {
                last.length_bytes += length_bytes;
            }
            _ => losses.push(Loss { volume, name: name.to_owned(), offset_bytes, length_bytes }),
        }
    }
}

impl Head {
    /// Data first: after it, the log head says that everything the new metadata names is there.
    pub fn commit(&self, data: &mut dyn Disk) -> Result<()> {
        let mut data = Blocking::data(data);
        for (block, sectors) in &self.checked {
            for (first, count) in sectors.runs() {
                let offset = block.offset_bytes() + u64::from(first) * SECTOR_BYTES;
                let bytes = data.read(offset, (u64::from(count) * SECTOR_BYTES) as usize)?;
                data.write(offset, bytes.freeze())?;
            }
        }
        data.sync()?;
        data.write(self.offset_bytes, self.head.encode().freeze())?;
        data.sync()
    }
}

impl RepairReport {
    /// Whether nothing was wrong.
    pub fn found_nothing(&self) -> bool {
        self.problems.is_empty() && self.losses.is_empty()
    }

    /// Bytes of volumes that are lost, all together.
    pub fn lost_bytes(&self) -> u64 {
        self.losses.iter().map(|loss| loss.length_bytes).sum()
    }
}
