//! Every defect that we know, one at a time: what our check says, what thin_check 0.9 says, what lenient reading saves.

use crate::image::Image;
use crate::import::{block_at, blocks_of, opened, options};
use crate::pools::{Pool, header, run};
use crate::round_trips::write;
use crate::tools;
use std::fs;
use tempfile::TempDir;
use vellum_dm_bridge::format::DEVICE_ID_LIMIT;
use vellum_dm_bridge::import::copy;
use vellum_dm_bridge::{Defect, LostRange, Metadata, Packing, Source, check};
use vellum_engine::storage::MemoryDisk;
use vellum_engine::units::BLOCK_BYTES;

/// Three devices. 1 and 2 have the same 600 mappings and so share a tree; 3 has the first 100 of these data blocks elsewhere.
fn pool() -> Pool {
    let mut pool = Pool { header: header(40_000), devices: Vec::new() };
    let shared: Vec<_> = (0..600).map(|at| run(at * 2, at, 1, 0)).collect();
    pool.add(1, &shared);
    pool.add(2, &shared);
    pool.add(3, &[run(0, 20_000, 500, 1), run(1000, 0, 100, 0)]);
    pool.add(4, &[run(7, 0, 50, 0)]);
    pool
}

type Break = fn(&mut Image);

/// What is broken, which of our findings tells it, and how.
const DEFECTS: &[(&str, Defect, Break)] = &[
    ("number of mapped blocks wrong", Defect::MappedBlocks, |image| {
        let node = image.superblock().details_root;
        image.put_u64(node, image.value_offset(node, 1), 599);
    }),
    ("data block leaked", Defect::Leak, |image| {
        image.set_data_bits(30_000, 2);
        image.put_u64(0, 72, image.u64(0, 72) + 1);
    }),
    ("data count too low", Defect::CountTooLow, |image| image.set_data_bits(70, 2)),
    ("data count zero, block in use", Defect::CountTooLow, |image| image.set_data_bits(20_000, 0)),
    ("data count too high", Defect::CountTooHigh, |image| image.set_data_bits(20_000, 1)),
    ("data count of 3 missing in the tree", Defect::RefCountTree, |image| {
        let node = image.superblock().data_space_map.ref_count_root;
        image.put_u32(node, 16, image.u32(node, 16) - 1);
    }),
    ("metadata block leaked", Defect::Leak, |image| {
        image.set_metadata_bits(900, 2);
        image.put_u64(0, 200, image.u64(0, 200) + 1);
    }),
    ("metadata count too low", Defect::CountTooLow, |image| {
        image.set_metadata_bits(image.device_root(0), 2);
    }),
    ("details lack a device", Defect::DeviceTrees, |image| {
        let node = image.superblock().details_root;
        image.put_u32(node, 16, 3);
    }),
    ("tree of devices lacks one", Defect::DeviceTrees, |image| {
        let node = image.superblock().mapping_root;
        image.put_u32(node, 16, 3);
    }),
    ("leaf below a third", Defect::NodeFill, |image| {
        let leaf = image.child(image.device_root(0), 0);
        image.put_u32(leaf, 16, 50);
    }),
    ("keys out of order", Defect::Node, |image| {
        let leaf = image.child(image.device_root(0), 0);
        image.put_u64(leaf, 32 + 8 * 10, 3);
    }),
    ("keys outside the parent's", Defect::Node, |image| {
        let root = image.device_root(0);
        image.put_u64(root, 32 + 8, image.u64(root, 32 + 8) + 1);
    }),
    ("room not a multiple of 3", Defect::Node, |image| {
        let leaf = image.child(image.device_root(0), 0);
        image.put_u32(leaf, 20, 251);
    }),
    ("node below itself", Defect::Node, |image| {
        let root = image.device_root(0);
        image.put_u64(root, image.value_offset(root, 0), root);
    }),
    ("node also a leaf of details", Defect::Node, |image| {
        let details = image.superblock().details_root;
        let root = image.device_root(0);
        image.put_u64(root, image.value_offset(root, 1), details);
    }),
    ("data block beyond the device", Defect::DataBlock, |image| {
        let leaf = image.child(image.device_root(2), 0);
        image.put_u64(leaf, image.value_offset(leaf, 5), 40_000 << 24 | 1);
    }),
    ("nr_allocated wrong, data", Defect::NrAllocated, |image| image.put_u64(0, 72, image.u64(0, 72) - 5)),
    ("nr_allocated wrong, metadata", Defect::NrAllocated, |image| image.put_u64(0, 200, 3)),
    ("nr_free wrong", Defect::NrFree, |image| {
        let index = image.superblock().data_space_map.bitmap_root;
        image.put_u32(index, image.value_offset(index, 1) + 8, 3);
    }),
    ("none_free_before wrong", Defect::NoneFreeBefore, |image| {
        let index = image.superblock().data_space_map.bitmap_root;
        image.put_u32(index, image.value_offset(index, 1) + 12, 16_000);
    }),
    ("count behind the end of the device", Defect::BeyondEnd, |image| image.set_data_bits(40_001, 2)),
    ("unused index entry not zero", Defect::BeyondEnd, |image| {
        let index = image.superblock().metadata_space_map.bitmap_root;
        image.put_u64(index, 16 + 16 * 9, 5);
    }),
    ("data block size 100", Defect::DataBlockSize, |image| image.put_u32(0, 336, 100)),
    ("version 1", Defect::Superblock, |image| image.put_u32(0, 40, 1)),
    ("unknown read-only feature", Defect::Superblock, |image| image.put_u32(0, 356, 1)),
    ("incompatible feature", Defect::Superblock, |image| image.put_u32(0, 360, 1)),
    ("device number over 24 bits", Defect::DeviceId, |image| {
        let superblock = image.superblock();
        image.put_u64(superblock.mapping_root, 32 + 8 * 3, 1 << 24);
        image.put_u64(superblock.details_root, 32 + 8 * 3, 1 << 24);
    }),
    ("mapping younger than the pool", Defect::Time, |image| {
        let leaf = image.child(image.device_root(2), 0);
        image.put_u64(leaf, image.value_offset(leaf, 5), 20_005 << 24 | 9);
    }),
    ("shared block, time not before snapshot", Defect::SharedTime, |image| {
        let node = image.superblock().details_root;
        image.put_u32(node, image.value_offset(node, 3) + 20, 0);
    }),
    ("shared tree, time not before snapshot", Defect::SharedTime, |image| {
        let node = image.superblock().details_root;
        image.put_u32(node, image.value_offset(node, 1) + 20, 0);
    }),
    ("metadata larger than the device", Defect::MetadataSize, |image| image.put_u64(0, 192, 5000)),
    ("leaf with a flipped bit", Defect::Node, |image| {
        let leaf = image.child(image.device_root(2), 1);
        image.bytes[leaf as usize * 4096 + 2048] ^= 1;
    }),
    ("leaf all zero", Defect::Node, |image| {
        let leaf = image.child(image.device_root(0), 1) as usize;
        image.bytes[leaf * 4096..][..4096].fill(0);
    }),
    ("leaf written to another place", Defect::Node, |image| {
        let root = image.device_root(0);
        let (from, to) = (image.child(root, 0) as usize * 4096, image.child(root, 1) as usize * 4096);
        image.bytes.copy_within(from..from + 4096, to);
    }),
    ("child beyond the device", Defect::Node, |image| {
        let root = image.device_root(0);
        image.put_u64(root, image.value_offset(root, 1), 1 << 50);
    }),
    ("root of a device lost", Defect::Node, |image| {
        let root = image.device_root(2) as usize;
        image.bytes[root * 4096..][..4096].fill(0xff);
    }),
    ("tree of devices lost", Defect::Node, |image| {
        let root = image.superblock().mapping_root as usize;
        image.bytes[root * 4096..][..4096].fill(0);
    }),
    ("details lost", Defect::Node, |image| {
        let root = image.superblock().details_root as usize;
        image.bytes[root * 4096..][..4096].fill(0);
    }),
    ("data bitmap lost", Defect::SpaceMap, |image| {
        let index = image.superblock().data_space_map.bitmap_root;
        let bitmap = image.u64(index, image.value_offset(index, 0)) as usize;
        image.bytes[bitmap * 4096..][..4096].fill(0);
    }),
    ("metadata index lost", Defect::SpaceMap, |image| {
        let index = image.superblock().metadata_space_map.bitmap_root as usize;
        image.bytes[index * 4096..][..4096].fill(0);
    }),
    ("superblock with a flipped bit", Defect::Superblock, |image| image.bytes[50] ^= 1),
    ("superblock all zero", Defect::Superblock, |image| image.bytes[..4096].fill(0)),
    ("metadata snapshot that is none", Defect::MetadataSnapshot, |image| image.put_u64(0, 56, 3)),
];

