//! Writes into one block: finds what is mapped, locks the sectors, chooses where the data goes.
//!
//! Owns the choice between overwriting in place, filling an owned block, a new block, and copying the top layer.
//! Nothing is ever written into a block with more than one owner. Read next: `job.rs`, `gather.rs`.

use super::gather::GatherKind;
use super::read::lost_range_error;
use super::room::Room;
use super::stall::Shortage;
use super::{Core, DeltaNumber, Key, Task, stall};
use crate::canary::{self, Canary};
use crate::error::Place;
use crate::format::{Layer, Mapping, VolumeRecord};
use crate::metadata::{Fault, Found};
use crate::storage::Buffer;
use crate::units::{
    BLOCK_BYTES, DataBlock, SECTOR_BYTES, SECTORS_PER_BLOCK, SectorMask, VirtualBlock, VolumeId,
};
use bytes::Bytes;

/// A new top layer with more sectors than this takes in the layer below too.
const TOP_SECTORS_MAX: u32 = SECTORS_PER_BLOCK / 2;

/// One block's part of a write.
#[derive(Clone)]
pub struct WriteTask {
    pub key: Key,
    pub volume: VolumeId,
    pub virtual_block: VirtualBlock,
    /// Where in the block, in bytes.
    pub offset_bytes: u32,
    pub bytes: Bytes,
    /// Write only sectors that are mapped: the others read as the zeros that are to be written anyway.
    pub only_mapped: bool,
    /// The sectors that this task has locked.
    pub locked: SectorMask,
    /// A block image that holds the touched sectors whole. Good only as long as they are locked.
    pub merged: Option<Bytes>,
    /// Its place in the line of those that found no room.
    pub line: Option<stall::Place>,
    /// A block image to be written instead, and its sectors: the write with what it had to copy.
    pub copied: Option<(SectorMask, Bytes)>,
}

/// Where the data of a write goes.
enum Choice {
    /// Over sectors that are mapped and owned.
    InPlace(DataBlock),
    /// Into an owned block; these sectors of it become visible.
    Fill(DataBlock, SectorMask),
    /// Into a new block.
    Fresh,
    /// Into a new block, with what is in these layers.
    Copy(Vec<Layer>),
    /// Not before this delta is proven.
    AwaitProof(DeltaNumber),
    /// Not before others have finished with what was theirs.
    AwaitPins,
}

impl WriteTask {
    pub fn new(key: Key, volume: VolumeId, offset_bytes: u64, bytes: Bytes, only_mapped: bool) -> Self {
        let virtual_block = VirtualBlock::containing(offset_bytes);
        let offset_bytes = (offset_bytes - virtual_block.offset_bytes()) as u32;
        Self {
            key,
            volume,
            virtual_block,
            offset_bytes,
            bytes,
            only_mapped,
            locked: SectorMask::EMPTY,
            merged: None,
            line: None,
            copied: None,
        }
    }

    pub fn place(&self) -> (VolumeId, VirtualBlock) {
        (self.volume, self.virtual_block)
    }

    /// Where it ends in the volume, in bytes.
    fn end_bytes(&self) -> u64 {
        self.virtual_block.offset_bytes() + u64::from(self.offset_bytes) + self.bytes.len() as u64
    }

    /// Every sector that is touched.
    pub fn sectors(&self) -> SectorMask {
        let first = self.offset_bytes / SECTOR_BYTES as u32;
        let end = (self.offset_bytes + self.bytes.len() as u32).div_ceil(SECTOR_BYTES as u32);
        SectorMask::range(first, end - first)
    }

    /// The sectors of which only a part is written.
    fn partial_sectors(&self) -> SectorMask {
        if self.merged.is_some() {
            return SectorMask::EMPTY;
        }
        let first = self.offset_bytes.div_ceil(SECTOR_BYTES as u32);
        let end = (self.offset_bytes + self.bytes.len() as u32) / SECTOR_BYTES as u32;
        let whole = if first < end { SectorMask::range(first, end - first) } else { SectorMask::EMPTY };
        self.sectors().without(whole)
    }

    /// The pieces of the write, a run of sectors each: first sector and bytes.
    pub fn pieces(&self) -> Vec<(u32, Bytes)> {
        let (sectors, image) = match (&self.copied, &self.merged) {
            (Some((sectors, image)), _) => (*sectors, image),
            (None, Some(image)) => (self.sectors(), image),
            (None, None) => return vec![(self.offset_bytes / SECTOR_BYTES as u32, self.bytes.clone())],
        };
        let bytes = |sector: u32| sector as usize * SECTOR_BYTES as usize;
        sectors
            .runs()
            .map(|(first, count)| (first, image.slice(bytes(first)..bytes(first + count))))
            .collect()
    }

