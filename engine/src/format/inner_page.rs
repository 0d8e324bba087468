//! Inner pages: keys and the pointers to the pages behind them.
//!
//! Owns the search in one page. How trees grow and shrink is the metadata folder's affair.

use super::codec::{Reader, U48_LIMIT, Writer};
use super::page::{BODY_BYTES, POINTER_BYTES, Pointer};
use super::search::partition_near;
use crate::error::{Error, Result};

// body: entries, one behind the other, keys rising
// offset  size  field
//      0     6  key: no key of the child is smaller
//      6    28  pointer, see `page.rs`
const ENTRY_BYTES: usize = 6 + POINTER_BYTES;
/// Entries that fit in an inner page.
pub const INNER_CAPACITY: usize = BODY_BYTES / ENTRY_BYTES;

/// An inner page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InnerPage {
    /// 1 when the children are leaves, otherwise one more than theirs.
    pub level: u8,
    /// First key and pointer of every child, keys rising.
    pub entries: Vec<(u64, Pointer)>,
}

impl InnerPage {
    /// Entries that fit in an inner page.
    pub const CAPACITY: usize = INNER_CAPACITY;

    /// Which child may hold `key`: the last one whose key is not greater, or the first.
    #[inline]
    pub fn child_index(&self, key: u64) -> usize {
        let [(low, _), .., (high, _)] = self.entries[..] else { return 0 };
        if key >= high {
            return self.entries.len() - 1;
        }
        // As if keys were spread evenly. They have 48 bits, and no page has 2^16 entries.
        let guess = key.saturating_sub(low) * self.entries.len() as u64 / (high - low).max(1);
        partition_near(self.entries.len(), guess as usize, |index| self.entries[index].0 <= key)
            .saturating_sub(1)
    }

    /// Virtual blocks mapped below.
    pub fn mapped(&self) -> u64 {
        self.entries.iter().map(|(_, pointer)| pointer.mapped).sum()
    }

    /// The body of the page. Panics when a key has more than 48 bits.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::with_capacity(self.entries.len() * ENTRY_BYTES);
        for (key, pointer) in &self.entries {
            out.u48(*key);
            pointer.write(&mut out);
        }
        out.finish()
    }

    /// Reads the body of an inner page of `level`. Fails with `Damaged` when it is none.
    pub fn decode(level: u8, body: &[u8]) -> Result<Self> {
        let mut reader = Reader::new(body);
        let mut entries = Vec::with_capacity(body.len().min(BODY_BYTES) / ENTRY_BYTES);
        // Children of level 2 and up are inner pages, which are written twice.
        let want_copy = level >= 2;
        let mut smallest = 0;
        while !reader.is_empty() {
            let (key, pointer) = (reader.u48()?, Pointer::read(&mut reader)?);
            if key < smallest {
                return Err(Error::damaged("inner page: keys do not rise"));
            }
            if pointer.copy.is_some() != want_copy {
                return Err(Error::damaged("inner page: inner children have a copy, and only they"));
            }
            smallest = key + 1;
            entries.push((key, pointer));
        }
        if level == 0 || entries.is_empty() || entries.len() > INNER_CAPACITY {
            return Err(Error::damaged("inner page: impossible level or number of entries"));
        }
        debug_assert!(smallest <= U48_LIMIT);
        Ok(Self { level, entries })
    }
}

#[cfg(test)]
mod tests {
    use super::super::golden::{self, inner_pointer, leaf_pointer};
    use super::*;

    fn sample() -> InnerPage {
        InnerPage {
            level: 1,
            entries: vec![(16, leaf_pointer(4)), (32, leaf_pointer(5)), (1 << 40, leaf_pointer(6))],
        }
    }

    #[test]
    fn round_trip() {
        assert_eq!(InnerPage::decode(1, &sample().encode()), Ok(sample()));
        let entries = (0..INNER_CAPACITY as u64).map(|index| (index, inner_pointer(4 + 2 * index))).collect();
        let full = InnerPage { level: 3, entries };
        assert!(full.encode().len() <= BODY_BYTES);
        assert_eq!(InnerPage::decode(3, &full.encode()), Ok(full));
    }

    #[test]
    fn golden_bytes() {
        golden::assert_golden(
            &sample().encode(),
            "100000000000040000000000000000000000070000000000785634122a0000000000",
            0x3bb1_4c21_0a96_21f4,
        );
    }

    #[test]
    fn the_child_is_the_last_that_does_not_start_behind_the_key() {
        let page = sample();
        let found = [0, 16, 31, 32, 33, (1 << 40) - 1, 1 << 40, u64::MAX].map(|key| page.child_index(key));
        assert_eq!(found, [0, 0, 0, 1, 1, 1, 2, 2]);
        assert_eq!(page.mapped(), 3 * 42);
    }

    #[test]
    fn impossible_pages_are_damaged() {
        let refused = |level, entries: &[(u64, Pointer)]| {
            let body = InnerPage { level: 1, entries: entries.to_vec() }.encode();
            assert!(InnerPage::decode(level, &body).is_err());
        };
        refused(1, &[]);
        refused(0, &[(1, leaf_pointer(4))]);
        refused(1, &[(1, leaf_pointer(4)), (1, leaf_pointer(5))]);
        refused(1, &[(2, leaf_pointer(4)), (1, leaf_pointer(5))]);
        refused(1, &[(1, inner_pointer(4))]);
        refused(2, &[(1, leaf_pointer(4))]);
        golden::damage(&sample().encode(), |bytes| drop(InnerPage::decode(1, bytes)));
    }
}
