//! What differs between two trees, or since a checkpoint, at the cost of what differs.
//!
//! Owns the walk over two trees at once, which skips what both share, and the one over what a checkpoint and later ones
//! made. Changes nothing, and leaves what is kept in memory to others. Why what is skipped cannot differ is argued in
//! `docs/format.md`, "Difference". Read next: `lookup.rs`.

use super::remove::Subtree;
use super::{Fault, Forest, LAST_KEY, Root, window_end};
use crate::error::{Error, Place};
use crate::format::{InnerPage, Mapping};
use crate::metadata::cache::Node;
use crate::units::{Generation, SectorMask, VirtualBlock};

/// What a page costs of a budget; a mapping or run costs one.
const PAGE_COST: u32 = 8;

/// Virtual blocks that follow one another and differ in the same way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Differing {
    /// The first of them.
    pub first: VirtualBlock,
    /// How many there are.
    pub blocks: u64,
    /// Sectors of each that the second tree maps to something else than the first.
    pub changed: SectorMask,
    /// Sectors of each that the first tree maps, or may map, and the second does not.
    pub absent: SectorMask,
}

/// How far a walk has come, and how much it may still look at.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Everything before this virtual block is done; behind [`LAST_KEY`] all is.
    pub next: u64,
    /// What may be looked at before the walk stops, in mappings.
    pub budget: u32,
}

impl Progress {
    /// A walk from `next` on.
    pub fn new(next: VirtualBlock, budget: u32) -> Self {
        Self { next: next.0, budget }
    }

    /// Whether nothing is left to look at.
    pub fn is_done(&self) -> bool {
        self.next > LAST_KEY
    }

    /// The walk has come to `next`. Whether it has to stop here.
    fn come_to(&mut self, next: u64) -> bool {
        self.next = self.next.max(next);
        self.budget == 0
    }

    fn spend(&mut self, cost: u32) {
        self.budget = self.budget.saturating_sub(cost);
    }
}

/// Mappings of virtual blocks that follow one another, as in a leaf.
#[derive(Clone, Copy)]
struct Run {
    first: u64,
    blocks: u64,
    mapping: Mapping,
}

impl Run {
    fn end(&self) -> u64 {
        self.first + self.blocks
    }

    /// The part from `first` on, if there is one.
    fn from(mut self, first: u64) -> Option<Self> {
        let skipped = first.saturating_sub(self.first);
        if skipped >= self.blocks {
            return None;
        }
        self.first += skipped;
        self.blocks -= skipped;
        if !self.mapping.upper.is_lost() {
            self.mapping.upper.block.0 += skipped;
        }
        Some(self)
    }

    fn differing(&self, blocks: u64, changed: SectorMask, absent: SectorMask) -> Differing {
        Differing { first: VirtualBlock(self.first), blocks, changed, absent }
    }
}

/// What a cursor stands before.
#[derive(Clone, Copy)]
enum Head {
    Subtree(Subtree),
    Run(Run),
}

impl Head {
    fn low(&self) -> u64 {
        match self {
            Self::Subtree(subtree) => subtree.low,
            Self::Run(run) => run.first,
        }
    }

    fn high(&self) -> u64 {
        match self {
            Self::Subtree(subtree) => subtree.high,
            Self::Run(run) => run.end() - 1,
        }
    }
}

enum Frame<'a> {
    Inner { page: &'a InnerPage, index: usize, high: u64 },
    Leaf(std::vec::IntoIter<Run>),
}

/// A place in a tree. What is before it is done with.
struct Cursor<'a> {
    forest: &'a Forest,
    from: u64,
    frames: Vec<Frame<'a>>,
    head: Option<Head>,
}

impl<'a> Cursor<'a> {
    fn new(forest: &'a Forest, root: &Root, from: u64) -> Self {
        let head = root.map(|(level, pointer)| Head::Subtree(Subtree::of_root(level, pointer)));
        Self { forest, from, frames: Vec::new(), head }
    }

    fn low(&self) -> u64 {
        self.head.map_or(LAST_KEY + 1, |head| head.low())
    }

    /// Goes past the head.
    fn advance(&mut self) {
        let from = self.from;
        self.head = loop {
            let Some(frame) = self.frames.last_mut() else { break None };
            let next = match frame {
                Frame::Leaf(runs) => runs.next().map(Head::Run),
                Frame::Inner { page, index, high } => {
                    *index += 1;
                    child(page, *index - 1, *high).map(Head::Subtree)
                }
            };
            match next {
                None => drop(self.frames.pop()),
                Some(Head::Run(run)) => match run.from(from) {
                    Some(run) => break Some(Head::Run(run)),
                    None => continue,
                },
                Some(head) if head.high() < from => continue,
                head => break head,
            }
        };
    }

    /// Goes past the first `blocks` blocks of the run that the cursor stands before.
    fn consume(&mut self, run: Run, blocks: u64) {
        match run.from(run.first + blocks) {
            Some(rest) => self.head = Some(Head::Run(rest)),
            None => self.advance(),
        }
    }

