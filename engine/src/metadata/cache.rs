//! Pages of mapping trees in memory.
//!
//! Owns which pages are resident and which of them go when memory is short. Does not read pages, and does not know
//! trees. Read next: `tree/mod.rs`.

use crate::format::{InnerPage, MapLeaf};
use crate::units::{Generation, PageNumber, VolumeId};
use rustc_hash::FxHashMap;
use std::sync::atomic::{AtomicBool, Ordering};

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
            Self::Leaf(leaf) => leaf.iter_entries().count(),
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
    /// Whether it was used since eviction last looked at it.
    used: AtomicBool,
}

impl CachedPage {
    /// A page that was just made or read.
    pub fn new(
        generation: Generation,
        copy: Option<PageNumber>,
        volume_of_birth: VolumeId,
        node: Node,
    ) -> Self {
        Self { generation, copy, volume_of_birth, node, used: AtomicBool::new(true) }
    }
}

/// The resident pages by number.
#[derive(Debug, Default)]
pub struct PageCache(FxHashMap<PageNumber, CachedPage>);

impl PageCache {
    /// The page, if it is resident.
    #[inline]
    pub fn get(&self, page: PageNumber) -> Option<&CachedPage> {
        let cached = self.0.get(&page)?;
        // A load before the store keeps the line of an often used page shared.
        if !cached.used.load(Ordering::Relaxed) {
            cached.used.store(true, Ordering::Relaxed);
        }
        Some(cached)
    }

    /// The page, if it is resident, for a look that shall not keep it in memory.
    pub fn peek(&self, page: PageNumber) -> Option<&CachedPage> {
        self.0.get(&page)
    }

    /// The page for a change, if it is resident.
    #[inline]
    pub fn get_mut(&mut self, page: PageNumber) -> Option<&mut CachedPage> {
        self.0.get_mut(&page)
    }

    /// Makes a page resident, in place of what stood under its number.
    pub fn insert(&mut self, page: PageNumber, cached: CachedPage) {
        self.0.insert(page, cached);
    }

    /// Takes a page out.
    pub fn remove(&mut self, page: PageNumber) -> Option<CachedPage> {
        self.0.remove(&page)
    }

    /// How many pages are resident.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no page is resident.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The resident pages, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (PageNumber, &CachedPage)> {
        self.0.iter().map(|(number, cached)| (*number, cached))
    }

    /// Drops pages of generation `newest` and older until `pages` are resident: first those that were not used since
    /// the last call. Pages of a newer generation stay, so more may be left.
    pub fn shrink(&mut self, pages: usize, newest: Generation) {
        for _ in 0..2 {
            let mut excess = self.0.len().saturating_sub(pages);
            if excess == 0 {
                return;
            }
            self.0.retain(|_, cached| {
                let goes =
                    excess > 0 && cached.generation <= newest && !cached.used.swap(false, Ordering::Relaxed);
                excess -= usize::from(goes);
                !goes
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::VirtualBlock;

    fn page(generation: u64) -> CachedPage {
        let node = Node::Leaf(MapLeaf::new(VirtualBlock(0)));
        CachedPage::new(Generation(generation), None, VolumeId(1), node)
    }

    #[test]
    fn shrinking_keeps_new_pages_and_prefers_unused_ones() {
        let mut cache = PageCache::default();
        (0..10).for_each(|number| cache.insert(PageNumber(number), page(number)));
        cache.shrink(9, Generation(7));
        assert_eq!(cache.len(), 9);
        let used = (0..8).map(PageNumber).find(|number| cache.get(*number).is_some()).unwrap();
        cache.shrink(3, Generation(7));
        assert_eq!(cache.len(), 3);
        assert!([used, PageNumber(8), PageNumber(9)].iter().all(|number| cache.get(*number).is_some()));
        cache.shrink(0, Generation(7));
        assert_eq!(cache.len(), 2);
    }
}
