//! Pools that are made smaller: what they hold stays, shared as it was, and what is behind the new end is gone.

#[allow(dead_code)]
mod common;

use common::{Busy, disks, empty_pool, new_volume, open_options};
use vellum_engine::error::ErrorKind;
use vellum_engine::format::{ROOT_SLOT_PAGES, RootSlot};
use vellum_engine::request::{Base, DifferenceRange, Extent, Outcome, PropertiesChange, Request};
use vellum_engine::shrink_pool::{FREE_BLOCKS_AT_LEAST, Progress, ShrinkOptions, ShrinkReport};
use vellum_engine::storage::{Blocking, Disk, MemoryDisk};
use vellum_engine::units::{BLOCK_BYTES, PAGE_BYTES, SECTOR_BYTES, VolumeId};
use vellum_engine::{Pool, VolumeInfo};

/// What a pool says of itself that becoming smaller must not change.
#[derive(Debug, PartialEq)]
struct Holds {
    volumes: Vec<VolumeInfo>,
    extents: Vec<Vec<Extent>>,
    bytes: Vec<Vec<u8>>,
    differences: Vec<Vec<DifferenceRange>>,
    used_blocks: u64,
}

impl Holds {
    fn of(pool: &mut Pool<MemoryDisk>) -> Self {
        let volumes = pool.volumes();
        let pairs = volumes.windows(2).map(|pair| (pair[0].id, pair[1].id)).collect::<Vec<_>>();
        let extents: Vec<Vec<Extent>> = volumes.iter().map(|volume| extents(pool, volume)).collect();
        let bytes =
            volumes.iter().zip(&extents).map(|(volume, extents)| mapped_bytes(pool, volume.id, extents));
        let bytes = bytes.collect();
        let mut differs =
            |(base, volume)| pool.differences(Base::Volume(base), volume).map(Result::unwrap).collect();
        let differences = pairs.into_iter().map(&mut differs).collect();
        Self { volumes, extents, bytes, differences, used_blocks: pool.status().used_blocks }
    }
}

fn extents(pool: &mut Pool<MemoryDisk>, volume: &VolumeInfo) -> Vec<Extent> {
    let (mut all, mut from): (Vec<Extent>, u64) = (Vec::new(), 0);
    while from < volume.size_bytes {
        let length_bytes = volume.size_bytes - from;
        let asked = Request::Extents { volume: volume.id, offset_bytes: from, length_bytes };
        let Outcome::Extents(some) = pool.request(asked).unwrap() else { panic!() };
        from += some.iter().map(|extent| extent.length_bytes).sum::<u64>();
        for extent in some {
            match all.last_mut() {
                Some(last) if (last.mapped, last.shared) == (extent.mapped, extent.shared) => {
                    last.length_bytes += extent.length_bytes;
                }
                _ => all.push(extent),
            }
        }
    }
    all
}

fn mapped_bytes(pool: &mut Pool<MemoryDisk>, volume: VolumeId, extents: &[Extent]) -> Vec<u8> {
    let (mut bytes, mut at) = (Vec::new(), 0);
    for extent in extents {
        let end = at + extent.length_bytes;
        while extent.mapped && at < end {
            let length_bytes = (end - at).min(32 << 20);
            bytes.extend(pool.read(volume, at, length_bytes).unwrap());
            at += length_bytes;
        }
        at = end;
    }
    bytes
}

fn options(to_blocks: u64, round_blocks: u64) -> ShrinkOptions {
    ShrinkOptions { round_blocks, ..ShrinkOptions::new(to_blocks, open_options()) }
}

