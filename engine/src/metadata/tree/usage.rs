//! What some trees have alone: what would become free if all of them were dropped.
//!
//! Owns the walk that plays the dropping through with counts, and changes nothing. A page goes when all its parents go,
//! which are counted as they are met; only pages that go are looked into. It goes through the trees side by side, in order
//! of keys, because all that name a block name it at the same virtual block: snapshots and clones share nothing else. So
//! counts of references met are kept for the blocks of one window at a time, and memory does not grow with the trees.
//! Read next: `remove.rs`, which does drop.

use super::{Fault, Forest, Root, window_start};
use crate::error::{Error, Place};
use crate::format::{MapEntry, MapLeaf, Pointer};
use crate::metadata::cache::Node;
use crate::units::{DataBlock, PageNumber};
use rustc_hash::FxHashMap;
use std::collections::BTreeMap;

/// What a page costs of a budget; an entry costs one, a block that may be shared too.
const PAGE_COST: u64 = 8;

/// What was found so far, and where there is more to see.
#[derive(Debug, Default)]
pub struct Holdings {
    /// Data blocks that nothing else names.
    pub exclusive_blocks: u64,
    /// Data blocks that others name too, where a page says so that the trees have alone. Below a page that others have
    /// too every mapped virtual block counts as one.
    pub shared_blocks: u64,
    /// Pages that nothing else leads to, second copies included.
    pub pages: u64,
    /// Pages that would go and were not looked into yet, by the lowest key that they may hold.
    pending: BTreeMap<(u64, PageNumber), (Pointer, u8)>,
    /// How many parents have been met of pages that have more.
    parents_met: FxHashMap<PageNumber, u32>,
    /// How many references have been met to blocks that have more, by the start of their window.
    references_met: BTreeMap<u64, FxHashMap<DataBlock, u32>>,
    /// There is one tree only, which leads to nothing twice.
    is_one_tree: bool,
}

/// What one reference more says of something.
enum Met {
    /// Others have it, as far as is known.
    First,
    /// Others have it still.
    Again,
    /// Nobody else has it.
    Last,
}

impl Holdings {
    /// Whether everything has been seen.
    pub fn is_complete(&self) -> bool {
        self.pending.is_empty()
    }

    /// Pages that will be looked into, those that come first in front.
    pub fn pending(&self) -> impl Iterator<Item = &Pointer> {
        self.pending.values().map(|(pointer, _)| pointer)
    }

    /// No leaf that is still to come lies in front of the window of `key`.
    fn forget_before(&mut self, key: u64) {
        let start = window_start(key);
        if self.references_met.first_key_value().is_some_and(|(window, _)| *window < start) {
            self.references_met = self.references_met.split_off(&start);
        }
    }
}

impl Forest {
    /// The beginning of a walk through the trees behind `roots`, each of which is another volume's.
    pub fn holdings(&self, roots: &[Root]) -> Result<Holdings, Fault> {
        let mut holdings = Holdings { is_one_tree: roots.len() == 1, ..Holdings::default() };
        for (level, pointer) in roots.iter().flatten() {
            self.meet_page(&mut holdings, 0, *pointer, *level)?;
        }
        Ok(holdings)
    }

    /// Goes on until all is seen, or `budget` is spent, which is counted in mappings and taken down. Between two calls
    /// neither the trees may change, nor [`Self::sharing_changes`], nor [`Self::building`]. A page that is missing is looked into first the next time.
    pub fn look_for_holdings(&self, holdings: &mut Holdings, budget: &mut u64) -> Result<(), Fault> {
        while *budget > 0 {
            let Some((&(low, page), &(pointer, level))) = holdings.pending.first_key_value() else { break };
            let node = &self.node(&pointer, level)?.node;
            holdings.pending.remove(&(low, page));
            holdings.forget_before(low);
            holdings.pages += 1 + u64::from(pointer.copy.is_some());
            *budget = budget.saturating_sub(PAGE_COST + node.entries() as u64);
            match node {
                Node::Inner(inner) => {
                    for (key, child) in &inner.entries {
                        self.meet_page(holdings, *key, *child, level - 1)?;
                    }
                }
                Node::Leaf(leaf) => *budget = budget.saturating_sub(self.meet_blocks(holdings, leaf)?),
            }
        }
        Ok(())
    }

    /// A parent that goes leads to a page.
    fn meet_page(&self, holdings: &mut Holdings, low: u64, pointer: Pointer, level: u8) -> Result<(), Fault> {
        let page = pointer.page;
        let count = self.page_counts.get(page.0);
        let met = match count {
            1 => Met::Last,
            2.. if holdings.is_one_tree => Met::First,
            _ => meet(&mut holdings.parents_met, page, count).ok_or_else(|| too_many(Place::Page(page)))?,
        };
        match met {
            Met::First => holdings.shared_blocks += pointer.mapped,
            Met::Again => {}
            Met::Last => {
                holdings.shared_blocks -= if count > 1 { pointer.mapped } else { 0 };
                holdings.pending.insert((low, page), (pointer, level));
            }
        }
        Ok(())
    }

    /// A leaf goes. How many of its blocks had to be looked at one by one.
    fn meet_blocks(&self, holdings: &mut Holdings, leaf: &MapLeaf) -> Result<u64, Fault> {
        let mut looked_at = 0;
        let mut references = holdings.references_met.remove(&leaf.base().0).unwrap_or_default();
        for entry in leaf.iter_entries() {
            if self.is_run_exclusive(&entry) {
                holdings.exclusive_blocks += u64::from(entry.length);
                continue;
            }
            for block in entry.data_blocks() {
                looked_at += 1;
                self.meet_block(holdings, &mut references, block)?;
            }
        }
        if !references.is_empty() {
            holdings.references_met.insert(leaf.base().0, references);
        }
        Ok(looked_at)
    }

    fn is_run_exclusive(&self, entry: &MapEntry) -> bool {
        let upper = entry.mapping.upper;
        entry.mapping.lower.is_none()
            && !upper.is_lost()
            && self.data_counts.are_all_one(upper.block.0, u64::from(entry.length))
    }

    fn meet_block(
        &self,
        holdings: &mut Holdings,
        references: &mut FxHashMap<DataBlock, u32>,
        block: DataBlock,
    ) -> Result<(), Fault> {
        let count = self.data_counts.get(block.0);
        let met = match count {
            1 => Met::Last,
            2.. if holdings.is_one_tree => Met::First,
            _ => meet(references, block, count).ok_or_else(|| too_many(Place::Block(block)))?,
        };
        match met {
            Met::First => holdings.shared_blocks += 1,
            Met::Again => {}
            Met::Last => {
                holdings.shared_blocks -= u64::from(count > 1);
                holdings.exclusive_blocks += 1;
            }
        }
        Ok(())
    }
}

/// One reference more to something that has `count`, of which `met` knows those met before. None if it has none.
fn meet<K: std::hash::Hash + Eq>(met: &mut FxHashMap<K, u32>, what: K, count: u32) -> Option<Met> {
    let so_far = met.entry(what).or_default();
    *so_far += 1;
    match (*so_far, count) {
        (_, 0) => None,
        // It stays in the table, so that one reference too many is noticed.
        (so_far, count) if so_far > count => None,
        (so_far, count) if so_far == count => Some(Met::Last),
        (1, _) => Some(Met::First),
        _ => Some(Met::Again),
    }
}

fn too_many(place: Place) -> Fault {
    Error::damaged("a count is lower than the number of references").at(place).into()
}
