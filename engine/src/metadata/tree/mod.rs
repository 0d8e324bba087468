//! The mappings of all volumes: copy-on-write trees that share pages.
//!
//! Owns the pages in memory, the counts of pages and data blocks, and the free page numbers; every change keeps the
//! counts exact. Does no I/O and knows no names: a volume is a [`Root`]. A page that is not in memory is a
//! [`Fault::Missing`]: the caller reads it, hands it to [`Forest::insert_loaded`] and tries again. An operation first
//! finds every page and page number it needs and only then changes something, so that a fault leaves nothing half
//! done.
//!
//! Shape: a leaf holds mappings of one window of `WINDOW_BLOCKS`. The key of an entry of an inner page is not above
//! any key below the entry, and lies in the window of the leaf at level 0. No page is empty; a volume without mappings
//! has no page. Leaves are not merged: a window has at most 41 full ones.
//!
//! Read next: `lookup.rs` (the way down), `shadow.rs` (copy on write), `insert.rs`, `remove.rs`, `seal.rs`,
//! `difference.rs` (two trees side by side), `usage.rs` (what some trees have alone), `own.rs` (what a tree has alone),
//! `moves.rs` (data blocks at other places).

mod difference;
mod insert;
mod last;
mod lookup;
mod moves;
mod own;
mod remove;
mod seal;
mod shadow;
#[cfg(test)]
mod tests;
mod two_layers;
mod usage;

pub use difference::{Differing, Progress};
pub use lookup::{Found, Path};
pub use moves::Moves;
pub use own::OwnCount;
pub use two_layers::TwoLayers;
pub use usage::Holdings;

use super::cache::PageCache;
use super::counts::Counts;
use super::page_space::PageSpace;
use crate::error::{Error, ErrorKind, Place, Result};
use crate::format::{BODY_BYTES, INNER_CAPACITY, Pointer, WINDOW_BLOCKS};
use crate::request::Uuid;
use crate::units::{DataBlock, Generation, PageNumber};

/// Most levels a tree can have. Each one takes 58 times as many splits as the one below, so eight are never reached.
pub const MAX_LEVELS: usize = 12;
/// The highest virtual block that a key can name.
pub const LAST_KEY: u64 = (1 << 48) - 1;

/// Why an operation did nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// This page is needed in memory. Read it, insert it, try again.
    Missing(Pointer),
    /// It cannot be done.
    Failed(Error),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// What a change did that others wait for. All of it is to be believed only once the change is proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Nothing names the block any more.
    BlockFreed(DataBlock),
    /// The count of the block fell to 1.
    BlockExclusive(DataBlock),
    /// The count of the page fell to 1.
    PageExclusive(PageNumber),
    /// What was below `from` is now below `to` instead: if `from` became exclusive by a change that is not yet
    /// proven, `to` is exclusive only by the same proof.
    PageInherits {
        /// The page above before.
        from: PageNumber,
        /// The page above now.
        to: PageNumber,
    },
}

/// The tree of a volume as in its record: the level of the root page, and where it is. `None` if nothing is mapped.
/// The checksum of the pointer means nothing while the page is not sealed.
pub type Root = Option<(u8, Pointer)>;

/// How much a page may hold. Smaller in tests, where trees shall be deep.
#[derive(Clone, Copy, Debug)]
pub struct TreeLimits {
    /// Encoded bytes of a leaf; at least 64.
    pub leaf_bytes: usize,
    /// Entries of an inner page; at least 3.
    pub inner_entries: usize,
}

impl Default for TreeLimits {
    fn default() -> Self {
        Self { leaf_bytes: BODY_BYTES, inner_entries: INNER_CAPACITY }
    }
}

