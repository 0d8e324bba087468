//! Gives discarded sectors of blocks that stay mapped back to the host.
//!
//! Owns the table of such sectors, and the look that is taken right before they are punched. A sector waits from the delta
//! that discarded it until another maps it in that block again; so what waits has been in no mask of its block since, and is
//! proven to be in none when that delta is proven. What else must hold at the look: the block is still mapped there,
//! exclusive by proof; the sectors are locked, so that nobody writes them meanwhile; and no operation of a former owner
//! names the block. The block is pinned: a deletion, which takes no locks, may free it but nobody gets it.
//!
//! A snapshot taken while sectors are being punched shares the block, but its mask is that of the moment, without them; a
//! write of the volume goes elsewhere from then on. Should a clone of it become the block's only owner while the punch is in
//! flight, its write waits for the pin, which is that of another volume.
//!
//! Volumes with a reservation keep what they have on the host, discarded or not.

use super::operations::Pending;
use super::write::sector_offset_bytes;
use super::{Core, DeltaNumber, Side, Task};
use crate::canary::{self, Canary};
use crate::metadata::{Fault, Found};
use crate::storage::{DiskError, Operation};
use crate::units::{DataBlock, SECTOR_BYTES, SectorMask, VirtualBlock, VolumeId};
use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::VecDeque;

/// Blocks whose discarded sectors are remembered. What is forgotten is found again when the block is freed.
const BLOCKS_MAX: usize = 64 * 1024;
/// Blocks that are looked at in one turn.
const LOOKS_A_TURN: usize = 64;

/// Sectors of one block that were discarded.
#[derive(Clone, Copy)]
struct SectorPunchTask {
    volume: VolumeId,
    virtual_block: VirtualBlock,
    block: DataBlock,
    sectors: SectorMask,
    /// The delta that discarded the last of them.
    number: DeltaNumber,
}

/// Sectors that were discarded, by block.
#[derive(Default)]
pub struct SectorPunches {
    waiting: FxHashMap<DataBlock, SectorPunchTask>,
    /// The blocks that wait, each once, and some that do not any more.
    order: VecDeque<DataBlock>,
    /// When nothing more was proven than this, nothing that waits could be punched.
    in_vain: Option<DeltaNumber>,
    /// What is being punched, its operations in flight and what became of those that are not.
    running: Option<(SectorPunchTask, usize, Result<(), DiskError>)>,
    /// A page is read that says whether something can be punched.
    is_looking: bool,
}

impl SectorPunches {
    /// Whether nothing waits to be punched.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && !self.is_looking
    }

    /// What it needed to see cannot be read.
    pub fn give_up_looking(&mut self, block: DataBlock) {
        self.is_looking = false;
        self.waiting.remove(&block);
    }

    /// Forgets what waits.
    pub fn clear(&mut self) {
        self.waiting.clear();
        self.order.clear();
    }

    /// These sectors of `block` are mapped again.
    pub fn mapped(&mut self, block: DataBlock, sectors: SectorMask) {
        if self.waiting.is_empty() || canary::broken(Canary::SectorPunchStale) {
            return;
        }
        if let Some(task) = self.waiting.get_mut(&block) {
            task.sectors = task.sectors.without(sectors);
            if task.sectors.is_empty() {
                self.waiting.remove(&block);
            }
        }
    }

    /// `block` is mapped no more.
    pub fn freed(&mut self, block: DataBlock) {
        if !self.waiting.is_empty() {
            self.waiting.remove(&block);
        }
    }

    fn add(&mut self, task: SectorPunchTask) {
        let has_room = self.waiting.len() < BLOCKS_MAX;
        match self.waiting.get_mut(&task.block) {
            Some(waiting) if waiting.place() == task.place() => {
                waiting.sectors = waiting.sectors.union(task.sectors);
                waiting.number = waiting.number.max(task.number);
            }
            Some(waiting) => *waiting = task,
            None if has_room => {
                self.waiting.insert(task.block, task);
                self.order.push_back(task.block);
                self.forget_gone();
            }
            None => {}
        }
        self.in_vain = None;
    }

    /// Whoever was mapped again left its place in the order.
    fn forget_gone(&mut self) {
        if self.order.len() > 2 * BLOCKS_MAX {
            let mut seen = FxHashSet::default();
            self.order.retain(|block| self.waiting.contains_key(block) && seen.insert(*block));
        }
    }

    /// The next block, if what discarded its sectors is proven. It goes on waiting, behind the others.
    fn next(&mut self, proven: DeltaNumber) -> Option<DataBlock> {
        if self.in_vain == Some(proven) {
            return None;
        }
        let sees_all = self.order.len() <= LOOKS_A_TURN;
        for _ in 0..self.order.len().min(LOOKS_A_TURN) {
            let block = self.order.pop_front()?;
            let Some(task) = self.waiting.get(&block) else { continue };
            self.order.push_back(block);
            if task.number <= proven || canary::broken(Canary::SectorPunchUnproven) {
                return Some(block);
            }
        }
        if sees_all {
            self.in_vain = Some(proven);
        }
        None
    }
}

