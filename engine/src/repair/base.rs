//! What hangs on one root slot, as far as it can be read: volume records and the counts of pages.
//!
//! Owns the reading of index trees with holes in them. Believes no count that it could not read. Mapping trees are
//! `census.rs`'s affair.

use super::source::Source;
use crate::error::{Error, Place, Result};
use crate::format::{
    self, COUNT_IN_OVERFLOW, COUNTS_PER_LEAF, InnerPage, PageHeader, PageKind, Pointer, Properties, RootSlot,
    VolumeRecord,
};
use crate::metadata::LOG_VOLUME;
use crate::units::{PageNumber, VolumeId};
use rustc_hash::{FxHashMap, FxHashSet};

/// The counts of pages that could be read.
#[derive(Default)]
pub(super) struct KnownCounts {
    leaves: FxHashMap<u64, Vec<u8>>,
    overflow: FxHashMap<u64, u32>,
}

impl KnownCounts {
    /// How many parents the page has; none if that cannot be read.
    pub fn get(&self, page: PageNumber) -> Option<u32> {
        let leaf = self.leaves.get(&(page.0 / COUNTS_PER_LEAF))?;
        let byte = leaf.get((page.0 % COUNTS_PER_LEAF) as usize).copied().unwrap_or(0);
        // Where the overflow cannot be read, there are at least as many.
        let overflow = || self.overflow.get(&page.0).copied().unwrap_or(u32::from(byte));
        Some(if byte == COUNT_IN_OVERFLOW { overflow() } else { u32::from(byte) })
    }
}

/// What one root slot leads to without the mappings.
pub(super) struct Base {
    pub slot: RootSlot,
    /// All records that could be read, but that of the log's volume, which is derived.
    pub records: Vec<VolumeRecord>,
    /// What was set on the log's volume: the settings of the pool. Defaults if its record is lost.
    pub settings: Properties,
    /// Volume records are missing.
    pub records_lost: bool,
    /// The tree of volume records is damaged: there may be mappings that no record leads to.
    pub records_doubtful: bool,
    /// Leaves of volume records that were found by their counts alone.
    pub leaves_found: u64,
    /// Pages in use that are not whole: leaves of volume records may be among them. Only if those were looked for.
    pub unreadable: Vec<PageNumber>,
    /// Some counts of pages could not be read.
    counts_missing: bool,
    pub counts: KnownCounts,
    /// Pages that the index trees take.
    pub index_pages: FxHashSet<PageNumber>,
    pub problems: Vec<Error>,
}

/// What a leaf of an index tree said.
enum Leaf<'a> {
    Page(&'a PageHeader, &'a [u8]),
    Uniform(u32),
}

impl Base {
    pub fn read(source: &mut Source<'_, '_>, slot: RootSlot) -> Self {
        let mut base = Self {
            slot,
            records: Vec::new(),
            settings: Properties::default(),
            records_lost: false,
            records_doubtful: false,
            leaves_found: 0,
            unreadable: Vec::new(),
            counts_missing: false,
            counts: KnownCounts::default(),
            index_pages: FxHashSet::default(),
            problems: Vec::new(),
        };
        base.read_counts(source);
        base.read_volumes(source);
        base
    }

    fn read_counts(&mut self, source: &mut Source<'_, '_>) {
        let mut counts = KnownCounts::default();
        let slot = self.slot.clone();
        self.tree(source, slot.page_counts, &mut |key, leaf| {
            let bytes = match leaf {
                Leaf::Page(header, body) if header.kind == PageKind::CountLeaf && header.first_key == key => {
                    format::decode_count_leaf(body)?.to_vec()
                }
                Leaf::Uniform(count) if count < u32::from(COUNT_IN_OVERFLOW) => {
                    vec![count as u8; COUNTS_PER_LEAF as usize]
                }
                _ => return Err(another_kind()),
            };
            counts.leaves.insert(key / COUNTS_PER_LEAF, bytes);
            Ok(())
        });
        self.tree(source, slot.page_overflow, &mut |_, leaf| match leaf {
            Leaf::Page(header, body) if header.kind == PageKind::OverflowLeaf => {
                counts.overflow.extend(format::decode_overflow_leaf(body)?);
                Ok(())
            }
            _ => Err(another_kind()),
        });
        self.counts = counts;
        self.counts_missing = !self.problems.is_empty();
        // These are made anew from the mappings. They are only looked at to know whose pages they are.
        for root in [slot.data_counts, slot.data_overflow] {
            self.tree(source, root, &mut |_, _| Ok(()));
        }
    }