/// All mapping trees of a pool.
#[derive(Debug)]
pub struct Forest {
    /// The checkpoint that will hold the changes made now.
    pub building: Generation,
    /// Pages in memory.
    pub cache: PageCache,
    /// How many layers, in distinct leaves, name a data block.
    pub data_counts: Counts,
    /// How many parents point to a page. The second copy of a page counts 1 as long as the page exists.
    pub page_counts: Counts,
    /// Free page numbers.
    pub pages: PageSpace,
    /// What changes did since the caller last took the events, in order.
    pub events: Vec<Event>,
    pool: Uuid,
    limits: TreeLimits,
    damage: Option<Error>,
    /// Pages allocated while `building` was built, and not freed.
    dirty_pages: usize,
    /// The way that was gone last.
    last: last::LastWay,
    /// See [`Self::sharing_changes`].
    sharing_changes: u64,
}

impl Forest {
    /// A forest of pool `pool` over `data_blocks` and `metadata_pages`, with all counts zero and no page in memory.
    /// Load the counts, then call [`Self::find_free_pages`] and [`Self::start_generation`].
    pub fn new(pool: Uuid, data_blocks: u64, metadata_pages: u64) -> Self {
        let page_counts = Counts::new(metadata_pages);
        Self {
            building: Generation(0),
            cache: PageCache::default(),
            data_counts: Counts::new(data_blocks),
            pages: PageSpace::from_counts(&page_counts),
            page_counts,
            events: Vec::new(),
            pool,
            limits: TreeLimits::default(),
            damage: None,
            dirty_pages: 0,
            last: last::LastWay::default(),
            sharing_changes: 0,
        }
    }

    /// The same forest with other limits of its pages.
    #[must_use]
    pub fn with_limits(self, limits: TreeLimits) -> Self {
        Self { limits, ..self }
    }

    /// Makes free exactly the pages whose count is zero. For an opening, after the counts were loaded.
    pub fn find_free_pages(&mut self) {
        self.pages = PageSpace::from_counts(&self.page_counts);
    }

    /// Keeps a page from being allocated that only the tree of the older root slot uses, until two slots newer than
    /// that one are durable. `newest` is the generation of the newer slot.
    pub fn keep_page(&mut self, page: PageNumber, newest: Generation) {
        self.pages.reserve_as_used(page, newest);
    }

    /// Makes the metadata file larger: it has `pages` pages that may be used.
    pub fn grow_pages(&mut self, pages: u64) {
        self.page_counts.grow(pages);
        self.pages.grow(pages);
    }

    /// Makes the data file larger: it has `blocks` blocks that may be used.
    pub fn grow_blocks(&mut self, blocks: u64) {
        self.data_counts.grow(blocks);
    }

    /// Makes the data file shorter: it has `blocks` blocks that may be used. None behind them may be in use.
    pub fn truncate_blocks(&mut self, blocks: u64) -> Result<()> {
        self.data_counts.truncate(blocks)
    }

    /// The first contradiction between counts and trees that a change met, if there was one. From then on counts are
    /// not exact: nothing may be written to the pool any more.
    pub fn damage(&self) -> Option<&Error> {
        self.damage.as_ref()
    }

    /// Gives the tree a second owner, as a snapshot does. Costs one count whatever its size.
    pub fn share(&mut self, root: &Root) {
        if let Some((_, pointer)) = root {
            self.page_gained(pointer.page);
        }
    }

    /// A number that rises whenever a page or block gets an owner beside another, or loses one and keeps another. While
    /// it stays, what a tree has alone is changed by changes of that tree only.
    pub fn sharing_changes(&self) -> u64 {
        self.sharing_changes
    }

    /// Drops pages of generation `newest` and older from memory if all pages take more than `limit_bytes`, those unused
    /// for longer first, those used at `protected` by the cache's clock or later never. The writes of all pages of these
    /// generations must have completed.
    pub fn bound_cache(&mut self, limit_bytes: usize, newest: Generation, protected: u64) {
        self.cache.keep_below(limit_bytes, newest.min(self.newest_sealed()), protected);
    }

    /// Drops such pages until those that are left take `limit_bytes` or less.
    pub fn shrink_cache(&mut self, limit_bytes: usize, newest: Generation) {
        self.cache.shrink(limit_bytes, newest.min(self.newest_sealed()));
    }

