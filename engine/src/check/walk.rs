//! The way through the mapping trees: every page once, both copies, with all that a page must agree with.
//!
//! Owns what must hold inside a page and between a page and those who point to it. Pages that replaying the log made
//! are taken from memory; all others are read, one at a time, and forgotten. Compares no counts; see `counts.rs`.

use super::book::{Book, Met};
use super::counts::Tally;
use super::report::{Lost, Notes, bad_page, moved};
use crate::error::{Error, Place};
use crate::format::{
    self, InnerPage, Layer, MapLeaf, PageHeader, PageKind, Pointer, VolumeRecord, WINDOW_BLOCKS,
};
use crate::metadata::Metadata;
use crate::metadata::cache::Node;
use crate::metadata::files::Files;
use crate::metadata::tree::{LAST_KEY, MAX_LEVELS};
use crate::request::Uuid;
use crate::units::{DataBlock, Generation, PageNumber, VolumeId};
use bytes::Bytes;

/// A pointer, and what its owner says about the page behind it.
#[derive(Clone, Copy)]
pub(super) struct Edge {
    pub pointer: Pointer,
    pub level: u8,
    /// The first and last key that the page may hold.
    pub low: u64,
    pub high: u64,
    /// The page is not younger than this, the generation of its owner.
    pub generation: Generation,
}

impl Edge {
    /// The way from a volume's record to its tree, as of `generation`.
    pub fn of_root(level: u8, pointer: Pointer, generation: Generation) -> Self {
        Self { pointer, level, low: 0, high: LAST_KEY, generation }
    }

    /// The ways from an inner page to its children. A leaf ends at its window.
    pub fn children(self, inner: &InnerPage) -> impl Iterator<Item = Self> + '_ {
        let level = self.level.saturating_sub(1);
        let generation = self.pointer.generation;
        let ends = inner.entries.iter().skip(1).map(|(key, _)| key.saturating_sub(1)).chain([self.high]);
        inner.entries.iter().zip(ends).map(move |(&(low, pointer), end)| {
            let window_end = low - low % WINDOW_BLOCKS + (WINDOW_BLOCKS - 1);
            let high = if level == 0 { end.min(window_end) } else { end };
            Self { pointer, level, low, high, generation }
        })
    }
}

/// A walk through the trees of one state.
pub(super) struct Walk<'w, 'f, 'p> {
    pub files: &'w mut Files<'f>,
    pub pool: Uuid,
    pub book: &'w mut Book,
    pub notes: &'w mut Notes<'p>,
    /// The state whose trees these are, where the log was replayed; some pages are in its memory only.
    pub state: Option<&'w Metadata>,
    /// References, where they are to be counted.
    pub tally: Option<&'w mut Tally>,
    pub next_volume: VolumeId,
    /// Virtual blocks with lost sectors, as repair leaves them, those in a shared leaf counted once.
    pub lost_blocks: u64,
}

