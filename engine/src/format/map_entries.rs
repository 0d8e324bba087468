//! The entries of a mapping leaf in memory, packed: 12 bytes each, 20 in a leaf that has second layers.
//!
//! Owns the packing. A large pool has tens of thousands of leaves in memory, and a lookup shall touch few cache lines of
//! one. What entries mean is `map_leaf.rs`'s affair.

use super::map_leaf::MapEntry;
use super::mapping::{DATA_BLOCK_LIMIT, Layer, Mapping};
use super::search::partition_near;
use crate::units::{DataBlock, SectorMask};
use std::ops::Range;

/// An entry without its lower layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Packed {
    offset: u16,
    length: u16,
    /// Block and mask of the upper layer, the lower half first: so the whole needs no padding.
    upper: [u32; 2],
}

const _: () = assert!(size_of::<Packed>() == 12);

/// Entries, offsets rising.
#[derive(Clone, Debug, Default)]
pub(super) struct Entries {
    packed: Vec<Packed>,
    /// Block and mask of each lower layer, 0 where there is none; nothing if no entry has one.
    #[expect(
        clippy::box_collection,
        reason = "most leaves have none, and pages in the cache shall be small"
    )]
    lowers: Option<Box<Vec<u64>>>,
}

/// A block and its mask in one number. Not 0, for masks are not empty.
fn pack_layer(layer: Layer) -> u64 {
    debug_assert!(layer.block.0 < DATA_BLOCK_LIMIT && !layer.mask.is_empty());
    layer.block.0 << 16 | u64::from(layer.mask.0)
}

fn unpack_layer(packed: u64) -> Layer {
    Layer { block: DataBlock(packed >> 16), mask: SectorMask(packed as u16) }
}

fn pack_lower(entry: &MapEntry) -> u64 {
    entry.mapping.lower.map_or(0, pack_layer)
}

impl Packed {
    fn of(entry: &MapEntry) -> Self {
        let upper = pack_layer(entry.mapping.upper);
        Self { offset: entry.offset, length: entry.length, upper: [upper as u32, (upper >> 32) as u32] }
    }

    fn end(&self) -> usize {
        usize::from(self.offset) + usize::from(self.length)
    }
}

impl Entries {
    /// No entries, with room for `capacity`.
    pub fn with_capacity(capacity: usize) -> Self {
        Self { packed: Vec::with_capacity(capacity), lowers: None }
    }

    pub fn len(&self) -> usize {
        self.packed.len()
    }

    pub fn is_empty(&self) -> bool {
        self.packed.is_empty()
    }

    pub fn get(&self, index: usize) -> Option<MapEntry> {
        let Packed { offset, length, upper: [low, high] } = *self.packed.get(index)?;
        let upper = unpack_layer(u64::from(low) | u64::from(high) << 32);
        let lowers = self.lowers.as_deref();
        let lower = lowers.and_then(|lowers| lowers.get(index)).filter(|lower| **lower != 0);
        let mapping = Mapping { upper, lower: lower.copied().map(unpack_layer) };
        Some(MapEntry { offset, length, mapping })
    }

    pub fn last(&self) -> Option<MapEntry> {
        self.get(self.len().checked_sub(1)?)
    }

