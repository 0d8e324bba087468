//! Copy on write: which page may be changed where it is, and what becomes of one that may not.
//!
//! Owns moving, copying, making and freeing pages with their counts. A page may be changed if the checkpoint being
//! built made it and it has one parent. Otherwise it is *moved* (one parent: the page takes a new number, nothing
//! changes for its children) or *copied* (several: the children gain a parent). Read next: `insert.rs`.

use super::lookup::{Path, Step};
use super::{Event, Fault, Forest, Root, no_room};
use crate::format::{InnerPage, MapEntry, MapLeaf, Mapping, Pointer};
use crate::metadata::cache::{CachedPage, Node};
use crate::units::{DataBlock, PageNumber, VolumeId};

impl Forest {
    /// Whether the page may be changed where it is, if all pages above it may.
    #[inline]
    pub(super) fn is_owned(&self, pointer: &Pointer) -> bool {
        pointer.generation == self.building && self.page_counts.get(pointer.page.0) == 1
    }

    /// How many page numbers it takes to own the first `steps` steps of the path.
    pub(super) fn pages_to_own(&self, path: &Path, steps: usize) -> usize {
        let is_owned = |page: PageNumber| {
            let built_now = self.cache.get(page).is_some_and(|cached| cached.generation == self.building);
            built_now && self.page_counts.get(page.0) == 1
        };
        let owned = path.pages().take_while(|page| is_owned(*page)).count().min(steps);
        let leaf = usize::from(steps == path.steps().len());
        // Below a page that is not owned none is: its children are as old, or get a second parent.
        (steps - owned) * 2 - if owned < steps { leaf } else { 0 }
    }

    /// Fails with `NoSpace` unless `pages` page numbers are free.
    pub(super) fn check_room(&self, pages: usize) -> Result<(), Fault> {
        if pages as u64 > self.pages.free_pages() { Err(no_room().into()) } else { Ok(()) }
    }

    /// Makes the first `steps` pages of the path such that they may be changed, and notes their new numbers.
    pub(super) fn own_path(&mut self, volume: VolumeId, root: &mut Root, path: &mut Path, steps: usize) {
        let mut parent = None;
        for depth in 0..steps {
            let mut pointer = *self.entry_mut(root, parent);
            if !self.is_owned(&pointer) && self.own(volume, &mut pointer) {
                *self.entry_mut(root, parent) = pointer;
            }
            let step = &mut path.steps_mut()[depth];
            step.page = pointer.page;
            parent = Some(*step);
        }
    }

    /// The pointer that a step of a path leads to, or else the one in the root.
    fn entry_mut<'a>(&'a mut self, root: &'a mut Root, step: Option<Step>) -> &'a mut Pointer {
        match (step, root) {
            (Some(step), _) => &mut self.inner_mut(step.page).entries[step.index].1,
            (None, Some((_, pointer))) => pointer,
            (None, None) => unreachable!("a path starts at the root"),
        }
    }

    /// Makes the resident page behind `pointer`, which is not owned, such that it may be changed. Whether it was
    /// resident; nothing changes if not.
    pub(super) fn own(&mut self, volume: VolumeId, pointer: &mut Pointer) -> bool {
        let old = *pointer;
        let is_only = self.page_counts.get(old.page.0) == 1;
        let node = if is_only {
            self.cache.remove(old.page).map(|cached| cached.node)
        } else {
            self.cache.get(old.page).map(|cached| cached.node.clone())
        };
        let Some(node) = node else { return false };
        if !is_only {
            self.children_gained(&node);
        }
        *pointer = Pointer { mapped: old.mapped, ..self.new_page(volume, node) };
        if is_only {
            self.free_page_pair(&old);
            self.events.push(Event::PageInherits { from: old.page, to: pointer.page });
        } else {
            self.page_lost(old.page);
        }
        true
    }

    /// A new page that may be changed, with a count of 1. There must be room: two page numbers for an inner page.
    pub(super) fn new_page(&mut self, volume: VolumeId, node: Node) -> Pointer {
        let mut take = || self.allocate_page().unwrap_or_else(|_| unreachable!("room was checked before"));
        let page = take();
        let copy = matches!(node, Node::Inner(_)).then(take);
        let mapped = node.mapped();
        self.cache.insert(page, CachedPage::new(self.building, copy, volume, node));
        Pointer { page, copy, generation: self.building, checksum: 0, mapped }
    }

    /// Gives back the only reference to a page and its copy, and forgets it. Its children are not touched.
    pub(super) fn free_page_pair(&mut self, pointer: &Pointer) {
        self.cache.remove(pointer.page);
        self.free_page(pointer.page, pointer.generation);
        if let Some(copy) = pointer.copy {
            self.free_page(copy, pointer.generation);
        }
    }

    fn children_gained(&mut self, node: &Node) {
        match node {
            Node::Inner(inner) => inner.entries.iter().for_each(|(_, child)| self.page_gained(child.page)),
            Node::Leaf(leaf) => {
                for entry in leaf.iter_entries() {
                    let Mapping { upper, lower } = entry.mapping;
                    if !upper.is_lost() {
                        self.blocks_gained(upper.block, u64::from(entry.length));
                    }
                    let lower = lower.filter(|layer| !layer.is_lost());
                    lower.into_iter().for_each(|layer| self.block_gained(layer.block));
                }
            }
        }
    }

    /// An inner page that was just found to be resident.
    pub(super) fn inner(&self, page: PageNumber) -> &InnerPage {
        match self.cache.get(page) {
            Some(CachedPage { node: Node::Inner(inner), .. }) => inner,
            _ => unreachable!("the page was found before the change"),
        }
    }

    /// The same, to be changed.
    pub(super) fn inner_mut(&mut self, page: PageNumber) -> &mut InnerPage {
        match self.cache.get_mut(page) {
            Some(CachedPage { node: Node::Inner(inner), .. }) => inner,
            _ => unreachable!("the page was found before the change"),
        }
    }

    /// A leaf that was just found to be resident, to be changed.
    pub(super) fn leaf_mut(&mut self, page: PageNumber) -> &mut MapLeaf {
        match self.cache.get_mut(page) {
            Some(CachedPage { node: Node::Leaf(leaf), .. }) => leaf,
            _ => unreachable!("the page was found before the change"),
        }
    }
}

/// Hands every data block that a layer in `leaf` names to `visit`.
pub(super) fn leaf_blocks(leaf: &MapLeaf, mut visit: impl FnMut(DataBlock)) {
    leaf.iter_entries().flat_map(MapEntry::data_blocks).for_each(&mut visit);
}