/// Defects that leave less than everything: of 1850 mappings those that a lenient import brings, those that read as errors because their
/// range is told as lost, and those that are not there, which is told in another way: there is no such device, it counts more
/// blocks than it has, or there is nothing to import. All others lose nothing.
const SAVED: &[(&str, [usize; 3])] = &[
    ("leaf below a third", [1446, 0, 404]),
    ("keys out of order", [1346, 504, 0]),
    ("keys outside the parent's", [1346, 502, 2]),
    ("room not a multiple of 3", [1346, 504, 0]),
    ("data block beyond the device", [1849, 1, 0]),
    ("data block size 100", [0, 0, 1850]),
    ("version 1", [0, 0, 1850]),
    ("incompatible feature", [0, 0, 1850]),
    ("unknown read-only feature", [0, 0, 1850]),
    ("device number over 24 bits", [1800, 0, 50]),
    ("leaf with a flipped bit", [1598, 252, 0]),
    ("leaf all zero", [1346, 504, 0]),
    ("leaf written to another place", [1346, 504, 0]),
    ("tree of devices lost", [50, 1800, 0]),
    ("superblock with a flipped bit", [0, 0, 1850]),
    ("superblock all zero", [0, 0, 1850]),
];

#[test]
fn every_defect_is_found() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("metadata");
    let (whole, _) = write(&pool(), 4 << 20, Packing::Full);
    fs::write(&path, &whole).expect("space");
    tools::assert_thin_check(&path);
    println!("{:<42} {:<44} {:<10} saved, errors, told", "defect", "our check", "thin_check");
    for (name, expected, damage) in DEFECTS {
        let mut image = Image { bytes: whole.clone() };
        damage(&mut image);
        let report = check(&image.bytes).expect("memory can be read");
        let found = report.findings.iter().find(|finding| finding.defect == *expected);
        let found = found.unwrap_or_else(|| panic!("{name}: {:#?}", report.findings));
        let mut others: Vec<_> =
            report.findings.iter().map(|finding| format!("{:?}", finding.defect)).collect();
        others.sort();
        others.dedup();
        fs::write(&path, &image.bytes).expect("space");
        let theirs = if tools::thin_check(&path).0 { "passes" } else { "finds it" };
        let saved = saved(&image.bytes, name);
        println!("{name:<42} {:<44} {theirs:<10} {saved:?}", others.join(" "));
        println!("    {found}");
        let whole = [pool().mappings() as usize, 0, 0];
        let wanted = SAVED.iter().find(|(defect, _)| defect == name).map_or(whole, |(_, saved)| *saved);
        assert_eq!(saved, wanted, "{name}");
    }
}

