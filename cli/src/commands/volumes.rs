//! `vellum volume`, `vellum snapshot`, `vellum clone`.
//!
//! Owns which names each takes, and what is told afterwards.

use crate::arguments::{CloneCommand, SnapshotCommand, VolumeCommand, settings};
use crate::error::{Error, Result};
use crate::exit::Kind;
use crate::manage::with_pool;
use crate::names;
use crate::output::{Output, text};
use crate::pool_directory::PoolDirectory;
use crate::size::{NewSize, Size};
use crate::views::{ChangeView, DeletionView, SnapshotsView, VolumeKind, VolumeView, VolumesView};

pub fn volume(command: &VolumeCommand, directory: &PoolDirectory, output: Output) -> Result<()> {
    match command {
        VolumeCommand::Create { name, size, reservation } => {
            names::check_volume(name)?;
            let reserved = reservation.map_or(0, |reservation| reservation.0);
            let made = with_pool(directory, |pool| pool.create_volume(name, size.0, reserved))?;
            output.result(&made, |made| text::made("volume", std::slice::from_ref(made)))
        }
        VolumeCommand::Set { name, settings } => {
            names::check_volume(name)?;
            change(name, &ChangeView::Set(settings::together(settings)?), directory, output)
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
        VolumeCommand::Resize { name, size, shrink, force } => {
            names::check_volume(name)?;
            resize(name, *size, *shrink, *force, directory, output)
        }
        VolumeCommand::Rename { old, new, force } => {
            [old, new].into_iter().try_for_each(|name| names::check_volume(name))?;
            rename(old, new, *force, directory, output)
        }
        VolumeCommand::Collapse { name } => {
            names::check_volume(name)?;
            change(name, &ChangeView::Collapse {}, directory, output)
        }
        VolumeCommand::Hold(hold) => {
            names::check_volume(&hold.name)?;
            change(&hold.name, &ChangeView::Hold { tag: hold.tag.clone() }, directory, output)
        }
        VolumeCommand::Release(hold) => {
            names::check_volume(&hold.name)?;
            change(
                &hold.name,
                &ChangeView::Release { tag: hold.tag.clone(), force: false },
                directory,
                output,
            )
        }
        VolumeCommand::Delete { names, snapshots, force } => {
            names.iter().try_for_each(|name| names::check_volume(name))?;
            let deletion = DeletionView { snapshots: *snapshots, ..deletion(names, *force) };
            delete(&deletion, directory, output)
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
        SnapshotCommand::Rename { old, new, force } => {
            [old, new].into_iter().try_for_each(|name| names::check_snapshot(name))?;
            rename(old, new, *force, directory, output)
        }
        SnapshotCommand::Rollback { name, force } => {
            names::check_snapshot(name)?;
            change(name, &ChangeView::Rollback { force: *force }, directory, output)
        }
        SnapshotCommand::Hold(hold) => {
            names::check_snapshot(&hold.name)?;
            change(&hold.name, &ChangeView::Hold { tag: hold.tag.clone() }, directory, output)
        }
        SnapshotCommand::Release { hold, force } => {
            names::check_snapshot(&hold.name)?;
            change(
                &hold.name,
                &ChangeView::Release { tag: hold.tag.clone(), force: *force },
                directory,
                output,
            )
        }
        SnapshotCommand::Diff(arguments) => super::transfer::diff(arguments, directory, output),
        SnapshotCommand::Delete { names, defer, force } => {
            names.iter().try_for_each(|name| names::check_snapshot(name))?;
            let deletion = DeletionView { deferred: *defer, ..deletion(names, *force) };
            delete(&deletion, directory, output)
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
    let mut snapshots = with_pool(directory, |pool| pool.volumes())?;
    if let Some(volume) = volume.filter(|volume| !snapshots.iter().any(|there| there.name == *volume)) {
        return Err(names::not_found(volume));
    }
    snapshots.retain(|snapshot| snapshot.kind == VolumeKind::Snapshot);
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

fn deletion(names: &[String], force: bool) -> DeletionView {
    DeletionView { names: names.to_vec(), force, ..DeletionView::default() }
}

fn delete(deletion: &DeletionView, directory: &PoolDirectory, output: Output) -> Result<()> {
    output.result(&with_pool(directory, |pool| pool.delete(deletion))?, text::deleted)
}

fn rename(old: &str, new: &str, force: bool, directory: &PoolDirectory, output: Output) -> Result<()> {
    change(old, &ChangeView::Rename { name: new.to_owned(), force }, directory, output)
}

fn resize(
    name: &str,
    size: NewSize,
    shrink: bool,
    force: bool,
    directory: &PoolDirectory,
    output: Output,
) -> Result<()> {
    let changed = with_pool(directory, |pool| {
        let old_bytes = pool.volume(name)?.size_bytes;
        let size_bytes = size.of(old_bytes).ok_or_else(|| {
            let message = format!("'{name}' has {}, and that much more or less cannot be", Size(old_bytes));
            Error::new(Kind::Invalid, message).hint("give the size that it is to have, as in 20G")
        })?;
        pool.change(name, &ChangeView::Resize { size_bytes, shrink, force })
    })?;
    output.result(&changed, |view| text::changed(name, view))
}

fn change(name: &str, change: &ChangeView, directory: &PoolDirectory, output: Output) -> Result<()> {
    let changed = with_pool(directory, |pool| pool.change(name, change))?;
    output.result(&changed, |view| text::changed(name, view))
}
