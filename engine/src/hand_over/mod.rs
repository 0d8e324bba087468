//! Gives a pool that nobody has open to the kernel's dm-thin.
//!
//! Owns what dm-thin has no words for, and who has the pool. Every mapping is given as one whole data block: what has two layers or
//! holes is filled first (`fill.rs`). Nothing of that changes what the pool's own metadata says, so until [`HandOver::give`]
//! the pool is the engine's, whatever was filled; then both root slots say that the kernel has it, and nobody but the
//! kernel may write. Knows nothing of dm-thin's metadata: whoever writes that does so before, but for the block that
//! makes it valid. `docs/dm-thin.md`, Handing a pool over, argues why.

mod fill;
#[cfg(test)]
mod tests;

use crate::canary::{self, Canary};
use crate::error::{Error, ErrorKind, Place, Result};
use crate::format::{Mapping, Properties, RootSlot, VolumeKind, VolumeRecord, VolumeState};
use crate::metadata::files::Files;
use crate::metadata::load::load_page;
use crate::metadata::recovery::{Recovered, recover, recover_without_log};
use crate::metadata::tree::{LAST_KEY, Root};
use crate::metadata::{Fault, LOG_VOLUME, Metadata, SlotFacts, write_log, write_slots};
use crate::options::{OpenOptions, Owner};
use crate::request::Uuid;
use crate::shrink_pool::settle;
use crate::storage::Disk;
use crate::units::{
    BLOCK_BYTES, DataBlock, Generation, Incarnation, PAGE_BYTES, SECTOR_BYTES, Sequence, VirtualBlock,
    VolumeId,
};
use fill::Filling;
use std::ops::ControlFlow;

/// Mappings that are handed out at a time.
const BATCH_MAPPINGS: usize = 4096;
/// Memory for mapping pages, in bytes.
const CACHE_BYTES: usize = 64 << 20;

/// What has to be written before a pool can be handed over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Mappings of volumes and snapshots, what is shared counted for each.
    pub mappings: u64,
    /// Blocks whose layers are joined or whose holes are filled in another, free block, because others have them too.
    pub blocks_to_copy: u64,
    /// Blocks that are filled where they are.
    pub blocks_to_fill: u64,
    /// Bytes that are read and written for both.
    pub bytes_to_copy: u64,
    /// Bytes that are made to read as zeros for both.
    pub bytes_to_clear: u64,
    /// Data blocks that nothing maps.
    pub free_blocks: u64,
    /// Data blocks of the pool.
    pub data_blocks: u64,
}

/// A virtual block and the data block that holds all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Whole {
    /// Which block of the volume.
    pub virtual_block: VirtualBlock,
    /// Where it is, all 64 KiB of it.
    pub data_block: DataBlock,
    /// Whether anything else may map the data block.
    pub shared: bool,
}

/// Some mappings of a volume, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The mappings.
    pub mappings: Vec<Whole>,
    /// Where it goes on; none at the end.
    pub next: Option<VirtualBlock>,
}

/// One hand-over of one pool: its uuid, and the opening that brought it to rest.
pub type Mark = [u8; 24];

/// The mark of the hand-over that an opening of a pool led to.
pub fn mark_of(pool: &Uuid, incarnation: Incarnation) -> Mark {
    let mut mark = [0; 24];
    mark[..16].copy_from_slice(pool);
    mark[16..].copy_from_slice(&incarnation.0.to_le_bytes());
    mark
}

/// A pool on its way to the kernel.
pub struct HandOver<'f> {
    files: Files<'f>,
    state: Metadata,
    incarnation: Incarnation,
    sequence: Sequence,
    log_position: u64,
    filling: Filling,
}

impl<'f> HandOver<'f> {
    /// Brings the pool to rest. Nobody may have it open.
    ///
    /// A pool that the kernel has already is refused with `InUse`, but for one whose hand-over was interrupted: the caller
    /// names its [`Mark`] as `interrupted`, which stands where dm-thin's metadata is not valid yet, so that the kernel cannot
    /// have written. A mark of an earlier hand-over, which came to nothing, is another one.
    pub fn begin(
        data: &'f mut dyn Disk,
        metadata: &'f mut dyn Disk,
        options: &OpenOptions,
        interrupted: Option<Mark>,
    ) -> Result<Self> {
        let mut files = Files::new(&mut *data, &mut *metadata);
        let superblock = files.superblock()?;
        let slots = files.root_slots(&superblock.pool);
        let is_it = |slot: &RootSlot| {
            slot.owner.kernel && interrupted == Some(mark_of(&superblock.pool, slot.incarnation))
        };
        // The other slot may have rotted meanwhile, or be torn.
        let newest = slots.iter().flatten().next();
        let goes_on = newest.is_some_and(is_it);
        if !goes_on {
            settle(&mut *data, &mut *metadata, options)?;
        }
        let mut files = Files::new(data, metadata);
        let found = if goes_on { recover_without_log(&mut files)? } else { recover(&mut files)? };
        found.metadata.superblock.refuse_read_only()?;
        Self::of(files, found)
    }

