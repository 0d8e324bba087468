//! Random requests against a plain model in memory: every answer is checked, and at the end every unit.
//!
//! No crashes here; completions and requests come in any order. `VELLUM_SEED` replays one seed, `VELLUM_SEEDS`
//! multiplies their number. A failure prints the shortest list of requests that still fails.

use vellum_tests::driver::{Campaign, RunConfig, multiplier, run_campaign};

/// Seeds of the default run.
const SEEDS: u64 = 2000;

#[test]
fn every_answer_and_every_unit_is_as_the_model_says() {
    let campaign =
        Campaign { first_seed: 0, seeds: SEEDS * multiplier(), crash_points: u64::MAX, threads: 2 };
    let stats = run_campaign("model", &campaign, RunConfig::quiet);
    assert!(stats.runs > 0 && stats.requests > stats.runs);
}
