//! Volume records: any bytes, then any body behind a right header.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vellum_engine::format::{Reader, VolumeRecord};

fn check(bytes: &[u8]) {
    if let Ok(record) = VolumeRecord::read(&mut Reader::new(bytes)) {
        let encoded = record.encode().expect("what was stored can be stored");
        assert_eq!(VolumeRecord::read(&mut Reader::new(&encoded)), Ok(record));
    }
}

fuzz_target!(|data: &[u8]| {
    check(data);
    let length = (data.len() as u16).to_le_bytes();
    check(&[&[1, 0], &length[..], data].concat());
});
