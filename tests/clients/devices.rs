//! Data and metadata on block devices, which grow while the pool is served.
//!
//! Owns loop devices. Needs root.

use crate::bench::{client, ok, text};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;
use vellum_tests::program::{Pool, run, wait_for};

const MIB: u64 = 1 << 20;

/// A loop device over a file; detached when this is dropped.
struct Loop(String);

impl Loop {
    fn new(file: &Path, size_bytes: u64) -> Self {
        File::create(file).unwrap().set_len(size_bytes).unwrap();
        // A free device may be taken by somebody else before it is ours.
        let attach = || {
            let ran =
                run(Command::new("losetup").args(["--find", "--show", text(file)])).expect("util-linux");
            (ran.code == Some(0)).then(|| Self(ran.out.trim().to_owned()))
        };
        wait_for("a loop device", attach)
    }

    /// Makes the device larger, as `lvextend` would.
    fn enlarge(&self, file: &Path, size_bytes: u64) {
        File::options().write(true).open(file).unwrap().set_len(size_bytes).unwrap();
        let ran = run(Command::new("losetup").args(["--set-capacity", &self.0])).expect("util-linux");
        assert_eq!(ran.code, Some(0), "{}", ran.err);
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.0]).status();
    }
}

/// A pool of 64 MiB on two devices. The devices go before the files under them.
struct OnDevices {
    pool: Pool,
    data: Loop,
    metadata: Loop,
    data_file: PathBuf,
    metadata_file: PathBuf,
    _folder: TempDir,
}

impl OnDevices {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let [data_file, metadata_file] = ["data.img", "metadata.img"].map(|name| folder.path().join(name));
        let data = Loop::new(&data_file, 64 * MIB);
        let metadata = Loop::new(&metadata_file, 3 * MIB);
        let pool = Pool::new(env!("CARGO_BIN_EXE_vellum"), folder.path().join("pool"));
        pool.ok(&["pool", "create", "--size", "64M", "--data", &data.0, "--metadata", &metadata.0]);
        Self { pool, data, metadata, data_file, metadata_file, _folder: folder }
    }
}

pub fn devices_under_a_served_pool_grow(io: &str) {
    let OnDevices { _folder, data_file, metadata_file, data, metadata, pool } = OnDevices::new();
    // What it is about is when writes fail and when they do not; that they wait by default is shown in `tests/space`.
    pool.ok(&["pool", "set", "no-space=error"]);
    let served = pool.serve(&["--io", io, "--volume", "disk=200T"]);
    let write = |from_mib: u64, mib: u64| {
        let command = format!("write -P 7 {from_mib}M {mib}M");
        client("qemu-io", &["-f", "raw", "-c", &command, "-c", "flush", &pool.uri("disk")])
    };
    let written = |from_mib: u64, mib: u64| {
        let ran = write(from_mib, mib);
        assert_eq!(ran.code, Some(0), "{}{}{}", ran.out, ran.err, pool.ok(&["--json", "pool", "status"]));
    };
    written(0, 40);
    assert_ne!(write(40, 40).code, Some(0), "the pool is full");
    let short = pool.run(&["pool", "extend", "256M"]);
    assert_eq!(short.code, Some(6), "the device is too short: {}", short.err);
    data.enlarge(&data_file, 256 * MIB);
    pool.ok(&["pool", "extend", "256M"]);
    written(40, 120);

    let state = || {
        let status = pool.ok(&["--json", "pool", "status"]);
        let field = status.split(r#""metadata_state":""#).nth(1).unwrap();
        field.split('"').next().unwrap().to_owned()
    };
    fill_metadata(&pool);
    assert_eq!(state(), "full");
    metadata.enlarge(&metadata_file, 16 * MIB);
    // The first write that finds no room makes the pool look at its device again.
    wait_for("room in the metadata", || (write(190 << 20, 1).code == Some(0)).then_some(()));
    assert_eq!(state(), "ok");
    ok("qemu-io", &["-r", "-f", "raw", "-c", "read -P 7 0 160M", &pool.uri("disk")]);
    served.stop();
    pool.ok(&["pool", "check"]);
}

pub fn what_is_discarded_leaves_the_device_too(io: &str) {
    let OnDevices { _folder, data_file, data: _data, metadata: _metadata, pool, .. } = OnDevices::new();
    let served = pool.serve(&["--io", io, "--volume", "disk=1G"]);
    let host_bytes = || std::fs::metadata(&data_file).unwrap().blocks() * 512;
    ok("qemu-io", &["-f", "raw", "-c", "write -P 7 0 40M", "-c", "flush", &pool.uri("disk")]);
    assert!(host_bytes() >= 40 * MIB);
    ok("qemu-io", &["-f", "raw", "-d", "unmap", "-c", "discard 0 40M", "-c", "flush", &pool.uri("disk")]);
    wait_for("the space under the device", || (host_bytes() < 8 * MIB).then_some(()));
    served.stop();
    pool.ok(&["pool", "trim"]);
    pool.ok(&["pool", "check"]);
}

/// Writes a sector into one window after the other, a page of metadata each, until that fails.
fn fill_metadata(pool: &Pool) {
    let commands: Vec<String> =
        (1..3000u64).map(|window| format!("write -P 9 {}G 4k", window * 64)).collect();
    for some in commands.chunks(500) {
        let uri = pool.uri("disk");
        let mut arguments = vec!["-f", "raw"];
        arguments.extend(some.iter().flat_map(|command| ["-c", command.as_str()]));
        arguments.push(&uri);
        let ran = client("qemu-io", &arguments);
        if ran.code != Some(0) || ran.out.contains("failed") {
            return;
        }
    }
    panic!("the metadata never became full");
}
