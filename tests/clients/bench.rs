//! A served pool in a temporary directory, and clients that are run on it.
//!
//! Owns which package a client comes from.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use vellum_tests::program::{Pool, Ran, Served, run};
use vellum_tests::tag::{WriteNumber, payload};

/// Clients and the packages of Debian that bring them.
const PACKAGES: [(&str, &str); 8] = [
    ("nbdinfo", "libnbd-bin"),
    ("nbdcopy", "libnbd-bin"),
    ("nbdkit", "nbdkit"),
    ("qemu-img", "qemu-utils"),
    ("qemu-io", "qemu-utils"),
    ("fio", "fio"),
    ("cmp", "diffutils"),
    ("/usr/bin/python3", "python3-libnbd"),
];

/// A pool of 2 GiB with the volume `disk`, being served.
pub struct Bench {
    pub pool: Pool,
    served: Served,
    // After the server, which has files in it.
    folder: tempfile::TempDir,
}

impl Bench {
    /// Serves a volume of `size` over `io`.
    pub fn new(io: &str, size: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let pool = Pool::new(env!("CARGO_BIN_EXE_vellum"), folder.path().join("pool"));
        let volume = format!("disk={size}");
        let arguments = ["--create", "2G", "--volume", &volume, "--io", io, "--threads", "2"];
        let served = pool.serve(&arguments);
        Self { pool, served, folder }
    }

    /// Where clients find the volume.
    pub fn uri(&self) -> String {
        self.pool.uri("disk")
    }

    /// A file beside the pool.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Makes a file of `mebibytes` in which every other MiB is data and the rest is a hole.
    pub fn disk_image(&self, name: &str, mebibytes: u64) -> PathBuf {
        use std::os::unix::fs::FileExt;
        let path = self.path(name);
        let file = fs::File::create(&path).unwrap();
        file.set_len(mebibytes << 20).unwrap();
        for offset in (0..mebibytes).step_by(2).map(|index| index << 20) {
            file.write_all_at(&payload(WriteNumber(7), offset, 1 << 20), offset).unwrap();
        }
        path
    }

    /// Bytes of the host that the pool's data takes.
    pub fn host_bytes(&self) -> u64 {
        fs::metadata(self.pool.file("data")).unwrap().blocks() * 512
    }

    /// Stops the server, and has the pool checked.
    pub fn finish(self) {
        self.served.stop();
        self.pool.ok(&["pool", "check"]);
    }
}

/// Runs a client, whatever comes of it.
pub fn client(program: &str, arguments: &[&str]) -> Ran {
    let package =
        || PACKAGES.iter().find(|(name, _)| *name == program).expect("its package is in the table").1;
    let missing = || panic!("{program} is missing: apt-get install {}", package());
    run(Command::new(program).args(arguments)).unwrap_or_else(missing)
}

/// Runs a client that must succeed, and gives what it prints.
pub fn ok(program: &str, arguments: &[&str]) -> String {
    let ran = client(program, arguments);
    assert_eq!(ran.code, Some(0), "{program} {arguments:?}: {}{}", ran.out, ran.err);
    ran.out
}

/// Fails if two files differ.
pub fn assert_same(one: &Path, other: &Path) {
    ok("cmp", &[text(one), text(other)]);
}

/// A path as an argument.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("temporary directories have readable names")
}
