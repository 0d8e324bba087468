//! `vellum dm release`: what a picture pinned goes.
//!
//! Owns the order: what is named is marked to be deleted with its last hold, and then the picture's hold is taken away. Interrupted,
//! it is pinned still, and the same command goes on.

use crate::error::{Error, Result};
use crate::exit::Kind;
use crate::manage::{Manage, with_pool};
use crate::names;
use crate::output::{Output, dm as text};
use crate::pool_directory::PoolDirectory;
use crate::views::{ChangeView, DeletedView, DeletionView, VolumeView};
use std::collections::BTreeSet;
use vellum_engine::format::PICTURE_TAG;

pub fn run(names: &[String], force: bool, directory: &PoolDirectory, output: Output) -> Result<()> {
    names.iter().try_for_each(|name| names::check_snapshot(name))?;
    let released = with_pool(directory, |pool| released(pool, names, force))?;
    output.note("the metadata of the pictures is of no use any more");
    output.result(&released, text::released)
}

fn released(pool: &mut dyn Manage, names: &[String], force: bool) -> Result<DeletedView> {
    // All are looked at before any is changed.
    let names: BTreeSet<&String> = names.iter().collect();
    let pinned: Vec<VolumeView> = names.into_iter().map(|name| pinned(pool, name)).collect::<Result<_>>()?;
    let mut view = DeletedView { deleted: Vec::new(), deferred: Vec::new() };
    for snapshot in &pinned {
        let is_gone = release(pool, snapshot, force)?;
        if is_gone { &mut view.deleted } else { &mut view.deferred }.push(snapshot.name.clone());
    }
    Ok(view)
}

fn pinned(pool: &mut dyn Manage, name: &str) -> Result<VolumeView> {
    let snapshot = pool.volume(name)?;
    if tags(&snapshot).next().is_some() {
        return Ok(snapshot);
    }
    Err(Error::new(Kind::Invalid, format!("'{name}' pins no picture"))
        .hint("`vellum --json snapshot list` shows holds; those of pictures begin with dm-picture:"))
}

fn tags(snapshot: &VolumeView) -> impl Iterator<Item = &String> {
    snapshot.holds.iter().filter(|tag| tag.starts_with(PICTURE_TAG))
}

/// Whether the snapshot is gone; it stays while others hold it.
pub(super) fn release(pool: &mut dyn Manage, snapshot: &VolumeView, force: bool) -> Result<bool> {
    let names = vec![snapshot.name.clone()];
    pool.delete(&DeletionView { names, deferred: true, force, ..DeletionView::default() })?;
    let mut is_gone = false;
    for tag in tags(snapshot) {
        let changed = pool.change(&snapshot.name, &ChangeView::Release { tag: tag.clone(), force })?;
        is_gone = changed.volume.is_none();
    }
    Ok(is_gone)
}
