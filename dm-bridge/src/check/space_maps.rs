//! Compares space maps with the owners that were counted: every count, both ways, and every sum.
//!
//! Owns what each difference costs. A count that is too low lets the kernel give a block away that is in use; one that is too
//! high only wastes it. The kernel believes the sums without counting.

use super::findings::{Cost, Defect, Report};
use super::forest::Forest;
use crate::counts::{Counts, GROUP_BLOCKS};
use crate::device::{Blocks, Source};
use crate::error::Place;
use crate::format::{Bitmap, ENTRIES_PER_BITMAP, IndexEntry, MetadataIndex, SpaceMapRoot};
use crate::tree::Role;
use crate::tree::{Entries, TreeWalk};

/// An index entry, and where it stands.
pub struct Indexed {
    number: u64,
    entry: IndexEntry,
    place: Place,
}

/// Visits the trees of the data space map for their owners, and returns its index.
pub fn data_index<S: Source>(forest: &mut Forest<'_, S>, root: &SpaceMapRoot) -> Vec<Indexed> {
    let mut index = Vec::new();
    forest.visit_tree(root.bitmap_root, Role::Index, &mut |_, block, node| {
        for at in 0..node.len() {
            let mut bytes = [0; IndexEntry::BYTES];
            bytes.copy_from_slice(node.value(at));
            let place = Place::byte(block, node.value_offset(at));
            index.push(Indexed { number: node.key(at), entry: IndexEntry::decode(&bytes), place });
        }
    });
    index.iter().for_each(|indexed| forest.own(indexed.entry.bitmap));
    forest.visit_tree(root.ref_count_root, Role::RefCounts, &mut |_, _, _| {});
    index
}

/// The same for the metadata space map, whose index is one block.
pub fn metadata_index<S: Source>(forest: &mut Forest<'_, S>, root: &SpaceMapRoot) -> Vec<Indexed> {
    forest.own(root.bitmap_root);
    forest.visit_tree(root.ref_count_root, Role::RefCounts, &mut |_, _, _| {});
    let block = root.bitmap_root;
    let index = match forest.blocks.read(block).and_then(|bytes| MetadataIndex::decode(&bytes, block)) {
        Ok(index) => index,
        Err(error) => {
            forest.report.counts_incomplete = true;
            forest.report.add(Defect::SpaceMap, error.place(), Cost::Pool, error.message());
            return Vec::new();
        }
    };
    let used = |indexed: &Indexed| indexed.number < root.bitmaps() || indexed.entry != IndexEntry::default();
    let indexed = |(number, entry): (usize, &IndexEntry)| {
        let place = Place::byte(block, 16 + number * IndexEntry::BYTES);
        Indexed { number: number as u64, entry: *entry, place }
    };
    let index: Vec<_> = index.entries.iter().enumerate().map(indexed).filter(used).collect();
    let in_use = index.iter().filter(|indexed| indexed.number < root.bitmaps());
    in_use.for_each(|indexed| forest.own(indexed.entry.bitmap));
    index
}

/// The owners of a group of blocks; `None` if there are none.
pub trait Owners {
    fn group(&self, first: u64) -> Option<[u32; GROUP_BLOCKS as usize]>;
}

impl Owners for Counts {
    fn group(&self, first: u64) -> Option<[u32; GROUP_BLOCKS as usize]> {
        let group = Counts::group(self, first / GROUP_BLOCKS)?;
        let mut owners = [0; GROUP_BLOCKS as usize];
        for ((block, byte), owners) in (first..).zip(group).zip(&mut owners) {
            *owners = self.exact(block, *byte);
        }
        Some(owners)
    }
}

impl Owners for Vec<u32> {
    fn group(&self, first: u64) -> Option<[u32; GROUP_BLOCKS as usize]> {
        let start = usize::try_from(first).ok().filter(|start| *start < self.len())?;
        let mut owners = [0; GROUP_BLOCKS as usize];
        let found = &self[start..self.len().min(start + owners.len())];
        owners[..found.len()].copy_from_slice(found);
        Some(owners)
    }
}

/// One space map against its owners.
pub struct Comparison<'a, S> {
    blocks: &'a Blocks<S>,
    report: &'a mut Report,
    /// "data" or "metadata".
    name: &'static str,
    root: SpaceMapRoot,
    large: Entries<'a, S>,
    next_large: Option<(u64, u32)>,
    difference: Option<Difference>,
    /// First and last block of counts that are too low, and the finding; in order.
    pub too_low: Vec<(u64, u64, usize)>,
}

