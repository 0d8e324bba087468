//! Which data blocks may be given out, and how freed ones become free.
//!
//! Owns the way of a block: hole, made ready in slabs (allocated, then synced), given out, freed by a delta, proven,
//! out of use by any operation in flight, recycled or punched. Who names a block is counted in `metadata/`.

use super::DeltaNumber;
use crate::canary::{self, Canary};
use crate::metadata::counts::Counts;
use crate::units::{DataBlock, VolumeId};
use bitvec::prelude::{BitVec as Bits, Lsb0};
use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::VecDeque;

type BitVec = Bits<u64, Lsb0>;

/// Data blocks and what may be done with them.
pub struct Space {
    /// Allocated and free, never written since: `fresh` bit set.
    fresh: BitVec,
    /// Written before and free.
    recycled: BitVec,
    /// Free, but not allocated as far as is known.
    holes: BitVec,
    counts: SpaceCounts,
    cursor: usize,
    /// No recycled block comes before this one.
    recycled_from: usize,
    freed: VecDeque<(DeltaNumber, DataBlock)>,
    /// For whom operations in flight name a block, and how many.
    pins: FxHashMap<DataBlock, Vec<(VolumeId, u32)>>,
    /// Free but for a pin.
    pinned_free: FxHashSet<DataBlock>,
    /// Free and allocated, to be punched.
    queued: BitVec,
    /// No queued block comes before this one.
    queued_from: usize,
    recycle_blocks: u64,
    /// Free blocks that stay allocated for reservations.
    reserved_blocks: u64,
    /// Blocks take nothing of the host until they are written.
    is_device: bool,
}

/// How many blocks are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpaceCounts {
    /// Allocated and never written since.
    pub fresh: u64,
    /// Written before and free.
    pub recycled: u64,
    /// Free and not allocated.
    pub holes: u64,
    /// Freed, but the record that freed them is not proven, or an operation still names them.
    pub waiting: u64,
    /// Free and allocated, waiting to be punched.
    pub queued: u64,
    /// Free and being punched.
    pub punching: u64,
    /// Free, allocated, and being written before they are needed.
    pub write_ahead: u64,
}

impl Space {
    /// Space of which the blocks with a count are taken, and nothing is known to be allocated.
    pub fn new(block_counts: &Counts, recycle_blocks: u64) -> Self {
        let mut holes = BitVec::from_vec(block_counts.zeros());
        holes.truncate(block_counts.len() as usize);
        let counts = SpaceCounts { holes: holes.count_ones() as u64, ..SpaceCounts::default() };
        let none = BitVec::repeat(false, holes.len());
        Self {
            fresh: none.clone(),
            recycled: none.clone(),
            queued: none,
            holes,
            counts,
            cursor: 0,
            recycled_from: 0,
            freed: VecDeque::new(),
            pins: FxHashMap::default(),
            pinned_free: FxHashSet::default(),
            queued_from: 0,
            recycle_blocks,
            reserved_blocks: 0,
            is_device: false,
        }
    }

    /// The data is on a block device.
    pub fn on_device(self, is_device: bool) -> Self {
        Self { is_device, ..self }
    }

    /// From now on so many free blocks stay allocated, if freed ones come.
    pub fn keep_blocks(&mut self, blocks: u64) {
        self.reserved_blocks = blocks;
    }

    /// Adds blocks up to `blocks`: nothing maps them, and nothing is known to be allocated.
    pub fn grow(&mut self, blocks: u64) {
        let old = self.holes.len() as u64;
        self.fresh.resize(blocks as usize, false);
        self.recycled.resize(blocks as usize, false);
        self.queued.resize(blocks as usize, false);
        self.holes.resize(blocks as usize, true);
        self.counts.holes += blocks - old;
    }

    /// How many blocks are in which state.
    pub fn counts(&self) -> SpaceCounts {
        SpaceCounts { waiting: (self.freed.len() + self.pinned_free.len()) as u64, ..self.counts }
    }

    /// Blocks that can be given out now.
    pub fn ready(&self) -> u64 {
        self.kept() + self.counts.queued
    }

    /// Free blocks that the host holds for the next writes.
    pub fn kept(&self) -> u64 {
        self.counts.fresh + self.counts.recycled
    }

    /// Whether queued blocks may be punched.
    pub fn has_to_punch(&self) -> bool {
        self.punchable() > 0
    }

