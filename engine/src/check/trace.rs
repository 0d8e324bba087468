//! From a bad page to the volumes and bytes that it costs, and other questions that need a second look at trees.
//!
//! Owns the translation of damage into users' terms. Reports nothing new: what cannot be read here was reported by
//! `walk.rs`.

use super::report::{Affected, Lost, Trouble};
use super::walk::{Edge, decode_mapping_page};
use crate::format::{self, Mapping, VolumeRecord, VolumeState};
use crate::metadata::Metadata;
use crate::metadata::cache::Node;
use crate::metadata::files::Files;
use crate::metadata::tree::MAX_LEVELS;
use crate::request::Uuid;
use crate::units::{BLOCK_BYTES, Generation, PageNumber, VirtualBlock};
use rustc_hash::{FxHashMap, FxHashSet};
use std::borrow::Cow;

/// Mapping trees, read without a word about what is wrong with them.
pub(super) struct Pages<'w, 'f> {
    pub files: &'w mut Files<'f>,
    pub pool: Uuid,
    pub state: Option<&'w Metadata>,
}

impl<'w> Pages<'w, '_> {
    fn root(record: &VolumeRecord) -> Option<Edge> {
        let (level, pointer) = record.root?;
        let edge = Edge::of_root(level, pointer, Generation(u64::MAX));
        (usize::from(level) < MAX_LEVELS).then_some(edge)
    }

    fn node(&mut self, edge: &Edge) -> Option<Cow<'w, Node>> {
        let is_fresh = |state: &&Metadata| edge.pointer.generation >= state.forest.building;
        if let Some(state) = self.state.filter(is_fresh) {
            let cached = state.forest.cache.get(edge.pointer.page)?;
            return (cached.node.level() == edge.level).then_some(Cow::Borrowed(&cached.node));
        }
        let bytes = self.files.page(&self.pool, &edge.pointer).ok()?;
        let (header, body) = format::open(&bytes, &self.pool, &edge.pointer).ok()?;
        decode_mapping_page(&header, body, edge.level).ok().map(Cow::Owned)
    }

    /// The last mapping of a volume.
    pub fn last_mapping(&mut self, record: &VolumeRecord) -> Option<(VirtualBlock, Mapping)> {
        let mut edge = Self::root(record)?;
        loop {
            match self.node(&edge)?.as_ref() {
                Node::Leaf(leaf) => {
                    let last = leaf.last()?;
                    return Some((last, leaf.get(last)?));
                }
                Node::Inner(inner) => edge = edge.children(inner).last()?,
            }
        }
    }

    /// Hands every mapping of a volume that can be read to `visit`, in order.
    pub fn mappings(&mut self, record: &VolumeRecord, visit: &mut dyn FnMut(VirtualBlock, Mapping)) {
        if let Some(edge) = Self::root(record) {
            self.mappings_below(edge, visit);
        }
    }

    fn mappings_below(&mut self, edge: Edge, visit: &mut dyn FnMut(VirtualBlock, Mapping)) {
        match self.node(&edge).as_deref() {
            Some(Node::Leaf(leaf)) => leaf.iter().for_each(|(block, mapping)| visit(block, mapping)),
            Some(Node::Inner(inner)) => {
                edge.children(inner).for_each(|child| self.mappings_below(child, visit))
            }
            None => {}
        }
    }
}

/// A search for those who lose something by bad pages.
struct Trace<'t, 'w, 'f> {
    pages: &'t mut Pages<'w, 'f>,
    bad: FxHashMap<PageNumber, Vec<(usize, Lost)>>,
    /// Inner pages with nothing bad below.
    good: FxHashSet<PageNumber>,
    affected: Vec<Vec<Affected>>,
}

/// What each of `troubles` costs users of the volumes in `records`, in the same order.
pub(super) fn affected(
    troubles: &[Trouble],
    records: &[VolumeRecord],
    pages: &mut Pages<'_, '_>,
) -> Vec<Vec<Affected>> {
    let mut bad: FxHashMap<PageNumber, Vec<(usize, Lost)>> = FxHashMap::default();
    for (index, lost) in troubles.iter().enumerate().filter_map(|(index, t)| Some((index, t.lost?))) {
        bad.entry(lost.page).or_default().push((index, lost));
    }
    let affected = vec![Vec::new(); troubles.len()];
    if bad.is_empty() {
        return affected;
    }
    let mut trace = Trace { pages, bad, good: FxHashSet::default(), affected };
    for record in records.iter().filter(|record| record.state == VolumeState::Active) {
        if let Some(edge) = Pages::root(record) {
            trace.search(record, edge);
        }
    }
    trace.affected
}

impl Trace<'_, '_, '_> {
    /// Whether something is bad in the page or below.
    fn search(&mut self, record: &VolumeRecord, edge: Edge) -> bool {
        let page = edge.pointer.page;
        if let Some(bad) = self.bad.get(&page) {
            for (index, lost) in bad {
                self.affected[*index].extend(range_of(record, &edge, lost));
            }
            return true;
        }
        if edge.level == 0 || self.good.contains(&page) {
            return false;
        }
        let Some(node) = self.pages.node(&edge) else { return false };
        let Node::Inner(inner) = node.as_ref() else { return false };
        let any = edge.children(inner).fold(false, |any, child| self.search(record, child) | any);
        if !any {
            self.good.insert(page);
        }
        any
    }
}

/// The bytes of the volume that are lost, if any are below its end.
fn range_of(record: &VolumeRecord, edge: &Edge, lost: &Lost) -> Option<Affected> {
    let (first, last) = lost.blocks.unwrap_or((edge.low, edge.high));
    let offset_bytes = first.saturating_mul(BLOCK_BYTES);
    let end = last.saturating_add(1).saturating_mul(BLOCK_BYTES).min(record.size_bytes);
    let length_bytes = end.checked_sub(offset_bytes).filter(|length| *length > 0)?;
    Some(Affected { volume: record.id, name: record.name.clone(), offset_bytes, length_bytes })
}
