//! Exact reference counts: one byte a block or page, large counts apart.
//!
//! Owns the numbers in memory and knows which leaves of them changed since the last checkpoint. Writes and reads no
//! pages (`checkpoint.rs` and `recovery.rs` do) and does not know what is counted. Read next: `page_space.rs`.

use crate::error::{Error, ErrorKind, Result};
use crate::format::COUNTS_PER_LEAF;
use std::collections::BTreeMap;

/// The byte that says that the count stands in the overflow.
const IN_OVERFLOW: u8 = u8::MAX;
/// Counts of one leaf.
const LEAF: usize = COUNTS_PER_LEAF as usize;

/// The counts of one leaf as they stood on disk.
#[derive(Clone, Copy, Debug)]
pub enum LoadedCounts<'a> {
    /// One byte each.
    Each(&'a [u8]),
    /// All the same; the leaf has no page. Below 255.
    Uniform(u32),
}

/// One count for every block of the data file, or for every page of the metadata file.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    bytes: Vec<u8>,
    /// Counts of 255 and more.
    overflow: BTreeMap<u64, u32>,
    overflow_changed: bool,
    /// Leaves that changed, in the order in which they first did.
    changed: Vec<usize>,
    /// Whether a leaf stands in `changed`.
    is_changed: Vec<bool>,
    in_use: u64,
}

impl Counts {
    /// `len` counts of zero.
    pub fn new(len: u64) -> Self {
        let mut counts = Self::default();
        counts.grow(len);
        counts
    }

    /// How many counts there are.
    pub fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Whether there are no counts at all.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Adds counts of zero up to `len` counts. Fewer than there are changes nothing.
    pub fn grow(&mut self, len: u64) {
        let len = (len as usize).max(self.bytes.len());
        self.bytes.resize(len, 0);
        self.is_changed.resize(len.div_ceil(LEAF), false);
    }

    /// How many counts are not zero.
    pub fn in_use(&self) -> u64 {
        self.in_use
    }

    /// The count of `index`; zero behind the end.
    pub fn get(&self, index: u64) -> u32 {
        match self.bytes.get(index as usize) {
            Some(&IN_OVERFLOW) => self.overflow.get(&index).copied().unwrap_or(u32::from(IN_OVERFLOW)),
            Some(&byte) => u32::from(byte),
            None => 0,
        }
    }

    /// Whether nothing refers to `index`.
    pub fn is_zero(&self, index: u64) -> bool {
        self.get(index) == 0
    }

    /// Adds one, and returns the new count. Fails, changing nothing, behind the end and at the largest count.
    pub fn increment(&mut self, index: u64) -> Result<u32> {
        let Some(byte) = self.bytes.get_mut(index as usize) else {
            return Err(Error::damaged("a reference leads behind the end of the file"));
        };
        if *byte < IN_OVERFLOW - 1 {
            *byte += 1;
            let count = u32::from(*byte);
            self.in_use += u64::from(count == 1);
            self.note_change(index);
            return Ok(count);
        }
        let count = self.get(index).checked_add(1);
        let count =
            count.ok_or_else(|| Error::new(ErrorKind::Limit, "more references than a count can hold"))?;
        self.put(index, count);
        Ok(count)
    }

    /// Takes one away, and returns the new count. Fails, changing nothing, if the count is zero.
    pub fn decrement(&mut self, index: u64) -> Result<u32> {
        let count = self.get(index);
        if count == 0 {
            return Err(Error::damaged("a count is lower than the number of references"));
        }
        self.put(index, count - 1);
        Ok(count - 1)
    }

    fn put(&mut self, index: u64, count: u32) {
        let byte = &mut self.bytes[index as usize];
        let (was_zero, was_overflow) = (*byte == 0, *byte == IN_OVERFLOW);
        *byte = u8::try_from(count).unwrap_or(IN_OVERFLOW);
        if *byte == IN_OVERFLOW {
            self.overflow.insert(index, count);
            self.overflow_changed = true;
        } else if was_overflow {
            self.overflow.remove(&index);
            self.overflow_changed = true;
        }
        self.in_use = self.in_use + u64::from(was_zero && count > 0) - u64::from(!was_zero && count == 0);
        self.note_change(index);
    }

