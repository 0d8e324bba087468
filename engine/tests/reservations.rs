//! Reservations: what was promised to a volume is there, whatever others do.

#[allow(dead_code)]
mod common;

use common::timed::{MIB, Timed, write};
use common::{Random, disks, empty_pool, new_volume, open_options};
use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;
use vellum_engine::Pool;
use vellum_engine::error::{ErrorKind, Result};
use vellum_engine::options::CreateOptions;
use vellum_engine::request::{NewVolume, Outcome, PropertiesChange, Request};
use vellum_engine::storage::{Completion, Disk, DiskError, MemoryDisk, Operation, Ticket};
use vellum_engine::units::{BLOCK_BYTES, VolumeId};

const LOG_BLOCKS: u64 = 16;
const POOL_BLOCKS: u64 = 200;

fn pool() -> Pool<MemoryDisk> {
    empty_pool(POOL_BLOCKS, LOG_BLOCKS)
}

fn volume<D: Disk>(pool: &mut Pool<D>, name: &str, number: u8) -> VolumeId {
    pool.create_volume(NewVolume { uuid: [number; 16], ..new_volume(name) }, 64 * MIB).unwrap()
}

fn snapshot<D: Disk>(pool: &mut Pool<D>, volume: VolumeId, name: &str, number: u8) -> Result<VolumeId> {
    pool.snapshot(volume, NewVolume { uuid: [number; 16], ..new_volume(name) })
}

fn reserve<D: Disk>(pool: &mut Pool<D>, volume: VolumeId, blocks: u64) -> Result<()> {
    let change =
        PropertiesChange { reservation_bytes: Some(blocks * BLOCK_BYTES), ..PropertiesChange::default() };
    pool.request(Request::SetProperties { volume, change: Box::new(change) }).map(drop)
}

fn write_block<D: Disk>(pool: &mut Pool<D>, volume: VolumeId, block: u64) -> Result<()> {
    pool.write(volume, block * BLOCK_BYTES, vec![block as u8; BLOCK_BYTES as usize])
}

/// Writes blocks from the first on until there is no space. How many were written.
fn fill<D: Disk>(pool: &mut Pool<D>, volume: VolumeId) -> u64 {
    for block in 0.. {
        if let Err(error) = write_block(pool, volume, block) {
            assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
            return block;
        }
    }
    unreachable!()
}

/// Blocks that a volume has alone, as long as only whole blocks are written.
fn own_blocks<D: Disk>(pool: &mut Pool<D>, volume: VolumeId) -> u64 {
    let (mut offset_bytes, mut own) = (0, 0);
    while offset_bytes < 64 * MIB {
        let length_bytes = 64 * MIB - offset_bytes;
        let outcome = pool.request(Request::Extents { volume, offset_bytes, length_bytes }).unwrap();
        let Outcome::Extents(extents) = outcome else { panic!("{outcome:?}") };
        for extent in extents {
            offset_bytes += extent.length_bytes;
            own += if extent.mapped && !extent.shared { extent.length_bytes / BLOCK_BYTES } else { 0 };
        }
    }
    own
}

#[test]
fn a_reserved_volume_writes_what_was_promised_when_another_has_filled_the_pool() {
    let mut pool = pool();
    let (kept, other) = (volume(&mut pool, "kept", 1), volume(&mut pool, "other", 2));
    reserve(&mut pool, kept, 50).unwrap();
    assert_eq!(pool.status().reserved_blocks, 50);
    assert_eq!(fill(&mut pool, other), POOL_BLOCKS - LOG_BLOCKS - 50);
    assert_eq!(fill(&mut pool, kept), 50);
    assert_eq!(pool.status().reserved_blocks, 0);
    for block in 0..50 {
        write_block(&mut pool, kept, block).expect("an overwrite needs nothing");
    }
}

#[test]
fn a_volume_is_made_with_its_reservation_or_not_at_all() {
    let mut pool = pool();
    let make = |name: &str, blocks: u64| Request::CreateVolume {
        new: new_volume(name),
        size_bytes: 64 * MIB,
        reservation_bytes: blocks * BLOCK_BYTES,
    };
    let kept = pool.request(make("kept", 50)).unwrap();
    assert_eq!(pool.status().reserved_blocks, 50);
    let refused = pool.request(make("greedy", POOL_BLOCKS)).unwrap_err();
    assert!(refused.kind() == ErrorKind::NoSpace && refused.place().is_none(), "{refused}");
    let odd = pool.request(make("odd", 2048)).unwrap_err();
    assert_eq!(odd.kind(), ErrorKind::Invalid);
    assert_eq!((pool.find("greedy"), pool.find("odd"), pool.status().reserved_blocks), (None, None, 50));
    let other = volume(&mut pool, "other", 2);
    assert_eq!(fill(&mut pool, other), POOL_BLOCKS - LOG_BLOCKS - 50);
    let Outcome::Created(made) = kept else { panic!("{kept:?}") };
    assert_eq!(fill(&mut pool, made[0]), 50);
}

