//! `vellum dm activate` and what goes with it, on a host whose kernel has no device-mapper: what is refused, and that nothing is left.
//!
//! What a kernel does that has it is in `tests/dm/live.rs`.

#[allow(dead_code)]
mod common;

use common::{Bench, VELLUM, ran};
use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use vellum_cli::exit::Kind;
use vellum_dm_bridge::live::loops;

/// A pool that the kernel has, with its metadata in `tmeta`.
fn given() -> (Bench, String) {
    let bench = Bench::with_pool();
    bench.ok(&["volume", "create", "group/disk", "--size", "1M"]);
    bench.ok(&["snapshot", "create", "group/disk@monday"]);
    let thin = bench.path("tmeta").display().to_string();
    bench.ok(&["dm", "export", "--metadata", &thin]);
    (bench, thin)
}

fn has_device_mapper() -> bool {
    fs::read_to_string("/proc/misc").is_ok_and(|misc| misc.contains("device-mapper"))
}

#[track_caller]
fn assert_no_loops(bench: &Bench) {
    for path in [bench.pool().join("data"), bench.path("tmeta")] {
        assert_eq!(loops::over(&path), Vec::<std::path::PathBuf>::new());
    }
}

#[test]
fn only_what_the_kernel_has_can_be_active() {
    let bench = Bench::with_pool();
    for command in [&["dm", "activate"][..], &["dm", "status"], &["dm", "deactivate"], &["dm", "extend"]] {
        let error = bench.fails(Kind::Invalid, command);
        assert!(error.contains("vellum dm export"), "{error}");
    }
    bench.fails(Kind::Invalid, &["dm", "snapshot", "disk"]);
    bench.fails(Kind::Invalid, &["dm", "activate", "--prefix", "a/b"]);
    bench.ok(&["volume", "create", "disk", "--size", "1M"]);
    let server = bench.serve(&["serve"]);
    bench.fails(Kind::InUse, &["dm", "activate"]);
    server.stop();
    Bench::empty().fails(Kind::NotFound, &["dm", "activate"]);
}

#[test]
fn a_kernel_without_device_mapper_is_told_and_nothing_is_left() {
    if has_device_mapper() {
        return;
    }
    let (bench, thin) = given();
    let error = bench.fails(Kind::Unsupported, &["dm", "activate"]);
    assert!(error.contains("no device-mapper") && error.contains("modprobe dm-thin-pool"), "{error}");
    assert_no_loops(&bench);
    let status = bench.json(&["dm", "status"]);
    assert_eq!((&status["active"], &status["pool"]), (&false.into(), &serde_json::Value::Null), "{status}");
    assert_eq!(status["metadata"], thin);
    for command in [&["dm", "snapshot", "group/disk@now"][..], &["dm", "metadata-snapshot", "reserve"]] {
        assert!(bench.fails(Kind::NotFound, command).contains("not active"));
    }
    // Nothing keeps it from coming back.
    let kept = bench.json(&["dm", "deactivate", "--keep"]);
    assert_eq!(kept["imported"], serde_json::Value::Null);
    let back = bench.json(&["dm", "deactivate"]);
    assert_eq!(back["imported"]["volumes"][1]["name"], "group/disk@monday", "{back}");
    assert!(bench.ok(&["pool", "check"]).starts_with("sound"));
}

#[test]
fn programs_that_are_missing_are_named() {
    let (bench, _) = given();
    let mut command = Command::new(VELLUM);
    command.arg("--pool").arg(bench.pool()).args(["dm", "status"]);
    // Where there is a dmsetup, it is one that knows nothing.
    let folder = bench.path("programs");
    fs::create_dir(&folder).unwrap();
    let dmsetup = folder.join("dmsetup");
    fs::write(&dmsetup, "#!/bin/sh\necho 'dmsetup is broken today' >&2\nexit 1\n").unwrap();
    fs::set_permissions(&dmsetup, fs::Permissions::from_mode(0o755)).unwrap();
    let ran = ran(command.env("PATH", &folder));
    assert_eq!(ran.code, i32::from(Kind::Failure.code()));
    assert!(ran.err.contains("`dmsetup info") && ran.err.contains("broken today"), "{}", ran.err);
}

#[test]
fn metadata_that_is_not_what_the_kernel_may_have_is_refused() {
    let (bench, thin) = given();
    let file = fs::File::options().read(true).write(true).open(&thin).unwrap();
    let mut superblock = vec![0; 4096];
    file.read_exact_at(&mut superblock, 0).unwrap();
    // The pool's own files, and nothing at all.
    let own = bench.pool().join("metadata").display().to_string();
    bench.fails(Kind::Invalid, &["dm", "activate", "--metadata", &own]);
    bench.fails(Kind::NotFound, &["dm", "activate", "--metadata", "/nowhere/at/all"]);
    bench.fails(Kind::NotFound, &["dm", "activate", "nobody"]);
    // A bit that rotted.
    file.write_all_at(&[superblock[100] ^ 1], 100).unwrap();
    for command in [["dm", "activate"], ["dm", "deactivate"]] {
        let error = bench.fails(Kind::Damaged, &command);
        assert!(error.contains("tmeta") && error.contains("vellum dm check"), "{error}");
    }
    file.write_all_at(&superblock, 0).unwrap();
    // A file that is shorter than what the metadata maps.
    let data = fs::File::options().write(true).open(bench.pool().join("data")).unwrap();
    let length = data.metadata().unwrap().len();
    data.set_len(length - 65536).unwrap();
    bench.fails(Kind::Mismatch, &["dm", "activate"]);
    data.set_len(length).unwrap();
    // An export that was interrupted.
    let mut begun = b"dm-thin metadata is being written here and is not complete\n".to_vec();
    begun.extend([1; 24]);
    begun.resize(4096, 0);
    file.write_all_at(&begun, 0).unwrap();
    let error = bench.fails(Kind::InUse, &["dm", "activate"]);
    assert!(error.contains("vellum dm export --metadata"), "{error}");
    assert_no_loops(&bench);
}

#[test]
fn loop_devices_that_are_left_over_end_with_a_deactivation() {
    let (bench, _) = given();
    let data = bench.pool().join("data");
    let device = loops::attach(&data).expect("root, and a kernel with loop devices");
    let error = bench.fails(Kind::InUse, &["dm", "activate"]);
    assert!(error.contains("vellum dm deactivate --keep"), "{error}");
    // Whoever uses it keeps it.
    let user = fs::File::options().read(true).open(&device).unwrap();
    bench.fails(Kind::InUse, &["dm", "import"]);
    drop(user);
    bench.ok(&["dm", "deactivate", "--keep"]);
    assert_no_loops(&bench);
    assert!(Path::new(&data).exists());
    bench.ok(&["dm", "deactivate"]);
}
