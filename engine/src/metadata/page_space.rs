//! Which page numbers of the metadata file are free, and which will be.
//!
//! Owns the order in which freed numbers come back: a number that a root slot's tree may still use waits until two
//! newer slots are durable, and one that a read in flight names waits for that read. Counts references nowhere
//! (`counts.rs` does). Read next: `tree/shadow.rs`.

use super::counts::Counts;
use crate::canary::{self, Canary};
use crate::format::FIRST_FREE_PAGE;
use crate::units::{Generation, PageNumber};
use bitvec::prelude::{BitVec, Lsb0};
use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::VecDeque;

/// The free page numbers of a metadata file.
#[derive(Clone, Debug, Default)]
pub struct PageSpace {
    free: BitVec<u64, Lsb0>,
    free_pages: u64,
    /// No page below is free.
    search_from: usize,
    /// Freed pages and the generation that no longer has them, by rising generation.
    waiting: VecDeque<(Generation, PageNumber)>,
    /// Reads in flight by page.
    pins: FxHashMap<PageNumber, u32>,
    /// Pages that are free once their reads have ended.
    held: FxHashSet<PageNumber>,
}

impl PageSpace {
    /// The space that `counts` describes: pages behind the superblock and root slots with a count of zero are free.
    pub fn from_counts(counts: &Counts) -> Self {
        let mut free = BitVec::from_vec(counts.zeros());
        free.truncate(counts.len() as usize);
        let reserved = free.len().min(FIRST_FREE_PAGE.0 as usize);
        free[..reserved].fill(false);
        let free_pages = free.count_ones() as u64;
        Self { free, free_pages, ..Self::default() }
    }

    /// Adds free pages up to `len` pages. Fewer than there are changes nothing.
    pub fn grow(&mut self, len: u64) {
        let now = self.free.len();
        let Some(more) = len.checked_sub(now as u64).filter(|more| *more > 0) else { return };
        self.free.resize(now + more as usize, true);
        let reserved = (FIRST_FREE_PAGE.0 as usize).saturating_sub(now).min(more as usize);
        self.free[now..now + reserved].fill(false);
        self.free_pages += more - reserved as u64;
    }

    /// How many pages the file has, free or not.
    pub fn len(&self) -> u64 {
        self.free.len() as u64
    }

    /// Whether the file has no pages at all.
    pub fn is_empty(&self) -> bool {
        self.free.is_empty()
    }

    /// How many pages can be allocated now.
    pub fn free_pages(&self) -> u64 {
        self.free_pages
    }

    /// How many pages are in no tree any more, and cannot be allocated yet.
    pub fn waiting_pages(&self) -> u64 {
        (self.waiting.len() + self.held.len()) as u64
    }

    /// Takes the lowest free page, so that the file stays short.
    pub fn allocate(&mut self) -> Option<PageNumber> {
        let page = self.search_from + self.free.get(self.search_from..)?.first_one()?;
        self.take(page);
        self.search_from = page + 1;
        Some(PageNumber(page as u64))
    }

    /// Gives back a page that the tree of generation `building` does not use. It was written by generation `birth`;
    /// if that is `building` itself, no disk has seen it and it is free at once.
    pub fn free(&mut self, page: PageNumber, birth: Generation, building: Generation) {
        if birth == building || canary::broken(Canary::PagesReleasedEarly) {
            self.free_unless_pinned(page);
        } else {
            self.waiting.push_back((building, page));
        }
    }

    /// Makes free what two durable root slots no longer need: those of `durable` and of the generation before it.
    pub fn release(&mut self, durable: Generation) {
        while let Some(&(death, page)) = self.waiting.front() {
            if death >= durable {
                break;
            }
            self.waiting.pop_front();
            self.free_unless_pinned(page);
        }
    }

    /// Keeps a free page from being allocated, as if it had been freed while generation `death` was built: the tree
    /// of an older root slot uses it. A page that is not free stays as it is.
    pub fn reserve_as_used(&mut self, page: PageNumber, death: Generation) {
        if self.take(page.0 as usize) {
            let behind = self.waiting.partition_point(|(waiting, _)| *waiting <= death);
            self.waiting.insert(behind, (death, page));
        }
    }

