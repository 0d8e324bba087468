//! Pictures of snapshots: what is refused before it is made, what they take over, what happens meanwhile, and that their space comes
//! back.

#[allow(dead_code)]
mod common;

use common::timed::{Timed, write};
use common::{empty_pool, new_volume};
use vellum_engine::Pool;
use vellum_engine::error::ErrorKind;
use vellum_engine::format::PICTURE_TAG;
use vellum_engine::options::OpenOptions;
use vellum_engine::picture;
use vellum_engine::request::{
    NewVolume, NoSpacePolicy, Outcome, Partial, PropertiesChange, Request, StreamBase,
};
use vellum_engine::storage::MemoryDisk;
use vellum_engine::units::{BLOCK_BYTES, SECTOR_BYTES, VirtualBlock, VolumeId};

const LOG_BLOCKS: u64 = 4;
const TAG: &str = "test";

fn named(name: &str, number: u8) -> NewVolume {
    NewVolume { uuid: [number; 16], ..new_volume(name) }
}

fn put(pool: &mut Pool<MemoryDisk>, volume: VolumeId, block: u64, sectors: u64, byte: u8) {
    let bytes = vec![byte; (sectors * SECTOR_BYTES) as usize];
    pool.write(volume, block * BLOCK_BYTES, bytes).unwrap();
}

/// A pool with a volume of `blocks` blocks and its snapshot. Of each block the first sector was overwritten since, and
/// that is in a checkpoint.
fn layered(blocks: u64) -> (Pool<MemoryDisk>, VolumeId, VolumeId) {
    let mut pool = empty_pool(1024, LOG_BLOCKS);
    let disk = pool.create_volume(named("disk", 1), 1 << 30).unwrap();
    (0..blocks).for_each(|block| put(&mut pool, disk, block, 16, 1));
    let snapshot = pool.snapshot(disk, named("disk@one", 2)).unwrap();
    (0..blocks).for_each(|block| put(&mut pool, disk, block, 1, 2));
    let (data, metadata) = pool.close().unwrap();
    let pool = Pool::open(data, metadata, &common::open_options()).unwrap();
    (pool, disk, snapshot)
}

fn start(pool: &mut Pool<MemoryDisk>, snapshot: VolumeId, name: &str) -> Partial {
    picture::start(&mut |request| pool.request(request), snapshot, named(name, 3)).unwrap()
}

fn fill(pool: &mut Pool<MemoryDisk>, picture: &Partial) {
    let mut next = Some(VirtualBlock(0));
    while let Some(first) = next {
        let mut ask = |request| pool.request(request);
        next = picture::fill(&mut ask, picture.volume, first).unwrap().next;
    }
}

fn finish(
    pool: &mut Pool<MemoryDisk>,
    picture: &Partial,
    name: &str,
    tag: &str,
) -> vellum_engine::error::Result<()> {
    picture::finish(&mut |request| pool.request(request), picture, name, tag)
}

fn pin(pool: &mut Pool<MemoryDisk>, snapshot: VolumeId) -> VolumeId {
    let picture = start(pool, snapshot, "disk@one.picture");
    fill(pool, &picture);
    finish(pool, &picture, "disk@one.picture", TAG).unwrap();
    picture.volume
}

fn release(pool: &mut Pool<MemoryDisk>, pin: VolumeId) {
    pool.request(Request::Delete { volumes: vec![pin], deferred: true }).unwrap();
    pool.request(Request::Release { volume: pin, tag: format!("{PICTURE_TAG}{TAG}") }).unwrap();
    (0..20).for_each(|_| pool.idle(1000));
}

fn assert_clean(pool: Pool<MemoryDisk>) {
    let (mut data, mut metadata) = pool.close().unwrap();
    let report = vellum_engine::check(&mut data, &mut metadata, &mut |_| ()).unwrap();
    assert!(report.is_clean(), "{:?}", report.findings);
}

