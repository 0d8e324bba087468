//! What no pool comes to by requests: a log that lies at the end, or in pieces.

use super::*;
use crate::format::{Extent, ROOT_SLOT_PAGES, RootSlot};
use crate::options::CreateOptions;
use crate::request::{NewVolume, Request};
use crate::storage::{Blocking, MemoryDisk};
use crate::units::{DataBlock, PAGE_BYTES, VolumeId};

const BLOCKS: u64 = 1024;
const LOG_BLOCKS: u64 = 6;

type Disks = (MemoryDisk, MemoryDisk);

fn options(to_blocks: u64) -> ShrinkOptions {
    ShrinkOptions::new(to_blocks, OpenOptions { slab_blocks: 16, ..OpenOptions::default() })
}

fn new_pool() -> Disks {
    let create = CreateOptions {
        data_blocks: BLOCKS,
        log_blocks: LOG_BLOCKS,
        uuid: [1; 16],
        secret: 42,
        created_unix_s: 7,
    };
    let disks = (MemoryDisk::new(0), MemoryDisk::new(0));
    Pool::create(disks.0, disks.1, &create, &options(0).open).unwrap().close().unwrap()
}

/// Moves each block of the log to where `place` says.
fn with_log_at(mut disks: Disks, place: impl Fn(u64) -> u64) -> Disks {
    let mut files = Files::new(&mut disks.0, &mut disks.1);
    let found = recover(&mut files).unwrap();
    let mut report = |_| ();
    let mut shrink = Shrink::of(files, found, &options(BLOCKS), &mut report).unwrap();
    let places = (0..LOG_BLOCKS).map(|block| (DataBlock(block), DataBlock(place(block))));
    shrink.put_log(places.filter(|(from, to)| from != to).collect()).unwrap();
    disks
}

fn log_of(metadata: &mut MemoryDisk) -> Vec<Extent> {
    let slots = ROOT_SLOT_PAGES.map(|page| {
        let bytes = Blocking::metadata(metadata).read(page.offset_bytes(), PAGE_BYTES).unwrap();
        RootSlot::decode(&bytes, &[1; 16]).unwrap().log
    });
    assert_eq!(slots[0], slots[1]);
    slots[0].clone()
}

fn filled(disks: Disks) -> (Disks, VolumeId) {
    let mut pool = Pool::open(disks.0, disks.1, &options(0).open).unwrap();
    let new = NewVolume { name: "disk".into(), uuid: [2; 16], created_unix_s: 0 };
    let disk = pool.create_volume(new, 1 << 30).unwrap();
    (0..200).for_each(|at| pool.write(disk, at * BLOCK_BYTES, vec![at as u8 + 1; 4096]).unwrap());
    // The first half of the pool gets holes.
    (0..100).step_by(2).for_each(|at| {
        let discard = Request::Discard {
            volume: disk,
            offset_bytes: at * BLOCK_BYTES,
            length_bytes: BLOCK_BYTES,
            fua: false,
        };
        pool.request(discard).unwrap();
    });
    pool.flush().unwrap();
    ((pool.data_disk().clone(), pool.metadata_disk().clone()), disk)
}

fn assert_whole(mut disks: Disks, disk: VolumeId) {
    let checked = crate::check(&mut disks.0, &mut disks.1, &mut |_| ()).unwrap();
    assert!(checked.is_clean(), "{:?}", checked.findings);
    let mut pool = Pool::open(disks.0, disks.1, &options(0).open).unwrap();
    for at in 0..200 {
        let expected = if at < 100 && at % 2 == 0 { 0 } else { at as u8 + 1 };
        assert_eq!(pool.read(disk, at * BLOCK_BYTES + 4000, 1).unwrap(), [expected], "block {at}");
    }
}

#[test]
fn a_log_at_the_end_moves_to_neighbouring_blocks() {
    let (mut disks, disk) = filled(with_log_at(new_pool(), |block| BLOCKS - LOG_BLOCKS + block));
    shrink_pool(&mut disks.0, &mut disks.1, &options(256), &mut |_| ()).unwrap();
    let log = log_of(&mut disks.1);
    assert!(log.len() == 1 && log[0].first.0 + LOG_BLOCKS <= 256, "{log:?}");
    assert_whole(disks, disk);
}

/// The second of three pieces lies behind the end, and the third.
#[test]
fn a_log_in_pieces_moves_as_far_as_it_must() {
    let places = [0, 1, 800, 801, 900, 901];
    let (mut disks, disk) = filled(with_log_at(new_pool(), |block| places[block as usize]));
    assert_eq!(log_of(&mut disks.1).len(), 3);
    shrink_pool(&mut disks.0, &mut disks.1, &options(256), &mut |_| ()).unwrap();
    let log = log_of(&mut disks.1);
    assert_eq!((log.len(), log[0]), (2, Extent { first: DataBlock(0), blocks: 2 }), "{log:?}");
    assert_whole(disks, disk);
}

/// Every second block is free, so there are not enough in a row; the pool stays as it is.
#[test]
fn a_log_that_cannot_move_in_one_piece_is_told() {
    let (mut disks, disk) = filled(with_log_at(new_pool(), |block| BLOCKS - LOG_BLOCKS + block));
    let used = 150 + LOG_BLOCKS;
    let refused = shrink_pool(&mut disks.0, &mut disks.1, &options(used + 16), &mut |_| ()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NoSpace);
    assert!(refused.message().contains("in a row"), "{refused}");
    assert_eq!(log_of(&mut disks.1)[0].first.0, BLOCKS - LOG_BLOCKS);
    assert_whole(disks, disk);
}
