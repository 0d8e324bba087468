//! A pool that is given to the kernel, cut at every disk operation: exactly one has it afterwards, and what it holds is whole.
//!
//! The deliberate breaks of its rules are hunted by `canaries.rs` with the trial of this file.

use std::cell::RefCell;
use vellum_dm_bridge::export::{ExportOptions, Exported, Failure, export};
use vellum_dm_bridge::{Metadata, Source, check, unfinished_mark};
use vellum_engine::Pool;
use vellum_engine::error::ErrorKind;
use vellum_engine::format::ROOT_SLOT_PAGES;
use vellum_engine::options::{CreateOptions, OpenOptions};
use vellum_engine::storage::{Blocking, Buffer};
use vellum_engine::units::{BLOCK_BYTES, PAGE_BYTES};
use vellum_tests::driver::multiplier;
use vellum_tests::rng::Rng;
use vellum_tests::sim_disk::{PowerSupply, SimDisk};
use vellum_tests::thin::{Content, ThinDisk, content_of_pool, differs, fill_at_random};

const SEEDS: u64 = 3;
const DATA_BLOCKS: u64 = 400;
const VOLUME_BYTES: u64 = 10 * BLOCK_BYTES;
const THIN_BYTES: u64 = 128 * 4096;

/// Data, metadata, and metadata of dm-thin.
pub struct Disks {
    pub data: SimDisk,
    pub metadata: SimDisk,
    pub thin: SimDisk,
}

impl Disks {
    pub fn power_cut(&self, rng: &mut Rng) -> Self {
        let Self { data, metadata, thin } = self;
        Self { data: data.power_cut(rng), metadata: metadata.power_cut(rng), thin: thin.power_cut(rng) }
    }

    pub fn kill(&self, rng: &mut Rng) -> Self {
        let Self { data, metadata, thin } = self;
        Self { data: data.kill(rng), metadata: metadata.kill(rng), thin: thin.kill(rng) }
    }

    pub fn set_power(&mut self, power: &PowerSupply) {
        for disk in [&mut self.data, &mut self.metadata, &mut self.thin] {
            disk.set_power(power.clone());
        }
    }
}

pub fn options(nonce: u32) -> OpenOptions {
    OpenOptions { slab_blocks: 16, collapse_bytes_per_s: 0, nonce, ..OpenOptions::default() }
}

/// A closed pool, and an empty device for dm-thin's metadata.
fn start(seed: u64) -> (Disks, Content) {
    let mut rng = Rng::new(seed);
    let create = CreateOptions {
        data_blocks: DATA_BLOCKS,
        log_blocks: 2,
        uuid: [9; 16],
        secret: 42,
        created_unix_s: 0,
    };
    let disks = (SimDisk::new(seed, false), SimDisk::new(seed + 1, false));
    let mut pool = Pool::create(disks.0, disks.1, &create, &options(1)).unwrap();
    fill_at_random(&mut pool, &mut rng, VOLUME_BYTES, 40);
    while pool.status().deleting > 0 {
        pool.idle(2000);
    }
    let content = content_of_pool(&mut pool);
    let (data, metadata) = pool.close().unwrap();
    let mut thin = SimDisk::new(seed + 2, false);
    Blocking::data(&mut thin).allocate(0, THIN_BYTES).unwrap();
    Blocking::data(&mut thin).sync().unwrap();
    (Disks { data, metadata, thin }, content)
}

pub fn first_block(thin: &SimDisk, rng: &mut Rng) -> Vec<u8> {
    let mut first = vec![0; PAGE_BYTES];
    ThinDisk(RefCell::new(thin.kill(rng))).read_at(0, &mut first).unwrap();
    first
}

/// Exports, or goes on with an export.
fn exported(disks: &mut Disks, nonce: u32) -> Result<Exported, Failure> {
    let interrupted = unfinished_mark(&first_block(&disks.thin, &mut Rng::new(1)));
    let options = ExportOptions { open: options(nonce), interrupted };
    let thin = std::mem::replace(&mut disks.thin, SimDisk::new(0, false));
    let mut thin = ThinDisk(RefCell::new(thin));
    let result = export::<_, Failure>(
        &mut disks.data,
        &mut disks.metadata,
        &options,
        |_, _| Ok(&mut thin),
        &mut |_| {},
    );
    disks.thin = thin.0.into_inner();
    result
}

/// Who has the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Engine,
    Kernel,
    /// The kernel, once the export has gone on to its end.
    Interrupted,
}