impl SectorPunchTask {
    fn place(&self) -> (VolumeId, VirtualBlock) {
        (self.volume, self.virtual_block)
    }
}

impl Core {
    /// What discarding `sectors` of a mapping leaves behind in blocks that stay: to be noted once that is done.
    pub(super) fn left_behind(
        &self,
        volume: VolumeId,
        found: &Found,
        sectors: SectorMask,
    ) -> Vec<(DataBlock, SectorMask)> {
        if !self.gives_back() || self.reservations.promise(volume).is_some() {
            return Vec::new();
        }
        let layers = found.mapping.iter().flat_map(|mapping| mapping.layers());
        let kept = layers.filter(|layer| !layer.is_lost() && self.is_exclusive(found, layer.block));
        let left = kept.map(|layer| (layer.block, layer.mask.intersection(sectors), layer.mask));
        // A layer without any sector left is a freed block.
        left.filter(|(_, gone, mask)| !gone.is_empty() && gone != mask)
            .map(|(block, gone, _)| (block, gone))
            .collect()
    }

    /// The delta appended last has discarded these sectors.
    pub(super) fn note_discarded(
        &mut self,
        (volume, virtual_block): (VolumeId, VirtualBlock),
        left: &[(DataBlock, SectorMask)],
    ) {
        let number = self.commit.newest();
        for (block, sectors) in left.iter().copied() {
            self.punch.sectors.add(SectorPunchTask { volume, virtual_block, block, sectors, number });
        }
    }

    /// Has the host take back the sectors of the next block for which that can be done.
    pub(super) fn start_sector_punches(&mut self) {
        for _ in 0..LOOKS_A_TURN {
            if !self.punch.is_quiet() || self.punch.sectors.is_looking || self.only_closing() {
                return;
            }
            let Some(block) = self.punch.sectors.next(self.commit.proven) else { return };
            self.punch_sectors(block);
        }
    }

    /// Looks once more, and punches what may be punched of `block`.
    pub(super) fn punch_sectors(&mut self, block: DataBlock) {
        self.punch.sectors.is_looking = false;
        let Some(task) = self.punch.sectors.waiting.get(&block).copied() else { return };
        let Ok(record) = self.metadata.volumes.active(task.volume) else {
            return self.punch.sectors.freed(block);
        };
        let found = match self.metadata.forest.lookup(&record.root, task.virtual_block) {
            Ok(found) => found,
            Err(Fault::Missing(pointer)) => {
                self.punch.sectors.is_looking = true;
                return self.wait_for_page(pointer, Task::PunchSectors(block));
            }
            Err(Fault::Failed(_)) => return self.punch.sectors.freed(block),
        };
        let sectors = self.unmapped_of(&task, &found);
        if sectors.is_empty() || !self.gives_back() || self.reservations.promise(task.volume).is_some() {
            return self.punch.sectors.freed(block);
        }
        let task = SectorPunchTask { sectors, ..task };
        if !self.punch.is_quiet() || self.waits_for_proof(&task, &found) || !self.lock_for_punch(&task) {
            return;
        }
        self.punch.sectors.freed(block);
        self.start_sector_punch(task);
    }

    /// Whether it is not proven yet that the block is the volume's alone and that nobody has the sectors. It goes on waiting.
    fn waits_for_proof(&mut self, task: &SectorPunchTask, found: &Found) -> bool {
        if canary::broken(Canary::SectorPunchUnproven) {
            return false;
        }
        let unproven = self.unproven_for(found, task.block, task.sectors);
        let number = unproven.unwrap_or_default().max(task.number);
        if let Some(waiting) = self.punch.sectors.waiting.get_mut(&task.block) {
            waiting.number = number;
        }
        number > self.commit.proven
    }

    /// The sectors of `task` that its block holds for nobody, if it is the volume's alone.
    fn unmapped_of(&self, task: &SectorPunchTask, found: &Found) -> SectorMask {
        let layer =
            found.mapping.and_then(|mapping| mapping.layers().find(|layer| layer.block == task.block));
        match layer.filter(|_| self.is_exclusive(found, task.block)) {
            Some(layer) => task.sectors.without(layer.mask),
            None => SectorMask::EMPTY,
        }
    }

