//! Runs a campaign and explains a failure: the seed, how to replay it, and the shortest list of requests.
//!
//! Owns the words. Never decides what is right.

use super::{Campaign, Failure, RunConfig, Stats, guarded, run, shrink};
use crate::workload::Op;

/// Attempts at making a failing list of requests shorter.
const SHRINK_TRIES: u32 = 400;

/// Runs a campaign, or the one seed that `VELLUM_SEED` names, and prints what was done.
///
/// # Panics
/// If a promise was broken, with everything a person needs to look into it.
pub fn run_campaign(name: &str, campaign: &Campaign, config_of: impl Fn(u64) -> RunConfig + Sync) -> Stats {
    let campaign = match super::only_seed() {
        Some(seed) => Campaign { first_seed: seed, seeds: 1, threads: 1, ..*campaign },
        None => *campaign,
    };
    let (stats, failure) = campaign.run(|seed| {
        let config = config_of(seed);
        run(&config, &config.operations())
    });
    println!("{name}: {stats}");
    if let Some(failure) = failure {
        panic!("{}", explain(name, &failure, &config_of(failure.seed)));
    }
    stats
}

/// What a person needs to look into a failure.
pub fn explain(name: &str, failure: &Failure, config: &RunConfig) -> String {
    let fails = |ops: &[Op]| guarded(|| run(config, ops)).err();
    let shortest = shrink(&config.operations(), SHRINK_TRIES, |ops| fails(ops).is_some());
    let violation =
        fails(&shortest).map_or_else(|| "(only the whole list fails)".to_owned(), |found| found.0);
    let list: String = shortest.iter().map(|op| format!("    {op:?}\n")).collect();
    format!(
        "{name}: seed {seed} broke a promise: {first}\n\
         replay: VELLUM_SEED={seed} cargo test -p vellum-tests --test {name} -- --nocapture\n\
         the shortest list of requests found, {count} of them:\n{list}    which gives: {violation}\n\
         {config:?}",
        seed = failure.seed,
        first = failure.violation,
        count = shortest.len(),
    )
}