    /// Moves the bytes into memory that direct I/O can use, if they are not.
    fn align(&mut self) {
        if !(self.bytes.as_ptr() as usize).is_multiple_of(SECTOR_BYTES as usize) {
            self.bytes = Buffer::copy_of(&self.bytes).freeze();
        }
    }
}

impl Core {
    pub(super) fn write(&mut self, mut task: WriteTask) {
        // A copy that had to wait for room is read anew.
        task.copied = None;
        let there = self.writable(task.volume);
        let record = match there.and_then(|r| self.check_still_there(r, task.end_bytes()).map(|()| r)) {
            Ok(record) => record,
            Err(error) => return self.fail_task(Task::Write(task), &error),
        };
        let found = match self.metadata.forest.lookup(&record.root, task.virtual_block) {
            Ok(found) => found,
            Err(Fault::Missing(pointer)) => return self.wait_for_page(pointer, Task::Write(task)),
            Err(Fault::Failed(error)) => return self.fail_task(Task::Write(task), &error),
        };
        let needed = Room::for_mapping(&self.metadata.forest, record);
        if task.locked.is_empty() && !self.lock_for_write(&mut task) {
            return;
        }
        let visible = found.mapping.map_or(SectorMask::EMPTY, |mapping| mapping.visible());
        if task.only_mapped && !visible.overlaps(task.sectors()) {
            self.nothing_to_do(task.key);
            return self.unlock(task.place(), task.locked);
        }
        let partial = task.partial_sectors();
        let lost = found.mapping.map_or(SectorMask::EMPTY, Mapping::lost);
        if lost.overlaps(partial) {
            let (offset, length) = (task.virtual_block.offset_bytes(), task.bytes.len() as u64);
            let place = Place::Range(task.volume, offset + u64::from(task.offset_bytes), length);
            return self.fail_task(Task::Write(task), &lost_range_error(place));
        }
        if !partial.is_empty() {
            return self.gather(task, &found, partial, GatherKind::Merge);
        }
        task.align();
        self.place_write(task, &found, needed);
    }

    /// Locks the sectors of a task, or puts the task behind who has them.
    fn lock_for_write(&mut self, task: &mut WriteTask) -> bool {
        let place = task.place();
        let sectors = task.sectors();
        if self.locks.range_waits(place) {
            self.locks.wait_behind_range(place, Task::Write(task.clone()));
            return false;
        }
        if !self.locks.lock(place, sectors) {
            self.locks.wait(place, Task::Write(task.clone()));
            return false;
        }
        task.locked = sectors;
        true
    }

    fn place_write(&mut self, mut task: WriteTask, found: &Found, needed: Room) {
        let sectors = task.sectors();
        match self.choose(task.volume, found, sectors) {
            Choice::InPlace(block) => self.start_in_place(task, block),
            Choice::Fill(block, publish) => {
                let needed = needed.with_sectors(publish);
                if self.admit(needed) {
                    self.start_fill(task, block, publish, needed);
                } else {
                    self.wait_for_room(Task::Write(task));
                }
            }
            Choice::Fresh => self.write_fresh(task, sectors, needed),
            Choice::Copy(layers) => {
                if task.locked.is_full() {
                    let copied = layers.iter().fold(SectorMask::EMPTY, |all, layer| all.union(layer.mask));
                    return self.gather(task, found, copied.without(sectors), GatherKind::Copy);
                }
                // The copy reads sectors of the whole block: give back what is held and queue for all of it.
                let place = task.place();
                self.unlock(place, task.locked);
                task.locked = SectorMask::EMPTY;
                task.merged = None;
                if self.locks.lock(place, SectorMask::FULL) {
                    task.locked = SectorMask::FULL;
                    self.ready.push_front(Task::Write(task));
                } else {
                    self.locks.wait(place, Task::Write(task));
                }
            }
            Choice::AwaitProof(number) => self.wait_for_proof(number, Task::Write(task)),
            Choice::AwaitPins => self.waiting_for_pins.push_back(Task::Write(task)),
        }
    }

    /// A new block for `sectors`: one that a write to the same virtual block took and has not published, or another.
    pub(super) fn write_fresh(&mut self, task: WriteTask, sectors: SectorMask, needed: Room) {
        let needed = needed.with_sectors(sectors);
        let place = task.place();
        if !self.may_take(task.volume) && !self.locks.has_target(place) {
            return self.wait_for_share(task);
        }
        if !self.admit(needed) {
            return self.wait_for_room(Task::Write(task));
        }
        let joined = self.locks.join_target(place);
        let Some(block) = joined.or_else(|| self.take_block(&task)) else {
            self.withdraw(needed);
            return self.wait_for_block(task);
        };
        if joined.is_none() {
            self.note_block_taken();
            self.note_given(task.volume);
            self.note_room(Shortage::Blocks);
            self.locks.set_target(place, block);
        }
        self.start_fresh(task, block, sectors, needed);
    }

