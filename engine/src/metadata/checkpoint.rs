//! The present state as pages and a root slot: a checkpoint, frozen in one turn and written later.
//!
//! Owns the encoding of everything that is reached from a root slot, and the order in which page numbers are
//! taken: mapping trees took theirs when they changed, then volume leaves, then counts, whose own pages change
//! counts until nothing new is changed. When the pages and the slot are written is `data_path/checkpoint.rs`.

use super::counts::Counts;
use super::index_tree::{IndexTree, InnerPlan, LeafPlace, inner_pages};
use super::tree::Forest;
use super::{Metadata, PageSink};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{self, COUNTS_PER_LEAF, OVERFLOWS_PER_LEAF, PageHeader, PageKind, Pointer, RootSlot};
use crate::options::Owner;
use crate::units::{Generation, Incarnation, PageNumber, Sequence, VolumeId};
use bytes::Bytes;
use std::collections::BTreeMap;

/// A checkpoint that only has to be written: pages, sync, slot, sync.
pub struct Frozen {
    /// The pages, at numbers that nothing durable uses.
    pub pages: Vec<(PageNumber, Bytes)>,
    /// The slot that makes them the truth.
    pub slot: RootSlot,
}

/// What a checkpoint says beside the trees.
#[derive(Clone)]
pub struct SlotFacts {
    /// The opening that writes it.
    pub incarnation: Incarnation,
    /// The record whose state it holds.
    pub sequence: Sequence,
    /// The ring position behind that record.
    pub log_position: u64,
    /// Whether the pool is being closed.
    pub clean: bool,
    /// Who has the pool.
    pub owner: Owner,
}

/// Overflow leaves that shadowing one mapping leaf may add: its blocks may all pass 254 at once.
const OVERFLOW_GROWTH: usize = 16 * 1024 / OVERFLOWS_PER_LEAF + 1;

/// The four index trees of counts.
#[derive(Default)]
pub(super) struct CountTrees {
    pub data: IndexTree,
    pub data_overflow: IndexTree,
    pub pages: IndexTree,
    pub page_overflow: IndexTree,
}

impl CountTrees {
    pub fn iter(&self) -> impl Iterator<Item = &IndexTree> {
        [&self.data, &self.data_overflow, &self.pages, &self.page_overflow].into_iter()
    }

    /// Every leaf and inner page of counts, were all of them written: one slice of an unmap may change as many.
    pub fn pages_at_most(&self, forest: &Forest) -> usize {
        let whole = |counts: &Counts| {
            let overflow = counts.overflow_len().div_ceil(OVERFLOWS_PER_LEAF) + OVERFLOW_GROWTH;
            count_pages(counts.len()) + overflow + inner_pages(overflow)
        };
        whole(&forest.data_counts) + whole(&forest.page_counts)
    }
}

/// Leaves and inner pages of `len` counts.
fn count_pages(len: u64) -> usize {
    let leaves = len.div_ceil(COUNTS_PER_LEAF) as usize;
    leaves + inner_pages(leaves)
}

impl Metadata {
    /// Pages by which [`Metadata::checkpoint_pages_at_most`] grows when the pool gets `data_blocks` data blocks.
    pub fn checkpoint_pages_to_extend(&self, data_blocks: u64) -> usize {
        count_pages(data_blocks) - count_pages(self.forest.data_counts.len())
    }

    /// Freezes the present state. Afterwards every page in it is immutable, and the next change shadows.
    ///
    /// Fails with `NoSpace`, before anything changed, if the metadata file has too few free pages.
    pub fn freeze(&mut self, facts: SlotFacts) -> Result<Frozen> {
        let mut pages = Vec::new();
        let slot = self.freeze_into(facts, &mut |number, bytes| pages.push((number, bytes)))?;
        Ok(Frozen { pages, slot })
    }

    /// As [`Metadata::freeze`], and hands every page to `pages` at once instead of keeping all in memory. Returns the slot.
    pub fn freeze_into(&mut self, facts: SlotFacts, pages: &mut PageSink<'_>) -> Result<RootSlot> {
        if let Some(damage) = self.forest.damage() {
            return Err(damage.clone());
        }
        if self.forest.pages.free_pages() < self.checkpoint_pages_at_most() as u64 {
            return Err(Error::new(ErrorKind::NoSpace, "the metadata file has no room for a checkpoint"));
        }
        let generation = self.forest.building;
        self.forest.seal_dirty(self.volumes.changed_mut().map(|record| &mut record.root), pages);
        self.seal_volumes(generation, pages)?;
        self.seal_counts(generation, pages)?;
        self.forest.start_generation(Generation(generation.0 + 1));
        let slot = self.root_slot(generation, facts);
        self.slot = slot.clone();
        Ok(slot)
    }

