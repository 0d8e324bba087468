//! Pages of mapping trees in memory.
//!
//! Owns which pages are resident, how much memory they take, and which of them go when it is too much. Does not read
//! pages, and does not know trees. Read next: `tree/mod.rs`.

use crate::format::{InnerPage, MapLeaf, Pointer};
use crate::units::{Generation, PageNumber, VolumeId};
use rustc_hash::FxHashMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a page of a mapping tree holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// Pointers to pages one level below.
    Inner(InnerPage),
    /// Mappings.
    Leaf(MapLeaf),
}

impl Node {
    /// Levels above the leaves.
    pub fn level(&self) -> u8 {
        match self {
            Self::Inner(inner) => inner.level,
            Self::Leaf(_) => 0,
        }
    }

    /// How many entries it has on disk.
    pub fn entries(&self) -> usize {
        match self {
            Self::Inner(inner) => inner.entries.len(),
            Self::Leaf(leaf) => leaf.entries(),
        }
    }

    /// Memory that it takes beside itself, in bytes.
    fn memory_bytes(&self) -> usize {
        match self {
            Self::Inner(inner) => inner.entries.capacity() * size_of::<(u64, Pointer)>(),
            Self::Leaf(leaf) => leaf.memory_bytes(),
        }
    }

    /// How many virtual blocks are mapped in the page or below.
    pub fn mapped(&self) -> u64 {
        match self {
            Self::Inner(inner) => inner.mapped(),
            Self::Leaf(leaf) => leaf.mapped_blocks(),
        }
    }
}

/// A page in memory.
#[derive(Debug)]
pub struct CachedPage {
    /// The checkpoint that wrote it, or that will.
    pub generation: Generation,
    /// Where its second copy stands; inner pages have one.
    pub copy: Option<PageNumber>,
    /// The volume that wrote it.
    pub volume_of_birth: VolumeId,
    /// What it holds.
    pub node: Node,
    /// When it was last used, by the clock of the cache.
    used: AtomicU64,
    /// What it counts for in the memory of the cache, in bytes.
    charge: u32,
}

/// What a resident page takes beside its entries: its place in the table, of which an eighth is free at least, and what
/// the allocator adds.
const PLACE_BYTES: usize = size_of::<(PageNumber, CachedPage)>() * 8 / 7 + 32;

impl CachedPage {
    /// A page that was just made or read.
    pub fn new(
        generation: Generation,
        copy: Option<PageNumber>,
        volume_of_birth: VolumeId,
        node: Node,
    ) -> Self {
        Self { generation, copy, volume_of_birth, node, used: AtomicU64::new(0), charge: 0 }
    }

    fn charge(&mut self) -> usize {
        let bytes = PLACE_BYTES + self.node.memory_bytes();
        self.charge = bytes as u32;
        bytes
    }
}

/// The resident pages by number.
#[derive(Debug, Default)]
pub struct PageCache {
    pages: FxHashMap<PageNumber, CachedPage>,
    /// The sum of all charges. Pages that are being changed have grown since they were charged.
    bytes: usize,
    /// From how much memory on it is worth while to look for pages that can go.
    shrink_from: usize,
    /// Counts everything that may have changed a page or its being here.
    changes: u64,
    /// Counts turns, or whatever the owner of the cache calls one.
    clock: u64,
    /// The clock when pages were last looked through.
    shrunk_at: u64,
}

impl PageCache {
    /// The page, if it is resident.
    #[inline]
    pub fn get(&self, page: PageNumber) -> Option<&CachedPage> {
        let cached = self.pages.get(&page)?;
        // A load before the store keeps the line of an often used page clean.
        if cached.used.load(Ordering::Relaxed) != self.clock {
            cached.used.store(self.clock, Ordering::Relaxed);
        }
        Some(cached)
    }

    /// The page for a change, if it is resident.
    #[inline]
    pub fn get_mut(&mut self, page: PageNumber) -> Option<&mut CachedPage> {
        self.changes += 1;
        self.pages.get_mut(&page)
    }

    /// Makes a page resident, in place of what stood under its number.
    pub fn insert(&mut self, page: PageNumber, mut cached: CachedPage) {
        self.remove(page);
        cached.used = AtomicU64::new(self.clock);
        self.bytes += cached.charge();
        self.pages.insert(page, cached);
    }

    /// Takes a page out.
    pub fn remove(&mut self, page: PageNumber) -> Option<CachedPage> {
        self.changes += 1;
        let cached = self.pages.remove(&page)?;
        self.bytes -= cached.charge as usize;
        Some(cached)
    }

    /// How many pages are resident.
    pub fn len(&self) -> usize {
        self.pages.len()
    }

    /// Whether no page is resident.
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// Memory that the resident pages take, in bytes.
    pub fn memory_bytes(&self) -> usize {
        self.bytes
    }

