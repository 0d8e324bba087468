//! A mapping leaf in memory: the mappings of one volume inside one window, neighbours stored as runs.
//!
//! Owns how runs are cut and joined, and how many bytes the leaf takes on disk. The bytes themselves are
//! `map_leaf_bytes.rs`, entries in memory `map_entries.rs`; which leaf holds which block is the tree's affair.

use super::map_entries::Entries;
use super::mapping::{LOST, Mapping};
use super::page::BODY_BYTES;
use crate::units::{DataBlock, SectorMask, VirtualBlock};
use std::ops::Range;

/// Virtual blocks that a leaf may cover, aligned; so the work of changing one is bounded.
pub const WINDOW_BLOCKS: u64 = 16384;

/// Mappings of neighbouring virtual blocks; more than one only in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapEntry {
    /// The first virtual block, counted from the start of the window.
    pub offset: u16,
    /// How many virtual blocks: 1, or more when the mapping is full, has one layer and data blocks follow one another, or
    /// all are lost.
    pub length: u16,
    /// The mapping of the first virtual block; data blocks of the others follow, unless all are lost.
    pub mapping: Mapping,
}

/// A mapping leaf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapLeaf {
    base: VirtualBlock,
    entries: Entries,
    // Kept with every change, because the tree asks for both all the time.
    mapped_blocks: u32,
    encoded_bytes: u32,
}

impl MapEntry {
    fn single(offset: u16, mapping: Mapping) -> Self {
        Self { offset, length: 1, mapping }
    }

    /// Whether blocks of this kind can stand in a run.
    pub(super) fn can_run(&self) -> bool {
        self.mapping.lower.is_none() && self.mapping.upper.mask.is_full()
    }

    pub(super) fn end(&self) -> u32 {
        u32::from(self.offset) + u32::from(self.length)
    }

    fn holds(&self, offset: u16) -> bool {
        self.offset <= offset && u32::from(offset) < self.end()
    }

    fn mapping_at(&self, offset: u16) -> Mapping {
        let mut mapping = self.mapping;
        if !mapping.upper.is_lost() {
            mapping.upper.block.0 += u64::from(offset - self.offset);
        }
        mapping
    }

    /// The part in front of `offset`.
    fn before(&self, offset: u16) -> Option<Self> {
        let length = offset.saturating_sub(self.offset).min(self.length);
        (length > 0).then_some(Self { length, ..*self })
    }

    /// The part behind `offset`.
    fn after(&self, offset: u16) -> Option<Self> {
        let first = (u32::from(offset) + 1).max(u32::from(self.offset));
        let length = self.end().checked_sub(first).filter(|length| *length > 0)?;
        let offset = first as u16;
        Some(Self { offset, length: length as u16, mapping: self.mapping_at(offset) })
    }

    /// One run of this entry and the one that follows, if they make one.
    fn join(&self, next: &Self) -> Option<Self> {
        let (block, next_block) = (self.mapping.upper.block, next.mapping.upper.block);
        // A block that is not lost never follows one that is, nor the other way round.
        let follows = match (block == LOST, next_block == LOST) {
            (false, false) => block.0 + u64::from(self.length) == next_block.0,
            (both, other) => both == other,
        };
        let joins = self.end() == u32::from(next.offset) && follows && self.can_run() && next.can_run();
        joins.then(|| Self { length: self.length + next.length, ..*self })
    }

    /// Every data block that a layer names, once for each virtual block.
    pub fn data_blocks(self) -> impl Iterator<Item = DataBlock> {
        let Mapping { upper, lower } = self.mapping;
        let length = if upper.is_lost() { 0 } else { u64::from(self.length) };
        let uppers = (upper.block.0..upper.block.0.saturating_add(length)).map(DataBlock);
        uppers.chain(lower.filter(|lower| !lower.is_lost()).map(|lower| lower.block))
    }

    fn blocks(self) -> impl Iterator<Item = (u16, Mapping)> {
        (0..self.length).map(move |index| (self.offset + index, self.mapping_at(self.offset + index)))
    }

