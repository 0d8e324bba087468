//! Gives blocks of the metadata device away, one after the other, and counts the owners of each.
//!
//! Owns what is written and in which order: everything behind block 0 here, in steps of a MiB. Mapping nodes that are there
//! already are not written again but get one more owner. When the device is full it goes on counting without writing, so that
//! the error can tell how much is needed.

use crate::counts::Counts;
use crate::device::Target;
use crate::error::{Error, Result};
use crate::format::{BLOCK_BYTES, Block, BlockTime, BtreeNode, IndexEntry, NodeFlags};
use rustc_hash::{FxHashMap, FxHasher};
use std::hash::Hasher;

const BUFFER_BYTES: usize = 1 << 20;

/// What the leaves of a tree hold, and so whom they own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tree {
    /// Mappings of a device: data blocks.
    Mappings,
    /// Devices: roots of mappings.
    Devices,
    /// Device details: nothing.
    Details,
    /// Index entries of the data space map: bitmaps.
    Index,
    /// Counts from three on: nothing.
    RefCounts,
}

impl Tree {
    pub const fn value_bytes(self) -> usize {
        match self {
            Tree::Mappings | Tree::Devices => 8,
            Tree::Details => 24,
            Tree::Index => IndexEntry::BYTES,
            Tree::RefCounts => 4,
        }
    }
}

pub struct OutBlocks<T> {
    target: T,
    /// Blocks that may be used.
    limit: u64,
    next: u64,
    buffer: Vec<u8>,
    buffer_first: u64,
    /// Owners of metadata blocks below `next`; those above the limit have none.
    owners: Vec<u32>,
    pub data_owners: Counts,
    /// Mapping nodes by a hash of their content.
    known: FxHashMap<u64, u64>,
    pub shared_nodes: u64,
}

impl<T: Target> OutBlocks<T> {
    pub fn new(target: T, limit: u64) -> Self {
        let buffer = Vec::with_capacity(BUFFER_BYTES);
        Self {
            target,
            limit,
            next: 1,
            buffer,
            buffer_first: 1,
            // The superblock has an owner: the kernel counts itself.
            owners: vec![1],
            data_owners: Counts::default(),
            known: FxHashMap::default(),
            shared_nodes: 0,
        }
    }

    pub fn next(&self) -> u64 {
        self.next
    }

    pub fn target(&self) -> &T {
        &self.target
    }

    pub fn is_full(&self) -> bool {
        self.next > self.limit
    }

    pub fn owners(&self) -> &[u32] {
        &self.owners
    }

    /// One more owner of a metadata block.
    pub fn own(&mut self, block: u64) {
        if let Some(owners) = self.owners.get_mut(block as usize) {
            *owners += 1;
        }
    }

    /// Writes the next block, which `seal` gives its number.
    pub fn push(&mut self, mut block: Box<Block>, seal: impl FnOnce(&mut Block, u64)) -> Result<u64> {
        let number = self.next;
        self.next += 1;
        if number >= self.limit {
            return Ok(number);
        }
        self.owners.push(0);
        seal(&mut block, number);
        self.buffer.extend_from_slice(&block[..]);
        if self.buffer.len() >= BUFFER_BYTES {
            self.flush()?;
        }
        Ok(number)
    }

    /// Writes a node, or finds the same one.
    pub fn push_node(&mut self, tree: Tree, flags: NodeFlags, keys: &[u64], values: &[u8]) -> Result<u64> {
        let value_bytes = if flags == NodeFlags::Internal { 8 } else { tree.value_bytes() };
        let block = BtreeNode::build(flags, keys, values, value_bytes);
        let hash = (tree == Tree::Mappings && !keys.is_empty()).then(|| hash_of(flags, keys, values));
        if let Some(known) = hash.and_then(|hash| self.known.get(&hash).copied())
            && BtreeNode::same_content(&*self.read_back(known)?, &block)
        {
            self.shared_nodes += 1;
            return Ok(known);
        }
        let number = self.push(block, BtreeNode::seal)?;
        if number < self.limit {
            self.own_values(tree, flags, values);
            if let Some(hash) = hash {
                self.known.insert(hash, number);
            }
        }
        Ok(number)
    }

    /// The values of a new node have one more owner: it.
    fn own_values(&mut self, tree: Tree, flags: NodeFlags, values: &[u8]) {
        let numbers = values.as_chunks::<8>().0.iter().map(|value| u64::from_le_bytes(*value));
        match (flags, tree) {
            (NodeFlags::Internal, _) | (_, Tree::Devices) => numbers.for_each(|block| self.own(block)),
            (_, Tree::Mappings) => {
                numbers.for_each(|value| self.data_owners.add(BlockTime::unpack(value).block))
            }
            (_, Tree::Index) => {
                let entries = values.as_chunks().0.iter().map(IndexEntry::decode);
                entries.for_each(|entry| self.own(entry.bitmap));
            }
            (_, Tree::Details | Tree::RefCounts) => {}
        }
    }

    fn read_back(&self, number: u64) -> Result<Box<Block>> {
        let mut block = Box::new([0; BLOCK_BYTES]);
        if number >= self.buffer_first {
            let start = (number - self.buffer_first) as usize * BLOCK_BYTES;
            block.copy_from_slice(&self.buffer[start..start + BLOCK_BYTES]);
            return Ok(block);
        }
        let offset = number * BLOCK_BYTES as u64;
        self.target
            .read_at(offset, &mut block[..])
            .map_err(|error| Error::io(offset, "reading back", error))?;
        Ok(block)
    }

    fn flush(&mut self) -> Result<()> {
        let offset = self.buffer_first * BLOCK_BYTES as u64;
        self.target.write_at(offset, &self.buffer).map_err(|error| Error::io(offset, "writing", error))?;
        self.buffer_first += (self.buffer.len() / BLOCK_BYTES) as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Makes all blocks until now durable.
    pub fn sync(&mut self) -> Result<()> {
        self.flush()?;
        self.target.sync().map_err(|error| Error::io(0, "syncing", error))
    }

    /// Writes block 0 and makes it durable.
    pub fn write_first(&mut self, block: &Block) -> Result<()> {
        self.target.write_at(0, block).map_err(|error| Error::io(0, "writing", error))?;
        self.target.sync().map_err(|error| Error::io(0, "syncing", error))
    }
}

fn hash_of(flags: NodeFlags, keys: &[u64], values: &[u8]) -> u64 {
    let mut hasher = FxHasher::default();
    hasher.write_u8((flags == NodeFlags::Leaf).into());
    keys.iter().for_each(|key| hasher.write_u64(*key));
    hasher.write(values);
    hasher.finish()
}
