//! Data blocks that get other places, in all trees at once.
//!
//! Owns the rewriting of mappings that name a moved block. Each page above such a mapping is made anew once, and all its
//! parents lead to the new one, so what is shared stays shared. A leaf whose runs break up may become several pages. For
//! a pool that nobody else uses: moves are surveyed in every tree, then followed in every tree, then counted, and
//! nothing may be changed in between. Who chooses the places and copies the data is `shrink_pool/`.

use super::{Fault, Forest, MAX_LEVELS, Root};
use crate::error::{self, Error, ErrorKind, Place};
use crate::format::{InnerPage, MapLeaf, Pointer};
use crate::metadata::cache::Node;
use crate::units::{DataBlock, PageNumber, SectorMask, VolumeId};
use rustc_hash::FxHashMap;

/// Data blocks that move, what their mappings see of them, and how far their mappings have followed.
#[derive(Debug, Default)]
pub struct Moves {
    places: FxHashMap<DataBlock, DataBlock>,
    masks: FxHashMap<DataBlock, SectorMask>,
    /// How many pages take the place of each page that was looked at; 0 for one that stays.
    surveyed: FxHashMap<PageNumber, usize>,
    page_numbers: u64,
    made: FxHashMap<PageNumber, Made>,
}

/// What was made in place of a page.
#[derive(Debug)]
struct Made {
    old: Pointer,
    /// The pages, with their keys. The first one has the old page's key in parents that it has already.
    pieces: Vec<(u64, Pointer)>,
    /// What roots that named the old page name now, if it became several.
    top: Option<(u8, Pointer)>,
}

impl Moves {
    /// Blocks that move, each with the block that takes its place: one that nothing names.
    pub fn new(moves: impl IntoIterator<Item = (DataBlock, DataBlock)>) -> Self {
        Self { places: moves.into_iter().collect(), ..Self::default() }
    }

    /// Page numbers that following takes, once all trees are surveyed.
    pub fn page_numbers(&self) -> u64 {
        self.page_numbers
    }

    /// The sectors of a block that some mapping sees, once all trees are surveyed.
    pub fn mask(&self, block: DataBlock) -> SectorMask {
        self.masks.get(&block).copied().unwrap_or(SectorMask::EMPTY)
    }

    fn place(&self, block: DataBlock) -> DataBlock {
        self.places.get(&block).copied().unwrap_or(block)
    }

    /// How many pages take the place of a page.
    fn pieces_of(&self, page: PageNumber) -> usize {
        self.surveyed.get(&page).copied().unwrap_or(0)
    }

    /// Notes what a leaf sees of blocks that move. Whether it sees any.
    fn see(&mut self, leaf: &MapLeaf) -> bool {
        let mut any = false;
        for entry in leaf.iter_entries() {
            for block in entry.data_blocks().filter(|block| self.places.contains_key(block)) {
                // In a run, which has one layer, all masks are the first one's.
                let layer = entry.mapping.layers().find(|layer| layer.block == block);
                let mask = layer.unwrap_or(entry.mapping.upper).mask;
                let seen = self.masks.entry(block).or_insert(SectorMask::EMPTY);
                *seen = seen.union(mask);
                any = true;
            }
        }
        any
    }
}

/// Looking, which changes nothing.
impl Forest {
    /// Finds what names a block that moves in one more tree, and what following it there takes. A fault may come after
    /// a part was surveyed; survey the same tree again.
    pub fn survey_moves(&self, root: &Root, moves: &mut Moves) -> Result<(), Fault> {
        let Some((level, pointer)) = root else { return Ok(()) };
        let pieces = self.survey_page(pointer, *level, moves)?;
        for above in pages_above(pieces, self.limits.inner_entries) {
            moves.page_numbers += 2 * above as u64;
        }
        Ok(())
    }

