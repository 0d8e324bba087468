//! Trials on hosts that are full: one that notices late, and one that gives the metadata file no page more.
//!
//! Owns these schedules. Neither may make a pool fail: what there is no room for waits or is refused, and is mended by
//! room or by deleting.

use super::machine::{Disks, Machine};
use super::run::Run;
use super::{RunConfig, Stats};
use crate::model::{Check, Tolerance, Violation};
use crate::rng::Rng;
use crate::workload::Op;
use vellum_engine::MetadataState;
use vellum_engine::error::ErrorKind;
use vellum_engine::request::{NewVolume, Outcome, Reply, Request};
use vellum_engine::units::{BLOCK_BYTES, SECTOR_BYTES, VolumeId};

/// For [`Op::Configure`]: freed space stays allocated, writes wait for room, and for ever.
const DISCARD_OFF: u64 = 3;
/// The bytes of a volume that one mapping leaf covers.
const WINDOW_BYTES: u64 = 16 * 1024 * BLOCK_BYTES;
/// More leaves than a metadata file that cannot grow has pages, and a block for each.
const WINDOWS: u64 = 900;
/// Leaves that are written before the host is full: their pages are what deleting gives.
const ROOMY_WINDOWS: u64 = 60;

/// A pool on hosts that take writes they have no room for, and say so when they are synced: it must never do such a write.
///
/// # Errors
/// If a promise was broken.
pub fn late_hosts(seed: u64) -> Check<Stats> {
    let mut config = RunConfig { crowded: true, tolerance: Tolerance::Space, ..RunConfig::quiet(seed) };
    config.open.can_wait = true;
    let mut ops = config.operations();
    ops.retain(|op| !matches!(op, Op::Configure(_)));
    // A sector that was punched would have to be allocated again.
    ops.insert(0, Op::Configure(DISCARD_OFF));
    let mut run = Run::start(&config, &ops)?;
    run.machine.disks.data.host().set_late();
    run.machine.disks.metadata.host().set_late();
    run.to_the_end()?;
    run.finish()
}

/// A metadata file that cannot grow is filled to the last page that writes may have: checkpoints go on, a power cut is
/// recovered from, and deleting makes room.
///
/// # Errors
/// If a promise was broken.
pub fn full_metadata(seed: u64) -> Check<Stats> {
    let mut config = RunConfig::quiet(seed);
    config.create.data_blocks = WINDOWS + 64;
    let mut rng = Rng::new(seed);
    let mut machine = open(Disks::with_new_pool(&config)?, &config)?;
    let [kept, deleted] = [created(&mut machine, 1)?, created(&mut machine, 2)?];
    expect(&mut machine, write(kept, 0))?;
    (0..ROOMY_WINDOWS).try_for_each(|window| expect(&mut machine, write(deleted, window)))?;
    machine.disks.leave_free(None, Some(0));
    fill(&mut machine, deleted)?;
    expect(&mut machine, write(kept, 0))?;
    expect(&mut machine, Request::Checkpoint)?;

    let disks = machine.disks.each(|disk| disk.power_cut(&mut rng));
    let mut machine = open(disks, &config)?;
    expect(&mut machine, Request::Checkpoint)?;
    expect(&mut machine, Request::Delete { volumes: vec![deleted], deferred: false })?;
    while machine.core.status().deleting > 0 {
        machine.rest(1000)?;
    }
    // What was freed is free when both root slots know it.
    (0..3).try_for_each(|_| expect(&mut machine, Request::Checkpoint))?;
    (1..4).try_for_each(|window| expect(&mut machine, write(kept, window)))?;
    Ok(Stats { crash_points: 1, recoveries: 1, ..Stats::default() })
}

fn open(disks: Disks, config: &RunConfig) -> Check<Machine> {
    Machine::open(disks, config, 0).map_err(|refused| Violation(format!("no pool: {}", refused.0)))
}

/// Writes into one leaf after another, until there is no room for more.
fn fill(machine: &mut Machine, volume: VolumeId) -> Check {
    for window in ROOMY_WINDOWS..WINDOWS {
        match reply(machine, write(volume, window))? {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NoSpace => break,
            Err(error) => {
                return Err(Violation(format!("leaf {window} is not refused for want of room: {error}")));
            }
        }
    }
    match machine.core.status().metadata_state {
        MetadataState::Full => Ok(()),
        other => Err(Violation(format!("the metadata file never became full: {other:?}"))),
    }
}

fn write(volume: VolumeId, window: u64) -> Request {
    let bytes = vec![7; SECTOR_BYTES as usize].into();
    Request::Write { volume, offset_bytes: window * WINDOW_BYTES, bytes, fua: true }
}

fn created(machine: &mut Machine, number: u8) -> Check<VolumeId> {
    let new = NewVolume { name: format!("v{number}"), uuid: [number; 16], created_unix_s: 0 };
    match reply(
        machine,
        Request::CreateVolume { new, size_bytes: WINDOWS * WINDOW_BYTES, reservation_bytes: 0 },
    )? {
        Ok(Outcome::Created(made)) => Ok(made[0]),
        other => Err(Violation(format!("nothing was made: {other:?}"))),
    }
}

fn expect(machine: &mut Machine, request: Request) -> Check {
    let told: String = format!("{request:?}").chars().take(80).collect();
    let answer = reply(machine, request)?;
    let status = machine.core.status();
    answer.map(drop).map_err(|error| Violation(format!("{told} failed: {error}; {status:?}")))
}

fn reply(machine: &mut Machine, request: Request) -> Check<Reply> {
    machine.ask(vec![request])?.pop().ok_or_else(|| Violation::new("no answer came"))
}
