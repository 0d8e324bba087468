//! Random pools of the engine, with pictures of all their snapshots: sound, and what the snapshots were, also after the pool has gone
//! on for a while; and the space comes back.

use crate::export::new_pool;
use crate::tools;
use std::fs;
use tempfile::TempDir;
use vellum_dm_bridge::picture::PictureWriter;
use vellum_dm_bridge::{Metadata, check};
use vellum_engine::error::ErrorKind;
use vellum_engine::format::{PICTURE_TAG, VolumeKind};
use vellum_engine::hand_over::HandOver;
use vellum_engine::options::OpenOptions;
use vellum_engine::picture;
use vellum_engine::request::{Mappings, Request};
use vellum_engine::shrink_pool::{ShrinkOptions, shrink_pool};
use vellum_engine::storage::MemoryDisk;
use vellum_engine::units::{BLOCK_BYTES, SECTOR_BYTES, VirtualBlock, VolumeId};
use vellum_engine::{Pool, VolumeInfo};
use vellum_tests::driver::multiplier;
use vellum_tests::rng::Rng;
use vellum_tests::thin::{Content, content_of_pool, differs, fill_at_random, named};

const DATA_BLOCKS: u64 = 8000;

/// Makes a picture, and says how many blocks were written for it.
fn pin(pool: &mut Pool<MemoryDisk>, snapshot: VolumeId, name: &str, number: u64) -> (VolumeId, u64) {
    let mut ask = |request| pool.request(request);
    let mut new = named(name, 0xdd);
    new.uuid[..8].copy_from_slice(&number.to_le_bytes());
    let partial = picture::start(&mut ask, snapshot, new).expect("it can begin");
    let (mut next, mut written) = (Some(VirtualBlock(0)), 0);
    while let Some(first) = next {
        let filled = picture::fill(&mut ask, partial.volume, first).expect("there is room");
        (next, written) = (filled.next, written + filled.blocks);
    }
    picture::finish(&mut ask, &partial, name, "test").expect("the name is free");
    (partial.volume, written)
}

struct Pinned {
    pins: Vec<VolumeId>,
    content: Content,
    thin: Vec<u8>,
    written: u64,
}

fn pin_all(pool: &mut Pool<MemoryDisk>) -> Pinned {
    let mut content = content_of_pool(pool);
    content.retain(|(_, name, _)| name.contains('@'));
    let mut pinned = Pinned { pins: Vec::new(), content, thin: vec![0; 2 << 20], written: 0 };
    for (id, name, _) in &pinned.content {
        let (pin, written) = pin(pool, *id, &format!("{name}.picture"), id.0);
        pinned.pins.push(pin);
        pinned.written += written;
    }
    let mut writer = PictureWriter::begin(&mut pinned.thin, DATA_BLOCKS).expect("it fits");
    for ((id, ..), pin) in pinned.content.iter().zip(&pinned.pins) {
        writer.device(id.0 as u32).expect("in order");
        let mut next = Some(VirtualBlock(0));
        while let Some(first) = next {
            let mut ask = |request| pool.request(request);
            let mappings = picture::mappings(&mut ask, *pin, first).expect("it is there");
            let Mappings { runs, next: more } = mappings;
            runs.iter().for_each(|run| writer.run(run).expect("it is whole"));
            next = more;
        }
    }
    writer.end().expect("it is sound");
    pinned
}

fn assert_shown(pool: &Pool<MemoryDisk>, pinned: &Pinned, what: &str) {
    let mut data = pool.data_disk().clone();
    differs(&pinned.thin, &mut data, &pinned.content).unwrap_or_else(|wrong| panic!("{what}: {wrong}"));
}

/// The volume of a snapshot becomes what that is; if that volume is there.
fn roll_back(infos: &[VolumeInfo], snapshot: &str) -> Request {
    let id = |name: &str| infos.iter().find(|info| info.name == name).map(|info| info.id);
    let volume = snapshot.split('@').next().and_then(id);
    match (volume, id(snapshot)) {
        (Some(volume), Some(snapshot)) => Request::Rollback { volume, snapshot },
        _ => Request::Trim { first_block: 0 },
    }
}

fn clone(snapshot: VolumeId, step: u8) -> Request {
    let mut new = named(&format!("later{step}"), 0xc0);
    new.uuid[1] = step;
    Request::Clone { snapshot, new }
}

