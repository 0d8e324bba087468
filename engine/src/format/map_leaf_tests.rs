//! A mapping leaf does what a map of single blocks does, and stays in its shortest form.

use super::*;
use crate::units::{DataBlock, SectorMask, VirtualBlock};
use proptest::prelude::*;
use std::collections::BTreeMap;

const BASE: u64 = 2 * WINDOW_BLOCKS;

type Model = BTreeMap<u64, Mapping>;

#[derive(Clone, Debug)]
enum Step {
    Set(u64, Option<Mapping>),
    Fill { first: u64, count: u64, block: u64 },
    Remove { first: u64, last: u64 },
    SplitAndAppend,
}

fn mappings() -> impl Strategy<Value = Mapping> {
    let masks = (any::<u16>(), any::<u16>(), 0..40u64, 100..140u64);
    masks.prop_map(|(upper, lower, first, second)| {
        let lower =
            Layer { block: DataBlock(second), mask: SectorMask(lower).without(SectorMask(upper | 1)) };
        let upper = Layer { block: DataBlock(first), mask: SectorMask(upper | 1) };
        Mapping { upper, lower: (!lower.mask.is_empty()).then_some(lower) }
    })
}

fn steps() -> impl Strategy<Value = Step> {
    // Few blocks and aligned runs, so that neighbours meet.
    let offset = || prop_oneof![0..48u64, WINDOW_BLOCKS - 24..WINDOW_BLOCKS];
    prop_oneof![
        3 => (offset(), mappings()).prop_map(|(offset, mapping)| Step::Set(offset, Some(mapping))),
        3 => offset().prop_map(|offset| Step::Set(offset, Some(Mapping::single(DataBlock(offset + 9), SectorMask::FULL)))),
        2 => offset().prop_map(|offset| Step::Set(offset, None)),
        1 => (0..40u64, 1..9u64, 0..2u64)
            .prop_map(|(first, count, set)| Step::Fill { first, count, block: first + 9 + set }),
        1 => (offset(), offset()).prop_map(|(first, last)| Step::Remove { first, last }),
        1 => Just(Step::SplitAndAppend),
    ]
}

fn apply(step: &Step, leaf: &mut MapLeaf, model: &mut Model) {
    match *step {
        Step::Set(offset, mapping) => set(leaf, model, BASE + offset, mapping),
        Step::Fill { first, count, block } => {
            for index in 0..count {
                let full = Mapping::single(DataBlock(block + index), SectorMask::FULL);
                set(leaf, model, BASE + first + index, Some(full));
            }
        }
        Step::Remove { first, last } => remove(leaf, model, BASE + first, BASE + last),
        Step::SplitAndAppend => split_and_append(leaf, model),
    }
}

fn set(leaf: &mut MapLeaf, model: &mut Model, block: u64, mapping: Option<Mapping>) {
    let expected = match mapping {
        Some(mapping) => model.insert(block, mapping),
        None => model.remove(&block),
    };
    assert_eq!(leaf.set(VirtualBlock(block), mapping), expected);
}

fn remove(leaf: &mut MapLeaf, model: &mut Model, first: u64, last: u64) {
    let gone: Vec<Mapping> =
        if first <= last { model.range(first..=last).map(|(_, m)| *m).collect() } else { vec![] };
    model.retain(|block, _| *block < first || *block > last);
    let mut removed = Vec::new();
    leaf.remove_range(VirtualBlock(first), VirtualBlock(last), |mapping| removed.push(mapping));
    assert_eq!(removed, gone);
}

fn split_and_append(leaf: &mut MapLeaf, model: &Model) {
    if leaf.mapped_blocks() < 2 {
        return;
    }
    let (separator, right) = leaf.split();
    assert_eq!(right.first(), Some(separator));
    assert!(leaf.last() < Some(separator) && !leaf.is_empty());
    assert_eq!(leaf.mapped_blocks() + right.mapped_blocks(), model.len() as u64);
    check_form(leaf);
    check_form(&right);
    leaf.append(right);
}

/// Sums are right, and no two neighbours could be one run.
fn check_form(leaf: &MapLeaf) {
    assert_eq!(leaf.encode().len(), leaf.encoded_bytes());
    assert_eq!(leaf.iter().count() as u64, leaf.mapped_blocks());
    let entries: Vec<MapEntry> = leaf.iter_entries().collect();
    for pair in entries.windows(2) {
        let full = |entry: &MapEntry| entry.mapping.lower.is_none() && entry.mapping.upper.mask.is_full();
        let length = u64::from(pair[0].length);
        let touch = u64::from(pair[0].offset) + length == u64::from(pair[1].offset);
        let follow = pair[0].mapping.upper.block.0 + length == pair[1].mapping.upper.block.0;
        assert!(!(full(&pair[0]) && full(&pair[1]) && touch && follow), "{pair:?} is one run");
    }
}

