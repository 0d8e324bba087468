//! Where a pool lies: a file system of its own if we are root, else the temporary directory.
//!
//! Owns the image, the mount and their end, which comes also when the test panics.

use crate::program::{run, wait_for};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// XFS makes none below 300 MiB.
const IMAGE_BYTES: u64 = 768 << 20;

/// A directory to put a pool in.
pub struct Place {
    mounted: Option<PathBuf>,
    folder: tempfile::TempDir,
}

impl Place {
    /// Makes and mounts a file system as root; as anybody else gives a plain directory.
    ///
    /// # Panics
    /// If the file system cannot be made or mounted.
    pub fn new(file_system: &str) -> Self {
        Self::of_size(file_system, IMAGE_BYTES)
    }

    /// The same with a size. ext4 sets no blocks aside for root; `tmpfs` has no image.
    ///
    /// # Panics
    /// If the file system cannot be made or mounted.
    pub fn of_size(file_system: &str, size_bytes: u64) -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory");
        if !rustix::process::geteuid().is_root() {
            println!("not root: {file_system} stays untested, the temporary directory is used");
            return Self { mounted: None, folder };
        }
        let mount = folder.path().join("mount");
        fs::create_dir(&mount).expect("a directory");
        if file_system == "tmpfs" {
            let size = format!("size={size_bytes}");
            ok("mount", "mount", &["-t", "tmpfs", "-o", &size, "tmpfs", text(&mount)]);
            return Self { mounted: Some(mount), folder };
        }
        let image = folder.path().join("image");
        File::create(&image).and_then(|file| file.set_len(size_bytes)).expect("an image");
        match file_system {
            "ext4" => ok("mkfs.ext4", "e2fsprogs", &["-q", "-m", "0", text(&image)]),
            "xfs" => ok("mkfs.xfs", "xfsprogs", &["-q", text(&image)]),
            "btrfs" => ok("mkfs.btrfs", "btrfs-progs", &["-q", text(&image)]),
            other => panic!("no file system {other}"),
        }
        ok("mount", "mount", &["-o", "loop", text(&image), text(&mount)]);
        Self { mounted: Some(mount), folder }
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.mounted.as_deref().unwrap_or(self.folder.path()).join(name)
    }

    /// Whether it is a file system of its own.
    pub fn is_mounted(&self) -> bool {
        self.mounted.is_some()
    }
}

impl Drop for Place {
    /// The loop device goes with its mount.
    fn drop(&mut self) {
        let Some(mount) = &self.mounted else { return };
        let unmount = |options: &[&str]| {
            let arguments = [options, &[text(mount)]].concat();
            run(Command::new("umount").args(arguments)).is_some_and(|ran| ran.code == Some(0))
        };
        if std::thread::panicking() {
            // Somebody may still be in it.
            unmount(&["--lazy"]);
        } else {
            wait_for("the end of the mount", || unmount(&[]).then_some(()));
        }
    }
}

/// Runs a program that must succeed.
fn ok(program: &str, package: &str, arguments: &[&str]) {
    let missing = || panic!("{program} is missing: apt-get install {package}");
    let ran = run(Command::new(program).args(arguments)).unwrap_or_else(missing);
    assert_eq!(ran.code, Some(0), "{program} {arguments:?}: {}", ran.err);
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary directories have readable names")
}
