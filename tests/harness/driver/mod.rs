//! Runs the engine between clients and simulated disks, and ends it wherever it may end.
//!
//! Files: `config.rs` (what kind of pool and clients), `machine.rs` (one opening of the pool and its two disks),
//! `run.rs` (a run by seed: requests, completions and time in random order), `examine.rs` (what is found after a
//! cut), `faults.rs` (a run with one fault), `directed.rs`, `full_hosts.rs` and `hand_pool.rs` (schedules by hand),
//! `campaign.rs` (many seeds on several threads), `shrink.rs` and `report.rs` (the shortest list of requests that still
//! fails, for people).

mod campaign;
mod config;
mod directed;
mod examine;
mod faults;
mod full_hosts;
mod hand_pool;
mod machine;
mod report;
mod run;
mod shrink;

pub use campaign::{Campaign, Failure, Stats, guarded, multiplier, only_seed};
pub use config::RunConfig;
pub use directed::{
    cut_before_the_last_sharer_left, discard_outlived_by_what_was_written, late_punch_of_a_freed_block,
    late_punch_of_a_trim, late_write_to_a_freed_block, one_witness_is_lost, rollback_beside_a_slow_write,
    run_with_rot, slow_read_of_a_former_owner,
};
pub use examine::{Examination, reopen};
pub use faults::{FaultCase, count_operations, run_with_fault, run_with_fault_in_recovery};
pub use full_hosts::{full_metadata, late_hosts};
pub use machine::{Disks, Machine};
pub use report::{explain, run_campaign};
pub use run::{Ending, Run, run};
pub use shrink::shrink;
