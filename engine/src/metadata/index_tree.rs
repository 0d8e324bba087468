//! A tree whose leaves are all known in memory: volume records, counts and overflow.
//!
//! Owns the pointers to the leaves and the inner pages above them. Inner pages are few (one for 117 leaves) and are
//! all written again when a leaf changes, so there is nothing to balance. Mapping trees are another thing: `tree/`.

use super::PageSink;
use crate::error::{Error, Result};
use crate::format::{self, INNER_CAPACITY, InnerPage, PageHeader, PageKind, Pointer};
use crate::units::{Generation, PageNumber, VolumeId};
use bytes::Bytes;

/// One leaf: where its keys start and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeafPlace {
    /// The first key it may hold.
    pub first_key: u64,
    /// Where it stands.
    pub pointer: Pointer,
}

/// The leaves of one tree, in order, and the inner pages that lead to them.
#[derive(Clone, Debug, Default)]
pub struct IndexTree {
    /// All leaves, in order of keys.
    pub leaves: Vec<LeafPlace>,
    /// The pages of all inner levels as they stand on disk.
    inner: Vec<Pointer>,
    /// The page that the root slot names.
    pub root: Option<Pointer>,
}

/// Page numbers taken for the inner pages of one sealing, the lowest level first.
pub struct InnerPlan(Vec<(PageNumber, PageNumber)>);

/// Reads one page that a pointer names, from either copy.
pub type ReadPage<'a> = dyn FnMut(&Pointer) -> Result<Bytes> + 'a;

/// Takes a leaf: its first key as its parent says, its header and body.
pub type TakeLeaf<'a> = dyn FnMut(u64, &PageHeader, &[u8]) -> Result<()> + 'a;

impl IndexTree {
    /// Pages that the tree takes on disk now: leaves and inner pages with their copies.
    pub fn pages(&self) -> impl Iterator<Item = &Pointer> {
        self.leaves.iter().map(|leaf| &leaf.pointer).filter(|p| p.page.0 != 0).chain(&self.inner)
    }

    /// Reads the inner pages behind `root` and hands every leaf pointer's page to `leaf`.
    pub fn load(
        root: Option<Pointer>,
        pool: &[u8; 16],
        read: &mut ReadPage<'_>,
        leaf: &mut TakeLeaf<'_>,
        uniform: &mut dyn FnMut(u64, u32) -> Result<()>,
    ) -> Result<Self> {
        let mut tree = Self { root, ..Self::default() };
        if let Some(pointer) = root {
            let mut walk = Walk { tree: &mut tree, pool, read, leaf, uniform };
            walk.descend(0, pointer, None)?;
        }
        Ok(tree)
    }

    /// Takes the page numbers that the inner pages over `leaves` leaves will need, and gives the old ones back.
    pub fn plan_inner(
        &mut self,
        leaves: usize,
        mut allocate: impl FnMut() -> Result<PageNumber>,
        mut free: impl FnMut(PageNumber, Generation),
    ) -> Result<InnerPlan> {
        for pointer in self.inner.drain(..) {
            free(pointer.page, pointer.generation);
            pointer.copy.into_iter().for_each(|copy| free(copy, pointer.generation));
        }
        let pages: usize = inner_levels(leaves).iter().sum();
        (0..pages).map(|_| Ok((allocate()?, allocate()?))).collect::<Result<_>>().map(InnerPlan)
    }

    /// Makes the inner pages over the leaves as they are now, into the planned places, and the new root.
    pub fn seal_inner(
        &mut self,
        plan: InnerPlan,
        pool: &[u8; 16],
        generation: Generation,
        pages: &mut PageSink<'_>,
    ) {
        let mut places = plan.0.into_iter();
        let mut below: Vec<(u64, Pointer)> =
            self.leaves.iter().map(|leaf| (leaf.first_key, leaf.pointer)).collect();
        let mut level = 1u8;
        while below.len() > 1 || (level == 1 && !below.is_empty()) {
            let mut above = Vec::with_capacity(below.len() / INNER_CAPACITY + 1);
            for children in below.chunks(INNER_CAPACITY) {
                let Some((number, copy)) = places.next() else { unreachable!("planned for these leaves") };
                let inner = InnerPage { level, entries: children.to_vec() };
                let last = inner.entries.last().map_or(0, |(key, _)| *key);
                let header = PageHeader {
                    kind: PageKind::Inner,
                    level,
                    entries: inner.entries.len() as u16,
                    number,
                    copy: Some(copy),
                    generation,
                    first_key: children[0].0,
                    last_key: last,
                    volume_of_birth: VolumeId(0),
                };
                let (buffer, checksum) = format::seal(&header, pool, &inner.encode());
                let bytes = buffer.freeze();
                pages(number, bytes.clone());
                pages(copy, bytes);
                let pointer = Pointer { page: number, copy: Some(copy), generation, checksum, mapped: 0 };
                self.inner.push(pointer);
                above.push((children[0].0, pointer));
            }
            below = above;
            level += 1;
        }
        self.root = below.first().map(|(_, pointer)| *pointer);
    }
}

/// How many pages the inner levels over `leaves` leaves take on disk, both copies.
pub fn inner_pages(leaves: usize) -> usize {
    2 * inner_levels(leaves).iter().sum::<usize>()
}

/// How many inner pages each level over `leaves` leaves has. One leaf stands alone.
fn inner_levels(leaves: usize) -> Vec<usize> {
    let mut levels = Vec::new();
    let mut below = leaves;
    // A single leaf gets an inner page too: a uniform leaf has no page of its own that a root could name.
    while below > 1 || (levels.is_empty() && below == 1) {
        below = below.div_ceil(INNER_CAPACITY);
        levels.push(below);
    }
    levels
}

struct Walk<'w, 'r> {
    tree: &'w mut IndexTree,
    pool: &'w [u8; 16],
    read: &'w mut ReadPage<'r>,
    leaf: &'w mut TakeLeaf<'r>,
    uniform: &'w mut dyn FnMut(u64, u32) -> Result<()>,
}

impl Walk<'_, '_> {
    fn descend(&mut self, key: u64, pointer: Pointer, level: Option<u8>) -> Result<()> {
        if pointer.page.0 == 0 {
            self.tree.leaves.push(LeafPlace { first_key: key, pointer });
            return (self.uniform)(key, pointer.checksum);
        }
        let bytes = (self.read)(&pointer)?;
        let (header, body) = format::open(&bytes, self.pool, &pointer)?;
        if level.is_some_and(|expected| expected != header.level) {
            return Err(Error::damaged("a page stands at the wrong level of its tree")
                .at(crate::error::Place::Page(pointer.page)));
        }
        if header.kind != PageKind::Inner {
            self.tree.leaves.push(LeafPlace { first_key: key, pointer });
            return (self.leaf)(key, &header, body);
        }
        let inner = InnerPage::decode(header.level, body)?;
        self.tree.inner.push(pointer);
        for (key, child) in inner.entries {
            self.descend(key, child, Some(header.level - 1))?;
        }
        Ok(())
    }
}
