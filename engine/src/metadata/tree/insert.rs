//! Publishing sectors in a tree.
//!
//! Owns inserting and changing one mapping, new leaves and splits. What the mapping becomes is the rule of
//! `format/map_leaf.rs`; removal is `remove.rs`.

use super::lookup::{Path, leaf_covers};
use super::{Event, Fault, Forest, LAST_KEY, MAX_LEVELS, Root, window_start};
use crate::error::{Error, ErrorKind, Place};
use crate::format::{InnerPage, MapLeaf, Mapping, Pointer};
use crate::metadata::cache::Node;
use crate::units::{DataBlock, PageNumber, SectorMask, VirtualBlock, VolumeId};

/// Bytes by which changing one mapping can lengthen a leaf: a mapping of two layers, and a run cut in two.
const LEAF_GROWTH_BYTES: usize = 28;

impl Forest {
    /// Publishes `sectors` of data block `block` as sectors of virtual block `at`.
    pub fn publish(
        &mut self,
        volume: VolumeId,
        root: &mut Root,
        at: VirtualBlock,
        block: DataBlock,
        sectors: SectorMask,
    ) -> Result<(), Fault> {
        self.check_sound()?;
        if block.0 >= self.data_counts.len() || sectors.is_empty() || at.0 > LAST_KEY {
            let error = Error::damaged("a publish names no sector, or a block behind the end");
            return Err(error.at(Place::Block(block)).into());
        }
        let found = match root {
            Some((level, pointer)) => Some(self.descend(*level, pointer, at)?),
            None => None,
        };
        let current = found.and_then(|(_, leaf)| leaf.get(at));
        let next = Mapping::publish(current, block, sectors)
            .map_err(|_| Error::damaged("a publish would make a third layer").at(Place::Volume(volume)))?;
        match found {
            Some((path, leaf)) if leaf_covers(leaf, at) => {
                self.replace(volume, root, path, at, current, next)
            }
            found => self.add_leaf(volume, root, found.map(|(path, _)| path), at, next),
        }
    }

    /// Marks `sectors` of virtual block `at` as lost, whatever was mapped there. See [`Mapping::lose`].
    pub fn lose(
        &mut self,
        volume: VolumeId,
        root: &mut Root,
        at: VirtualBlock,
        sectors: SectorMask,
    ) -> Result<(), Fault> {
        self.check_sound()?;
        let found = match root {
            Some((level, pointer)) => Some(self.descend(*level, pointer, at)?),
            None => None,
        };
        let current = found.and_then(|(_, leaf)| leaf.get(at));
        let next = Mapping::lose(current, sectors);
        match found {
            Some((path, leaf)) if leaf_covers(leaf, at) => {
                self.replace(volume, root, path, at, current, next)
            }
            found => self.add_leaf(volume, root, found.map(|(path, _)| path), at, next),
        }
    }

    /// Page numbers that one publish or clear in the tree may take at most.
    pub fn pages_needed(&self, root: &Root) -> usize {
        let inner_levels = root.map_or(0, |(level, _)| usize::from(level));
        // A leaf shadowed and split, every inner page (two numbers each) too, and a new root.
        2 + 4 * inner_levels + 2
    }

    /// Puts `next` in place of `current` in the leaf at the end of `path`, which covers the block.
    pub(super) fn replace(
        &mut self,
        volume: VolumeId,
        root: &mut Root,
        mut path: Path,
        at: VirtualBlock,
        current: Option<Mapping>,
        next: Mapping,
    ) -> Result<(), Fault> {
        if current == Some(next) {
            return Ok(());
        }
        let above = path.inner_steps().len();
        let to_own = self.pages_to_own(&path, above + 1);
        let can_split =
            self.leaf_mut(path.leaf()).encoded_bytes() + LEAF_GROWTH_BYTES > self.limits.leaf_bytes;
        let to_split = if can_split { self.pages_to_add_leaf(&path)? } else { 0 };
        self.check_room(to_own + to_split)?;
        if to_own > 0 {
            self.own_path(volume, root, &mut path, above + 1);
        }
        let leaf = self.leaf_mut(path.leaf());
        leaf.set(at, Some(next));
        let is_too_long = leaf.encoded_bytes() > self.limits.leaf_bytes;
        self.count_layers(current, next);
        if current.is_none() {
            self.add_mapped(root, &path);
            self.lower_keys(&path, above, at);
        }
        if is_too_long {
            self.split_leaf(volume, root, &path, at);
        }
        Ok(())
    }

    /// How many pages it takes to put another leaf beside the one at the end of `path`.
    pub(super) fn pages_to_add_leaf(&self, path: &Path) -> Result<usize, Fault> {
        let limit = self.limits.inner_entries;
        let above = path.inner_steps();
        let full = above.iter().rev().take_while(|step| self.inner(step.page).entries.len() >= limit).count();
        if full < above.len() {
            return Ok(1 + 2 * full);
        }
        if path.steps().len() == MAX_LEVELS {
            return Err(Error::new(ErrorKind::Limit, "a tree of mappings has too many levels").into());
        }
        Ok(1 + 2 * full + 2)
    }

    /// Counts the layers that `next` has and `current` has not, and the other way round.
    fn count_layers(&mut self, current: Option<Mapping>, next: Mapping) {
        let names = |mapping: Mapping, block| mapping.blocks().any(|other| other == block);
        for block in next.blocks() {
            if !current.is_some_and(|current| names(current, block)) {
                self.block_gained(block);
            }
        }
        for block in current.into_iter().flat_map(Mapping::blocks) {
            if !names(next, block) {
                self.block_lost(block);
            }
        }
    }

