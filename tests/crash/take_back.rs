//! A pool that the kernel has comes back, by an import or a revocation, cut at every disk operation: one has it afterwards, and what
//! it holds is whole.

use crate::hand_over::{Disks, first_block, given_away, options};
use std::cell::RefCell;
use vellum_dm_bridge::Metadata;
use vellum_dm_bridge::export::stamp;
use vellum_dm_bridge::import::{ImportOptions, adopt, disown, imported_mark};
use vellum_engine::adopt::given;
use vellum_engine::error::ErrorKind;
use vellum_engine::format::{ROOT_SLOT_PAGES, VolumeKind};
use vellum_engine::hand_over::revoke;
use vellum_engine::inspect::{self, Structure};
use vellum_engine::storage::{Blocking, Buffer};
use vellum_engine::units::{BLOCK_BYTES, PAGE_BYTES};
use vellum_engine::{Pool, check};
use vellum_tests::driver::multiplier;
use vellum_tests::rng::Rng;
use vellum_tests::sim_disk::{PowerSupply, SimDisk};
use vellum_tests::thin::{Content, ThinDisk, content_of_pool};

const SEEDS: u64 = 2;

/// Holds, as the engine's, what it held.
fn is_the_engines(mut data: SimDisk, mut metadata: SimDisk, content: &Content) -> Result<(), String> {
    let report = check(&mut data, &mut metadata, &mut |_| {}).map_err(|error| error.to_string())?;
    if !report.is_clean() {
        return Err(format!("{:?}", report.findings));
    }
    let mut pool = Pool::open(data, metadata, &options(8)).map_err(|error| error.to_string())?;
    if content_of_pool(&mut pool) == *content { Ok(()) } else { Err("it holds something else".into()) }
}

/// Adopts into a new disk, as an import does before it makes the kernel's metadata unusable.
fn taken_back(disks: &mut Disks, target: &mut SimDisk) -> Result<(), String> {
    let known = given(&mut disks.metadata).map_err(|error| error.to_string())?;
    let thin = ThinDisk(RefCell::new(std::mem::replace(&mut disks.thin, SimDisk::new(0, false))));
    let options = ImportOptions { secret: 77, nonce: 5, ..ImportOptions::default() };
    let adopted = match Metadata::open(&thin) {
        Ok(metadata) => {
            let adopted = adopt(&metadata, &mut disks.data, target, Some(&known), &options, &mut |_| {});
            adopted.map(drop).map_err(|error| error.to_string())
        }
        Err(error) => Err(error.to_string()),
    };
    disks.thin = thin.0.into_inner();
    adopted
}

#[test]
fn an_import_may_end_anywhere() {
    for seed in 0..SEEDS * multiplier() {
        let (disks, content) = given_away(seed);
        let mut rng = Rng::new(seed);
        let mut events = 0;
        loop {
            let power = PowerSupply::lasting(events);
            let mut cut = disks.power_cut(&mut rng);
            cut.set_power(&power);
            let mut target = SimDisk::new(seed, false);
            target.set_power(power.clone());
            let done = taken_back(&mut cut, &mut target);
            let ended = if rng.one_in(4) { cut.kill(&mut rng) } else { cut.power_cut(&mut rng) };
            if done.is_ok() {
                // Durable before the kernel's metadata is touched.
                let mut target = target.power_cut(&mut rng);
                target.set_power(PowerSupply::lasting(u64::MAX));
                is_the_engines(ended.data, target, &content)
                    .unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
                break;
            }
            assert!(power.is_off(), "seed {seed}, with power: {done:?}");
            // Nothing that matters was written: the kernel has it as before, and it can be imported.
            let (mut ended, mut target) = (ended, SimDisk::new(seed, false));
            taken_back(&mut ended, &mut target).unwrap_or_else(|wrong| panic!("seed {seed}, again: {wrong}"));
            is_the_engines(ended.data, target, &content)
                .unwrap_or_else(|wrong| panic!("seed {seed}, power for {events} events: {wrong}"));
            events += 1;
        }
        println!("seed {seed}: {events} moments");
        assert!(events > 10);
    }
}

#[test]
fn the_kernels_metadata_is_whole_or_unusable() {
    let (disks, _) = given_away(3);
    let mut rng = Rng::new(3);
    let mut seen = [0; 2];
    for events in 0..200 {
        let mut cut = disks.power_cut(&mut rng);
        cut.set_power(&PowerSupply::lasting(events % 3));
        let mut thin = ThinDisk(RefCell::new(cut.thin));
        let _ = disown(&mut thin, &[4; 16]);
        let thin = thin.0.into_inner().power_cut(&mut rng);
        let is_valid = Metadata::open(&ThinDisk(RefCell::new(thin.kill(&mut rng)))).is_ok();
        let mark = imported_mark(&first_block(&thin, &mut rng));
        assert!(is_valid == mark.is_none() && mark.is_none_or(|mark| mark == [4; 16]));
        seen[usize::from(is_valid)] += 1;
    }
    assert!(seen[0] > 10 && seen[1] > 10, "{seen:?}");
}