    /// Looks into the subtree that the cursor stands before. A fault leaves the cursor where it is.
    fn expand(&mut self, subtree: Subtree, progress: &mut Progress) -> Result<(), Fault> {
        let Subtree { pointer, level, high, .. } = subtree;
        let frame = match &self.forest.node(&pointer, level)?.node {
            Node::Inner(page) => {
                let index = page.child_index(self.from);
                Frame::Inner { page, index, high }
            }
            Node::Leaf(leaf) => {
                let base = leaf.base().0;
                let runs = leaf.iter_entries().map(|entry| Run {
                    first: base + u64::from(entry.offset),
                    blocks: u64::from(entry.length),
                    mapping: entry.mapping,
                });
                Frame::Leaf(runs.collect::<Vec<_>>().into_iter())
            }
        };
        progress.spend(PAGE_COST);
        self.frames.push(frame);
        self.advance();
        Ok(())
    }
}

fn child(page: &InnerPage, index: usize, high: u64) -> Option<Subtree> {
    let (low, pointer) = *page.entries.get(index)?;
    let end = page.entries.get(index + 1).map_or(high, |(key, _)| key - 1);
    let level = page.level - 1;
    Some(Subtree { pointer, level, low, high: if level == 0 { end.min(window_end(low)) } else { end } })
}

impl Forest {
    /// Hands what differs between the trees of `from` and `to` to `visit`, in order, from `progress` on and until its
    /// budget is spent. A fault may come after some was visited; `progress` then says where to go on.
    pub fn difference(
        &self,
        (from, to): (&Root, &Root),
        progress: &mut Progress,
        mut visit: impl FnMut(Differing),
    ) -> Result<(), Fault> {
        let mut old = Cursor::new(self, from, progress.next);
        let mut new = Cursor::new(self, to, progress.next);
        while !progress.come_to(old.low().min(new.low())) {
            match (old.head, new.head) {
                (None, None) => break,
                (Some(Head::Subtree(one)), Some(Head::Subtree(other))) if is_same(&one, &other) => {
                    progress.spend(1);
                    old.advance();
                    new.advance();
                }
                (Some(one), Some(other)) if one.high() >= other.low() && other.high() >= one.low() => {
                    take_both((&mut old, one), (&mut new, other), progress, &mut visit)?;
                }
                (Some(one), other) if other.is_none_or(|other| one.high() < other.low()) => {
                    take_alone(&mut old, one, progress, |run| {
                        visit(run.differing(run.blocks, SectorMask::EMPTY, run.mapping.visible()));
                    })?;
                }
                (_, Some(other)) => take_alone(&mut new, other, progress, |run| {
                    visit(run.differing(run.blocks, run.mapping.visible(), SectorMask::EMPTY));
                })?,
                (Some(_), None) => unreachable!("it is alone"),
            }
        }
        Ok(())
    }

    /// Hands to `visit` all that may differ between the tree of `root` and what the same tree was while checkpoint
    /// `since` was built, or later: whole leaves where one mapping changed, and what is not mapped beside old leaves.
    /// Whether blocks were overwritten in place meanwhile is the caller's affair.
    pub fn changed_since(
        &self,
        root: &Root,
        since: Generation,
        progress: &mut Progress,
        mut visit: impl FnMut(Differing),
    ) -> Result<(), Fault> {
        let mut cursor = Cursor::new(self, root, progress.next);
        while progress.budget > 0 {
            match cursor.head {
                None => {
                    absent_to(LAST_KEY + 1, progress, &mut visit);
                    progress.come_to(LAST_KEY + 1);
                    break;
                }
                Some(Head::Subtree(subtree)) if subtree.pointer.generation >= since => {
                    cursor.expand(subtree, progress)?;
                }
                Some(Head::Subtree(subtree)) => {
                    // Old pages may have gone beside it: it speaks for itself from its first to its last mapping.
                    let hull = self.hull(&subtree)?;
                    progress.spend(PAGE_COST);
                    cursor.advance();
                    absent_to(hull.0, progress, &mut visit);
                    progress.come_to(hull.1 + 1);
                }
                Some(Head::Run(run)) => {
                    let visible = run.mapping.visible();
                    absent_to(run.first, progress, &mut visit);
                    visit(run.differing(run.blocks, visible, SectorMask::FULL.without(visible)));
                    progress.spend(1);
                    cursor.advance();
                    progress.come_to(run.end());
                }
            }
        }
        Ok(())
    }

    /// The first and the last virtual block that is mapped below a subtree.
    fn hull(&self, subtree: &Subtree) -> Result<(u64, u64), Fault> {
        Ok((self.edge(subtree, false)?, self.edge(subtree, true)?))
    }