fn check_against(leaf: &MapLeaf, model: &Model) {
    check_form(leaf);
    let blocks = |from: u64| {
        model.range(from..).map(|(block, mapping)| (VirtualBlock(*block), *mapping)).collect::<Vec<_>>()
    };
    assert_eq!(leaf.iter().collect::<Vec<_>>(), blocks(0));
    for from in [0, BASE + 7, BASE + 30, BASE + WINDOW_BLOCKS - 10, BASE + WINDOW_BLOCKS, u64::MAX] {
        assert_eq!(leaf.iter_from(VirtualBlock(from)).collect::<Vec<_>>(), blocks(from));
    }
    assert_eq!(leaf.first(), model.keys().next().map(|block| VirtualBlock(*block)));
    assert_eq!(leaf.last(), model.keys().next_back().map(|block| VirtualBlock(*block)));
    for block in (BASE - 1..BASE + 60).chain([BASE + WINDOW_BLOCKS - 1, BASE + WINDOW_BLOCKS]) {
        assert_eq!(leaf.get(VirtualBlock(block)), model.get(&block).copied());
    }
    assert_eq!(MapLeaf::decode(&leaf.encode(), BASE, BASE + WINDOW_BLOCKS - 1).as_ref(), Ok(leaf));
}

proptest! {
    #[test]
    fn a_leaf_is_a_map(steps in prop::collection::vec(steps(), 1..120)) {
        let mut leaf = MapLeaf::new(VirtualBlock(BASE + 5));
        let mut model = Model::new();
        for step in &steps {
            apply(step, &mut leaf, &mut model);
            check_against(&leaf, &model);
        }
    }
}

#[test]
fn a_sequential_fill_is_one_entry() {
    let mut leaf = MapLeaf::new(VirtualBlock(BASE));
    for index in 0..WINDOW_BLOCKS {
        leaf.set(VirtualBlock(BASE + index), Some(Mapping::single(DataBlock(100 + index), SectorMask::FULL)));
    }
    assert_eq!((leaf.encoded_bytes(), leaf.mapped_blocks()), (10, WINDOW_BLOCKS));
    let (separator, right) = leaf.split();
    assert_eq!(
        (separator, right.mapped_blocks()),
        (VirtualBlock(BASE + WINDOW_BLOCKS / 2), WINDOW_BLOCKS / 2)
    );
}

#[test]
fn halves_are_about_equal() {
    let mut leaf = MapLeaf::new(VirtualBlock(0));
    let partial = |block| Some(Mapping::single(DataBlock(block), SectorMask(1)));
    for index in 0..400 {
        leaf.set(VirtualBlock(index * 2), partial(index));
    }
    assert!(leaf.fits());
    leaf.set(VirtualBlock(9999), partial(9999));
    assert!(!leaf.fits());
    let (_, right) = leaf.split();
    assert_eq!((leaf.encoded_bytes(), right.encoded_bytes()), (2000, 2010));
}

#[test]
fn a_leaf_filled_in_order_stays_full() {
    let mut leaf = MapLeaf::new(VirtualBlock(0));
    (0..401).for_each(|index| {
        leaf.set(VirtualBlock(index), Some(Mapping::single(DataBlock(index), SectorMask(1))));
    });
    let (separator, right) = leaf.split_last();
    assert_eq!((separator, leaf.encoded_bytes(), right.encoded_bytes()), (VirtualBlock(400), 4000, 10));
    check_form(&leaf);
    check_form(&right);
}

#[test]
fn removing_outside_the_window_removes_nothing() {
    let mut leaf = MapLeaf::new(VirtualBlock(BASE));
    leaf.set(VirtualBlock(BASE), Some(Mapping::single(DataBlock(1), SectorMask::FULL)));
    leaf.remove_range(VirtualBlock(0), VirtualBlock(BASE - 1), |_| unreachable!());
    leaf.remove_range(VirtualBlock(BASE + WINDOW_BLOCKS), VirtualBlock(u64::MAX), |_| unreachable!());
    let mut removed = 0;
    leaf.remove_range(VirtualBlock(0), VirtualBlock(u64::MAX), |_| removed += 1);
    assert_eq!((removed, leaf.is_empty(), leaf.encoded_bytes()), (1, true, 0));
}
