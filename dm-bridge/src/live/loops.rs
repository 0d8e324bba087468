//! Loop devices, which make files devices: by the program `losetup`, and by what the kernel tells below `/sys/block`.
//!
//! Owns which loop devices a file is under. A loop device that nobody has open and that was detached while in use is gone with its last
//! user; see `detach`.

use super::run::{Error, Program};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const LOSETUP: Program = Program { name: "losetup", package: "mount" };

/// The loop devices that give a file to the kernel.
pub fn over(file: &Path) -> Vec<PathBuf> {
    let Ok(asked) = file.metadata() else { return Vec::new() };
    let Ok(devices) = fs::read_dir("/sys/block") else { return Vec::new() };
    let is_over = |device: &fs::DirEntry| {
        let backing = fs::read_to_string(device.path().join("loop/backing_file"));
        let backing = backing.and_then(|backing| Path::new(backing.trim_end_matches('\n')).metadata());
        backing.is_ok_and(|backing| (backing.dev(), backing.ino()) == (asked.dev(), asked.ino()))
    };
    let found = devices.flatten().filter(is_over);
    found.map(|device| Path::new("/dev").join(device.file_name())).collect()
}

/// Makes a file a device, past the page cache if its file system can.
pub fn attach(file: &Path) -> Result<PathBuf, Error> {
    let made = LOSETUP.run(&[], &["--find", "--show", "--nooverlap", &file.to_string_lossy()])?;
    let device = PathBuf::from(made.trim());
    // Some file systems cannot: then it goes through the page cache, as without.
    let _ = LOSETUP.run(&[], &["--direct-io=on", &device.to_string_lossy()]);
    Ok(device)
}

/// Makes the file a file only: at once, or when the last one who has the device open closes it.
pub fn detach(device: &Path) -> Result<(), Error> {
    LOSETUP.run(&[], &["--detach", &device.to_string_lossy()]).map(drop)
}

/// Makes a device as long as its file is by now.
pub fn set_capacity(device: &Path) -> Result<(), Error> {
    LOSETUP.run(&[], &["--set-capacity", &device.to_string_lossy()]).map(drop)
}
