//! Builds a tree from entries in order, from its leaves upwards, in the memory of two nodes a level.
//!
//! Owns how full nodes are. They are filled to the last entry, but for the two at the right end of a level, which share
//! theirs so that none is below the third that the kernel's rules ask for; and but for mapping leaves where nodes shall be
//! shared, see [`Packing`].

use super::blocks::{OutBlocks, Tree};
use crate::device::Target;
use crate::error::Result;
use crate::format::{NodeFlags, max_entries};

/// Where leaves of mappings end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Packing {
    /// When they are full. Devices share nodes where their mappings are the same from the start or as a whole.
    #[default]
    Full,
    /// At virtual blocks that a hash chooses, so that devices share nodes again behind a place where they differ. Leaves are
    /// three quarters full.
    Shareable,
}

#[derive(Default)]
struct Node {
    keys: Vec<u64>,
    values: Vec<u8>,
}

#[derive(Default)]
struct Level {
    /// Complete, but it may have to give entries to the last node of the level.
    previous: Option<Node>,
    current: Node,
}

pub struct TreeBuilder {
    tree: Tree,
    packing: Packing,
    levels: Vec<Level>,
}

impl TreeBuilder {
    pub fn new(tree: Tree, packing: Packing) -> Self {
        Self { tree, packing, levels: vec![Level::default()] }
    }

    /// Adds an entry; its key must be above all before.
    pub fn push<T: Target>(&mut self, key: u64, value: &[u8], out: &mut OutBlocks<T>) -> Result<()> {
        self.push_at(0, key, value, out)
    }

    fn push_at<T: Target>(
        &mut self,
        depth: usize,
        key: u64,
        value: &[u8],
        out: &mut OutBlocks<T>,
    ) -> Result<()> {
        if depth == self.levels.len() {
            self.levels.push(Level::default());
        }
        if self.is_complete(depth) {
            let level = &mut self.levels[depth];
            let complete = std::mem::take(&mut level.current);
            if let Some(node) = level.previous.replace(complete) {
                self.emit(depth, &node, out)?;
            }
        }
        let current = &mut self.levels[depth].current;
        current.keys.push(key);
        current.values.extend_from_slice(value);
        Ok(())
    }

    fn is_complete(&self, depth: usize) -> bool {
        let keys = &self.levels[depth].current.keys;
        let max = self.max_entries(depth);
        let cut = depth == 0 && self.packing == Packing::Shareable && keys.len() >= max / 2;
        keys.len() == max || cut && keys.last().is_some_and(|key| is_cut(*key))
    }

    fn max_entries(&self, depth: usize) -> usize {
        max_entries(if depth == 0 { self.tree.value_bytes() } else { 8 })
    }

    fn flags(depth: usize) -> NodeFlags {
        if depth == 0 { NodeFlags::Leaf } else { NodeFlags::Internal }
    }

    /// Writes a node and enters it above.
    fn emit<T: Target>(&mut self, depth: usize, node: &Node, out: &mut OutBlocks<T>) -> Result<()> {
        let block = out.push_node(self.tree, Self::flags(depth), &node.keys, &node.values)?;
        self.push_at(depth + 1, node.keys[0], &block.to_le_bytes(), out)
    }

    /// Writes what is left and returns the block of the root.
    pub fn finish<T: Target>(mut self, out: &mut OutBlocks<T>) -> Result<u64> {
        let mut depth = 0;
        loop {
            let max = self.max_entries(depth);
            let Level { previous, current } = std::mem::take(&mut self.levels[depth]);
            let mut nodes = balance(previous, current, self.value_bytes(depth), max);
            if depth + 1 == self.levels.len() && nodes.len() == 1 {
                let root = nodes.remove(0);
                return out.push_node(self.tree, Self::flags(depth), &root.keys, &root.values);
            }
            for node in &nodes {
                self.emit(depth, node, out)?;
            }
            depth += 1;
        }
    }

    fn value_bytes(&self, depth: usize) -> usize {
        if depth == 0 { self.tree.value_bytes() } else { 8 }
    }
}

/// The last two nodes of a level, with neither below a third; or one, if both fit into it.
fn balance(previous: Option<Node>, mut current: Node, value_bytes: usize, max: usize) -> Vec<Node> {
    let Some(mut left) = previous else { return vec![current] };
    if current.keys.len() >= max / 3 {
        return vec![left, current];
    }
    left.keys.append(&mut current.keys);
    left.values.append(&mut current.values);
    if left.keys.len() <= max {
        return vec![left];
    }
    let middle = left.keys.len() / 2;
    let right =
        Node { keys: left.keys.split_off(middle), values: left.values.split_off(middle * value_bytes) };
    vec![left, right]
}

/// One key in 64, the same for every device.
fn is_cut(key: u64) -> bool {
    key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58 == 0
}
