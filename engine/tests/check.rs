//! `check` is clean on every sound pool, and silent about no damage that a root slot or the present state can reach.
//!
//! Owns the proof that nothing reachable goes unnoticed: pages are damaged one by one, and which of them matter is
//! taken from the counts of both root slots, not from the walk that is tested.

#[allow(dead_code)]
mod common;

use bytes::Bytes;
use common::{Busy, WINDOW_BYTES, disks, empty_pool, new_volume, open_options};
use vellum_engine::check::{Affected, CheckReport, Information};
use vellum_engine::error::{ErrorKind, Place};
use vellum_engine::format::{self, PageHeader, PageKind, ROOT_SLOT_PAGES};
use vellum_engine::metadata::files::Files;
use vellum_engine::metadata::load::load;
use vellum_engine::request::Request;
use vellum_engine::storage::{Blocking, MemoryDisk};
use vellum_engine::units::{BLOCK_BYTES, PAGE_BYTES, PageNumber};
use vellum_engine::{Pool, check};

fn checked(data: &mut MemoryDisk, metadata: &mut MemoryDisk) -> CheckReport {
    let before = (data.counters(), metadata.counters());
    let mut last = None;
    let report = check(data, metadata, &mut |progress| {
        assert!(progress.pages_done <= progress.pages_total);
        last = Some(progress);
    })
    .unwrap();
    let (data_ops, metadata_ops) = (data.counters().since(&before.0), metadata.counters().since(&before.1));
    for counters in [data_ops, metadata_ops] {
        assert_eq!((counters.writes, counters.syncs, counters.punches, counters.allocations), (0, 0, 0, 0));
    }
    assert!(last.is_none_or(|last| last.pages_done <= last.pages_total));
    report
}

#[track_caller]
fn assert_clean(report: &CheckReport) {
    assert_clean_in("", report);
}

#[track_caller]
fn assert_clean_in(run: &str, report: &CheckReport) {
    let findings = report.findings.iter().map(|finding| format!("\n{finding}")).collect::<String>();
    assert!(report.is_clean(), "{run}:{findings}");
}

fn page(metadata: &mut MemoryDisk, number: u64) -> Vec<u8> {
    Blocking::metadata(metadata).read(number * PAGE_BYTES as u64, PAGE_BYTES).unwrap().to_vec()
}

fn put_page(metadata: &mut MemoryDisk, number: u64, bytes: Vec<u8>) {
    Blocking::metadata(metadata).write(number * PAGE_BYTES as u64, Bytes::from(bytes)).unwrap();
}

/// A volume over several windows, a snapshot that shares most of it, a clone, and a deleted snapshot.
fn small_pool() -> Pool<MemoryDisk> {
    let mut pool = empty_pool(256, 2);
    let disk = pool.create_volume(new_volume("disk"), 40 * WINDOW_BYTES).unwrap();
    for window in 0..3 {
        for block in [0, 1, 2, 7, 9] {
            let offset = window * WINDOW_BYTES + block * BLOCK_BYTES;
            pool.write(disk, offset, vec![1; BLOCK_BYTES as usize]).unwrap();
        }
    }
    let snapshot = pool.snapshot(disk, new_volume("disk@a")).unwrap();
    pool.clone_snapshot(snapshot, new_volume("copy")).unwrap();
    let gone = pool.snapshot(disk, new_volume("disk@b")).unwrap();
    pool.write(disk, BLOCK_BYTES + 4096, vec![2; 8192]).unwrap();
    pool.delete(gone).unwrap();
    pool.request(Request::Checkpoint).unwrap();
    pool
}

#[test]
fn a_new_pool_is_clean() {
    let pool = empty_pool(64, 1);
    let (mut data, mut metadata) = disks(&pool);
    let report = checked(&mut data, &mut metadata);
    assert_clean(&report);
    assert_eq!((report.volumes, report.mappings), (0, 1));
    assert!(matches!(report.information[..], [Information::NotClosed(_)]));
    let (mut data, mut metadata) = pool.close().unwrap();
    let report = checked(&mut data, &mut metadata);
    assert_clean(&report);
    assert_eq!(report.information, []);
}

