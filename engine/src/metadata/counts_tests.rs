//! Tests of counts: overflow, changed leaves, chunks, loading. Read next: `counts.rs`.

use super::counts::{Counts, LoadedCounts};
use crate::error::ErrorKind;
use crate::format::COUNTS_PER_LEAF;

const LEAF: usize = COUNTS_PER_LEAF as usize;

fn reloaded(counts: &Counts) -> Counts {
    let mut copy = Counts::new(counts.len());
    for leaf in 0..counts.len().div_ceil(COUNTS_PER_LEAF) {
        let bytes = counts.leaf_bytes(leaf as usize);
        copy.load_leaf(leaf * COUNTS_PER_LEAF, LoadedCounts::Each(&bytes)).unwrap();
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
    assert_eq!((counts.leaf_bytes(1), counts.in_use()), (vec![7, 7], 2));
}

/// A leaf that was uniform when the file ended in it must not lend its count to what the file gains.
#[test]
fn growth_ends_a_uniform_leaf() {
    let mut counts = Counts::new(10);
    counts.load_leaf(0, LoadedCounts::Uniform(3)).unwrap();
    counts.finish_load().unwrap();
    counts.grow(12);
    assert_eq!((counts.get(9), counts.get(10), counts.in_use()), (3, 0, 10));
    assert_eq!(counts.changed_leaves(), [0], "its pointer on disk says 3 for all");
    counts.grow(COUNTS_PER_LEAF + 1);
    assert_eq!((counts.get(9), counts.get(11), counts.get(COUNTS_PER_LEAF)), (3, 0, 0));
}

#[test]
fn equal_counts_take_no_memory() {
    let mut counts = Counts::new(3 * COUNTS_PER_LEAF);
    counts.increment_run(5, 2 * COUNTS_PER_LEAF).unwrap();
    assert_eq!((counts.in_use(), counts.get(4), counts.get(5)), (2 * COUNTS_PER_LEAF, 0, 1));
    assert_eq!((0..3).map(|leaf| counts.make_uniform(leaf)).collect::<Vec<_>>(), [None, Some(1), None]);
    counts.increment_run(0, 5).unwrap();
    assert_eq!(counts.make_uniform(0), Some(1));
    assert_eq!(counts.leaf(0), LoadedCounts::Uniform(1));
    counts.decrement(7).unwrap();
    assert_eq!((counts.get(6), counts.get(7), counts.in_use()), (1, 0, 2 * COUNTS_PER_LEAF + 4));
    assert!(counts.is_any_zero(6, 2) && !counts.is_any_zero(8, COUNTS_PER_LEAF));
    assert!(counts.is_any_zero(2 * COUNTS_PER_LEAF, COUNTS_PER_LEAF + 1) && !counts.is_any_zero(7, 0));
    assert!(counts.increment_run(2 * COUNTS_PER_LEAF + 1, COUNTS_PER_LEAF).is_err());
    assert_eq!(counts.in_use(), 2 * COUNTS_PER_LEAF + 4);
}

/// Counts pass the largest that fits in a byte one by one, also where a whole leaf is raised at once.
#[test]
fn a_run_passes_into_the_overflow() {
    let mut counts = Counts::new(COUNTS_PER_LEAF);
    for expected in 1..=256 {
        counts.increment_run(0, COUNTS_PER_LEAF).unwrap();
        assert_eq!((counts.get(0), counts.get(COUNTS_PER_LEAF - 1)), (expected, expected));
    }
    assert_eq!((counts.overflow_len(), counts.make_uniform(0)), (LEAF, None));
}

#[test]
fn zeros_are_where_counts_are_zero() {
    let mut counts = Counts::new(3 * COUNTS_PER_LEAF + 70);
    counts.increment_run(COUNTS_PER_LEAF, COUNTS_PER_LEAF).unwrap();
    for index in [3, 2 * COUNTS_PER_LEAF + 1, 3 * COUNTS_PER_LEAF + 69] {
        counts.increment(index).unwrap();
    }
    let zeros = counts.zeros();
    for index in 0..zeros.len() as u64 * 64 {
        let expected = index < counts.len() && counts.is_zero(index);
        assert_eq!(zeros[index as usize / 64] >> (index % 64) & 1 == 1, expected, "{index}");
    }
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
