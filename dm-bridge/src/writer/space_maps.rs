//! Writes both space maps, exact in every count and sum.
//!
//! Owns the order: the data space map first, then the metadata space map, which counts its own blocks and so has their numbers
//! settled before the first of them is filled.

use super::blocks::{OutBlocks, Tree};
use super::tree_builder::{Packing, TreeBuilder};
use crate::counts::GROUP_BLOCKS;
use crate::device::Target;
use crate::error::Result;
use crate::format::{Bitmap, ENTRIES_PER_BITMAP, IndexEntry, MetadataIndex, SpaceMapRoot};

/// A bitmap in the making.
#[derive(Default)]
struct Filled {
    bitmap: Bitmap,
    used: u32,
    first_free: Option<u32>,
}

impl Filled {
    fn set(&mut self, entry: u64, count: u32) {
        if count > 0 {
            self.used += 1;
            self.bitmap.set(entry as usize, count);
        } else {
            self.first_free.get_or_insert(entry as u32);
        }
    }

    /// The kernel counts the free ones of the last bitmap to its end, also behind the end of the device.
    fn entry(&self, bitmap: u64) -> IndexEntry {
        let entries = ENTRIES_PER_BITMAP as u32;
        let none_free_before = self.first_free.unwrap_or(entries);
        IndexEntry { bitmap, nr_free: entries - self.used, none_free_before }
    }
}

pub fn write_data_space_map<T: Target>(out: &mut OutBlocks<T>, nr_blocks: u64) -> Result<SpaceMapRoot> {
    let mut root = SpaceMapRoot { nr_blocks, ..SpaceMapRoot::default() };
    let mut index = TreeBuilder::new(Tree::Index, Packing::Full);
    let mut ref_counts = TreeBuilder::new(Tree::RefCounts, Packing::Full);
    for number in 0..root.bitmaps() {
        let mut filled = Filled::default();
        fill_data_bitmap(out, number, &mut filled, &mut ref_counts)?;
        root.nr_allocated += u64::from(filled.used);
        let block = push_bitmap(out, &mut filled.bitmap)?;
        index.push(number, &filled.entry(block).encode(), out)?;
    }
    root.bitmap_root = index.finish(out)?;
    root.ref_count_root = ref_counts.finish(out)?;
    out.own(root.bitmap_root);
    out.own(root.ref_count_root);
    Ok(root)
}

fn fill_data_bitmap<T: Target>(
    out: &mut OutBlocks<T>,
    number: u64,
    filled: &mut Filled,
    ref_counts: &mut TreeBuilder,
) -> Result<()> {
    let first = number * ENTRIES_PER_BITMAP;
    for start in (0..ENTRIES_PER_BITMAP).step_by(GROUP_BLOCKS as usize) {
        let Some(group) = out.data_owners.group((first + start) / GROUP_BLOCKS).copied() else {
            filled.first_free.get_or_insert(start as u32);
            continue;
        };
        for (entry, byte) in (start..).zip(group) {
            let block = first + entry;
            let count = out.data_owners.exact(block, byte);
            filled.set(entry, count);
            if count > 2 {
                ref_counts.push(block, &count.to_le_bytes(), out)?;
            }
        }
    }
    Ok(())
}

pub fn write_metadata_space_map<T: Target>(out: &mut OutBlocks<T>, nr_blocks: u64) -> Result<SpaceMapRoot> {
    let mut root = SpaceMapRoot { nr_blocks, ..SpaceMapRoot::default() };
    let mut ref_counts = TreeBuilder::new(Tree::RefCounts, Packing::Full);
    // What comes from here on has one owner each, so the list of large counts is complete.
    for block in 0..out.owners().len() {
        let owners = out.owners()[block];
        if owners > 2 {
            ref_counts.push(block as u64, &owners.to_le_bytes(), out)?;
        }
    }
    root.ref_count_root = ref_counts.finish(out)?;
    out.own(root.ref_count_root);
    let first_bitmap = out.next();
    root.bitmap_root = first_bitmap + root.bitmaps();
    root.nr_allocated = root.bitmap_root + 1;
    let mut entries = Vec::new();
    for number in 0..root.bitmaps() {
        let mut filled = metadata_bitmap(out.owners(), number, first_bitmap, root.nr_allocated);
        let block = push_bitmap(out, &mut filled.bitmap)?;
        out.own(block);
        entries.push(filled.entry(block));
    }
    let index = MetadataIndex { entries };
    let block = index.encode(root.bitmap_root);
    out.push(block, |_, number| debug_assert_eq!(number, root.bitmap_root))?;
    out.own(root.bitmap_root);
    Ok(root)
}

/// Blocks from `first_bitmap` to `used` are the metadata space map itself, with an owner each.
fn metadata_bitmap(owners: &[u32], number: u64, first_bitmap: u64, used: u64) -> Filled {
    let mut filled = Filled::default();
    let first = number * ENTRIES_PER_BITMAP;
    for entry in 0..ENTRIES_PER_BITMAP {
        let block = first + entry;
        if block >= used {
            filled.first_free.get_or_insert(entry as u32);
            break;
        }
        let count = if block >= first_bitmap { 1 } else { owners.get(block as usize).copied().unwrap_or(0) };
        filled.set(entry, count);
    }
    filled
}

fn push_bitmap<T: Target>(out: &mut OutBlocks<T>, bitmap: &mut Bitmap) -> Result<u64> {
    let block = Box::new(*bitmap.encode(out.next()));
    out.push(block, |_, _| {})
}
