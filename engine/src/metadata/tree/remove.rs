//! Unmapping: clearing sectors, and cutting ranges out of a tree.
//!
//! Owns removal with the counts it takes down. A subtree that lies in the range as a whole and that others share is
//! dropped by one count; one that the tree has alone is visited to its last block, so all of it must be in memory.
//! *Surveying* walks the same pages as *cutting* and changes nothing. Read next: `shadow.rs`.

use super::shadow::leaf_blocks;
use super::{Event, Fault, Forest, LAST_KEY, MAX_LEVELS, Root, window_end};
use crate::error::{Error, ErrorKind, Place};
use crate::format::{InnerPage, MapLeaf, Pointer};
use crate::metadata::cache::Node;
use crate::units::{SectorMask, VirtualBlock, VolumeId};

/// Bytes by which a cut can lengthen a leaf: a run becomes two.
const LEAF_GROWTH_BYTES: usize = 10;

/// A subtree: the pointer to it, its level, and the keys that it may hold.
#[derive(Clone, Copy)]
pub(super) struct Subtree {
    pub pointer: Pointer,
    pub level: u8,
    pub low: u64,
    pub high: u64,
}

/// The virtual blocks that go.
#[derive(Clone, Copy)]
struct Range {
    first: u64,
    last: u64,
}

/// What a cut would meet.
struct Survey {
    range: Range,
    /// Mappings to be visited at most.
    budget: u64,
    visited: u64,
    /// How far the cut would come.
    reach: Option<u64>,
    /// Mappings that would go.
    removed: u64,
    /// Page numbers that would be taken at most.
    pages: usize,
    root_level: u8,
}

/// Why a survey ended early.
enum Stop {
    Budget,
    Fault(Fault),
}

/// What a cut leaves of a subtree: the page, and perhaps one split from it.
struct Remains {
    kept: Option<Pointer>,
    right: Option<(u64, Pointer)>,
}

impl Remains {
    const NOTHING: Self = Self { kept: None, right: None };

    fn unchanged(pointer: Pointer) -> Self {
        Self { kept: Some(pointer), right: None }
    }
}

impl Subtree {
    /// The whole tree of a root.
    pub fn of_root(level: u8, pointer: Pointer) -> Self {
        Self { pointer, level, low: 0, high: LAST_KEY }
    }

    /// The subtrees below an inner page. A leaf ends at its window.
    pub fn children(self, inner: &InnerPage) -> impl Iterator<Item = Self> + '_ {
        let level = self.level - 1;
        let ends = inner.entries.iter().skip(1).map(|(key, _)| key - 1).chain(std::iter::once(self.high));
        inner.entries.iter().zip(ends).map(move |(&(low, pointer), end)| {
            let high = if level == 0 { end.min(window_end(low)) } else { end };
            Self { pointer, level, low, high }
        })
    }
}

impl Range {
    fn contains(&self, subtree: &Subtree) -> bool {
        self.first <= subtree.low && subtree.high <= self.last
    }

    fn meets(&self, subtree: &Subtree) -> bool {
        subtree.low <= self.last && self.first <= subtree.high
    }

    /// How many blocks of the range are mapped in `leaf`.
    fn mapped_in(&self, leaf: &MapLeaf) -> u64 {
        let behind = leaf.iter_from(VirtualBlock(self.first.max(leaf.base().0)));
        behind.take_while(|(block, _)| block.0 <= self.last).count() as u64
    }
}

impl Survey {
    fn new(first: VirtualBlock, last: VirtualBlock, budget: u64, root_level: u8) -> Self {
        let range = Range { first: first.0, last: last.0.min(LAST_KEY) };
        Self { range, budget, visited: 0, reach: None, removed: 0, pages: 0, root_level }
    }

    /// Takes a subtree into the cut, unless the budget is spent.
    fn take(&mut self, visited: u64, removed: u64, high: u64) -> Result<(), Stop> {
        if self.reach.is_some() && self.visited.saturating_add(visited) > self.budget {
            return Err(Stop::Budget);
        }
        self.visited = self.visited.saturating_add(visited);
        self.removed = self.removed.saturating_add(removed);
        self.reach = Some(high.min(self.range.last));
        Ok(())
    }