#[test]
fn the_promise_outlives_closing_and_crashing() {
    for crash in [false, true] {
        let mut before = pool();
        let (kept, other) = (volume(&mut before, "kept", 1), volume(&mut before, "other", 2));
        reserve(&mut before, kept, 50).unwrap();
        (0..20).for_each(|block| write_block(&mut before, kept, block).unwrap());
        let (data, metadata) = if crash { disks(&before) } else { before.close().unwrap() };
        let mut after = Pool::open(data, metadata, &open_options()).unwrap();
        assert_eq!(fill(&mut after, other), POOL_BLOCKS - LOG_BLOCKS - 50);
        assert_eq!(after.status().reserved_blocks, 30);
        (20..50).for_each(|block| write_block(&mut after, kept, block).unwrap());
    }
}

#[test]
fn a_reservation_that_the_pool_cannot_keep_is_refused_with_figures() {
    let mut pool = pool();
    let (one, other) = (volume(&mut pool, "one", 1), volume(&mut pool, "other", 2));
    let refused = reserve(&mut pool, one, POOL_BLOCKS).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NoSpace);
    assert!(refused.message().contains("12800 KiB") || refused.message().contains("11776 KiB"), "{refused}");
    assert_eq!(pool.status().reserved_blocks, 0);
    reserve(&mut pool, one, 100).unwrap();
    assert_eq!(reserve(&mut pool, other, 100).unwrap_err().kind(), ErrorKind::NoSpace);
    reserve(&mut pool, other, 84).unwrap();
    reserve(&mut pool, one, 0).unwrap();
    assert_eq!(pool.status().reserved_blocks, 84);
    assert_eq!(
        reserve(&mut pool, one, 1 << 20).unwrap_err().kind(),
        ErrorKind::Invalid,
        "more than its size"
    );
    pool.delete(other).unwrap();
    assert_eq!(pool.status().reserved_blocks, 0);
}

#[test]
fn what_a_volume_has_already_counts() {
    let mut pool = pool();
    let (kept, other) = (volume(&mut pool, "kept", 1), volume(&mut pool, "other", 2));
    (0..60).for_each(|block| write_block(&mut pool, kept, block).unwrap());
    (0..100).for_each(|block| write_block(&mut pool, other, block).unwrap());
    assert_eq!(reserve(&mut pool, kept, 90).unwrap_err().kind(), ErrorKind::NoSpace);
    reserve(&mut pool, kept, 80).unwrap();
    assert_eq!(pool.status().reserved_blocks, 20);
    pool.request(Request::Discard {
        volume: kept,
        offset_bytes: 0,
        length_bytes: 10 * BLOCK_BYTES,
        fua: false,
    })
    .unwrap();
    assert_eq!(pool.status().reserved_blocks, 30, "what is discarded may be had again");
}

#[test]
fn a_snapshot_for_which_the_promise_could_not_be_kept_is_refused() {
    let mut pool = pool();
    let (kept, other) = (volume(&mut pool, "kept", 1), volume(&mut pool, "other", 2));
    reserve(&mut pool, kept, 50).unwrap();
    (0..50).for_each(|block| write_block(&mut pool, kept, block).unwrap());
    snapshot(&mut pool, kept, "kept@1", 3).unwrap();
    assert_eq!(pool.status().reserved_blocks, 50, "all is shared");
    (0..50).for_each(|block| write_block(&mut pool, kept, block).unwrap());
    let filled = fill(&mut pool, other);
    assert_eq!(filled, POOL_BLOCKS - LOG_BLOCKS - 100);
    let refused = snapshot(&mut pool, kept, "kept@2", 4).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NoSpace);
    assert!(refused.message().contains("lower the reservation"), "{refused}");
    let rolled_back =
        pool.request(Request::Rollback { volume: kept, snapshot: pool.find("kept@1").unwrap() });
    assert_eq!(rolled_back.unwrap_err().kind(), ErrorKind::NoSpace);
    reserve(&mut pool, kept, 0).unwrap();
    snapshot(&mut pool, kept, "kept@2", 4).unwrap();
}