    fn read_volumes(&mut self, source: &mut Source<'_, '_>) {
        let mut records = Vec::new();
        let problems = self.problems.len();
        let bad_leaves = self.tree(source, self.slot.volumes, &mut |_, leaf| match leaf {
            Leaf::Page(header, body) if header.kind == PageKind::VolumeLeaf => {
                records.extend(format::decode_volume_leaf(body)?);
                Ok(())
            }
            _ => Err(another_kind()),
        });
        self.records_lost = bad_leaves > 0;
        self.records_doubtful = self.problems.len() > problems;
        if self.records_doubtful {
            self.find_volume_leaves(source, &mut records);
            let has_first = records.iter().any(|record| record.id == LOG_VOLUME);
            self.records_lost |= self.counts_missing || !has_first;
        }
        self.take_records(records);
    }

    /// Leaves of volume records that no inner page leads to any more: those that are counted.
    fn find_volume_leaves(&mut self, source: &mut Source<'_, '_>, records: &mut Vec<VolumeRecord>) {
        for number in (format::FIRST_FREE_PAGE.0..source.pages()).map(PageNumber) {
            let is_counted = self.counts.get(number).is_some_and(|count| count > 0);
            if !is_counted || self.index_pages.contains(&number) {
                continue;
            }
            let Some((header, bytes)) = source.whole_page_at(number) else {
                self.unreadable.push(number);
                continue;
            };
            let fits = header.kind == PageKind::VolumeLeaf && header.generation <= self.slot.generation;
            let body = format::inspect(&bytes).map_or(&[][..], |page| page.body);
            if let (true, Ok(found)) = (fits, format::decode_volume_leaf(body)) {
                self.index_pages.insert(number);
                records.extend(found);
                self.leaves_found += 1;
            }
        }
    }

    /// Numbers and names are used once; a record that says otherwise is none.
    fn take_records(&mut self, mut records: Vec<VolumeRecord>) {
        let mut seen: FxHashSet<VolumeId> = FxHashSet::default();
        records.sort_by_key(|record| record.id);
        if let Some(log) = records.iter().find(|record| record.id == LOG_VOLUME) {
            self.settings = log.properties.clone();
        }
        records.retain(|record| record.id != LOG_VOLUME && seen.insert(record.id));
        self.records = records;
    }
}

/// The way through one index tree.
impl Base {
    /// Hands every leaf that can be read to `take`, by the first key that its parent gives. Says how many leaves could not be used; what else
    /// could not be read stands in the problems too.
    fn tree(
        &mut self,
        source: &mut Source<'_, '_>,
        root: Option<Pointer>,
        take: &mut dyn FnMut(u64, Leaf<'_>) -> Result<()>,
    ) -> u64 {
        // A root is an inner page, however small the tree is; its level is not known before it was read.
        root.map_or(0, |pointer| self.subtree(source, 0, pointer, None, take))
    }

    fn subtree(
        &mut self,
        source: &mut Source<'_, '_>,
        key: u64,
        pointer: Pointer,
        level: Option<u8>,
        take: &mut dyn FnMut(u64, Leaf<'_>) -> Result<()>,
    ) -> u64 {
        let pages = [Some(pointer.page), pointer.copy];
        let is_uniform = pointer.page.0 == 0 && level == Some(0);
        if !is_uniform && !pages.into_iter().flatten().all(|page| self.index_pages.insert(page)) {
            self.problems.push(Error::damaged("two pages lead to it").at(Place::Page(pointer.page)));
            return u64::from(level == Some(0));
        }
        let read = match is_uniform {
            true => take(key, Leaf::Uniform(pointer.checksum)).map(|()| None),
            false => read_page(source, key, &pointer, level, take),
        };
        match read {
            Ok(None) => 0,
            Ok(Some(inner)) => {
                let below = Some(inner.level - 1);
                let children = inner.entries.into_iter();
                children.map(|(key, child)| self.subtree(source, key, child, below, take)).sum()
            }
            Err(error) => {
                self.problems.push(error.at(Place::Page(pointer.page)));
                u64::from(level == Some(0))
            }
        }
    }
}

/// The page, if it is an inner one; a leaf is taken.
fn read_page(
    source: &mut Source<'_, '_>,
    key: u64,
    pointer: &Pointer,
    level: Option<u8>,
    take: &mut dyn FnMut(u64, Leaf<'_>) -> Result<()>,
) -> Result<Option<InnerPage>> {
    let bytes = source.index_page(pointer)?;
    let (header, body) = format::open(&bytes, &source.pool, pointer)?;
    if level.is_some_and(|level| level != header.level) {
        return Err(Error::damaged("a page stands at the wrong level of its tree"));
    }
    match header.kind {
        PageKind::Inner => InnerPage::decode(header.level, body).map(Some),
        _ if level == Some(0) => take(key, Leaf::Page(&header, body)).map(|()| None),
        _ => Err(another_kind()),
    }
}

fn another_kind() -> Error {
    Error::damaged("a page of another kind stands where this tree needs one")
}