    fn of(files: Files<'f>, found: Recovered) -> Result<Self> {
        if let Some(fallback) = found.findings.fallback {
            return Err(fallback.cause);
        }
        let slot = &found.metadata.slot;
        if found.findings.records > 0 || !slot.clean {
            let message = "the pool was closed, and is not: does somebody else write to its files?";
            return Err(Error::new(ErrorKind::InUse, message));
        }
        found.metadata.volumes.check_no_pictures()?;
        if let Some(partial) = found.metadata.volumes.iter().find(|record| record.kind == VolumeKind::Partial)
        {
            let message =
                "a snapshot has arrived in part, which the kernel cannot keep: receive the rest, or drop it";
            return Err(Error::new(ErrorKind::Busy, message).at(Place::Volume(partial.id)));
        }
        Ok(Self {
            files,
            incarnation: found.incarnation,
            sequence: found.sequence,
            log_position: found.ring.head,
            state: found.metadata,
            filling: Filling::default(),
        })
    }

    /// What stands for this hand-over.
    pub fn mark(&self) -> Mark {
        mark_of(&self.state.superblock.pool, self.incarnation)
    }

    /// All volumes and snapshots, by number.
    pub fn volumes(&self) -> Vec<VolumeRecord> {
        let is_there =
            |record: &&VolumeRecord| record.state == VolumeState::Active && record.kind != VolumeKind::Hidden;
        self.state.volumes.iter().filter(is_there).cloned().collect()
    }

    /// The settings of the pool.
    pub fn settings(&self) -> Properties {
        self.state.volumes.get(LOG_VOLUME).map(|record| record.properties.clone()).unwrap_or_default()
    }

    /// Counts what has to be written. Writes nothing.
    ///
    /// Fails with `Damaged` if sectors are lost, for which dm-thin has no word, and with `NoSpace` if there are too few free
    /// blocks for the copies.
    pub fn plan(&mut self) -> Result<Plan> {
        self.filling = Filling::default();
        let mut plan = Plan::default();
        for record in self.volumes() {
            let mut next = Some(VirtualBlock(0));
            while let Some(first) = next {
                let batch = self.batch(&record, first)?;
                plan.mappings += batch.mappings.len() as u64;
                next = batch.next;
            }
        }
        let counts = &self.state.forest.data_counts;
        plan.data_blocks = counts.len();
        plan.free_blocks = counts.len() - counts.in_use();
        self.filling.tell(&mut plan);
        self.filling = Filling::default();
        if plan.blocks_to_copy > plan.free_blocks {
            let message = format!(
                "{} blocks have to be copied, because others share what they lack, and only {} blocks are free: extend the pool, or delete snapshots",
                plan.blocks_to_copy, plan.free_blocks
            );
            return Err(Error::new(ErrorKind::NoSpace, message));
        }
        Ok(plan)
    }

    /// From now on [`HandOver::mappings`] fills what it comes upon. Makes the data file as long as the pool is.
    pub fn start_filling(&mut self) -> Result<()> {
        self.filling = Filling::writing();
        let size_bytes = self.state.forest.data_counts.len() * BLOCK_BYTES;
        if self.files.data.size_bytes() < size_bytes {
            self.files.data.allocate(size_bytes - BLOCK_BYTES, BLOCK_BYTES)?;
        }
        Ok(())
    }

    /// The mappings of a volume from `first` on. Every volume is to be gone through once, in order of their numbers.
    pub fn mappings(&mut self, volume: &VolumeRecord, first: VirtualBlock) -> Result<Batch> {
        self.batch(volume, first)
    }

    fn batch(&mut self, volume: &VolumeRecord, first: VirtualBlock) -> Result<Batch> {
        let found = self.collect(&volume.root, first).map_err(|error| error.at(Place::Volume(volume.id)))?;
        let next = (found.len() == BATCH_MAPPINGS).then(|| VirtualBlock(found[found.len() - 1].0.0 + 1));
        let mut mappings = Vec::with_capacity(found.len());
        for (virtual_block, mapping, exclusive_path) in found {
            refuse_lost(volume.id, virtual_block, mapping)?;
            let counts = &self.state.forest.data_counts;
            let (data_block, shared) =
                self.filling.place(&mut self.files, counts, mapping, exclusive_path)?;
            mappings.push(Whole { virtual_block, data_block, shared });
        }
        Ok(Batch { mappings, next })
    }