    /// Bytes of the entry on disk; see `map_leaf_bytes.rs`.
    pub(super) fn encoded_bytes(&self) -> usize {
        if self.mapping.lower.is_some() { 18 } else { 10 }
    }
}

impl MapLeaf {
    /// An empty leaf for the window that holds `block`.
    pub fn new(block: VirtualBlock) -> Self {
        let base = VirtualBlock(block.0 - block.0 % WINDOW_BLOCKS);
        Self { base, entries: Entries::default(), mapped_blocks: 0, encoded_bytes: 0 }
    }

    /// A leaf in which all of `first..=last` is lost. Panics unless they lie in one window, in this order.
    pub fn lost(first: VirtualBlock, last: VirtualBlock) -> Self {
        let leaf = Self::new(first);
        let offset = leaf.offset_of(first).expect("a block lies in its own window");
        let end = leaf.offset_of(last).expect("both blocks lie in one window");
        let length = end.checked_sub(offset).expect("the last block does not stand before the first") + 1;
        let mapping = Mapping::single(LOST, SectorMask::FULL);
        let mut entries = Entries::with_capacity(1);
        entries.push(&MapEntry { offset, length, mapping });
        Self::from_entries(leaf.base, entries)
    }

    pub(super) fn from_entries(base: VirtualBlock, entries: Entries) -> Self {
        let mut leaf = Self { entries, ..Self::new(base) };
        leaf.recount();
        leaf
    }

    /// The first virtual block of the leaf's window.
    pub fn base(&self) -> VirtualBlock {
        self.base
    }

    /// How many virtual blocks are mapped.
    pub fn mapped_blocks(&self) -> u64 {
        u64::from(self.mapped_blocks)
    }

    /// Bytes of the leaf's body on disk.
    pub fn encoded_bytes(&self) -> usize {
        self.encoded_bytes as usize
    }

    /// Memory that the leaf takes beside itself, in bytes.
    pub fn memory_bytes(&self) -> usize {
        self.entries.memory_bytes()
    }

    /// How many entries there are.
    pub fn entries(&self) -> usize {
        self.entries.len()
    }

    /// Whether the leaf fits in a page.
    pub fn fits(&self) -> bool {
        self.encoded_bytes() <= BODY_BYTES
    }

    /// Whether nothing is mapped.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The first virtual block that is mapped.
    pub fn first(&self) -> Option<VirtualBlock> {
        self.entries.get(0).map(|entry| self.block_at(entry.offset))
    }

    /// The last virtual block that is mapped.
    pub fn last(&self) -> Option<VirtualBlock> {
        self.entries.last().map(|entry| VirtualBlock(self.base.0 + u64::from(entry.end()) - 1))
    }