    /// From now on so many freed blocks are kept on the host, and those beyond are queued to be punched.
    pub fn set_recycle_blocks(&mut self, blocks: u64) {
        self.recycle_blocks = blocks;
    }

    /// Blocks that may go back to the host: reservations keep the others.
    fn spare(&self) -> u64 {
        self.ready().saturating_sub(self.reserved_blocks)
    }

    /// Queued blocks that may be punched.
    fn punchable(&self) -> u64 {
        self.spare().min(self.counts.queued)
    }

    /// Whether freed blocks are on their way, so that something happens also if the host gives nothing.
    pub fn is_expecting(&self) -> bool {
        self.counts.punching + self.counts.write_ahead > 0
            || !self.freed.is_empty()
            || !self.pinned_free.is_empty()
    }

    /// The newest delta that freed a block which is not free yet.
    pub fn newest_freed(&self) -> Option<DeltaNumber> {
        self.freed.back().map(|(number, _)| *number)
    }

    /// Gives a block out: one that was written before, be it queued to be punched, or the next fresh one in order.
    pub fn take(&mut self) -> Option<DataBlock> {
        if self.counts.recycled > 0 {
            let block = self.recycled_from + self.recycled[self.recycled_from..].first_one()?;
            self.recycled_from = block + 1;
            self.recycled.set(block, false);
            self.counts.recycled -= 1;
            return Some(DataBlock(block as u64));
        }
        if let Some(block) = self.first_queued() {
            self.unqueue(block, 1);
            return Some(DataBlock(block));
        }
        let behind = self.fresh[self.cursor..].first_one().map(|i| i + self.cursor);
        let block = behind.or_else(|| self.fresh.first_one())?;
        self.cursor = block + 1;
        self.fresh.set(block, false);
        self.counts.fresh -= 1;
        Some(DataBlock(block as u64))
    }

    /// Takes back a block that was given out and that no mapping ever named.
    pub fn give_back(&mut self, block: DataBlock) {
        self.release(block);
    }

    /// Delta `number` freed `block`.
    pub fn free(&mut self, number: DeltaNumber, block: DataBlock) {
        if canary::broken(Canary::ReuseUnproven) {
            return self.release(block);
        }
        self.freed.push_back((number, block));
    }

    /// Deltas up to `number` are proven: what they freed is free.
    pub fn prove(&mut self, number: DeltaNumber) {
        while let Some((_, block)) = self.freed.pop_front_if(|(n, _)| *n <= number) {
            self.release(block);
        }
    }

    /// An operation for `volume` names `block` from now on.
    pub fn pin(&mut self, block: DataBlock, volume: VolumeId) {
        let users = self.pins.entry(block).or_default();
        match users.iter_mut().find(|(user, _)| *user == volume) {
            Some((_, operations)) => *operations += 1,
            None => users.push((volume, 1)),
        }
    }

    /// One operation less for `volume` names `block`.
    pub fn unpin(&mut self, block: DataBlock, volume: VolumeId) {
        let Some(users) = self.pins.get_mut(&block) else { return };
        if let Some((_, operations)) = users.iter_mut().find(|(user, _)| *user == volume) {
            *operations -= 1;
        }
        users.retain(|(_, operations)| *operations > 0);
        if users.is_empty() {
            self.pins.remove(&block);
            if self.pinned_free.remove(&block) {
                self.release(block);
            }
        }
    }

    /// Whether an operation for another volume than `volume` names `block`: a former owner may be reading what
    /// it had, or writing what nobody maps any more.
    pub fn is_pinned_by_others(&self, block: DataBlock, volume: VolumeId) -> bool {
        self.pins.get(&block).is_some_and(|users| users.iter().any(|(user, _)| *user != volume))
    }

    fn release(&mut self, block: DataBlock) {
        if self.pins.contains_key(&block) && !canary::broken(Canary::NoPins) {
            self.pinned_free.insert(block);
        } else if self.counts.recycled < self.recycle_blocks.max(self.reserved_blocks) {
            self.recycle(block, 1);
        } else {
            self.queue(block.0);
        }
    }

    fn recycle(&mut self, first: DataBlock, blocks: u64) {
        let range = first.0 as usize..(first.0 + blocks) as usize;
        self.recycled_from = self.recycled_from.min(range.start);
        self.recycled[range].fill(true);
        self.counts.recycled += blocks;
    }

