//! Mapping trees made anew in the new metadata file: what is whole is taken over page by page and stays shared; what is
//! bad becomes lost ranges.
//!
//! Owns the shape of repaired trees. A page that is clean with all below keeps its generation, so that what changed since
//! a snapshot can still be told. Read next: `target.rs`.

use super::census::{Bad, Census, root_edge};
use super::source::{Edge, Page, PossibleBlocks, Source, window_end};
use super::target::{Origin, Target};
use crate::error::{Error, ErrorKind, Place, Result};
use crate::format::{
    INNER_CAPACITY, InnerPage, MapLeaf, Mapping, Pointer, VolumeRecord, VolumeState, WINDOW_BLOCKS,
};
use crate::metadata::cache::Node;
use crate::metadata::tree::{MAX_LEVELS, Root};
use crate::units::{BLOCK_BYTES, Generation, PageNumber, SECTOR_BYTES, SectorMask, VirtualBlock, VolumeId};
use rustc_hash::FxHashMap;

/// Windows that may be lost in one repair: a leaf each.
const LOST_WINDOWS_MAX: u64 = 1 << 20;

/// Entries of an inner page that is being made: first key and pointer.
type Entries = Vec<(u64, Pointer)>;
/// A page that is not clean, the keys it is needed for, and the end of the volume if that cuts them.
type DamagedKey = (PageNumber, u64, u64, u64);

/// Whose tree is being made.
#[derive(Clone, Copy)]
struct Owner {
    volume: VolumeId,
    /// Nothing behind it can be lost.
    size_bytes: u64,
}

/// The making of all trees.
pub(super) struct Build<'b, 's, 'f, 't> {
    pub source: &'b mut Source<'s, 'f>,
    pub census: &'b Census<'b>,
    pub possible: &'b PossibleBlocks,
    pub target: &'b mut Target<'t>,
    /// The generation of pages that are not taken over as they were.
    pub generation: Generation,
    /// Something is lost.
    pub any_lost: bool,
    clean: FxHashMap<PageNumber, Pointer>,
    damaged: FxHashMap<DamagedKey, Entries>,
    lost_windows: u64,
}

impl<'b, 's, 'f, 't> Build<'b, 's, 'f, 't> {
    pub fn new(
        source: &'b mut Source<'s, 'f>,
        census: &'b Census<'b>,
        possible: &'b PossibleBlocks,
        target: &'b mut Target<'t>,
        generation: Generation,
    ) -> Self {
        let (clean, damaged) = Default::default();
        let any_lost = census.lost_before;
        Self { source, census, possible, target, generation, any_lost, clean, damaged, lost_windows: 0 }
    }

    /// Makes the tree of a volume, and returns its new root.
    pub fn volume(&mut self, record: &VolumeRecord) -> Result<Root> {
        // What is being deleted loses nothing.
        let active = record.state == VolumeState::Active;
        let size_bytes = if active { record.size_bytes } else { 0 };
        let owner = Owner { volume: record.id, size_bytes };
        let (mut level, mut entries) = match root_edge(&record.root) {
            Some(edge) => (edge.level, self.subtree(owner, edge)?),
            None if record.root.is_some() => (0, self.lost_range(owner, 0, u64::MAX >> 16)?),
            None => return Ok(None),
        };
        while entries.len() > 1 {
            level += 1;
            if usize::from(level) >= MAX_LEVELS {
                return Err(Error::new(ErrorKind::Limit, "a tree of mappings has too many levels"));
            }
            entries = self.pack(owner, level, entries, (0, u64::MAX >> 16))?;
        }
        let Some((_, pointer)) = entries.pop() else { return Ok(None) };
        self.target.refer(pointer.page)?;
        Ok(Some((level, pointer)))
    }

