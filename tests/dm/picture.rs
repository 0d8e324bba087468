//! Linux's dm-thin on pictures of snapshots, in the kernel lab: it refuses to write, and reads what the snapshots hold while the
//! pool goes on.
//!
//! What is done there stands in `picture.sh`.

use std::time::Duration;
use vellum_tests::lab::{Lab, Script};

/// The program under test.
const BINARY: &str = env!("CARGO_BIN_EXE_vellum");

#[test]
fn the_kernel_reads_a_picture_and_does_not_write_by_it() {
    let disk = tempfile::NamedTempFile::new().expect("a disk");
    disk.as_file().set_len(1 << 30).expect("a disk");
    let script = Script::new("bash picture.sh \"$(cat binary)\"").timeout(Duration::from_secs(420));
    let script = script.modules(&["nbd", "loop", "ext4", "dm-thin-pool"]).disk(disk.path());
    let script =
        script.file("binary", BINARY).host_file(BINARY).file("picture.sh", include_str!("picture.sh"));
    let script = script.file("nbd.sh", include_str!("../lab/nbd.sh"));
    let script = script.file("pool.sh", include_str!("../lab/pool.sh"));
    let outcome = Lab::prepare().and_then(|lab| lab.run(&script));
    let outcome = outcome.unwrap_or_else(|error| panic!("{error}")).expect_success();
    print!("{}", outcome.output);
}