/// Makes a pool smaller, and checks what must hold of any pool that became smaller.
fn shrunk(
    (mut data, mut metadata): (MemoryDisk, MemoryDisk),
    to_blocks: u64,
    round_blocks: u64,
) -> (Pool<MemoryDisk>, ShrinkReport) {
    let mut all: Vec<Progress> = Vec::new();
    let mut progress = |progress| all.push(progress);
    let options = options(to_blocks, round_blocks);
    let report = vellum_engine::shrink_pool(&mut data, &mut metadata, &options, &mut progress).unwrap();
    let total = all[0].blocks_total;
    assert!(all[0].blocks_done == 0 && all.is_sorted_by_key(|progress| progress.blocks_done));
    assert!(all.iter().all(|progress| progress.blocks_total == total));
    assert_eq!((all[all.len() - 1].blocks_done, report.moved_blocks), (total, total));
    assert!(data.size_bytes() <= to_blocks * BLOCK_BYTES && report.truncated);
    for page in ROOT_SLOT_PAGES {
        let bytes = Blocking::metadata(&mut metadata).read(page.offset_bytes(), PAGE_BYTES).unwrap();
        let slot = RootSlot::decode(&bytes, &[1; 16]).unwrap();
        assert!(slot.data_blocks == to_blocks && (slot.clean || report.from_blocks == to_blocks));
    }
    let checked = vellum_engine::check(&mut data, &mut metadata, &mut |_| ()).unwrap();
    assert!(checked.is_clean(), "{:?}", checked.findings);
    let pool = Pool::open(data, metadata, &open_options()).unwrap();
    assert_eq!(pool.status().data_blocks, to_blocks);
    (pool, report)
}

fn least(pool: &Pool<MemoryDisk>) -> u64 {
    pool.status().used_blocks + FREE_BLOCKS_AT_LEAST
}

/// Waits until nothing is being deleted, and until what is freed is free.
fn calm(pool: &mut Pool<MemoryDisk>) {
    while pool.status().deleting > 0 {
        pool.idle(2000);
    }
    pool.idle(5000);
}

#[test]
fn whatever_a_pool_holds_stays_as_it_is() {
    let (mut moved, mut pages) = (0, 0);
    for seed in 1..26 {
        println!("seed {seed}");
        let mut busy = Busy::new(seed);
        // Comes in between, so that what stays lies everywhere.
        let ballast = busy.pool.create_volume(new_volume("ballast"), 1 << 30).unwrap();
        for step in 0..150 {
            busy.step();
            let offset_bytes = step * 4 * BLOCK_BYTES;
            busy.pool.write(ballast, offset_bytes, vec![1; (4 * BLOCK_BYTES) as usize]).unwrap();
        }
        busy.pool.delete(ballast).unwrap();
        calm(&mut busy.pool);
        let mut before = Holds::of(&mut busy.pool);
        let to_blocks = least(&busy.pool);
        // Joining layers changes what is used while a pool lies idle; the last word is that of the closed pool.
        let (mut pool, report) = shrunk(disks(&busy.pool), to_blocks, 1 + seed * seed % 300);
        let after = Holds::of(&mut pool);
        before.used_blocks = before.used_blocks.min(after.used_blocks);
        assert!(before == after, "seed {seed}: {:?}", report);
        moved += report.moved_blocks;
        pages += pool.status().metadata_pages;
        // It goes on as any pool.
        let mut busy = busy.with_pool(pool);
        (0..20).for_each(|_| busy.step_unless_full());
        let (mut data, mut metadata) = disks(&busy.pool);
        let checked = vellum_engine::check(&mut data, &mut metadata, &mut |_| ()).unwrap();
        assert!(checked.is_clean(), "{:?}", checked.findings);
    }
    println!("{moved} blocks moved, {pages} pages");
    assert!(moved > 500, "{moved}");
}

/// Every second block of a volume, written so that what is used lies at the end of the pool.
fn full_behind_holes() -> (Pool<MemoryDisk>, VolumeId) {
    let mut pool = empty_pool(4096, 4);
    let first = pool.create_volume(new_volume("first"), 1 << 30).unwrap();
    let second = pool.create_volume(new_volume("second"), 1 << 30).unwrap();
    for block in 0..1500 {
        pool.write(first, block * BLOCK_BYTES, vec![1; BLOCK_BYTES as usize]).unwrap();
    }
    for block in 0..1200u64 {
        let bytes = vec![(block % 250) as u8 + 2; BLOCK_BYTES as usize];
        pool.write(second, block * BLOCK_BYTES, bytes).unwrap();
    }
    for block in (0..1500).step_by(2) {
        let offset_bytes = block * BLOCK_BYTES;
        let discard = Request::Discard { volume: first, offset_bytes, length_bytes: BLOCK_BYTES, fua: false };
        pool.request(discard).unwrap();
    }
    (pool, second)
}