    /// A number that rises with everything that may have changed a page or its being here.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// The resident pages, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (PageNumber, &CachedPage)> {
        self.pages.iter().map(|(number, cached)| (*number, cached))
    }

    /// The time by which uses are told apart.
    pub fn clock(&self) -> u64 {
        self.clock
    }

    /// Lets time go on: what is used from now on is used later.
    pub fn tick(&mut self) {
        self.clock += 1;
    }

    /// Drops pages of generation `newest` and older if all together take more than `limit_bytes`, down to seven eighths
    /// of that. Stays above where pages are of a newer generation, or were used at `protected` by the clock or later.
    ///
    /// Looking for them takes as long as there are pages, so it is not done again before an eighth more has come.
    pub fn keep_below(&mut self, limit_bytes: usize, newest: Generation, protected: u64) {
        if self.bytes > limit_bytes.max(self.shrink_from) {
            self.shrink_to(limit_bytes / 8 * 7, newest, protected);
            self.shrink_from = self.bytes + limit_bytes / 8;
        }
    }

    /// Drops pages of generation `newest` and older until the rest takes `limit_bytes` or less: first those that were not
    /// used since the last time. Pages of a newer generation stay, so more may be left.
    pub fn shrink(&mut self, limit_bytes: usize, newest: Generation) {
        self.tick();
        self.shrink_to(limit_bytes, newest, self.clock);
    }

    fn shrink_to(&mut self, limit_bytes: usize, newest: Generation, protected: u64) {
        self.bytes = self.pages.values_mut().map(CachedPage::charge).sum();
        for before in [self.shrunk_at.min(protected), protected] {
            let mut excess = self.bytes.saturating_sub(limit_bytes);
            if excess == 0 {
                break;
            }
            self.changes += 1;
            let bytes = &mut self.bytes;
            self.pages.retain(|_, cached| {
                let goes =
                    excess > 0 && cached.generation <= newest && cached.used.load(Ordering::Relaxed) < before;
                if goes {
                    excess = excess.saturating_sub(cached.charge as usize);
                    *bytes -= cached.charge as usize;
                }
                !goes
            });
        }
        self.shrunk_at = self.clock;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Mapping;
    use crate::units::{DataBlock, SectorMask, VirtualBlock};

    fn page(generation: u64) -> CachedPage {
        let node = Node::Leaf(MapLeaf::new(VirtualBlock(0)));
        CachedPage::new(Generation(generation), None, VolumeId(1), node)
    }

    #[test]
    fn shrinking_keeps_new_pages_and_prefers_unused_ones() {
        let mut cache = PageCache::default();
        (0..10).for_each(|number| cache.insert(PageNumber(number), page(number)));
        let each = cache.memory_bytes() / 10;
        assert_eq!(each, PLACE_BYTES);
        cache.shrink(9 * each, Generation(7));
        assert_eq!(cache.len(), 9);
        cache.tick();
        let used = (0..8).map(PageNumber).find(|number| cache.get(*number).is_some()).unwrap();
        cache.shrink(3 * each, Generation(7));
        assert_eq!((cache.len(), cache.memory_bytes()), (3, 3 * each));
        assert!([used, PageNumber(8), PageNumber(9)].iter().all(|number| cache.get(*number).is_some()));
        cache.shrink(0, Generation(7));
        assert_eq!(cache.len(), 2);
    }

    #[test]
    fn memory_stays_below_the_limit_but_for_new_pages() {
        let mut cache = PageCache::default();
        let limit = 64 * PLACE_BYTES;
        for number in 0..1000 {
            cache.tick();
            cache.insert(PageNumber(number), page(1));
            cache.keep_below(limit, Generation(1), cache.clock());
            assert!(cache.memory_bytes() <= limit);
        }
        assert!(cache.len() >= 56);
        (1000..1100).for_each(|number| cache.insert(PageNumber(number), page(2)));
        cache.tick();
        cache.keep_below(limit, Generation(1), cache.clock());
        assert_eq!(cache.len(), 100, "what no disk has stays");
    }

    /// Whoever waits for one page more must find those again that it has had.
    #[test]
    fn what_is_waited_for_stays_whatever_the_limit() {
        let mut cache = PageCache::default();
        let since = cache.clock();
        for number in 0..100 {
            cache.tick();
            cache.insert(PageNumber(number), page(1));
            (0..number).for_each(|earlier| assert!(cache.get(PageNumber(earlier)).is_some()));
            cache.keep_below(0, Generation(1), since);
        }
        cache.tick();
        cache.insert(PageNumber(100), page(1));
        cache.tick();
        cache.keep_below(0, Generation(1), cache.clock());
        assert!(cache.is_empty());
    }

    #[test]
    fn memory_is_charged_as_pages_grow_and_go() {
        let mut cache = PageCache::default();
        cache.insert(PageNumber(1), page(1));
        let Some(CachedPage { node: Node::Leaf(leaf), .. }) = cache.get_mut(PageNumber(1)) else { panic!() };
        for at in 0..100 {
            let mapping = Mapping::single(DataBlock(at), SectorMask(1));
            leaf.set(VirtualBlock(2 * at), Some(mapping));
        }
        cache.shrink(usize::MAX, Generation(1));
        assert!(cache.memory_bytes() >= PLACE_BYTES + 1200);
        cache.insert(PageNumber(1), page(1));
        assert_eq!(cache.memory_bytes(), PLACE_BYTES);
        cache.remove(PageNumber(1));
        assert_eq!(cache.memory_bytes(), 0);
    }
}
