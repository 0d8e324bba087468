//! Bodies of count leaves.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vellum_engine::format::{decode_count_leaf, encode_count_leaf};

fuzz_target!(|data: &[u8]| {
    if let Ok(counts) = decode_count_leaf(data) {
        assert_eq!(decode_count_leaf(&encode_count_leaf(counts)), Ok(counts));
    }
});
