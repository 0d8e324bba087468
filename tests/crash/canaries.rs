//! Deliberate breaks of the engine's rules: each must be found within the default seeds.
//!
//! Prints the table canary → seeds needed. A canary that survives is a hole in the tests, thus a failing test.
//! `VELLUM_CANARY` hunts only those whose names contain it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;
use vellum_engine::canary::{self, Canary};
use vellum_tests::adapter::Side;
use vellum_tests::driver::{
    FaultCase, RunConfig, Stats, cut_before_the_last_sharer_left, discard_outlived_by_what_was_written,
    full_metadata, guarded, late_hosts, late_punch_of_a_freed_block, late_punch_of_a_trim,
    late_write_to_a_freed_block, one_witness_is_lost, rollback_beside_a_slow_write, run, run_with_fault,
    run_with_rot, slow_read_of_a_former_owner,
};
use vellum_tests::model::{Check, Violation};
use vellum_tests::rng::Rng;
use vellum_tests::sim_disk::{Fault, OperationKind};

/// Seeds within which a canary must be found.
const SEEDS: u64 = 600;
/// The last trial of a seed: one run that is cut, nine directed ones, the others with a fault.
const LAST_TRIAL: u64 = 16;
/// A pool that is made smaller; for the rules of that.
const SHRINK_TRIAL: u64 = 17;
/// Hosts that are full; for the rules of room.
const LATE_HOSTS_TRIAL: u64 = 18;
const FULL_METADATA_TRIAL: u64 = 19;
/// A pool that is given to the kernel; for the rules of that.
const HAND_OVER_TRIAL: u64 = 20;

/// How a canary came to its end.
struct Finding {
    canary: Canary,
    /// Seeds needed, and what was found; `None` if it survived.
    found: Option<(u64, Violation)>,
    seconds: f64,
}

#[test]
fn every_canary_is_found() {
    let wanted = std::env::var("VELLUM_CANARY").unwrap_or_default();
    let canaries: Vec<Canary> =
        Canary::ALL.into_iter().filter(|canary| format!("{canary:?}").contains(&wanted)).collect();
    let next = AtomicUsize::new(0);
    let findings = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(&canary) = canaries.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let finding = hunt(canary);
                    findings.lock().unwrap().push(finding);
                }
            });
        }
    });
    let findings = findings.into_inner().unwrap();
    print_table(&findings);
    let survivors: Vec<Canary> =
        findings.iter().filter(|finding| finding.found.is_none()).map(|finding| finding.canary).collect();
    assert!(survivors.is_empty(), "not found within {SEEDS} seeds: {survivors:?}");
}

fn hunt(canary: Canary) -> Finding {
    let begin = Instant::now();
    let found = (0..SEEDS).find_map(|seed| find(canary, seed).map(|violation| (seed + 1, violation)));
    Finding { canary, found, seconds: begin.elapsed().as_secs_f64() }
}

/// What breaks only with the canary, among the trials of one seed.
fn find(canary: Canary, seed: u64) -> Option<Violation> {
    let trials = match canary {
        Canary::MovedUnsynced | Canary::TruncatedAheadOfSlots => SHRINK_TRIAL..=SHRINK_TRIAL,
        Canary::FilledUnsynced | Canary::GivenByOneSlot => HAND_OVER_TRIAL..=HAND_OVER_TRIAL,
        Canary::RoomUncertain => LATE_HOSTS_TRIAL..=LATE_HOSTS_TRIAL,
        Canary::CheckpointWithoutRoom => FULL_METADATA_TRIAL..=FULL_METADATA_TRIAL,
        _ => 0..=LAST_TRIAL,
    };
    trials.into_iter().find_map(|trial| {
        let run = |broken| {
            guarded(|| {
                canary::set(broken);
                run_trial(seed, trial)
            })
        };
        let found = run(Some(canary)).err();
        canary::set(None);
        found.filter(|_| run(None).is_ok())
    })
}

/// A crash run, a directed one, or a run with a fault: some rules matter only where a disk lies or fails.
fn run_trial(seed: u64, trial: u64) -> Check<Stats> {
    match trial {
        0 => {
            let config = RunConfig { cut_one_in: 2, ..RunConfig::crashing(seed) };
            return run(&config, &config.operations());
        }
        1 => return run_with_rot(&RunConfig::faulty(seed)),
        2 => return slow_read_of_a_former_owner(seed),
        3 => return cut_before_the_last_sharer_left(seed),
        4 => return one_witness_is_lost(seed),
        5 => return late_write_to_a_freed_block(seed),
        6 => return rollback_beside_a_slow_write(seed),
        7 => return late_punch_of_a_trim(seed),
        8 => return discard_outlived_by_what_was_written(seed),
        9 => return late_punch_of_a_freed_block(seed),
        SHRINK_TRIAL => {
            return crate::shrink_pool::random_cuts(seed).map(|()| Stats::default()).map_err(Violation::new);
        }
        HAND_OVER_TRIAL => {
            return crate::hand_over::random_cuts(seed).map(|()| Stats::default()).map_err(Violation::new);
        }
        LATE_HOSTS_TRIAL => return late_hosts(seed),
        FULL_METADATA_TRIAL => return full_metadata(seed),
        _ => {}
    }
    let mut rng = Rng::new(seed << 8 | trial);
    run_with_fault(&RunConfig::faulty(seed), &random_fault(&mut rng))
}

fn random_fault(rng: &mut Rng) -> FaultCase {
    let side = *rng.pick(&[Side::Data, Side::Metadata]);
    let fault = *rng.pick(&Fault::ALL);
    let kind = *rng.pick(&[OperationKind::Write, OperationKind::Write, OperationKind::Sync]);
    let kind = if fault.befalls(kind) { kind } else { OperationKind::Write };
    FaultCase { side, kind, nth: rng.below(60), fault }
}

fn print_table(findings: &[Finding]) {
    println!("{:<28} {:>6} {:>8}  found as", "canary", "seeds", "seconds");
    for canary in Canary::ALL {
        let Some(finding) = findings.iter().find(|finding| finding.canary == canary) else { continue };
        let (seeds, text) = match &finding.found {
            Some((seeds, violation)) => (seeds.to_string(), violation.to_string()),
            None => ("-".to_owned(), "SURVIVED".to_owned()),
        };
        let text: String = text.lines().next().unwrap_or_default().chars().take(120).collect();
        println!("{:<28} {seeds:>6} {:>8.1}  {text}", format!("{canary:?}"), finding.seconds);
    }
}
