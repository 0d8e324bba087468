//! Lost ranges in use: they read as errors until they are written or discarded, whatever is done around them.

use super::pool::{Disks, WINDOW_BYTES, empty_pool, new_volume, open_options, page, page_count, put_page};
use super::repaired;
use vellum_engine::error::{ErrorKind, Place};
use vellum_engine::format::{self, PageKind};
use vellum_engine::request::{Outcome, Request};
use vellum_engine::storage::MemoryDisk;
use vellum_engine::units::{BLOCK_BYTES, PAGE_BYTES};
use vellum_engine::{Pool, check};

/// A pool of one volume of one and a half blocks over a window, of which the first window's leaf is lost. Block 0 of the second window is
/// mapped.
pub fn with_lost_window() -> Pool<MemoryDisk> {
    let mut pool = empty_pool(256, 2);
    let disk = pool.create_volume(new_volume("disk"), WINDOW_BYTES + BLOCK_BYTES + 8192).unwrap();
    for block in [0, 1, 2, 16384] {
        pool.write(disk, block * BLOCK_BYTES, vec![7; BLOCK_BYTES as usize]).unwrap();
    }
    pool.request(Request::Checkpoint).unwrap();
    pool.request(Request::Checkpoint).unwrap();
    let mut disks =
        Disks { data: pool.data_disk().clone(), metadata: pool.metadata_disk().clone(), older: Vec::new() };
    for number in 4..page_count(&disks.metadata) {
        let bytes = page(&mut disks.metadata, number);
        let is_first_leaf = format::inspect(&bytes).is_ok_and(|page| {
            let header = page.header;
            header.kind == PageKind::MapLeaf && header.first_key == 0 && header.volume_of_birth == disk
        });
        if is_first_leaf {
            put_page(&mut disks.metadata, number, vec![0; PAGE_BYTES]);
        }
    }
    let (made, target) = repaired(&mut disks.data, &mut disks.metadata).unwrap();
    let losses: Vec<_> = made.report.losses.iter().map(|l| (l.offset_bytes, l.length_bytes)).collect();
    assert_eq!(losses, [(0, WINDOW_BYTES)]);
    made.commit(&mut disks.data).unwrap();
    Pool::open(disks.data, target, &open_options()).unwrap()
}

#[track_caller]
fn assert_lost(pool: &mut Pool<MemoryDisk>, name: &str, offset: u64, length: u64) {
    let volume = pool.find(name).unwrap();
    let error = pool.read(volume, offset, length).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged);
    assert!(matches!(error.place(), Some(Place::Range(of, ..)) if of == volume), "{error}");
}

#[track_caller]
fn assert_reads(pool: &mut Pool<MemoryDisk>, name: &str, offset: u64, length: u64, byte: u8) {
    let volume = pool.find(name).unwrap();
    assert_eq!(pool.read(volume, offset, length), Ok(vec![byte; length as usize]));
}

fn assert_sound(pool: &Pool<MemoryDisk>) {
    let report =
        check(&mut pool.data_disk().clone(), &mut pool.metadata_disk().clone(), &mut |_| {}).unwrap();
    assert!(report.is_clean(), "{:?}", report.findings);
}

#[test]
fn lost_sectors_read_as_errors_until_they_are_written_or_discarded() {
    let mut pool = with_lost_window();
    let disk = pool.find("disk").unwrap();
    assert_lost(&mut pool, "disk", 0, 512);
    assert_lost(&mut pool, "disk", WINDOW_BYTES - 4096, 8192);
    assert_reads(&mut pool, "disk", WINDOW_BYTES, BLOCK_BYTES, 7);
    // A part of a sector needs the rest.
    assert_eq!(pool.write(disk, 100, vec![1; 100]).unwrap_err().kind(), ErrorKind::Damaged);
    assert_lost(&mut pool, "disk", 0, 512);
    pool.write(disk, 4096, vec![1; 8192]).unwrap();
    assert_reads(&mut pool, "disk", 4096, 8192, 1);
    pool.write(disk, 5000, vec![1; 10]).unwrap();
    for (offset, length) in [(0, 4096), (12288, 512), (0, BLOCK_BYTES), (BLOCK_BYTES, 4096)] {
        assert_lost(&mut pool, "disk", offset, length);
    }
    let discard = Request::Discard { volume: disk, offset_bytes: 12288, length_bytes: 4096, fua: false };
    pool.request(discard).unwrap();
    assert_reads(&mut pool, "disk", 12288, 4096, 0);
    let discard = Request::Discard {
        volume: disk,
        offset_bytes: 5 * BLOCK_BYTES,
        length_bytes: 90 * BLOCK_BYTES,
        fua: false,
    };
    pool.request(discard).unwrap();
    assert_reads(&mut pool, "disk", 5 * BLOCK_BYTES, BLOCK_BYTES, 0);
    pool.write(disk, 3 * BLOCK_BYTES, vec![3; BLOCK_BYTES as usize]).unwrap();
    assert_reads(&mut pool, "disk", 3 * BLOCK_BYTES, BLOCK_BYTES, 3);
    assert_lost(&mut pool, "disk", 4 * BLOCK_BYTES, 4096);
    pool.request(Request::Checkpoint).unwrap();
    assert_sound(&pool);
}