#[test]
fn a_deleted_snapshot_gives_its_volume_back_what_it_shared() {
    let mut pool = pool();
    let kept = volume(&mut pool, "kept", 1);
    reserve(&mut pool, kept, 50).unwrap();
    (0..50).for_each(|block| write_block(&mut pool, kept, block).unwrap());
    let taken = snapshot(&mut pool, kept, "kept@1", 3).unwrap();
    assert_eq!(pool.status().reserved_blocks, 50);
    pool.delete(taken).unwrap();
    (0..10).for_each(|_| pool.idle(1000));
    assert_eq!(pool.status().reserved_blocks, 0);
}

#[test]
fn sizes_and_clones_follow() {
    let mut pool = pool();
    let kept = volume(&mut pool, "kept", 1);
    reserve(&mut pool, kept, 100).unwrap();
    pool.request(Request::Resize { volume: kept, size_bytes: 10 * BLOCK_BYTES }).unwrap();
    assert_eq!(pool.status().reserved_blocks, 10, "no more than it can map");
    pool.request(Request::Resize { volume: kept, size_bytes: 64 * MIB }).unwrap();
    assert_eq!(pool.status().reserved_blocks, 100);
    let taken = snapshot(&mut pool, kept, "kept@1", 3).unwrap();
    pool.clone_snapshot(taken, NewVolume { uuid: [4; 16], ..new_volume("copy") }).unwrap();
    assert_eq!(pool.status().reserved_blocks, 100, "clones have no reservation");
}

/// A disk whose host allocates nothing behind a limit.
struct Host {
    disk: MemoryDisk,
    limit_bytes: Rc<Cell<u64>>,
    done: VecDeque<Completion>,
}

impl Disk for Host {
    fn size_bytes(&self) -> u64 {
        self.disk.size_bytes()
    }

    fn submit(&mut self, ticket: Ticket, operation: Operation) {
        match &operation {
            Operation::Allocate { offset_bytes, length_bytes }
                if offset_bytes + length_bytes > self.limit_bytes.get() =>
            {
                self.done.push_back(Completion { ticket, operation, result: Err(DiskError::NoSpace) });
            }
            _ => self.disk.submit(ticket, operation),
        }
    }

    fn next_completion(&mut self) -> Option<Completion> {
        self.done.pop_front().or_else(|| self.disk.next_completion())
    }
}

#[test]
fn what_is_reserved_is_allocated_on_the_host_or_refused() {
    let limit_bytes = Rc::new(Cell::new(u64::MAX));
    let disk = || Host { disk: MemoryDisk::new(0), limit_bytes: limit_bytes.clone(), done: VecDeque::new() };
    let create = CreateOptions {
        data_blocks: POOL_BLOCKS,
        log_blocks: LOG_BLOCKS,
        uuid: [1; 16],
        secret: 4,
        created_unix_s: 0,
    };
    let mut pool = Pool::create(disk(), disk(), &create, &open_options()).unwrap();
    let (kept, other) = (volume(&mut pool, "kept", 1), volume(&mut pool, "other", 2));
    limit_bytes.set((LOG_BLOCKS + 80) * BLOCK_BYTES);
    let refused = reserve(&mut pool, kept, 100).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NoSpace);
    assert!(refused.message().contains("the file system that holds the data file"), "{refused}");
    reserve(&mut pool, kept, 60).unwrap();
    assert_eq!(fill(&mut pool, other), 20, "the host has no more for those without a reservation");
    assert_eq!(fill(&mut pool, kept), 60);
    limit_bytes.set(u64::MAX);
    reserve(&mut pool, kept, 100).unwrap();
}

#[test]
fn requests_at_the_same_time_share_as_promised() {
    let mut timed = Timed::new(POOL_BLOCKS, false);
    let volumes = [1, 2, 3].map(|number| timed.volume(number));
    for volume in &volumes[..2] {
        let reserved =
            PropertiesChange { reservation_bytes: Some(30 * BLOCK_BYTES), ..PropertiesChange::default() };
        timed.set(*volume, reserved);
    }
    timed.answers.clear();
    let mut promised = Vec::new();
    for block in 0..100 {
        for (index, volume) in volumes.iter().enumerate().rev() {
            let id = timed.submit(write(*volume, block * BLOCK_BYTES, BLOCK_BYTES, 7));
            if index < 2 && block < 30 {
                promised.push(id);
            }
        }
    }
    timed.settle();
    let written = timed.answers.iter().filter(|(_, _, reply)| reply.is_ok()).count() as u64;
    assert_eq!(written, POOL_BLOCKS - 64, "nothing is left over");
    for (id, _, reply) in &timed.answers {
        assert!(reply.is_ok() || !promised.contains(id), "{reply:?}");
    }
}