    /// Maps `at` in a new leaf beside the one at the end of `path`, or in the first leaf of the tree.
    fn add_leaf(
        &mut self,
        volume: VolumeId,
        root: &mut Root,
        path: Option<Path>,
        at: VirtualBlock,
        mapping: Mapping,
    ) -> Result<(), Fault> {
        let above = path.map_or(0, |path| path.inner_steps().len());
        let pages = match &path {
            Some(path) => self.pages_to_own(path, above) + self.pages_to_add_leaf(path)?,
            None => 1,
        };
        self.check_room(pages)?;
        let mut leaf = MapLeaf::new(VirtualBlock(window_start(at.0)));
        leaf.set(at, Some(mapping));
        self.count_layers(None, mapping);
        let Some(mut path) = path else {
            *root = Some((0, self.new_page(volume, Node::Leaf(leaf))));
            return Ok(());
        };
        self.own_path(volume, root, &mut path, above);
        self.add_mapped(root, &path);
        self.lower_keys(&path, above.saturating_sub(1), at);
        let pointer = self.new_page(volume, Node::Leaf(leaf));
        self.insert_beside(volume, root, path.steps().len() - 1, &path, (lowest_key(&path, at), pointer));
        Ok(())
    }

    /// Counts one more mapped block in every entry of the path.
    fn add_mapped(&mut self, root: &mut Root, path: &Path) {
        if let Some((_, pointer)) = root {
            pointer.mapped += 1;
        }
        for step in path.inner_steps() {
            self.inner_mut(step.page).entries[step.index].1.mapped += 1;
        }
    }

    /// Makes the first `steps` entries of the path reach down to `at`.
    fn lower_keys(&mut self, path: &Path, steps: usize, at: VirtualBlock) {
        let lowest = lowest_key(path, at);
        for step in &path.steps()[..steps] {
            let (key, _) = &mut self.inner_mut(step.page).entries[step.index];
            if *key > at.0 {
                *key = lowest;
            }
        }
    }

    /// Splits a leaf that `at` made too long. Where the leaf is filled in order the left part stays full.
    fn split_leaf(&mut self, volume: VolumeId, root: &mut Root, path: &Path, at: VirtualBlock) {
        let leaf = self.leaf_mut(path.leaf());
        let is_last = leaf.last() == Some(at) && leaf.entries() > 1;
        let (separator, right) = if is_last { leaf.split_last() } else { leaf.split() };
        let pointer = self.new_leaf_beside(volume, path.leaf(), right);
        self.insert_beside(volume, root, path.steps().len() - 1, path, (separator.0, pointer));
    }

    /// A page for the right half of the leaf that stands in `left`.
    pub(super) fn new_leaf_beside(&mut self, volume: VolumeId, left: PageNumber, right: MapLeaf) -> Pointer {
        let pointer = self.new_page(volume, Node::Leaf(right));
        self.events.push(Event::PageInherits { from: left, to: pointer.page });
        pointer
    }

    /// Inserts an entry beside the page at `depth` of the path. The blocks mapped below the new entry are part of
    /// what the entry of that page counts until now.
    fn insert_beside(
        &mut self,
        volume: VolumeId,
        root: &mut Root,
        depth: usize,
        path: &Path,
        (key, pointer): (u64, Pointer),
    ) {
        let Some(above) = depth.checked_sub(1) else {
            if let Some((_, old)) = root {
                old.mapped -= pointer.mapped;
            }
            return self.grow_root(volume, root, (key, pointer));
        };
        let step = path.steps()[above];
        let limit = self.limits.inner_entries;
        let inner = self.inner_mut(step.page);
        inner.entries[step.index].1.mapped -= pointer.mapped;
        let position = inner.entries.partition_point(|(other, _)| *other < key);
        inner.entries.insert(position, (key, pointer));
        if inner.entries.len() > limit {
            let right = self.split_inner(volume, step.page);
            self.insert_beside(volume, root, above, path, right);
        }
    }

    /// Moves the right half of an inner page to a new page. Returns the entry for it.
    pub(super) fn split_inner(&mut self, volume: VolumeId, page: PageNumber) -> (u64, Pointer) {
        let inner = self.inner_mut(page);
        let entries = inner.entries.split_off(inner.entries.len() / 2);
        let (level, key) = (inner.level, entries[0].0);
        let pointer = self.new_page(volume, Node::Inner(InnerPage { level, entries }));
        self.events.push(Event::PageInherits { from: page, to: pointer.page });
        (key, pointer)
    }

    /// Puts a new root above the old one and `entry`.
    pub(super) fn grow_root(&mut self, volume: VolumeId, root: &mut Root, entry: (u64, Pointer)) {
        let Some((level, old)) = *root else { unreachable!("a page was put beside the root") };
        let old_key = match self.cache.get(old.page).map(|cached| &cached.node) {
            Some(Node::Inner(inner)) => inner.entries[0].0,
            Some(Node::Leaf(leaf)) => leaf.base().0,
            None => unreachable!("the page was found before the change"),
        };
        let mut entries = vec![(old_key, old), entry];
        entries.sort_unstable_by_key(|(key, _)| *key);
        *root =
            Some((level + 1, self.new_page(volume, Node::Inner(InnerPage { level: level + 1, entries }))));
    }
}

/// The lowest key that `at`'s window has at the end of the path.
fn lowest_key(path: &Path, at: VirtualBlock) -> u64 {
    path.low.max(window_start(at.0))
}
