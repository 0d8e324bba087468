//! The way through the trees of volume records, counts and overflow as they stand on disk, below one root slot.
//!
//! Owns what must hold in these pages. Gives the volume records that can be read, whatever else is wrong. Mapping
//! trees are `walk.rs`.

use super::book::Met;
use super::report::bad_page;
use super::walk::Walk;
use crate::error::{Error, Place};
use crate::format::{
    self, COUNT_IN_OVERFLOW, InnerPage, PageHeader, PageKind, Pointer, RootSlot, VolumeRecord,
};
use crate::metadata::IndexTree;
use crate::units::Generation;
use bytes::Bytes;

/// A pointer to a page of an index tree, and what its owner says about the page.
#[derive(Clone, Copy)]
struct IndexEdge {
    pointer: Pointer,
    /// Key and level; not known of a root.
    expected: Option<(u64, u8)>,
    leaves: PageKind,
    generation: Generation,
}

impl Walk<'_, '_, '_> {
    /// Goes through all index trees of `slot` and returns the volume records that it finds.
    pub fn index_trees(&mut self, slot: &RootSlot) -> Vec<VolumeRecord> {
        let mut records = Vec::new();
        let trees = [
            (slot.volumes, PageKind::VolumeLeaf),
            (slot.data_counts, PageKind::CountLeaf),
            (slot.data_overflow, PageKind::OverflowLeaf),
            (slot.page_counts, PageKind::CountLeaf),
            (slot.page_overflow, PageKind::OverflowLeaf),
        ];
        for (root, leaves) in trees {
            if let Some(pointer) = root {
                let edge = IndexEdge { pointer, expected: None, leaves, generation: slot.generation };
                self.index_page(edge, &mut records);
            }
        }
        if !records.is_sorted_by(|left, right| left.id < right.id) {
            self.notes.add(Error::damaged("volume records do not rise from leaf to leaf"));
        }
        records
    }

    fn index_page(&mut self, edge: IndexEdge, records: &mut Vec<VolumeRecord>) {
        let pointer = edge.pointer;
        if pointer.page.0 == 0 {
            return self.uniform_leaf(&edge);
        }
        // A leaf's level is 0 and a root's is not known before it was read: 255 stands for it.
        let level = edge.expected.map_or(u8::MAX, |(_, level)| level);
        let met = (self.book.meet(&pointer, level), self.book.meet_copy(&pointer, level));
        let bytes = match met {
            (Met::New, Met::New) => self.read(&pointer),
            // Known to be right, or reported; records are wanted all the same.
            (Met::Again, _) if edge.leaves == PageKind::VolumeLeaf => {
                let Ok(bytes) = self.files.page(&self.pool, &pointer) else { return };
                Ok(bytes)
            }
            (Met::Again, _) => return,
            (Met::Outside, _) | (_, Met::Outside) => {
                Err(bad_page(pointer.page, "it is behind the end of the metadata file"))
            }
            _ => Err(bad_page(pointer.page, "those who point to this page disagree about it")),
        };
        let opened = bytes.and_then(|bytes| self.open_index_page(&edge, &bytes, records));
        match opened {
            Ok(inner) => inner.into_iter().for_each(|inner| self.index_children(&edge, &inner, records)),
            Err(error) => self.notes.add(error.at(Place::Page(pointer.page))),
        }
    }

    fn index_children(&mut self, edge: &IndexEdge, inner: &InnerPage, records: &mut Vec<VolumeRecord>) {
        for (key, pointer) in &inner.entries {
            let expected = Some((*key, inner.level.saturating_sub(1)));
            let generation = edge.pointer.generation;
            self.index_page(IndexEdge { pointer: *pointer, expected, generation, ..*edge }, records);
        }
    }

    fn uniform_leaf(&mut self, edge: &IndexEdge) {
        let is_leaf_of_counts =
            edge.leaves == PageKind::CountLeaf && edge.expected.is_some_and(|(_, level)| level == 0);
        if !is_leaf_of_counts || edge.pointer.checksum >= u32::from(COUNT_IN_OVERFLOW) {
            self.notes.add(Error::damaged("a pointer in an index tree names no page, and no count either"));
        }
    }

    /// The page if it is an inner one; a leaf's records are added to `records`.
    fn open_index_page(
        &mut self,
        edge: &IndexEdge,
        bytes: &Bytes,
        records: &mut Vec<VolumeRecord>,
    ) -> Result<Option<InnerPage>, Error> {
        let (header, body) = format::open(bytes, &self.pool, &edge.pointer)?;
        let (key, level) = edge.expected.unwrap_or((header.first_key, header.level.max(1)));
        let kind = if level == 0 { edge.leaves } else { PageKind::Inner };
        if header.kind != kind
            || header.level != level
            || header.first_key != key
            || header.first_key > header.last_key
        {
            return Err(Error::damaged(
                "a page of another kind, level or range stands where this tree needs one",
            ));
        }
        if edge.pointer.generation > edge.generation {
            return Err(Error::damaged("it is younger than the page that points to it"));
        }
        let (entries, inner) = read_index_page(&header, body, records)?;
        if entries != usize::from(header.entries) {
            return Err(Error::damaged("what it holds contradicts its header"));
        }
        Ok(inner)
    }
}

fn read_index_page(
    header: &PageHeader,
    body: &[u8],
    records: &mut Vec<VolumeRecord>,
) -> Result<(usize, Option<InnerPage>), Error> {
    let inside = |key: u64| (header.first_key..=header.last_key).contains(&key);
    let mut all_inside = true;
    let (entries, inner) = match header.kind {
        PageKind::Inner => {
            let inner = InnerPage::decode(header.level, body)?;
            all_inside = inner.entries.iter().all(|(key, _)| inside(*key));
            (inner.entries.len(), Some(inner))
        }
        PageKind::VolumeLeaf => {
            let found = format::decode_volume_leaf(body)?;
            all_inside = found.iter().all(|record| inside(record.id.0));
            let entries = found.len();
            records.extend(found);
            (entries, None)
        }
        PageKind::OverflowLeaf => {
            let found = format::decode_overflow_leaf(body)?;
            all_inside = found.iter().all(|(index, _)| inside(*index));
            (found.len(), None)
        }
        PageKind::CountLeaf => (format::decode_count_leaf(body)?.len(), None),
        PageKind::MapLeaf => return Err(Error::damaged("mappings stand in an index tree")),
    };
    if all_inside { Ok((entries, inner)) } else { Err(Error::damaged("it holds keys outside its range")) }
}

/// How many pages the index trees of a state take, for the estimate of progress.
pub(super) fn index_pages<'t>(trees: impl Iterator<Item = &'t IndexTree>) -> u64 {
    trees.map(|tree| tree.pages().count() as u64).sum()
}
