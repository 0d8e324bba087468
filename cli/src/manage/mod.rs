//! What can be asked of a pool, wherever it runs.
//!
//! Owns the choice: a server that answers on the control socket is asked; otherwise the pool is opened on its files.
//! Whether that may be is the file lock's word. Read next: `files.rs`, `live.rs`, `remote.rs`.

mod change;
pub mod engine;
pub mod files;
pub mod live;
mod picture;
pub mod remote;
mod transfer;
mod usage;

use crate::error::Result;
use crate::exit::Kind;
use crate::names;
use crate::pool_directory::PoolDirectory;
use crate::views::{
    ArrivalView, AskDifferenceView, AskUsageView, ChangeView, ChangedView, ConfigurationView, DeletedView,
    DeletionView, DifferenceView, PoolView, SendView, TrimView, TrimmedView, UsageView, VolumeKind,
    VolumeUsageView, VolumeView,
};
pub use files::{Files, Growth};
pub use live::Live;
pub use picture::Picture;
pub use remote::Remote;
use std::io::{Read, Write};

/// Told how much data was sent so far, and how much there is in all, in bytes.
pub type Progress<'a> = dyn FnMut(u64, u64) + 'a;

/// What goes to another pool and what comes from one, wherever this pool runs. Blocking calls.
pub trait Transfer {
    /// Some of what differs, from an offset on.
    fn difference(&mut self, what: &AskDifferenceView) -> Result<DifferenceView>;

    /// Writes a stream. `progress` is called before anything is written, and then now and then.
    fn send(&mut self, what: &SendView, out: &mut dyn Write, progress: &mut Progress<'_>) -> Result<()>;

    /// Reads a stream to its end, and gives the snapshot that it became.
    fn receive(&mut self, name: Option<&str>, input: &mut (dyn Read + Send)) -> Result<VolumeView>;

    /// What has arrived in part.
    fn arrivals(&mut self) -> Result<Vec<ArrivalView>>;

    /// Drops what has arrived in part of the snapshot with this uuid.
    fn abort(&mut self, uuid: &str) -> Result<()>;
}

/// What can be asked of a pool, wherever it runs. Blocking calls.
pub trait Manage: Transfer + Picture {
    /// The state of the pool.
    fn status(&mut self) -> Result<PoolView>;

    /// Lets the pool hold `size_bytes`, as much as now or more.
    fn extend(&mut self, size_bytes: u64) -> Result<PoolView>;

    /// Has the host take back what is free in a part of the pool.
    fn trim(&mut self, part: &TrimView) -> Result<TrimmedView>;

    /// Changes what the pool does about space.
    fn configure(&mut self, change: &ConfigurationView) -> Result<PoolView>;

    /// All volumes and snapshots, by number.
    fn volumes(&mut self) -> Result<Vec<VolumeView>>;

    /// The volume or snapshot of this name.
    fn volume(&mut self, name: &str) -> Result<VolumeView> {
        names::check_any(name)?;
        let found = self.volumes()?.into_iter().find(|volume| volume.name == name);
        found.ok_or_else(|| names::not_found(name))
    }

    /// What volumes and snapshots have alone, all together.
    fn usage(&mut self, what: &AskUsageView) -> Result<UsageView>;

    /// Adds to each what it has alone and shares. What has gone meanwhile stays without.
    fn add_usage(&mut self, volumes: &mut [VolumeView]) -> Result<()> {
        for volume in volumes {
            let names = vec![volume.name.clone()];
            let alone = self.usage(&AskUsageView { names: names.clone(), ..AskUsageView::default() });
            let whole = match (&alone, volume.kind) {
                (Ok(_), VolumeKind::Volume) => {
                    self.usage(&AskUsageView { names, snapshots: true, ..AskUsageView::default() })
                }
                _ => alone.clone(),
            };
            match alone.and_then(|alone| Ok((alone, whole?))) {
                Ok((alone, whole)) => {
                    volume.usage = Some(VolumeUsageView {
                        exclusive_bytes: alone.freed_if_deleted_bytes,
                        shared_bytes: alone.shared_bytes,
                        freed_if_deleted_bytes: whole.freed_if_deleted_bytes,
                    });
                }
                Err(error) if error.kind() == Kind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Makes an empty volume, with a reservation if that is not 0.
    fn create_volume(&mut self, name: &str, size_bytes: u64, reservation_bytes: u64) -> Result<VolumeView>;

    /// Freezes volumes, all at one moment. Names are `volume@snapshot`; the answer has their order. The volume may be a
    /// pattern.
    fn create_snapshots(&mut self, names: &[String]) -> Result<Vec<VolumeView>>;

    /// Makes a volume that starts as a snapshot.
    fn create_clone(&mut self, snapshot: &str, name: &str) -> Result<VolumeView>;

    /// Removes volumes and snapshots: all of them, or none and an error.
    fn delete(&mut self, deletion: &DeletionView) -> Result<DeletedView>;

    /// Changes a volume or snapshot, and shows what it is then.
    fn change(&mut self, name: &str, change: &ChangeView) -> Result<ChangedView>;

    /// Another way to the same pool, for something that takes long. None where there is only one.
    fn fork(&self) -> Option<Box<dyn Manage + Send>> {
        None
    }

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