    /// The entries, in order.
    pub fn iter_entries(&self) -> impl Iterator<Item = MapEntry> + '_ {
        self.entries.iter()
    }

    /// Every mapped virtual block, in order.
    pub fn iter(&self) -> impl Iterator<Item = (VirtualBlock, Mapping)> {
        self.iter_from(self.base)
    }

    /// Every mapped virtual block from `first` on, in order.
    pub fn iter_from(&self, first: VirtualBlock) -> impl Iterator<Item = (VirtualBlock, Mapping)> {
        let skipped = first.0.saturating_sub(self.base.0).min(WINDOW_BLOCKS) as u16;
        let cut = move |entry: MapEntry| if skipped == 0 { Some(entry) } else { entry.after(skipped - 1) };
        self.entries
            .range(self.position(skipped)..self.entries.len())
            .filter_map(cut)
            .flat_map(MapEntry::blocks)
            .map(|(offset, mapping)| (self.block_at(offset), mapping))
    }

    /// For every entry from `first` on its block if it has two layers, in order.
    pub fn two_layers_from(&self, first: VirtualBlock) -> impl Iterator<Item = Option<VirtualBlock>> {
        let skipped = first.0.saturating_sub(self.base.0).min(WINDOW_BLOCKS) as u16;
        let entries = self.entries.range(self.position(skipped)..self.entries.len());
        entries.map(|entry| entry.mapping.lower.map(|_| self.block_at(entry.offset)))
    }

    /// What `block` is mapped to.
    pub fn get(&self, block: VirtualBlock) -> Option<Mapping> {
        let offset = self.offset_of(block)?;
        let entry = self.entries.get(self.position(offset)).filter(|entry| entry.holds(offset))?;
        Some(entry.mapping_at(offset))
    }

    /// Maps `block`, or unmaps it, and says what it was mapped to. Panics when it lies outside the window.
    pub fn set(&mut self, block: VirtualBlock, mapping: Option<Mapping>) -> Option<Mapping> {
        debug_assert!(mapping.is_none_or(Mapping::is_valid), "{mapping:?}");
        let offset = self.offset_of(block).expect("the block lies in the leaf's window");
        let at = self.position(offset);
        let found = self.entries.get(at).filter(|entry| entry.holds(offset));
        let mut range = at..at + usize::from(found.is_some());
        let mut before = found.and_then(|entry| entry.before(offset));
        let mut after = found.and_then(|entry| entry.after(offset));
        let mut new = mapping.map(|mapping| MapEntry::single(offset, mapping));
        if let Some(entry) = &mut new {
            self.take_neighbours(entry, &mut range, &mut before, &mut after);
        }
        self.replace(range, [before, new, after]);
        found.map(|entry| entry.mapping_at(offset))
    }

    /// Unmaps `first..=last` and hands every mapping that was there to `removed`, in order.
    pub fn remove_range(
        &mut self,
        first: VirtualBlock,
        last: VirtualBlock,
        mut removed: impl FnMut(Mapping),
    ) {
        let window_last = self.base.0 + (WINDOW_BLOCKS - 1);
        if last < first || last < self.base || first.0 > window_last {
            return;
        }
        let first = first.0.saturating_sub(self.base.0) as u16;
        let last = (last.0.min(window_last) - self.base.0) as u16;
        // Nothing is left of a range that begins behind its end.
        let range = self.position(first)..self.entries.position_behind(last).max(self.position(first));
        let gone: Vec<MapEntry> = self.entries.range(range.clone()).collect();
        for entry in &gone {
            // A run may be as long as the window, and the range short.
            let from = first.max(entry.offset);
            let to = u32::from(last).min(entry.end() - 1) as u16;
            (from..=to).for_each(|offset| removed(entry.mapping_at(offset)));
        }
        let before = gone.first().and_then(|entry| entry.before(first));
        let after = gone.last().and_then(|entry| entry.after(last));
        self.replace(range, [before, None, after]);
    }

    /// Moves the rear half, by bytes on disk, to a new leaf, and says with which block that one starts.
    ///
    /// Cuts a run when there is nothing else to cut. Panics when fewer than two blocks are mapped.
    pub fn split(&mut self) -> (VirtualBlock, Self) {
        assert!(self.mapped_blocks >= 2, "a leaf with {} mappings has no halves", self.mapped_blocks);
        if self.entries.len() == 1 {
            return self.split_run();
        }
        let at = self.half();
        self.split_at(at)
    }

    /// Moves the last entry to a new leaf, as [`Self::split`] does the rear half: for a leaf that is filled in order, so
    /// that it stays full. There must be two entries at least.
    pub fn split_last(&mut self) -> (VirtualBlock, Self) {
        assert!(self.entries.len() >= 2, "a leaf of {} entries keeps none", self.entries.len());
        self.split_at(self.entries.len() - 1)
    }

    fn split_run(&mut self) -> (VirtualBlock, Self) {
        let run = self.entries.get(0).expect("the leaf is not empty");
        let middle = run.offset + run.length / 2;
        let halves = run.before(middle).into_iter().chain(run.after(middle - 1));
        self.entries.splice(0..1, &halves.collect::<Vec<_>>());
        self.split_at(1)
    }

    fn split_at(&mut self, at: usize) -> (VirtualBlock, Self) {
        let right = self.entries.split_off(at);
        self.recount();
        let right = Self::from_entries(self.base, right);
        (right.first().expect("neither half is empty"), right)
    }

    /// Takes over the mappings of `right`. Panics unless it lies behind this leaf in the same window.
    pub fn append(&mut self, right: Self) {
        assert!(
            self.base == right.base && self.last() < right.first(),
            "only a right neighbour can be appended"
        );
        let mut moved: Vec<MapEntry> = right.entries.iter().collect();
        let mut end = self.entries.len()..self.entries.len();
        if let (Some(last), Some(first)) = (self.entries.last(), moved.first_mut())
            && let Some(joined) = last.join(first)
        {
            *first = joined;
            end.start -= 1;
        }
        self.entries.splice(end, &moved);
        self.recount();
    }

    /// The same leaf with data blocks at other places, as [`Mapping::with_blocks_moved`]. Where that breaks up runs it takes
    /// more bytes than before, perhaps more than a page has.
    #[must_use]
    pub fn with_blocks_moved(&self, place: impl Fn(DataBlock) -> DataBlock) -> Self {
        let mut entries = Entries::with_capacity(self.entries.len());
        let mut last: Option<MapEntry> = None;
        for (offset, mapping) in self.entries.iter().flat_map(MapEntry::blocks) {
            let next = MapEntry::single(offset, mapping.with_blocks_moved(&place));
            match last.as_ref().and_then(|last| last.join(&next)) {
                Some(joined) => last = Some(joined),
                None => last.replace(next).iter().for_each(|entry| entries.push(entry)),
            }
        }
        last.iter().for_each(|entry| entries.push(entry));
        Self::from_entries(self.base, entries)
    }

    fn block_at(&self, offset: u16) -> VirtualBlock {
        VirtualBlock(self.base.0 + u64::from(offset))
    }

    fn offset_of(&self, block: VirtualBlock) -> Option<u16> {
        let offset = block.0.checked_sub(self.base.0).filter(|offset| *offset < WINDOW_BLOCKS)?;
        Some(offset as u16)
    }

    /// The first entry that does not end in front of `offset`.
    fn position(&self, offset: u16) -> usize {
        self.entries.position(offset)
    }

    /// Joins `entry` with the entries left and right of it where they make a run, and widens `range` to these.
    fn take_neighbours(
        &self,
        entry: &mut MapEntry,
        range: &mut Range<usize>,
        before: &mut Option<MapEntry>,
        after: &mut Option<MapEntry>,
    ) {
        let previous =
            range.start.checked_sub(1).and_then(|index| self.entries.get(index)).filter(|_| before.is_none());
        if let Some(joined) = previous.or(*before).and_then(|left| left.join(entry)) {
            range.start -= usize::from(before.take().is_none());
            *entry = joined;
        }
        let next = self.entries.get(range.end).filter(|_| after.is_none());
        if let Some(joined) = next.or(*after).and_then(|right| entry.join(&right)) {
            range.end += usize::from(after.take().is_none());
            *entry = joined;
        }
    }

    /// Puts `parts` in the place of `range` and keeps the sums.
    fn replace(&mut self, range: Range<usize>, parts: [Option<MapEntry>; 3]) {
        const NOTHING: MapEntry =
            MapEntry { offset: 0, length: 0, mapping: Mapping::single(DataBlock(0), SectorMask::EMPTY) };
        let mut packed = [NOTHING; 3];
        let mut count = 0;
        for part in parts.into_iter().flatten() {
            packed[count] = part;
            count += 1;
            self.mapped_blocks += u32::from(part.length);
            self.encoded_bytes += part.encoded_bytes() as u32;
        }
        for gone in self.entries.range(range.clone()) {
            self.mapped_blocks -= u32::from(gone.length);
            self.encoded_bytes -= gone.encoded_bytes() as u32;
        }
        self.entries.splice(range, &packed[..count]);
    }

    /// The entry at which the rear half begins; neither half is empty.
    fn half(&self) -> usize {
        let mut bytes = 0;
        let until_half = self.entries.iter().take_while(|entry| {
            bytes += entry.encoded_bytes();
            bytes <= self.encoded_bytes() / 2
        });
        until_half.count().clamp(1, self.entries.len() - 1)
    }

    fn recount(&mut self) {
        self.mapped_blocks = self.entries.iter().map(|entry| u32::from(entry.length)).sum();
        self.encoded_bytes = self.entries.iter().map(|entry| entry.encoded_bytes() as u32).sum();
    }
}