    /// Some mappings, and whether every page on the way to them has one owner.
    fn collect(&mut self, root: &Root, first: VirtualBlock) -> Result<Vec<(VirtualBlock, Mapping, bool)>> {
        let mut found = Vec::new();
        let mut next = first;
        loop {
            let forest = &self.state.forest;
            let last = VirtualBlock(LAST_KEY);
            let visited = forest.mappings_and_owners(root, next, last, |block, mapping, exclusive| {
                found.push((block, mapping, exclusive));
                next = VirtualBlock(block.0 + 1);
                if found.len() < BATCH_MAPPINGS { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            });
            match visited {
                Ok(()) => return Ok(found),
                Err(Fault::Missing(pointer)) => load_page(&mut self.files, &mut self.state, &pointer)?,
                Err(Fault::Failed(error)) => return Err(error),
            }
            let forest = &mut self.state.forest;
            let newest = Generation(forest.building.0.saturating_sub(1));
            forest.cache.tick();
            forest.bound_cache(CACHE_BYTES, newest, forest.cache.clock());
        }
    }

    /// Gives the pool to the kernel: what was filled is synced, then both root slots say so. Whoever has dm-thin's metadata
    /// durable but for what makes it valid may make it valid afterwards, and not before.
    pub fn give(&mut self, host: &str) -> Result<()> {
        if !canary::broken(Canary::FilledUnsynced) {
            self.files.data.sync()?;
        }
        let owner = Owner { host: host.to_owned(), kernel: true, ..Owner::default() };
        make_room(&mut self.files, &mut self.state)?;
        let slots = if canary::broken(Canary::GivenByOneSlot) { 1 } else { 2 };
        let facts = SlotFacts {
            incarnation: self.incarnation,
            sequence: self.sequence,
            log_position: self.log_position,
            clean: true,
            owner,
        };
        write_slots(&mut self.files, &mut self.state, &facts, slots)
    }
}

/// Makes sure of the pages of two checkpoints.
fn make_room(files: &mut Files<'_>, state: &mut Metadata) -> Result<()> {
    let needed = 2 * state.checkpoint_pages_at_most() as u64;
    let free = state.forest.pages.free_pages();
    if free >= needed {
        return Ok(());
    }
    let now = state.forest.page_counts.len();
    // Counts of the new pages take pages themselves.
    let more = needed - free + (needed - free) / 256 + 16;
    let made = files.metadata.allocate(now * PAGE_BYTES as u64, more * PAGE_BYTES as u64);
    match made.and_then(|()| files.metadata.sync()) {
        Ok(()) => state.forest.grow_pages(now + more),
        // Where the file cannot grow what is free has to do; freezing says so if it does not.
        Err(error) if error.kind() == ErrorKind::NoSpace => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

/// Makes the pool the engine's again, as it was when it was given to the kernel.
///
/// Without `new_uuid` whoever calls knows that the kernel has not written. With it, what the kernel has written may be lost: data blocks that it
/// overwrote in place are not what they were, so every snapshot gets another uuid, and no history goes back behind this.
///
/// Fails with `Invalid` if the kernel does not have the pool. Run again it goes on, wherever it ended.
pub fn revoke(
    data: &mut dyn Disk,
    metadata: &mut dyn Disk,
    nonce: u32,
    new_uuid: Option<&mut dyn FnMut(VolumeId) -> Uuid>,
) -> Result<()> {
    let mut files = Files::new(data, metadata);
    let Recovered { metadata: mut state, incarnation, sequence, ring, .. } = recover_without_log(&mut files)?;
    state.superblock.refuse_read_only()?;
    if let Some(new_uuid) = new_uuid {
        forget_history(&mut state, new_uuid)?;
    }
    make_room(&mut files, &mut state)?;
    let pool = state.superblock.pool;
    let log = state.slot.log.clone();
    let incarnation = incarnation.next(nonce);
    // The kernel may have had these blocks; ours they are only with the slots.
    write_log(&mut files, &pool, &log, incarnation)?;
    let facts =
        SlotFacts { incarnation, sequence, log_position: ring.head, clean: true, owner: Owner::default() };
    write_slots(&mut files, &mut state, &facts, 2)
}

/// What volumes hold is not certain any more, and whoever knows a snapshot by its uuid knows something else.
fn forget_history(state: &mut Metadata, new_uuid: &mut dyn FnMut(VolumeId) -> Uuid) -> Result<()> {
    let (building, pool) = (state.forest.building, state.superblock.pool);
    let named = state.volumes.iter().filter(|record| record.has_name()).map(|record| record.id);
    for id in named.collect::<Vec<_>>() {
        let record = state.volumes.change(id)?;
        record.in_place_since = building;
        if record.kind == VolumeKind::Snapshot {
            record.become_another(new_uuid(id), pool, building);
        }
    }
    Ok(())
}

/// What is lost reads as an error, and the kernel would read what stands there.
fn refuse_lost(volume: VolumeId, block: VirtualBlock, mapping: Mapping) -> Result<()> {
    let Some((first, count)) = mapping.lost().runs().next() else { return Ok(()) };
    let offset = block.offset_bytes() + u64::from(first) * SECTOR_BYTES;
    let message = "sectors are lost, and dm-thin cannot say so: write or discard them first";
    Err(Error::damaged(message).at(Place::Range(volume, offset, u64::from(count) * SECTOR_BYTES)))
}