    fn take_block(&mut self, task: &WriteTask) -> Option<DataBlock> {
        let may = self.block_is_available(task.volume) && !self.is_behind_others(task);
        may.then(|| self.space.take()).flatten()
    }

    fn choose(&self, volume: VolumeId, found: &Found, sectors: SectorMask) -> Choice {
        let Some(mapping) = found.mapping else { return Choice::Fresh };
        let owned = |block| self.is_exclusive(found, block);
        if !owned(mapping.upper.block) {
            return match mapping.lower {
                None => Choice::Fresh,
                Some(lower) => Choice::Copy(layers_to_copy(mapping.upper, lower, sectors)),
            };
        }
        let in_lower = mapping.lower.filter(|lower| lower.mask.contains(sectors) && owned(lower.block));
        let block = in_lower.map_or(mapping.upper.block, |lower| lower.block);
        if let Some(wait) = self.must_wait(volume, found, block, sectors) {
            return wait;
        }
        let visible = if in_lower.is_some() { sectors } else { mapping.upper.mask };
        match sectors.without(visible) {
            SectorMask::EMPTY => Choice::InPlace(block),
            publish => Choice::Fill(block, publish),
        }
    }

    pub(super) fn is_exclusive(&self, found: &Found, block: DataBlock) -> bool {
        // A lost layer has a count of zero: nobody owns it, nothing is copied into it or out of it.
        let exclusive = found.exclusive_path && self.metadata.forest.data_counts.get(block.0) == 1;
        exclusive || (canary::broken(Canary::SharedAsOwned) && !self.unborn.is_empty())
    }

    /// What a write into an owned block has to wait for (L4).
    fn must_wait(
        &self,
        volume: VolumeId,
        found: &Found,
        block: DataBlock,
        sectors: SectorMask,
    ) -> Option<Choice> {
        self.unproven_for(found, block, sectors).map(Choice::AwaitProof).or_else(|| {
            let others =
                self.space.is_pinned_by_others(block, volume) && !canary::broken(Canary::ForeignPinsIgnored);
            others.then_some(Choice::AwaitPins)
        })
    }

    /// The delta that has to be proven before `sectors` of the owned `block` may be written.
    pub(super) fn unproven_for(
        &self,
        found: &Found,
        block: DataBlock,
        sectors: SectorMask,
    ) -> Option<DeltaNumber> {
        let path = found.path.pages().filter_map(|page| self.unproven.path_exclusive_by(page)).max();
        let numbers = [path, self.unproven.exclusive_by(block), self.unproven.published_by(block, sectors)];
        numbers.into_iter().flatten().max().filter(|number| *number > self.commit.proven)
    }

    /// A write is over, without a delta or after it.
    pub(super) fn write_done(&mut self, task: WriteTask, result: crate::error::Result<()>) {
        self.unlock(task.place(), task.locked);
        self.part_done(task.key, result);
    }

    pub(super) fn unlock(&mut self, place: (VolumeId, VirtualBlock), sectors: SectorMask) {
        self.locks.unlock(place, sectors, &mut self.ready);
    }
}

/// The layers that a new top takes in: the old top, and what is below if the new top would be the larger part. What is
/// lost cannot be copied and stays below.
fn layers_to_copy(upper: Layer, lower: Layer, sectors: SectorMask) -> Vec<Layer> {
    if upper.mask.union(sectors).count() > TOP_SECTORS_MAX && !lower.is_lost() {
        vec![upper, lower]
    } else {
        vec![upper]
    }
}

/// Where sector `index` of a block starts in the data file, in bytes.
pub fn sector_offset_bytes(block: DataBlock, index: u32) -> u64 {
    block.offset_bytes() + u64::from(index) * SECTOR_BYTES
}

impl Room {
    /// Room for one change of one mapping of a volume.
    pub fn for_mapping(forest: &crate::metadata::Forest, record: &VolumeRecord) -> Self {
        Self { log_pages: 1, metadata_pages: forest.pages_needed(&record.root) as u64, unproven_bytes: 0 }
    }

    /// The same, publishing `sectors`.
    pub fn with_sectors(self, sectors: SectorMask) -> Self {
        Self { unproven_bytes: u64::from(sectors.count()) * SECTOR_BYTES, ..self }
    }
}

const _: () = assert!(BLOCK_BYTES <= u32::MAX as u64);