    /// What takes the place of a page in its parent: no entry if nothing is left, several if they do not fit in one.
    fn subtree(&mut self, owner: Owner, edge: Edge) -> Result<Entries> {
        let page = edge.pointer.page;
        if self.census.is_clean(page) {
            return Ok(vec![(edge.low, self.take_over(edge)?)]);
        }
        let is_cut = edge.high >= owner.size_bytes / BLOCK_BYTES;
        let key = (page, edge.low, edge.high, if is_cut { owner.size_bytes } else { u64::MAX });
        if let Some(entries) = self.damaged.get(&key) {
            return Ok(entries.clone());
        }
        let entries = match self.census.bad.get(&page) {
            Some(bad) => self.substitute(owner, edge, bad)?,
            None => self.mend(owner, edge)?,
        };
        self.damaged.insert(key, entries.clone());
        Ok(entries)
    }

    /// A clean page and all below, as they are.
    fn take_over(&mut self, edge: Edge) -> Result<Pointer> {
        if let Some(pointer) = self.clean.get(&edge.pointer.page) {
            return Ok(*pointer);
        }
        let page = self.source.mapping_page(&edge)?;
        let origin = origin_of(&page);
        let pointer = match &page.node {
            Node::Leaf(leaf) => self.target.leaf(&origin, leaf, page.body())?,
            Node::Inner(inner) => {
                let entries = edge
                    .children(inner)
                    .zip(&inner.entries)
                    .map(|(child, (key, _))| Ok((*key, self.take_over(child)?)));
                let entries = entries.collect::<Result<_>>()?;
                self.target.inner(&origin, &InnerPage { level: inner.level, entries })?
            }
        };
        self.clean.insert(edge.pointer.page, pointer);
        Ok(pointer)
    }

    /// A page that can be read, and something in it or below cannot stay.
    fn mend(&mut self, owner: Owner, edge: Edge) -> Result<Entries> {
        let page = self.source.mapping_page(&edge)?;
        match &page.node {
            Node::Leaf(leaf) => self.mended_leaf(&page, edge, leaf),
            Node::Inner(inner) => {
                let children: Vec<Edge> = edge.children(inner).collect();
                let mut entries = Entries::new();
                for child in children {
                    entries.extend(self.subtree(owner, child)?);
                }
                self.pack(owner, edge.level, entries, (edge.low, edge.high))
            }
        }
    }

    /// A leaf without the blocks that no volume can have: their sectors are lost.
    fn mended_leaf(&mut self, page: &Page, edge: Edge, leaf: &MapLeaf) -> Result<Entries> {
        let mut mended = leaf.clone();
        for (block, mapping) in leaf.iter() {
            let foreign =
                mapping.layers().filter(|layer| !layer.is_lost() && !self.possible.has(layer.block));
            let sectors = foreign.fold(SectorMask::EMPTY, |all, layer| all.union(layer.mask));
            if !sectors.is_empty() {
                mended.set(block, Some(Mapping::lose(Some(mapping), sectors)));
                self.any_lost = true;
            }
        }
        let origin = Origin { generation: self.generation, ..origin_of(page) };
        let mut entries = Entries::new();
        let mut rest = Some(mended);
        let mut first_key = edge.low;
        while let Some(mut leaf) = rest.take() {
            // Cut runs and further layers may take more room than there was.
            let mut last_key = edge.high;
            while leaf.encoded_bytes() > crate::format::BODY_BYTES {
                let (separator, mut right) = leaf.split();
                if let Some(behind) = rest.take() {
                    right.append(behind);
                }
                (last_key, rest) = (separator.0 - 1, Some(right));
            }
            let part = Origin { first_key, last_key, ..origin };
            entries.push((first_key, self.target.leaf(&part, &leaf, &leaf.encode())?));
            first_key = last_key + 1;
        }
        Ok(entries)
    }

