//! Nodes of mappings that have more owners than were seen: what pointed at them is lost.
//!
//! Owns which of them are believed. A node that no tree leads to can be of an older state, if what was written over it was lost. So
//! below such a head each node must have its owners, and each mapping a data block that the data space map has an owner for and that
//! nobody else maps; blocks and times must be those that the pool can have.

use super::space::{Counts, DataCounts};
use super::survey::{Node, Survey};
use crate::device::Source;
use crate::format::{BlockTime, BtreeNode, NodeFlags, SpaceMapRoot};
use crate::tree::Role;
use rustc_hash::FxHashMap;

/// A node whose owners are lost.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lost {
    pub block: u64,
    /// How many pointers to it are lost.
    pub owners: u32,
    pub node: Node,
}

/// All that are believed, in the order of their first keys.
pub(super) fn heads<S: Source>(survey: &Survey<'_, S>, counts: &Counts, data: &SpaceMapRoot) -> Vec<Lost> {
    let lost = survey.nodes.iter().filter(|(_, node)| node.role == Role::Mappings);
    let lost = lost.filter_map(|(block, node)| {
        let owners = counts.get(*block)?.checked_sub(survey.parents()[*block as usize])?;
        (owners > 0).then_some(Lost { block: *block, owners, node: *node })
    });
    let mut lost: Vec<_> = lost.collect();
    // Data blocks are looked up by bitmap, and neighbours mostly map neighbours.
    lost.sort_by_key(|lost| lost.block);
    let mut judge =
        Judge { survey, counts, data: DataCounts::new(survey.blocks, data), judged: FxHashMap::default() };
    lost.retain(|lost| judge.believes(lost.block));
    lost.sort_by_key(|lost| (lost.node.first, lost.block));
    lost
}

struct Judge<'s, 'a, S> {
    survey: &'s Survey<'a, S>,
    counts: &'s Counts,
    data: DataCounts<'a, S>,
    judged: FxHashMap<u64, bool>,
}

impl<S: Source> Judge<'_, '_, S> {
    fn believes(&mut self, block: u64) -> bool {
        if let Some(judged) = self.judged.get(&block) {
            return *judged;
        }
        let believes = self.has_owners(block) && (self.is_in_a_tree(block) || self.believes_orphan(block));
        self.judged.insert(block, believes);
        believes
    }

    /// Whether the node has at least the owners that were seen.
    fn has_owners(&self, block: u64) -> bool {
        let seen = self.survey.parents()[block as usize];
        self.counts.get(block).is_some_and(|count| count >= seen.max(1))
    }

    fn is_in_a_tree(&self, block: u64) -> bool {
        self.survey.nodes.get(&block).is_some_and(|node| !node.is_orphan)
    }

    fn believes_orphan(&mut self, block: u64) -> bool {
        let node = self.survey.blocks.read(block).and_then(|bytes| BtreeNode::decode(bytes, block, 8));
        let Ok(node) = node else { return false };
        match node.flags() {
            NodeFlags::Leaf => self.believes_leaf(&node),
            NodeFlags::Internal => (0..node.len()).all(|at| self.believes_child(node.value_u64(at))),
        }
    }

    fn believes_child(&mut self, block: u64) -> bool {
        match self.survey.holes.get(&block) {
            // A broken block is lost; a pointer to another node's block is of another state.
            Some(_) => !self.survey.is_misled(block, self.counts),
            None => self.believes(block),
        }
    }

    fn believes_leaf(&mut self, node: &BtreeNode) -> bool {
        let mut mappings = (0..node.len()).map(|at| BlockTime::unpack(node.value_u64(at)));
        // A leaf of the tree of devices has the same form, and blocks that look like times of data block 0.
        if node.len() == 1 && mappings.clone().all(|mapping| mapping.block == 0) {
            return false;
        }
        mappings.all(|BlockTime { block, time }| {
            block < self.survey.nr_data_blocks
                && time <= self.survey.pool_time
                && self.data.get(block).is_some_and(|count| self.survey.data_owners.get(block) <= count)
        })
    }
}
