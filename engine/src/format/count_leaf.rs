//! Count leaves: one byte a data block or page, its reference count.
//!
//! Owns the shape of the leaf. A leaf whose counts are all equal has no page: its pointer names page 0 and holds the count
//! in place of a checksum. Which leaf holds which block follows from [`COUNTS_PER_LEAF`]; see `metadata/counts.rs`.

use super::page::BODY_BYTES;
use crate::error::{Error, Result};

// body: counts, a byte each, of the blocks or pages from the page's first key on
//     0..=254  the count
//         255  the count stands in the overflow, see `overflow_leaf.rs`
/// Counts that stand in one leaf. The last leaf may hold fewer.
pub const COUNTS_PER_LEAF: u64 = BODY_BYTES as u64;
/// The byte that says "look in the overflow".
pub const COUNT_IN_OVERFLOW: u8 = u8::MAX;

/// The body of a leaf with `counts`. Panics when there are none or more than [`COUNTS_PER_LEAF`].
pub fn encode_count_leaf(counts: &[u8]) -> Vec<u8> {
    assert!((1..=BODY_BYTES).contains(&counts.len()), "{} counts are no leaf", counts.len());
    counts.to_vec()
}

/// The counts of a leaf. Fails with `Damaged` when there are none or too many.
pub fn decode_count_leaf(body: &[u8]) -> Result<&[u8]> {
    if !(1..=BODY_BYTES).contains(&body.len()) {
        return Err(Error::damaged("count leaf: impossible length"));
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_is_the_bytes_themselves() {
        let counts: Vec<u8> = (0..COUNTS_PER_LEAF).map(|index| index as u8).collect();
        assert_eq!(encode_count_leaf(&counts), counts);
        assert_eq!(decode_count_leaf(&counts), Ok(&counts[..]));
        assert_eq!(decode_count_leaf(&[3]), Ok(&[3][..]));
    }

    #[test]
    fn impossible_lengths_are_damaged() {
        assert!(decode_count_leaf(&[]).is_err());
        assert!(decode_count_leaf(&[0; BODY_BYTES + 1]).is_err());
    }
}
