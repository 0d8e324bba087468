//! Visits every node of every tree once, counts who points at it, and remembers what lies below it.
//!
//! Owns the counts of owners that the space maps are compared with. A node that devices share is read for the first of them;
//! the others take its summary. So a check costs what the metadata has, not what the devices have in sum.

use super::findings::{Cost, Defect, DeviceRange, Report};
use crate::counts::Counts;
use crate::device::{Blocks, Source};
use crate::error::{Error, Place};
use crate::format::{BlockTime, BtreeNode, MAX_METADATA_BLOCKS, NodeFlags};
use crate::reader::beyond_data;
use crate::tree::{Role, check_place};
use rustc_hash::FxHashMap;

const DEPTH_MAX: u32 = 64;

/// What lies below a node.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    pub entries: u64,
    pub height: u32,
    first: u64,
    last: u64,
    pub max_time: u32,
    /// Findings below, with the keys that they cost.
    pub lost: Vec<(usize, u64, u64)>,
}

enum Visit {
    /// On the way down from here.
    Open,
    /// It cannot be used; whoever points here loses the keys.
    Broken(usize),
    Done(Summary),
}

/// Keys that a node may have, and where it stands.
#[derive(Clone, Copy)]
struct Position {
    first: u64,
    last: u64,
    depth: u32,
}

pub struct Forest<'a, S> {
    pub blocks: &'a Blocks<S>,
    pub report: Report,
    pub data_owners: Counts,
    /// Owners of metadata blocks.
    pub owners: Vec<u32>,
    pub nr_data_blocks: u64,
    pub pool_time: u32,
    /// Whether the trees visited now are those of the metadata snapshot.
    pub in_snapshot: bool,
    visits: FxHashMap<u64, (Role, Visit)>,
    /// The device whose mappings are visited.
    pub device: Option<u64>,
}

impl<'a, S: Source> Forest<'a, S> {
    pub fn new(blocks: &'a Blocks<S>, nr_data_blocks: u64, pool_time: u32) -> Self {
        Self {
            blocks,
            report: Report::default(),
            data_owners: Counts::default(),
            // Behind this there can be no block of dm-thin's, however large the device is.
            owners: vec![0; blocks.count().min(MAX_METADATA_BLOCKS) as usize],
            nr_data_blocks,
            pool_time,
            in_snapshot: false,
            visits: FxHashMap::default(),
            device: None,
        }
    }

    /// One more owner of a metadata block; blocks beyond the device have none.
    pub fn own(&mut self, block: u64) {
        if let Some(owners) = usize::try_from(block).ok().and_then(|block| self.owners.get_mut(block)) {
            *owners = owners.saturating_add(1);
        }
    }

    pub fn owners_of(&self, block: u64) -> u32 {
        usize::try_from(block).ok().and_then(|block| self.owners.get(block)).copied().unwrap_or(0)
    }

    /// Visits the tree at `root` for one owner. `leaf` is called for each leaf that was not visited before.
    pub fn visit_tree(
        &mut self,
        root: u64,
        role: Role,
        leaf: &mut dyn FnMut(&mut Self, u64, &BtreeNode),
    ) -> Summary {
        let position = Position { first: 0, last: u64::MAX, depth: 0 };
        self.visit(root, role, position, leaf)
            .unwrap_or_else(|finding| Summary { lost: vec![(finding, 0, u64::MAX)], ..Summary::default() })
    }

    /// Whether a node of this role has more owners than one.
    pub fn shares_nodes(&self, role: Role) -> bool {
        self.visits.iter().any(|(block, (known, _))| *known == role && self.owners_of(*block) > 1)
    }

    /// The summary of a mapping node that was visited.
    pub fn summary(&self, block: u64) -> Option<&Summary> {
        match self.visits.get(&block) {
            Some((_, Visit::Done(summary))) => Some(summary),
            _ => None,
        }
    }

    fn visit(
        &mut self,
        block: u64,
        role: Role,
        position: Position,
        leaf: &mut dyn FnMut(&mut Self, u64, &BtreeNode),
    ) -> Result<Summary, usize> {
        self.own(block);
        if let Some((known, visit)) = self.visits.get(&block) {
            let message = match visit {
                _ if *known != role => format!("the node belongs to {known:?} and to {role:?}"),
                Visit::Broken(finding) => return Err(*finding),
                Visit::Open => "the node is below itself".to_owned(),
                Visit::Done(summary) if summary.entries == 0 && position.depth > 0 => {
                    "an empty node below another".to_owned()
                }
                Visit::Done(summary) if summary.entries > 0 && !summary.fits(position) => {
                    format!("keys {} to {} where the parent has others", summary.first, summary.last)
                }
                Visit::Done(summary) => return Ok(summary.clone()),
            };
            return Err(self.broken(role, position, Error::damaged(block, 0, message)));
        }
        self.visits.insert(block, (role, Visit::Open));
        let result = self.visit_new(block, role, position, leaf);
        let visit = result.clone().map_or_else(Visit::Broken, Visit::Done);
        self.visits.insert(block, (role, visit));
        result
    }