#[test]
fn layers_are_joined_when_a_pin_is_released() {
    let (mut pool, disk, snapshot) = layered(50);
    let pin = pin(&mut pool, snapshot);
    pool.delete(snapshot).unwrap();
    (0..20).for_each(|_| pool.idle(1000));
    assert_eq!(pool.status().used_blocks, LOG_BLOCKS + 100, "the pin keeps what was shown");
    release(&mut pool, pin);
    let status = pool.status();
    assert_eq!((status.collapse.freed_blocks, status.collapse.walks), (50, 0));
    assert_eq!(status.used_blocks, LOG_BLOCKS + 50);
    assert_eq!(pool.read(disk, 0, 1).unwrap(), [2]);
    assert_eq!(pool.read(disk, SECTOR_BYTES, 1).unwrap(), [1]);
    assert_clean(pool);
}

#[test]
fn layers_of_a_clone_are_joined_when_a_pin_is_released() {
    let (mut pool, disk, snapshot) = layered(50);
    let copy = pool.clone_snapshot(snapshot, named("copy", 4)).unwrap();
    (0..50).for_each(|block| put(&mut pool, copy, block, 1, 3));
    let pin = pin(&mut pool, snapshot);
    pool.delete(snapshot).unwrap();
    let length_bytes = 50 * BLOCK_BYTES;
    pool.request(Request::Discard { volume: disk, offset_bytes: 0, length_bytes, fua: false }).unwrap();
    (0..20).for_each(|_| pool.idle(1000));
    assert_eq!(pool.status().used_blocks, LOG_BLOCKS + 100);
    release(&mut pool, pin);
    assert_eq!(pool.status().used_blocks, LOG_BLOCKS + 50);
    assert_eq!(pool.read(copy, 0, 1).unwrap(), [3]);
    assert_clean(pool);
}

#[test]
fn what_cannot_be_is_refused_before_it_is_made() {
    let (mut pool, disk, snapshot) = layered(4);
    put(&mut pool, disk, 9, 1, 5);
    let holed = pool.snapshot(disk, named("disk@two", 7)).unwrap();
    let mut ask = |request| pool.request(request);
    let strange = picture::start(&mut ask, snapshot, named("other@one.picture", 3));
    assert_eq!(strange.unwrap_err().kind(), ErrorKind::Invalid);
    let picture = start(&mut pool, holed, "disk@two.picture");
    let long = "t".repeat(64 - PICTURE_TAG.len() + 1);
    let is_refused = |pool: &mut Pool<MemoryDisk>, name: &str, tag: &str, what: &str| {
        let error = finish(pool, &picture, name, tag).unwrap_err();
        assert!(error.kind() == ErrorKind::Invalid && error.message().contains(what), "{error}");
        let Outcome::Partials(partials) = pool.request(Request::Partials).unwrap() else { panic!() };
        assert_eq!(partials.len(), 1, "it is under way still");
    };
    is_refused(&mut pool, "disk@two.picture", TAG, "not filled");
    fill(&mut pool, &picture);
    is_refused(&mut pool, "disk@two.picture", &long, "64 bytes");
    is_refused(&mut pool, "disk@two.picture", "a\nb", "control");
    is_refused(&mut pool, "other@two.picture", TAG, "'disk@…'");
    // The volume is called something else meanwhile, and then gone.
    let rename = |name: &str| Request::Rename { volume: disk, name: name.to_owned() };
    pool.request(rename("drive")).unwrap();
    is_refused(&mut pool, "disk@two.picture", TAG, "'drive@…'");
    finish(&mut pool, &picture, "drive@two.picture", TAG).unwrap();
    assert_clean(pool);
}