/// Who has the pool that a cut left, and what is wrong with it.
fn examine(mut disks: Disks, content: &Content, rng: &mut Rng) -> Result<Owner, String> {
    let is_valid = Metadata::open(&ThinDisk(RefCell::new(disks.thin.kill(rng)))).is_ok();
    let (data, metadata) = (disks.data.kill(rng), disks.metadata.kill(rng));
    match Pool::open(data, metadata, &options(3)) {
        Ok(_) if is_valid => return Err("the engine and the kernel both have the pool".into()),
        Ok(mut pool) => {
            if content_of_pool(&mut pool) != *content {
                return Err("the pool holds something else".into());
            }
            // To export again comes to the end.
            let (data, metadata) = pool.close().map_err(|error| error.to_string())?;
            let mut disks = Disks { data, metadata, ..disks };
            exported(&mut disks, 4).map_err(|error| format!("exported again: {error}"))?;
            return is_the_kernels(disks, content).map(|()| Owner::Engine);
        }
        Err(error) if error.kind() != ErrorKind::InUse => return Err(error.to_string()),
        Err(_) => {}
    }
    if is_valid {
        return is_the_kernels(disks, content).map(|()| Owner::Kernel);
    }
    exported(&mut disks, 5).map_err(|error| format!("gone on: {error}"))?;
    is_the_kernels(disks, content).map(|()| Owner::Interrupted)
}

fn is_the_kernels(mut disks: Disks, content: &Content) -> Result<(), String> {
    let thin = ThinDisk(RefCell::new(disks.thin));
    let report = check(&thin).map_err(|error| error.to_string())?;
    if !report.is_clean() {
        return Err(format!("dm-thin's metadata: {:?}", report.findings));
    }
    differs(&thin, &mut disks.data, content)?;
    match Pool::open(disks.data, disks.metadata, &options(6)) {
        Err(error) if error.kind() == ErrorKind::InUse => Ok(()),
        Err(error) => Err(format!("the engine says: {error}")),
        Ok(_) => Err("the engine has the pool, too".into()),
    }
}

/// Exports a copy of the disks until the power goes off after so many events.
fn export_until(disks: &Disks, rng: &mut Rng, events: u64) -> (Disks, u64) {
    let mut copy = disks.power_cut(rng);
    let power = PowerSupply::lasting(events);
    copy.set_power(&power);
    let done = exported(&mut copy, 2);
    if let Err(error) = &done {
        assert!(power.is_off(), "with power: {error}");
    }
    (copy, events - power.left())
}

/// A pool that the kernel has, to the end.
pub fn given_away(seed: u64) -> (Disks, Content) {
    let (disks, content) = start(seed);
    let (mut given, _) = export_until(&disks, &mut Rng::new(seed), u64::MAX);
    given.set_power(&PowerSupply::lasting(u64::MAX));
    (given, content)
}

/// One pool, one moment, one cut of what was not certain then.
fn trial(disks: &Disks, content: &Content, events: u64, seed: u64) -> Result<Owner, String> {
    let mut rng = Rng::new(seed);
    let (left, _) = export_until(disks, &mut rng, events);
    let left = if rng.one_in(4) { left.kill(&mut rng) } else { left.power_cut(&mut rng) };
    examine(left, content, &mut rng)
}

/// The kernel has the pool whichever root slot rots.
fn either_slot_says_so(disks: &Disks) -> Result<(), String> {
    let mut rng = Rng::new(1);
    for page in ROOT_SLOT_PAGES {
        let (mut given, _) = export_until(disks, &mut rng, u64::MAX);
        let rotten = Buffer::zeroed(PAGE_BYTES).freeze();
        Blocking::metadata(&mut given.metadata).write(page.offset_bytes(), rotten).unwrap();
        match Pool::open(given.data, given.metadata, &options(3)) {
            Err(error) if error.kind() == ErrorKind::InUse => {}
            Err(error) => return Err(format!("without page {page}: {error}")),
            Ok(_) => return Err(format!("without page {page} the engine has the pool, too")),
        }
    }
    Ok(())
}

/// For the canaries: cuts at random moments of one pool's export, and behind its end.
pub fn random_cuts(seed: u64) -> Result<(), String> {
    let (disks, content) = start(seed);
    either_slot_says_so(&disks)?;
    let mut rng = Rng::new(seed);
    let (_, events) = export_until(&disks, &mut rng, u64::MAX);
    (0..16).try_for_each(|at| {
        let events = if at == 0 { u64::MAX } else { rng.below(events) };
        trial(&disks, &content, events, rng.bits()).map(drop)
    })
}

#[test]
fn one_has_the_pool_wherever_its_export_ends() {
    for seed in 0..SEEDS * multiplier() {
        let (disks, content) = start(seed);
        let (_, events) = export_until(&disks, &mut Rng::new(1), u64::MAX);
        let mut owners = [0; 3];
        // Another order of completion takes some events more or fewer: the last one has as many as it takes.
        for event in (0..=events).chain([u64::MAX]) {
            let owner = trial(&disks, &content, event, seed << 32 | event);
            let owner =
                owner.unwrap_or_else(|wrong| panic!("seed {seed}, power for {event} events: {wrong}"));
            owners[owner as usize] += 1;
        }
        println!(
            "seed {seed}: {events} moments; the engine, the kernel, the kernel once gone on: {owners:?}"
        );
        assert!(owners.iter().all(|count| *count > 0), "seed {seed}: {owners:?}");
        either_slot_says_so(&disks).unwrap();
    }
}
