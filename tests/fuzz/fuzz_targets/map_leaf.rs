//! Bodies of mapping leaves, and every operation on a leaf that came out of one.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vellum_engine::format::{MapLeaf, WINDOW_BLOCKS};
use vellum_engine::units::VirtualBlock;

fn check(leaf: &MapLeaf) {
    let body = leaf.encode();
    assert_eq!(body.len(), leaf.encoded_bytes());
    assert_eq!(MapLeaf::decode(&body, 0, WINDOW_BLOCKS - 1).as_ref(), Ok(leaf));
}

fuzz_target!(|data: &[u8]| {
    let Ok(leaf) = MapLeaf::decode(data, 0, WINDOW_BLOCKS - 1) else { return };
    check(&leaf);
    let (Some(first), Some(last)) = (leaf.first(), leaf.last()) else { return };
    let middle = VirtualBlock((first.0 + last.0) / 2);
    let mut changed = leaf.clone();
    let mapping = changed.set(middle, None);
    assert_eq!((leaf.get(middle), changed.get(middle)), (mapping, None));
    check(&changed);
    changed.set(middle, mapping);
    assert!(changed.iter().eq(leaf.iter()));
    check(&changed);
    if changed.mapped_blocks() >= 2 {
        let (separator, right) = changed.split();
        assert_eq!((changed.last() < Some(separator), right.first()), (true, Some(separator)));
        changed.append(right);
        assert!(changed.iter().eq(leaf.iter()));
    }
    let mut removed = 0;
    changed.remove_range(first, middle, |mapping| removed += u64::from(mapping.is_valid()));
    assert_eq!(removed + changed.mapped_blocks(), leaf.mapped_blocks());
    check(&changed);
});
