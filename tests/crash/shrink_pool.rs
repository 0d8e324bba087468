//! A pool that is made smaller, cut at every disk operation: what it holds stays, whatever moves, and to shrink again
//! comes to the end.
//!
//! The deliberate breaks of its rules are hunted by `canaries.rs` with the trial of this file.

use std::sync::atomic::{AtomicU64, Ordering};
use vellum_engine::Pool;
use vellum_engine::error::Error;
use vellum_engine::format::ROOT_SLOT_PAGES;
use vellum_engine::options::{CreateOptions, OpenOptions};
use vellum_engine::request::{NewVolume, Request};
use vellum_engine::shrink_pool::{FREE_BLOCKS_AT_LEAST, ShrinkOptions, ShrinkReport};
use vellum_engine::storage::{Blocking, Buffer, Disk, MemoryDisk};
use vellum_engine::units::{BLOCK_BYTES, PAGE_BYTES, SECTOR_BYTES, VolumeId};
use vellum_tests::driver::multiplier;
use vellum_tests::rng::Rng;
use vellum_tests::sim_disk::{PowerSupply, SimDisk};

const SEEDS: u64 = 2;
const SIZE: u64 = 24 * BLOCK_BYTES;
const BLOCKS: u64 = 512;

type Disks = (SimDisk, SimDisk);

/// What every volume and snapshot holds.
type Content = Vec<(String, Vec<u8>)>;

fn named(name: &str, uuid: u8) -> NewVolume {
    NewVolume { name: name.into(), uuid: [uuid; 16], created_unix_s: 0 }
}

fn options(nonce: u32) -> OpenOptions {
    OpenOptions { slab_blocks: 16, collapse_bytes_per_s: 0, nonce, ..OpenOptions::default() }
}

/// A closed pool with what it holds, and the least size that it can have.
struct Start {
    disks: Disks,
    content: Content,
    least: u64,
    /// A unit that was being written may be a mixture, as in mode `writeback`: a slot or log head may be torn.
    mixing: bool,
}

/// Volumes, snapshots and clones of which much lies behind what was deleted.
fn start(seed: u64) -> Start {
    let mut rng = Rng::new(seed);
    let mixing = rng.one_in(2);
    let create =
        CreateOptions { data_blocks: BLOCKS, log_blocks: 4, uuid: [1; 16], secret: 42, created_unix_s: 0 };
    let disks = (SimDisk::new(seed, mixing), SimDisk::new(seed + 1, mixing));
    let mut pool = Pool::create(disks.0, disks.1, &create, &options(1)).unwrap();
    let ballast = pool.create_volume(named("ballast", 2), 64 << 20).unwrap();
    let disk = pool.create_volume(named("disk", 3), SIZE).unwrap();
    let mut volumes = vec![disk];
    for number in 0..32 {
        let volume = *rng.pick(&volumes);
        match rng.below(6) {
            0 => {
                let name = pool.volumes().into_iter().find(|info| info.id == volume).unwrap().name;
                let snapshot = pool.snapshot(volume, named(&format!("{name}@{number}"), number)).unwrap();
                volumes.push(
                    pool.clone_snapshot(snapshot, named(&format!("clone{number}"), number + 100)).unwrap(),
                );
            }
            _ => write_some(&mut pool, volume, &mut rng),
        }
        let filler = vec![1; (4 * BLOCK_BYTES) as usize];
        pool.write(ballast, u64::from(number) * 4 * BLOCK_BYTES, filler).unwrap();
    }
    pool.delete(ballast).unwrap();
    while pool.status().deleting > 0 {
        pool.idle(2000);
    }
    let content = content_of(&mut pool);
    let least = pool.status().used_blocks + FREE_BLOCKS_AT_LEAST;
    Start { disks: pool.close().unwrap(), content, least, mixing }
}

fn write_some(pool: &mut Pool<SimDisk>, volume: VolumeId, rng: &mut Rng) {
    let offset_bytes = rng.below(SIZE / SECTOR_BYTES) * SECTOR_BYTES;
    let length_bytes = ((1 + rng.below(40)) * SECTOR_BYTES).min(SIZE - offset_bytes);
    let request = match rng.one_in(5) {
        true => Request::Discard { volume, offset_bytes, length_bytes, fua: false },
        false => {
            let bytes =
                (0..length_bytes / 8).flat_map(|_| rng.bits().to_le_bytes()).collect::<Vec<u8>>().into();
            Request::Write { volume, offset_bytes, bytes, fua: false }
        }
    };
    pool.request(request).unwrap();
}

