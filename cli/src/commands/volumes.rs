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
use crate::views::{
    AskUsageView, ChangeView, DeletionView, SnapshotsView, VolumeKind, VolumeView, VolumesView,
};

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
        VolumeCommand::List { usage } => {
            let is_volume = |view: &VolumeView| view.kind == VolumeKind::Volume;
            let view = VolumesView { volumes: some_of(directory, *usage, |_| Ok(()), is_volume)? };
            if view.volumes.is_empty() {
                output.note("no volumes");
            }
            output.result(&view, |view| text::volumes(&view.volumes))
        }
        VolumeCommand::Show { name, usage } => {
            names::check_any(name)?;
            let shown = with_pool(directory, |pool| {
                let mut volume = pool.volume(name)?;
                if *usage {
                    pool.add_usage(std::slice::from_mut(&mut volume))?;
                }
                Ok(volume)
            })?;
            output.result(&shown, text::volume)
        }
        VolumeCommand::Usage { names, snapshots, sectors } => {
            let what = AskUsageView { names: names.clone(), snapshots: *snapshots, sectors: *sectors };
            output.result(&with_pool(directory, |pool| pool.usage(&what))?, text::usage)
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
        SnapshotCommand::List { volume, usage } => {
            list_snapshots(volume.as_deref(), *usage, directory, output)
        }
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

fn list_snapshots(
    volume: Option<&str>,
    usage: bool,
    directory: &PoolDirectory,
    output: Output,
) -> Result<()> {
    if let Some(volume) = volume {
        names::check_volume(volume)?;
    }
    let check = |all: &[VolumeView]| match volume {
        Some(volume) if !all.iter().any(|there| there.name == *volume) => Err(names::not_found(volume)),
        _ => Ok(()),
    };
    let is_listed = |view: &VolumeView| {
        let is_of = |volume| names::volume_of(&view.name) == Ok(volume);
        view.kind == VolumeKind::Snapshot && volume.is_none_or(is_of)
    };
    let snapshots = some_of(directory, usage, check, is_listed)?;
    if snapshots.is_empty() {
        output.note("no snapshots");
    }
    output.result(&SnapshotsView { snapshots }, |view| text::volumes(&view.snapshots))
}

/// Those that are to be listed, with their usage if that is wanted.
fn some_of(
    directory: &PoolDirectory,
    usage: bool,
    check: impl FnOnce(&[VolumeView]) -> Result<()>,
    is_listed: impl Fn(&VolumeView) -> bool,
) -> Result<Vec<VolumeView>> {
    with_pool(directory, |pool| {
        let mut volumes = pool.volumes()?;
        check(&volumes)?;
        volumes.retain(is_listed);
        if usage {
            pool.add_usage(&mut volumes)?;
        }
        Ok(volumes)
    })
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
