//! Superblocks: any bytes, then the same with magic, version and checksum in place.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vellum_engine::format::{FORMAT_VERSION, Superblock};
use vellum_fuzz::{fix_tail_checksum, padded, put};

fuzz_target!(|data: &[u8]| {
    let _ = Superblock::decode(data);
    let mut page = padded(data, 4096);
    put(&mut page, 0, b"VELLUMTP");
    put(&mut page, 8, &FORMAT_VERSION.to_le_bytes());
    // Sizes are constants, which a fuzzer would need long to find.
    if data.first().is_some_and(|byte| byte % 2 == 0) {
        put(&mut page, 16, &[0; 8]);
        put(&mut page, 32, &[0, 0, 1, 0, 0, 16, 0, 0, 0, 16, 0, 0]);
    }
    fix_tail_checksum(&mut page);
    if let Ok(superblock) = Superblock::decode(&page) {
        assert_eq!(Superblock::decode(&superblock.encode()), Ok(superblock));
    }
});
