//! Visits every node that can be reached once, and then those that cannot.
//!
//! Owns what is known of a node and of a hole, and the owners of metadata and data blocks that were seen. The check has such a
//! walk too, for findings; this one is for what lies where.

use super::space::{Counts as SpaceCounts, metadata_index};
use crate::counts::Counts;
use crate::device::{Blocks, Source};
use crate::format::{BlockKind, BlockTime, BtreeNode, MAX_METADATA_BLOCKS, NodeFlags, Superblock, kind_of};
use crate::tree::{DEPTH_MAX, Role, check_place};
use rustc_hash::{FxHashMap, FxHashSet};

/// What lies below a node, itself included.
#[derive(Clone, Copy, Debug)]
pub(super) struct Node {
    pub role: Role,
    /// 0 for a leaf. `None` if what is below does not tell.
    pub height: Option<u8>,
    /// Nodes above one another, at least.
    pub levels: u8,
    /// Whether no tree leads here.
    pub is_orphan: bool,
    /// Whether some of it is lost.
    pub has_holes: bool,
    pub entries: u64,
    pub first: u64,
    pub last: u64,
}

/// A pointer, or several to one block, behind which no node is that can stand there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hole {
    pub role: Role,
    /// Pointers to it, in different nodes.
    pub places: u32,
    pub first: u64,
    pub last: u64,
    /// The height that a node would have there, if a neighbour tells.
    pub height: Option<u8>,
}

/// Keys that a node may have, and how deep it is.
#[derive(Clone, Copy)]
struct Position {
    first: u64,
    last: u64,
    depth: usize,
}

const ROOT: Position = Position { first: 0, last: u64::MAX, depth: 0 };

pub(super) struct Survey<'a, S> {
    pub blocks: &'a Blocks<S>,
    pub nodes: FxHashMap<u64, Node>,
    pub holes: FxHashMap<u64, Hole>,
    pub data_owners: Counts,
    pub nr_data_blocks: u64,
    pub pool_time: u32,
    parents: Vec<u32>,
    open: FxHashSet<u64>,
    roots: Vec<u64>,
    in_orphans: bool,
}

impl<'a, S: Source> Survey<'a, S> {
    pub fn new(blocks: &'a Blocks<S>, live: &Superblock) -> Self {
        let mut survey = Self {
            blocks,
            nodes: FxHashMap::default(),
            holes: FxHashMap::default(),
            data_owners: Counts::default(),
            nr_data_blocks: live.data_space_map.nr_blocks,
            pool_time: live.time,
            parents: vec![0; blocks.count().min(MAX_METADATA_BLOCKS) as usize],
            open: FxHashSet::default(),
            roots: Vec::new(),
            in_orphans: false,
        };
        survey.own(0);
        survey
    }

    /// One more owner of a block.
    pub fn own(&mut self, block: u64) {
        if let Some(parents) = usize::try_from(block).ok().and_then(|block| self.parents.get_mut(block)) {
            *parents = parents.saturating_add(1);
        }
    }

    /// Owners that were seen, by block.
    pub fn parents(&self) -> &[u32] {
        &self.parents
    }

    /// Both trees of a superblock, and the mappings of all devices.
    pub fn superblock(&mut self, superblock: &Superblock) {
        self.visit(superblock.mapping_root, Role::Devices, ROOT);
        self.visit(superblock.details_root, Role::Details, ROOT);
        for root in std::mem::take(&mut self.roots) {
            self.visit(root, Role::Mappings, ROOT);
        }
    }

    /// What the space maps own.
    pub fn space_maps(&mut self, live: &Superblock) {
        self.visit(live.data_space_map.bitmap_root, Role::Index, ROOT);
        self.visit(live.data_space_map.ref_count_root, Role::RefCounts, ROOT);
        self.visit(live.metadata_space_map.ref_count_root, Role::RefCounts, ROOT);
        self.own(live.metadata_space_map.bitmap_root);
        for entry in metadata_index(self.blocks, &live.metadata_space_map) {
            self.own(entry.bitmap);
        }
    }

    /// Every node of mappings that is in use by the space map and that nothing led to. A node is visited below whatever points
    /// at it, in any order.
    pub fn orphans(&mut self, counts: &SpaceCounts) {
        self.in_orphans = true;
        for block in 1..self.parents.len() as u64 {
            let is_new = !self.nodes.contains_key(&block) && !self.holes.contains_key(&block);
            if !is_new || self.parents[block as usize] > 0 || counts.get(block).is_none_or(|count| count == 0)
            {
                continue;
            }
            let Ok(bytes) = self.blocks.read(block) else { continue };
            if kind_of(&bytes) == Some(BlockKind::BtreeNode)
                && let Ok(node) = BtreeNode::decode(bytes, block, Role::Mappings.value_bytes())
                && (node.flags() == NodeFlags::Leaf || !node.is_empty())
            {
                self.enter(block, node, Role::Mappings, ROOT);
            }
        }
    }

    /// Whether anything of the trees of devices and mappings is lost.
    pub fn has_holes(&self) -> bool {
        self.holes.values().any(|hole| matches!(hole.role, Role::Devices | Role::Mappings))
    }

    /// Whether a pointer to a hole cannot be right: no node was ever there, it is another one's, or it has not so many owners.
    pub fn is_misled(&self, block: u64, counts: &SpaceCounts) -> bool {
        let places = self.holes.get(&block).map_or(0, |hole| hole.places);
        block >= self.parents.len() as u64
            || self.nodes.contains_key(&block)
            || self.parents[block as usize] > 0
            || counts.get(block).map_or(places > 1, |count| count < places)
    }

