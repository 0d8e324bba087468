//! One fault at every disk operation of small runs: an error, no space, a short transfer, a lost or misdirected
//! write, a flipped bit, a root slot that stays stale.
//!
//! What must hold afterwards stands in `harness/driver/faults.rs`. `VELLUM_SEED` runs one seed, `VELLUM_SEEDS`
//! multiplies their number.

use vellum_tests::adapter::Side;
use vellum_tests::driver::{
    Campaign, FaultCase, RunConfig, Stats, count_operations, cut_before_the_last_sharer_left,
    discard_outlived_by_what_was_written, full_metadata, guarded, late_hosts, late_punch_of_a_freed_block,
    late_punch_of_a_trim, late_write_to_a_freed_block, multiplier, one_witness_is_lost, only_seed,
    rollback_beside_a_slow_write, run_with_fault, run_with_fault_in_recovery, run_with_rot,
    slow_read_of_a_former_owner,
};
use vellum_tests::model::{Check, Violation};
use vellum_tests::sim_disk::{Fault, OperationKind};

/// Seeds of the default run; each is run once for every operation and every fault.
const SEEDS: u64 = 10;
/// Operations of a recovery that are failed, of each kind.
const RECOVERY_OPERATIONS: u64 = 12;

/// Every fault at every operation counted in `counts`.
fn cases(counts: &[(Side, OperationKind, u64)]) -> impl Iterator<Item = FaultCase> {
    counts.iter().flat_map(|&(side, kind, count)| {
        let faults = Fault::ALL.into_iter().filter(move |fault| fault.befalls(kind));
        faults.flat_map(move |fault| (0..count).map(move |nth| FaultCase { side, kind, nth, fault }))
    })
}

fn run_cases(
    name: &str,
    seed_cases: impl Fn(u64) -> Check<Vec<FaultCase>> + Sync,
    one: impl Fn(u64, &FaultCase) -> Check<Stats> + Sync,
) {
    let campaign = Campaign {
        first_seed: only_seed().unwrap_or(0),
        seeds: only_seed().map_or(SEEDS * multiplier(), |_| 1),
        crash_points: u64::MAX,
        threads: 2,
    };
    let (stats, failure) = campaign.run(|seed| {
        let mut total = Stats::default();
        for case in seed_cases(seed)? {
            let stats = guarded(|| one(seed, &case))
                .map_err(|violation| Violation(format!("{case:?}: {violation}")))?;
            total.requests += stats.requests;
            total.recoveries += stats.recoveries;
            total.crash_points += 1;
        }
        Ok(total)
    });
    println!("faults, {name}: {} cases; {stats}", stats.crash_points);
    if let Some(failure) = failure {
        panic!(
            "{name}: seed {seed}: {}\nreplay: VELLUM_SEED={seed} cargo test -p vellum-tests --test faults -- --nocapture",
            failure.violation,
            seed = failure.seed
        );
    }
}

#[test]
fn a_fault_at_any_operation_breaks_no_promise() {
    run_cases(
        "running",
        |seed| Ok(cases(&count_operations(&RunConfig::faulty(seed))?).collect()),
        |seed, case| run_with_fault(&RunConfig::faulty(seed), case),
    );
}

#[test]
fn a_fault_at_any_operation_of_a_recovery_breaks_no_promise() {
    let counts: Vec<_> = [Side::Data, Side::Metadata]
        .into_iter()
        .flat_map(|side| OperationKind::ALL.map(|kind| (side, kind, RECOVERY_OPERATIONS)))
        .collect();
    run_cases(
        "recovery",
        |_| Ok(cases(&counts).collect()),
        |seed, case| run_with_fault_in_recovery(&RunConfig::faulty(seed), case),
    );
}

#[test]
fn a_bit_that_rots_in_metadata_is_never_believed() {
    for seed in only_seed().map_or(0..40 * multiplier(), |seed| seed..seed + 1) {
        if let Err(violation) = guarded(|| run_with_rot(&RunConfig::faulty(seed))) {
            panic!("seed {seed}: {violation}");
        }
    }
}

#[test]
fn a_former_owner_reads_what_was_its_own() {
    directed(slow_read_of_a_former_owner);
}

#[test]
fn a_cut_brings_the_last_sharer_back_whole() {
    directed(cut_before_the_last_sharer_left);
}

#[test]
fn a_proof_survives_the_loss_of_one_of_its_records() {
    directed(one_witness_is_lost);
}

#[test]
fn a_late_write_harms_nobody() {
    directed(late_write_to_a_freed_block);
}

#[test]
fn a_rollback_waits_for_writes() {
    directed(rollback_beside_a_slow_write);
}

#[test]
fn nothing_is_written_that_the_host_may_have_no_room_for() {
    directed(late_hosts);
}

#[test]
fn a_metadata_file_that_cannot_grow_is_never_too_full_for_a_checkpoint() {
    directed(full_metadata);
}

#[test]
fn a_late_punch_takes_nothing_away() {
    directed(late_punch_of_a_trim);
    directed(late_punch_of_a_freed_block);
}

#[test]
fn an_old_discard_takes_nothing_that_was_written_since() {
    directed(discard_outlived_by_what_was_written);
}

fn directed(schedule: fn(u64) -> Check<Stats>) {
    for seed in only_seed().map_or(0..20, |seed| seed..seed + 1) {
        if let Err(violation) = schedule(seed) {
            panic!("seed {seed}: {violation}");
        }
    }
}