fn content_of<D: Disk>(pool: &mut Pool<D>) -> Content {
    let volumes = pool.volumes();
    volumes.into_iter().map(|info| (info.name, pool.read(info.id, 0, info.size_bytes).unwrap())).collect()
}

fn shrink(disks: &mut Disks, to_blocks: u64, round_blocks: u64, nonce: u32) -> Result<ShrinkReport, Error> {
    let options = ShrinkOptions { round_blocks, ..ShrinkOptions::new(to_blocks, options(nonce)) };
    vellum_engine::shrink_pool(&mut disks.0, &mut disks.1, &options, &mut |_| {})
}

/// Shrinks a copy of the disks until the power goes off after so many events. Whether it came to the end before.
fn shrink_until(
    disks: &Disks,
    rng: &mut Rng,
    events: u64,
    to_blocks: u64,
    round_blocks: u64,
) -> (Disks, bool) {
    // Nothing is uncertain on disks that were closed and synced, so a cut is a copy.
    let mut copy = (disks.0.power_cut(rng), disks.1.power_cut(rng));
    let power = PowerSupply::lasting(events);
    copy.0.set_power(power.clone());
    copy.1.set_power(power.clone());
    let done = shrink(&mut copy, to_blocks, round_blocks, 2);
    if let Err(error) = &done {
        assert!(power.is_off(), "with power: {error}");
    }
    (copy, done.is_ok())
}

/// What is wrong with a pool that a cut left.
fn examine(mut disks: Disks, start: &Start, round_blocks: u64) -> Result<u64, String> {
    let report =
        vellum_engine::check(&mut disks.0, &mut disks.1, &mut |_| {}).map_err(|error| error.to_string())?;
    // What is torn is mended by the opening.
    if !report.is_clean() && !start.mixing {
        return Err(format!("after the cut: {:?}", report.findings));
    }
    let mut pool = Pool::open(disks.0, disks.1, &options(3)).map_err(|error| error.to_string())?;
    let blocks = pool.status().data_blocks;
    if blocks != BLOCKS && blocks != start.least {
        return Err(format!("the pool has {blocks} blocks"));
    }
    same(&start.content, &content_of(&mut pool), "after the cut")?;
    let mut disks = pool.close().map_err(|error| error.to_string())?;
    shrink(&mut disks, start.least, round_blocks, 4).map_err(|error| format!("shrunk again: {error}"))?;
    if disks.0.size_bytes() > start.least * BLOCK_BYTES {
        return Err("the data file is longer than the pool".into());
    }
    let report =
        vellum_engine::check(&mut disks.0, &mut disks.1, &mut |_| {}).map_err(|error| error.to_string())?;
    if !report.is_clean() {
        return Err(format!("at the end: {:?}", report.findings));
    }
    let mut pool = Pool::open(disks.0, disks.1, &options(5)).map_err(|error| error.to_string())?;
    if pool.status().used_blocks + FREE_BLOCKS_AT_LEAST != start.least {
        return Err(format!("{} blocks are used now", pool.status().used_blocks));
    }
    same(&start.content, &content_of(&mut pool), "at the end")?;
    Ok(blocks)
}

fn same(expected: &Content, found: &Content, when: &str) -> Result<(), String> {
    if expected.len() != found.len() {
        return Err(format!("{when}: {} volumes, not {}", found.len(), expected.len()));
    }
    for ((name, expected), (_, found)) in expected.iter().zip(found) {
        if let Some(at) = (0..expected.len()).find(|at| expected[*at] != found[*at]) {
            return Err(format!("{when}: '{name}' differs from byte {at} on"));
        }
    }
    Ok(())
}

/// Events that shrinking the pool takes.
fn events_of(start: &Start, round_blocks: u64) -> u64 {
    let mut rng = Rng::new(1);
    let power = PowerSupply::lasting(1 << 40);
    let mut copy = (start.disks.0.power_cut(&mut rng), start.disks.1.power_cut(&mut rng));
    copy.0.set_power(power.clone());
    copy.1.set_power(power.clone());
    let report = shrink(&mut copy, start.least, round_blocks, 2).unwrap();
    assert!(report.moved_blocks > 0, "{report:?}");
    (1 << 40) - power.left()
}

/// One pool, one moment, one cut of what was not certain then. The size that it left.
fn trial(start: &Start, round_blocks: u64, events: u64, seed: u64) -> Result<u64, String> {
    let mut rng = Rng::new(seed);
    let (disks, _) = shrink_until(&start.disks, &mut rng, events, start.least, round_blocks);
    let left = match rng.one_in(4) {
        true => (disks.0.kill(&mut rng), disks.1.kill(&mut rng)),
        false => (disks.0.power_cut(&mut rng), disks.1.power_cut(&mut rng)),
    };
    examine(left, start, round_blocks)
}