    fn survey_page(&self, pointer: &Pointer, level: u8, moves: &mut Moves) -> Result<usize, Fault> {
        if let Some(pieces) = moves.surveyed.get(&pointer.page) {
            return Ok(*pieces);
        }
        let (pieces, numbers) = match &self.node(pointer, level)?.node {
            Node::Leaf(leaf) => {
                let pieces = if moves.see(leaf) { self.pieces_of_leaf(leaf, moves).len() } else { 0 };
                (pieces, 1)
            }
            Node::Inner(inner) => {
                let mut entries = 0;
                let mut any = false;
                for (_, child) in &inner.entries {
                    let pieces = self.survey_page(child, level - 1, moves)?;
                    any |= pieces > 0;
                    entries += pieces.max(1);
                }
                (if any { entries.div_ceil(self.limits.inner_entries) } else { 0 }, 2)
            }
        };
        moves.page_numbers += (pieces * numbers) as u64;
        moves.surveyed.insert(pointer.page, pieces);
        Ok(pieces)
    }

    /// A leaf with its blocks at their new places, as the pages that it takes then.
    fn pieces_of_leaf(&self, leaf: &MapLeaf, moves: &Moves) -> Vec<MapLeaf> {
        let mut pieces = Vec::new();
        let mut long = vec![leaf.with_blocks_moved(|block| moves.place(block))];
        while let Some(mut left) = long.pop() {
            if left.encoded_bytes() <= self.limits.leaf_bytes {
                pieces.push(left);
                continue;
            }
            let (_, right) = left.split();
            long.extend([right, left]);
        }
        pieces
    }
}

/// Following. All trees must have been surveyed.
impl Forest {
    /// Lets one more tree name the new places of blocks. Whether it named one; then it has another root. A fault may come
    /// after a part was made; follow in the same tree again.
    pub fn follow_moves(
        &mut self,
        volume: VolumeId,
        root: &mut Root,
        moves: &mut Moves,
    ) -> Result<bool, Fault> {
        let Some((level, pointer)) = *root else { return Ok(false) };
        if moves.pieces_of(pointer.page) == 0 {
            return Ok(false);
        }
        self.follow_page(&pointer, level, moves)?;
        *root = Some(self.root_in_place_of(volume, pointer.page, level, moves)?);
        Ok(true)
    }

    /// Makes what takes the place of a page, unless it is made. The old page keeps its count until all is made: whoever
    /// is read meanwhile may still lead to it.
    fn follow_page(&mut self, old: &Pointer, level: u8, moves: &mut Moves) -> Result<(), Fault> {
        if moves.made.contains_key(&old.page) {
            return Ok(());
        }
        let cached = self.node(old, level)?;
        let volume = cached.volume_of_birth;
        let nodes = match &cached.node {
            Node::Leaf(leaf) => self.pieces_of_leaf(leaf, moves).into_iter().map(Node::Leaf).collect(),
            Node::Inner(inner) => {
                let entries = inner.entries.clone();
                let entries = self.follow_entries(entries, level, moves)?;
                inner_pages(level, entries, self.limits.inner_entries)
            }
        };
        self.check_room(nodes.len() * if level > 0 { 2 } else { 1 })?;
        let parents = self.page_counts.get(old.page.0);
        let mut pieces = Vec::with_capacity(nodes.len());
        for node in nodes {
            let key = first_key(&node);
            let pointer = self.new_page(volume, node);
            self.page_counts.set(pointer.page.0, parents)?;
            pieces.push((key, pointer));
        }
        self.evict(old.page);
        moves.made.insert(old.page, Made { old: *old, pieces, top: None });
        Ok(())
    }

    /// The entries of an inner page with what takes the place of its children.
    fn follow_entries(
        &mut self,
        old: Vec<(u64, Pointer)>,
        level: u8,
        moves: &mut Moves,
    ) -> Result<Vec<(u64, Pointer)>, Fault> {
        let mut entries = Vec::with_capacity(old.len());
        for (key, child) in old {
            if moves.pieces_of(child.page) == 0 {
                entries.push((key, child));
                continue;
            }
            self.follow_page(&child, level - 1, moves)?;
            let pieces = moves.made[&child.page].pieces.iter();
            let keys = std::iter::once(key).chain(pieces.clone().skip(1).map(|(key, _)| *key));
            entries.extend(keys.zip(pieces.map(|(_, piece)| *piece)));
        }
        Ok(entries)
    }

