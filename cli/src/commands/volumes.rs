//! `vellum volume`, `vellum snapshot`, `vellum clone`.
//!
//! Owns which names each takes, and what is told afterwards.

use crate::arguments::{CloneCommand, SnapshotCommand, VolumeCommand};
use crate::error::Result;
use crate::manage::with_pool;
use crate::names;
use crate::output::{Output, text};
use crate::pool_directory::PoolDirectory;
use crate::views::{DeletedView, SnapshotsView, VolumeKind, VolumeView, VolumesView};

pub fn volume(command: &VolumeCommand, directory: &PoolDirectory, output: Output) -> Result<()> {
    match command {
        VolumeCommand::Create { name, size } => {
            names::check_volume(name)?;
            let made = with_pool(directory, |pool| pool.create_volume(name, size.0))?;
            output.result(&made, |made| text::made("volume", std::slice::from_ref(made)))
        }
        VolumeCommand::List => {
            let view = VolumesView { volumes: of_kind(directory, VolumeKind::Volume)? };
            if view.volumes.is_empty() {
                output.note("no volumes");
            }
            output.result(&view, |view| text::volumes(&view.volumes))
        }
        VolumeCommand::Show { name } => {
            names::check_any(name)?;
            output.result(&with_pool(directory, |pool| pool.volume(name))?, text::volume)
        }
        VolumeCommand::Delete { names } => {
            names.iter().try_for_each(|name| names::check_volume(name))?;
            delete(names, directory, output)
        }
    }
}

pub fn snapshot(command: &SnapshotCommand, directory: &PoolDirectory, output: Output) -> Result<()> {
    match command {
        SnapshotCommand::Create { names } => {
            names.iter().try_for_each(|name| names::check_snapshot(name))?;
            let view =
                SnapshotsView { snapshots: with_pool(directory, |pool| pool.create_snapshots(names))? };
            output.result(&view, |view| text::made("snapshot", &view.snapshots))
        }
        SnapshotCommand::List { volume } => list_snapshots(volume.as_deref(), directory, output),
        SnapshotCommand::Delete { names } => {
            names.iter().try_for_each(|name| names::check_snapshot(name))?;
            delete(names, directory, output)
        }
    }
}

pub fn clone(command: &CloneCommand, directory: &PoolDirectory, output: Output) -> Result<()> {
    let CloneCommand::Create { snapshot, name } = command;
    names::check_snapshot(snapshot)?;
    names::check_volume(name)?;
    let made = with_pool(directory, |pool| pool.create_clone(snapshot, name))?;
    output.result(&made, |made| text::made("volume", std::slice::from_ref(made)))
}

fn list_snapshots(volume: Option<&str>, directory: &PoolDirectory, output: Output) -> Result<()> {
    if let Some(volume) = volume {
        names::check_volume(volume)?;
    }
    let mut snapshots = of_kind(directory, VolumeKind::Snapshot)?;
    if let Some(volume) = volume {
        snapshots.retain(|snapshot| names::volume_of(&snapshot.name) == Ok(volume));
    }
    if snapshots.is_empty() {
        output.note("no snapshots");
    }
    output.result(&SnapshotsView { snapshots }, |view| text::volumes(&view.snapshots))
}

fn of_kind(directory: &PoolDirectory, kind: VolumeKind) -> Result<Vec<VolumeView>> {
    let all = with_pool(directory, |pool| pool.volumes())?;
    Ok(all.into_iter().filter(|volume| volume.kind == kind).collect())
}

fn delete(names: &[String], directory: &PoolDirectory, output: Output) -> Result<()> {
    with_pool(directory, |pool| pool.delete(names))?;
    output.result(&DeletedView { deleted: names.to_vec() }, |view| text::deleted(&view.deleted))
}
