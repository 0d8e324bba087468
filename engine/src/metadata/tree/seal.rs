//! Pages of mapping trees as bytes: sealing them for a checkpoint, and taking them in again.
//!
//! Owns the way between a resident page and its bytes. When bytes are written and read is the caller's affair; the
//! byte pictures are in `format/`.

use super::remove::Subtree;
use super::{Forest, Root, window_end};
use crate::error::{Error, Place, Result};
use crate::format::{self, InnerPage, Layer, MapEntry, MapLeaf, Mapping, PageHeader, PageKind, Pointer};
use crate::metadata::PageSink;
use crate::metadata::cache::{CachedPage, Node};
use crate::units::{Generation, PageNumber};
use rustc_hash::FxHashMap;

/// One sealing under way.
struct Sealing<'a, 'p> {
    pages: &'a mut PageSink<'p>,
    /// Checksums of pages that are met again under another parent.
    shared: FxHashMap<PageNumber, u32>,
}

impl Forest {
    /// Seals every page below `roots` that the checkpoint being built has made: gives it its checksum, tells its
    /// parents and `roots`, and hands what is to be written to `pages`; inner pages twice, for both their numbers.
    ///
    /// `roots` must have every root that may lead to such a page. If something changes before
    /// [`Self::start_generation`], seal again.
    pub fn seal_dirty<'a>(
        &mut self,
        roots: impl IntoIterator<Item = &'a mut Root>,
        pages: &mut PageSink<'_>,
    ) {
        let mut sealing = Sealing { pages, shared: FxHashMap::default() };
        for (level, pointer) in roots.into_iter().flatten() {
            let mut subtree = Subtree::of_root(*level, *pointer);
            if let Some(Node::Leaf(leaf)) = self.cache.get(pointer.page).map(|cached| &cached.node) {
                (subtree.low, subtree.high) = (leaf.base().0, window_end(leaf.base().0));
            }
            pointer.checksum = self.seal_subtree(subtree, &mut sealing);
        }
    }

    /// Begins to build the checkpoint `generation`: what was sealed before is immutable from now on.
    pub fn start_generation(&mut self, generation: Generation) {
        assert!(generation > self.building, "generations rise");
        self.building = generation;
        self.dirty_pages = 0;
    }

    /// Returns the checksum of the subtree's page.
    fn seal_subtree(&mut self, subtree: Subtree, sealing: &mut Sealing<'_, '_>) -> u32 {
        let pointer = subtree.pointer;
        if pointer.generation != self.building {
            return pointer.checksum;
        }
        if let Some(checksum) = sealing.shared.get(&pointer.page) {
            return *checksum;
        }
        if subtree.level > 0 {
            let entries = std::mem::take(&mut self.inner_mut(pointer.page).entries);
            let entries = self.seal_children(subtree, entries, sealing);
            self.inner_mut(pointer.page).entries = entries;
        }
        let checksum = self.seal_page(subtree, sealing.pages);
        if self.page_counts.get(pointer.page.0) > 1 {
            sealing.shared.insert(pointer.page, checksum);
        }
        checksum
    }

    fn seal_children(
        &mut self,
        parent: Subtree,
        entries: Vec<(u64, Pointer)>,
        sealing: &mut Sealing<'_, '_>,
    ) -> Vec<(u64, Pointer)> {
        let inner = InnerPage { level: parent.level, entries };
        let sealed = parent.children(&inner).map(|child| {
            let checksum = self.seal_subtree(child, sealing);
            (child.low, Pointer { checksum, ..child.pointer })
        });
        sealed.collect()
    }

    fn seal_page(&self, subtree: Subtree, pages: &mut PageSink<'_>) -> u32 {
        let Subtree { pointer, level, low, high } = subtree;
        let Some(cached) = self.cache.get(pointer.page) else {
            unreachable!("a page that is on no disk is in memory")
        };
        let (kind, body) = match &cached.node {
            Node::Leaf(leaf) => (PageKind::MapLeaf, leaf.encode()),
            Node::Inner(inner) => (PageKind::Inner, inner.encode()),
        };
        let header = PageHeader {
            kind,
            level,
            entries: cached.node.entries() as u16,
            number: pointer.page,
            copy: pointer.copy,
            generation: pointer.generation,
            first_key: low,
            last_key: high,
            volume_of_birth: cached.volume_of_birth,
        };
        let (buffer, checksum) = format::seal(&header, &self.pool, &body);
        let bytes = buffer.freeze();
        pointer.copy.into_iter().for_each(|copy| pages(copy, bytes.clone()));
        pages(pointer.page, bytes);
        checksum
    }

    /// Takes in the bytes of the page that a [`Fault::Missing`](super::Fault::Missing) named. Fails with `Damaged` if they are not that page,
    /// or if it contradicts its pointer or the counts. A page that no tree needs any more is ignored.
    pub fn insert_loaded(&mut self, pointer: &Pointer, bytes: &[u8]) -> Result<()> {
        let resident = self.cache.get(pointer.page).is_some();
        // While the read was under way the page may have been dropped.
        if resident || self.page_counts.is_zero(pointer.page.0) {
            return Ok(());
        }
        let (header, body) = format::open(bytes, &self.pool, pointer)?;
        let node =
            self.decode(&header, body, pointer).map_err(|error| error.at(Place::Page(pointer.page)))?;
        let page = CachedPage::new(pointer.generation, pointer.copy, header.volume_of_birth, node);
        self.cache.insert(pointer.page, page);
        Ok(())
    }

    fn decode(&self, header: &PageHeader, body: &[u8], pointer: &Pointer) -> Result<Node> {
        let node = match (header.kind, header.level) {
            (PageKind::MapLeaf, 0) => Node::Leaf(MapLeaf::decode(body, header.first_key, header.last_key)?),
            (PageKind::Inner, level @ 1..) => Node::Inner(InnerPage::decode(level, body)?),
            _ => return Err(Error::damaged("not a page of a tree of mappings")),
        };
        let fits = match &node {
            Node::Leaf(leaf) => leaf.iter_entries().all(|entry| self.are_counted(&entry)),
            Node::Inner(inner) => inner.entries.iter().all(|entry| self.is_child(header, entry)),
        };
        require(fits, "it names a block or page that has no count or cannot be there")?;
        require(node.entries() == usize::from(header.entries), "wrong number of entries")?;
        require(node.mapped() == pointer.mapped && pointer.mapped > 0, "wrong number of mapped blocks")?;
        require((node.level() > 0) == pointer.copy.is_some(), "inner pages have a copy, and only they")?;
        Ok(node)
    }
}

/// What a loaded page must agree with.
impl Forest {
    /// Whether all data blocks of an entry exist and have a count.
    fn are_counted(&self, entry: &MapEntry) -> bool {
        let Mapping { upper, lower } = entry.mapping;
        let is_counted = |layer: Layer, length: u16| {
            layer.is_lost() || !self.data_counts.is_any_zero(layer.block.0, u64::from(length))
        };
        is_counted(upper, entry.length) && lower.is_none_or(|layer| is_counted(layer, 1))
    }

    /// Whether an entry of the inner page `parent` can be one.
    fn is_child(&self, parent: &PageHeader, (key, child): &(u64, Pointer)) -> bool {
        let pages = [Some(child.page), child.copy];
        (parent.first_key..=parent.last_key).contains(key)
            && child.generation <= parent.generation
            && pages.into_iter().flatten().all(|page| !self.page_counts.is_zero(page.0))
    }
}

fn require(holds: bool, otherwise: &'static str) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::damaged(otherwise)) }
}
