//! Log heads: any bytes, then the same with magic, pool and checksum in place.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vellum_engine::format::LogHead;
use vellum_fuzz::{POOL, fix_tail_checksum, padded, put};

fuzz_target!(|data: &[u8]| {
    let _ = LogHead::decode(data, &POOL);
    let mut page = padded(data, 4096);
    put(&mut page, 0, b"VELLOGHD");
    put(&mut page, 8, &POOL);
    fix_tail_checksum(&mut page);
    let head = LogHead::decode(&page, &POOL).expect("nothing else can be wrong with a log head");
    assert_eq!(LogHead::decode(&head.encode(), &POOL), Ok(head));
});