    pub fn iter(&self) -> impl Iterator<Item = MapEntry> + '_ {
        self.range(0..self.len())
    }

    /// The entries of a range of places, which must exist.
    pub fn range(&self, range: Range<usize>) -> impl Iterator<Item = MapEntry> + '_ {
        range.filter_map(|index| self.get(index))
    }

    /// The first entry that does not end in front of `offset`.
    #[inline]
    pub fn position(&self, offset: u16) -> usize {
        let [first, .., last] = &self.packed[..] else {
            return self.packed.iter().take_while(|entry| entry.end() <= usize::from(offset)).count();
        };
        // As if the entries were spread evenly: right where every block is mapped by itself.
        let (width, length) = (last.end() - usize::from(first.offset), self.packed.len());
        let guess = usize::from(offset.saturating_sub(first.offset)) * length / width;
        partition_near(length, guess, |index| self.packed[index].end() <= usize::from(offset))
    }

    /// The first entry that begins behind `offset`.
    pub fn position_behind(&self, offset: u16) -> usize {
        self.packed.partition_point(|entry| entry.offset <= offset)
    }

    pub fn push(&mut self, entry: &MapEntry) {
        if entry.mapping.lower.is_some() || self.lowers.is_some() {
            self.lowers_mut().push(pack_lower(entry));
        }
        self.packed.push(Packed::of(entry));
    }

    /// Puts `entries` in the place of `range`.
    pub fn splice(&mut self, range: Range<usize>, entries: &[MapEntry]) {
        if self.lowers.is_some() || entries.iter().any(|entry| entry.mapping.lower.is_some()) {
            self.lowers_mut().splice(range.clone(), entries.iter().map(pack_lower));
        }
        self.packed.splice(range, entries.iter().map(Packed::of));
    }

    /// The lower layers, one for each entry.
    fn lowers_mut(&mut self) -> &mut Vec<u64> {
        let length = self.packed.len();
        self.lowers.get_or_insert_with(|| Box::new(vec![0; length]))
    }

    /// Takes out the entries from `at` on. Neither part keeps memory that it does not need.
    pub fn split_off(&mut self, at: usize) -> Self {
        let mut rear = Self { packed: self.packed.split_off(at), lowers: None };
        if let Some(lowers) = &mut self.lowers {
            rear.lowers = Some(Box::new(lowers.split_off(at)));
        }
        self.shrink();
        rear.shrink();
        rear
    }

    fn shrink(&mut self) {
        self.packed.shrink_to_fit();
        if self.lowers.as_ref().is_some_and(|lowers| lowers.iter().all(|lower| *lower == 0)) {
            self.lowers = None;
        }
        self.lowers.iter_mut().for_each(|lowers| lowers.shrink_to_fit());
    }

    /// Memory that the entries take beside themselves, in bytes.
    pub fn memory_bytes(&self) -> usize {
        let lowers = self.lowers.as_ref().map_or(0, |lowers| lowers.capacity() * size_of::<u64>());
        self.packed.capacity() * size_of::<Packed>() + lowers
    }
}

impl PartialEq for Entries {
    fn eq(&self, other: &Self) -> bool {
        // Not the lower layers as they stand: they may be there and all be nothing.
        self.packed == other.packed && self.iter().eq(other.iter())
    }
}

impl Eq for Entries {}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(offset: u16, lower: bool) -> MapEntry {
        let layer = |block, mask| Layer { block: DataBlock(block), mask: SectorMask(mask) };
        let lower = lower.then(|| layer(DATA_BLOCK_LIMIT - 1, 0xff00));
        MapEntry { offset, length: 1, mapping: Mapping { upper: layer(u64::from(offset), 0xff), lower } }
    }

    #[test]
    fn entries_come_back_as_they_were() {
        let mut entries = Entries::default();
        let all = [entry(1, false), entry(5, true), entry(9, false), entry(16383, true)];
        all.iter().for_each(|entry| entries.push(entry));
        assert_eq!(entries.iter().collect::<Vec<_>>(), all);
        assert_eq!([0, 1, 2, 5, 9, 10].map(|offset| entries.position(offset)), [0, 0, 1, 1, 2, 3]);
        entries.splice(1..3, &[entry(6, false)]);
        assert_eq!(entries.iter().collect::<Vec<_>>(), [all[0], entry(6, false), all[3]]);
        let rear = entries.split_off(2);
        assert_eq!((entries.len(), rear.last()), (2, Some(all[3])));
        let mut plain = Entries::default();
        [all[0], entry(6, false)].iter().for_each(|entry| plain.push(entry));
        assert_eq!(entries, plain);
        assert_eq!(entries.memory_bytes(), 24);
    }

    #[test]
    fn entries_are_found_wherever_they_stand() {
        let mut random = 7u64;
        for length in 0..60 {
            let mut entries = Entries::default();
            let mut offset = 0;
            for _ in 0..length {
                random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                offset += (random >> 60) as u16;
                let entry = MapEntry { length: 1 + (random >> 40 & 7) as u16, ..entry(offset, false) };
                offset += entry.length;
                entries.push(&entry);
            }
            for offset in (0..offset + 2).chain([16383]) {
                let expected = entries.iter().take_while(|entry| entry.end() <= u32::from(offset)).count();
                assert_eq!(entries.position(offset), expected);
            }
        }
    }
}
