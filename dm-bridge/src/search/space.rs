//! What the space maps say about how many owners a block has, as far as they can be believed.
//!
//! Owns when a bitmap is believed: it can be read, its free blocks are as many as its index entry says, it has no fewer owners than
//! were seen, and all bitmaps together have as many blocks in use as the superblock says. So a bitmap of an older state is not believed.

use crate::device::{Blocks, Source};
use crate::format::{
    Bitmap, BtreeNode, ENTRIES_PER_BITMAP, IndexEntry, MAX_METADATA_BLOCKS, MetadataIndex, NodeFlags,
    SpaceMapRoot,
};
use crate::tree::{DEPTH_MAX, Entries, TreeWalk};

const UNKNOWN: u32 = u32::MAX;
/// Stands for three owners and more.
const MANY: u32 = 3;

/// Owners of metadata blocks.
pub(super) struct Counts(Vec<u32>);

impl Counts {
    /// Owners of a block; `None` if they are not known.
    pub fn get(&self, block: u64) -> Option<u32> {
        let count = usize::try_from(block).ok().and_then(|block| self.0.get(block)).copied();
        count.filter(|count| *count != UNKNOWN)
    }

    /// Blocks that the space map counts; none if it is not believed at all.
    pub fn len(&self) -> u64 {
        self.0.len() as u64
    }
}

/// Index entries of the metadata space map; none if its index is lost.
pub(super) fn metadata_index<S: Source>(blocks: &Blocks<S>, root: &SpaceMapRoot) -> Vec<IndexEntry> {
    let index =
        blocks.read(root.bitmap_root).and_then(|bytes| MetadataIndex::decode(&bytes, root.bitmap_root));
    let bitmaps = root.nr_blocks.min(MAX_METADATA_BLOCKS).div_ceil(ENTRIES_PER_BITMAP) as usize;
    index.map(|index| index.entries.into_iter().take(bitmaps).collect()).unwrap_or_default()
}

/// The counts of the metadata space map. `seen` are owners that there are in any case.
pub(super) fn metadata_counts<S: Source>(blocks: &Blocks<S>, root: &SpaceMapRoot, seen: &[u32]) -> Counts {
    let end = root.nr_blocks.min(seen.len() as u64);
    let mut counts = Counts(vec![UNKNOWN; end as usize]);
    let (mut used, mut are_whole) = (0, true);
    for (number, entry) in metadata_index(blocks, root).iter().enumerate() {
        let first = number as u64 * ENTRIES_PER_BITMAP;
        let Some(bitmap) = bitmap(blocks, entry, root.nr_blocks.saturating_sub(first)) else {
            are_whole = false;
            continue;
        };
        for (at, block) in (first..end).take(ENTRIES_PER_BITMAP as usize).enumerate() {
            let count = u32::from(bitmap.get(at));
            counts.0[block as usize] = count;
            used += u64::from(count > 0);
        }
    }
    // thin_restore 0.9 counts one block too many as used.
    if are_whole && used != root.nr_allocated && used + 1 != root.nr_allocated {
        return Counts(Vec::new());
    }
    counts.large(blocks, root);
    counts.doubt(seen);
    counts
}

impl Counts {
    /// Those from three on are in a tree.
    fn large<S: Source>(&mut self, blocks: &Blocks<S>, root: &SpaceMapRoot) {
        const LARGE: u32 = UNKNOWN - 1;
        self.0.iter_mut().filter(|count| **count == MANY).for_each(|count| *count = LARGE);
        let mut rows = Entries::new(TreeWalk::new(blocks, root.ref_count_root, 4, true));
        // A lenient walk does not fail.
        while let Ok(Some((block, count, ..))) = rows.next::<4>() {
            let count = u32::from_le_bytes(count);
            let place = usize::try_from(block).ok().and_then(|block| self.0.get_mut(block));
            if let Some(place) = place.filter(|place| **place == LARGE && (MANY..LARGE).contains(&count)) {
                *place = count;
            }
        }
        self.0.iter_mut().filter(|count| **count == LARGE).for_each(|count| *count = UNKNOWN);
    }