    fn visit_new(
        &mut self,
        block: u64,
        role: Role,
        position: Position,
        leaf: &mut dyn FnMut(&mut Self, u64, &BtreeNode),
    ) -> Result<Summary, usize> {
        let Position { first, last, depth } = position;
        let node =
            self.blocks.read(block).and_then(|bytes| BtreeNode::decode(bytes, block, role.value_bytes()));
        let node = node.and_then(|node| check_place(&node, block, first, last, depth == 0).map(|()| node));
        let node = node.map_err(|error| self.broken(role, position, error))?;
        if depth > 0 && node.len() < node.max_entries() / 3 {
            let text = format!(
                "{} entries below another node, where {} are due",
                node.len(),
                node.max_entries() / 3
            );
            self.report.add(Defect::NodeFill, self.place(block, 16), Cost::Nothing, text);
        }
        let mut summary = Summary { entries: 0, first: 0, last: 0, ..Summary::default() };
        if !node.is_empty() {
            (summary.first, summary.last) = (node.key(0), node.key(node.len() - 1));
        }
        if node.flags() == NodeFlags::Internal {
            self.visit_children(block, &node, role, position, &mut summary, leaf);
            return Ok(summary);
        }
        summary.entries = node.len() as u64;
        if role == Role::Mappings {
            self.mappings(block, &node, &mut summary);
        }
        leaf(self, block, &node);
        Ok(summary)
    }

    fn visit_children(
        &mut self,
        block: u64,
        node: &BtreeNode,
        role: Role,
        position: Position,
        summary: &mut Summary,
        leaf: &mut dyn FnMut(&mut Self, u64, &BtreeNode),
    ) {
        let mut height = None;
        for at in 0..node.len() {
            let last = if at + 1 < node.len() { node.key(at + 1) - 1 } else { position.last };
            let below = Position { first: node.key(at), last, depth: position.depth + 1 };
            let child = if below.depth > DEPTH_MAX {
                Err(self.broken(
                    role,
                    below,
                    Error::damaged(block, 0, "the tree is deeper than the kernel allows"),
                ))
            } else {
                self.visit(node.value_u64(at), role, below, leaf)
            };
            let child = match child {
                Ok(child) => child,
                Err(finding) => {
                    summary.lost.push((finding, below.first, below.last));
                    continue;
                }
            };
            summary.entries += child.entries;
            summary.max_time = summary.max_time.max(child.max_time);
            summary.last = summary.last.max(child.last);
            summary.lost.extend(child.lost);
            if *height.get_or_insert(child.height) != child.height {
                let text = format!("the child at entry {at} is not as high as those before it");
                self.report.add(Defect::Depth, self.place(block, node.value_offset(at)), Cost::Nothing, text);
            }
        }
        summary.height = height.unwrap_or(0) + 1;
    }

    /// Owners, ends and times of the mappings in a leaf.
    fn mappings(&mut self, block: u64, node: &BtreeNode, summary: &mut Summary) {
        for at in 0..node.len() {
            let value = BlockTime::unpack(node.value_u64(at));
            summary.max_time = summary.max_time.max(value.time);
            if value.block < self.nr_data_blocks {
                self.data_owners.add(value.block);
            } else {
                let error = beyond_data(&value, self.nr_data_blocks, block, node.value_offset(at));
                let place = self.place(block, node.value_offset(at));
                let finding = self.report.add(Defect::DataBlock, place, self.lost_cost(), error.message());
                summary.lost.push((finding, node.key(at), node.key(at)));
            }
        }
        // Times beyond the pool's are an exception, so they are looked for only where there is one.
        if summary.max_time > self.pool_time {
            let late =
                (0..node.len()).filter(|at| BlockTime::unpack(node.value_u64(*at)).time > self.pool_time);
            let text = format!(
                "{} mappings of times up to {} in a pool of time {}",
                late.clone().count(),
                summary.max_time,
                self.pool_time
            );
            let cost = if self.in_snapshot { Cost::Snapshot } else { Cost::Overwritten(Vec::new()) };
            let finding = self.report.add(Defect::Time, self.place(block, 0), cost, text);
            for at in late {
                summary.lost.push((finding, node.key(at), node.key(at)));
            }
        }
    }

    fn broken(&mut self, role: Role, position: Position, error: Error) -> usize {
        let cost = match role {
            Role::Mappings => self.lost_cost(),
            Role::Devices | Role::Details if self.in_snapshot => Cost::Snapshot,
            Role::Devices | Role::Details => Cost::Devices(position.first, position.last),
            Role::Index | Role::RefCounts => Cost::Pool,
        };
        self.report.counts_incomplete |= !matches!(role, Role::Details);
        let place = Place { device: error.place().device.or(self.device), ..error.place() };
        self.report.add(Defect::Node, place, cost, error.message())
    }

    fn lost_cost(&self) -> Cost {
        if self.in_snapshot { Cost::Snapshot } else { Cost::Lost(Vec::new()) }
    }

    fn place(&self, block: u64, byte: usize) -> Place {
        Place { device: self.device, ..Place::byte(block, byte) }
    }

    /// Tells the findings below a device that they are its own too.
    pub fn charge(&mut self, device: u64, summary: &Summary) {
        for (finding, first, last) in &summary.lost {
            self.report.hurts(*finding, DeviceRange { device, first: *first, last: *last });
        }
    }
}

impl Summary {
    fn fits(&self, position: Position) -> bool {
        self.first >= position.first && self.last <= position.last
    }
}