impl Walk<'_, '_, '_> {
    /// Goes through the tree of one volume, as far as it was not met before.
    pub fn volume(&mut self, record: &VolumeRecord, generation: Generation) {
        let Some((level, pointer)) = record.root else { return };
        if usize::from(level) >= MAX_LEVELS || (level > 0) != pointer.copy.is_some() {
            let error =
                Error::damaged("the record points to a root that cannot be").at(Place::Volume(record.id));
            return self.give_up(error, pointer.page);
        }
        self.visit(Edge::of_root(level, pointer, generation));
    }

    fn visit(&mut self, edge: Edge) {
        let page = edge.pointer.page;
        if let Some(tally) = &mut self.tally {
            tally.page(page, self.notes);
        }
        match self.book.meet(&edge.pointer, edge.level) {
            Met::New => {}
            Met::Again => {
                if let Some(keys) = self.book.keys(page) {
                    self.check_keys(&edge, keys);
                }
                return;
            }
            Met::Different => {
                return self.give_up(bad_page(page, "those who point to this page disagree about it"), page);
            }
            Met::Outside => {
                return self.give_up(bad_page(page, "it is behind the end of the metadata file"), page);
            }
        }
        if !matches!(self.book.meet_copy(&edge.pointer, edge.level), Met::New) {
            self.notes.add(bad_page(page, "its second copy stands where another page does"));
        }
        if let (Some(tally), Some(copy)) = (&mut self.tally, edge.pointer.copy) {
            tally.page(copy, self.notes);
        }
        if let Some(keys) = self.visit_page(edge) {
            if self.state.is_some_and(|state| state.forest.page_counts.get(page.0) > 1) {
                self.book.keep_keys(page, keys);
            }
            self.check_keys(&edge, keys);
        }
    }

    /// Keys in use lie between those that the parent gives.
    fn check_keys(&mut self, edge: &Edge, (first, last): (u64, u64)) {
        if first < edge.low || last > edge.high {
            let page = edge.pointer.page;
            let message = format!(
                "it holds keys {first} to {last}, its parent leads to it for {} to {}",
                edge.low, edge.high
            );
            self.notes.add_lost(bad_page(page, message), Lost { page, blocks: None });
        }
    }

    /// Nothing below the page can be looked at.
    fn give_up(&mut self, error: Error, page: PageNumber) {
        self.notes.add_lost(error, Lost { page, blocks: None });
        if let Some(tally) = &mut self.tally {
            tally.incomplete = true;
        }
    }

    /// The first and last key in use of a page and what is below it, if it can be read.
    fn visit_page(&mut self, edge: Edge) -> Option<(u64, u64)> {
        let page = edge.pointer.page;
        if edge.pointer.generation > edge.generation {
            self.notes.add(bad_page(page, "it is younger than the page that points to it"));
        }
        if let Some(state) = self.state.filter(|state| edge.pointer.generation >= state.forest.building) {
            return match state.forest.cache.get(page) {
                Some(cached) if cached.node.level() == edge.level => self.visit_node(edge, &cached.node),
                _ => {
                    self.give_up(
                        bad_page(page, "it was changed since the root slot and is not in memory"),
                        page,
                    );
                    None
                }
            };
        }
        let bytes = match self.read(&edge.pointer) {
            Ok(bytes) => bytes,
            Err(error) => {
                self.give_up(error, page);
                return None;
            }
        };
        match self.decode(&edge, &bytes) {
            Ok(node) => self.visit_node(edge, &node),
            Err(error) => {
                self.give_up(error.at(Place::Page(page)), page);
                None
            }
        }
    }

    fn decode(&mut self, edge: &Edge, bytes: &[u8]) -> Result<Node, Error> {
        let (header, body) = format::open(bytes, &self.pool, &edge.pointer)?;
        if header.volume_of_birth >= self.next_volume {
            self.notes.add(bad_page(header.number, "it was written for a volume that never was"));
        }
        decode_mapping_page(&header, body, edge.level)
    }

    fn visit_node(&mut self, edge: Edge, node: &Node) -> Option<(u64, u64)> {
        let page = edge.pointer.page;
        if node.mapped() != edge.pointer.mapped || edge.pointer.mapped == 0 {
            let message =
                format!("{} blocks are mapped below, its parent says {}", node.mapped(), edge.pointer.mapped);
            self.notes.add(bad_page(page, message));
        }
        match node {
            Node::Inner(inner) => {
                edge.children(inner).for_each(|child| self.visit(child));
                Some((inner.entries.first()?.0, inner.entries.last()?.0))
            }
            Node::Leaf(leaf) => {
                self.visit_leaf(page, leaf);
                Some((leaf.first()?.0, leaf.last()?.0))
            }
        }
    }

    fn visit_leaf(&mut self, page: PageNumber, leaf: &MapLeaf) {
        let data_bytes = self.files.data.size_bytes();
        for entry in leaf.iter_entries() {
            let first = leaf.base().0 + u64::from(entry.offset);
            let blocks = Some((first, first + u64::from(entry.length).saturating_sub(1)));
            let lost = Lost { page, blocks };
            let mut highest = 0u64;
            for (layer, length) in [(Some(entry.mapping.upper), entry.length), (entry.mapping.lower, 1)] {
                let length = u64::from(length);
                match layer {
                    Some(layer) if layer.is_lost() => self.lost_blocks += length,
                    Some(Layer { block, .. }) => {
                        highest = highest.max(block.0.saturating_add(length - 1));
                        if let Some(tally) = &mut self.tally {
                            tally.run(block, length, lost, self.notes);
                        }
                    }
                    None => {}
                }
            }
            if highest.saturating_add(1).saturating_mul(crate::units::BLOCK_BYTES) > data_bytes {
                let error = Error::damaged("it is behind the end of the data file, and mapped");
                self.notes.add_lost(error.at(Place::Block(DataBlock(highest))), lost);
            }
            if !entry.mapping.is_valid() {
                self.notes.add_lost(bad_page(page, "it holds an impossible mapping"), lost);
            }
        }
        if let Some(tally) = &mut self.tally {
            tally.leaf_ends();
            tally.mappings += leaf.mapped_blocks();
        }
    }

    /// The page behind a pointer, after both its copies were looked at.
    pub fn read(&mut self, pointer: &Pointer) -> Result<Bytes, Error> {
        let mut good = None;
        let mut bad = Vec::new();
        for number in std::iter::once(pointer.page).chain(pointer.copy) {
            self.notes.page_read();
            match self.files.copy_of_page(&self.pool, pointer, number) {
                Ok(bytes) => good = good.or(Some(bytes)),
                Err(error) => {
                    bad.push(Error::new(error.kind(), error.message().to_owned()).at(Place::Page(number)));
                }
            }
        }
        let Some(bytes) = good else { return Err(bad.swap_remove(0)) };
        for error in bad {
            let message =
                format!("one of two copies of a page is bad, the other is whole: {}", error.message());
            self.notes.add(moved(&error, message));
        }
        Ok(bytes)
    }
}

/// A page of a mapping tree whose checksum is right.
pub(super) fn decode_mapping_page(header: &PageHeader, body: &[u8], level: u8) -> Result<Node, Error> {
    let node = match header.kind {
        PageKind::MapLeaf if level == 0 && header.level == 0 => {
            Node::Leaf(MapLeaf::decode(body, header.first_key, header.last_key)?)
        }
        PageKind::Inner if level > 0 && header.level == level => Node::Inner(InnerPage::decode(level, body)?),
        _ => return Err(Error::damaged("it is no page of a mapping tree, or of another level")),
    };
    let inside = |key: u64| (header.first_key..=header.last_key).contains(&key);
    let keys_inside = match &node {
        Node::Inner(inner) => inner.entries.iter().all(|(key, _)| inside(*key)),
        Node::Leaf(leaf) => !leaf.is_empty(),
    };
    if !keys_inside || node.entries() != usize::from(header.entries) {
        return Err(Error::damaged("what it holds contradicts its header"));
    }
    Ok(node)
}
