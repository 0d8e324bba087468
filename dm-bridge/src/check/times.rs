//! Finds shared blocks that the kernel takes for exclusive, and so overwrites for all their owners.
//!
//! Owns the rule: the kernel copies a block before a write if its device was snapshotted after the block was mapped, whatever
//! the counts say. So a mapping of a block with several owners must be older than the last snapshot of its device. Owners are
//! those of live devices: the metadata snapshot keeps mappings, not data.

use super::findings::{Cost, Defect, DeviceRange, RANGES_MAX};
use super::forest::Forest;
use crate::device::Source;
use crate::error::Place;
use crate::format::{BlockTime, BtreeNode, DeviceDetails, NodeFlags};
use crate::tree::Role;

struct Search {
    device: u64,
    snapshotted_time: u32,
    found: Vec<DeviceRange>,
    place: Place,
    time: u32,
}

/// Looks through a device whose tree was visited. Nodes that hold nothing too young are not read again.
pub fn check_device<S: Source>(forest: &mut Forest<'_, S>, device: u64, details: &DeviceDetails, root: u64) {
    let mut search = Search {
        device,
        snapshotted_time: details.snapshotted_time,
        found: Vec::new(),
        place: Place::default(),
        time: 0,
    };
    search.node(forest, root, false, 0);
    let Search { found, place, time, .. } = search;
    if !found.is_empty() {
        let text = format!(
            "shared blocks mapped at time {time}, and the last snapshot at {}: the kernel does not copy them",
            details.snapshotted_time
        );
        forest.report.add(Defect::SharedTime, place, Cost::Overwritten(found), text);
    }
}

impl Search {
    fn node<S: Source>(&mut self, forest: &Forest<'_, S>, block: u64, shared: bool, depth: u32) {
        let Some(summary) = forest.summary(block) else { return };
        if summary.max_time < self.snapshotted_time || self.found.len() >= RANGES_MAX || depth > 64 {
            return;
        }
        let shared = shared || forest.owners_of(block) > 1;
        // It was read once, so it is right; if the device fails now, other findings tell so.
        let node = forest.blocks.read(block).and_then(|bytes| BtreeNode::decode(bytes, block, 8));
        let Ok(node) = node else { return };
        for at in 0..node.len() {
            if node.flags() == NodeFlags::Internal {
                self.node(forest, node.value_u64(at), shared, depth + 1);
            } else {
                self.mapping(forest, block, &node, at, shared);
            }
        }
    }

    fn mapping<S: Source>(
        &mut self,
        forest: &Forest<'_, S>,
        block: u64,
        node: &BtreeNode,
        at: usize,
        shared: bool,
    ) {
        let value = BlockTime::unpack(node.value_u64(at));
        if value.time < self.snapshotted_time || !shared && forest.data_owners.get(value.block) < 2 {
            return;
        }
        let key = node.key(at);
        let full = self.found.len() >= RANGES_MAX;
        match self.found.last_mut() {
            Some(range) if range.last.checked_add(1) == Some(key) => range.last = key,
            _ if full => {}
            _ => {
                if self.found.is_empty() {
                    self.place =
                        Place { device: Some(self.device), ..Place::byte(block, node.value_offset(at)) };
                    self.time = value.time;
                }
                self.found.push(DeviceRange { device: self.device, first: key, last: key });
            }
        }
    }
}

/// Whether live devices share anything, so that looking is worth it.
pub fn anything_shared<S: Source>(forest: &Forest<'_, S>) -> bool {
    forest.data_owners.any_shared() || forest.shares_nodes(Role::Mappings)
}
