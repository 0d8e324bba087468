//! What must not be overwritten in place yet (L4), because recovery may still look at it.
//!
//! Owns, for every delta that is not proven: the sectors it published, and the blocks and pages that became exclusive
//! through it.

use super::DeltaNumber;
use crate::canary::{self, Canary};
use crate::units::{DataBlock, PageNumber, SECTOR_BYTES, SectorMask};
use rustc_hash::FxHashMap;
use std::collections::VecDeque;

/// Sectors and blocks that wait for a proof.
#[derive(Default)]
pub struct Unproven {
    sectors: FxHashMap<DataBlock, Vec<(DeltaNumber, SectorMask)>>,
    published: VecDeque<(DeltaNumber, DataBlock, SectorMask)>,
    exclusive: FxHashMap<DataBlock, DeltaNumber>,
    became_exclusive: VecDeque<(DeltaNumber, DataBlock)>,
    pages: FxHashMap<PageNumber, DeltaNumber>,
    pages_in_order: VecDeque<(DeltaNumber, PageNumber)>,
    bytes: u64,
}

impl Unproven {
    /// Bytes of data that recovery would have to check now.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Delta `number` published `sectors` of `block`.
    pub fn publish(&mut self, number: DeltaNumber, block: DataBlock, sectors: SectorMask) {
        self.sectors.entry(block).or_default().push((number, sectors));
        self.published.push_back((number, block, sectors));
        self.bytes += u64::from(sectors.count()) * SECTOR_BYTES;
    }

    /// `block` became exclusive through delta `number`.
    pub fn become_exclusive(&mut self, number: DeltaNumber, block: DataBlock) {
        self.exclusive.insert(block, number);
        self.became_exclusive.push_back((number, block));
    }

    /// `page` became exclusive through delta `number`.
    pub fn page_became_exclusive(&mut self, number: DeltaNumber, page: PageNumber) {
        self.pages.insert(page, number);
        self.pages_in_order.push_back((number, page));
    }

    /// What was below page `from` is below `to` now: it is exclusive by the same proof.
    pub fn page_inherits(&mut self, from: PageNumber, to: PageNumber) {
        if let Some(number) = self.pages.get(&from).copied() {
            let number = number.max(self.pages.get(&to).copied().unwrap_or_default());
            self.pages.insert(to, number);
            // Later than its number says, at the worst: entries are forgotten in order of the list.
            self.pages_in_order.push_back((number, to));
        }
    }

    /// Deltas up to `number` are proven.
    pub fn prove(&mut self, number: DeltaNumber) {
        while let Some((_, block, sectors)) = self.published.pop_front_if(|(n, ..)| *n <= number) {
            self.bytes -= u64::from(sectors.count()) * SECTOR_BYTES;
            if let Some(list) = self.sectors.get_mut(&block) {
                list.retain(|(n, _)| *n > number);
                if list.is_empty() {
                    self.sectors.remove(&block);
                }
            }
        }
        while let Some((n, block)) = self.became_exclusive.pop_front_if(|(n, _)| *n <= number) {
            if self.exclusive.get(&block) == Some(&n) {
                self.exclusive.remove(&block);
            }
        }
        while let Some((n, page)) = self.pages_in_order.pop_front_if(|(n, _)| *n <= number) {
            if self.pages.get(&page) == Some(&n) {
                self.pages.remove(&page);
            }
        }
    }

    /// The delta that has to be proven before `sectors` of `block` may be written in place.
    pub fn published_by(&self, block: DataBlock, sectors: SectorMask) -> Option<DeltaNumber> {
        if canary::broken(Canary::InPlaceUnproven) {
            return None;
        }
        let list = self.sectors.get(&block)?;
        list.iter().filter(|(_, mask)| mask.overlaps(sectors)).map(|(number, _)| *number).max()
    }

    /// The delta that has to be proven before `block` may be treated as exclusive.
    pub fn exclusive_by(&self, block: DataBlock) -> Option<DeltaNumber> {
        if canary::broken(Canary::ExclusiveTooEarly) {
            return None;
        }
        self.exclusive.get(&block).copied()
    }

    /// The delta that has to be proven before what is below `page` may be treated as exclusive.
    pub fn path_exclusive_by(&self, page: PageNumber) -> Option<DeltaNumber> {
        if canary::broken(Canary::ExclusiveTooEarly) {
            return None;
        }
        self.pages.get(&page).copied()
    }
}
