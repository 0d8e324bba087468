//! What can be asked of a pool, wherever it runs.
//!
//! Owns the choice: a server that answers on the control socket is asked; otherwise the pool is opened on its files.
//! Whether that may be is the file lock's word. Read next: `files.rs`, `live.rs`, `remote.rs`.

mod change;
pub mod engine;
pub mod files;
pub mod live;
pub mod remote;

use crate::error::Result;
use crate::names;
use crate::pool_directory::PoolDirectory;
use crate::views::{ChangeView, ChangedView, DeletedView, DeletionView, PoolView, VolumeView};
pub use files::Files;
pub use live::Live;
pub use remote::Remote;

/// What can be asked of a pool, wherever it runs. Blocking calls.
pub trait Manage {
    /// The state of the pool.
    fn status(&mut self) -> Result<PoolView>;

    /// Lets the pool hold `size_bytes`, as much as now or more.
    fn extend(&mut self, size_bytes: u64) -> Result<PoolView>;

    /// All volumes and snapshots, by number.
    fn volumes(&mut self) -> Result<Vec<VolumeView>>;

    /// The volume or snapshot of this name.
    fn volume(&mut self, name: &str) -> Result<VolumeView> {
        names::check_any(name)?;
        let found = self.volumes()?.into_iter().find(|volume| volume.name == name);
        found.ok_or_else(|| names::not_found(name))
    }

    /// Makes an empty volume.
    fn create_volume(&mut self, name: &str, size_bytes: u64) -> Result<VolumeView>;

    /// Freezes volumes, all at one moment. Names are `volume@snapshot`; the answer has their order. The volume may be a
    /// pattern.
    fn create_snapshots(&mut self, names: &[String]) -> Result<Vec<VolumeView>>;

    /// Makes a volume that starts as a snapshot.
    fn create_clone(&mut self, snapshot: &str, name: &str) -> Result<VolumeView>;

    /// Removes volumes and snapshots: all of them, or none and an error.
    fn delete(&mut self, deletion: &DeletionView) -> Result<DeletedView>;

    /// Changes a volume or snapshot, and shows what it is then.
    fn change(&mut self, name: &str, change: &ChangeView) -> Result<ChangedView>;

    /// Ends. Whoever has the pool open closes it.
    fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

/// The pool in `directory`: its server if it has one, else its files.
pub fn connect(directory: &PoolDirectory) -> Result<Box<dyn Manage>> {
    match Remote::connect(&directory.control_socket())? {
        Some(remote) => Ok(Box::new(remote)),
        None => Ok(Box::new(Files::open(directory)?)),
    }
}

/// Does something with a pool, and closes it whatever came of that.
pub fn with_pool<T>(directory: &PoolDirectory, act: impl FnOnce(&mut dyn Manage) -> Result<T>) -> Result<T> {
    let mut pool = connect(directory)?;
    let done = act(pool.as_mut());
    let closed = pool.close();
    done.and_then(|value| closed.map(|()| value))
}