    /// The next run of fresh blocks, at most `blocks` long, taken out to be written ahead.
    pub fn take_fresh(&mut self, blocks: u64) -> Option<(DataBlock, u64)> {
        let behind = self.fresh[self.cursor..].first_one().map(|i| i + self.cursor);
        let first = behind.or_else(|| self.fresh.first_one()).filter(|_| blocks > 0)?;
        let run = self.fresh[first..].leading_ones().min(blocks as usize);
        self.fresh[first..first + run].fill(false);
        self.cursor = first + run;
        self.counts.fresh -= run as u64;
        self.counts.write_ahead += run as u64;
        Some((DataBlock(first as u64), run as u64))
    }

    /// Blocks that were taken to be written ahead are free again: as written ones, or as they were.
    pub fn written_ahead(&mut self, first: DataBlock, blocks: u64, written: bool) {
        self.counts.write_ahead -= blocks;
        if written {
            self.recycle(first, blocks);
        } else {
            self.slab_ready(first, blocks);
        }
    }

    /// The next run of holes, at most `blocks` long, taken out to be made ready.
    pub fn take_holes(&mut self, blocks: u64) -> Option<(DataBlock, u64)> {
        let first = self.holes.first_one()?;
        let run = self.holes[first..].leading_ones().min(blocks as usize).max(1);
        self.holes[first..first + run].fill(false);
        self.counts.holes -= run as u64;
        Some((DataBlock(first as u64), run as u64))
    }

    /// A slab could not be allocated: its blocks are holes still.
    pub fn return_holes(&mut self, first: DataBlock, blocks: u64) {
        self.holes[first.0 as usize..(first.0 + blocks) as usize].fill(true);
        self.counts.holes += blocks;
    }

    /// A slab was allocated and synced: its blocks can be given out.
    pub fn slab_ready(&mut self, first: DataBlock, blocks: u64) {
        self.fresh[first.0 as usize..(first.0 + blocks) as usize].fill(true);
        self.counts.fresh += blocks;
    }

    /// Whether more blocks are kept than `keep` and reservations need.
    pub fn keeps_more_than(&self, keep: u64) -> bool {
        self.kept() > keep.max(self.reserved_blocks)
    }

    /// Queues kept blocks to be punched until only `keep` are left, or what reservations need; at most `most` of them.
    /// Written ones stay longest. On a device those that were not written since the opening count as taking nothing, as before they
    /// were made ready. What an earlier opening wrote there and nobody punched takes its room still: a trim finds it (docs/space.md).
    pub fn retire(&mut self, keep: u64, most: u64) {
        let excess = self.kept().saturating_sub(keep.max(self.reserved_blocks)).min(most);
        let fresh_count = excess.min(self.counts.fresh);
        let fresh: Vec<usize> = self.fresh.iter_ones().take(fresh_count as usize).collect();
        let recycled: Vec<usize> =
            self.recycled.iter_ones().rev().take((excess - fresh_count) as usize).collect();
        self.counts.fresh -= fresh.len() as u64;
        self.counts.recycled -= recycled.len() as u64;
        fresh.iter().for_each(|block| self.fresh.set(*block, false));
        recycled.iter().for_each(|block| self.recycled.set(*block, false));
        if self.is_device {
            fresh.iter().for_each(|block| self.holes.set(*block, true));
            self.counts.holes += fresh.len() as u64;
        } else {
            fresh.into_iter().for_each(|block| self.queue(block as u64));
        }
        recycled.into_iter().for_each(|block| self.queue(block as u64));
    }

    fn queue(&mut self, block: u64) {
        self.queued_from = self.queued_from.min(block as usize);
        self.queued.set(block as usize, true);
        self.counts.queued += 1;
    }

    fn first_queued(&self) -> Option<u64> {
        if self.counts.queued == 0 {
            return None;
        }
        self.queued[self.queued_from..].first_one().map(|block| (self.queued_from + block) as u64)
    }

    /// Takes a run of queued blocks out, the first of all.
    fn unqueue(&mut self, first: u64, blocks: u64) {
        let range = first as usize..(first + blocks) as usize;
        self.queued_from = range.end;
        self.queued[range].fill(false);
        self.counts.queued -= blocks;
    }

