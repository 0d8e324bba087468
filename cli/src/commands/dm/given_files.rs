//! What stands in a pool's directory while the kernel has the pool: a link to the kernel's metadata, the names of thin devices that were
//! made meanwhile, and which of them is suspended for a snapshot.
//!
//! Owns both files: `thin-metadata` and `thin-devices.json`. Each is replaced as a whole and durable when the call returns. The names are
//! those of one hand-over: what an earlier one left behind is passed over.

use crate::error::{Error, Result};
use crate::exit::Kind;
use crate::pool_directory::PoolDirectory;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, ErrorKind as Cause, Write};
use std::path::{Path, PathBuf};
use vellum_engine::adopt::Given;
use vellum_engine::format::uuid_text;

/// A thin device that was made while the kernel had the pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewThin {
    /// Its number.
    pub device: u32,
    /// What the volume or snapshot is to be called.
    pub name: String,
    /// How large it is: dm-thin does not know.
    pub size_bytes: u64,
}

/// The names of one hand-over.
#[derive(Debug, Serialize, Deserialize)]
struct NewThins {
    pool: String,
    incarnation: u64,
    devices: Vec<NewThin>,
    /// Number of the thin device that is suspended for a snapshot. Whoever finds it here lets it go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    frozen: Option<u32>,
}

/// The two files.
pub struct GivenFiles<'d> {
    directory: &'d PoolDirectory,
}

impl<'d> GivenFiles<'d> {
    /// Those of this pool.
    pub fn of(directory: &'d PoolDirectory) -> Self {
        Self { directory }
    }

    fn link(&self) -> PathBuf {
        self.directory.thin_metadata()
    }

    fn names(&self) -> PathBuf {
        self.directory.path().join("thin-devices.json")
    }

    /// The kernel's metadata, as far as the pool's directory knows it.
    pub fn metadata(&self) -> Option<PathBuf> {
        std::fs::read_link(self.link()).ok()
    }

    /// The kernel's metadata: what was `named`, or what the link says.
    pub fn require_metadata(&self, named: Option<&Path>) -> Result<PathBuf> {
        let path = named.map(Path::to_owned).or_else(|| self.metadata());
        path.ok_or_else(|| {
            Error::new(
                Kind::Usage,
                "the kernel's metadata is not named, and the pool's directory does not know it",
            )
            .hint("add --metadata FILE|DEV; `vellum dm export` leaves the link `thin-metadata`")
        })
    }

    /// Remembers where the kernel's metadata is.
    pub fn set_metadata(&self, metadata: &Path) -> Result<()> {
        let cannot = |cause| cannot("link", &self.link(), &cause);
        let target = std::path::absolute(metadata).map_err(cannot)?;
        if self.metadata().as_ref() == Some(&target) {
            return Ok(());
        }
        let new = self.directory.path().join("thin-metadata.new");
        remove(&new).map_err(cannot)?;
        let linked =
            std::os::unix::fs::symlink(&target, &new).and_then(|()| std::fs::rename(&new, self.link()));
        linked.and_then(|()| self.sync()).map_err(cannot)
    }

    /// What was made since the pool was given away.
    pub fn new_thins(&self, given: &Given) -> Result<Vec<NewThin>> {
        Ok(self.read(given)?.map_or_else(Vec::new, |thins| thins.devices))
    }

    /// The thin device that a command has suspended which was interrupted.
    pub fn frozen(&self, given: &Given) -> Result<Option<u32>> {
        Ok(self.read(given)?.and_then(|thins| thins.frozen))
    }

