//! Gives discarded sectors of blocks that stay mapped back to the host.
//!
//! Owns the table of such sectors, and the look that is taken right before they are punched. What must hold then: the
//! block is still mapped there, exclusive by proof, and the sectors are in no mask of that layer; they are locked, so that
//! nobody writes them meanwhile; and no operation of a former owner names the block. The block is pinned: a deletion,
//! which takes no locks, may free it but nobody gets it.
//!
//! A snapshot taken while sectors are being punched shares the block, but its mask is that of the moment, without them; a
//! write of the volume goes elsewhere from then on. Should a clone of it become the block's only owner while the punch is in
//! flight, its write waits for the pin, which is that of another volume.

use super::operations::Pending;
use super::write::sector_offset_bytes;
use super::{Core, DeltaNumber, Side, Task};
use crate::canary::{self, Canary};
use crate::format::Mapping;
use crate::metadata::{Fault, Found};
use crate::settings::DiscardPolicy;
use crate::storage::{DiskError, Operation};
use crate::units::{DataBlock, SECTOR_BYTES, SectorMask, VirtualBlock, VolumeId};
use rustc_hash::FxHashMap;
use std::collections::VecDeque;

/// Blocks whose discarded sectors are remembered. What is forgotten is found again when the block is freed.
const BLOCKS_MAX: usize = 64 * 1024;
/// Blocks that are looked at in one turn.
const LOOKS_A_TURN: usize = 64;

/// Sectors of one block that were discarded.
#[derive(Clone, Copy)]
pub struct SectorPunchTask {
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
    /// The blocks that wait, each once.
    order: VecDeque<DataBlock>,
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
    pub fn give_up_looking(&mut self) {
        self.is_looking = false;
    }

    /// Forgets what waits.
    pub fn clear(&mut self) {
        self.waiting.clear();
        self.order.clear();
    }

    fn add(&mut self, task: SectorPunchTask) {
        let full = self.waiting.len() >= BLOCKS_MAX;
        match self.waiting.get_mut(&task.block) {
            Some(waiting) if waiting.place() == task.place() => {
                waiting.sectors = waiting.sectors.union(task.sectors);
                waiting.number = waiting.number.max(task.number);
            }
            Some(waiting) => *waiting = task,
            None if full => {}
            None => {
                self.waiting.insert(task.block, task);
                self.order.push_back(task.block);
            }
        }
    }

    /// The next block, if what discarded its sectors is proven.
    fn next(&mut self, proven: DeltaNumber) -> Option<SectorPunchTask> {
        for _ in 0..self.order.len().min(LOOKS_A_TURN) {
            let block = self.order.pop_front()?;
            match self.waiting.get(&block) {
                Some(task) if task.number <= proven || canary::broken(Canary::SectorPunchUnproven) => {
                    return self.waiting.remove(&block);
                }
                Some(_) => self.order.push_back(block),
                None => {}
            }
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
    /// The delta appended last has taken `sectors` out of `mapping`, which leaves some of it.
    pub(super) fn note_discarded(
        &mut self,
        (volume, virtual_block): (VolumeId, VirtualBlock),
        mapping: &Mapping,
        sectors: SectorMask,
    ) {
        if !self.gives_back() {
            return;
        }
        let number = self.commit.newest();
        for layer in mapping.layers().filter(|layer| !layer.is_lost()) {
            let sectors = layer.mask.intersection(sectors);
            // A layer without any sector left is a freed block.
            if !sectors.is_empty() && !sectors.contains(layer.mask) {
                let block = layer.block;
                self.punch.sectors.add(SectorPunchTask { volume, virtual_block, block, sectors, number });
            }
        }
    }

    /// Has the host take back the sectors of the next block for which that can be done.
    pub(super) fn start_sector_punches(&mut self) {
        for _ in 0..LOOKS_A_TURN {
            if !self.punch.is_quiet() || self.punch.sectors.is_looking || self.only_closing() {
                return;
            }
            let Some(task) = self.punch.sectors.next(self.commit.proven) else { return };
            self.punch_sectors(task);
        }
    }

    /// Looks once more, and punches what may be punched.
    pub(super) fn punch_sectors(&mut self, task: SectorPunchTask) {
        self.punch.sectors.is_looking = false;
        let Ok(record) = self.metadata.volumes.active(task.volume) else { return };
        let found = match self.metadata.forest.lookup(&record.root, task.virtual_block) {
            Ok(found) => found,
            Err(Fault::Missing(pointer)) => {
                self.punch.sectors.is_looking = true;
                return self.wait_for_page(pointer, Task::PunchSectors(task));
            }
            Err(Fault::Failed(_)) => return,
        };
        let sectors = self.unmapped_of(&task, &found);
        if sectors.is_empty() || self.settings.discard == DiscardPolicy::Off || !self.punch.is_quiet() {
            return;
        }
        let task = SectorPunchTask { sectors, ..task };
        if let Some(number) = self.unproven_for(&found, task.block, sectors)
            && !canary::broken(Canary::SectorPunchUnproven)
        {
            return self.punch.sectors.add(SectorPunchTask { number, ..task });
        }
        if self.space.is_pinned_by_others(task.block, task.volume) || !self.lock_for_punch(&task) {
            return self.punch.sectors.add(task);
        }
        self.start_sector_punch(task);
    }

    /// The sectors of `task` that its block holds for nobody, if it is the volume's alone.
    fn unmapped_of(&self, task: &SectorPunchTask, found: &Found) -> SectorMask {
        let layer =
            found.mapping.and_then(|mapping| mapping.layers().find(|layer| layer.block == task.block));
        match layer.filter(|_| self.is_exclusive(found, task.block)) {
            Some(_) if canary::broken(Canary::SectorPunchUnseen) => task.sectors,
            Some(layer) => task.sectors.without(layer.mask),
            None => SectorMask::EMPTY,
        }
    }

    fn lock_for_punch(&mut self, task: &SectorPunchTask) -> bool {
        if canary::broken(Canary::SectorPunchUnlocked) {
            return true;
        }
        !self.locks.range_waits(task.place()) && self.locks.lock(task.place(), task.sectors)
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
        self.punch_ends(result);
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

    #[test]
    fn discards_of_one_block_are_one_and_wait_for_the_last_proof() {
        let mut punches = SectorPunches::default();
        punches.add(task(7, 0, 1, 3));
        punches.add(task(8, 1, 1, 4));
        punches.add(task(7, 0, 2, 5));
        let next = punches.next(DeltaNumber(4)).unwrap();
        assert_eq!(next.block, DataBlock(8));
        assert!(punches.next(DeltaNumber(4)).is_none());
        let next = punches.next(DeltaNumber(5)).unwrap();
        assert_eq!((next.block, next.sectors), (DataBlock(7), SectorMask::range(1, 2)));
        assert!(punches.is_empty() && punches.order.is_empty());
    }

    #[test]
    fn a_block_that_went_elsewhere_is_known_by_its_new_place_and_the_table_has_an_end() {
        let mut punches = SectorPunches::default();
        punches.add(task(7, 0, 1, 3));
        punches.add(task(7, 9, 2, 4));
        let next = punches.next(DeltaNumber(9)).unwrap();
        assert_eq!((next.virtual_block, next.sectors), (VirtualBlock(9), SectorMask::range(2, 1)));
        (0..BLOCKS_MAX as u64 + 5).for_each(|block| punches.add(task(block, block, 0, 1)));
        assert_eq!((punches.waiting.len(), punches.order.len()), (BLOCKS_MAX, BLOCKS_MAX));
    }
}
