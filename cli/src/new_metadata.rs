//! The metadata file that a repair makes, until it is the pool's.
//!
//! Owns its name, the room that it needs, and its taking the place of the old one: at every moment `metadata` is the old file or the new one,
//! whole. The old one is kept. What is in the file is the engine's affair.

use crate::error::{Error, Result};
use crate::exit::Kind;
use crate::pool_directory::PoolDirectory;
use crate::size::Size;
use std::fs::File;
use std::path::{Path, PathBuf};
use vellum_engine::storage::FileDisk;

/// A new metadata file.
pub struct NewMetadata {
    path: PathBuf,
    metadata: PathBuf,
    kept: PathBuf,
}

impl NewMetadata {
    /// At `output`, or beside the pool's own.
    pub fn at(directory: &PoolDirectory, output: Option<&Path>) -> Self {
        let beside = |name: &str| directory.path().join(name);
        let path = output.map_or_else(|| beside("metadata.repaired"), Path::to_owned);
        Self { path, metadata: directory.metadata(), kept: beside("metadata.before-repair") }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Fails with `NoSpace` unless its file system has so many bytes.
    pub fn require_room(&self, bytes: u64) -> Result<()> {
        let folder = folder_of(&self.path);
        let cannot = |cause: rustix::io::Errno| {
            Error::io(format!("cannot look at the file system of '{}'", folder.display()), &cause.into())
        };
        let system = rustix::fs::statvfs(folder).map_err(cannot)?;
        let free = system.f_bavail.saturating_mul(system.f_frsize);
        if free >= bytes {
            return Ok(());
        }
        let message = format!(
            "the new metadata takes {}, and '{}' has {} free",
            Size(bytes),
            folder.display(),
            Size(free)
        );
        Err(Error::new(Kind::NoSpace, message).hint("name a file on another file system by --output"))
    }

    /// Makes the file, empty. It must not be there yet.
    pub fn create(&self) -> Result<FileDisk> {
        FileDisk::create(&self.path, 0).map_err(|error| {
            let error = Error::from(error);
            match error.kind() {
                Kind::Exists => error.hint("an earlier repair may have left it: remove it, or name another"),
                _ => error,
            }
        })
    }

    /// Removes what was made of it.
    pub fn discard(&self) {
        // The error that led here is the one to tell.
        let _ = std::fs::remove_file(&self.path);
    }

    /// Makes its name survive a power loss.
    pub fn sync_directory(&self) -> Result<()> {
        let folder = folder_of(&self.path);
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(|cause| Error::io(format!("cannot sync '{}'", folder.display()), &cause))
    }

    /// Fails with `Exists` if an earlier repair's old metadata is in the way.
    pub fn require_unkept(&self) -> Result<()> {
        if self.kept.symlink_metadata().is_err() {
            return Ok(());
        }
        let message = format!("'{}' is there already", self.kept.display());
        Err(Error::new(Kind::Exists, message).hint("move it away, or remove it if nobody needs it"))
    }

    /// Takes the place of the pool's metadata in one step, and keeps the old one. Returns where.
    pub fn take_place(&self) -> Result<PathBuf> {
        // A second name first: so `metadata` is never absent.
        let kept = std::fs::hard_link(&self.metadata, &self.kept);
        kept.map_err(|cause| Error::io(format!("cannot keep '{}'", self.metadata.display()), &cause))?;
        if let Err(cause) = std::fs::rename(&self.path, &self.metadata) {
            let _ = std::fs::remove_file(&self.kept);
            let message = format!("cannot move '{}' to '{}'", self.path.display(), self.metadata.display());
            return Err(Error::io(message, &cause)
                .hint("the new file has to be on the file system of the pool's directory"));
        }
        self.sync_directory()?;
        let folder = File::open(folder_of(&self.metadata)).and_then(|folder| folder.sync_all());
        folder.map_err(|cause| Error::io("cannot sync the pool's directory", &cause))?;
        Ok(self.kept.clone())
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
