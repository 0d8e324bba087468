//! References counted from scratch, and compared with the counts of the pool: exact both ways.
//!
//! Owns the comparison. What refers to what is found by `walk.rs`.

use super::report::{Information, Lost, Notes, bad_page};
use crate::error::{Error, Place};
use crate::format::{COUNTS_PER_LEAF, FIRST_FREE_PAGE};
use crate::metadata::Metadata;
use crate::metadata::counts::{Counts, LoadedCounts};
use crate::units::{DataBlock, PageNumber};
use rustc_hash::FxHashMap;

/// References found so far.
pub(super) struct Tally {
    pages: References,
    blocks: References,
    /// Data blocks that the leaf at hand refers to.
    in_leaf: Vec<u64>,
    /// Mapped virtual blocks in distinct leaves.
    pub mappings: u64,
    /// Some pages could not be read, so references are missing.
    pub incomplete: bool,
}

impl Tally {
    /// No reference but those that need no tree walk: the places of superblocks and slots, and the index trees.
    pub fn new(state: &Metadata, notes: &mut Notes<'_>) -> Self {
        let forest = &state.forest;
        let mut tally = Self {
            pages: References::new(forest.page_counts.len()),
            blocks: References::new(forest.data_counts.len()),
            in_leaf: Vec::new(),
            mappings: 0,
            incomplete: false,
        };
        (0..FIRST_FREE_PAGE.0).for_each(|page| tally.page(PageNumber(page), notes));
        for pointer in state.index_trees().flat_map(|tree| tree.pages()) {
            tally.page(pointer.page, notes);
            pointer.copy.into_iter().for_each(|copy| tally.page(copy, notes));
        }
        tally
    }

    /// One more reference to a page.
    pub fn page(&mut self, page: PageNumber, notes: &mut Notes<'_>) {
        if !self.pages.add(page.0) {
            notes.add(behind_the_end().at(Place::Page(page)));
        }
    }

    /// One more reference to each of `length` data blocks from `first` on, by the mappings `lost` if it cannot be.
    /// They are counted when [`Tally::leaf_ends`].
    pub fn run(&mut self, first: DataBlock, length: u64, lost: Lost, notes: &mut Notes<'_>) {
        let len = self.blocks.bytes.len() as u64;
        for block in (0..length).map(|ahead| first.0.saturating_add(ahead)) {
            if block < len {
                self.in_leaf.push(block);
            } else {
                notes.add_lost(behind_the_end().at(Place::Block(DataBlock(block))), lost);
            }
        }
    }

    /// Counts what one leaf refers to. All at once: blocks stand anywhere, and memory is slow, but not when it is asked for
    /// many things that do not depend on each other.
    pub fn leaf_ends(&mut self) {
        for block in self.in_leaf.drain(..) {
            self.blocks.add(block);
        }
    }

    /// Compares what was counted with what the pool says, and the free pages with both.
    pub fn compare(&self, state: &Metadata, notes: &mut Notes<'_>) {
        let forest = &state.forest;
        if self.incomplete {
            notes.information.push(Information::CountsNotComparable);
        }
        self.compare_all(&forest.page_counts, &self.pages, &|page| Place::Page(PageNumber(page)), notes);
        self.compare_all(&forest.data_counts, &self.blocks, &|block| Place::Block(DataBlock(block)), notes);
        let space = &forest.pages;
        let known = space.free_pages() + space.waiting_pages() + forest.page_counts.in_use();
        if known != space.len() || space.len() != forest.page_counts.len() {
            let message = format!("{known} pages are free, waiting or in use; there are {}", space.len());
            notes.add(Error::damaged(message));
        }
    }