/// A run of 1200 blocks is one entry; behind every second block it is 1200 of them, in several leaves.
#[test]
fn runs_that_break_up_take_more_leaves() {
    let (mut pool, second) = full_behind_holes();
    calm(&mut pool);
    let before = Holds::of(&mut pool);
    let to_blocks = least(&pool);
    let (mut pool, report) = shrunk(disks(&pool), to_blocks, 16 * 1024);
    assert!(report.moved_blocks > 700, "{report:?}");
    assert_eq!(Holds::of(&mut pool), before);
    assert_eq!(pool.read(second, 7 * BLOCK_BYTES, 3).unwrap(), [9; 3]);
    let (.., again) = {
        let (pool, again) = shrunk(disks(&pool), to_blocks, 1);
        (pool, again)
    };
    assert_eq!(again.moved_blocks, 0, "it is as small as it can be");
}

/// More sharers than a byte counts, each in a leaf of its own, and more parents of one page.
#[test]
fn large_counts_move_along() {
    let mut pool = empty_pool(2048, 4);
    let ballast = pool.create_volume(new_volume("ballast"), 1 << 30).unwrap();
    for block in 0..900 {
        pool.write(ballast, block * BLOCK_BYTES, vec![1; BLOCK_BYTES as usize]).unwrap();
    }
    let disk = pool.create_volume(new_volume("disk"), 1 << 30).unwrap();
    (0..20).for_each(|block| pool.write(disk, block * BLOCK_BYTES, vec![7; BLOCK_BYTES as usize]).unwrap());
    let snapshot = pool.snapshot(disk, new_volume("disk@one")).unwrap();
    for number in 0..300u64 {
        let clone = pool.clone_snapshot(snapshot, new_volume(&format!("clone{number}"))).unwrap();
        if number < 270 {
            // A leaf of its own, which names all blocks of the snapshot's.
            pool.write(clone, number * SECTOR_BYTES, vec![number as u8; SECTOR_BYTES as usize]).unwrap();
        }
    }
    pool.delete(ballast).unwrap();
    calm(&mut pool);
    let before = Holds::of(&mut pool);
    let metadata_used = pool.status().metadata_pages - pool.status().metadata_free_pages;
    let to_blocks = least(&pool);
    let (mut pool, report) = shrunk(disks(&pool), to_blocks, 64);
    assert!(report.moved_blocks > 200, "{report:?}");
    assert_eq!(Holds::of(&mut pool), before);
    let now = pool.status().metadata_pages - pool.status().metadata_free_pages;
    assert!(now <= metadata_used + 40, "pages are not shared any more: {metadata_used} were used, {now} are");
}

/// Only what mappings see is copied, and what is neighbouring is copied at once.
#[test]
fn copies_are_large_and_nothing_unseen_is_copied() {
    let mut pool = empty_pool(4096, 4);
    let ballast = pool.create_volume(new_volume("ballast"), 1 << 30).unwrap();
    (0..1000).for_each(|at| pool.write(ballast, at * BLOCK_BYTES, vec![1; BLOCK_BYTES as usize]).unwrap());
    let disk = pool.create_volume(new_volume("disk"), 1 << 30).unwrap();
    for block in 0..512 {
        pool.write(disk, block * BLOCK_BYTES, vec![2; BLOCK_BYTES as usize]).unwrap();
    }
    for block in 600..700 {
        pool.write(disk, block * BLOCK_BYTES, vec![3; SECTOR_BYTES as usize]).unwrap();
    }
    pool.delete(ballast).unwrap();
    calm(&mut pool);
    let before = Holds::of(&mut pool);
    let (data, metadata) = pool.close().unwrap();
    let written = data.counters();
    let (mut pool, report) = shrunk((data, metadata), 700, 16 * 1024);
    assert_eq!(report.moved_blocks, 612);
    let written = pool.data_disk().counters().since(&written);
    let seen = 512 * BLOCK_BYTES + 100 * SECTOR_BYTES;
    assert!((seen..seen + (1 << 20)).contains(&written.bytes_written), "{written:?}");
    assert!(written.writes < 512 * BLOCK_BYTES / (1 << 20) + 100 + 20, "{written:?}");
    assert_eq!(Holds::of(&mut pool), before);
}

