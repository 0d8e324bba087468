//! Pictures of a pool that goes on, cut at every disk operation: metadata that is valid shows what the snapshots held, and what it shows
//! is pinned; what else is left can be dropped.

use std::cell::RefCell;
use std::fmt::Display;
use vellum_dm_bridge::picture::PictureWriter;
use vellum_dm_bridge::{Metadata, check};
use vellum_engine::Pool;
use vellum_engine::format::PICTURE_TAG;
use vellum_engine::options::{CreateOptions, OpenOptions};
use vellum_engine::picture;
use vellum_engine::request::{Outcome, Request};
use vellum_engine::storage::{Blocking, Disk};
use vellum_engine::units::{BLOCK_BYTES, SECTOR_BYTES, VirtualBlock};
use vellum_tests::driver::multiplier;
use vellum_tests::rng::Rng;
use vellum_tests::sim_disk::{PowerSupply, SimDisk};
use vellum_tests::thin::{Content, ThinDisk, content_of_pool, differs, fill_at_random, named};

const SEEDS: u64 = 3;
const DATA_BLOCKS: u64 = 400;
const VOLUME_BYTES: u64 = 6 * BLOCK_BYTES + 2 * SECTOR_BYTES;
const THIN_BYTES: u64 = 64 * 4096;
const SUFFIX: &str = ".picture";

/// Data, metadata, and metadata of dm-thin.
struct Disks([SimDisk; 3]);

impl Disks {
    fn each(&self, act: impl FnMut(&SimDisk) -> SimDisk) -> Self {
        Self(self.0.each_ref().map(act))
    }
}

fn options(nonce: u32) -> OpenOptions {
    OpenOptions { slab_blocks: 16, nonce, ..OpenOptions::default() }
}

/// A closed pool with snapshots, and an empty device for dm-thin's metadata.
fn start(seed: u64) -> (Disks, Content) {
    let mut rng = Rng::new(seed);
    let create = CreateOptions {
        data_blocks: DATA_BLOCKS,
        log_blocks: 2,
        uuid: [9; 16],
        secret: 42,
        created_unix_s: 0,
    };
    let disks = [0, 1].map(|at| SimDisk::new(seed + at, false));
    let [data, metadata] = disks;
    let mut pool = Pool::create(data, metadata, &create, &options(1)).unwrap();
    fill_at_random(&mut pool, &mut rng, VOLUME_BYTES, 40);
    let disk = pool.find("disk").unwrap();
    pool.snapshot(disk, named("disk@last", 0xee)).unwrap();
    while pool.status().deleting > 0 {
        pool.idle(2000);
    }
    let mut content = content_of_pool(&mut pool);
    content.retain(|(_, name, _)| name.contains('@'));
    content.truncate(3);
    let (data, metadata) = pool.close().unwrap();
    let mut thin = SimDisk::new(seed + 2, false);
    Blocking::data(&mut thin).allocate(0, THIN_BYTES).unwrap();
    Blocking::data(&mut thin).sync().unwrap();
    (Disks([data, metadata, thin]), content)
}

fn text(error: impl Display) -> String {
    error.to_string()
}

/// A client writes something, here or there.
fn write_some<D: Disk>(pool: &mut Pool<D>, rng: &mut Rng) -> Result<(), String> {
    let disk = pool.find("disk").ok_or("no volume")?;
    let sectors = VOLUME_BYTES / SECTOR_BYTES;
    let first = rng.below(sectors);
    let count = rng.between(1, 8).min(sectors - first);
    pool.write(disk, first * SECTOR_BYTES, vec![0xcc; (count * SECTOR_BYTES) as usize]).map_err(text)
}

/// Pictures of all that is in `content`, while a client writes.
fn draw<D: Disk>(
    pool: &mut Pool<D>,
    thin: &mut ThinDisk,
    content: &Content,
    rng: &mut Rng,
) -> Result<(), String> {
    let mut pins = Vec::new();
    for (id, name, _) in content {
        let name = format!("{name}{SUFFIX}");
        let mut new = named(&name, 0xdd);
        new.uuid[0] = id.0 as u8;
        let mut ask = |request| pool.request(request);
        let partial = picture::start(&mut ask, *id, new).map_err(text)?;
        let mut next = Some(VirtualBlock(0));
        while let Some(first) = next {
            next = picture::fill(&mut ask, partial.volume, first).map_err(text)?.next;
        }
        write_some(pool, rng)?;
        picture::finish(&mut |request| pool.request(request), &partial, &name, "test").map_err(text)?;
        pins.push((id.0 as u32, partial.volume));
        write_some(pool, rng)?;
    }
    let mut writer = PictureWriter::begin(thin, DATA_BLOCKS).map_err(text)?;
    for (device, pin) in pins {
        writer.device(device).map_err(text)?;
        let mut ask = |request| pool.request(request);
        let mappings = picture::mappings(&mut ask, pin, VirtualBlock(0)).map_err(text)?;
        mappings.runs.iter().try_for_each(|run| writer.run(run)).map_err(text)?;
        write_some(pool, rng)?;
    }
    writer.end().map_err(text)?;
    (0..4).try_for_each(|_| write_some(pool, rng))?;
    pool.flush().map_err(text)
}

