//! A file system on a device of its own, so that what a server does to the disk can be counted.
//!
//! Owns the image, the loop device and the mount, and takes them away again.

use std::path::{Path, PathBuf};
use std::process::Command;

/// What a device has done.
#[derive(Clone, Copy, Debug)]
pub struct DiskCounts {
    /// Bytes written.
    pub written_bytes: u64,
    /// Flushes of its cache.
    pub flushes: u64,
}

/// A mounted file system.
pub struct Host {
    folder: tempfile::TempDir,
    device: String,
}

impl Host {
    /// An ext4 file system of `size_bytes`. Needs root.
    pub fn new(size_bytes: u64) -> Result<Self, String> {
        let folder = tempfile::Builder::new().prefix("vellum-bench").tempdir().map_err(|e| e.to_string())?;
        let image = folder.path().join("image");
        let made = std::fs::File::create(&image).and_then(|file| file.set_len(size_bytes));
        made.map_err(|cause| cause.to_string())?;
        let device = run("losetup", &["--find", "--show", &image.to_string_lossy()])?;
        let host = Self { folder, device: device.trim().to_owned() };
        run("mkfs.ext4", &["-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", &host.device])?;
        std::fs::create_dir(host.path()).map_err(|cause| cause.to_string())?;
        run("mount", &[&host.device, &host.path().to_string_lossy()])?;
        Ok(host)
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("mnt")
    }

    /// What the device has done so far.
    pub fn counts(&self) -> DiskCounts {
        let name = Path::new(&self.device).file_name().unwrap_or_default().to_string_lossy().into_owned();
        let stat = std::fs::read_to_string(format!("/sys/block/{name}/stat")).unwrap_or_default();
        let field = |index: usize| {
            stat.split_whitespace().nth(index).and_then(|text| text.parse().ok()).unwrap_or(0u64)
        };
        DiskCounts { written_bytes: field(6) * 512, flushes: field(15) }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = run("umount", &[&self.path().to_string_lossy()]);
        let _ = run("losetup", &["--detach", &self.device]);
    }
}

/// Runs a program that must succeed, and gives what it printed.
pub fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(arguments).output().map_err(|e| format!("{program}: {e}"))?;
    if !output.status.success() {
        return Err(format!("{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
