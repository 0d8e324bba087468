//! The way from a root to a mapping.
//!
//! Owns descending and reading; changes nothing. Read next: `insert.rs`.

use super::{Fault, Forest, LAST_KEY, MAX_LEVELS, Root, window_start};
use crate::error::{Error, Place};
use crate::format::{InnerPage, MapLeaf, Mapping, Pointer};
use crate::metadata::cache::{CachedPage, Node};
use crate::units::{PageNumber, VirtualBlock};
use std::ops::ControlFlow;

/// One page on the way down.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Step {
    pub page: PageNumber,
    /// The entry that was followed; 0 in a leaf.
    pub index: usize,
}

/// The pages from a root to a leaf.
#[derive(Clone, Copy, Debug, Default)]
pub struct Path {
    steps: [Step; MAX_LEVELS],
    length: usize,
    /// No key to the left of the path is this high or higher.
    pub(super) low: u64,
}

impl Path {
    /// The pages, the root first.
    pub fn pages(&self) -> impl Iterator<Item = PageNumber> + '_ {
        self.steps().iter().map(|step| step.page)
    }

    pub(super) fn steps(&self) -> &[Step] {
        &self.steps[..self.length]
    }

    pub(super) fn steps_mut(&mut self) -> &mut [Step] {
        &mut self.steps[..self.length]
    }

    /// The steps above the leaf.
    pub(super) fn inner_steps(&self) -> &[Step] {
        &self.steps[..self.length - 1]
    }

    pub(super) fn leaf(&self) -> PageNumber {
        self.steps[self.length - 1].page
    }
}

/// What a tree says of one virtual block.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// The mapping, if the block is mapped.
    pub mapping: Option<Mapping>,
    /// Whether every page on the path has a count of 1. The counts of the data blocks are not looked at.
    pub exclusive_path: bool,
    /// The pages that were passed; empty if the volume has none.
    pub path: Path,
}

impl Forest {
    /// The mapping of one virtual block.
    pub fn lookup(&self, root: &Root, block: VirtualBlock) -> Result<Found, Fault> {
        let Some((level, pointer)) = root else {
            return Ok(Found { mapping: None, exclusive_path: true, path: Path::default() });
        };
        let (path, leaf) = self.descend(*level, pointer, block)?;
        let mapping = leaf.get(block);
        let exclusive_path = path.pages().all(|page| self.page_counts.get(page.0) == 1);
        Ok(Found { mapping, exclusive_path, path })
    }

    /// Hands every mapping of `first..=last` to `visit`, in order, until it breaks. A fault may come after some
    /// mappings were visited; go on behind the last one.
    pub fn mappings(
        &self,
        root: &Root,
        first: VirtualBlock,
        last: VirtualBlock,
        mut visit: impl FnMut(VirtualBlock, Mapping) -> ControlFlow<()>,
    ) -> Result<(), Fault> {
        self.mappings_and_owners(root, first, last, |block, mapping, _| visit(block, mapping))
    }

    /// As [`Forest::mappings`], and says of each whether every page on the path to it has a count of 1.
    pub fn mappings_and_owners(
        &self,
        root: &Root,
        first: VirtualBlock,
        last: VirtualBlock,
        mut visit: impl FnMut(VirtualBlock, Mapping, bool) -> ControlFlow<()>,
    ) -> Result<(), Fault> {
        let Some((level, pointer)) = root else { return Ok(()) };
        self.visit_mappings(pointer, *level, (first, last), true, &mut visit).map(|_| ())
    }