/// The pool goes on, clones and volumes that are rolled back too: writes, zeros, discards, deleted snapshots, joined layers,
/// punched blocks.
fn go_on(pool: &mut Pool<MemoryDisk>, rng: &mut Rng, size_bytes: u64) {
    let is_pin = |name: &str| name.ends_with(".picture");
    for step in 0..150u8 {
        let infos = pool.volumes();
        let volumes: Vec<_> = infos.iter().filter(|info| info.kind == VolumeKind::Volume).collect();
        let snapshots: Vec<_> =
            infos.iter().filter(|info| info.kind == VolumeKind::Snapshot && !is_pin(&info.name)).collect();
        let volume = rng.pick(&volumes).id;
        let offset_bytes = rng.below(size_bytes / SECTOR_BYTES) * SECTOR_BYTES;
        let length_bytes = (rng.between(1, 20) * SECTOR_BYTES).min(size_bytes - offset_bytes);
        let request = match rng.below(13) {
            0 => Request::Discard { volume, offset_bytes, length_bytes, fua: false },
            1 => Request::Collapse { volume },
            2 => Request::Trim { first_block: 0 },
            3 if !snapshots.is_empty() => {
                Request::Delete { volumes: vec![rng.pick(&snapshots).id], deferred: false }
            }
            10 if !snapshots.is_empty() => roll_back(&infos, &rng.pick(&snapshots).name),
            11 if infos.iter().any(|info| info.kind == VolumeKind::Snapshot) => {
                // Also of a pin: whoever writes to the clone does not write to what is shown.
                let all: Vec<_> = infos.iter().filter(|info| info.kind == VolumeKind::Snapshot).collect();
                clone(rng.pick(&all).id, step)
            }
            kind => {
                let bytes = vec![if kind == 4 { 0 } else { 0xee }; length_bytes as usize];
                Request::Write { volume, offset_bytes, bytes: bytes.into(), fua: false }
            }
        };
        pool.request(request).expect("there is room");
        if rng.one_in(10) {
            pool.idle(2000);
        }
    }
}

/// Lets go of every picture, and closes the pool, which must be sound.
fn release(mut pool: Pool<MemoryDisk>, pinned: &Pinned) -> (MemoryDisk, MemoryDisk) {
    for pin in &pinned.pins {
        let delete = |deferred| Request::Delete { volumes: vec![*pin], deferred };
        assert_eq!(pool.request(delete(false)).expect_err("it is held").kind(), ErrorKind::Busy);
        pool.request(delete(true)).expect("it goes with its hold");
        let tag = format!("{PICTURE_TAG}test");
        pool.request(Request::Release { volume: *pin, tag }).expect("it is held");
    }
    pool.idle(10_000);
    assert!(pool.volumes().iter().all(|info| !pinned.pins.contains(&info.id)));
    let (mut data, mut metadata) = pool.close().expect("it closes");
    let report = vellum_engine::check(&mut data, &mut metadata, &mut |_| {}).expect("it can be read");
    assert!(report.is_clean(), "{:#?}", report.findings);
    (data, metadata)
}

#[test]
fn random_snapshots_stay_what_they_were() {
    let folder = TempDir::new().expect("a folder");
    let (mut written, mut mapped) = (0, 0);
    for seed in 0..30 * multiplier() {
        let what = format!("seed {seed}");
        let mut rng = Rng::new(seed);
        let mut pool = new_pool(DATA_BLOCKS);
        let mut settings = pool.settings().clone();
        settings.detect_zeros = seed % 2 == 0;
        pool.configure(settings).expect("it is possible");
        let size_bytes = SECTOR_BYTES * rng.between(1, 700);
        fill_at_random(&mut pool, &mut rng, size_bytes, 120);
        let pinned = pin_all(&mut pool);
        let report = check(&pinned.thin).expect("memory can be read");
        assert!(
            report.is_clean() && report.is_picture && report.needs_check,
            "{what}: {:#?}",
            report.findings
        );
        let path = folder.path().join("tmeta");
        fs::write(&path, &pinned.thin).expect("space");
        tools::assert_thin_check(&path);
        let header = Metadata::open(&pinned.thin).expect("a superblock").header().expect("it is whole");
        assert_eq!((header.nr_data_blocks, header.time), (DATA_BLOCKS, 1));
        assert_shown(&pool, &pinned, &what);
        go_on(&mut pool, &mut rng, size_bytes);
        assert_shown(&pool, &pinned, &format!("{what}, later"));
        let (data, metadata) = pool.close().expect("it closes");
        let pool = Pool::open(data, metadata, &OpenOptions::default()).expect("it opens again");
        assert_shown(&pool, &pinned, &format!("{what}, opened again"));
        release(pool, &pinned);
        written += pinned.written;
        mapped += report.mappings;
    }
    println!("{written} of {mapped} blocks written for pictures");
    assert!(written > 500 && mapped > written + 500);
}

