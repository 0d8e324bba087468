//! The engine on simulated disks, cut at every disk operation: recovered, checked and compared with the model.
//!
//! `VELLUM_SEED` replays one seed, `VELLUM_SEEDS` multiplies the number of crash points. Read next: `canaries.rs`,
//! and `harness/driver/examine.rs` for what is done at a crash point.

mod canaries;
mod hand_over;
mod picture;
mod shrink_pool;
mod take_back;
mod transfer;

use vellum_tests::driver::{Campaign, RunConfig, multiplier, run_campaign};

/// Crash points of the default run.
const CRASH_POINTS: u64 = 100_000;

#[test]
fn every_cut_keeps_every_promise() {
    let campaign =
        Campaign { first_seed: 0, seeds: u64::MAX, crash_points: CRASH_POINTS * multiplier(), threads: 2 };
    let stats = run_campaign("crash", &campaign, RunConfig::crashing);
    println!("crash: {:.0} crash points a second on one core", stats.crash_points_per_core_second());
}
