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
use std::collections::{BTreeSet, VecDeque};

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
    to_punch: BTreeSet<u64>,
    recycle_blocks: u64,
    /// Free blocks that stay allocated for reservations.
    kept_blocks: u64,
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
    /// Free and waiting to be punched, or being punched.
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
            recycled: none,
            holes,
            counts,
            cursor: 0,
            recycled_from: 0,
            freed: VecDeque::new(),
            pins: FxHashMap::default(),
            pinned_free: FxHashSet::default(),
            to_punch: BTreeSet::new(),
            recycle_blocks,
            kept_blocks: 0,
        }
    }

    /// From now on so many free blocks stay allocated, if freed ones come.
    pub fn keep_blocks(&mut self, blocks: u64) {
        self.kept_blocks = blocks;
    }

    /// Adds blocks up to `blocks`: nothing maps them, and nothing is known to be allocated.
    pub fn grow(&mut self, blocks: u64) {
        let old = self.holes.len() as u64;
        self.fresh.resize(blocks as usize, false);
        self.recycled.resize(blocks as usize, false);
        self.holes.resize(blocks as usize, true);
        self.counts.holes += blocks - old;
    }

    /// How many blocks are in which state.
    pub fn counts(&self) -> SpaceCounts {
        SpaceCounts { waiting: (self.freed.len() + self.pinned_free.len()) as u64, ..self.counts }
    }

    /// Blocks that can be given out now.
    pub fn ready(&self) -> u64 {
        self.counts.fresh + self.counts.recycled
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

    /// Gives a block out: one that was written before, or the next fresh one in order.
    pub fn take(&mut self) -> Option<DataBlock> {
        if self.counts.recycled > 0 {
            let block = self.recycled_from + self.recycled[self.recycled_from..].first_one()?;
            self.recycled_from = block + 1;
            self.recycled.set(block, false);
            self.counts.recycled -= 1;
            return Some(DataBlock(block as u64));
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
        } else if self.counts.recycled < self.recycle_blocks.max(self.kept_blocks) {
            self.recycle(block, 1);
        } else {
            self.to_punch.insert(block.0);
            self.counts.punching += 1;
            if canary::broken(Canary::PunchRacesRewrite) {
                self.recycle(block, 1);
            }
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

    /// The next run of free blocks to give back to the host.
    pub fn take_punch(&mut self) -> Option<(DataBlock, u64)> {
        let first = self.to_punch.pop_first()?;
        let mut blocks = 1;
        while self.to_punch.remove(&(first + blocks)) {
            blocks += 1;
        }
        Some((DataBlock(first), blocks))
    }

    /// A punch completed. If it failed the blocks are still allocated, and as free as before.
    pub fn punched(&mut self, first: DataBlock, blocks: u64, done: bool) {
        self.counts.punching -= blocks;
        let range = first.0 as usize..(first.0 + blocks) as usize;
        if canary::broken(Canary::PunchRacesRewrite) {
            return;
        }
        if done {
            self.holes[range].fill(true);
            self.counts.holes += blocks;
        } else {
            self.recycle(first, blocks);
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
        assert_eq!(space.take_punch(), Some((DataBlock(1), 2)));
        assert_eq!(space.take_holes(9), None);
        assert_eq!(space.take(), None);
        space.punched(DataBlock(1), 2, true);
        assert_eq!(space.take_holes(9), Some((DataBlock(1), 2)));
    }
}