/// Neighbouring blocks with the same counts and owners.
struct Difference {
    first: u64,
    length: u64,
    count: u32,
    owners: u32,
    place: Place,
}

impl<'a, S: Source> Comparison<'a, S> {
    pub fn new(
        blocks: &'a Blocks<S>,
        report: &'a mut Report,
        name: &'static str,
        root: SpaceMapRoot,
    ) -> Self {
        // Damage to this tree was found when it was visited.
        let large = Entries::new(TreeWalk::new(blocks, root.ref_count_root, 4, true));
        let mut comparison = Self {
            blocks,
            report,
            name,
            root,
            large,
            next_large: None,
            difference: None,
            too_low: Vec::new(),
        };
        comparison.fetch_large();
        comparison
    }

    fn fetch_large(&mut self) {
        let row = self.large.next::<4>().ok().flatten();
        self.next_large = row.map(|(key, value, _, _)| (key, u32::from_le_bytes(value)));
    }

    /// Compares everything, and returns how many blocks have an owner.
    pub fn run(&mut self, index: &[Indexed], owners: &impl Owners) -> u64 {
        let mut allocated = 0;
        let mut used = 0;
        let mut expected = 0;
        for indexed in index {
            if indexed.number >= self.root.bitmaps() {
                let text = format!("{} index entry {} counts no block", self.name, indexed.number);
                self.report.add(Defect::BeyondEnd, indexed.place, Cost::Nothing, text);
                continue;
            }
            self.missing(expected..indexed.number);
            expected = indexed.number + 1;
            let (of_bitmap, with_owner) = self.bitmap(indexed, owners);
            allocated += of_bitmap;
            used += with_owner;
        }
        self.missing(expected..self.root.bitmaps());
        self.large_before(u64::MAX);
        if allocated != self.root.nr_allocated && !self.report.counts_incomplete {
            let text = format!(
                "{}: {} allocated blocks by the superblock, {allocated} by the bitmaps",
                self.name, self.root.nr_allocated
            );
            let offset = if self.name == "data" { 72 } else { 200 };
            self.report.add(Defect::NrAllocated, Place::byte(0, offset), Cost::FreeSpace, text);
        }
        used
    }

    fn missing(&mut self, numbers: std::ops::Range<u64>) {
        if !numbers.is_empty() && !self.report.counts_incomplete {
            let text = format!("{}: no bitmaps {} to {}", self.name, numbers.start, numbers.end - 1);
            self.report.counts_incomplete = true;
            self.report.add(Defect::SpaceMap, Place::block(self.root.bitmap_root), Cost::Pool, text);
        }
    }

    /// Allocated blocks by a bitmap, and blocks with an owner.
    fn bitmap(&mut self, indexed: &Indexed, owners: &impl Owners) -> (u64, u64) {
        let block = indexed.entry.bitmap;
        let bitmap = match self.blocks.read(block).and_then(|bytes| Bitmap::decode(bytes, block)) {
            Ok(bitmap) => bitmap,
            Err(error) => {
                self.report.counts_incomplete = true;
                self.report.add(Defect::SpaceMap, error.place(), Cost::Pool, error.message());
                return (0, 0);
            }
        };
        let mut seen = Seen::default();
        let first = indexed.number * ENTRIES_PER_BITMAP;
        for start in (0..ENTRIES_PER_BITMAP).step_by(GROUP_BLOCKS as usize) {
            self.group(&bitmap, block, first, start, owners, &mut seen);
        }
        self.flush();
        self.sums(indexed, &seen);
        (seen.allocated, seen.with_owner)
    }

    fn group(
        &mut self,
        bitmap: &Bitmap,
        block: u64,
        first: u64,
        start: u64,
        owners: &impl Owners,
        seen: &mut Seen,
    ) {
        let known = owners.group(first + start);
        if known.is_none()
            && (start..start + GROUP_BLOCKS).step_by(4).all(|entry| bitmap.four(entry as usize) == 0)
        {
            seen.first_free.get_or_insert(start);
            return;
        }
        let known = known.unwrap_or([0; GROUP_BLOCKS as usize]);
        for (entry, owners) in (start..).zip(known) {
            let small = u32::from(bitmap.get(entry as usize));
            let number = first + entry;
            if number >= self.root.nr_blocks {
                seen.beyond += u64::from(small > 0);
                continue;
            }
            if small == 0 {
                seen.first_free.get_or_insert(entry);
            }
            seen.allocated += u64::from(small > 0);
            seen.with_owner += u64::from(owners > 0);
            let place = Place::byte(block, 16 + entry as usize / 4);
            let count = if small == 3 { self.large(number, place) } else { small };
            if count != owners {
                self.differs(number, count, owners, place);
            }
        }
    }