#[test]
fn two_reservations_that_take_all_of_the_pool_are_used_up_at_the_same_time() {
    // The log of this pool has 64 blocks.
    let mut timed = Timed::new(64 + 60, false);
    let volumes = [1, 2].map(|number| timed.volume(number));
    for volume in volumes {
        let reserved =
            PropertiesChange { reservation_bytes: Some(30 * BLOCK_BYTES), ..PropertiesChange::default() };
        timed.set(volume, reserved);
    }
    timed.answers.clear();
    for volume in volumes {
        for block in 0..30 {
            timed.submit(write(volume, block * BLOCK_BYTES, BLOCK_BYTES, 7));
        }
    }
    timed.settle();
    assert_eq!(timed.answers.len(), 60);
    timed.answers.iter().for_each(|(_, _, reply)| assert!(reply.is_ok(), "{reply:?}"));
}

/// A pool with two reserved volumes and one without, and all that may happen to them.
struct Model {
    pool: Pool<MemoryDisk>,
    volumes: Vec<VolumeId>,
    reserved: Vec<u64>,
    snapshots: Vec<(usize, VolumeId)>,
    random: Random,
    names: u8,
    /// Since the pool was opened there was time to count what volumes have.
    is_counted: bool,
}

impl Model {
    fn new(seed: u64) -> Self {
        let mut pool = pool();
        let volumes = (0..3).map(|index| volume(&mut pool, &format!("v{index}"), index)).collect();
        let random = Random::new(seed);
        Self {
            pool,
            volumes,
            reserved: vec![0; 3],
            snapshots: Vec::new(),
            random,
            names: 10,
            is_counted: true,
        }
    }

    fn step(&mut self) {
        let index = self.random.below(3) as usize;
        let volume = self.volumes[index];
        match self.random.below(100) {
            0..70 => self.write(index),
            70..80 => {
                let (offset_bytes, length_bytes) = (self.random.below(50) * BLOCK_BYTES, 8 * BLOCK_BYTES);
                let discard = Request::Discard { volume, offset_bytes, length_bytes, fua: false };
                self.pool.request(discard).unwrap();
            }
            80..85 => {
                self.names += 1;
                let name = format!("v{index}@{}", self.names);
                match snapshot(&mut self.pool, volume, &name, self.names) {
                    Ok(taken) => self.snapshots.push((index, taken)),
                    Err(error) => assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}"),
                }
            }
            85..90 if !self.snapshots.is_empty() => {
                let which = self.random.below(self.snapshots.len() as u64) as usize;
                self.pool.delete(self.snapshots.swap_remove(which).1).unwrap();
            }
            90..92 => {
                if let Some((_, snapshot)) = self.snapshots.iter().find(|(of, _)| *of == index) {
                    let rolled_back = self.pool.request(Request::Rollback { volume, snapshot: *snapshot });
                    assert!(rolled_back.is_ok() || self.reserved[index] > 0, "{rolled_back:?}");
                }
            }
            92..96 if index < 2 => {
                let blocks = self.random.below(60);
                match reserve(&mut self.pool, volume, blocks) {
                    Ok(()) => self.reserved[index] = blocks,
                    Err(error) => assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}"),
                }
            }
            96..98 => {
                let (data, metadata) = disks(&self.pool);
                self.pool = Pool::open(data, metadata, &open_options()).unwrap();
                self.is_counted = false;
            }
            _ => {
                self.pool.idle(self.random.below(3000));
                self.is_counted = true;
            }
        }
    }

    /// Three blocks one after the other.
    fn write(&mut self, index: usize) {
        let (volume, first) = (self.volumes[index], self.random.below(80));
        for block in first..first + 3 {
            let own = own_blocks(&mut self.pool, volume);
            if let Err(error) = write_block(&mut self.pool, volume, block) {
                assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
                assert!(
                    own >= self.reserved[index],
                    "it has {own} of {} reserved: {error}",
                    self.reserved[index]
                );
            }
        }
    }

    fn check(&self) {
        let status = self.pool.status();
        let free = status.data_blocks - status.used_blocks;
        assert!(!self.is_counted || status.reserved_blocks <= free, "{} of {free}", status.reserved_blocks);
    }
}

#[test]
fn no_volume_is_refused_what_was_promised_to_it() {
    for seed in 0..40 {
        let mut model = Model::new(seed);
        for _ in 0..250 {
            model.step();
            model.check();
        }
    }
}