    /// Nothing is punched any more: what was queued is kept.
    pub fn keep_queued(&mut self) {
        if self.counts.queued == 0 {
            return;
        }
        let words = self.recycled.as_raw_mut_slice().iter_mut().zip(self.queued.as_raw_mut_slice());
        words.for_each(|(recycled, queued)| *recycled |= std::mem::take(queued));
        self.recycled_from = self.recycled_from.min(self.queued_from);
        self.counts.recycled += std::mem::take(&mut self.counts.queued);
    }

    /// The next run of queued blocks, at most `most` long, taken out to be punched.
    pub fn take_punch(&mut self, most: u64) -> Option<(DataBlock, u64)> {
        let most = most.min(self.punchable());
        let first = self.first_queued().filter(|_| most > 0)?;
        let end = first.saturating_add(most).min(self.queued.len() as u64);
        let blocks = self.queued[first as usize..end as usize].leading_ones() as u64;
        self.unqueue(first, blocks);
        self.counts.punching += blocks;
        if canary::broken(Canary::PunchRacesRewrite) {
            self.return_holes(DataBlock(first), blocks);
        }
        Some((DataBlock(first), blocks))
    }

    /// The next run of free blocks in `from..end`, holes included, at most `most` long, taken out to be punched. Allocated
    /// ones that reservations need are passed over.
    pub fn take_free(&mut self, from: DataBlock, end: DataBlock, most: u64) -> Option<(DataBlock, u64)> {
        let end = end.0.min(self.holes.len() as u64);
        let can_spare = self.spare() > 0;
        let first = (from.0..end).find(|block| self.is_hole(*block) || can_spare && self.is_free(*block))?;
        let mut run = 0;
        while run < most && first + run < end && self.take_out(first + run) {
            run += 1;
        }
        self.counts.punching += run;
        if canary::broken(Canary::TrimRacesWrite) {
            self.return_holes(DataBlock(first), run);
        }
        Some((DataBlock(first), run))
    }

    fn is_hole(&self, block: u64) -> bool {
        self.holes[block as usize]
    }

    fn is_free(&self, block: u64) -> bool {
        let index = block as usize;
        self.is_hole(block) || self.fresh[index] || self.recycled[index] || self.queued[index]
    }

    /// Takes a free block out of what can be given out or made ready, if it is one and nobody has it reserved.
    fn take_out(&mut self, block: u64) -> bool {
        let index = block as usize;
        if self.holes.replace(index, false) {
            self.counts.holes -= 1;
            return true;
        }
        if self.spare() == 0 || !self.is_free(block) {
            return false;
        }
        self.counts.fresh -= u64::from(self.fresh.replace(index, false));
        self.counts.recycled -= u64::from(self.recycled.replace(index, false));
        self.counts.queued -= u64::from(self.queued.replace(index, false));
        true
    }

    /// A punch of queued blocks completed: they are holes, if it failed half way too, or all still allocated.
    pub fn punched(&mut self, first: DataBlock, blocks: u64, are_holes: bool) {
        self.counts.punching -= blocks;
        if canary::broken(Canary::PunchRacesRewrite) {
            return;
        }
        if are_holes {
            self.return_holes(first, blocks);
        } else {
            self.recycle(first, blocks);
        }
    }