    /// What takes the place of a bad page: the children that came back, and between them lost ranges, unless all came.
    fn substitute(&mut self, owner: Owner, edge: Edge, bad: &Bad) -> Result<Entries> {
        let Some(below) = edge.level.checked_sub(1) else {
            return self.lost_range(owner, edge.low, edge.high);
        };
        let mut entries = Entries::new();
        let mut position = edge.low;
        let children = bad.children.as_deref().unwrap_or_default();
        for child in children.iter().filter(|child| edge.low <= child.low && child.high <= edge.high) {
            if !bad.complete && position < child.low {
                entries.extend(self.lost_at_level(owner, below, position, child.low - 1)?);
            }
            entries.extend(self.subtree(owner, *child)?);
            position = child.high.saturating_add(1);
        }
        if !bad.complete && position <= edge.high {
            entries.extend(self.lost_at_level(owner, below, position, edge.high)?);
        }
        self.pack(owner, edge.level, entries, (edge.low, edge.high))
    }

    fn lost_at_level(&mut self, owner: Owner, level: u8, low: u64, high: u64) -> Result<Entries> {
        let mut entries = self.lost_range(owner, low, high)?;
        for level in 1..=level {
            entries = self.pack(owner, level, entries, (low, high))?;
        }
        Ok(entries)
    }

    /// Leaves in which every block of the range is lost, as far as the volume goes.
    fn lost_range(&mut self, owner: Owner, low: u64, high: u64) -> Result<Entries> {
        let Some(last_byte) = owner.size_bytes.checked_sub(1) else { return Ok(Entries::new()) };
        let end_block = VirtualBlock::containing(last_byte);
        let high = high.min(end_block.0);
        let mut entries = Entries::new();
        let mut first = low;
        while first <= high {
            let last = high.min(window_end(first));
            self.lost_windows += 1;
            if self.lost_windows > LOST_WINDOWS_MAX {
                let message = format!(
                    "more than {} bytes of volumes are lost: too much to be noted",
                    LOST_WINDOWS_MAX * WINDOW_BLOCKS * BLOCK_BYTES
                );
                return Err(Error::new(ErrorKind::Limit, message).at(Place::Volume(owner.volume)));
            }
            let mut leaf = MapLeaf::lost(VirtualBlock(first), VirtualBlock(last));
            if last == end_block.0 {
                let sectors = (last_byte - end_block.offset_bytes()) / SECTOR_BYTES + 1;
                let mask = SectorMask::range(0, sectors as u32);
                leaf.set(end_block, Some(Mapping::lose(None, mask)));
            }
            let origin = self.fresh(owner, (first, last));
            entries.push((first, self.target.leaf(&origin, &leaf, &leaf.encode())?));
            self.any_lost = true;
            first = last + 1;
        }
        Ok(entries)
    }

    /// The entries in as many inner pages of `level` as they need.
    fn pack(&mut self, owner: Owner, level: u8, entries: Entries, keys: (u64, u64)) -> Result<Entries> {
        let pages = entries.len().div_ceil(INNER_CAPACITY);
        if pages == 0 {
            return Ok(Entries::new());
        }
        let chunks: Vec<&[(u64, Pointer)]> = entries.chunks(entries.len().div_ceil(pages)).collect();
        let mut above = Entries::new();
        for (index, chunk) in chunks.iter().enumerate() {
            let first_key = if index == 0 { keys.0 } else { chunk[0].0 };
            let last_key = chunks.get(index + 1).map_or(keys.1, |next| next[0].0 - 1);
            let origin = self.fresh(owner, (first_key, last_key));
            let inner = InnerPage { level, entries: chunk.to_vec() };
            above.push((first_key, self.target.inner(&origin, &inner)?));
        }
        Ok(above)
    }

    fn fresh(&self, owner: Owner, (first_key, last_key): (u64, u64)) -> Origin {
        Origin { generation: self.generation, first_key, last_key, volume_of_birth: owner.volume }
    }
}

fn origin_of(page: &Page) -> Origin {
    let header = &page.header;
    Origin {
        generation: header.generation,
        first_key: header.first_key,
        last_key: header.last_key,
        volume_of_birth: header.volume_of_birth,
    }
}