#[test]
fn a_picture_goes_on_without_what_it_shows() {
    let (mut pool, disk, snapshot) = layered(4);
    pool.request(Request::Discard {
        volume: disk,
        offset_bytes: BLOCK_BYTES,
        length_bytes: SECTOR_BYTES,
        fua: false,
    })
    .unwrap();
    let holed = pool.snapshot(disk, named("disk@two", 7)).unwrap();
    let expected = pool.read(holed, 0, 4 * BLOCK_BYTES).unwrap();
    let picture = start(&mut pool, holed, "disk@two.picture");
    let length_bytes = 4 * BLOCK_BYTES;
    pool.request(Request::Discard { volume: disk, offset_bytes: 0, length_bytes, fua: false }).unwrap();
    pool.request(Request::Delete { volumes: vec![snapshot, holed, disk], deferred: false }).unwrap();
    (0..5).for_each(|_| pool.idle(1000));
    // By now it has the blocks alone.
    fill(&mut pool, &picture);
    finish(&mut pool, &picture, "disk@two.picture", TAG).unwrap();
    assert_eq!(pool.read(picture.volume, 0, 4 * BLOCK_BYTES).unwrap(), expected);
    release(&mut pool, picture.volume);
    assert_eq!(pool.status().used_blocks, LOG_BLOCKS);
    assert_clean(pool);
}

#[test]
fn one_that_is_dropped_half_filled_leaves_nothing() {
    let (mut pool, disk, _) = layered(300);
    let second = pool.snapshot(disk, named("disk@two", 7)).unwrap();
    let used = pool.status().used_blocks;
    let picture = start(&mut pool, second, "disk@two.picture");
    let mut ask = |request| pool.request(request);
    let filled = picture::fill(&mut ask, picture.volume, VirtualBlock(0)).unwrap();
    assert!(filled.next.is_some() && filled.blocks > 0);
    pool.request(Request::AbortReceive { volume: picture.volume }).unwrap();
    (0..20).for_each(|_| pool.idle(1000));
    assert_eq!(pool.status().used_blocks, used);
    let mut ask = |request| pool.request(request);
    let more = picture::fill(&mut ask, picture.volume, VirtualBlock(0));
    assert_eq!(more.unwrap_err().kind(), ErrorKind::NotFound);
    assert_clean(pool);
}

#[test]
fn one_that_is_begun_again_with_its_uuid_goes_on() {
    let (mut pool, _, snapshot) = layered(4);
    let first = start(&mut pool, snapshot, "disk@one.picture");
    let again = start(&mut pool, snapshot, "disk@one.picture");
    assert_eq!(Partial { is_resumed: true, ..first }, again);
    assert_eq!(again.base, StreamBase::Snapshot([2; 16]));
}

#[test]
fn clones_of_a_pin_have_the_properties_of_what_it_shows() {
    let (mut pool, disk, _) = layered(4);
    let change = PropertiesChange { limit_iops: Some(700), ..PropertiesChange::default() };
    pool.request(Request::SetProperties { volume: disk, change: Box::new(change) }).unwrap();
    let second = pool.snapshot(disk, named("disk@one-more", 7)).unwrap();
    let pin = pin(&mut pool, second);
    let copy = pool.clone_snapshot(pin, named("copy", 8)).unwrap();
    for volume in [pin, copy] {
        let info = pool.volumes().into_iter().find(|info| info.id == volume).unwrap();
        let properties = info.properties;
        assert_eq!((properties.limit_iops, properties.no_space()), (700, NoSpacePolicy::AsPool));
    }
}

/// Clients would wait in a full pool; a picture is told at once.
#[test]
fn a_picture_does_not_wait_for_room() {
    let mut timed = Timed::with(200, &OpenOptions { can_wait: true, ..common::open_options() });
    let disk = timed.volume(1);
    timed.ask(write(disk, 0, SECTOR_BYTES, 1)).unwrap();
    let cuts = vec![(disk, named("v1@one", 9))];
    let Outcome::Created(made) = timed.ask(Request::Snapshot { cuts }).unwrap() else { panic!() };
    let free = timed.core.status().data_blocks - timed.core.status().used_blocks;
    for block in 1..=free {
        timed.ask(write(disk, block * BLOCK_BYTES, BLOCK_BYTES, 2)).unwrap();
    }
    let waiting = timed.submit(write(disk, (free + 1) * BLOCK_BYTES, BLOCK_BYTES, 2));
    timed.settle();
    assert!(timed.answers.iter().all(|(id, ..)| *id != waiting));
    let mut ask = |request| timed.ask(request);
    let picture = picture::start(&mut ask, made[0], named("v1@one.picture", 3)).unwrap();
    let error = picture::fill(&mut ask, picture.volume, VirtualBlock(0)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
}
