//! The kernel's NBD client and three file systems against Vellum's server, in the kernel lab.
//!
//! What is done there stands in `vellum.sh` and, for pools and hosts that run full, in `space.sh`.

use std::time::Duration;
use vellum_tests::lab::{Lab, Script};

const NBD: &str = include_str!("nbd.sh");
const POOL: &str = include_str!("pool.sh");
const VELLUM: &str = include_str!("vellum.sh");
const SPACE: &str = include_str!("space.sh");
/// The program under test.
const BINARY: &str = env!("CARGO_BIN_EXE_vellum");

/// Runs a script of `modules`, with a disk of 2 GiB; it must succeed.
fn run(name: &str, text: &str, modules: &[&str], timeout: Duration) {
    let disk = tempfile::NamedTempFile::new().expect("a disk");
    disk.as_file().set_len(2 << 30).expect("a disk");
    let stall =
        std::env::var("VELLUM_STALL_SECONDS").map(|seconds| format!("VELLUM_STALL_SECONDS={seconds} "));
    let command = format!("{}bash {name} \"$(cat binary)\"", stall.unwrap_or_default());
    let script = Script::new(command).timeout(timeout).modules(modules).disk(disk.path());
    let script = script.file("binary", BINARY).host_file(BINARY).file(name, text);
    let script = script.file("nbd.sh", NBD).file("pool.sh", POOL);
    let outcome = Lab::prepare().and_then(|lab| lab.run(&script));
    let outcome = outcome.unwrap_or_else(|error| panic!("{error}")).expect_success();
    print!("{}", outcome.output);
}

#[test]
fn the_kernel_client_works_with_vellum() {
    let modules = ["nbd", "loop", "dm-snapshot", "ext4", "xfs", "btrfs"];
    run("vellum.sh", VELLUM, &modules, Duration::from_secs(420));
}

#[test]
fn the_kernel_client_waits_for_space() {
    run("space.sh", SPACE, &["nbd", "loop", "ext4", "xfs"], Duration::from_secs(420));
}
