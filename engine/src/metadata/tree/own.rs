//! Counting the data blocks that a tree has alone.
//!
//! Owns the walk past what others share: subtrees with a second owner are not looked at. Changes nothing.

use super::remove::Subtree;
use super::{Fault, Forest, LAST_KEY, Root};
use crate::metadata::cache::Node;
use crate::units::VirtualBlock;

/// How far a count has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OwnCount {
    /// Data blocks that the tree has alone, of virtual blocks before `next`.
    pub blocks: u64,
    /// Where it goes on.
    pub next: VirtualBlock,
}

impl OwnCount {
    /// Whether all of the tree has been counted.
    pub fn is_over(&self) -> bool {
        self.next.0 > LAST_KEY
    }
}

impl Forest {
    /// Goes on with a count, past `entries` entries of pages at most, about. Fails only if it did not come further.
    pub fn count_own(&self, root: &Root, count: OwnCount, entries: usize) -> Result<OwnCount, Fault> {
        let mut walk = Walk { count, entries_left: entries };
        let Some((level, pointer)) = *root else {
            return Ok(OwnCount { next: VirtualBlock(LAST_KEY + 1), ..count });
        };
        match self.count_below(Subtree::of_root(level, pointer), &mut walk) {
            Ok(true) => Ok(OwnCount { next: VirtualBlock(LAST_KEY + 1), ..walk.count }),
            Err(fault) if walk.count.next == count.next => Err(fault),
            Ok(false) | Err(_) => Ok(walk.count),
        }
    }

    /// Whether there was time for all of the subtree.
    fn count_below(&self, subtree: Subtree, walk: &mut Walk) -> Result<bool, Fault> {
        if subtree.high < walk.count.next.0 {
            return Ok(true);
        }
        if walk.entries_left == 0 {
            return Ok(false);
        }
        walk.entries_left -= 1;
        if self.page_counts.get(subtree.pointer.page.0) > 1 {
            walk.count.next = VirtualBlock(subtree.high + 1);
            return Ok(true);
        }
        match &self.node(&subtree.pointer, subtree.level)?.node {
            Node::Leaf(leaf) => {
                let is_own = |block: &crate::units::DataBlock| self.data_counts.get(block.0) == 1;
                for (_, mapping) in leaf.iter_from(walk.count.next.max(leaf.base())) {
                    walk.count.blocks += mapping.blocks().filter(is_own).count() as u64;
                    walk.entries_left = walk.entries_left.saturating_sub(1);
                }
                walk.count.next = VirtualBlock(subtree.high + 1);
            }
            Node::Inner(inner) => {
                for child in subtree.children(inner) {
                    if !self.count_below(child, walk)? {
                        return Ok(false);
                    }
                }
            }
        }
        Ok(true)
    }
}

struct Walk {
    count: OwnCount,
    entries_left: usize,
}