    fn edge(&self, subtree: &Subtree, last: bool) -> Result<u64, Fault> {
        let (mut pointer, mut level) = (subtree.pointer, subtree.level);
        loop {
            let empty = || Error::damaged("a page of mappings is empty").at(Place::Page(pointer.page));
            match &self.node(&pointer, level)?.node {
                Node::Leaf(leaf) => {
                    let edge = if last { leaf.last() } else { leaf.first() };
                    return Ok(edge.ok_or_else(empty)?.0);
                }
                Node::Inner(inner) => {
                    let entry = if last { inner.entries.last() } else { inner.entries.first() };
                    pointer = entry.ok_or_else(empty)?.1;
                    level -= 1;
                }
            }
        }
    }
}

/// Whether both are one and the same page, so that there is nothing to see.
fn is_same(one: &Subtree, other: &Subtree) -> bool {
    let page = |subtree: &Subtree| (subtree.pointer.page, subtree.pointer.generation, subtree.level);
    page(one) == page(other)
}

/// Takes a step where only one of two trees has something.
fn take_alone(
    cursor: &mut Cursor<'_>,
    head: Head,
    progress: &mut Progress,
    visit: impl FnOnce(Run),
) -> Result<(), Fault> {
    match head {
        Head::Subtree(subtree) => cursor.expand(subtree, progress)?,
        Head::Run(run) => {
            progress.spend(1);
            visit(run);
            cursor.advance();
        }
    }
    Ok(())
}

/// Takes a step where both trees may have something: looks into the higher page, or into both.
fn take_both(
    (old, one): (&mut Cursor<'_>, Head),
    (new, other): (&mut Cursor<'_>, Head),
    progress: &mut Progress,
    visit: &mut impl FnMut(Differing),
) -> Result<(), Fault> {
    match (one, other) {
        (Head::Subtree(one), Head::Subtree(other)) => {
            if one.level >= other.level {
                old.expand(one, progress)?;
            }
            if other.level >= one.level {
                new.expand(other, progress)?;
            }
            Ok(())
        }
        (Head::Subtree(one), Head::Run(_)) => old.expand(one, progress),
        (Head::Run(_), Head::Subtree(other)) => new.expand(other, progress),
        (Head::Run(one), Head::Run(other)) => {
            progress.spend(1);
            compare((old, one), (new, other), visit);
            Ok(())
        }
    }
}

/// Compares two runs as far as both reach, or takes what stands before one of them.
fn compare(
    (old, one): (&mut Cursor<'_>, Run),
    (new, other): (&mut Cursor<'_>, Run),
    visit: &mut impl FnMut(Differing),
) {
    if one.first < other.first {
        let blocks = one.blocks.min(other.first - one.first);
        visit(one.differing(blocks, SectorMask::EMPTY, one.mapping.visible()));
        return old.consume(one, blocks);
    }
    if other.first < one.first {
        let blocks = other.blocks.min(one.first - other.first);
        visit(other.differing(blocks, other.mapping.visible(), SectorMask::EMPTY));
        return new.consume(other, blocks);
    }
    // Where both are longer than one block, their data blocks follow one another: all are the same, or none is.
    let blocks = one.blocks.min(other.blocks);
    let (before, after) = (one.mapping.visible(), other.mapping.visible());
    let changed = after.without(same_sectors(one.mapping, other.mapping));
    let absent = before.without(after);
    if !changed.union(absent).is_empty() {
        visit(one.differing(blocks, changed, absent));
    }
    old.consume(one, blocks);
    new.consume(other, blocks);
}

/// The sectors that both mappings have at the same place of the same data block. What is lost is like nothing: two losses
/// may have been of different data.
fn same_sectors(one: Mapping, other: Mapping) -> SectorMask {
    let mut same = SectorMask::EMPTY;
    for (layer, twin) in one.layers().flat_map(|layer| other.layers().map(move |twin| (layer, twin))) {
        if layer.block == twin.block && !layer.is_lost() {
            same = same.union(layer.mask.intersection(twin.mask));
        }
    }
    same
}

/// What is not mapped from where the walk is up to `end` may have been.
fn absent_to(end: u64, progress: &Progress, visit: &mut impl FnMut(Differing)) {
    let first = VirtualBlock(progress.next);
    if first.0 < end {
        let blocks = end - first.0;
        visit(Differing { first, blocks, changed: SectorMask::EMPTY, absent: SectorMask::FULL });
    }
}

#[cfg(test)]
mod unit {
    use super::same_sectors;
    use crate::format::{LOST, Mapping};
    use crate::units::{DataBlock, SectorMask};

    /// Two losses may have been of different data.
    #[test]
    fn what_is_lost_is_never_the_same() {
        let whole = |block| Mapping::single(block, SectorMask::FULL);
        assert_eq!(same_sectors(whole(DataBlock(1)), whole(DataBlock(1))), SectorMask::FULL);
        assert_eq!(same_sectors(whole(LOST), whole(LOST)), SectorMask::EMPTY);
    }
}