    /// A bitmap that says less than was seen is not of this state.
    fn doubt(&mut self, seen: &[u32]) {
        let bitmaps =
            self.0.chunks_mut(ENTRIES_PER_BITMAP as usize).zip(seen.chunks(ENTRIES_PER_BITMAP as usize));
        for (counts, seen) in bitmaps {
            if counts.iter().zip(seen).any(|(count, seen)| count < seen) {
                counts.fill(UNKNOWN);
            }
        }
    }
}

/// A bitmap, if it can be believed. It counts `blocks_left` blocks or as many as it has room for.
fn bitmap<S: Source>(blocks: &Blocks<S>, entry: &IndexEntry, blocks_left: u64) -> Option<Bitmap> {
    let bitmap = blocks.read(entry.bitmap).and_then(|bytes| Bitmap::decode(bytes, entry.bitmap)).ok()?;
    let blocks_left = blocks_left.min(ENTRIES_PER_BITMAP);
    let used = (0..blocks_left).filter(|at| bitmap.get(*at as usize) > 0).count() as u64;
    let nr_free = u64::from(entry.nr_free);
    // The kernel counts the free ones to the end of the last bitmap, 0.9 to that of the device, and there one too few.
    let is_so = |end: u64| end.checked_sub(used).is_some_and(|free| free == nr_free || free == nr_free + 1);
    (is_so(ENTRIES_PER_BITMAP) || is_so(blocks_left)).then_some(bitmap)
}

/// Owners of data blocks, read as they are asked for.
pub(super) struct DataCounts<'a, S> {
    blocks: &'a Blocks<S>,
    root: SpaceMapRoot,
    /// The last bitmap that was looked at.
    recent: Option<(u64, Option<Bitmap>)>,
}

impl<'a, S: Source> DataCounts<'a, S> {
    pub fn new(blocks: &'a Blocks<S>, root: &SpaceMapRoot) -> Self {
        Self { blocks, root: *root, recent: None }
    }

    /// Owners of a block; `None` if they are not known.
    pub fn get(&mut self, block: u64) -> Option<u32> {
        let number = block / ENTRIES_PER_BITMAP;
        if self.recent.as_ref().is_none_or(|(recent, _)| *recent != number) {
            self.recent = Some((number, self.bitmap(number)));
        }
        let (_, bitmap) = self.recent.as_ref()?;
        match u32::from(bitmap.as_ref()?.get((block % ENTRIES_PER_BITMAP) as usize)) {
            MANY => lookup::<_, 4>(self.blocks, self.root.ref_count_root, block).map(u32::from_le_bytes),
            count => Some(count),
        }
    }

    fn bitmap(&self, number: u64) -> Option<Bitmap> {
        let entry = lookup(self.blocks, self.root.bitmap_root, number)?;
        let left = self.root.nr_blocks.saturating_sub(number * ENTRIES_PER_BITMAP);
        bitmap(self.blocks, &IndexEntry::decode(&entry), left)
    }
}

/// The value of a key.
fn lookup<S: Source, const BYTES: usize>(blocks: &Blocks<S>, root: u64, key: u64) -> Option<[u8; BYTES]> {
    let mut block = root;
    for _ in 0..DEPTH_MAX {
        let node = blocks.read(block).and_then(|bytes| BtreeNode::decode(bytes, block, BYTES)).ok()?;
        let behind = (0..node.len()).position(|at| node.key(at) > key).unwrap_or(node.len());
        let at = behind.checked_sub(1)?;
        if node.flags() == NodeFlags::Leaf {
            return (node.key(at) == key).then(|| node.value(at).first_chunk().copied())?;
        }
        block = node.value_u64(at);
    }
    None
}
