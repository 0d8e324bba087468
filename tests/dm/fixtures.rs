//! Metadata that Linux 6.1 wrote, kept: golden bytes for every structure, and what must be read from them.
//!
//! `fixtures/linux-6.1.hex` has the rows of 32 bytes that are not zero, by offset. It was made by the second half of
//! `kernel.sh`; run the test in `kernel.rs` with VELLUM_DM_FIXTURE set to make it again.

use crate::pools::{Pool, run};
use vellum_dm_bridge::format::{
    BLOCK_BYTES, Bitmap, Block, BlockKind, BtreeNode, DeviceDetails, IndexEntry, MetadataIndex, NodeFlags,
    Superblock, kind_of,
};
use vellum_dm_bridge::{Metadata, Report, check};

const LINUX: &str = include_str!("fixtures/linux-6.1.hex");
const BYTES: usize = 4 << 20;

/// What Linux 6.1 wrote.
pub fn linux() -> Vec<u8> {
    let mut bytes = vec![0; BYTES];
    for line in LINUX.lines() {
        let (offset, hex) = line.split_once(' ').expect("an offset");
        let offset = usize::from_str_radix(offset, 16).expect("a number");
        for (at, pair) in hex.as_bytes().chunks(2).enumerate() {
            let pair = std::str::from_utf8(pair).expect("text");
            bytes[offset + at] = u8::from_str_radix(pair, 16).expect("a number");
        }
    }
    bytes
}

fn value_bytes(block: &Block) -> usize {
    u32::from_le_bytes(*block[24..].first_chunk().expect("inside")) as usize
}

/// Every structure, decoded and encoded again, is what the kernel wrote.
#[test]
fn every_block_of_the_kernel_goes_there_and_back() {
    let image = linux();
    let mut seen = [0; 4];
    for (number, block) in (0..).zip(image.as_chunks::<BLOCK_BYTES>().0) {
        match kind_of(block) {
            None => continue,
            Some(BlockKind::Superblock) => {
                let superblock = Superblock::decode(block, number).expect("it is whole");
                assert_eq!(&*superblock.encode(number), block);
                seen[0] += 1;
            }
            Some(BlockKind::BtreeNode) => {
                let value_bytes = value_bytes(block);
                assert_same_node(block, number, value_bytes);
                seen[1] += 1;
            }
            Some(BlockKind::Bitmap) => {
                let mut bitmap = Bitmap::decode(Box::new(*block), number).expect("it is whole");
                let counts: Vec<u8> = (0..16320).map(|entry| bitmap.get(entry)).collect();
                counts.iter().enumerate().for_each(|(entry, count)| bitmap.set(entry, (*count).into()));
                assert_eq!(bitmap.encode(number), block);
                seen[2] += 1;
            }
            Some(BlockKind::MetadataIndex) => {
                let index = MetadataIndex::decode(block, number).expect("it is whole");
                assert_eq!(&*index.encode(number), block);
                seen[3] += 1;
            }
        }
    }
    assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
}

/// The kernel leaves old entries behind the last one, so only what counts is compared.
fn assert_same_node(block: &Block, number: u64, value_bytes: usize) {
    let node = BtreeNode::decode(Box::new(*block), number, value_bytes).expect("it is whole");
    let keys: Vec<u64> = (0..node.len()).map(|at| node.key(at)).collect();
    let values: Vec<u8> = (0..node.len()).flat_map(|at| node.value(at).to_vec()).collect();
    let built = BtreeNode::build(node.flags(), &keys, &values, value_bytes);
    assert_eq!(built[16..32], block[16..32], "block {number}");
    let keys_end = 32 + 8 * node.len();
    assert_eq!(built[32..keys_end], block[32..keys_end], "block {number}");
    if !node.is_empty() {
        let values = node.value_offset(0)..node.value_offset(node.len());
        assert_eq!(built[values.clone()], block[values], "block {number}");
    }
    assert_eq!(node.flags() == NodeFlags::Leaf, block[4] == 2);
}

#[test]
fn the_sizes_are_those_of_the_kernel() {
    assert_eq!((DeviceDetails::BYTES, IndexEntry::BYTES), (24, 16));
}

#[test]
fn the_pool_of_the_kernel_is_read() {
    let image = linux();
    let report = check(&image).expect("memory can be read");
    assert!(report.is_clean(), "{report:#?}");
    let mut live = Pool::default();
    Metadata::open(&image).and_then(|metadata| metadata.copy_to(&mut live)).expect("it is whole");
    let devices =
        |pool: &Pool| pool.devices.iter().map(|(id, details, _)| (*id, details.mapped_blocks)).collect();
    let live_devices: Vec<_> = devices(&live);
    assert_eq!(live_devices, [(0, 9), (1, 8), (2, 8), (5, 0)]);
    let Report { devices: 4, mappings: 25, .. } = report else { panic!("{report:?}") };
    // Snapshot 2 is the origin as it was: eight writes in order, to the first eight data blocks.
    let early = [run(0, 0, 4, 0), run(9, 4, 1, 0), run(40, 5, 2, 0), run(700, 7, 1, 0)];
    assert_eq!(live.devices[2].2, early);
    let mut held = Pool::default();
    Metadata::open_snapshot(&image).and_then(|metadata| metadata.copy_to(&mut held)).expect("it is whole");
    let held_devices: Vec<_> = devices(&held);
    assert_eq!(held_devices, [(0, 8), (1, 7), (2, 8), (5, 0)]);
    assert_eq!((held.header.time, held.header.nr_data_blocks), (2, 1024));
}
