//! The host has no room although the pool has: the same stall, on three file systems, under a file size limit and a quota.
//!
//! File systems and quotas need root; others leave them out.

use crate::bench::{Bench, must_be_well, stall_time};
use crate::connection::{BLOCK, content, must_be_filled};
use rustix::fs::statvfs;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use vellum_tests::place::Place;
use vellum_tests::program::run;

const MIB: u64 = 1 << 20;
/// What the host has for the pool, of the 200 MiB that are written.
const ROOM_BYTES: u64 = 120 * MIB;

fn tool(program: &str, package: &str, arguments: &[&str]) {
    let missing = || panic!("{program} is missing: apt-get install {package}");
    let ran = run(Command::new(program).args(arguments)).unwrap_or_else(missing);
    assert_eq!(ran.code, Some(0), "{program} {arguments:?}: {}", ran.err);
}

/// Takes all room of a file system but [`ROOM_BYTES`].
fn ballast(place: &Place) -> PathBuf {
    let file = place.path("ballast");
    let room = || {
        let statistics = statvfs(place.path("")).unwrap();
        statistics.f_bavail * statistics.f_frsize
    };
    let size = (room() - ROOM_BYTES).to_string();
    tool("fallocate", "util-linux", &["--length", &size, &file.to_string_lossy()]);
    assert!(room() < 3 * ROOM_BYTES / 2, "the ballast takes no room");
    file
}

/// fio waits for room on the host; `make_room` gives some, and everything goes on.
fn must_stall_until(bench: Bench, make_room: impl FnOnce(&Bench)) {
    let fio = bench.fio(1, 200, &[]);
    let status = bench.wait_for_waiting(1);
    assert!(status.number("free_bytes") > 200 * MIB, "the pool itself has room: {status:?}");
    // The host is asked again and again meanwhile; that is no news.
    let event = bench.status().number("space_event");
    thread::sleep(stall_time());
    if fio.is_finished() {
        panic!("{:?}: {:?}", bench.status(), fio.join());
    }
    must_serve_others(&bench);
    let status = bench.status();
    assert!(status.is_stalled() && status.number("space_event") <= event + 1, "{event}, {status:?}");
    make_room(&bench);
    must_be_well(fio);
    bench.finish();
}

/// What needs no new block is done while others wait.
fn must_serve_others(bench: &Bench) {
    bench.pool.ok(&["snapshot", "create", "disk@stalled"]);
    bench.pool.ok(&["volume", "list"]);
    let mut client = bench.client("disk");
    assert_eq!(client.read(0, 0, 65536).unwrap().map(|bytes| bytes.len()), Ok(65536));
    assert_eq!(client.flush().unwrap(), 0);
    drop(client);
    bench.pool.ok(&["snapshot", "delete", "disk@stalled", "--force"]);
}

fn on_a_full(file_system: &str) {
    let place = Place::new(file_system);
    if !place.is_mounted() {
        return;
    }
    let ballast = ballast(&place);
    let bench = Bench::new(place, "2G", "1G", &["no-space=stall", "no-space-timeout=0"]);
    must_stall_until(bench, |_| fs::remove_file(&ballast).unwrap());
}

#[test]
fn a_full_ext4_stalls() {
    on_a_full("ext4");
}

#[test]
fn a_full_xfs_stalls() {
    on_a_full("xfs");
}

#[test]
fn a_full_btrfs_stalls() {
    on_a_full("btrfs");
}

#[test]
fn a_full_tmpfs_stalls() {
    on_a_full("tmpfs");
}

#[test]
fn a_full_host_tells_of_it_in_time() {
    let place = Place::new("ext4");
    if !place.is_mounted() {
        return;
    }
    let ballast = ballast(&place);
    let timeout = format!("no-space-timeout={}", stall_time().as_secs());
    let bench = Bench::new(place, "2G", "1G", &["no-space=stall", &timeout]);
    let ran = bench.fio(1, 200, &[]).join().unwrap();
    let said = format!("{}{}", ran.out, ran.err);
    assert!(ran.code != Some(0) && said.contains("No space left on device"), "{said}");
    bench.wait_for_nobody();
    must_serve_others(&bench);
    fs::remove_file(ballast).unwrap();
    must_be_well(bench.fio(1, 200, &[]));
    bench.finish();
}

#[test]
fn a_file_size_limit_stalls() {
    let bench = Bench::new(Place::new("ext4"), "2G", "1G", &["no-space=stall", "no-space-timeout=0"]);
    let limit = |size: &str| {
        let (pid, size) = (bench.server().to_string(), format!("--fsize={size}:unlimited"));
        tool("prlimit", "util-linux", &["--pid", &pid, &size]);
    };
    limit(&ROOM_BYTES.to_string());
    let fio = bench.fio(1, 200, &[]);
    bench.wait_for_waiting(1);
    thread::sleep(stall_time());
    must_serve_others(&bench);
    assert!(!fio.is_finished());
    limit("unlimited");
    must_be_well(fio);
    bench.finish();
}

/// btrfs keeps its own quotas, so that this needs no kernel with others; XFS's are in `tests/lab/space.sh`. It charges
/// overwrites too, the log's among them: the pool may have to stop taking writes, and says why. Nothing that was
/// acknowledged is lost, and with another quota it works again.
#[test]
fn a_quota_of_btrfs_loses_nothing() {
    let place = Place::new("btrfs");
    if !place.is_mounted() {
        return;
    }
    let volume = place.path("limited").to_string_lossy().into_owned();
    let btrfs = |arguments: &[&str]| tool("btrfs", "btrfs-progs", arguments);
    btrfs(&["quota", "enable", &place.path("").to_string_lossy()]);
    btrfs(&["subvolume", "create", &volume]);
    fs::create_dir(place.path("limited/pool")).unwrap();
    std::os::unix::fs::symlink("limited/pool", place.path("pool")).unwrap();
    btrfs(&["qgroup", "limit", "120M", &volume]);
    let bench = Bench::new(place, "2G", "1G", &["no-space=error"]);
    let mut client = bench.client("disk");
    let is_written = |offset: &u64| client.write(*offset, &content(*offset, BLOCK)).unwrap() == 0;
    let written = (0..200 * MIB).step_by(BLOCK as usize).take_while(is_written).count() as u64 * BLOCK;
    assert!(written > 64 * MIB && written < ROOM_BYTES, "{written} bytes fit under a quota of 120 MiB");
    must_be_filled(&mut client, written);
    btrfs(&["qgroup", "limit", "none", &volume]);
    drop(client);
    let bench = bench.kill_and_serve();
    let mut client = bench.client("disk");
    must_be_filled(&mut client, written);
    assert_eq!(client.write(written, &content(written, BLOCK)).unwrap(), 0);
    must_be_filled(&mut client, written + BLOCK);
    drop(client);
    must_be_well(bench.fio(1, 200, &[]));
    bench.finish();
}
