//! Changes of volumes and snapshots that are there: resize, rename, rollback, holds, deletion.
//!
//! Owns what each does, refuses and leaves behind. What a crash leaves is for the tests with simulated disks.

#[allow(dead_code)]
mod common;

use common::{disks, empty_pool, new_volume, open_options};
use vellum_engine::error::{ErrorKind, Result};
use vellum_engine::request::{Outcome, Request};
use vellum_engine::storage::MemoryDisk;
use vellum_engine::units::{BLOCK_BYTES, VolumeId};
use vellum_engine::{Pool, VolumeInfo};

type TestPool = Pool<MemoryDisk>;

const MIB: u64 = 1 << 20;
const SECTOR: u64 = 4096;

fn with_disk(size_bytes: u64) -> (TestPool, VolumeId) {
    let mut pool = empty_pool(256, 2);
    let disk = pool.create_volume(new_volume("disk"), size_bytes).unwrap();
    (pool, disk)
}

fn info(pool: &TestPool, name: &str) -> VolumeInfo {
    let found = pool.volumes().into_iter().find(|info| info.name == name);
    found.unwrap_or_else(|| panic!("there is no '{name}'"))
}

fn names(pool: &TestPool) -> Vec<String> {
    pool.volumes().into_iter().map(|info| info.name).collect()
}

fn resize(pool: &mut TestPool, volume: VolumeId, size_bytes: u64) -> Result<()> {
    pool.request(Request::Resize { volume, size_bytes }).map(drop)
}

fn rename(pool: &mut TestPool, volume: VolumeId, name: &str) -> Result<()> {
    pool.request(Request::Rename { volume, name: name.to_owned() }).map(drop)
}

fn delete(pool: &mut TestPool, volumes: &[VolumeId], deferred: bool) -> Result<()> {
    pool.request(Request::Delete { volumes: volumes.to_vec(), deferred }).map(drop)
}

fn hold(pool: &mut TestPool, volume: VolumeId, tag: &str) {
    pool.request(Request::Hold { volume, tag: tag.to_owned() }).unwrap();
}

fn release(pool: &mut TestPool, volume: VolumeId, tag: &str) {
    pool.request(Request::Release { volume, tag: tag.to_owned() }).unwrap();
}

fn kind<T: std::fmt::Debug>(result: Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}

/// The pool after the death of its process.
fn reopened(pool: &TestPool) -> TestPool {
    let (data, metadata) = disks(pool);
    Pool::open(data, metadata, &open_options()).unwrap()
}

fn check(pool: &TestPool) {
    let (mut data, mut metadata) = disks(pool);
    let report = vellum_engine::check(&mut data, &mut metadata, &mut |_| {}).unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
}

#[test]
fn what_was_behind_a_smaller_end_never_comes_back() {
    // Inside a block, at its beginning, and in the middle of nothing; with and without a sharer of the blocks.
    for (size, shared) in [(2 * MIB, false), (2 * MIB + 3 * SECTOR, false), (2 * MIB + 3 * SECTOR, true)] {
        let (mut pool, disk) = with_disk(8 * MIB);
        pool.write(disk, MIB, vec![1; 3 * MIB as usize]).unwrap();
        pool.write(disk, 7 * MIB, vec![2; 100]).unwrap();
        if shared {
            pool.snapshot(disk, new_volume("disk@all")).unwrap();
        }
        resize(&mut pool, disk, size).unwrap();
        assert_eq!(info(&pool, "disk").size_bytes, size);
        assert_eq!(kind(pool.read(disk, size - 1, 2)), ErrorKind::Invalid);
        assert_eq!(kind(pool.write(disk, size, vec![3])), ErrorKind::Invalid);
        pool = reopened(&pool);
        check(&pool);
        resize(&mut pool, disk, 8 * MIB).unwrap();
        assert_eq!(pool.read(disk, MIB, size - MIB).unwrap(), vec![1; (size - MIB) as usize]);
        assert!(pool.read(disk, size, 8 * MIB - size).unwrap().iter().all(|byte| *byte == 0));
        if shared {
            let snapshot = info(&pool, "disk@all");
            assert_eq!(snapshot.size_bytes, 8 * MIB);
            assert_eq!(pool.read(snapshot.id, size, 2 * MIB - 3 * SECTOR).unwrap()[0], 1);
        }
        pool.idle(5000);
        check(&pool);
    }
}

#[test]
fn sizes_that_cannot_be_are_refused() {
    let (mut pool, disk) = with_disk(MIB);
    let snapshot = pool.snapshot(disk, new_volume("disk@a")).unwrap();
    for size in [0, 1000, (BLOCK_BYTES << 40) + SECTOR] {
        assert_eq!(kind(resize(&mut pool, disk, size)), ErrorKind::Invalid);
    }
    assert_eq!(kind(resize(&mut pool, snapshot, 2 * MIB)), ErrorKind::Invalid);
    assert_eq!(kind(resize(&mut pool, VolumeId(77), 2 * MIB)), ErrorKind::NotFound);
    resize(&mut pool, disk, BLOCK_BYTES << 40).unwrap();
    resize(&mut pool, disk, SECTOR).unwrap();
    check(&pool);
}

