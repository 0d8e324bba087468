//! Deltas: any bytes, then any body behind a right header of each kind.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vellum_engine::format::{Delta, Reader};

fn check(bytes: &[u8]) {
    let Ok(delta) = Delta::read(&mut Reader::new(bytes)) else { return };
    let mut encoded = Vec::new();
    delta.encode_into(&mut encoded);
    assert_eq!(encoded.len(), delta.encoded_bytes());
    assert_eq!(Delta::read(&mut Reader::new(&encoded)), Ok(delta));
}

fuzz_target!(|data: &[u8]| {
    check(data);
    let length = (data.len() as u16).to_le_bytes();
    for kind in 0..10 {
        check(&[&[kind, 0], &length[..], data].concat());
    }
});
