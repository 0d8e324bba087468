//! Sending, receiving and comparing by the program: on files and on served pools, whole, in part, broken off, broken.
//!
//! Owns no pool code. What streams hold is the engine's affair.

#[allow(dead_code)]
mod common;

use common::{Bench, Ran, VELLUM, ran};
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use vellum_cli::exit::Kind;
use vellum_cli::pool_directory::PoolDirectory;
use vellum_engine::Pool;
use vellum_engine::options::OpenOptions;
use vellum_engine::storage::FileDisk;

const SIZE: u64 = 8 << 20;

fn open(bench: &Bench) -> Pool<FileDisk> {
    let disks = PoolDirectory::new(bench.pool()).open_disks().unwrap();
    Pool::open(disks.data, disks.metadata, &OpenOptions::default()).unwrap()
}

fn write(bench: &Bench, offset: u64, length: usize, byte: u8) {
    let mut pool = open(bench);
    let disk = pool.find("disk").unwrap();
    pool.write(disk, offset, vec![byte; length]).unwrap();
    pool.close().unwrap();
}

fn read(bench: &Bench, name: &str) -> Vec<u8> {
    let mut pool = open(bench);
    let volume = pool.find(name).unwrap();
    let bytes = pool.read(volume, 0, SIZE).unwrap();
    pool.close().unwrap();
    bytes
}

/// A pool with a volume and two snapshots.
fn source() -> Bench {
    let bench = Bench::with_pool();
    bench.ok(&["volume", "create", "disk", "--size", "8M"]);
    write(&bench, 0, 3 << 20, 1);
    bench.ok(&["snapshot", "create", "disk@a"]);
    write(&bench, 1 << 20, 8192, 2);
    bench.ok(&["snapshot", "create", "disk@b"]);
    bench
}

fn vellum(bench: &Bench, arguments: &[&str]) -> Command {
    let mut command = Command::new(VELLUM);
    command.env_remove("VELLUM_POOL").arg("--pool").arg(bench.pool()).args(arguments);
    command
}