    /// Counts the pages for changing a leaf, and for splitting everything above if it can grow too long.
    fn change_leaf(&mut self, leaf: &MapLeaf, leaf_bytes: usize) -> Result<(), Stop> {
        self.pages += 1;
        if leaf.encoded_bytes() + LEAF_GROWTH_BYTES > leaf_bytes {
            if usize::from(self.root_level) + 1 == MAX_LEVELS {
                let error = Error::new(ErrorKind::Limit, "a tree of mappings has too many levels");
                return Err(Stop::Fault(error.into()));
            }
            self.pages += 1 + 2 * usize::from(self.root_level) + 2;
        }
        Ok(())
    }
}

impl Forest {
    /// Clears `sectors` of a virtual block: they read as zeros.
    pub fn clear(
        &mut self,
        volume: VolumeId,
        root: &mut Root,
        at: VirtualBlock,
        sectors: SectorMask,
    ) -> Result<(), Fault> {
        self.check_sound()?;
        let Some((level, pointer)) = root else { return Ok(()) };
        let (path, leaf) = self.descend(*level, pointer, at)?;
        let current = leaf.get(at);
        match current.map(|current| current.clear(sectors)) {
            None => Ok(()),
            Some(None) => self.unmap(volume, root, at, at).map(|_| ()),
            Some(Some(next)) => self.replace(volume, root, path, at, current, next),
        }
    }

    /// How far from `first` towards `last`, both included, one [`Self::unmap`] can go with the pages in memory while
    /// it visits about `budget_mappings` mappings. It goes past at least one leaf, or says which page is missing.
    pub fn plan_unmap(
        &self,
        root: &Root,
        first: VirtualBlock,
        last: VirtualBlock,
        budget_mappings: u64,
    ) -> Result<VirtualBlock, Fault> {
        let Some((level, pointer)) = *root else { return Ok(last) };
        let mut survey = Survey::new(first, last, budget_mappings, level);
        match (self.survey(&mut survey, Subtree::of_root(level, pointer), false), survey.reach) {
            (Ok(()), _) => Ok(last),
            (Err(Stop::Budget | Stop::Fault(Fault::Missing(_))), Some(reach)) => Ok(VirtualBlock(reach)),
            (Err(Stop::Fault(fault)), _) => Err(fault),
            (Err(Stop::Budget), None) => unreachable!("the first leaf is taken whatever it costs"),
        }
    }

    /// Unmaps `first..=last`, and returns how many virtual blocks were mapped there. To drop a whole tree without
    /// copying what is shared, `last` is [`LAST_KEY`].
    pub fn unmap(
        &mut self,
        volume: VolumeId,
        root: &mut Root,
        first: VirtualBlock,
        last: VirtualBlock,
    ) -> Result<u64, Fault> {
        self.check_sound()?;
        let Some((level, pointer)) = *root else { return Ok(0) };
        let mut survey = Survey::new(first, last, u64::MAX, level);
        match self.survey(&mut survey, Subtree::of_root(level, pointer), false) {
            Err(Stop::Fault(fault)) => return Err(fault),
            Err(Stop::Budget) => unreachable!("the budget has no end"),
            Ok(()) if survey.removed == 0 => return Ok(0),
            Ok(()) => self.check_room(survey.pages)?,
        }
        let remains = self.cut(volume, survey.range, Subtree::of_root(level, pointer));
        *root = remains.kept.map(|pointer| (level, pointer));
        if let Some(right) = remains.right {
            self.grow_root(volume, root, right);
        }
        self.collapse_root(root);
        self.check_sound()?;
        Ok(pointer.mapped.saturating_sub(root.map_or(0, |(_, pointer)| pointer.mapped)))
    }

    fn survey(&self, survey: &mut Survey, subtree: Subtree, is_shared: bool) -> Result<(), Stop> {
        let Subtree { pointer, level, high, .. } = subtree;
        // What is below a shared page gets a second parent when that page is copied.
        let is_shared = is_shared || self.page_counts.get(pointer.page.0) > 1;
        let is_whole = survey.range.contains(&subtree);
        if is_whole && is_shared {
            return survey.take(1, pointer.mapped, high);
        }
        match &self.node(&pointer, level).map_err(Stop::Fault)?.node {
            Node::Leaf(leaf) if is_whole => survey.take(leaf.mapped_blocks(), leaf.mapped_blocks(), high),
            Node::Leaf(leaf) => {
                let removed = survey.range.mapped_in(leaf);
                survey.take(leaf.mapped_blocks(), removed, high)?;
                if removed > 0 { survey.change_leaf(leaf, self.limits.leaf_bytes) } else { Ok(()) }
            }
            Node::Inner(inner) => {
                survey.pages += if is_whole { 0 } else { 2 };
                let range = survey.range;
                let mut children = subtree.children(inner).filter(|child| range.meets(child));
                children.try_for_each(|child| self.survey(survey, child, is_shared))
            }
        }
    }