/// Draws on a copy of the disks until the power goes off after so many events.
fn draw_until(disks: &Disks, content: &Content, rng: &mut Rng, events: u64) -> (Disks, u64) {
    let mut copy = disks.each(|disk| disk.power_cut(rng));
    let power = PowerSupply::lasting(events);
    copy.0.iter_mut().for_each(|disk| disk.set_power(power.clone()));
    let Disks([mut data, mut metadata, thin]) = copy;
    let mut thin = ThinDisk(RefCell::new(thin));
    let done = Pool::open(&mut data, &mut metadata, &options(2))
        .map_err(text)
        .and_then(|mut pool| draw(&mut pool, &mut thin, content, rng));
    if let Err(error) = &done {
        assert!(power.is_off(), "with power: {error}");
    }
    (Disks([data, metadata, thin.0.into_inner()]), events - power.left())
}

/// What a cut left: whether the metadata is valid, and what is wrong.
fn examine(disks: Disks, content: &Content, rng: &mut Rng) -> Result<bool, String> {
    let Disks([mut data, mut metadata, thin]) = disks;
    let thin = ThinDisk(RefCell::new(thin));
    let is_valid = Metadata::open(&thin).is_ok();
    let mut pool = Pool::open(&mut data, &mut metadata, &options(3)).map_err(text)?;
    let mut there = content_of_pool(&mut pool);
    there.retain(|(id, ..)| content.iter().any(|(other, ..)| other == id));
    if there != *content {
        return Err("the snapshots hold something else".into());
    }
    if is_valid {
        let is_held = |name: &String| {
            let pin = pool.volumes().into_iter().find(|info| info.name == format!("{name}{SUFFIX}"));
            pin.is_some_and(|pin| pin.holds == [format!("{PICTURE_TAG}test")])
        };
        if !content.iter().all(|(_, name, _)| is_held(name)) {
            return Err("the metadata is valid, and its blocks are not pinned".into());
        }
        let report = check(&thin).map_err(text)?;
        if !report.is_clean() {
            return Err(format!("dm-thin's metadata: {:?}", report.findings));
        }
    }
    // The pool goes on after the cut.
    for _ in 0..20 {
        write_some(&mut pool, rng)?;
    }
    pool.idle(3000);
    pool.close().map_err(text)?;
    if is_valid {
        differs(&thin, &mut data, content)?;
    }
    drop_all(Pool::open(&mut data, &mut metadata, &options(4)).map_err(text)?).map(|()| is_valid)
}

/// Everything that is left of pictures goes, and the pool is sound.
fn drop_all(mut pool: Pool<&mut SimDisk>) -> Result<(), String> {
    let Ok(Outcome::Partials(partials)) = pool.request(Request::Partials) else {
        return Err("no list".into());
    };
    for partial in partials {
        pool.request(Request::AbortReceive { volume: partial.volume }).map_err(text)?;
    }
    for pin in pool.volumes().into_iter().filter(|info| info.name.ends_with(SUFFIX)) {
        pool.request(Request::Delete { volumes: vec![pin.id], deferred: true }).map_err(text)?;
        for tag in pin.holds {
            pool.request(Request::Release { volume: pin.id, tag }).map_err(text)?;
        }
    }
    pool.idle(3000);
    if pool.volumes().iter().any(|info| info.name.ends_with(SUFFIX)) {
        return Err("a pin stays".into());
    }
    let (data, metadata) = pool.close().map_err(text)?;
    let report = vellum_engine::check(data, metadata, &mut |_| {}).map_err(text)?;
    if report.is_clean() { Ok(()) } else { Err(format!("the pool: {:?}", report.findings)) }
}

#[test]
fn a_picture_is_whole_and_pinned_wherever_it_is_cut() {
    for seed in 0..SEEDS * multiplier() {
        let (disks, content) = start(seed);
        let (_, events) = draw_until(&disks, &content, &mut Rng::new(seed), u64::MAX);
        let mut valid = 0;
        for event in 0..=events {
            let mut rng = Rng::new(seed);
            let (left, _) = draw_until(&disks, &content, &mut rng, event);
            let mut rng = Rng::new(seed << 32 | event);
            let is_killed = rng.one_in(4);
            let left =
                left.each(|disk| if is_killed { disk.kill(&mut rng) } else { disk.power_cut(&mut rng) });
            let examined = examine(left, &content, &mut rng);
            valid += u64::from(
                examined.unwrap_or_else(|wrong| panic!("seed {seed}, power for {event} events: {wrong}")),
            );
        }
        println!("seed {seed}: {events} moments, behind {valid} of them the metadata is valid");
        assert!(valid > 0 && valid < events / 2, "seed {seed}: {valid} of {events}");
    }
}