    #[inline]
    fn note_change(&mut self, index: u64) {
        let leaf = (index / COUNTS_PER_LEAF) as usize;
        if !self.is_changed[leaf] {
            self.is_changed[leaf] = true;
            self.changed.push(leaf);
        }
    }
}

/// What a checkpoint writes.
impl Counts {
    /// Leaves that changed since [`Self::clear_changed`], each once, in the order in which they first did.
    pub fn changed_leaves(&self) -> &[usize] {
        &self.changed
    }

    /// Whether the overflow changed since [`Self::clear_changed`].
    pub fn overflow_changed(&self) -> bool {
        self.overflow_changed
    }

    /// Forgets what changed: it is in a checkpoint now.
    pub fn clear_changed(&mut self) {
        for leaf in self.changed.drain(..) {
            self.is_changed[leaf] = false;
        }
        self.overflow_changed = false;
    }

    /// The bytes of one leaf as they go to disk. The last leaf may be short, one behind it is empty.
    pub fn leaf_bytes(&self, leaf: usize) -> &[u8] {
        let first = leaf.saturating_mul(LEAF).min(self.bytes.len());
        let end = first.saturating_add(LEAF).min(self.bytes.len());
        &self.bytes[first..end]
    }

    /// How many counts stand in the overflow.
    pub fn overflow_len(&self) -> usize {
        self.overflow.len()
    }

    /// Counts of 255 and more, by rising index.
    pub fn overflow(&self) -> impl Iterator<Item = (u64, u32)> + '_ {
        self.overflow.iter().map(|(&index, &count)| (index, count))
    }
}

/// What an opening reads: leaves and overflow in any order, then [`Counts::finish_load`].
impl Counts {
    /// Takes over the counts of the leaf that starts with the count of `first`, which is still zero as all of its
    /// counts are. Counts that are not given stay zero.
    pub fn load_leaf(&mut self, first: u64, counts: LoadedCounts<'_>) -> Result<()> {
        let leaf = usize::try_from(first / COUNTS_PER_LEAF).unwrap_or(usize::MAX);
        let room = self.leaf_bytes(leaf).len();
        let uniform;
        let bytes = match counts {
            LoadedCounts::Each(bytes) => bytes,
            LoadedCounts::Uniform(count) if count < u32::from(IN_OVERFLOW) => {
                uniform = vec![count as u8; room];
                &uniform
            }
            LoadedCounts::Uniform(_) => return Err(Error::damaged("a leaf of counts is all overflow")),
        };
        let kept = bytes.len().min(room);
        let is_too_long = bytes.len() > LEAF || bytes[kept..].iter().any(|&byte| byte != 0);
        if !first.is_multiple_of(COUNTS_PER_LEAF) || is_too_long {
            return Err(Error::damaged("a leaf of counts reaches behind the end of the file"));
        }
        let start = leaf.saturating_mul(LEAF).min(self.bytes.len());
        self.bytes[start..start + kept].copy_from_slice(&bytes[..kept]);
        self.in_use += bytes.iter().filter(|&&byte| byte != 0).count() as u64;
        Ok(())
    }

    /// Takes over one count of the overflow.
    pub fn load_overflow(&mut self, index: u64, count: u32) -> Result<()> {
        let is_large = count >= u32::from(IN_OVERFLOW);
        if !is_large || self.overflow.insert(index, count).is_some() {
            return Err(Error::damaged("the overflow of counts has a small count, or one twice"));
        }
        Ok(())
    }