    /// Cuts the range out of a subtree that it meets and that was surveyed.
    fn cut(&mut self, volume: VolumeId, range: Range, subtree: Subtree) -> Remains {
        let Subtree { mut pointer, level, .. } = subtree;
        if range.contains(&subtree) {
            self.drop_subtree(&pointer);
            return Remains::NOTHING;
        }
        let resident = self.cache.get(pointer.page).map(|cached| &cached.node);
        if level == 0 && matches!(resident, Some(Node::Leaf(leaf)) if range.mapped_in(leaf) == 0) {
            return Remains::unchanged(pointer);
        }
        if !self.is_owned(&pointer) && !self.own(volume, &mut pointer) {
            self.note_damage(unexpected_page(&pointer));
            return Remains::unchanged(pointer);
        }
        match level {
            0 => self.cut_leaf(volume, range, pointer),
            _ => self.cut_inner(volume, range, Subtree { pointer, ..subtree }),
        }
    }

    fn cut_leaf(&mut self, volume: VolumeId, range: Range, mut pointer: Pointer) -> Remains {
        let limit = self.limits.leaf_bytes;
        let leaf = self.leaf_mut(pointer.page);
        let mut lost = Vec::new();
        leaf.remove_range(VirtualBlock(range.first), VirtualBlock(range.last), |mapping| {
            lost.extend(mapping.blocks())
        });
        let right = (leaf.encoded_bytes() > limit).then(|| leaf.split());
        pointer.mapped = leaf.mapped_blocks();
        let is_empty = leaf.is_empty();
        lost.into_iter().for_each(|block| self.block_lost(block));
        if is_empty {
            self.free_page_pair(&pointer);
            return Remains::NOTHING;
        }
        let right =
            right.map(|(separator, right)| (separator.0, self.new_leaf_beside(volume, pointer.page, right)));
        Remains { kept: Some(pointer), right }
    }

    fn cut_inner(&mut self, volume: VolumeId, range: Range, subtree: Subtree) -> Remains {
        let mut pointer = subtree.pointer;
        let before = InnerPage {
            level: subtree.level,
            entries: std::mem::take(&mut self.inner_mut(pointer.page).entries),
        };
        let mut entries = Vec::with_capacity(before.entries.len() + 1);
        for child in subtree.children(&before) {
            if range.meets(&child) {
                let remains = self.cut(volume, range, child);
                entries.extend(remains.kept.map(|kept| (child.low, kept)));
                entries.extend(remains.right);
            } else {
                entries.push((child.low, child.pointer));
            }
        }
        if entries.is_empty() {
            self.free_page_pair(&pointer);
            return Remains::NOTHING;
        }
        let is_too_long = entries.len() > self.limits.inner_entries;
        self.inner_mut(pointer.page).entries = entries;
        let right = is_too_long.then(|| self.split_inner(volume, pointer.page));
        pointer.mapped = self.inner(pointer.page).mapped();
        Remains { kept: Some(pointer), right }
    }

    /// Takes away one reference to a subtree, and all of the subtree if it was the last one.
    fn drop_subtree(&mut self, pointer: &Pointer) {
        if self.page_lost(pointer.page) != Some(0) {
            return;
        }
        self.give_back(pointer.page, pointer.generation);
        if let Some(copy) = pointer.copy {
            self.free_page(copy, pointer.generation);
        }
        match self.cache.remove(pointer.page).map(|cached| cached.node) {
            Some(Node::Leaf(leaf)) => leaf_blocks(&leaf, |block| self.block_lost(block)),
            Some(Node::Inner(inner)) => inner.entries.iter().for_each(|(_, child)| self.drop_subtree(child)),
            None => self.note_damage(unexpected_page(pointer)),
        }
    }

    /// Replaces a root that has one child by that child.
    fn collapse_root(&mut self, root: &mut Root) {
        while let Some((level @ 1.., pointer)) = *root {
            // A page that is not owned was not changed by this cut, and need not be in memory.
            if !self.is_owned(&pointer) {
                return;
            }
            let [(_, child)] = self.inner(pointer.page).entries[..] else { return };
            self.events.push(Event::PageInherits { from: pointer.page, to: child.page });
            *root = Some((level - 1, child));
            self.free_page_pair(&pointer);
        }
    }
}

fn unexpected_page(pointer: &Pointer) -> Error {
    Error::damaged("a page has more parents than its count says").at(Place::Page(pointer.page))
}
