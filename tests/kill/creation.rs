//! Kills while a pool is made: afterwards there is none, or one that works.

use std::time::{Duration, Instant};
use vellum_tests::place::Place;
use vellum_tests::program::{Pool, Process, wait_for};
use vellum_tests::rng::Rng;

const ROUNDS: u64 = 40;

/// Exit codes of the program.
const NOT_FOUND: i32 = 3;

const CREATE: [&str; 4] = ["pool", "create", "--size", "64M"];
const SERVE: [&str; 5] = ["serve", "--create", "64M", "--volume", "disk=16M"];

pub fn pools_are_there_or_not(seed: u64) {
    println!("VELLUM_SEED={seed}");
    let place = Place::new("ext4");
    let mut rng = Rng::new(seed);
    let pool = |name: &str| Pool::new(env!("CARGO_BIN_EXE_vellum"), place.path(name));
    let start = Instant::now();
    pool("first").ok(&CREATE);
    let takes = start.elapsed();
    let mut absent = 0;
    for round in 0..ROUNDS {
        let pool = pool(&round.to_string());
        let serves = rng.one_in(2);
        let arguments: &[&str] = if serves { &SERVE } else { &CREATE };
        let mut process = Process::start(&mut pool.command(arguments));
        // The start of a program takes as long as it likes.
        wait_for("the pool's directory", || pool.file("").exists().then_some(()));
        let moment = Duration::from_nanos(rng.below(takes.as_nanos() as u64 * 3));
        let end = Instant::now() + moment;
        while Instant::now() < end {
            std::hint::spin_loop();
        }
        process.kill();
        let found = pool.run(&["pool", "status"]);
        if found.code == Some(NOT_FOUND) {
            absent += 1;
            // What was left behind is in nobody's way.
            if !serves {
                pool.ok(&CREATE);
            }
        } else {
            assert_eq!(found.code, Some(0), "after {moment:?} of {arguments:?}: {}", found.err);
        }
        pool.serve(&SERVE[1..]).stop();
        pool.ok(&["volume", "show", "disk"]);
        pool.ok(&["pool", "check"]);
        std::fs::remove_dir_all(pool.file("")).unwrap();
    }
    println!("{absent} of {ROUNDS} kills left no pool; making one took {takes:?}");
}

/// What a kill leaves behind, by hand, for a random one seldom meets it.
pub fn leftovers_are_finished_or_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let pool = Pool::new(env!("CARGO_BIN_EXE_vellum"), folder.path().join("pool"));
    // Before the pool was complete.
    std::fs::create_dir(pool.file("")).unwrap();
    std::fs::write(pool.file("metadata.new"), "half a pool").unwrap();
    std::fs::write(pool.file("data.new"), vec![1; 1 << 20]).unwrap();
    assert_eq!(pool.run(&["pool", "status"]).code, Some(NOT_FOUND));
    pool.ok(&CREATE);
    pool.ok(&["volume", "create", "disk", "--size", "16M"]);
    assert!(!pool.file("metadata.new").exists() && !pool.file("data.new").exists());
    // Between the two names.
    std::fs::rename(pool.file("metadata"), pool.file("metadata.new")).unwrap();
    assert_ne!(pool.run(&CREATE).code, Some(0), "there is a pool");
    pool.ok(&["volume", "show", "disk"]);
    pool.ok(&["pool", "check"]);
    assert!(!pool.file("metadata.new").exists());
}