    /// A page of `building` is nowhere but in memory.
    fn newest_sealed(&self) -> Generation {
        Generation(self.building.0.saturating_sub(1))
    }

    /// Drops one page from memory if it is sealed; its write must have completed. Whether it was dropped.
    pub fn evict(&mut self, page: PageNumber) -> bool {
        let sealed = self.cache.get(page).is_some_and(|cached| cached.generation < self.building);
        sealed && self.cache.remove(page).is_some()
    }

    /// Takes a free page with a count of 1, for a tree of the caller's own.
    pub fn allocate_page(&mut self) -> Result<PageNumber> {
        let page = self.pages.allocate().ok_or_else(no_room)?;
        self.page_gained(page);
        self.dirty_pages += 1;
        Ok(page)
    }

    /// Gives back the only reference to a page, written by generation `birth`.
    pub fn free_page(&mut self, page: PageNumber, birth: Generation) {
        if self.page_lost(page) == Some(0) {
            self.give_back(page, birth);
        }
    }

    /// How many pages the checkpoint being built has to write so far.
    pub fn dirty_pages(&self) -> usize {
        self.dirty_pages
    }

    /// Gives back a page whose count fell to zero.
    fn give_back(&mut self, page: PageNumber, birth: Generation) {
        if birth == self.building {
            self.dirty_pages = self.dirty_pages.saturating_sub(1);
        }
        self.pages.free(page, birth, self.building);
    }
}

/// Counts, with events. What cannot be is noted as damage, and nothing changes.
impl Forest {
    fn block_gained(&mut self, block: DataBlock) {
        match self.data_counts.increment(block.0) {
            Ok(count) => self.sharing_changes += u64::from(count > 1),
            Err(error) => self.note_damage(error.at(Place::Block(block))),
        }
    }

    /// Blocks that others have are named once more.
    fn blocks_gained(&mut self, first: DataBlock, length: u64) {
        self.sharing_changes += 1;
        if let Err(error) = self.data_counts.increment_run(first.0, length) {
            self.note_damage(error.at(Place::Block(first)));
        }
    }

    fn block_lost(&mut self, block: DataBlock) {
        let count = self.data_counts.decrement(block.0);
        self.sharing_changes += u64::from(count != Ok(0));
        match count {
            Ok(0) => self.events.push(Event::BlockFreed(block)),
            Ok(1) => self.events.push(Event::BlockExclusive(block)),
            Ok(_) => {}
            Err(error) => self.note_damage(error.at(Place::Block(block))),
        }
    }

    fn page_gained(&mut self, page: PageNumber) {
        match self.page_counts.increment(page.0) {
            Ok(count) => self.sharing_changes += u64::from(count > 1),
            Err(error) => self.note_damage(error.at(Place::Page(page))),
        }
    }

    /// The new count, unless it could not be.
    fn page_lost(&mut self, page: PageNumber) -> Option<u32> {
        let count = self.page_counts.decrement(page.0);
        self.sharing_changes += u64::from(count != Ok(0));
        match count {
            Ok(count) => {
                if count == 1 {
                    self.events.push(Event::PageExclusive(page));
                }
                Some(count)
            }
            Err(error) => {
                self.note_damage(error.at(Place::Page(page)));
                None
            }
        }
    }

    fn note_damage(&mut self, error: Error) {
        self.damage.get_or_insert(error);
    }

    /// Fails if an earlier change left counts that are not exact.
    fn check_sound(&self) -> Result<()> {
        self.damage.clone().map_or(Ok(()), Err)
    }
}

/// The first virtual block of the window that holds `key`.
fn window_start(key: u64) -> u64 {
    key - key % WINDOW_BLOCKS
}

/// The last virtual block of the window that holds `key`.
fn window_end(key: u64) -> u64 {
    window_start(key) + (WINDOW_BLOCKS - 1)
}

fn no_room() -> Error {
    Error::new(ErrorKind::NoSpace, "the metadata file has too few free pages; let it grow or free space")
}