    /// Notes a read in flight: until [`Self::unpin`] the page is not given out again.
    pub fn pin(&mut self, page: PageNumber) {
        *self.pins.entry(page).or_insert(0) += 1;
    }

    /// Ends one read noted by [`Self::pin`].
    pub fn unpin(&mut self, page: PageNumber) {
        let Some(reads) = self.pins.get_mut(&page) else { return };
        *reads -= 1;
        if *reads == 0 {
            self.pins.remove(&page);
            if self.held.remove(&page) {
                self.make_free(page);
            }
        }
    }

    fn free_unless_pinned(&mut self, page: PageNumber) {
        if self.pins.contains_key(&page) {
            self.held.insert(page);
        } else {
            self.make_free(page);
        }
    }

    fn make_free(&mut self, page: PageNumber) {
        let index = page.0 as usize;
        debug_assert!(self.free.get(index).is_some_and(|bit| !*bit), "page {page} was freed twice");
        if index < self.free.len() && !self.free.replace(index, true) {
            self.free_pages += 1;
            self.search_from = self.search_from.min(index);
        }
    }

    /// Marks a page as not free. Whether it was free.
    fn take(&mut self, index: usize) -> bool {
        let was_free = self.free.get(index).is_some_and(|bit| *bit);
        if was_free {
            self.free.set(index, false);
            self.free_pages -= 1;
        }
        was_free
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const G: fn(u64) -> Generation = Generation;

    fn space(len: u64) -> PageSpace {
        PageSpace::from_counts(&Counts::new(len))
    }

    #[test]
    fn lowest_free_page_comes_first() {
        let mut space = space(8);
        assert_eq!(space.free_pages(), 4);
        let pages: Vec<u64> = std::iter::from_fn(|| space.allocate()).map(|page| page.0).collect();
        assert_eq!(pages, [4, 5, 6, 7]);
        assert_eq!(space.free_pages(), 0);
        space.free(PageNumber(5), G(3), G(3));
        space.grow(9);
        assert_eq!(
            [space.allocate(), space.allocate(), space.allocate()],
            [Some(PageNumber(5)), Some(PageNumber(8)), None]
        );
    }

    #[test]
    fn counted_pages_are_not_free() {
        let mut counts = Counts::new(7);
        counts.increment(4).unwrap();
        counts.increment(6).unwrap();
        let mut space = PageSpace::from_counts(&counts);
        assert_eq!((space.allocate(), space.allocate()), (Some(PageNumber(5)), None));
    }

    /// A page of checkpoint 6 freed while 7 is built stands in slot 6 until slot 8 has replaced it.
    #[test]
    fn a_page_waits_until_both_slots_can_do_without() {
        let mut space = space(5);
        let page = space.allocate().unwrap();
        space.free(page, G(6), G(7));
        for durable in [5, 6, 7] {
            space.release(G(durable));
            assert_eq!((space.free_pages(), space.waiting_pages()), (0, 1));
        }
        space.release(G(8));
        assert_eq!((space.free_pages(), space.waiting_pages()), (1, 0));
    }

    #[test]
    fn a_page_of_the_other_slot_waits() {
        let mut space = space(6);
        let used = space.allocate().unwrap();
        space.free(used, G(1), G(9));
        space.reserve_as_used(PageNumber(5), G(7));
        space.reserve_as_used(used, G(7));
        assert_eq!((space.free_pages(), space.waiting_pages()), (0, 2));
        space.release(G(8));
        assert_eq!(space.allocate(), Some(PageNumber(5)));
        space.release(G(10));
        assert_eq!(space.allocate(), Some(used));
    }

    #[test]
    fn a_page_being_read_is_not_given_out() {
        let mut space = space(5);
        let page = space.allocate().unwrap();
        space.pin(page);
        space.pin(page);
        space.free(page, G(1), G(2));
        space.release(G(3));
        assert_eq!((space.free_pages(), space.waiting_pages()), (0, 1));
        space.unpin(page);
        assert_eq!(space.allocate(), None);
        space.unpin(page);
        space.unpin(page);
        assert_eq!((space.allocate(), space.waiting_pages()), (Some(page), 0));
    }
}