    fn read(&self, given: &Given) -> Result<Option<NewThins>> {
        let path = self.names();
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(cause) if cause.kind() == Cause::NotFound => return Ok(None),
            Err(cause) => return Err(cannot("read", &path, &cause)),
        };
        let thins: NewThins = serde_json::from_slice(&text).map_err(|cause| {
            let message = format!("'{}' cannot be read: {cause}", path.display());
            Error::new(Kind::Damaged, message)
                .hint("move it away: what it names comes back as `thin-NUMBER`, unless --name and --size say better")
        })?;
        let is_of_this = thins.pool == uuid_text(&given.pool) && thins.incarnation == given.incarnation.0;
        Ok(Some(thins).filter(|_| is_of_this))
    }

    /// Replaces what was made since the pool was given away, and which device is suspended.
    pub fn set_new_thins(&self, given: &Given, devices: Vec<NewThin>, frozen: Option<u32>) -> Result<()> {
        let thins =
            NewThins { pool: uuid_text(&given.pool), incarnation: given.incarnation.0, devices, frozen };
        let text = serde_json::to_vec(&thins)
            .map_err(|cause| Error::new(Kind::Failure, format!("cannot write JSON: {cause}")))?;
        let new = self.directory.path().join("thin-devices.json.new");
        let written = File::create(&new).and_then(|mut file| {
            file.write_all(&text)?;
            file.sync_all()?;
            std::fs::rename(&new, self.names())?;
            self.sync()
        });
        written.map_err(|cause| cannot("write", &self.names(), &cause))
    }

    /// The pool is its own again. The caller syncs the directory.
    pub fn remove(&self) -> Result<()> {
        for path in [self.names(), self.link()] {
            remove(&path).map_err(|cause| cannot("remove", &path, &cause))?;
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        File::open(self.directory.path())?.sync_all()
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(cause) if cause.kind() != Cause::NotFound => Err(cause),
        _ => Ok(()),
    }
}

fn cannot(what: &str, path: &Path, cause: &io::Error) -> Error {
    Error::io(format!("cannot {what} '{}'", path.display()), cause)
}

#[cfg(test)]
mod tests {
    use super::*;
    use vellum_engine::format::Properties;
    use vellum_engine::units::{Generation, Incarnation, VolumeId};

    fn given(incarnation: u64) -> Given {
        Given {
            pool: [7; 16],
            created_unix_s: 0,
            data_blocks: 1,
            volumes: Vec::new(),
            settings: Properties::default(),
            next_volume: VolumeId(3),
            incarnation: Incarnation(incarnation),
            generation: Generation(1),
        }
    }

    #[test]
    fn names_are_those_of_one_hand_over() {
        let folder = tempfile::tempdir().unwrap();
        let directory = PoolDirectory::new(folder.path());
        let files = GivenFiles::of(&directory);
        assert_eq!(files.new_thins(&given(1)).unwrap(), []);
        let thin = NewThin { device: 5, name: "disk@monday".into(), size_bytes: 4096 };
        files.set_new_thins(&given(1), vec![thin.clone()], Some(2)).unwrap();
        assert_eq!(files.new_thins(&given(1)).unwrap(), std::slice::from_ref(&thin));
        assert_eq!((files.frozen(&given(1)).unwrap(), files.frozen(&given(2)).unwrap()), (Some(2), None));
        files.set_new_thins(&given(1), vec![thin.clone()], None).unwrap();
        // As the file was before it could say that.
        assert!(
            !std::fs::read_to_string(folder.path().join("thin-devices.json")).unwrap().contains("frozen")
        );
        assert_eq!(
            (files.new_thins(&given(1)).unwrap(), files.frozen(&given(1)).unwrap()),
            (vec![thin], None)
        );
        assert_eq!(files.new_thins(&given(2)).unwrap(), []);
        std::fs::write(folder.path().join("thin-devices.json"), "{").unwrap();
        assert_eq!(files.new_thins(&given(1)).unwrap_err().kind(), Kind::Damaged);
    }

    #[test]
    fn the_link_is_absolute_and_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let directory = PoolDirectory::new(folder.path());
        let files = GivenFiles::of(&directory);
        assert_eq!(files.require_metadata(None).unwrap_err().kind(), Kind::Usage);
        for path in ["tmeta", "/dev/null"] {
            files.set_metadata(Path::new(path)).unwrap();
            assert_eq!(files.require_metadata(None).unwrap(), std::path::absolute(path).unwrap());
        }
        assert_eq!(files.require_metadata(Some(Path::new("x"))).unwrap(), Path::new("x"));
        files.remove().unwrap();
        files.remove().unwrap();
        assert_eq!((files.metadata(), folder.path().read_dir().unwrap().count()), (None, 0));
    }
}