#[test]
fn what_is_no_pool_is_refused() {
    let report = check(&mut MemoryDisk::new(1 << 20), &mut MemoryDisk::new(1 << 20), &mut |_| {});
    assert_eq!(report.unwrap_err().kind(), ErrorKind::Unsupported);
}

/// `VELLUM_SEEDS` multiplies them.
fn seeds() -> u64 {
    40 * std::env::var("VELLUM_SEEDS").map_or(1, |text| text.parse().expect("VELLUM_SEEDS is a number"))
}

#[test]
fn sound_pools_are_clean_at_every_step() {
    let mut replayed = 0;
    for seed in 1..=seeds() {
        let mut busy = Busy::new(seed);
        for step in 0..120 {
            busy.step();
            let (mut data, mut metadata) = disks(&busy.pool);
            let report = checked(&mut data, &mut metadata);
            replayed +=
                usize::from(report.information.iter().any(|i| matches!(i, Information::LogToReplay { .. })));
            assert_clean_in(&format!("seed {seed} step {step}"), &report);
        }
        let (mut data, mut metadata) = busy.pool.close().unwrap();
        assert_clean_in(&format!("seed {seed} closed"), &checked(&mut data, &mut metadata));
    }
    assert!(replayed > 1000);
}

#[test]
fn deep_trees_with_counts_beyond_a_byte_are_clean() {
    let mut pool = empty_pool(1024, 8);
    let disk = pool.create_volume(new_volume("disk"), 400 * WINDOW_BYTES).unwrap();
    for window in 0..300 {
        pool.write(disk, window * WINDOW_BYTES, vec![1; 4096]).unwrap();
    }
    for snapshot in 0..300 {
        pool.snapshot(disk, new_volume(&format!("disk@{snapshot}"))).unwrap();
        if snapshot % 50 == 0 {
            pool.request(Request::Checkpoint).unwrap();
        }
        if snapshot == 280 {
            pool.write(disk, 0, vec![2; 4096]).unwrap();
        }
    }
    for _ in 0..2 {
        let (mut data, mut metadata) = disks(&pool);
        let report = checked(&mut data, &mut metadata);
        assert_clean(&report);
        assert_eq!(report.volumes, 301);
        pool.request(Request::Checkpoint).unwrap();
    }
    let (mut data, mut metadata) = pool.close().unwrap();
    assert_all_damage_is_seen(&mut data, &mut metadata, 11);
}

/// Pages that a root slot needs, by its counts.
fn reachable(data: &mut MemoryDisk, metadata: &mut MemoryDisk) -> Vec<bool> {
    let pages = page_count(metadata);
    let mut files = Files::new(data, metadata);
    let superblock = files.superblock().unwrap();
    let mut reachable = vec![false; pages as usize];
    for slot in files.root_slots(&superblock.pool) {
        let slot = slot.unwrap();
        let building = vellum_engine::units::Generation(slot.generation.0 + 1);
        let state = load(&mut files, &superblock, slot, building).unwrap();
        for page in 0..pages {
            reachable[page as usize] |= !state.forest.page_counts.is_zero(page);
        }
    }
    reachable
}

fn page_count(metadata: &MemoryDisk) -> u64 {
    use vellum_engine::storage::Disk;
    metadata.size_bytes() / PAGE_BYTES as u64
}

/// Damages every `stride`th page.
fn assert_all_damage_is_seen(data: &mut MemoryDisk, metadata: &mut MemoryDisk, stride: usize) {
    let reachable = reachable(data, metadata);
    assert!(reachable.iter().filter(|is| **is).count() > 12);
    for (number, is_reachable) in reachable.into_iter().enumerate().step_by(stride) {
        let whole = page(metadata, number as u64);
        let flipped = |at: usize| {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            bytes
        };
        for damaged in [flipped(5), flipped(100), flipped(400), vec![0; PAGE_BYTES], vec![0xff; PAGE_BYTES]] {
            let mut copy = metadata.clone();
            put_page(&mut copy, number as u64, damaged);
            let report = checked(data, &mut copy);
            assert_eq!(report.is_clean(), !is_reachable, "page {number}: {:?}", report.findings);
        }
    }
}