    /// Neighbours that are wrong in the same way make one finding.
    fn compare_all(
        &self,
        says: &Counts,
        found: &References,
        place: &dyn Fn(u64) -> Place,
        notes: &mut Notes<'_>,
    ) {
        let mut run: Option<(u64, u64, (u32, u32))> = None;
        let leaves = 0..says.len().div_ceil(COUNTS_PER_LEAF);
        let in_leaf = |leaf| leaf * COUNTS_PER_LEAF..says.len().min((leaf + 1) * COUNTS_PER_LEAF);
        let differing = leaves.filter(|leaf| !found.are_those_of(says, *leaf as usize));
        for index in differing.flat_map(in_leaf) {
            let pair = (says.get(index), found.get(index));
            let is_wrong = if self.incomplete { pair.0 < pair.1 } else { pair.0 != pair.1 };
            match &mut run {
                Some((first, length, same)) if is_wrong && *same == pair && *first + *length == index => {
                    *length += 1;
                }
                _ => {
                    run.take().into_iter().for_each(|run| notes.add(wrong_count(run, place)));
                    run = is_wrong.then_some((index, 1, pair));
                }
            }
        }
        run.into_iter().for_each(|run| notes.add(wrong_count(run, place)));
    }
}

/// References to each of many things: a byte each, for there may be billions; many references apart.
struct References {
    bytes: Vec<u8>,
    /// What is above the largest byte.
    more: FxHashMap<u64, u32>,
}

impl References {
    fn new(len: u64) -> Self {
        Self { bytes: vec![0; usize::try_from(len).unwrap_or(0)], more: FxHashMap::default() }
    }

    /// One more reference to `index`. Whether there is such a thing.
    #[inline]
    fn add(&mut self, index: u64) -> bool {
        let Some(byte) = usize::try_from(index).ok().and_then(|index| self.bytes.get_mut(index)) else {
            return false;
        };
        match byte.checked_add(1) {
            Some(count) => *byte = count,
            None => *self.more.entry(index).or_default() += 1,
        }
        true
    }

    fn get(&self, index: u64) -> u32 {
        match self.bytes.get(index as usize) {
            Some(&u8::MAX) => u32::from(u8::MAX) + self.more.get(&index).copied().unwrap_or(0),
            byte => u32::from(byte.copied().unwrap_or(0)),
        }
    }

    /// Whether these are the counts of a leaf of `says`, as far as bytes tell.
    fn are_those_of(&self, says: &Counts, leaf: usize) -> bool {
        let first = leaf * COUNTS_PER_LEAF as usize;
        let end = self.bytes.len().min(first + COUNTS_PER_LEAF as usize);
        let found = &self.bytes[first.min(end)..end];
        match says.leaf(leaf) {
            LoadedCounts::Each(bytes) => bytes == found && !found.contains(&u8::MAX),
            LoadedCounts::Uniform(count) => found.iter().all(|byte| u32::from(*byte) == count),
        }
    }
}

fn behind_the_end() -> Error {
    Error::damaged("a reference leads behind the end of the file")
}

fn wrong_count(
    (first, length, (says, found)): (u64, u64, (u32, u32)),
    place: &dyn Fn(u64) -> Place,
) -> Error {
    let what = match (says, found) {
        (_, 0) => "it is kept and nothing refers to it: its space is lost",
        (0, _) => "it is in use and counts as free",
        _ if says < found => "it has more references than its count says",
        _ => "it has fewer references than its count says",
    };
    let more = if length > 1 { format!(", and {} behind it", length - 1) } else { String::new() };
    Error::damaged(format!("{what}: count {says}, references {found}{more}")).at(place(first))
}

/// The metadata file must be as long as its counts say.
pub(super) fn check_length(state: &Metadata, file_pages: u64, notes: &mut Notes<'_>) {
    let pages = state.forest.page_counts.len();
    if pages > file_pages {
        let message = format!("the metadata file ends after {file_pages} of {pages} pages");
        notes.add(bad_page(PageNumber(file_pages), message));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_counted_beyond_a_byte() {
        let mut references = References::new(COUNTS_PER_LEAF + 3);
        let mut counts = Counts::new(COUNTS_PER_LEAF + 3);
        assert!(!references.add(COUNTS_PER_LEAF + 3) && !references.add(u64::MAX));
        for expected in 1..=300 {
            assert!(references.add(7));
            counts.increment(7).unwrap();
            assert_eq!(references.get(7), expected);
            assert_eq!(
                references.are_those_of(&counts, 0),
                expected < 255,
                "large counts are compared one by one"
            );
            assert!(references.are_those_of(&counts, 1));
        }
        references.add(COUNTS_PER_LEAF);
        assert!(!references.are_those_of(&counts, 1));
        counts.increment(COUNTS_PER_LEAF).unwrap();
        assert!(references.are_those_of(&counts, 1));
    }
}