/// The kernel may have written into the blocks of the log, which were free for it.
fn scribble(disks: &mut Disks) {
    let page = Blocking::metadata(&mut disks.metadata).read(ROOT_SLOT_PAGES[0].offset_bytes(), PAGE_BYTES);
    let Structure::RootSlot(Some(slot), _) = inspect::page(&page.unwrap()).structure else {
        panic!("a root slot")
    };
    let mut data = Blocking::data(&mut disks.data);
    for extent in &slot.log {
        for block in 0..extent.blocks {
            let noise = vec![0x80 | block as u8; BLOCK_BYTES as usize];
            data.write((extent.first.0 + block) * BLOCK_BYTES, noise.into()).unwrap();
        }
    }
    data.sync().unwrap();
}

#[test]
fn what_may_have_been_written_is_another_snapshot() {
    let (mut disks, content) = given_away(1);
    let before = given(&mut disks.metadata).unwrap();
    let mut next = 0;
    let mut new_uuid = |_| {
        next += 1;
        [next; 16]
    };
    revoke(&mut disks.data, &mut disks.metadata, 6, Some(&mut new_uuid)).unwrap();
    let mut pool = Pool::open(disks.data, disks.metadata, &options(8)).unwrap();
    assert_eq!(content_of_pool(&mut pool), content);
    let mut snapshots = 0;
    for (now, before) in pool.volumes().iter().zip(&before.volumes) {
        assert_eq!((now.id, &now.name), (before.id, &before.name));
        let is_snapshot = before.kind == VolumeKind::Snapshot;
        assert_eq!(now.uuid != before.uuid, is_snapshot, "{}", now.name);
        snapshots += usize::from(is_snapshot);
    }
    assert!(snapshots > 0 && snapshots == usize::from(next));
}

#[test]
fn a_revocation_may_end_anywhere() {
    for seed in 0..SEEDS * multiplier() {
        let (mut disks, content) = given_away(seed);
        scribble(&mut disks);
        let mut rng = Rng::new(seed);
        let (mut events, mut kept) = (0, 0);
        loop {
            let power = PowerSupply::lasting(events);
            let mut cut = disks.power_cut(&mut rng);
            cut.set_power(&power);
            let done = revoke(&mut cut.data, &mut cut.metadata, 6, None);
            let mut ended = if rng.one_in(4) { cut.kill(&mut rng) } else { cut.power_cut(&mut rng) };
            assert!(done.is_ok() || power.is_off(), "seed {seed}, with power: {done:?}");
            match revoke(&mut ended.data, &mut ended.metadata, 7, None) {
                Ok(()) => kept += 1,
                Err(error) => assert_eq!(error.kind(), ErrorKind::Invalid, "seed {seed}: {error}"),
            }
            is_the_engines(ended.data, ended.metadata, &content)
                .unwrap_or_else(|wrong| panic!("seed {seed}, power for {events} events: {wrong}"));
            if done.is_ok() {
                break;
            }
            events += 1;
        }
        println!("seed {seed}: {events} moments, in {kept} the kernel still had it");
        assert!(kept > 0 && kept < events);
    }
}

#[test]
fn either_slot_is_enough_to_take_the_pool_back() {
    for page in ROOT_SLOT_PAGES {
        let (mut disks, content) = given_away(1);
        let rotten = Buffer::zeroed(PAGE_BYTES).freeze();
        Blocking::metadata(&mut disks.metadata).write(page.offset_bytes(), rotten).unwrap();
        // Whoever wants the pool learns who has it, not that something is damaged.
        let (data, metadata) = (disks.data.kill(&mut Rng::new(1)), disks.metadata.kill(&mut Rng::new(1)));
        assert_eq!(Pool::open(data, metadata, &options(8)).err().unwrap().kind(), ErrorKind::InUse);
        let mut target = SimDisk::new(9, false);
        taken_back(&mut disks, &mut target).unwrap();
        let known = given(&mut disks.metadata).unwrap();
        assert_eq!(stamp(&known.mark()), uuid_of(&disks));
        is_the_engines(disks.data.kill(&mut Rng::new(1)), target, &content).unwrap();
        // The good slot stays until another stands in the rotten one's place.
        let mut events = 0;
        loop {
            let mut rng = Rng::new(events);
            let mut cut = disks.power_cut(&mut rng);
            cut.set_power(&PowerSupply::lasting(events));
            let done = revoke(&mut cut.data, &mut cut.metadata, 6, None);
            let mut ended = cut.power_cut(&mut rng);
            let _ = revoke(&mut ended.data, &mut ended.metadata, 7, None);
            is_the_engines(ended.data, ended.metadata, &content)
                .unwrap_or_else(|wrong| panic!("page {page}, {events}: {wrong}"));
            if done.is_ok() {
                break;
            }
            events += 1;
        }
        assert!(events > 5);
    }
}

fn uuid_of(disks: &Disks) -> [u8; 16] {
    let thin = ThinDisk(RefCell::new(disks.thin.kill(&mut Rng::new(1))));
    Metadata::open(&thin).unwrap().superblock().uuid
}
