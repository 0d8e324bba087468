//! Whole pages of every kind: any bytes under a right checksum, then what their bodies hold.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vellum_engine::error::Result;
use vellum_engine::format::{
    InnerPage, MapLeaf, PageHeader, PageKind, U48_LIMIT, decode_count_leaf, decode_overflow_leaf,
    decode_volume_leaf, encode_count_leaf, encode_overflow_leaf, encode_volume_leaf, inspect, open, seal,
};
use vellum_fuzz::{fix_front_checksum, padded, pointer_to};

/// The body again, if it is one.
fn rewritten(header: &PageHeader, body: &[u8]) -> Result<Vec<u8>> {
    match header.kind {
        PageKind::MapLeaf => Ok(MapLeaf::decode(body, header.first_key, header.last_key)?.encode()),
        PageKind::Inner => Ok(InnerPage::decode(header.level, body)?.encode()),
        PageKind::VolumeLeaf => encode_volume_leaf(&decode_volume_leaf(body)?),
        PageKind::CountLeaf => Ok(encode_count_leaf(decode_count_leaf(body)?)),
        PageKind::OverflowLeaf => Ok(encode_overflow_leaf(&decode_overflow_leaf(body)?)),
    }
}

fuzz_target!(|data: &[u8]| {
    let _ = inspect(data);
    let mut page = padded(data, 4096);
    fix_front_checksum(&mut page);
    let Ok(found) = inspect(&page) else { return };
    assert!(found.checksum_ok);
    let pointer = pointer_to(&found.header, &page);
    let (header, body) = open(&page, &found.pool, &pointer).expect("the pointer was made for this page");
    assert_eq!((header, body), (found.header, found.body));
    let Ok(again) = rewritten(&header, body) else { return };
    assert_eq!(rewritten(&header, &again).as_ref(), Ok(&again));
    if header.number.0 < U48_LIMIT && header.generation.0 < U48_LIMIT {
        let (sealed, checksum) = seal(&header, &found.pool, &again);
        assert_eq!(pointer_to(&header, &sealed).checksum, checksum);
        assert_eq!(open(&sealed, &found.pool, &pointer_to(&header, &sealed)), Ok((header, &again[..])));
    }
});