    /// The count of a block whose bitmap says three or more.
    fn large(&mut self, block: u64, place: Place) -> u32 {
        self.large_before(block);
        match self.next_large {
            Some((key, count)) if key == block => {
                self.fetch_large();
                if count < 3 {
                    let text =
                        format!("{} block {block} has {count} in the tree of counts from 3 on", self.name);
                    self.report.add(Defect::RefCountTree, place, Cost::Nothing, text);
                }
                count
            }
            _ => {
                let text = format!("{} block {block} has no count, and 3 or more by its bitmap", self.name);
                self.report.add(Defect::RefCountTree, place, Cost::Pool, text);
                3
            }
        }
    }

    /// Large counts below `block` belong to blocks whose bitmap says less than three.
    fn large_before(&mut self, block: u64) {
        while let Some((key, count)) = self.next_large.filter(|(key, _)| *key < block) {
            self.fetch_large();
            if self.report.counts_incomplete {
                continue;
            }
            let text = format!(
                "{} block {key} has count {count} in the tree, and less than 3 by its bitmap",
                self.name
            );
            self.report.add(
                Defect::RefCountTree,
                Place::block(self.root.ref_count_root),
                Cost::Nothing,
                text,
            );
        }
    }

    fn differs(&mut self, block: u64, count: u32, owners: u32, place: Place) {
        if count > owners && self.report.counts_incomplete {
            return;
        }
        match &mut self.difference {
            Some(known)
                if (known.count, known.owners, known.first + known.length) == (count, owners, block) =>
            {
                known.length += 1;
            }
            _ => {
                self.flush();
                self.difference = Some(Difference { first: block, length: 1, count, owners, place });
            }
        }
    }

    fn flush(&mut self) {
        let Some(difference) = self.difference.take() else { return };
        let Difference { first, length, count, owners, place } = difference;
        let (defect, cost) = match owners {
            0 => (Defect::Leak, Cost::Space(length)),
            owners if count > owners => (Defect::CountTooHigh, Cost::Space(length)),
            _ => (Defect::CountTooLow, Cost::Overwritten(Vec::new())),
        };
        let last = first + (length - 1);
        let name = self.name;
        let text = format!("{name} blocks {first} to {last} have count {count} and {owners} owners");
        let finding = self.report.add(defect, place, cost, text);
        if defect == Defect::CountTooLow {
            self.too_low.push((first, last, finding));
        }
    }

    fn sums(&mut self, indexed: &Indexed, seen: &Seen) {
        let entry = &indexed.entry;
        let (name, number) = (self.name, indexed.number);
        let entries = (self.root.nr_blocks - number * ENTRIES_PER_BITMAP).min(ENTRIES_PER_BITMAP);
        // The kernel counts to the end of the last bitmap, thin_restore 0.9 to the end of the device. Both work.
        let free = [ENTRIES_PER_BITMAP - seen.allocated - seen.beyond, entries - seen.allocated];
        if !free.contains(&u64::from(entry.nr_free)) {
            let text = format!(
                "{name} bitmap {number}: {} free by the index, {} by the bitmap",
                entry.nr_free, free[1]
            );
            self.report.add(Defect::NrFree, indexed.place, Cost::FreeSpace, text);
        }
        let excluded = u64::from(entry.none_free_before);
        if let Some(first_free) = seen.first_free.filter(|first_free| *first_free < excluded.min(entries)) {
            let text = format!(
                "{name} bitmap {number}: none free before {excluded} by the index, and {first_free} is free"
            );
            self.report.add(Defect::NoneFreeBefore, indexed.place, Cost::FreeSpace, text);
        } else if excluded > ENTRIES_PER_BITMAP {
            let text = format!(
                "{name} bitmap {number}: none free before {excluded}, where {ENTRIES_PER_BITMAP} is the end"
            );
            self.report.add(Defect::NoneFreeBefore, indexed.place, Cost::FreeSpace, text);
        }
        if seen.beyond > 0 {
            let text = format!("{name} bitmap {number}: {} counts behind the end of the device", seen.beyond);
            self.report.add(Defect::BeyondEnd, indexed.place, Cost::Space(seen.beyond), text);
        }
    }
}

#[derive(Default)]
struct Seen {
    allocated: u64,
    with_owner: u64,
    beyond: u64,
    first_free: Option<u64>,
}