fn send(bench: &Bench, arguments: &[&str]) -> Vec<u8> {
    let output = vellum(bench, &[&["send"], arguments].concat()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn receive(bench: &Bench, arguments: &[&str], stream: &[u8]) -> Ran {
    let path = bench.path("stream");
    std::fs::write(&path, stream).unwrap();
    receive_file(bench, arguments, &path)
}

fn receive_file(bench: &Bench, arguments: &[&str], stream: &Path) -> Ran {
    ran(vellum(bench, &[&["receive"], arguments].concat()).stdin(File::open(stream).unwrap()))
}

fn assert_code(ran: &Ran, kind: Kind) {
    assert_eq!(ran.code, i32::from(kind.code()), "{}", ran.err);
}

/// Whole, in part, under another name, with and without a base. `sender` and `receiver` run or do not.
fn tour(from: &Bench, to: &Bench) {
    let whole = send(from, &["disk@a"]);
    let changed = send(from, &["disk@b", "--from", "a"]);
    assert!(whole.len() > 3 << 20 && changed.len() < 12_000, "{} {}", whole.len(), changed.len());
    let ran = receive(to, &["copy/disk@a"], &changed);
    assert_code(&ran, Kind::NotFound);
    assert_eq!(receive(to, &[], &whole).out, "received snapshot 'disk@a' of 8 MiB\n");
    assert_code(&receive(to, &["copy/disk@a"], &whole), Kind::Exists);
    assert_eq!(receive(to, &["copy/disk@b"], &changed).out, "received snapshot 'copy/disk@b' of 8 MiB\n");
    assert_eq!(to.names("snapshot"), ["disk@a", "copy/disk@b"]);
    assert_eq!(to.ok(&["receive", "--resume"]), "");
    to.ok(&["clone", "create", "copy/disk@b", "disk"]);
}

/// Broken off, gone on with, dropped.
fn interruptions(from: &Bench, to: &Bench) {
    let whole = send(from, &["disk@b"]);
    let cut = receive(to, &["other@b"], &whole[..whole.len() / 2]);
    assert_code(&cut, Kind::Io);
    let token = to.ok(&["receive", "--resume", "other@b"]).trim().to_owned();
    assert!(cut.err.contains(&token), "{} {token}", cut.err);
    assert!(to.ok(&["receive", "--resume"]).contains(&token));
    assert_eq!(to.names("snapshot").iter().filter(|name| *name == "other@b").count(), 0);
    let rest = send(from, &["disk@b", "--resume", &token]);
    assert!(rest.len() < whole.len());
    assert_eq!(receive(to, &["other@b"], &rest).code, 0);
    to.ok(&["snapshot", "delete", "other@b"]);

    assert_code(&receive(to, &["other@b"], &whole[..whole.len() / 2]), Kind::Io);
    assert!(to.ok(&["receive", "--abort"]).starts_with("dropped"));
    to.fails(Kind::NotFound, &["receive", "--resume", "other@b"]);
    from.fails(Kind::Invalid, &["send", "disk@b", "--since", "99999999"]);
    from.fails(Kind::Mismatch, &["send", "disk@a", "--resume", &token]);

    let mut broken = whole.clone();
    broken[whole.len() - 100] ^= 1;
    let ran = receive(to, &[], &broken);
    assert_code(&ran, Kind::Damaged);
    assert!(ran.err.contains("no snapshot came of it"), "{}", ran.err);
    assert_eq!(to.ok(&["receive", "--resume"]), "");
    assert_code(&receive(to, &[], b"this is no stream, it is text"), Kind::Damaged);
}

fn differences(bench: &Bench) {
    let view = bench.json(&["snapshot", "diff", "disk@a", "disk@b"]);
    let range = serde_json::json!({"offset_bytes": 1 << 20, "length_bytes": 8192, "absent": false});
    assert_eq!(view["ranges"], serde_json::json!([range]));
    assert!(bench.ok(&["snapshot", "diff", "disk@a", "disk@b"]).contains("changed  1048576   8192"));
    assert_eq!(bench.json(&["snapshot", "diff", "disk@b", "disk"])["ranges"], serde_json::json!([]));
    let since = bench.json(&["volume", "show", "disk@a"])["generation"].to_string();
    let view = bench.json(&["snapshot", "diff", "disk@b", "--since", &since]);
    assert!(!view["ranges"].as_array().unwrap().is_empty());
    bench.fails(Kind::Usage, &["snapshot", "diff", "disk@b"]);
    bench.fails(Kind::NotFound, &["snapshot", "diff", "disk@x", "disk@b"]);
}

#[test]
fn between_pools_on_files() {
    let (from, to) = (source(), Bench::with_pool());
    tour(&from, &to);
    assert!(read(&to, "disk@a") == read(&from, "disk@a"));
    assert!(read(&to, "copy/disk@b") == read(&from, "disk@b"));
    to.ok(&["snapshot", "delete", "copy/disk@b"]);
    interruptions(&from, &to);
    differences(&from);
    assert!(to.ok(&["pool", "check"]).starts_with("sound: "));
}

#[test]
fn between_pools_that_are_served() {
    let (from, to) = (source(), Bench::with_pool());
    to.ok(&["volume", "create", "first", "--size", "4096"]);
    let (sender, receiver) = (from.serve(&["serve"]), to.serve(&["serve"]));
    tour(&from, &to);
    to.ok(&["snapshot", "delete", "copy/disk@b"]);
    interruptions(&from, &to);
    differences(&from);
    sender.stop();
    receiver.stop();
    assert!(read(&to, "disk@a") == read(&from, "disk@a"));
    assert!(read(&to, "disk") == read(&from, "disk@b"));
    assert!(to.ok(&["pool", "check"]).starts_with("sound: "));
}

/// Other requests do not wait for a transfer that does not get on.
#[test]
fn a_transfer_that_stalls_stops_nobody() {
    let (from, to) = (source(), Bench::with_pool());
    to.ok(&["volume", "create", "first", "--size", "4096"]);
    let (sender, receiver) = (from.serve(&["serve"]), to.serve(&["serve"]));
    let mut sending = vellum(&from, &["send", "disk@b"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut out = sending.stdout.take().unwrap();
    let mut begin = vec![0; 2 << 20];
    out.read_exact(&mut begin).unwrap();
    let mut receiving =
        vellum(&to, &["receive"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = receiving.stdin.take().unwrap();
    input.write_all(&begin).unwrap();
    assert_eq!(from.names("volume"), ["disk"]);
    to.ok(&["volume", "create", "second", "--size", "4096"]);
    assert_eq!(to.names("snapshot"), [""; 0]);
    std::io::copy(&mut out, &mut input).unwrap();
    drop(input);
    assert!(sending.wait().unwrap().success() && receiving.wait().unwrap().success());
    assert_eq!(to.names("snapshot"), ["disk@b"]);
    sender.stop();
    receiver.stop();
    assert!(read(&to, "disk@b") == read(&from, "disk@b"));
}
