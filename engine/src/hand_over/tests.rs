//! What is given, block by block, on small pools made by hand.

use super::*;
use crate::options::CreateOptions;
use crate::pool::Pool;
use crate::request::{NewVolume, Request};
use crate::storage::MemoryDisk;

const SECTOR: usize = SECTOR_BYTES as usize;

fn named(name: &str, uuid: u8) -> NewVolume {
    NewVolume { name: name.into(), uuid: [uuid; 16], created_unix_s: 0 }
}

fn pool() -> Pool<MemoryDisk> {
    let create =
        CreateOptions { data_blocks: 64, log_blocks: 2, uuid: [1; 16], secret: 42, created_unix_s: 0 };
    let options = OpenOptions { collapse_bytes_per_s: 0, ..OpenOptions::default() };
    Pool::create(MemoryDisk::new(0), MemoryDisk::new(0), &create, &options).unwrap()
}

fn options() -> OpenOptions {
    OpenOptions { collapse_bytes_per_s: 0, nonce: 7, ..OpenOptions::default() }
}

#[test]
fn a_hole_of_a_sharer_is_filled_elsewhere() {
    let mut pool = pool();
    let disk = pool.create_volume(named("disk", 2), 1 << 20).unwrap();
    pool.write(disk, 0, vec![7; BLOCK_BYTES as usize]).unwrap();
    let snapshot = pool.snapshot(disk, named("disk@a", 3)).unwrap();
    // The volume does not see one sector any more; the snapshot does.
    pool.request(Request::Discard { volume: disk, offset_bytes: 4096, length_bytes: 4096, fua: false })
        .unwrap();
    // One layer over another: both have other owners after a second snapshot.
    pool.write(disk, BLOCK_BYTES, vec![1; BLOCK_BYTES as usize]).unwrap();
    pool.snapshot(disk, named("disk@b", 4)).unwrap();
    pool.write(disk, BLOCK_BYTES, vec![2; SECTOR]).unwrap();
    let (mut data, mut metadata) = pool.close().unwrap();
    let mut hand_over = HandOver::begin(&mut data, &mut metadata, &options(), None).unwrap();
    let plan = hand_over.plan().unwrap();
    // The hole: shared by disk and disk@b, and disk@a sees the block whole. The layers: the upper one is the volume's.
    assert_eq!((plan.blocks_to_copy, plan.blocks_to_fill, plan.mappings), (1, 1, 5));
    assert_eq!((plan.bytes_to_copy, plan.bytes_to_clear), ((15 + 15) * 4096, 4096));
    hand_over.start_filling().unwrap();
    let volumes = hand_over.volumes();
    let given: Vec<Vec<Whole>> =
        volumes.iter().map(|volume| hand_over.mappings(volume, VirtualBlock(0)).unwrap().mappings).collect();
    assert_eq!(volumes.iter().map(|volume| volume.id).collect::<Vec<_>>(), [disk, snapshot, VolumeId(3)]);
    let blocks: Vec<Vec<u64>> =
        given.iter().map(|wholes| wholes.iter().map(|whole| whole.data_block.0).collect()).collect();
    assert_eq!(blocks[0][0], blocks[2][0], "both see the same hole");
    assert_ne!(blocks[0][0], blocks[1][0]);
    assert_ne!(blocks[0][1], blocks[2][1]);
    assert!(given[0][0].shared && given[2][0].shared && !given[0][1].shared);
    let came_to_nothing = hand_over.mark();
    drop(hand_over);
    let mut hand_over = HandOver::begin(&mut data, &mut metadata, &options(), None).unwrap();
    let plan = hand_over.plan().unwrap();
    let mark = hand_over.mark();
    hand_over.give("here").unwrap();
    drop(hand_over);
    for _ in 0..2 {
        let error = Pool::open(&mut data, &mut metadata, &options()).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::InUse, "{error}");
    }
    // It can go on as long as whoever asks knows that the kernel has not begun.
    // What an earlier hand-over left somewhere says nothing of this one.
    for other in [None, Some(came_to_nothing)] {
        let error = HandOver::begin(&mut data, &mut metadata, &options(), other).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::InUse, "{error}");
    }
    let mut again = HandOver::begin(&mut data, &mut metadata, &options(), Some(mark)).unwrap();
    assert_eq!(again.plan().unwrap(), plan);
}

#[test]
fn too_few_free_blocks_are_refused_with_figures() {
    let mut pool = pool();
    let disk = pool.create_volume(named("disk", 2), 1 << 22).unwrap();
    for block in 0..60 {
        pool.write(disk, block * BLOCK_BYTES, vec![7; BLOCK_BYTES as usize]).unwrap();
    }
    pool.snapshot(disk, named("disk@a", 3)).unwrap();
    for block in 0..5 {
        let offset_bytes = block * BLOCK_BYTES;
        pool.request(Request::Discard { volume: disk, offset_bytes, length_bytes: 4096, fua: false })
            .unwrap();
    }
    let (mut data, mut metadata) = pool.close().unwrap();
    let mut hand_over = HandOver::begin(&mut data, &mut metadata, &options(), None).unwrap();
    let error = hand_over.plan().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    assert!(
        error.message().starts_with("5 blocks have to be copied")
            && error.message().contains("only 2 blocks")
    );
    drop(hand_over);
    assert!(Pool::open(&mut data, &mut metadata, &options()).is_ok());
}