/// A pool with a snapshot of a block whose second half is zeros, and a hole in another.
fn pool_with_zeros() -> (Pool<MemoryDisk>, VolumeId, VolumeId) {
    let mut pool = new_pool(200);
    let mut settings = pool.settings().clone();
    settings.detect_zeros = true;
    pool.configure(settings).expect("it is possible");
    let disk = pool.create_volume(named("disk", 1), 2 * BLOCK_BYTES + 8192).expect("a volume");
    let half = BLOCK_BYTES as usize / 2;
    pool.write(disk, 0, [vec![7; half], vec![0; half]].concat()).expect("room");
    pool.write(disk, BLOCK_BYTES, vec![8; 2 * half]).expect("room");
    pool.request(Request::Discard {
        volume: disk,
        offset_bytes: BLOCK_BYTES,
        length_bytes: 4096,
        fua: false,
    })
    .expect("possible");
    pool.write(disk, 2 * BLOCK_BYTES, vec![9; 8192]).expect("room");
    let snapshot = pool.snapshot(disk, named("disk@monday", 2)).expect("a snapshot");
    (pool, disk, snapshot)
}

#[test]
fn zeros_that_are_written_for_a_picture_are_no_holes() {
    let (mut pool, _, snapshot) = pool_with_zeros();
    let before = pool.status().used_blocks;
    let pinned = pin_all(&mut pool);
    assert_eq!((pinned.written, pool.status().used_blocks - before), (3, 3));
    assert_shown(&pool, &pinned, "zeros");
    // Behind the end of the volume there are zeros up to the end of its last block, and nothing of whoever had it before.
    let mut longer = pinned.content.clone();
    longer[0].2.resize(3 * BLOCK_BYTES as usize, 0);
    differs(&pinned.thin, &mut pool.data_disk().clone(), &longer)
        .expect("the last block is zeros at its end");
    // The snapshot itself is what it was: nothing of it was filled in place.
    let mut ask = |request| pool.request(request);
    let Mappings { runs, next } =
        picture::mappings(&mut ask, snapshot, VirtualBlock(0)).expect("it is there");
    assert!(runs.iter().all(|run| !run.is_whole) && next.is_none());
    // A second picture finds its blocks whole where the first one's are.
    let (_, written) = pin(&mut pool, pinned.pins[0], "disk@again", 77);
    assert_eq!(written, 0);
}

#[test]
fn a_volume_is_no_picture_and_what_moves_blocks_refuses_pictures() {
    let (mut pool, disk, _) = pool_with_zeros();
    let mappings = pool.request(Request::Mappings { volume: disk, first: VirtualBlock(0) });
    assert_eq!(mappings.expect_err("it goes on changing").kind(), ErrorKind::Invalid);
    let pinned = pin_all(&mut pool);
    let (mut data, mut metadata) = pool.close().expect("it closes");
    let options = OpenOptions::default();
    let shrunk =
        shrink_pool(&mut data, &mut metadata, &ShrinkOptions::new(150, options.clone()), &mut |_| {});
    let error = shrunk.expect_err("it would move blocks");
    assert!(error.kind() == ErrorKind::Busy && error.message().contains("disk@monday.picture"), "{error}");
    let given = HandOver::begin(&mut data, &mut metadata, &options, None).map(drop);
    assert_eq!(given.expect_err("the kernel would write").kind(), ErrorKind::Busy);
    let pool = Pool::open(data, metadata, &options).expect("it is the engine's");
    assert_shown(&pool, &pinned, "after refusals");
    let used = pool.status().used_blocks;
    let (data, metadata) = release(pool, &pinned);
    let pool = Pool::open(data, metadata, &options).expect("it opens again");
    assert_eq!(used - pool.status().used_blocks, pinned.written, "the space comes back");
}

#[test]
fn a_full_pool_refuses_at_once_and_a_picture_that_is_given_up_leaves_nothing() {
    let (mut pool, disk, snapshot) = pool_with_zeros();
    let status = pool.status();
    let free = status.data_blocks - status.used_blocks;
    let big = pool.create_volume(named("big", 9), (free + 1) * BLOCK_BYTES).expect("a volume");
    for block in 0..free - 1 {
        pool.write(big, block * BLOCK_BYTES, vec![1; BLOCK_BYTES as usize]).expect("room");
    }
    let before = content_of_pool(&mut pool);
    let mut ask = |request| pool.request(request);
    let partial = picture::start(&mut ask, snapshot, named("disk@picture", 0xdd)).expect("it can begin");
    let filled = picture::fill(&mut ask, partial.volume, VirtualBlock(0));
    assert_eq!(filled.expect_err("it is full").kind(), ErrorKind::NoSpace);
    pool.request(Request::AbortReceive { volume: partial.volume }).expect("it is there");
    pool.idle(10_000);
    assert_eq!(content_of_pool(&mut pool), before);
    assert!(pool.find("disk@picture").is_none() && pool.status().deleting == 0);
    pool.write(disk, 4096, vec![3; 4096]).expect("room again");
}
