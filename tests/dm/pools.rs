//! Pools as values, and random ones by seed.
//!
//! Owns times: a block with several owners has time 0, one with a single owner time 1, and every device was snapshotted at
//! time 1, so that the kernel copies exactly what is shared.

use vellum_dm_bridge::format::DeviceDetails;
use vellum_dm_bridge::{PoolHeader, Result, Run, Sink};
use vellum_tests::rng::Rng;

/// A whole pool; also the sink that makes one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pool {
    pub header: PoolHeader,
    pub devices: Vec<(u32, DeviceDetails, Vec<Run>)>,
}

impl Pool {
    pub fn give(&self, sink: &mut impl Sink) -> Result<()> {
        sink.begin(&self.header)?;
        for (id, details, runs) in &self.devices {
            sink.device(*id, details)?;
            runs.iter().try_for_each(|run| sink.run(run))?;
            sink.device_end()?;
        }
        sink.end()
    }

    pub fn mappings(&self) -> u64 {
        self.devices.iter().flat_map(|(_, _, runs)| runs).map(|run| run.length).sum()
    }

    /// Adds a device; runs of any order of time and length become those that a reader gives.
    pub fn add(&mut self, id: u32, runs: &[Run]) {
        let mut merged: Vec<Run> = Vec::new();
        for run in runs {
            match merged.last_mut() {
                Some(last) if last.is_continued_by(run) => last.length += run.length,
                _ => merged.push(*run),
            }
        }
        let details = DeviceDetails {
            mapped_blocks: merged.iter().map(|run| run.length).sum(),
            transaction_id: u64::from(id) % 7,
            creation_time: 0,
            snapshotted_time: 1,
        };
        self.devices.push((id, details, merged));
    }
}

impl Sink for Pool {
    fn begin(&mut self, header: &PoolHeader) -> Result<()> {
        self.header = header.clone();
        Ok(())
    }

    fn device(&mut self, id: u32, details: &DeviceDetails) -> Result<()> {
        self.devices.push((id, *details, Vec::new()));
        Ok(())
    }

    fn run(&mut self, run: &Run) -> Result<()> {
        self.devices.last_mut().expect("a device").2.push(*run);
        Ok(())
    }

    fn device_end(&mut self) -> Result<()> {
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        Ok(())
    }
}

pub fn run(virtual_begin: u64, data_begin: u64, length: u64, time: u32) -> Run {
    Run { virtual_begin, data_begin, length, time }
}

pub fn header(nr_data_blocks: u64) -> PoolHeader {
    PoolHeader {
        time: 1,
        transaction_id: 12,
        data_block_sectors: 128,
        nr_data_blocks,
        ..PoolHeader::default()
    }
}

/// A pool with origins, snapshots that share much or little, holes, empty devices; every fourth is full.
pub fn random(seed: u64) -> Pool {
    let mut rng = Rng::new(seed);
    let most = if rng.one_in(2) { 50_000 } else { 2_000 };
    let nr_data_blocks = rng.between(1, most);
    let mut pool = Pool { header: header(nr_data_blocks), devices: Vec::new() };
    // Blocks below this are shared by snapshots, those above have one owner.
    let shared = rng.below(nr_data_blocks);
    let mut next = shared;
    let mut id = 0;
    let full = seed.is_multiple_of(4);
    let devices = rng.between(1, 9);
    for number in 0..devices {
        id += rng.between(1, 5) as u32;
        let mut runs = Vec::new();
        if !rng.one_in(5) {
            shared_part(&mut rng, shared, number, &mut runs);
        }
        let mut virtual_begin = runs.last().map_or(0, |run: &Run| run.virtual_begin + run.length);
        let last = full && number + 1 == devices;
        while next < nr_data_blocks && (last || !rng.one_in(20)) {
            let most = if rng.one_in(3) { 400 } else { 3 };
            let length = rng.between(1, most).min(nr_data_blocks - next);
            virtual_begin += rng.below(3) * rng.below(50);
            runs.push(run(virtual_begin, next, length, 1));
            (virtual_begin, next) = (virtual_begin + length, next + length);
        }
        pool.add(id, &runs);
    }
    pool
}

/// The shared blocks as the origin has them, with holes that differ by device.
fn shared_part(rng: &mut Rng, shared: u64, number: u64, runs: &mut Vec<Run>) {
    let mut at = 0;
    while at < shared {
        let length = rng.between(1, 900).min(shared - at);
        if number == 0 || !rng.one_in(6) {
            runs.push(run(at * 2, at, 1, 0));
            if length > 1 {
                runs.push(run(at * 2 + 1, at + 1, length - 1, 0));
            }
        }
        at += length;
    }
}
