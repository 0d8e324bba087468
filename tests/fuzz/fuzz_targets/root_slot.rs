//! Root slots: any bytes, then any body behind a right header.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vellum_engine::format::RootSlot;
use vellum_fuzz::{POOL, fix_front_checksum, padded, put};

fuzz_target!(|data: &[u8]| {
    let _ = RootSlot::decode(data, &POOL);
    let mut unit = padded(&[&[0; 32], data].concat(), 512);
    put(&mut unit, 4, &(data.len().saturating_sub(8) as u32).to_le_bytes());
    put(&mut unit, 8, b"VELROOT1");
    put(&mut unit, 16, &POOL);
    fix_front_checksum(&mut unit);
    if let Ok(slot) = RootSlot::decode(&unit, &POOL) {
        let page = slot.encode(&POOL).expect("it came out of one unit");
        assert_eq!(RootSlot::decode(&page, &POOL), Ok(slot));
    }
});
