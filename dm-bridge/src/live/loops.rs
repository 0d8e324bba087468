//! Loop devices, which make files devices: by the program `losetup`, and by what the kernel tells below `/sys/block`.
//!
//! Owns which loop devices a file is under. A loop device that nobody has open and that was detached while in use is gone with its last
//! user; see `detach`.

use super::run::{Error, Program, With};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const LOSETUP: Program = Program { name: "losetup", package: "mount" };

/// The loop devices that give a file to the kernel, by whatever name and in whatever namespace they got it.
pub fn over(file: &Path) -> Vec<PathBuf> {
    let Ok(asked) = file.metadata() else { return Vec::new() };
    let asked = Identity { device: asked.dev(), inode: asked.ino() };
    let found: BTreeSet<PathBuf> = over_by_path(asked).into_iter().chain(over_by_inode(asked)).collect();
    found.into_iter().collect()
}

/// What a file is, whatever it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
}

/// By the paths that the kernel tells. They need not lead to the file any more, or not from here.
fn over_by_path(asked: Identity) -> Vec<PathBuf> {
    let Ok(devices) = fs::read_dir("/sys/block") else { return Vec::new() };
    let is_over = |device: &fs::DirEntry| {
        let backing = fs::read_to_string(device.path().join("loop/backing_file"));
        let backing = backing.and_then(|backing| Path::new(backing.trim_end_matches('\n')).metadata());
        backing.is_ok_and(|backing| Identity { device: backing.dev(), inode: backing.ino() } == asked)
    };
    let found = devices.flatten().filter(is_over);
    found.map(|device| Path::new("/dev").join(device.file_name())).collect()
}

/// By what the devices themselves tell, as far as the program is there and may open them.
fn over_by_inode(asked: Identity) -> Vec<PathBuf> {
    // Not `--raw`: that escapes the blanks which some versions fill the numbers up with.
    let columns = ["--list", "--noheadings", "--output", "NAME,BACK-INO,BACK-MAJ:MIN"];
    let listed = LOSETUP.run(With::default(), &columns).unwrap_or_default();
    let devices = listed.lines().filter_map(listed_device);
    devices.filter(|(_, backing)| *backing == asked).map(|(device, _)| device).collect()
}

/// `NAME INODE MAJOR:MINOR`; nothing if the device did not tell them.
fn listed_device(line: &str) -> Option<(PathBuf, Identity)> {
    let mut words = line.split_whitespace();
    let (name, inode, number) = (words.next()?, words.next()?, words.next()?);
    let (major, minor) = number.split_once(':')?;
    let device = makedev(major.parse().ok()?, minor.parse().ok()?);
    Some((name.into(), Identity { device, inode: inode.parse().ok()? }))
}

/// As the system's library puts both into one number.
fn makedev(major: u64, minor: u64) -> u64 {
    (major & 0xfff) << 8 | (major & !0xfff) << 32 | minor & 0xff | (minor & !0xff) << 12
}

/// Makes a file a device, past the page cache if its file system can.
pub fn attach(file: &Path) -> Result<PathBuf, Error> {
    let made = LOSETUP.run(With::default(), &["--find", "--show", "--nooverlap", &file.to_string_lossy()])?;
    let device = PathBuf::from(made.trim());
    // Some file systems cannot: then it goes through the page cache, as without.
    let _ = LOSETUP.run(With::default(), &["--direct-io=on", &device.to_string_lossy()]);
    Ok(device)
}

/// Makes the file a file only: at once, or when the last one who has the device open closes it.
pub fn detach(device: &Path) -> Result<(), Error> {
    LOSETUP.run(With::default(), &["--detach", &device.to_string_lossy()]).map(drop)
}

/// Makes a device as long as its file is by now.
pub fn set_capacity(device: &Path) -> Result<(), Error> {
    LOSETUP.run(With::default(), &["--set-capacity", &device.to_string_lossy()]).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listed_device_is_known_by_its_inode() {
        let root = Path::new("/").metadata().unwrap();
        let (major, minor) = ((root.dev() >> 8) & 0xfff, (root.dev() & 0xff) | ((root.dev() >> 12) & !0xff));
        let line = format!("/dev/loop7 {}     {major}:{minor}  ", root.ino());
        let identity = Identity { device: root.dev(), inode: root.ino() };
        assert_eq!(listed_device(&line), Some(("/dev/loop7".into(), identity)));
        for line in ["", "/dev/loop7", "/dev/loop7 5", "/dev/loop7 x 1:2", "/dev/loop7 5 12"] {
            assert_eq!(listed_device(line), None, "{line}");
        }
    }
}