#[test]
fn a_volume_takes_its_snapshots_names_along() {
    let (mut pool, disk) = with_disk(MIB);
    pool.write(disk, 0, vec![1; 4096]).unwrap();
    for name in ["disk@a", "disk@b"] {
        pool.snapshot(disk, new_volume(name)).unwrap();
    }
    pool.create_volume(new_volume("disk2"), MIB).unwrap();
    let other = pool.create_volume(new_volume("other"), MIB).unwrap();
    rename(&mut pool, disk, "group/new").unwrap();
    let expected = ["group/new", "group/new@a", "group/new@b", "disk2", "other"];
    assert_eq!(names(&pool), expected);
    pool = reopened(&pool);
    assert_eq!(names(&pool), expected);
    check(&pool);
    // The old name is free, and nothing hangs on it.
    let disk_again = pool.create_volume(new_volume("disk"), MIB).unwrap();
    delete(&mut pool, &[disk_again], false).unwrap();
    assert_eq!(kind(rename(&mut pool, disk, "other")), ErrorKind::Exists);
    assert_eq!(kind(rename(&mut pool, other, "a@b")), ErrorKind::Invalid);
    rename(&mut pool, disk, "group/new").unwrap();
    assert_eq!(names(&pool), expected);
}

#[test]
fn a_snapshot_gets_another_name_of_its_volume() {
    let (mut pool, disk) = with_disk(MIB);
    let snapshot = pool.snapshot(disk, new_volume("disk@a")).unwrap();
    pool.snapshot(disk, new_volume("disk@b")).unwrap();
    pool.create_volume(new_volume("other"), MIB).unwrap();
    rename(&mut pool, snapshot, "disk@c").unwrap();
    assert_eq!(names(&pool), ["disk", "disk@c", "disk@b", "other"]);
    assert_eq!(kind(rename(&mut pool, snapshot, "disk@b")), ErrorKind::Exists);
    assert_eq!(kind(rename(&mut pool, snapshot, "other@c")), ErrorKind::Invalid);
    assert_eq!(kind(rename(&mut pool, snapshot, "disk")), ErrorKind::Invalid);
    let taken = Request::Snapshot { cuts: vec![(disk, new_volume("other@d"))] };
    assert_eq!(kind(pool.request(taken)), ErrorKind::Invalid, "a snapshot bears its volume's name");
}

#[test]
fn a_name_that_grows_too_long_renames_nothing() {
    let (mut pool, disk) = with_disk(MIB);
    pool.snapshot(disk, new_volume(&format!("disk@{}", "s".repeat(200)))).unwrap();
    assert_eq!(kind(rename(&mut pool, disk, &"v".repeat(100))), ErrorKind::Invalid);
    assert_eq!(names(&pool)[0], "disk");
    rename(&mut pool, disk, &"v".repeat(54)).unwrap();
    assert_eq!(names(&pool)[1].len(), 255);
}

#[test]
fn a_rollback_brings_content_and_size_back() {
    let (mut pool, disk) = with_disk(4 * MIB);
    pool.write(disk, 0, vec![1; MIB as usize]).unwrap();
    let old = pool.snapshot(disk, new_volume("disk@old")).unwrap();
    pool.write(disk, MIB / 2, vec![2; 2 * MIB as usize]).unwrap();
    resize(&mut pool, disk, 8 * MIB).unwrap();
    let newer = pool.snapshot(disk, new_volume("disk@newer")).unwrap();
    pool.write(disk, 6 * MIB, vec![3; MIB as usize]).unwrap();
    pool.request(Request::Rollback { volume: disk, snapshot: old }).unwrap();
    for _ in 0..2 {
        assert_eq!(info(&pool, "disk").size_bytes, 4 * MIB);
        assert_eq!(pool.read(disk, 0, MIB).unwrap(), vec![1; MIB as usize]);
        assert!(pool.read(disk, MIB, 3 * MIB).unwrap().iter().all(|byte| *byte == 0));
        assert_eq!(pool.read(newer, 2 * MIB, 1).unwrap(), [2]);
        pool = reopened(&pool);
        check(&pool);
    }
    // It is a volume like any other, and the snapshot stays as it was.
    pool.write(disk, 0, vec![4; 4096]).unwrap();
    assert_eq!(pool.read(old, 0, 1).unwrap(), [1]);
    pool.request(Request::Rollback { volume: disk, snapshot: newer }).unwrap();
    assert_eq!(info(&pool, "disk").size_bytes, 8 * MIB);
    assert_eq!(pool.read(disk, 6 * MIB, 1).unwrap(), [0]);
    delete(&mut pool, &[old, newer], false).unwrap();
    pool.idle(5000);
    assert_eq!(pool.status().deleting, 0);
    check(&pool);
}

