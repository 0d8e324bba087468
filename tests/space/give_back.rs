//! What the data file takes of its file system follows what is mapped: filled, snapshotted, overwritten, deleted, discarded.
//!
//! The discards are those that a mounted file system's fstrim sends; the kernel's own are in `tests/lab/space.sh`.

use crate::bench::{Bench, environment};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};
use vellum_tests::nbd_client::{NbdClient, Reply, command};
use vellum_tests::place::Place;
use vellum_tests::tag::{WriteNumber, payload};

const MIB: u64 = 1 << 20;
const BLOCK: u64 = 64 << 10;
/// The host must have its space back by then.
const SOON: Duration = Duration::from_secs(20);
const IN_FLIGHT: usize = 8;

fn host_bytes(bench: &Bench) -> u64 {
    fs::metadata(bench.pool.file("data")).unwrap().blocks() * 512
}

/// Makes a request of `length` bytes at each offset, some at a time.
fn each(client: &mut NbdClient, command: u16, offsets: &[u64], length: u64, number: u64) {
    for some in offsets.chunks(IN_FLIGHT) {
        for offset in some {
            let bytes = match command {
                command::WRITE => payload(WriteNumber(number), *offset, length),
                _ => Vec::new(),
            };
            client.request(0, command, *offset, length as u32, &bytes).unwrap();
        }
        for _ in some {
            let reply = client.reply().unwrap();
            assert!(matches!(reply, Reply::Simple { error: 0, .. }), "{reply:?}");
        }
    }
    assert_eq!(client.flush().unwrap(), 0);
}

fn every(from: u64, to: u64, step: u64) -> Vec<u64> {
    (from..to).step_by(step as usize).collect()
}

/// Waits until the data file takes what `mapped` says, within 1 % and 1 MiB, and tells how long that took. `is_strict`:
/// anything else is a failure.
fn must_take(bench: &Bench, what: &str, is_strict: bool, mapped: impl Fn() -> u64) {
    let begin = Instant::now();
    loop {
        let (host, mapped) = (host_bytes(bench), mapped());
        let is_near = host.abs_diff(mapped) <= mapped / 100 + MIB;
        if is_near || begin.elapsed() > SOON {
            println!(
                "{what}: {} KiB mapped, {} KiB on the host, after {:?}",
                mapped >> 10,
                host >> 10,
                begin.elapsed()
            );
            assert!(is_near || !is_strict, "{:?}", bench.status());
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn on(file_system: &str, is_strict: bool) {
    let fill = environment("VELLUM_FILL_BYTES", 1 << 30).next_multiple_of(16 * MIB);
    let place = Place::of_size(file_system, 2 * fill + (1 << 30));
    let bench = Bench::new(place, &(3 * fill).to_string(), &fill.to_string(), &[]);
    let mut client = bench.client("disk");
    let mapped = || bench.status().number("used_bytes");
    let takes = |what: &str| must_take(&bench, &format!("{file_system}, {what}"), is_strict, mapped);
    each(&mut client, command::WRITE, &every(0, fill, MIB), MIB, 1);
    takes("filled");
    bench.pool.ok(&["snapshot", "create", "disk@before"]);
    each(&mut client, command::WRITE, &every(0, fill / 2, MIB), MIB, 2);
    // A sector of its own in every other block of the rest.
    each(&mut client, command::WRITE, &every(fill / 2, fill * 3 / 4, 2 * BLOCK), 4096, 3);
    takes("overwritten beside a snapshot");
    bench.pool.ok(&["snapshot", "delete", "disk@before"]);
    // What is left of the snapshot's blocks is joined with the sectors in the background.
    takes("the snapshot deleted");
    each(&mut client, command::TRIM, &every(0, fill / 4, MIB), MIB, 0);
    takes("a quarter discarded");
    // Of every MiB, 700 KiB that neither begin nor end with a block: these blocks keep their other sectors.
    let holes = every(fill / 4, fill / 2, MIB).iter().map(|offset| offset + 8192).collect::<Vec<_>>();
    each(&mut client, command::TRIM, &holes, 700 << 10, 0);
    let sectors_bytes = (700 << 10) % BLOCK * holes.len() as u64;
    let mapped_sectors = || mapped() - sectors_bytes;
    must_take(&bench, &format!("{file_system}, sectors discarded"), is_strict, mapped_sectors);
    must_read_back(&mut client, fill);
    each(&mut client, command::TRIM, &every(0, fill, 16 * MIB), 16 * MIB, 0);
    takes("all discarded");
    drop(client);
    bench.pool.ok(&["volume", "delete", "disk"]);
    takes("the volume deleted");
    bench.finish();
}

/// What was not discarded is what was written last.
fn must_read_back(client: &mut NbdClient, fill: u64) {
    let mut must_hold = |number: u64, offset: u64, length: u64| {
        let bytes = client.read(0, offset, length as u32).unwrap().expect("it can be read");
        let expected =
            if number == 0 { vec![0; length as usize] } else { payload(WriteNumber(number), offset, length) };
        assert!(bytes == expected, "not what write {number} left at {offset}");
    };
    every(0, fill / 4, MIB).into_iter().for_each(|offset| must_hold(0, offset, MIB));
    for offset in every(fill / 4, fill / 2, MIB) {
        must_hold(2, offset, 8192);
        must_hold(0, offset + 8192, 700 << 10);
        must_hold(2, offset + (708 << 10), 316 << 10);
    }
    for offset in every(fill / 2, fill * 3 / 4, 2 * BLOCK) {
        must_hold(3, offset, 4096);
        must_hold(1, offset + 4096, 2 * BLOCK - 4096);
    }
    every(fill * 3 / 4, fill, MIB).into_iter().for_each(|offset| must_hold(1, offset, MIB));
}

#[test]
fn ext4_has_its_space_back() {
    on("ext4", true);
}

#[test]
fn xfs_has_its_space_back() {
    on("xfs", true);
}

#[test]
fn tmpfs_has_its_space_back() {
    on("tmpfs", true);
}

/// Where the file system itself says what it likes, it is only told.
#[test]
fn btrfs_has_most_of_its_space_back() {
    on("btrfs", false);
}
