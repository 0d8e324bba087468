//! Bodies of volume leaves.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vellum_engine::format::{decode_volume_leaf, encode_volume_leaf};

fuzz_target!(|data: &[u8]| {
    if let Ok(records) = decode_volume_leaf(data) {
        let body = encode_volume_leaf(&records).expect("what was stored can be stored");
        assert_eq!(decode_volume_leaf(&body), Ok(records));
    }
});