    /// The greatest height that a node has which belongs into a hole; `None` if there can be none, as below a leaf.
    pub fn room(&self, block: u64, hole: &Hole, counts: &SpaceCounts) -> Option<u8> {
        match hole.height {
            None => Some(u8::MAX),
            Some(height) if self.is_misled(block, counts) => Some(height),
            // The block itself is the lost one, and what it pointed at is lower.
            Some(height) => height.checked_sub(1),
        }
    }

    /// Whether some hole in mappings may have had a node below.
    pub fn has_holders(&self, counts: &SpaceCounts) -> bool {
        let mut holes = self.holes.iter().filter(|(_, hole)| hole.role == Role::Mappings);
        holes.any(|(block, hole)| self.room(*block, hole, counts).is_some())
    }

    /// Whether every block in use is one that was seen, or one that cannot be read and whose place is known.
    pub fn explains(&self, counts: &SpaceCounts) -> bool {
        let is_seen = |block: u64| {
            self.parents[block as usize] > 0
                || self.nodes.contains_key(&block)
                || self.holes.contains_key(&block)
        };
        let is_explained = |block| counts.get(block).is_some_and(|count| count == 0 || is_seen(block));
        counts.len() > 0 && (0..counts.len()).all(is_explained)
    }

    fn visit(&mut self, block: u64, role: Role, position: Position) -> Option<Node> {
        if let Some(node) = self.nodes.get(&block).copied() {
            let has_keys = node.first >= position.first && node.last <= position.last && node.entries > 0;
            let is_deep = position.depth + usize::from(node.levels) > DEPTH_MAX;
            if node.role != role || is_deep || !has_keys && position.depth > 0 {
                return self.miss(block, role, position);
            }
            self.own(block);
            return Some(node);
        }
        if self.open.contains(&block) {
            return self.miss(block, role, position);
        }
        let node =
            self.blocks.read(block).and_then(|bytes| BtreeNode::decode(bytes, block, role.value_bytes()));
        let Position { first, last, depth } = position;
        let fits = |node: &BtreeNode| check_place(node, block, first, last, depth == 0).is_ok();
        match node {
            Ok(node) if fits(&node) && depth < DEPTH_MAX => {
                self.own(block);
                Some(self.enter(block, node, role, position))
            }
            _ => self.miss(block, role, position),
        }
    }

    fn miss(&mut self, block: u64, role: Role, position: Position) -> Option<Node> {
        let Position { first, last, .. } = position;
        let new = Hole { role, places: 0, first, last, height: None };
        let hole = self.holes.entry(block).or_insert(new);
        hole.places += 1;
        // Whatever was there had keys for all who pointed at it.
        hole.first = hole.first.max(first);
        hole.last = hole.last.min(last);
        None
    }

    fn enter(&mut self, block: u64, node: BtreeNode, role: Role, position: Position) -> Node {
        let summary = match node.flags() {
            NodeFlags::Leaf => self.leaf(&node, role),
            NodeFlags::Internal => {
                self.open.insert(block);
                let summary = self.internal(&node, role, position);
                self.open.remove(&block);
                summary
            }
        };
        self.nodes.insert(block, summary);
        summary
    }

    fn leaf(&mut self, node: &BtreeNode, role: Role) -> Node {
        for at in 0..node.len() {
            match role {
                Role::Mappings => {
                    let block = BlockTime::unpack(node.value_u64(at)).block;
                    if block < self.nr_data_blocks {
                        self.data_owners.add(block);
                    }
                }
                Role::Devices => self.roots.push(node.value_u64(at)),
                Role::Index => self.own(node.value_u64(at)),
                Role::Details | Role::RefCounts => {}
            }
        }
        let end = node.len().checked_sub(1);
        Node {
            role,
            height: Some(0),
            levels: 1,
            is_orphan: self.in_orphans,
            has_holes: false,
            entries: node.len() as u64,
            first: end.map_or(0, |_| node.key(0)),
            last: end.map_or(0, |end| node.key(end)),
        }
    }

    fn internal(&mut self, node: &BtreeNode, role: Role, position: Position) -> Node {
        let (mut heights, mut missing) = (Vec::new(), Vec::new());
        let mut summary = Node {
            role,
            height: None,
            levels: 1,
            is_orphan: self.in_orphans,
            has_holes: false,
            entries: 0,
            first: node.key(0),
            last: node.key(node.len() - 1),
        };
        for at in 0..node.len() {
            let last = if at + 1 < node.len() { node.key(at + 1) - 1 } else { position.last };
            let below = Position { first: node.key(at), last, depth: position.depth + 1 };
            let Some(child) = self.visit(node.value_u64(at), role, below) else {
                missing.push(node.value_u64(at));
                continue;
            };
            heights.push(child.height);
            summary.levels = summary.levels.max(child.levels + 1);
            summary.entries = summary.entries.saturating_add(child.entries);
            summary.last = summary.last.max(child.last);
            summary.has_holes |= child.has_holes;
        }
        summary.has_holes |= !missing.is_empty();
        heights.dedup();
        // Where leaves are not equally deep, one of them is not what it should be, and nothing is known.
        if let [Some(height)] = heights[..] {
            summary.height = Some(height.saturating_add(1));
            for block in missing {
                // Of what owners say that differ, the higher leaves more to be possible.
                let hole = self.holes.get_mut(&block);
                hole.into_iter().for_each(|hole| hole.height = hole.height.max(Some(height)));
            }
        }
        summary
    }
}