/// Both root slots give the present of a pool that was made smaller, and the data file has what either names.
fn either_slot_will_do(start: &Start, round_blocks: u64) -> Result<(), String> {
    let mut rng = Rng::new(1);
    for page in ROOT_SLOT_PAGES {
        let (mut disks, _) = shrink_until(&start.disks, &mut rng, u64::MAX, start.least, round_blocks);
        let rotten = Buffer::zeroed(PAGE_BYTES).freeze();
        Blocking::metadata(&mut disks.1)
            .write(page.offset_bytes(), rotten)
            .map_err(|error| error.to_string())?;
        let pool = Pool::open(disks.0, disks.1, &options(3));
        let mut pool = pool.map_err(|error| format!("without page {page}: {error}"))?;
        let blocks = pool.status().data_blocks;
        if blocks != start.least {
            return Err(format!("without page {page} the pool has {blocks} blocks"));
        }
        same(&start.content, &content_of(&mut pool), "from one slot")?;
    }
    Ok(())
}

/// For the canaries: cuts at random moments of one pool's shrinking, and a slot that rots behind it.
pub fn random_cuts(seed: u64) -> Result<(), String> {
    let start = start(seed);
    let round_blocks = 1 + seed % 40;
    either_slot_will_do(&start, round_blocks)?;
    let mut rng = Rng::new(seed);
    let events = events_of(&start, round_blocks);
    (0..16).try_for_each(|_| trial(&start, round_blocks, rng.below(events), rng.bits()).map(drop))
}

/// Every moment of one pool's shrinking. How many there were, and after how many the pool was smaller.
fn every_cut(seed: u64) -> (u64, u64) {
    let start = start(seed);
    let round_blocks = [7, 1000, 23][seed as usize % 3];
    let events = events_of(&start, round_blocks);
    let smaller = (0..events).filter(|event| {
        let left = trial(&start, round_blocks, *event, seed << 32 | event);
        let blocks = left.unwrap_or_else(|wrong| panic!("seed {seed}, power for {event} events: {wrong}"));
        blocks < BLOCKS
    });
    let smaller = smaller.count() as u64;
    println!("seed {seed}: {events} moments, after {smaller} the pool was smaller");
    either_slot_will_do(&start, round_blocks).unwrap();
    (events, smaller)
}

#[test]
fn a_pool_is_whole_wherever_its_shrinking_ends() {
    let (next, cuts, smaller) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let seeds = std::iter::repeat_with(|| next.fetch_add(1, Ordering::Relaxed));
                for seed in seeds.take_while(|seed| *seed < SEEDS * multiplier()) {
                    let (events, some) = every_cut(seed);
                    cuts.fetch_add(events, Ordering::Relaxed);
                    smaller.fetch_add(some, Ordering::Relaxed);
                }
            });
        }
    });
    let (cuts, smaller) = (cuts.into_inner(), smaller.into_inner());
    assert!(cuts > 500 && smaller > 10, "{smaller} of {cuts}");
}

/// As a device does.
#[test]
fn a_disk_without_truncation_keeps_its_length() {
    struct Fixed(MemoryDisk);
    impl Disk for Fixed {
        fn size_bytes(&self) -> u64 {
            self.0.size_bytes()
        }
        fn submit(
            &mut self,
            ticket: vellum_engine::storage::Ticket,
            operation: vellum_engine::storage::Operation,
        ) {
            self.0.submit(ticket, operation);
        }
        fn next_completion(&mut self) -> Option<vellum_engine::storage::Completion> {
            self.0.next_completion()
        }
    }
    let create =
        CreateOptions { data_blocks: 256, log_blocks: 4, uuid: [1; 16], secret: 42, created_unix_s: 0 };
    let (data, metadata) = (Fixed(MemoryDisk::new(256 * BLOCK_BYTES)), Fixed(MemoryDisk::new(0)));
    let pool = Pool::create(data, metadata, &create, &options(1)).unwrap();
    let (mut data, mut metadata) = pool.close().unwrap();
    let to = ShrinkOptions::new(64, options(2));
    let report = vellum_engine::shrink_pool(&mut data, &mut metadata, &to, &mut |_| {}).unwrap();
    assert_eq!((report.truncated, data.size_bytes()), (false, 256 * BLOCK_BYTES));
    assert_eq!(Pool::open(data, metadata, &options(3)).unwrap().status().data_blocks, 64);
}