    /// A punch of blocks from [`Space::take_free`] is over: whether it failed or not, nothing is known to be allocated.
    pub fn trimmed(&mut self, first: DataBlock, blocks: u64) {
        self.counts.punching -= blocks;
        if !canary::broken(Canary::TrimRacesWrite) {
            self.return_holes(first, blocks);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts of so many blocks, of which the first `used` have one.
    fn counts(blocks: u64, used: u64) -> Counts {
        let mut counts = Counts::new(blocks);
        counts.increment_run(0, used).unwrap();
        counts
    }

    #[test]
    fn a_freed_block_waits_for_proof_and_pins() {
        let mut space = Space::new(&counts(4, 1), 4);
        assert_eq!(space.take(), None);
        let (first, blocks) = space.take_holes(8).unwrap();
        assert_eq!((first, blocks), (DataBlock(1), 3));
        space.slab_ready(first, blocks);
        let block = space.take().unwrap();
        space.pin(block, VolumeId(1));
        space.free(DeltaNumber(5), block);
        space.prove(DeltaNumber(4));
        assert_eq!(space.counts().waiting, 1);
        space.prove(DeltaNumber(5));
        assert_eq!((space.counts().recycled, space.counts().waiting), (0, 1));
        space.unpin(block, VolumeId(1));
        assert_eq!((space.counts().recycled, space.counts().waiting), (1, 0));
        assert_eq!(space.take(), Some(block), "what was written before is given out first");
    }

    #[test]
    fn what_is_being_punched_is_not_free() {
        let mut space = Space::new(&counts(3, 3), 0);
        space.free(DeltaNumber(1), DataBlock(1));
        space.free(DeltaNumber(1), DataBlock(2));
        space.prove(DeltaNumber(1));
        assert_eq!(space.take_punch(9), Some((DataBlock(1), 2)));
        assert_eq!(space.take_holes(9), None);
        assert_eq!(space.take(), None);
        space.punched(DataBlock(1), 2, true);
        assert_eq!(space.take_holes(9), Some((DataBlock(1), 2)));
    }

    #[test]
    fn what_is_queued_to_be_punched_is_given_out_before_new_space() {
        let mut space = Space::new(&counts(8, 2), 0);
        let (first, blocks) = space.take_holes(4).unwrap();
        space.slab_ready(first, blocks);
        space.give_back(DataBlock(0));
        assert_eq!((space.ready(), space.counts().queued), (5, 1));
        assert_eq!(space.take(), Some(DataBlock(0)));
        assert_eq!((space.ready(), space.counts().queued), (4, 0));
    }

    #[test]
    fn retiring_keeps_what_was_written_longest() {
        let mut space = Space::new(&counts(8, 4), 8);
        let (first, blocks) = space.take_holes(4).unwrap();
        space.slab_ready(first, blocks);
        (0..3).for_each(|block| space.give_back(DataBlock(block)));
        space.retire(2, 100);
        let counts = space.counts();
        assert_eq!((counts.fresh, counts.recycled, counts.queued), (0, 2, 5));
        assert_eq!(space.take_punch(100), Some((DataBlock(2), 1)));
        assert_eq!(space.take_punch(100), Some((DataBlock(4), 4)));
        space.punched(DataBlock(2), 1, false);
        space.punched(DataBlock(4), 4, true);
        let counts = space.counts();
        assert_eq!((counts.holes, counts.recycled, counts.punching), (4, 3, 0));
    }

    #[test]
    fn a_device_gets_back_only_what_was_written() {
        let mut space = Space::new(&counts(8, 4), 8).on_device(true);
        let (first, blocks) = space.take_holes(4).unwrap();
        space.slab_ready(first, blocks);
        (0..3).for_each(|block| space.give_back(DataBlock(block)));
        space.retire(2, 100);
        let counts = space.counts();
        assert_eq!((counts.fresh, counts.holes, counts.recycled, counts.queued), (0, 4, 2, 1));
        assert_eq!(space.take_punch(100), Some((DataBlock(2), 1)));
        assert_eq!(space.take_holes(4), Some((DataBlock(4), 4)));
    }

    #[test]
    fn a_trim_takes_every_free_block_whatever_its_state() {
        let mut space = Space::new(&counts(8, 4), 1);
        let (first, blocks) = space.take_holes(2).unwrap();
        space.slab_ready(first, blocks);
        (1..3).for_each(|block| space.give_back(DataBlock(block)));
        assert_eq!(space.take_free(DataBlock(0), DataBlock(99), 3), Some((DataBlock(1), 2)));
        assert_eq!(space.take_free(DataBlock(3), DataBlock(99), 3), Some((DataBlock(4), 3)));
        assert_eq!((space.counts().punching, space.counts().holes, space.take()), (5, 1, None));
        space.trimmed(DataBlock(1), 2);
        space.trimmed(DataBlock(4), 3);
        assert_eq!(space.counts(), SpaceCounts { holes: 6, ..SpaceCounts::default() });
    }

    #[test]
    fn what_reservations_need_is_neither_punched_nor_trimmed() {
        let mut space = Space::new(&counts(8, 4), 0);
        let (first, blocks) = space.take_holes(2).unwrap();
        space.slab_ready(first, blocks);
        (0..2).for_each(|block| space.give_back(DataBlock(block)));
        space.keep_blocks(3);
        space.retire(0, 100);
        assert_eq!((space.ready(), space.counts().queued), (4, 2));
        assert_eq!(space.take_punch(100), Some((DataBlock(0), 1)));
        assert_eq!((space.take_punch(100), space.has_to_punch()), (None, false));
        assert_eq!(space.take_free(DataBlock(0), DataBlock(99), 100), Some((DataBlock(6), 2)));
        assert_eq!(space.ready(), 3);
    }
}
