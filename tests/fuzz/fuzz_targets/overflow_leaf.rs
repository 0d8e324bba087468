//! Bodies of overflow leaves.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vellum_engine::format::{decode_overflow_leaf, encode_overflow_leaf};

fuzz_target!(|data: &[u8]| {
    if let Ok(entries) = decode_overflow_leaf(data) {
        assert_eq!(decode_overflow_leaf(&encode_overflow_leaf(&entries)), Ok(entries));
    }
});