    /// Checks that bytes and overflow belong together, and starts with nothing changed.
    pub fn finish_load(&mut self) -> Result<()> {
        let marked = self.bytes.iter().filter(|&&byte| byte == IN_OVERFLOW).count();
        let found =
            self.overflow.keys().filter(|&&index| self.bytes.get(index as usize) == Some(&IN_OVERFLOW));
        if marked != self.overflow.len() || found.count() != marked {
            return Err(Error::damaged("counts and their overflow do not fit together"));
        }
        self.clear_changed();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reloaded(counts: &Counts) -> Counts {
        let mut copy = Counts::new(counts.len());
        for leaf in 0..counts.len().div_ceil(COUNTS_PER_LEAF) {
            let bytes = counts.leaf_bytes(leaf as usize);
            copy.load_leaf(leaf * COUNTS_PER_LEAF, LoadedCounts::Each(bytes)).unwrap();
        }
        counts.overflow().for_each(|(index, count)| copy.load_overflow(index, count).unwrap());
        copy.finish_load().unwrap();
        copy
    }

    #[test]
    fn counts_pass_into_the_overflow_and_back() {
        let mut counts = Counts::new(10);
        for expected in 1..=300 {
            assert_eq!(counts.increment(3), Ok(expected));
            assert_eq!(counts.get(3), expected);
            assert_eq!(counts.overflow_len(), usize::from(expected >= 255));
            let copy = reloaded(&counts);
            assert_eq!((copy.get(3), copy.in_use()), (expected, 1));
        }
        assert_eq!((counts.in_use(), counts.leaf_bytes(0)[3]), (1, 255));
        for expected in (0..300).rev() {
            assert_eq!(counts.decrement(3), Ok(expected));
            assert_eq!(counts.get(3), expected);
        }
        assert_eq!((counts.in_use(), counts.overflow_len()), (0, 0));
    }

    #[test]
    fn zero_is_not_decremented_and_the_end_is_not_crossed() {
        let mut counts = Counts::new(10);
        assert_eq!(counts.decrement(3).unwrap_err().kind(), ErrorKind::Damaged);
        assert_eq!(counts.decrement(10).unwrap_err().kind(), ErrorKind::Damaged);
        assert_eq!(counts.increment(10).unwrap_err().kind(), ErrorKind::Damaged);
        assert!(counts.changed_leaves().is_empty());
        counts.grow(11);
        assert_eq!(counts.increment(10), Ok(1));
    }

    #[test]
    fn changed_leaves_are_named_once() {
        let mut counts = Counts::new(3 * COUNTS_PER_LEAF - 1);
        for index in [2 * COUNTS_PER_LEAF, 1, 2 * COUNTS_PER_LEAF + 1, 1] {
            counts.increment(index).unwrap();
        }
        assert_eq!(counts.changed_leaves(), [2, 0]);
        assert_eq!(counts.leaf_bytes(2).len(), LEAF - 1);
        assert!(counts.leaf_bytes(3).is_empty());
        counts.clear_changed();
        assert!(counts.changed_leaves().is_empty());
        counts.decrement(1).unwrap();
        assert_eq!(counts.changed_leaves(), [0]);
    }

    #[test]
    fn a_uniform_leaf_ends_where_the_file_does() {
        let mut counts = Counts::new(COUNTS_PER_LEAF + 2);
        counts.load_leaf(COUNTS_PER_LEAF, LoadedCounts::Uniform(7)).unwrap();
        counts.finish_load().unwrap();
        assert_eq!((counts.leaf_bytes(1), counts.in_use()), (&[7, 7][..], 2));
    }

    #[test]
    fn loading_refuses_what_does_not_fit_together() {
        let mut counts = Counts::new(10);
        assert!(counts.load_leaf(0, LoadedCounts::Each(&[0; 10])).is_ok());
        assert!(counts.load_leaf(0, LoadedCounts::Each(&[0; 4000])).is_ok());
        assert!(counts.load_leaf(0, LoadedCounts::Each(&[1; 11])).is_err());
        assert!(counts.load_leaf(1, LoadedCounts::Each(&[1])).is_err());
        assert!(counts.load_leaf(u64::MAX / 4000 * 4000, LoadedCounts::Each(&[1])).is_err());
        assert!(counts.load_leaf(0, LoadedCounts::Uniform(255)).is_err());
        assert!(counts.load_overflow(1, 254).is_err());
        counts.load_leaf(0, LoadedCounts::Each(&[255])).unwrap();
        assert!(counts.clone().finish_load().is_err());
        counts.load_overflow(0, 255).unwrap();
        assert!(counts.load_overflow(0, 256).is_err());
        counts.clone().finish_load().unwrap();
        counts.load_overflow(9, 300).unwrap();
        assert!(counts.finish_load().is_err());
    }
}
