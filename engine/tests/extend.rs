//! Pools that are made larger while they are used.

#[allow(dead_code)]
mod common;

use common::{disks, empty_pool, new_volume, open_options};
use vellum_engine::Pool;
use vellum_engine::error::ErrorKind;
use vellum_engine::format::{ROOT_SLOT_PAGES, RootSlot};
use vellum_engine::request::Request;
use vellum_engine::storage::{Blocking, Buffer, MemoryDisk};
use vellum_engine::units::{BLOCK_BYTES, DATA_BLOCKS_MAX, PAGE_BYTES, VolumeId};

fn write(pool: &mut Pool<MemoryDisk>, volume: VolumeId, block: u64) -> vellum_engine::error::Result<()> {
    pool.write(volume, block * BLOCK_BYTES, vec![block as u8 + 1; BLOCK_BYTES as usize])
}

fn assert_written(pool: &mut Pool<MemoryDisk>, volume: VolumeId, blocks: u64) {
    for block in 0..blocks {
        let read = pool.read(volume, block * BLOCK_BYTES, BLOCK_BYTES).unwrap();
        assert!(read.iter().all(|byte| *byte == block as u8 + 1), "block {block}");
    }
}

/// A volume that fills its pool, and how many blocks it holds.
fn full_pool() -> (Pool<MemoryDisk>, VolumeId, u64) {
    let mut pool = empty_pool(64, 2);
    let volume = pool.create_volume(new_volume("disk"), 1 << 30).unwrap();
    let full = (0..).find(|block| write(&mut pool, volume, *block).is_err()).unwrap();
    assert_eq!(full, 62);
    (pool, volume, full)
}

#[test]
fn a_full_pool_takes_writes_again_and_keeps_its_size() {
    let (mut pool, volume, full) = full_pool();
    pool.request(Request::Extend { data_blocks: 9000 }).unwrap();
    assert_eq!(pool.status().data_blocks, 9000);
    (full..200).for_each(|block| write(&mut pool, volume, block).unwrap());
    assert_written(&mut pool, volume, 200);
    // As after the death of the process, and as after a close.
    let (data, metadata) = disks(&pool);
    let mut pool = Pool::open(data, metadata, &open_options()).unwrap();
    assert_written(&mut pool, volume, 200);
    let (mut data, mut metadata) = pool.close().unwrap();
    let report = vellum_engine::check(&mut data, &mut metadata, &mut |_| ()).unwrap();
    assert!(report.is_clean(), "{:?}", report.findings);
    let pool = Pool::open(data, metadata, &open_options()).unwrap();
    assert_eq!(pool.status().data_blocks, 9000);
}

/// Blocks behind the old end are given out only when the older slot, too, knows of them.
#[test]
fn either_root_slot_gives_the_present_after_an_extension() {
    let (mut pool, volume, full) = full_pool();
    pool.request(Request::Extend { data_blocks: 128 }).unwrap();
    write(&mut pool, volume, full).unwrap();
    pool.flush().unwrap();
    for page in ROOT_SLOT_PAGES {
        let (data, mut metadata) = disks(&pool);
        let mut blocking = Blocking::metadata(&mut metadata);
        blocking.write(page.offset_bytes(), Buffer::zeroed(PAGE_BYTES).freeze()).unwrap();
        let mut pool = Pool::open(data, metadata, &open_options()).unwrap();
        assert_written(&mut pool, volume, full + 1);
    }
}

/// The size stands in both slots before anybody is answered.
#[test]
fn both_slots_say_the_new_size() {
    let (mut pool, ..) = full_pool();
    pool.request(Request::Extend { data_blocks: 128 }).unwrap();
    let (_, mut metadata) = disks(&pool);
    for page in ROOT_SLOT_PAGES {
        let bytes = Blocking::metadata(&mut metadata).read(page.offset_bytes(), PAGE_BYTES).unwrap();
        assert_eq!(RootSlot::decode(&bytes, &[1; 16]).unwrap().data_blocks, 128);
    }
}

#[test]
fn a_pool_is_not_made_smaller_or_too_large() {
    let (mut pool, ..) = full_pool();
    let mut refused = |data_blocks| pool.request(Request::Extend { data_blocks }).unwrap_err().kind();
    assert_eq!(refused(63), ErrorKind::Invalid);
    assert_eq!(refused(DATA_BLOCKS_MAX + 1), ErrorKind::Limit);
    pool.request(Request::Extend { data_blocks: 64 }).expect("it has that size");
    assert_eq!(pool.status().data_blocks, 64);
}