/// What a lenient import brings, as in [`SAVED`]. What it brings is right: nothing reads as something else, or as zeros without a word.
fn saved(image: &Vec<u8>, name: &str) -> [usize; 3] {
    let total = pool().mappings() as usize;
    let Ok(metadata) = Metadata::open(image) else { return [0, 0, total] };
    let (mut data, mut target) = (MemoryDisk::new(0), MemoryDisk::new(0));
    let imported = copy(&metadata.lenient(), &Numbers, &mut data, &mut target, &options(), &mut |_| {});
    let Ok(imported) = imported else { return [0, 0, total] };
    let mut pool_now = opened(data, target, name);
    let mut saved = [0; 3];
    for (id, _, runs) in &pool().devices {
        let blocks = blocks_of(runs, 1);
        let Some(volume) = imported.volumes.iter().find(|volume| volume.device == *id) else {
            // A device whose number cannot be is told by that number.
            let is_this = |lost: &LostRange| {
                (lost.first..=lost.last).contains(&u64::from(*id)) || lost.first == DEVICE_ID_LIMIT
            };
            let is_told = imported.lost.device_numbers.iter().any(is_this);
            assert!(is_told, "{name}: device {id} is gone, and nobody says so");
            saved[2] += blocks.len();
            continue;
        };
        for (at, block) in blocks {
            match pool_now.read(volume.record.id, at * BLOCK_BYTES, 512) {
                Err(_) => saved[1] += 1,
                Ok(_) => {
                    let found = block_at(&mut pool_now, volume.record.id, at);
                    // It is told that the device has fewer than it should.
                    let is_short = volume.mapped_blocks < volume.counted_blocks;
                    let is_right = found == Some(block);
                    assert!(is_right || is_short && found.is_none(), "{name}: device {id}, block {at}");
                    saved[if is_right { 0 } else { 2 }] += 1;
                }
            }
        }
    }
    saved
}

/// A data device on which every block holds its number.
struct Numbers;

impl Source for Numbers {
    fn length_bytes(&self) -> std::io::Result<u64> {
        Ok(40_000 * BLOCK_BYTES)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> std::io::Result<()> {
        let number = (offset / BLOCK_BYTES + 1).to_le_bytes();
        buffer.as_chunks_mut::<8>().0.iter_mut().for_each(|place| *place = number);
        Ok(())
    }
}