    fn lock_for_punch(&mut self, task: &SectorPunchTask) -> bool {
        if canary::broken(Canary::SectorPunchUnlocked) {
            return true;
        }
        !self.space.is_pinned_by_others(task.block, task.volume)
            && !self.locks.range_waits(task.place())
            && self.locks.lock(task.place(), task.sectors)
    }

    fn start_sector_punch(&mut self, task: SectorPunchTask) {
        self.punch.begin(self.now_ms);
        self.space.pin(task.block, task.volume);
        let mut left = 0;
        for (first, count) in task.sectors.runs() {
            let offset_bytes = sector_offset_bytes(task.block, first);
            let punch = Operation::Punch { offset_bytes, length_bytes: u64::from(count) * SECTOR_BYTES };
            self.submit_operation(Side::Data, punch, Pending::SectorPunch);
            left += 1;
        }
        self.punch.sectors.running = Some((task, left, Ok(())));
    }

    pub(super) fn sector_punch_done(&mut self, result: Result<(), DiskError>) {
        let Some((task, left, so_far)) = &mut self.punch.sectors.running else { return };
        *left -= 1;
        *so_far = so_far.and(result);
        if *left > 0 {
            return;
        }
        let (task, result) = (*task, *so_far);
        self.punch.sectors.running = None;
        self.punch_ends(1, result);
        self.unpin(task.block, task.volume);
        if !canary::broken(Canary::SectorPunchUnlocked) {
            self.unlock(task.place(), task.sectors);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(block: u64, virtual_block: u64, first: u32, number: u64) -> SectorPunchTask {
        SectorPunchTask {
            volume: VolumeId(1),
            virtual_block: VirtualBlock(virtual_block),
            block: DataBlock(block),
            sectors: SectorMask::range(first, 1),
            number: DeltaNumber(number),
        }
    }

    fn taken(punches: &mut SectorPunches, proven: u64) -> Option<(DataBlock, SectorMask)> {
        let block = punches.next(DeltaNumber(proven))?;
        punches.waiting.remove(&block).map(|task| (block, task.sectors))
    }

    #[test]
    fn discards_of_one_block_are_one_and_wait_for_the_last_proof() {
        let mut punches = SectorPunches::default();
        punches.add(task(7, 0, 1, 3));
        punches.add(task(8, 1, 1, 4));
        punches.add(task(7, 0, 2, 5));
        assert_eq!(taken(&mut punches, 4), Some((DataBlock(8), SectorMask::range(1, 1))));
        assert_eq!(taken(&mut punches, 4), None);
        assert_eq!(taken(&mut punches, 5), Some((DataBlock(7), SectorMask::range(1, 2))));
        assert!(punches.is_empty() && taken(&mut punches, 9).is_none() && punches.order.is_empty());
    }

    #[test]
    fn what_is_mapped_again_waits_no_more() {
        let mut punches = SectorPunches::default();
        punches.add(task(7, 0, 1, 3));
        punches.add(task(7, 0, 2, 3));
        punches.mapped(DataBlock(7), SectorMask::range(2, 9));
        assert_eq!(taken(&mut punches, 9), Some((DataBlock(7), SectorMask::range(1, 1))));
        punches.add(task(7, 0, 1, 4));
        punches.mapped(DataBlock(7), SectorMask::FULL);
        punches.add(task(8, 0, 1, 4));
        punches.freed(DataBlock(8));
        assert!(punches.is_empty());
    }

    #[test]
    fn places_left_empty_hide_nobody() {
        let mut punches = SectorPunches::default();
        (0..100).for_each(|block| punches.add(task(block, block, 0, 1)));
        (0..80).for_each(|block| punches.freed(DataBlock(block)));
        let found = (0..3).find_map(|_| taken(&mut punches, 1));
        assert_eq!(found, Some((DataBlock(80), SectorMask::range(0, 1))));
    }

    #[test]
    fn a_block_that_went_elsewhere_is_known_by_its_new_place_and_the_table_has_an_end() {
        let mut punches = SectorPunches::default();
        punches.add(task(7, 0, 1, 3));
        punches.add(task(7, 9, 2, 4));
        assert_eq!(punches.waiting[&DataBlock(7)].virtual_block, VirtualBlock(9));
        assert_eq!(taken(&mut punches, 9), Some((DataBlock(7), SectorMask::range(2, 1))));
        (0..BLOCKS_MAX as u64 + 5).for_each(|block| punches.add(task(block, block, 0, 1)));
        assert_eq!(punches.waiting.len(), BLOCKS_MAX);
        for block in 0..3 * BLOCKS_MAX as u64 {
            punches.freed(DataBlock(block % 9));
            punches.add(task(block % 9, block, 0, 1));
        }
        assert!(punches.order.len() <= 2 * BLOCKS_MAX + 1);
    }
}
