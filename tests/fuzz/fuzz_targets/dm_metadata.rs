//! dm-thin's metadata with changed bytes and mended checksums: checked, read strictly and leniently, and written again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;
use vellum_dm_bridge::format::{BLOCK_BYTES, BlockKind, DeviceDetails, kind_of, seal};
use vellum_dm_bridge::{Metadata, MetadataWriter, Packing, PoolHeader, Run, Sink, XmlWriter, check};

const BLOCKS: usize = 64;

/// Two devices that share a tree of three nodes, one with a block alone, counts above two.
fn pool(sink: &mut impl Sink) -> vellum_dm_bridge::Result<()> {
    let nr_data_blocks = 20_000;
    sink.begin(&PoolHeader { time: 1, data_block_sectors: 128, nr_data_blocks, ..PoolHeader::default() })?;
    let details = DeviceDetails { snapshotted_time: 1, ..DeviceDetails::default() };
    for id in 0..4 {
        sink.device(id, &details)?;
        for at in 0..if id < 2 { 300 } else { 20 } {
            let virtual_begin = at * 2 + u64::from(id) / 2;
            sink.run(&Run { virtual_begin, data_begin: at, length: 1, time: 0 })?;
        }
        sink.device_end()?;
    }
    sink.end()
}

static WHOLE: LazyLock<(Vec<u8>, Vec<Option<BlockKind>>)> = LazyLock::new(|| {
    let mut image = vec![0; BLOCKS * BLOCK_BYTES];
    pool(&mut MetadataWriter::new(&mut image, Packing::Full).expect("a size")).expect("it fits");
    let kinds = image.as_chunks::<BLOCK_BYTES>().0.iter().map(kind_of).collect();
    (image, kinds)
});

/// Takes four bytes a change: block, place in units of four bytes (two bytes), value.
fn changed(data: &[u8]) -> Vec<u8> {
    let (mut image, kinds) = WHOLE.clone();
    for [block, low, high, value] in data.as_chunks::<4>().0 {
        let block = usize::from(*block) % BLOCKS;
        let place = usize::from(u16::from_le_bytes([*low, *high])) % BLOCK_BYTES;
        image[block * BLOCK_BYTES + place] = *value;
    }
    for (block, kind) in image.as_chunks_mut::<BLOCK_BYTES>().0.iter_mut().zip(&kinds) {
        if let Some(kind) = kind {
            seal(block, *kind);
        }
    }
    image
}

fuzz_target!(|data: &[u8]| {
    let image = changed(data);
    let report = check(&image).expect("memory can be read");
    report.findings.iter().for_each(|finding| drop(finding.to_string()));
    let Ok(metadata) = Metadata::open(&image) else { return };
    let mut again = vec![0; 4 * BLOCKS * BLOCK_BYTES];
    let mut writer = MetadataWriter::new(&mut again, Packing::Shareable).expect("a size");
    if metadata.copy_to(&mut writer).is_ok() {
        // The two are the same pool, though not the same bytes; times that the kernel would trip over stay as they were.
        let mut both = [&image, &again].map(|image| {
            let mut xml = XmlWriter::new(Vec::new());
            Metadata::open(image)
                .and_then(|metadata| metadata.copy_to(&mut xml))
                .expect("it was read before");
            xml.into_inner()
        });
        assert_eq!(std::mem::take(&mut both[0]), both[1]);
    } else {
        assert!(!report.is_clean(), "what is clean can be read");
    }
    let _ = metadata.lenient().copy_to(&mut XmlWriter::new(std::io::sink()));
    if let Ok(snapshot) = Metadata::open_snapshot(&image) {
        let _ = snapshot.lenient().copy_to(&mut XmlWriter::new(std::io::sink()));
    }
});
