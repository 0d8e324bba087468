//! Where a pool lies: a file system of its own if we are root, else the temporary directory.
//!
//! Owns the image, the mount and their end, which comes also when the test panics.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use vellum_tests::program::{run, wait_for};

/// XFS makes none below 300 MiB.
const IMAGE_BYTES: u64 = 768 << 20;

/// A directory to put a pool in.
pub struct Place {
    mounted: Option<PathBuf>,
    folder: tempfile::TempDir,
}

impl Place {
    /// Makes and mounts a file system as root; as anybody else gives a plain directory.
    pub fn new(file_system: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        if !rustix::process::geteuid().is_root() {
            println!("not root: {file_system} stays untested, the temporary directory is used");
            return Self { mounted: None, folder };
        }
        let image = folder.path().join("image");
        File::create(&image).unwrap().set_len(IMAGE_BYTES).unwrap();
        let (make, package) = match file_system {
            "ext4" => (Command::new("mkfs.ext4"), "e2fsprogs"),
            _ => (Command::new("mkfs.xfs"), "xfsprogs"),
        };
        ok(make, package, &["-q", text(&image)]);
        let mount = folder.path().join("mount");
        fs::create_dir(&mount).unwrap();
        ok(Command::new("mount"), "mount", &["-o", "loop", text(&image), text(&mount)]);
        Self { mounted: Some(mount), folder }
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.mounted.as_deref().unwrap_or(self.folder.path()).join(name)
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

fn ok(mut command: Command, package: &str, arguments: &[&str]) {
    let missing = || panic!("{command:?} is missing: apt-get install {package}");
    let ran = run(Command::new(command.get_program()).args(arguments)).unwrap_or_else(missing);
    assert_eq!(ran.code, Some(0), "{:?}: {}", command.args(arguments), ran.err);
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary directories have readable names")
}