/// What a rollback took away comes back to the pool.
#[test]
fn a_rollback_frees_what_was_written_since() {
    let (mut pool, disk) = with_disk(64 * MIB);
    pool.write(disk, 0, vec![1; MIB as usize]).unwrap();
    let snapshot = pool.snapshot(disk, new_volume("disk@a")).unwrap();
    pool.idle(2000);
    let used = pool.status().used_blocks;
    for turn in 0..8 {
        pool.write(disk, 0, vec![turn; 8 * MIB as usize]).unwrap();
        pool.request(Request::Rollback { volume: disk, snapshot }).unwrap();
    }
    pool.idle(5000);
    assert_eq!(pool.status().used_blocks, used);
    check(&pool);
}

#[test]
fn a_rollback_goes_only_to_ones_own_snapshots() {
    let (mut pool, disk) = with_disk(MIB);
    let snapshot = pool.snapshot(disk, new_volume("disk@a")).unwrap();
    let clone = pool.clone_snapshot(snapshot, new_volume("copy")).unwrap();
    let mut roll_back = |volume, snapshot| kind(pool.request(Request::Rollback { volume, snapshot }));
    assert_eq!(roll_back(clone, snapshot), ErrorKind::Invalid);
    assert_eq!(roll_back(disk, clone), ErrorKind::Invalid);
    assert_eq!(roll_back(snapshot, snapshot), ErrorKind::Invalid);
    assert_eq!(roll_back(disk, VolumeId(77)), ErrorKind::NotFound);
}

#[test]
fn a_volume_goes_only_with_its_snapshots() {
    let (mut pool, disk) = with_disk(MIB);
    let snapshots: Vec<VolumeId> =
        (0..5).map(|i| pool.snapshot(disk, new_volume(&format!("disk@{i}"))).unwrap()).collect();
    let refused = delete(&mut pool, &[disk], false).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Busy);
    assert!(refused.message().contains("'disk@0', 'disk@1', 'disk@2' and 2 more"), "{refused}");
    assert_eq!(kind(delete(&mut pool, &[&[disk], &snapshots[1..]].concat(), false)), ErrorKind::Busy);
    hold(&mut pool, snapshots[4], "backup");
    let all = [&[disk], &snapshots[..]].concat();
    for deferred in [false, true] {
        assert_eq!(kind(delete(&mut pool, &all, deferred)), ErrorKind::Busy);
    }
    assert_eq!(names(&pool).len(), 6);
    release(&mut pool, snapshots[4], "backup");
    delete(&mut pool, &all, false).unwrap();
    assert!(names(&pool).is_empty());
}

#[test]
fn what_is_held_goes_with_its_last_hold() {
    let (mut pool, disk) = with_disk(MIB);
    pool.write(disk, 0, vec![1; 4096]).unwrap();
    let snapshot = pool.snapshot(disk, new_volume("disk@a")).unwrap();
    let free = pool.snapshot(disk, new_volume("disk@b")).unwrap();
    hold(&mut pool, snapshot, "one");
    hold(&mut pool, snapshot, "two");
    assert_eq!(kind(delete(&mut pool, &[snapshot], false)), ErrorKind::Busy);
    delete(&mut pool, &[snapshot, free], true).unwrap();
    pool = reopened(&pool);
    assert_eq!(names(&pool), ["disk", "disk@a"], "what nobody holds goes at once");
    assert!(info(&pool, "disk@a").deletion_deferred);
    release(&mut pool, snapshot, "one");
    assert!(info(&pool, "disk@a").deletion_deferred);
    release(&mut pool, snapshot, "two");
    assert_eq!(names(&pool), ["disk"]);
    pool = reopened(&pool);
    assert_eq!(names(&pool), ["disk"]);
    pool.idle(5000);
    assert_eq!(pool.status().deleting, 0);
    check(&pool);
    hold(&mut pool, disk, "volume");
    assert_eq!(kind(delete(&mut pool, &[disk], true)), ErrorKind::Busy, "only snapshots wait");
}

/// Requests that were there before a shrink, and are decided behind it, find the new end.
#[test]
fn a_shrink_is_one_step_for_those_who_wait() {
    let (mut pool, disk) = with_disk(MIB);
    pool.write(disk, 0, vec![1; MIB as usize]).unwrap();
    resize(&mut pool, disk, MIB / 2).unwrap();
    resize(&mut pool, disk, MIB / 2).unwrap();
    let whole = Request::Extents { volume: disk, offset_bytes: 0, length_bytes: MIB };
    assert_eq!(kind(pool.request(whole)), ErrorKind::Invalid);
    let half = Request::Extents { volume: disk, offset_bytes: 0, length_bytes: MIB / 2 };
    assert!(matches!(pool.request(half), Ok(Outcome::Extents(_))));
}
