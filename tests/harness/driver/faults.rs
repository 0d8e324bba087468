//! A run with one fault: nothing panics, nothing hangs, and what can be read is right.
//!
//! Owns what is asked of the pool afterwards:
//!
//! - after a fault that the disk tells (an error, no space, a short transfer) every answer given before stays true,
//!   reads may fail, and the pool opens again with all that was promised;
//! - after a fault that it does not tell (lost, misdirected, rotten) in metadata or log, the same, or the pool refuses;
//! - after one in client data, wrong data may be read, but not more of it than the fault touched: data is protected
//!   by a checksum only while it is unproven.

use super::machine::{Disks, Machine};
use super::run::Run;
use super::{RunConfig, Stats, examine};
use crate::adapter::Side;
use crate::model::{Check, End, Model, Observed, Tolerance, Verdict, Violation};
use crate::rng::Rng;
use crate::sim_disk::{Fault, FaultPlan, OperationKind, Order, Strike, Trigger};

/// Bytes of one read afterwards: a damaged place must not hide its neighbours.
const PIECE_BYTES: u64 = 4096;
/// Time for the proof of the last record.
const PROOF_MS: u64 = 3000;

/// One fault in one place.
#[derive(Clone, Copy, Debug)]
pub struct FaultCase {
    /// On which disk.
    pub side: Side,
    /// To which kind of operation.
    pub kind: OperationKind,
    /// To which of them, counted from the opening.
    pub nth: u64,
    /// What happens.
    pub fault: Fault,
}

impl FaultCase {
    fn plan(&self) -> FaultPlan {
        FaultPlan::one(Trigger::nth(self.kind, self.nth), self.fault)
    }

    fn may_harm_data(&self) -> bool {
        self.fault.is_silent() && self.side == Side::Data
    }
}

/// How many operations of each kind an undisturbed run of `config` has, from the opening on.
///
/// # Errors
/// If it fails by itself.
pub fn count_operations(config: &RunConfig) -> Check<Vec<(Side, OperationKind, u64)>> {
    let mut run = Run::start(config, &config.operations())?;
    let before = counts(&run.machine.disks);
    run.to_the_end()?;
    let after = counts(&run.machine.disks);
    Ok(after
        .iter()
        .zip(before)
        .map(|(&(side, kind, after), (_, _, before))| (side, kind, after - before))
        .collect())
}

fn counts(disks: &Disks) -> Vec<(Side, OperationKind, u64)> {
    let of = |side, disk: &crate::sim_disk::SimDisk| {
        OperationKind::ALL.map(|kind| (side, kind, disk.submitted(kind))).to_vec()
    };
    [of(Side::Data, &disks.data), of(Side::Metadata, &disks.metadata)].concat()
}

/// Runs `config` with one fault, looks at the pool, ends it, and looks again.
///
/// # Errors
/// If a promise was broken.
pub fn run_with_fault(config: &RunConfig, case: &FaultCase) -> Check<Stats> {
    let mut config = config.clone();
    if case.may_harm_data() {
        config.tolerance = Tolerance::WrongData;
    }
    let mut rng = Rng::new(config.seed ^ case.nth ^ 0xfa17);
    let mut run = Run::start(&config, &config.operations())?;
    run.machine.disks.side(case.side).set_faults(case.plan());
    run.to_the_end()?;
    run.machine.disks.set_order(Order::Submission);
    run.machine.rest(PROOF_MS)?;
    let strikes = run.machine.disks.side(case.side).strikes().to_vec();
    let observed = run.machine.observe(PIECE_BYTES)?;
    judge(&run.model, End::Kill, &observed, &strikes, "while running")?;
    let kill = rng.one_in(2);
    let end = if kill { End::Kill } else { config.power_cut() };
    let disks =
        run.machine.disks.each(|disk| if kill { disk.kill(&mut rng) } else { disk.power_cut(&mut rng) });
    judge_reopened(&run.model, disks, end, case, &strikes, &config)?;
    Ok(Stats { crash_points: 1, recoveries: 1, ..run.stats })
}

fn judge_reopened(
    model: &Model,
    disks: Disks,
    end: End,
    case: &FaultCase,
    strikes: &[Strike],
    config: &RunConfig,
) -> Check {
    let mut machine = match Machine::open(disks, config, 1 << 20) {
        Ok(machine) => machine,
        Err(_) if case.fault.is_silent() => return Ok(()),
        Err(refused) => {
            return Err(Violation(format!("after {end:?} the pool does not open: {}", refused.0)));
        }
    };
    machine.disks.set_order(Order::Submission);
    let observed = machine.observe(PIECE_BYTES)?;
    if !case.fault.is_silent() {
        observed.all_readable()?;
    }
    judge(model, end, &observed, strikes, "after recovery")
}

/// Wrong units are allowed where the disk lied about client data, as many as the lie could have reached.
pub(super) fn judge(model: &Model, end: End, observed: &Observed, strikes: &[Strike], when: &str) -> Check {
    let mut verdict = model.verdict(end, observed);
    let harmed = strikes.iter().filter(|strike| strike.fault.is_silent() && strike.client_data);
    // Partly written sectors are read, merged and written again, and snapshots share what is wrong.
    let sectors: u64 = harmed.map(|strike| strike.length_bytes.div_ceil(4096) + 1).sum();
    let allowed = sectors * 8 * observed.volumes.len() as u64;
    if verdict.wrong_units.len() as u64 <= allowed {
        verdict = Verdict { wrong_units: Vec::new(), ..verdict };
    }
    if allowed > 0 {
        // A write that the disk lost is missing from every cut that should have it.
        verdict.structure.retain(|finding| !finding.contains("is not one moment"));
    }
    verdict.into_check().map_err(|violation| Violation(format!("{when}, after {strikes:?}: {violation}")))
}

/// Runs `config`, kills the pool, and lets a fault befall the recovery; then recovers once more without.
///
/// # Errors
/// If a promise was broken.
pub fn run_with_fault_in_recovery(config: &RunConfig, case: &FaultCase) -> Check<Stats> {
    let mut rng = Rng::new(config.seed ^ case.nth ^ 0x4eca);
    let mut stats = Stats::default();
    let mut run = Run::start(config, &config.operations())?;
    run.to_the_end()?;
    let mut disks = run.machine.disks.each(|disk| disk.kill(&mut rng));
    disks.side(case.side).set_faults(case.plan());
    let left = match Machine::open(disks, config, 0) {
        Ok(mut machine) => {
            machine.disks.set_order(Order::Submission);
            let observed = machine.observe(PIECE_BYTES)?;
            let strikes = machine.disks.side(case.side).strikes().to_vec();
            judge(&run.model, End::Kill, &observed, &strikes, "after a recovery with a fault")?;
            machine.disks
        }
        Err(refused) => refused.1,
    };
    if case.fault.is_silent() {
        return Ok(Stats { recoveries: 1, ..stats });
    }
    let disks = left.each(|disk| disk.kill(&mut rng));
    examine::reopen(&run.model, disks, End::Kill, config, &mut rng, &mut stats)?;
    Ok(stats)
}