#[test]
fn extents_tell_lost_sectors_as_mapped() {
    let mut pool = with_lost_window();
    let disk = pool.find("disk").unwrap();
    let request = Request::Extents { volume: disk, offset_bytes: 0, length_bytes: WINDOW_BYTES };
    let Ok(Outcome::Extents(extents)) = pool.request(request) else { panic!("no extents") };
    assert!(extents.iter().all(|extent| extent.mapped), "{extents:?}");
}

/// Snapshots share lost ranges, and a write to a shared upper layer over a lost one copies the upper layer alone.
#[test]
fn sharing_keeps_what_is_lost() {
    let mut pool = with_lost_window();
    let disk = pool.find("disk").unwrap();
    pool.write(disk, 0, vec![1; 9 * 4096]).unwrap();
    pool.snapshot(disk, new_volume("disk@one")).unwrap();
    pool.write(disk, 2 * 4096, vec![2; 2 * 4096]).unwrap();
    assert_reads(&mut pool, "disk", 2 * 4096, 2 * 4096, 2);
    assert_reads(&mut pool, "disk", 4 * 4096, 5 * 4096, 1);
    assert_reads(&mut pool, "disk@one", 0, 9 * 4096, 1);
    pool.snapshot(disk, new_volume("disk@two")).unwrap();
    pool.write(disk, 10 * 4096, vec![3; 4096]).unwrap();
    for name in ["disk", "disk@one", "disk@two"] {
        assert_lost(&mut pool, name, 9 * 4096, 4096);
        assert_lost(&mut pool, name, 11 * 4096, 5 * 4096);
    }
    assert_lost(&mut pool, "disk@two", 10 * 4096, 4096);
    assert_reads(&mut pool, "disk", 10 * 4096, 4096, 3);
    assert_sound(&pool);
    pool.request(Request::Collapse { volume: disk }).unwrap();
    assert_lost(&mut pool, "disk", 9 * 4096, 4096);
    for name in ["disk@one", "disk@two"] {
        let snapshot = pool.find(name).unwrap();
        pool.delete(snapshot).unwrap();
    }
    pool.idle(2000);
    pool.request(Request::Collapse { volume: disk }).unwrap();
    assert_lost(&mut pool, "disk", 11 * 4096, 4096);
    pool.write(disk, 0, vec![9; BLOCK_BYTES as usize]).unwrap();
    assert_reads(&mut pool, "disk", 0, BLOCK_BYTES, 9);
    pool.request(Request::Checkpoint).unwrap();
    assert_sound(&pool);
    // What was changed comes back from the log and from the trees.
    let (data, metadata) = pool.close().unwrap();
    let mut pool = Pool::open(data, metadata, &open_options()).unwrap();
    assert_reads(&mut pool, "disk", 0, BLOCK_BYTES, 9);
    assert_lost(&mut pool, "disk", BLOCK_BYTES, 4096);
    pool.delete(disk).unwrap();
    pool.idle(2000);
    assert_sound(&pool);
}

/// The end of a volume cuts what is lost.
#[test]
fn nothing_is_lost_behind_the_end_of_a_volume() {
    let mut pool = empty_pool(64, 2);
    let disk = pool.create_volume(new_volume("disk"), 2 * BLOCK_BYTES + 12288).unwrap();
    pool.write(disk, 0, vec![1; 4096]).unwrap();
    pool.request(Request::Checkpoint).unwrap();
    pool.request(Request::Checkpoint).unwrap();
    let (mut data, mut metadata) = (pool.data_disk().clone(), pool.metadata_disk().clone());
    for number in 4..page_count(&metadata) {
        let bytes = page(&mut metadata, number);
        if format::inspect(&bytes).is_ok_and(|page| page.header.volume_of_birth == disk) {
            put_page(&mut metadata, number, vec![0; PAGE_BYTES]);
        }
    }
    let (made, mut target) = repaired(&mut data, &mut metadata).unwrap();
    let losses: Vec<_> = made.report.losses.iter().map(|l| (l.offset_bytes, l.length_bytes)).collect();
    assert_eq!(losses, [(0, 2 * BLOCK_BYTES + 12288)]);
    let report = check(&mut data, &mut target, &mut |_| {}).unwrap();
    assert!(report.is_clean(), "{:?}", report.findings);
}
