//! An exhaustive explorer of the commit protocol of `docs/format.md`, without the engine.
//!
//! Owns the tests: the protocol holds in every scope, and every deliberate break is caught. It never
//! touches a disk. Read next: `scope.rs` (what is explored), `model.rs` (the steps), `promise.rs` (what must hold).
//!
//! `VELLUM_EXPLORER_DEPTH=n` allows `n` more requests in every scope.

mod breaks;
mod canonical;
mod checkpoint;
mod crash;
mod disk;
mod log;
mod model;
mod promise;
mod recovery;
mod requests;
mod scope;
mod search;
mod state;
mod tree;

use model::Model;

/// Bounds the memory of deeper runs; the default run stays far below it.
const LIMIT: u64 = 60_000_000;

fn depth() -> u8 {
    std::env::var("VELLUM_EXPLORER_DEPTH").ok().and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// `VELLUM_EXPLORER_TRACES=1` prints the shortest counterexample of every break.
fn traces_wanted() -> bool {
    std::env::var_os("VELLUM_EXPLORER_TRACES").is_some()
}

#[test]
fn the_protocol_keeps_its_promise() {
    for scope in scope::all(depth()) {
        let started = std::time::Instant::now();
        let (seen, failure) = search::explore(&Model { scope: &scope, broken: None }, LIMIT);
        println!(
            "{:30} {:>10} states {:>10} cuts {:>8.1?}",
            scope.name,
            seen.states,
            seen.cuts,
            started.elapsed()
        );
        assert!(!seen.limited || depth() > 0, "{}: not exhausted", scope.name);
        if seen.limited {
            println!("{:30} stopped at the limit of {LIMIT} states", scope.name);
        }
        if let Some(failure) = failure {
            panic!("{}: broken after {} steps\n{}", scope.name, failure.steps, failure.trace);
        }
    }
}

#[test]
fn every_break_is_caught() {
    let scopes = scope::all(depth());
    let mut survivors = Vec::new();
    println!("{:22} {:>9} {:>9} {:>5}  scope", "break", "states", "cuts", "steps");
    for broken in breaks::ALL {
        let scope = scopes.iter().find(|s| s.name == broken.scope()).expect("a break names a scope");
        let (seen, failure) = search::explore(&Model { scope, broken: Some(broken) }, LIMIT);
        let steps = failure.as_ref().map_or("none".into(), |f| f.steps.to_string());
        println!(
            "{:22} {:>9} {:>9} {steps:>5}  {}",
            format!("{broken:?}"),
            seen.states,
            seen.cuts,
            scope.name
        );
        match failure {
            Some(failure) if traces_wanted() => println!("{}", failure.trace),
            Some(_) => {}
            None => survivors.push(broken),
        }
    }
    assert!(survivors.is_empty(), "breaks that nothing caught: {survivors:?}");
}
