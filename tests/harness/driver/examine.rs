//! What is found after a cut: the pool is recovered, checked, read whole and compared with the model.
//!
//! Owns the order of an examination, and cuts recoveries short too. Works on copies; the run goes on untouched.

use super::machine::{Disks, Machine};
use super::{RunConfig, Stats};
use crate::adapter;
use crate::model::{Check, End, Model, Observed, Violation};
use crate::rng::Rng;
use crate::sim_disk::{Order, PowerSupply};

/// Bytes of one read of the examiner.
const PIECE_BYTES: u64 = 1 << 20;
/// More disk events than any recovery of these small pools has.
const RECOVERY_EVENTS: u64 = 400;

/// A pool that was recovered, and what it holds.
pub struct Examination {
    /// The pool, open.
    pub machine: Machine,
    /// What is in it.
    pub observed: Observed,
}

/// Recovers the pool on `disks`, which `end` has left, and compares it with the model.
///
/// # Errors
/// If the pool does not open, or anything in it breaks a promise.
pub fn reopen(
    model: &Model,
    mut disks: Disks,
    mut end: End,
    config: &RunConfig,
    rng: &mut Rng,
    stats: &mut Stats,
) -> Check<Examination> {
    if rng.one_in(config.recovery_cut_one_in) {
        // A killed pool may lose its power too while it recovers: then only what was flushed is promised.
        let kill = end == End::Kill && rng.one_in(2);
        disks = cut_recovery(disks, kill, config, rng, stats)?;
        if end == End::Kill && !kill {
            end = config.power_cut();
        }
    }
    if rng.one_in(config.check_one_in * 4) {
        check(&mut disks, "before recovery", config.byte_mixing, stats)?;
    }
    let mut machine = open(disks, config, rng)?;
    stats.recoveries += 1;
    let observed = machine.observe(PIECE_BYTES)?;
    observed.all_readable()?;
    model.verdict(end, &observed).into_check()?;
    if rng.one_in(config.check_one_in) {
        machine.rest(0)?;
        check(&mut machine.disks, "after recovery", false, stats)?;
    }
    if rng.one_in(config.second_cut_one_in) {
        machine = cut_again(machine, &observed, config, rng, stats)?;
    }
    Ok(Examination { machine, observed })
}

fn open(mut disks: Disks, config: &RunConfig, rng: &mut Rng) -> Check<Machine> {
    disks.set_order(Order::Random);
    let mut machine = Machine::open(disks, config, rng.below(1 << 20))
        .map_err(|refused| Violation(format!("the pool does not open: {}", refused.0)))?;
    machine.disks.set_order(Order::Submission);
    Ok(machine)
}

/// Recovery has told nobody anything, so after a cut in its middle the same promises hold as before.
fn cut_recovery(
    mut disks: Disks,
    kill: bool,
    config: &RunConfig,
    rng: &mut Rng,
    stats: &mut Stats,
) -> Check<Disks> {
    let power = PowerSupply::lasting(rng.below(*rng.clone().pick(&[10, 40, RECOVERY_EVENTS])));
    disks.set_power(&power);
    disks.set_order(Order::Random);
    let left = match Machine::open(disks, config, 0) {
        Ok(machine) => machine.disks,
        Err(refused) if power.is_off() => refused.1,
        Err(refused) => return Err(Violation(format!("the pool does not open: {}", refused.0))),
    };
    stats.recovery_cuts += 1;
    Ok(left.each(|disk| if kill { disk.kill(rng) } else { disk.power_cut(rng) }))
}

/// Whatever a recovered pool has shown stays, without any flush: it showed its verdict.
fn cut_again(
    machine: Machine,
    seen: &Observed,
    config: &RunConfig,
    rng: &mut Rng,
    stats: &mut Stats,
) -> Check<Machine> {
    let kill = rng.one_in(3);
    let disks = machine.disks.each(|disk| if kill { disk.kill(rng) } else { disk.power_cut(rng) });
    let mut machine = open(disks, config, rng)?;
    stats.recoveries += 1;
    match seen.difference(&machine.observe(PIECE_BYTES)?) {
        None => Ok(machine),
        Some(difference) => {
            Err(Violation(format!("a second cut changed the first one's verdict: {difference}")))
        }
    }
}

/// The check must find nothing. In mode `writeback` the root slot that was being replaced may be a mixture, which
/// the check rightly tells and an opening mends.
fn check(disks: &mut Disks, when: &str, may_tear_slot: bool, stats: &mut Stats) -> Check {
    disks.set_order(Order::Submission);
    stats.checks += 1;
    let findings = adapter::check(&mut disks.data, &mut disks.metadata)
        .map_err(|error| Violation(format!("check {when} fails: {error}")))?;
    let torn_slot = |finding: &String| may_tear_slot && finding.contains("one of two root slots is bad");
    match findings.iter().find(|finding| !torn_slot(finding)) {
        None => Ok(()),
        Some(first) => {
            Err(Violation(format!("check {when} has {} findings, first: {first}", findings.len())))
        }
    }
}