/// What was being deleted is gone, and its space is not in the way.
#[test]
fn deletions_come_to_their_end_first() {
    let mut pool = empty_pool(1024, 4);
    let disk = pool.create_volume(new_volume("disk"), 1 << 30).unwrap();
    (0..600).for_each(|at| pool.write(disk, at * BLOCK_BYTES, vec![1; BLOCK_BYTES as usize]).unwrap());
    pool.flush().unwrap();
    pool.delete(disk).unwrap();
    let (mut pool, report) = shrunk(disks(&pool), 64, 64);
    assert_eq!((report.used_blocks, report.moved_blocks), (4, 0));
    assert_eq!(pool.volumes(), []);
    assert_eq!(pool.status().deleting, 0);
    pool.request(Request::Extend { data_blocks: 1024 }).unwrap();
    let disk = pool.create_volume(new_volume("disk"), 1 << 30).unwrap();
    (0..600).for_each(|at| pool.write(disk, at * BLOCK_BYTES, vec![2; BLOCK_BYTES as usize]).unwrap());
    assert_eq!(pool.read(disk, 599 * BLOCK_BYTES, 2).unwrap(), [2; 2]);
}

#[test]
fn what_does_not_fit_is_refused_with_figures() {
    let mut pool = empty_pool(1024, 4);
    let disk = pool.create_volume(new_volume("disk"), 1 << 30).unwrap();
    (0..100).for_each(|at| pool.write(disk, at * BLOCK_BYTES, vec![1; BLOCK_BYTES as usize]).unwrap());
    let (data, metadata) = pool.close().unwrap();
    let shrink = |to_blocks| {
        let (mut data, mut metadata) = (data.clone(), metadata.clone());
        vellum_engine::shrink_pool(&mut data, &mut metadata, &options(to_blocks, 64), &mut |_| ())
    };
    let refused = |to_blocks| {
        let error = shrink(to_blocks).unwrap_err();
        (error.kind(), error.message().to_owned())
    };
    let least = "the pool uses 6656 KiB, its log included; the least size is 7680K";
    assert_eq!(refused(0), (ErrorKind::NoSpace, least.to_owned()));
    assert_eq!(refused(119), (ErrorKind::NoSpace, least.to_owned()));
    let grow = "the pool has 65536 KiB; to make it larger, extend it";
    assert_eq!(refused(1025), (ErrorKind::Invalid, grow.to_owned()));
    assert_eq!(shrink(1024).unwrap().moved_blocks, 0);
    assert_eq!(shrink(120).unwrap().to_blocks, 120);
}

#[test]
fn what_is_promised_to_volumes_must_fit_too() {
    let mut pool = empty_pool(1024, 4);
    let disk = pool.create_volume(new_volume("disk"), 1 << 30).unwrap();
    (0..100).for_each(|at| pool.write(disk, at * BLOCK_BYTES, vec![1; BLOCK_BYTES as usize]).unwrap());
    let change =
        PropertiesChange { reservation_bytes: Some(400 * BLOCK_BYTES), ..PropertiesChange::default() };
    pool.request(Request::SetProperties { volume: disk, change: Box::new(change) }).unwrap();
    let (data, metadata) = pool.close().unwrap();
    let shrink = |to_blocks| {
        let (mut data, mut metadata) = (data.clone(), metadata.clone());
        vellum_engine::shrink_pool(&mut data, &mut metadata, &options(to_blocks, 64), &mut |_| ())
    };
    // 104 blocks are in use, and 300 of the 400 are still to come.
    let error = shrink(403).unwrap_err();
    let told = "the pool uses 6656 KiB, its log included, and keeps 19200 KiB for reservations; the least size is 25856K";
    assert_eq!((error.kind(), error.message()), (ErrorKind::NoSpace, told));
    assert_eq!(shrink(404).unwrap().to_blocks, 404);
}

/// As after an interruption just before the end.
#[test]
fn a_data_file_that_is_longer_than_the_pool_is_truncated_at_last() {
    let (mut pool, _) = full_behind_holes();
    calm(&mut pool);
    let to_blocks = least(&pool);
    let (pool, _) = shrunk(disks(&pool), to_blocks, 1000);
    let (mut data, metadata) = pool.close().unwrap();
    Blocking::data(&mut data).allocate(0, 5000 * BLOCK_BYTES).unwrap();
    let (pool, report) = shrunk((data, metadata), to_blocks, 1000);
    assert_eq!((report.from_blocks, report.moved_blocks), (to_blocks, 0));
    assert_eq!(pool.data_disk().size_bytes(), to_blocks * BLOCK_BYTES);
}