#[test]
fn damage_of_any_reachable_page_is_seen() {
    let pool = small_pool();
    let (mut data, mut metadata) = disks(&pool);
    assert_clean(&checked(&mut data, &mut metadata));
    assert_all_damage_is_seen(&mut data, &mut metadata, 1);
    for seed in 100..104 {
        let mut busy = Busy::new(seed);
        (0..100).for_each(|_| busy.step());
        let (mut data, mut metadata) = disks(&busy.pool);
        assert_all_damage_is_seen(&mut data, &mut metadata, 1);
    }
}

/// A page of another time or place, whole in itself.
#[test]
fn stale_and_misdirected_pages_are_seen() {
    let (mut data, mut metadata) = disks(&small_pool());
    let reachable = reachable(&mut data, &mut metadata);
    let pages: Vec<u64> = (4..reachable.len() as u64).filter(|page| reachable[*page as usize]).collect();
    for pair in pages.windows(2) {
        let mut copy = metadata.clone();
        let (moved, replaced) = (page(&mut copy, pair[0]), page(&mut copy, pair[1]));
        if moved != replaced {
            put_page(&mut copy, pair[1], moved);
            assert!(!checked(&mut data, &mut copy).is_clean(), "page {} over {}", pair[0], pair[1]);
        }
    }
}

fn is_leaf_at(bytes: &[u8], first_key: u64) -> bool {
    format::inspect(bytes).is_ok_and(|page| {
        let PageHeader { kind, first_key: first, volume_of_birth, .. } = page.header;
        kind == PageKind::MapLeaf && first == first_key && volume_of_birth.0 != 0
    })
}

#[test]
fn a_bad_leaf_is_told_by_name_and_range() {
    let (mut data, mut metadata) = disks(&small_pool());
    let second_window = WINDOW_BYTES / BLOCK_BYTES;
    let reachable = reachable(&mut data, &mut metadata);
    let leaves: Vec<u64> = (4..reachable.len() as u64)
        .filter(|number| {
            reachable[*number as usize] && is_leaf_at(&page(&mut metadata, *number), second_window)
        })
        .collect();
    let [leaf] = leaves[..] else { panic!("the second window is shared by all: {leaves:?}") };
    put_page(&mut metadata, leaf, vec![7; PAGE_BYTES]);
    let report = checked(&mut data, &mut metadata);
    let finding =
        report.findings.iter().find(|f| f.error.place() == Some(Place::Page(PageNumber(leaf)))).unwrap();
    let names: Vec<(&str, u64, u64)> =
        finding.affected.iter().map(|a| (a.name.as_str(), a.offset_bytes, a.length_bytes)).collect();
    let range = |name| (name, WINDOW_BYTES, WINDOW_BYTES);
    assert_eq!(names, [range("disk"), range("disk@a"), range("copy")]);
    assert!(finding.to_string().contains("'disk@a': 1073741824 bytes at 1073741824"), "{finding}");
    assert!(report.information.contains(&Information::CountsNotComparable));
}

#[test]
fn a_small_volume_loses_no_more_than_it_has() {
    let mut pool = empty_pool(64, 1);
    let tiny = pool.create_volume(new_volume("tiny"), 3 * 4096).unwrap();
    pool.write(tiny, 0, vec![1; 100]).unwrap();
    pool.request(Request::Checkpoint).unwrap();
    let (mut data, mut metadata) = disks(&pool);
    let leaf =
        (4..page_count(&metadata)).rfind(|number| is_leaf_at(&page(&mut metadata, *number), 0)).unwrap();
    put_page(&mut metadata, leaf, vec![0; PAGE_BYTES]);
    let report = checked(&mut data, &mut metadata);
    let expected = Affected { volume: tiny, name: "tiny".into(), offset_bytes: 0, length_bytes: 12288 };
    assert_eq!(report.findings[0].affected, [expected]);
}

#[test]
fn a_wrong_count_is_seen_both_ways() {
    for (change, word) in [(1i8, "fewer"), (-1, "free")] {
        let (mut data, mut metadata) = disks(&small_pool());
        change_first_count(&mut data, &mut metadata, change);
        let report = checked(&mut data, &mut metadata);
        let messages: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
        assert!(messages.iter().any(|message| message.contains(word)), "{messages:?}");
    }
}

