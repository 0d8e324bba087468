//! XML of a dm-thin pool: what is read as one is written and reads as the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vellum_dm_bridge::{MetadataWriter, Packing, XmlWriter, read_xml};

fn again(text: &[u8]) -> Option<Vec<u8>> {
    let mut xml = XmlWriter::new(Vec::new());
    read_xml(text, &mut xml).ok()?;
    Some(xml.into_inner())
}

fuzz_target!(|data: &[u8]| {
    let Some(once) = again(data) else { return };
    let twice = again(&once).expect("what we write is a pool");
    assert_eq!(once, twice);
    // A run of any length is one element, so only what is small is written as metadata.
    if !data.windows(5).any(|window| window.iter().all(u8::is_ascii_digit)) {
        let mut writer = MetadataWriter::new(vec![0; 1 << 20], Packing::Full).expect("a size");
        let _ = read_xml(&once[..], &mut writer);
    }
});