    fn root_slot(&self, generation: Generation, facts: SlotFacts) -> RootSlot {
        RootSlot {
            generation,
            incarnation: facts.incarnation,
            sequence: facts.sequence,
            log_position: facts.log_position,
            clean: facts.clean,
            owner: facts.owner,
            next_volume: self.next_volume,
            volumes: self.volumes.tree.root,
            data_blocks: self.forest.data_counts.len(),
            metadata_pages: self.forest.page_counts.len(),
            data_counts: self.count_trees.data.root,
            data_overflow: self.count_trees.data_overflow.root,
            page_counts: self.count_trees.pages.root,
            page_overflow: self.count_trees.page_overflow.root,
            log: self.slot.log.clone(),
            unknown_tail: self.slot.unknown_tail.clone(),
        }
    }

    fn seal_volumes(&mut self, generation: Generation, pages: &mut PageSink<'_>) -> Result<()> {
        let changed = self.volumes.take_changed_leaves();
        if changed.is_empty() {
            return Ok(());
        }
        let pool = self.superblock.pool;
        for (index, leaves) in changed {
            let mut places = Vec::with_capacity(leaves.len());
            for leaf in leaves {
                let first = leaf.first().map_or(0, |r| r.id.0);
                let last = leaf.last().map_or(0, |r| r.id.0);
                let header = leaf_header(PageKind::VolumeLeaf, leaf.len(), generation, (first, last));
                let number = self.forest.allocate_page()?;
                let pointer = put_page(&pool, header, number, &format::encode_volume_leaf(&leaf)?, pages);
                places.push(LeafPlace { first_key: first, pointer });
            }
            let tree = &mut self.volumes.tree;
            let end = (index + 1).min(tree.leaves.len());
            let old: Vec<LeafPlace> = tree.leaves.splice(index.min(end)..end, places).collect();
            old.iter().for_each(|leaf| self.forest.free_page(leaf.pointer.page, leaf.pointer.generation));
        }
        let leaves = self.volumes.tree.leaves.len();
        let plan = plan_inner(&mut self.forest, &mut self.volumes.tree, leaves)?;
        self.volumes.tree.seal_inner(plan, &pool, generation, pages);
        Ok(())
    }

    /// Counts of pages change while pages for counts are taken: first take pages until nothing new has changed,
    /// then encode.
    fn seal_counts(&mut self, generation: Generation, pages: &mut PageSink<'_>) -> Result<()> {
        let forest = &mut self.forest;
        let trees = &mut self.count_trees;
        let page_leaves = forest.page_counts.len().div_ceil(COUNTS_PER_LEAF) as usize;
        let data_leaves = forest.data_counts.len().div_ceil(COUNTS_PER_LEAF) as usize;
        let data_plan = LeafPlan::fixed(forest, &mut trees.data, data_leaves, Which::Data)?;
        let data_overflow = LeafPlan::overflow(forest, &mut trees.data_overflow, Which::Data)?;
        let page_overflow = LeafPlan::overflow(forest, &mut trees.page_overflow, Which::Pages)?;
        let mut page_plan = LeafPlan::fixed(forest, &mut trees.pages, page_leaves, Which::Pages)?;
        while page_plan.take_changed(forest, &trees.pages, Which::Pages)? {}

        let pool = self.superblock.pool;
        data_plan.seal_counts(&mut trees.data, &forest.data_counts, &pool, generation, pages);
        page_plan.seal_counts(&mut trees.pages, &forest.page_counts, &pool, generation, pages);
        data_overflow.seal_overflow(&mut trees.data_overflow, &forest.data_counts, &pool, generation, pages);
        page_overflow.seal_overflow(&mut trees.page_overflow, &forest.page_counts, &pool, generation, pages);
        forest.data_counts.clear_changed();
        forest.page_counts.clear_changed();
        Ok(())
    }
}

#[derive(Clone, Copy)]
enum Which {
    Data,
    Pages,
}

impl Which {
    fn of(self, forest: &Forest) -> &Counts {
        match self {
            Self::Data => &forest.data_counts,
            Self::Pages => &forest.page_counts,
        }
    }
}

/// Page numbers for the leaves of one tree that will be written, and for all its inner pages.
struct LeafPlan {
    leaves: BTreeMap<usize, PageNumber>,
    /// Changed leaves that are all one count now: their pointers say it, and they take no page.
    uniform: Vec<(usize, u32)>,
    count: usize,
    inner: Option<InnerPlan>,
}

impl LeafPlan {
    /// A plan for a tree of `count` leaves at fixed places. A tree in which nothing changed is left as it is.
    fn fixed(forest: &mut Forest, tree: &mut IndexTree, count: usize, which: Which) -> Result<Self> {
        let mut plan = Self { leaves: BTreeMap::new(), uniform: Vec::new(), count, inner: None };
        let unchanged = which.of(forest).changed_leaves().is_empty() && tree.leaves.len() == count;
        for gone in tree.leaves.drain(count.min(tree.leaves.len())..) {
            // A leaf that is one count has no page.
            if gone.pointer.page.0 != 0 {
                forest.free_page(gone.pointer.page, gone.pointer.generation);
            }
        }
        if unchanged && matches!(which, Which::Data) {
            return Ok(plan);
        }
        plan.inner = Some(plan_inner(forest, tree, count)?);
        plan.take_changed(forest, tree, which)?;
        Ok(plan)
    }

