//! Tests the kernel lab itself, and the kernel's NBD client with a server that is known to be right.
//!
//! They know nothing of Vellum's server, which `vellum.rs` tests: if these fail, the lab is broken or something that it
//! needs is not installed, see `install`.

use std::fs;
use std::time::Duration;
use vellum_tests::lab::{Error, Lab, Script};

const NBD: &str = include_str!("nbd.sh");
const STAND_IN: &str = include_str!("stand_in.sh");

fn lab() -> Lab {
    Lab::prepare().unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn a_script_has_the_machine_it_asked_for() {
    let disk = tempfile::NamedTempFile::new().expect("a disk");
    disk.as_file().set_len(1 << 20).expect("a disk");
    let seen_inside = concat!(env!("CARGO_MANIFEST_DIR"), "/lab/main.rs");
    let text = "set -e
        uname -r
        test \"$(cat given)\" = handed
        test -s \"$(cat path)\"
        test -d /sys/module/nbd
        test -d /sys/module/dm_thin_pool
        test -b /dev/nbd0
        printf written | dd of=/dev/vda conv=fsync status=none
        touch /etc/changed /usr/changed /tmp/changed /run/changed
        (echo in a child)
        echo to stderr >/dev/stderr
        mkdir /out/deep && cp <(echo result) /out/deep/file
        sleep 1000 &
        exit 7";
    let script = Script::new(text).modules(&["nbd", "dm-thin-pool"]).file("given", "handed");
    let script = script.file("path", seen_inside).host_file(seen_inside).disk(disk.path());
    let outcome = lab().run(&script).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(outcome.status, 7, "{}{}", outcome.output, outcome.console);
    let (release, rest) = outcome.output.split_once('\n').expect("lines");
    assert!(release.starts_with("6.1."), "{release}");
    assert_eq!(rest, "in a child\nto stderr\n");
    assert!(outcome.console.contains(&format!("Linux version {release}")), "{}", outcome.console);
    assert_eq!(outcome.files.len(), 1, "{:?}", outcome.files.keys());
    assert_eq!(outcome.files["deep/file"], b"result\n");
    assert!(fs::read(disk.path()).expect("the disk is kept").starts_with(b"written"));
}

#[test]
fn a_hanging_script_is_killed_at_its_time_limit() {
    let script = Script::new("echo started; sleep 1000").timeout(Duration::from_secs(40));
    match lab().run(&script) {
        Err(Error::Hang(remains)) => assert_eq!(remains.output, "started\n", "{}", remains.console),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_panic_is_told_as_such() {
    match lab().run(&Script::new("echo before; sleep 0.2; echo c >/proc/sysrq-trigger; sleep 1000")) {
        Err(Error::Panic(remains)) => assert_eq!(remains.output, "before\n"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_kernel_client_works_with_a_known_server() {
    let script = Script::new(STAND_IN).file("nbd.sh", NBD).modules(&["nbd", "ext4"]);
    let outcome = lab().run(&script).unwrap_or_else(|error| panic!("{error}")).expect_success();
    print!("{}", outcome.output);
}