/// Adds `change` to the count of the first data block of the log, with all checksums right, in the newest slot.
fn change_first_count(data: &mut MemoryDisk, metadata: &mut MemoryDisk, change: i8) {
    let mut files = Files::new(data, metadata);
    let superblock = files.superblock().unwrap();
    let [slot, _] = files.root_slots(&superblock.pool);
    let mut slot = slot.unwrap();
    let root = slot.data_counts.unwrap();
    let bytes = files.page(&superblock.pool, &root).unwrap();
    let (root_header, body) = format::open(&bytes, &superblock.pool, &root).unwrap();
    let mut inner = format::InnerPage::decode(root_header.level, body).unwrap();
    let leaf = inner.entries[0].1;
    let bytes = files.page(&superblock.pool, &leaf).unwrap();
    let (header, body) = format::open(&bytes, &superblock.pool, &leaf).unwrap();
    let mut counts = body.to_vec();
    counts[0] = counts[0].wrapping_add_signed(change);
    let (sealed, checksum) = format::seal(&header, &superblock.pool, &counts);
    inner.entries[0].1.checksum = checksum;
    put_page(metadata, leaf.page.0, sealed.to_vec());
    let (sealed, checksum) = format::seal(&root_header, &superblock.pool, &inner.encode());
    for number in [Some(root.page), root.copy].into_iter().flatten() {
        put_page(metadata, number.0, sealed.to_vec());
    }
    slot.data_counts = Some(format::Pointer { checksum, ..root });
    let place = ROOT_SLOT_PAGES[(slot.generation.0 % 2) as usize];
    put_page(metadata, place.0, slot.encode(&superblock.pool).unwrap().to_vec());
}

#[test]
fn a_short_file_is_seen() {
    let (mut data, mut metadata) = disks(&small_pool());
    let mut short = MemoryDisk::new(0);
    let pages = page_count(&metadata) - 1;
    Blocking::metadata(&mut short).allocate(0, pages * PAGE_BYTES as u64).unwrap();
    (0..pages).for_each(|number| put_page(&mut short, number, page(&mut metadata, number)));
    assert!(!checked(&mut data, &mut short).is_clean());
}

#[test]
fn a_pool_that_cannot_be_opened_is_walked_all_the_same() {
    let (mut data, mut metadata) = disks(&small_pool());
    Blocking::data(&mut data).write(0, Bytes::from(vec![0; 2 * PAGE_BYTES])).unwrap();
    assert!(Pool::open(data.clone(), metadata.clone(), &open_options()).is_err());
    let report = checked(&mut data, &mut metadata);
    assert!(report.findings[0].error.message().contains("cannot be opened"));
    assert_eq!((report.findings.len(), report.volumes), (1, 3));
    assert!(report.mappings > 15);
}

#[test]
fn a_bad_log_record_that_the_older_slot_needs_is_seen() {
    let mut pool = empty_pool(64, 2);
    let disk = pool.create_volume(new_volume("disk"), 1 << 30).unwrap();
    pool.request(Request::Checkpoint).unwrap();
    pool.write(disk, 0, vec![1; 4096]).unwrap();
    pool.flush().unwrap();
    pool.request(Request::Checkpoint).unwrap();
    let (mut data, mut metadata) = disks(&pool);
    assert_clean(&checked(&mut data, &mut metadata));
    let mut seen = 0;
    for log_page in 1..2 * BLOCK_BYTES / PAGE_BYTES as u64 {
        let mut damaged = data.clone();
        let mut blocking = Blocking::data(&mut damaged);
        let mut bytes = blocking.read(log_page * PAGE_BYTES as u64, PAGE_BYTES).unwrap().to_vec();
        bytes[60] ^= 1;
        blocking.write(log_page * PAGE_BYTES as u64, Bytes::from(bytes)).unwrap();
        let report = checked(&mut damaged, &mut metadata);
        let names_a_record =
            |f: &vellum_engine::check::Finding| matches!(f.error.place(), Some(Place::Record(_)));
        assert_eq!(report.is_clean(), !report.findings.iter().any(names_a_record));
        seen += usize::from(!report.is_clean());
    }
    assert!(seen > 0);
}
