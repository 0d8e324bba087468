//! The server is killed at random, and what it had answered must be there.
//!
//! Writers with several connections write, zero, trim and flush while snapshots come and go; then the server is killed
//! and started again, sometimes under writers that live on, and everything is read back: a unit of 512 bytes holds what
//! the last answered request put there, or one that was issued later; a snapshot what was there when it was taken.
//! Files: `history.rs` (what may be where), `campaign.rs` (one run), `creation.rs` (kills while a
//! pool is made).

mod campaign;
mod creation;
mod history;

use campaign::{Campaign, environment};
use vellum_tests::place::Place;

/// Kills of all campaigns together, unless `VELLUM_KILLS` says otherwise.
const KILLS: u64 = 50;

/// On this file system if we may mount one, else in the temporary directory. In one of six campaigns.
fn run(file_system: &str, cache: &str, index: u64) {
    let kills = environment("VELLUM_KILLS").unwrap_or(KILLS);
    let share = (kills + 5 - index) / 6;
    let seed = environment("VELLUM_SEED").unwrap_or(index + 1);
    println!("{share} kills of a server in cache mode {cache} on {file_system}, VELLUM_SEED={seed}");
    Campaign::new(&Place::new(file_system), cache, seed).run(share);
}

#[test]
fn nothing_answered_is_lost_on_ext4_direct() {
    run("ext4", "direct", 0);
}

#[test]
fn nothing_answered_is_lost_on_ext4_cached() {
    run("ext4", "cached", 1);
}

#[test]
fn nothing_answered_is_lost_on_ext4_writeback() {
    run("ext4", "writeback", 2);
}

#[test]
fn nothing_answered_is_lost_on_xfs_direct() {
    run("xfs", "direct", 3);
}

#[test]
fn nothing_answered_is_lost_on_xfs_cached() {
    run("xfs", "cached", 4);
}

#[test]
fn nothing_answered_is_lost_on_xfs_writeback() {
    run("xfs", "writeback", 5);
}

#[test]
fn a_pool_is_there_or_not() {
    creation::pools_are_there_or_not(environment("VELLUM_SEED").unwrap_or(1));
}

#[test]
fn leftovers_are_finished_or_made_again() {
    creation::leftovers_are_finished_or_made_again();
}
