//! What somebody could have written on purpose, and what somebody could ask for that there is no room for.

#[allow(dead_code)]
mod common;

use common::{disks, empty_pool, new_volume, open_options};
use vellum_engine::Pool;
use vellum_engine::error::ErrorKind;
use vellum_engine::format::{ROOT_SLOT_PAGES, RootSlot, U48_LIMIT};
use vellum_engine::options::OpenOptions;
use vellum_engine::request::{Base, NewVolume, Request};
use vellum_engine::storage::{Blocking, Disk};
use vellum_engine::units::{BLOCK_BYTES, Generation, PAGE_BYTES};

/// The checksum of a slot has no secret.
#[test]
fn a_generation_that_no_pool_comes_to_is_damage() {
    let (data, mut metadata) = disks(&empty_pool(64, 2));
    let mut blocking = Blocking::metadata(&mut metadata);
    let bytes = blocking.read(ROOT_SLOT_PAGES[0].offset_bytes(), PAGE_BYTES).unwrap();
    let slot = RootSlot::decode(&bytes, &[1; 16]).unwrap();
    for generation in [U48_LIMIT - 2, U48_LIMIT - 1] {
        let place = ROOT_SLOT_PAGES[(generation % 2) as usize];
        let forged = RootSlot { generation: Generation(generation), ..slot.clone() };
        blocking.write(place.offset_bytes(), forged.encode(&[1; 16]).unwrap().freeze()).unwrap();
    }
    let refused = Pool::open(data, metadata, &open_options()).err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::Damaged, "{refused}");
}

/// Every record that is deleted may take a page of the next checkpoint: without them the deletion is not begun.
#[test]
fn a_deletion_of_many_is_done_or_refused_and_never_half() {
    const SNAPSHOTS: u64 = 1500;
    let mut pool = empty_pool(4096, 8);
    let disk = pool.create_volume(new_volume("disk"), 1 << 30).unwrap();
    let mut volumes = vec![disk];
    for number in 0..SNAPSHOTS {
        pool.write(disk, number % 100 * BLOCK_BYTES, vec![1; 4096]).unwrap();
        let new = NewVolume { name: format!("disk@{number}"), uuid: [2; 16], created_unix_s: 0 };
        volumes.push(pool.snapshot(disk, new).unwrap());
    }
    pool.request(Request::Delete { volumes, deferred: false }).unwrap();
    (0..30).for_each(|_| pool.idle(1000));
    let status = pool.status();
    assert_eq!((status.failure, status.deleting), (None, 0));
    let (data, metadata) = disks(&pool);
    let pool = Pool::open(data, metadata, &open_options()).unwrap();
    assert!(pool.volumes().is_empty());
}

/// A cache that holds nothing is slow, and not for ever.
#[test]
fn a_difference_of_deep_trees_needs_no_cache() {
    let mut pool = empty_pool(4096, 8);
    let disk = pool.create_volume(new_volume("disk"), 1 << 50).unwrap();
    let window_bytes = 16 * 1024 * BLOCK_BYTES;
    (0..300).for_each(|window| pool.write(disk, window * window_bytes, vec![1; 4096]).unwrap());
    let snapshot = pool.snapshot(disk, new_volume("disk@one")).unwrap();
    pool.write(disk, 299 * window_bytes, vec![2; 4096]).unwrap();
    let (data, metadata) = pool.close().unwrap();
    assert!(metadata.size_bytes() > 0);
    let options = OpenOptions { cache_bytes: 0, ..open_options() };
    let mut pool = Pool::open(data, metadata, &options).unwrap();
    let ranges: Vec<_> = pool.differences(Base::Volume(snapshot), disk).map(Result::unwrap).collect();
    assert_eq!(ranges.len(), 1);
    assert_eq!((ranges[0].offset_bytes, ranges[0].length_bytes), (299 * window_bytes, 4096));
}
