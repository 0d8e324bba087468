//! Who is writing which sectors: every write, clear and unmap looks here before it decides.
//!
//! Owns the table of virtual blocks with writes in flight, the tasks that wait for them in order, and the new
//! data block that concurrent writes to one absent or shared block have in common (hazard 2).

use super::Task;
use crate::canary::{self, Canary};
use crate::units::{DataBlock, SectorMask, VirtualBlock, VolumeId};
use rustc_hash::FxHashMap;
use std::collections::VecDeque;

type Place = (VolumeId, VirtualBlock);

/// Blocks that are looked up one by one; a longer range walks the table instead.
const PROBE_BLOCKS: u64 = 64;

#[derive(Default)]
struct BlockLock {
    held: SectorMask,
    target: Option<Target>,
    waiting: VecDeque<Task>,
}

/// A new data block that no mapping names yet.
struct Target {
    block: DataBlock,
    users: u32,
}

struct RangeWait {
    volume: VolumeId,
    first: VirtualBlock,
    last: VirtualBlock,
    tasks: VecDeque<Task>,
}

impl RangeWait {
    fn holds(&self, place: Place) -> bool {
        self.volume == place.0 && (self.first..=self.last).contains(&place.1)
    }
}

/// Locks of all volumes.
#[derive(Default)]
pub struct Locks {
    blocks: FxHashMap<Place, BlockLock>,
    ranges: Vec<RangeWait>,
}

impl Locks {
    /// Takes `sectors` of a block, or says that somebody has or waits for them.
    pub fn lock(&mut self, place: Place, sectors: SectorMask) -> bool {
        let lock = self.blocks.entry(place).or_default();
        let free = (lock.waiting.is_empty() && !lock.held.overlaps(sectors))
            || canary::broken(Canary::NoSectorLocks);
        if free {
            lock.held = lock.held.union(sectors);
        }
        free
    }

    /// Puts `task` behind whoever has the block.
    pub fn wait(&mut self, place: Place, task: Task) {
        self.blocks.entry(place).or_default().waiting.push_back(task);
    }

    /// Gives `sectors` back. Who waited goes to the front of `ready`, in order.
    pub fn unlock(&mut self, place: Place, sectors: SectorMask, ready: &mut VecDeque<Task>) {
        let mut woken = VecDeque::new();
        if let Some(lock) = self.blocks.get_mut(&place) {
            lock.held = lock.held.without(sectors);
            woken.append(&mut lock.waiting);
            if lock.held.is_empty() && lock.target.is_none() {
                self.blocks.remove(&place);
            }
        }
        // Writes that wait for the block came before a range that waits for it: later ones wait behind the range.
        for mut range in self.ranges.extract_if(.., |range| range.holds(place)) {
            woken.append(&mut range.tasks);
        }
        woken.append(ready);
        *ready = woken;
    }

    /// Whether nobody writes in the range and nobody waits to.
    pub fn range_is_free(&self, volume: VolumeId, first: VirtualBlock, last: VirtualBlock) -> bool {
        if canary::broken(Canary::NoSectorLocks) {
            return true;
        }
        if last.0 - first.0 < PROBE_BLOCKS {
            return (first.0..=last.0).all(|block| !self.blocks.contains_key(&(volume, VirtualBlock(block))));
        }
        !self.blocks.keys().any(|(v, block)| *v == volume && (first..=last).contains(block))
    }

    /// Puts `task` behind all writes in the range; writes that come later wait behind it.
    pub fn wait_for_range(&mut self, volume: VolumeId, first: VirtualBlock, last: VirtualBlock, task: Task) {
        self.ranges.push(RangeWait { volume, first, last, tasks: VecDeque::from([task]) });
    }

    /// Whether a range that holds this place is waited for.
    pub fn range_waits(&self, place: Place) -> bool {
        self.ranges.iter().any(|range| range.holds(place))
    }

    /// Puts `task` behind the first range that waits for its block.
    pub fn wait_behind_range(&mut self, place: Place, task: Task) {
        if let Some(range) = self.ranges.iter_mut().find(|range| range.holds(place)) {
            range.tasks.push_back(task);
        }
    }

    /// The new block that writes to this place share, if one was taken and not published yet.
    pub fn join_target(&mut self, place: Place) -> Option<DataBlock> {
        let target = self.blocks.get_mut(&place)?.target.as_mut()?;
        target.users += 1;
        Some(target.block)
    }

    /// Whether writes to this place share a new block that is not published yet.
    pub fn has_target(&self, place: Place) -> bool {
        self.blocks.get(&place).is_some_and(|lock| lock.target.is_some())
    }

    /// Makes `block` the new block of this place, with one user.
    pub fn set_target(&mut self, place: Place, block: DataBlock) {
        self.blocks.entry(place).or_default().target = Some(Target { block, users: 1 });
    }

    /// Whether `block` is the new block of this place and no mapping names it yet.
    pub fn is_target(&self, place: Place, block: DataBlock) -> bool {
        self.blocks.get(&place).and_then(|lock| lock.target.as_ref()).is_some_and(|t| t.block == block)
    }

    /// A mapping names the new block now: later writes go by the mapping.
    pub fn target_published(&mut self, place: Place, block: DataBlock) {
        if self.is_target(place, block)
            && let Some(lock) = self.blocks.get_mut(&place)
        {
            lock.target = None;
        }
    }

    /// One write to the new block gave up. Whether it was the last, so that the block is nobody's.
    pub fn leave_target(&mut self, place: Place, block: DataBlock) -> bool {
        if !self.is_target(place, block) {
            return false;
        }
        let Some(lock) = self.blocks.get_mut(&place) else { return false };
        let Some(target) = lock.target.as_mut() else { return false };
        target.users -= 1;
        let last = target.users == 0;
        if last {
            lock.target = None;
        }
        last
    }

    /// Everything that waits, for a pool that failed.
    pub fn drain_waiting(&mut self, ready: &mut VecDeque<Task>) {
        self.blocks.values_mut().for_each(|lock| ready.append(&mut lock.waiting));
        self.ranges.drain(..).for_each(|mut range| ready.append(&mut range.tasks));
    }
}
