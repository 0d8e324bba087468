//! The kernel's NBD client and three file systems against Vellum's server, in the kernel lab.
//!
//! What is done there stands in `vellum.sh`.

use std::time::Duration;
use vellum_tests::lab::{Lab, Script};

const NBD: &str = include_str!("nbd.sh");
const VELLUM: &str = include_str!("vellum.sh");
/// The program under test.
const BINARY: &str = env!("CARGO_BIN_EXE_vellum");

#[test]
fn the_kernel_client_works_with_vellum() {
    let disk = tempfile::NamedTempFile::new().expect("a disk");
    disk.as_file().set_len(2 << 30).expect("a disk");
    let script = Script::new("bash vellum.sh \"$(cat binary)\"").timeout(Duration::from_secs(420));
    let script = script.modules(&["nbd", "loop", "dm-snapshot", "ext4", "xfs", "btrfs"]).disk(disk.path());
    let script =
        script.file("binary", BINARY).host_file(BINARY).file("vellum.sh", VELLUM).file("nbd.sh", NBD);
    let outcome = Lab::prepare().and_then(|lab| lab.run(&script));
    let outcome = outcome.unwrap_or_else(|error| panic!("{error}")).expect_success();
    print!("{}", outcome.output);
}
