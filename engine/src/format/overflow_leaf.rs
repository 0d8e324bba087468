//! Overflow leaves: the counts that do not fit in the byte of a count leaf.
//!
//! Owns the shape of the leaf. Read next: `metadata/counts.rs`.

use super::codec::{Reader, Writer};
use super::count_leaf::COUNT_IN_OVERFLOW;
use super::page::BODY_BYTES;
use crate::error::{Error, Result};

// body: entries, one behind the other, numbers rising
// offset  size  field
//      0     6  number of the data block or page
//      6     4  its count, 255 or more
const ENTRY_BYTES: usize = 10;
/// Entries that fit in one leaf.
pub const OVERFLOWS_PER_LEAF: usize = BODY_BYTES / ENTRY_BYTES;

/// The body of a leaf with `entries` of number and count. Panics when there are more than [`OVERFLOWS_PER_LEAF`].
pub fn encode_overflow_leaf(entries: &[(u64, u32)]) -> Vec<u8> {
    assert!(entries.len() <= OVERFLOWS_PER_LEAF, "{} overflows do not fit in a leaf", entries.len());
    let mut out = Writer::with_capacity(entries.len() * ENTRY_BYTES);
    for (number, count) in entries {
        out.u48(*number);
        out.u32(*count);
    }
    out.finish()
}

/// The entries of a leaf, as number and count. Fails with `Damaged` when numbers do not rise or a count is too small.
pub fn decode_overflow_leaf(body: &[u8]) -> Result<Vec<(u64, u32)>> {
    let mut reader = Reader::new(body);
    let mut entries = Vec::with_capacity(body.len().min(BODY_BYTES) / ENTRY_BYTES);
    let mut smallest = 0;
    while !reader.is_empty() {
        let (number, count) = (reader.u48()?, reader.u32()?);
        if number < smallest || count < u32::from(COUNT_IN_OVERFLOW) {
            return Err(Error::damaged("overflow leaf: numbers do not rise, or a count needs no overflow"));
        }
        smallest = number + 1;
        entries.push((number, count));
    }
    if entries.len() > OVERFLOWS_PER_LEAF {
        return Err(Error::damaged("overflow leaf: too many entries"));
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        let full: Vec<(u64, u32)> =
            (0..OVERFLOWS_PER_LEAF as u64).map(|index| (index * 7, 255 + index as u32)).collect();
        assert_eq!(decode_overflow_leaf(&encode_overflow_leaf(&full)), Ok(full));
        assert_eq!(decode_overflow_leaf(&[]), Ok(Vec::new()));
    }

    #[test]
    fn golden_bytes() {
        let bytes = encode_overflow_leaf(&[(1, 255), (0x0102_0304_0506, 0x0708_090a)]);
        assert_eq!(bytes, *b"\x01\0\0\0\0\0\xff\0\0\0\x06\x05\x04\x03\x02\x01\x0a\x09\x08\x07");
    }

    #[test]
    fn impossible_entries_are_damaged() {
        for entries in [&[(1, 254)][..], &[(1, 255), (1, 255)], &[(2, 255), (1, 255)]] {
            assert!(decode_overflow_leaf(&encode_overflow_leaf(entries)).is_err());
        }
        assert!(decode_overflow_leaf(&[0; 9]).is_err());
    }
}
