//! Blocks of two layers are joined: when the snapshot that shared them is gone, and before a write fails for want of space.

#[allow(dead_code)]
mod common;

use common::{new_volume, open_options};
use vellum_engine::Pool;
use vellum_engine::error::ErrorKind;
use vellum_engine::options::{CreateOptions, OpenOptions};
use vellum_engine::request::{Outcome, Request};
use vellum_engine::storage::MemoryDisk;
use vellum_engine::units::{BLOCK_BYTES, SECTOR_BYTES, VolumeId};

const LOG_BLOCKS: u64 = 4;

/// A pool with a volume of `blocks` blocks, each of two layers, and the snapshot that shares the lower ones.
fn layered(data_blocks: u64, blocks: u64, options: &OpenOptions) -> (Pool<MemoryDisk>, VolumeId, VolumeId) {
    let create =
        CreateOptions { data_blocks, log_blocks: LOG_BLOCKS, uuid: [1; 16], secret: 42, created_unix_s: 7 };
    let mut pool = Pool::create(MemoryDisk::new(0), MemoryDisk::new(0), &create, options).unwrap();
    let disk = pool.create_volume(new_volume("disk"), 1 << 30).unwrap();
    let write = |pool: &mut Pool<MemoryDisk>, block: u64, sector: u64, sectors: u64, byte: u8| {
        let offset = block * BLOCK_BYTES + sector * SECTOR_BYTES;
        pool.write(disk, offset, vec![byte; (sectors * SECTOR_BYTES) as usize]).unwrap();
    };
    (0..blocks).for_each(|block| write(&mut pool, block, 0, 16, 1));
    let snapshot = pool.snapshot(disk, new_volume("disk@one")).unwrap();
    (0..blocks).for_each(|block| write(&mut pool, block, block % 16, 1, 2));
    pool.flush().unwrap();
    assert_eq!(pool.status().used_blocks, LOG_BLOCKS + 2 * blocks);
    (pool, disk, snapshot)
}

fn assert_content(pool: &mut Pool<MemoryDisk>, disk: VolumeId, blocks: u64) {
    for block in 0..blocks {
        for sector in 0..16 {
            let offset = block * BLOCK_BYTES + sector * SECTOR_BYTES;
            let expected = if sector == block % 16 { 2 } else { 1 };
            assert_eq!(pool.read(disk, offset, 1).unwrap(), [expected], "block {block} sector {sector}");
        }
    }
}

fn assert_clean(pool: Pool<MemoryDisk>) {
    let (mut data, mut metadata) = pool.close().unwrap();
    let report = vellum_engine::check(&mut data, &mut metadata, &mut |_| ()).unwrap();
    assert!(report.is_clean(), "{:?}", report.findings);
}

#[test]
fn layers_are_joined_when_the_snapshot_is_gone() {
    let (mut pool, disk, snapshot) = layered(1024, 100, &open_options());
    pool.idle(5000);
    assert_eq!(pool.status().collapse.freed_blocks, 0, "nothing is walked without a reason");
    pool.delete(snapshot).unwrap();
    (0..20).for_each(|_| pool.idle(1000));
    let status = pool.status();
    assert_eq!((status.collapse.freed_blocks, status.collapse.walks), (100, 0));
    assert_eq!(status.used_blocks, LOG_BLOCKS + 100);
    assert_content(&mut pool, disk, 100);
    assert_clean(pool);
}

/// A clone shares the lower layers still: nothing can be joined.
#[test]
fn what_others_share_stays_as_it_is() {
    let (mut pool, disk, snapshot) = layered(1024, 20, &open_options());
    let copy = pool.clone_snapshot(snapshot, new_volume("copy")).unwrap();
    pool.delete(snapshot).unwrap();
    (0..20).for_each(|_| pool.idle(1000));
    assert_eq!(pool.status().collapse, Default::default());
    assert_content(&mut pool, disk, 20);
    assert_eq!(pool.read(copy, 0, 1).unwrap(), [1]);
    assert_clean(pool);
}

#[test]
fn the_background_keeps_to_its_budget() {
    let options = OpenOptions { collapse_bytes_per_s: 20 * SECTOR_BYTES, ..open_options() };
    let (mut pool, _, snapshot) = layered(1024, 100, &options);
    pool.delete(snapshot).unwrap();
    // One sector is copied for a block; what is in flight when the budget ends is done, and a tenth may be owed.
    (0..25).for_each(|_| pool.idle(100));
    let freed = pool.status().collapse.freed_blocks;
    assert!((20..60).contains(&freed), "{freed} blocks in 2.5 seconds");
}

/// Without a background: the write that finds no block makes one free.
#[test]
fn a_full_pool_joins_layers_before_a_write_fails() {
    let options = OpenOptions { collapse_bytes_per_s: 0, ..open_options() };
    let (mut pool, disk, snapshot) = layered(LOG_BLOCKS + 2 * 30, 30, &options);
    let write = |pool: &mut Pool<MemoryDisk>, block: u64| {
        pool.write(disk, block * BLOCK_BYTES, vec![3; BLOCK_BYTES as usize])
    };
    assert_eq!(write(&mut pool, 100).unwrap_err().kind(), ErrorKind::NoSpace, "nothing can be joined");
    pool.delete(snapshot).unwrap();
    (0..10).for_each(|_| pool.idle(1000));
    assert_eq!((pool.status().used_blocks, pool.status().collapse.walks), (LOG_BLOCKS + 2 * 30, 0));
    (100..130).for_each(|block| write(&mut pool, block).unwrap());
    assert_eq!(write(&mut pool, 130).unwrap_err().kind(), ErrorKind::NoSpace);
    assert_content(&mut pool, disk, 30);
    assert_clean(pool);
}

#[test]
fn a_request_says_what_it_freed() {
    let options = OpenOptions { collapse_bytes_per_s: 0, ..open_options() };
    let (mut pool, disk, snapshot) = layered(1024, 50, &options);
    let freed = |pool: &mut Pool<MemoryDisk>| match pool.request(Request::Collapse { volume: disk }).unwrap()
    {
        Outcome::Freed(blocks) => blocks,
        other => panic!("{other:?}"),
    };
    assert_eq!(freed(&mut pool), 0);
    pool.delete(snapshot).unwrap();
    (0..10).for_each(|_| pool.idle(1000));
    assert_eq!(freed(&mut pool), 50);
    assert_content(&mut pool, disk, 50);
}