    fn visit_mappings(
        &self,
        pointer: &Pointer,
        level: u8,
        (first, last): (VirtualBlock, VirtualBlock),
        exclusive_above: bool,
        visit: &mut impl FnMut(VirtualBlock, Mapping, bool) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, Fault> {
        let exclusive = exclusive_above && self.page_counts.get(pointer.page.0) == 1;
        match &self.node(pointer, level)?.node {
            Node::Leaf(leaf) => {
                let from = first.max(leaf.base());
                let mut inside = leaf.iter_from(from).take_while(|(block, _)| *block <= last);
                Ok(inside.try_for_each(|(block, mapping)| visit(block, mapping, exclusive)))
            }
            Node::Inner(inner) => {
                let from = inner.child_index(first.0);
                let children = inner.entries.iter().skip(from).take_while(|(key, _)| *key <= last.0);
                for (_, child) in children {
                    if self.visit_mappings(child, level - 1, (first, last), exclusive, visit)?.is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                }
                Ok(ControlFlow::Continue(()))
            }
        }
    }

    /// Goes down to the leaf that holds `block`, or that it would be put beside.
    pub(super) fn descend(
        &self,
        level: u8,
        root: &Pointer,
        block: VirtualBlock,
    ) -> Result<(Path, &MapLeaf), Fault> {
        if usize::from(level) >= MAX_LEVELS || block.0 > LAST_KEY {
            return Err(Error::damaged("a tree has more levels or blocks than can be")
                .at(Place::Page(root.page))
                .into());
        }
        let changes = self.cache.changes();
        if let Some(path) = self.last.find(root, changes, block)
            && let Some(CachedPage { node: Node::Leaf(leaf), .. }) = self.cache.get(path.leaf())
        {
            return Ok((path, leaf));
        }
        let mut path = Path::default();
        let mut pointer = root;
        let mut leaf_key = None;
        let mut end = LAST_KEY + 1;
        for level in (0..=level).rev() {
            let cached = self.node(pointer, level)?;
            let mut index = 0;
            let next = match &cached.node {
                Node::Leaf(leaf) => Err(leaf),
                Node::Inner(inner) => {
                    index = inner.child_index(block.0);
                    end = inner.entries.get(index + 1).map_or(end, |(next, _)| end.min(*next));
                    Ok(child(inner, index, pointer)?)
                }
            };
            path.steps[path.length] = Step { page: pointer.page, index };
            path.length += 1;
            match next {
                Err(leaf) if leaf_key.is_none_or(|key| window_start(key) == leaf.base().0) => {
                    // In front of the lowest key of a page the way goes through it too, and `low` would not say so.
                    if leaf_key.is_some_and(|key| key <= block.0) {
                        self.last.remember(root, changes, &path, end);
                    }
                    return Ok((path, leaf));
                }
                Err(_) => break,
                Ok((key, below)) => {
                    if key <= block.0 {
                        path.low = key;
                    }
                    leaf_key = Some(key);
                    pointer = below;
                }
            }
        }
        Err(Error::damaged("a leaf stands in the wrong window").at(Place::Page(pointer.page)).into())
    }

    /// The page behind a pointer that is expected at `level`.
    #[inline]
    pub(super) fn node(&self, pointer: &Pointer, level: u8) -> Result<&CachedPage, Fault> {
        match self.cache.get(pointer.page) {
            Some(cached) if cached.generation == pointer.generation && cached.node.level() == level => {
                Ok(cached)
            }
            found => Err(self.not_found(pointer, found.is_some())),
        }
    }

    #[cold]
    fn not_found(&self, pointer: &Pointer, is_resident: bool) -> Fault {
        let message = if is_resident {
            "a page has another level or generation than its parent says"
        } else if self.page_counts.is_zero(pointer.page.0) || pointer.generation >= self.building {
            "a pointer leads to a page that is free or not yet made"
        } else {
            return Fault::Missing(*pointer);
        };
        Error::damaged(message).at(Place::Page(pointer.page)).into()
    }
}

/// Whether `block` is in the window of `leaf`.
#[inline]
pub(super) fn leaf_covers(leaf: &MapLeaf, block: VirtualBlock) -> bool {
    leaf.base().0 == window_start(block.0)
}

fn child<'a>(inner: &'a InnerPage, index: usize, parent: &Pointer) -> Result<(u64, &'a Pointer), Fault> {
    match inner.entries.get(index) {
        Some((key, child)) => Ok((*key, child)),
        None => Err(Error::damaged("an inner page is empty").at(Place::Page(parent.page)).into()),
    }
}