    /// Takes a page for every changed leaf that has none yet. Whether there was one.
    fn take_changed(&mut self, forest: &mut Forest, tree: &IndexTree, which: Which) -> Result<bool> {
        let new: Vec<usize> = which
            .of(forest)
            .changed_leaves()
            .iter()
            .copied()
            .filter(|leaf| !self.leaves.contains_key(leaf))
            .collect();
        for leaf in &new {
            // Counts of pages still change while pages are taken here: what is uniform now may not be at the end.
            let uniform = match which {
                Which::Data => forest.data_counts.make_uniform(*leaf),
                Which::Pages => None,
            };
            match uniform {
                Some(count) => self.uniform.push((*leaf, count)),
                None => {
                    self.leaves.insert(*leaf, forest.allocate_page()?);
                }
            }
            if let Some(old) = tree.leaves.get(*leaf).filter(|old| old.pointer.page.0 != 0) {
                forest.free_page(old.pointer.page, old.pointer.generation);
            }
        }
        Ok(!new.is_empty())
    }

    /// Overflow is rare and small: when it changed it is written anew, whole.
    fn overflow(forest: &mut Forest, tree: &mut IndexTree, which: Which) -> Result<Self> {
        let count = which.of(forest).overflow_len().div_ceil(OVERFLOWS_PER_LEAF);
        let mut plan = Self { leaves: BTreeMap::new(), uniform: Vec::new(), count, inner: None };
        if !which.of(forest).overflow_changed() {
            return Ok(plan);
        }
        for old in tree.leaves.drain(..) {
            forest.free_page(old.pointer.page, old.pointer.generation);
        }
        plan.inner = Some(plan_inner(forest, tree, count)?);
        for leaf in 0..count {
            plan.leaves.insert(leaf, forest.allocate_page()?);
        }
        Ok(plan)
    }

    fn seal_counts(
        self,
        tree: &mut IndexTree,
        counts: &Counts,
        pool: &[u8; 16],
        generation: Generation,
        pages: &mut PageSink<'_>,
    ) {
        let Some(inner) = self.inner else { return };
        for index in tree.leaves.len()..self.count {
            tree.leaves.push(LeafPlace { first_key: index as u64 * COUNTS_PER_LEAF, pointer: uniform(0) });
        }
        for (index, count) in self.uniform {
            tree.leaves[index].pointer = uniform(count);
        }
        for (index, number) in self.leaves {
            let bytes = counts.leaf_bytes(index);
            let first = index as u64 * COUNTS_PER_LEAF;
            let last = first + bytes.len() as u64 - 1;
            let header = leaf_header(PageKind::CountLeaf, bytes.len(), generation, (first, last));
            tree.leaves[index].pointer =
                put_page(pool, header, number, &format::encode_count_leaf(&bytes), pages);
        }
        tree.seal_inner(inner, pool, generation, pages);
    }

    fn seal_overflow(
        self,
        tree: &mut IndexTree,
        counts: &Counts,
        pool: &[u8; 16],
        generation: Generation,
        pages: &mut PageSink<'_>,
    ) {
        let Some(inner) = self.inner else { return };
        let entries: Vec<(u64, u32)> = counts.overflow().collect();
        for (chunk, number) in entries.chunks(OVERFLOWS_PER_LEAF).zip(self.leaves.into_values()) {
            let keys = (chunk[0].0, chunk[chunk.len() - 1].0);
            let header = leaf_header(PageKind::OverflowLeaf, chunk.len(), generation, keys);
            let body = format::encode_overflow_leaf(chunk);
            let pointer = put_page(pool, header, number, &body, pages);
            tree.leaves.push(LeafPlace { first_key: keys.0, pointer });
        }
        tree.seal_inner(inner, pool, generation, pages);
    }
}

/// A pointer to a leaf of counts that are all `count` and therefore need no page.
pub(super) fn uniform(count: u32) -> Pointer {
    Pointer { page: PageNumber(0), copy: None, generation: Generation(0), checksum: count, mapped: 0 }
}

fn plan_inner(forest: &mut Forest, tree: &mut IndexTree, leaves: usize) -> Result<InnerPlan> {
    let mut freed = Vec::new();
    let plan = tree.plan_inner(leaves, || forest.allocate_page(), |page, birth| freed.push((page, birth)))?;
    freed.into_iter().for_each(|(page, birth)| forest.free_page(page, birth));
    Ok(plan)
}

fn leaf_header(kind: PageKind, entries: usize, generation: Generation, keys: (u64, u64)) -> PageHeader {
    PageHeader {
        kind,
        level: 0,
        entries: entries as u16,
        number: PageNumber(0),
        copy: None,
        generation,
        first_key: keys.0,
        last_key: keys.1,
        volume_of_birth: VolumeId(0),
    }
}

fn put_page(
    pool: &[u8; 16],
    header: PageHeader,
    number: PageNumber,
    body: &[u8],
    pages: &mut PageSink<'_>,
) -> Pointer {
    let (buffer, checksum) = format::seal(&PageHeader { number, ..header }, pool, body);
    pages(number, buffer.freeze());
    Pointer { page: number, copy: None, generation: header.generation, checksum, mapped: 0 }
}