    /// The root in place of one that named `old`. Where that became several pages there is one above them, which all
    /// such roots share; it is a parent more for the pages in place of a root less.
    fn root_in_place_of(
        &mut self,
        volume: VolumeId,
        old: PageNumber,
        level: u8,
        moves: &mut Moves,
    ) -> Result<(u8, Pointer), Fault> {
        let Some(made) = moves.made.get_mut(&old) else { unreachable!("it was followed before") };
        if let [(_, only)] = made.pieces[..] {
            return Ok((level, only));
        }
        if let Some((level, top)) = made.top {
            self.page_counts.increment(top.page.0)?;
            for (_, piece) in &made.pieces {
                self.page_counts.decrement(piece.page.0)?;
            }
            return Ok((level, top));
        }
        let top = self.top_over(volume, level, made.pieces.clone())?;
        made.top = Some(top);
        Ok(top)
    }

    fn top_over(
        &mut self,
        volume: VolumeId,
        mut level: u8,
        mut below: Vec<(u64, Pointer)>,
    ) -> Result<(u8, Pointer), Fault> {
        let limit = self.limits.inner_entries;
        let levels = pages_above(below.len(), limit);
        if usize::from(level) + 1 + levels.len() > MAX_LEVELS {
            return Err(Error::new(ErrorKind::Limit, "a tree of mappings has too many levels").into());
        }
        self.check_room(2 * levels.iter().sum::<usize>())?;
        while below.len() > 1 {
            level += 1;
            let pages = inner_pages(level, below, limit).into_iter();
            below = pages.map(|node| (first_key(&node), self.new_page(volume, node))).collect();
        }
        Ok((level, below[0].1))
    }

    /// Counts what all trees say now: the blocks at their new places, and no page that another was made for.
    pub fn count_moves(&mut self, moves: Moves) -> error::Result<()> {
        for (from, to) in moves.places {
            if !self.data_counts.is_zero(to.0) {
                return Err(Error::damaged("a block moves to where another is").at(Place::Block(to)));
            }
            self.data_counts.set(to.0, self.data_counts.get(from.0))?;
            self.data_counts.set(from.0, 0)?;
        }
        for Made { old, .. } in moves.made.into_values() {
            self.cache.remove(old.page);
            for page in std::iter::once(old.page).chain(old.copy) {
                self.page_counts.set(page.0, 0)?;
                self.give_back(page, old.generation);
            }
        }
        self.events.clear();
        Ok(())
    }
}

/// How many inner pages each level takes that is put above `pages` pages, until there is one.
fn pages_above(pages: usize, limit: usize) -> Vec<usize> {
    let mut below = pages;
    let above = std::iter::from_fn(|| {
        (below > 1).then(|| {
            below = below.div_ceil(limit);
            below
        })
    });
    above.collect()
}

/// As few inner pages as hold the entries, filled alike.
fn inner_pages(level: u8, entries: Vec<(u64, Pointer)>, limit: usize) -> Vec<Node> {
    let pages = entries.len().div_ceil(limit).max(1);
    let (each, longer) = (entries.len() / pages, entries.len() % pages);
    let mut entries = entries.into_iter();
    let lengths = (0..pages).map(|page| each + usize::from(page < longer));
    let page = |length| Node::Inner(InnerPage { level, entries: entries.by_ref().take(length).collect() });
    lengths.map(page).collect()
}

/// The key of a page that has no parent yet.
fn first_key(node: &Node) -> u64 {
    match node {
        Node::Inner(inner) => inner.entries.first().map_or(0, |(key, _)| *key),
        Node::Leaf(leaf) => leaf.first().map_or(0, |first| first.0),
    }
}
