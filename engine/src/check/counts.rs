//! References counted from scratch, and compared with the counts of the pool: exact both ways.
//!
//! Owns the comparison. What refers to what is found by `walk.rs`.

use super::report::{Information, Lost, Notes, bad_page};
use crate::error::{Error, Place};
use crate::format::FIRST_FREE_PAGE;
use crate::metadata::Metadata;
use crate::metadata::counts::Counts;
use crate::units::{DataBlock, PageNumber};

/// References found so far.
pub(super) struct Tally {
    pages: Counts,
    blocks: Counts,
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
            pages: Counts::new(forest.page_counts.len()),
            blocks: Counts::new(forest.data_counts.len()),
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
        if let Err(error) = self.pages.increment(page.0) {
            notes.add(error.at(Place::Page(page)));
        }
    }

    /// One more reference to a data block, by the mappings `lost` if it cannot be.
    pub fn block(&mut self, block: DataBlock, lost: Lost, notes: &mut Notes<'_>) {
        if let Err(error) = self.blocks.increment(block.0) {
            notes.add_lost(error.at(Place::Block(block)), lost);
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
        found: &Counts,
        place: &dyn Fn(u64) -> Place,
        notes: &mut Notes<'_>,
    ) {
        let mut run: Option<(u64, u64, (u32, u32))> = None;
        for index in 0..says.len() {
            let pair = (says.get(index), found.get(index));
            let is_wrong = if self.incomplete { pair.0 < pair.1 } else { pair.0 != pair.1 };
            match &mut run {
                Some((_, length, same)) if is_wrong && *same == pair => *length += 1,
                _ => {
                    run.take().into_iter().for_each(|run| notes.add(wrong_count(run, place)));
                    run = is_wrong.then_some((index, 1, pair));
                }
            }
        }
        run.into_iter().for_each(|run| notes.add(wrong_count(run, place)));
    }
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
