//! Changes and deletions on a pool that this process has open.
//!
//! Owns what of them is refused although the engine could do it: a smaller size that nobody said may be lost.

use super::engine::{Engine, Opened};
use crate::error::{Error, Result};
use crate::exit::Kind;
use crate::names;
use crate::size::Size;
use crate::views::{ChangeView, ChangedView, DeletedView, DeletionView, VolumeView};
use vellum_engine::VolumeInfo;
use vellum_engine::error::ErrorKind;
use vellum_engine::request::Request;
use vellum_engine::units::VolumeId;

impl<E: Engine> Opened<E> {
    pub(super) fn carry_out_deletion(&mut self, deletion: &DeletionView) -> Result<DeletedView> {
        let mut names = deletion.names.clone();
        if deletion.snapshots {
            names.extend(self.snapshots_of(&deletion.names));
        }
        let volumes = names.iter().map(|name| self.find(name)).collect::<Result<Vec<_>>>()?;
        let request = Request::Delete { volumes: volumes.clone(), deferred: deletion.deferred };
        self.ask(request, deletion.force)
            .map_err(|error| hinted(error, "--snapshots deletes them with it"))?;
        self.engine.settle();
        let left = self.engine.volumes();
        let is_left = |volume: &VolumeId| left.iter().any(|info| info.id == *volume);
        let (deferred, deleted): (Vec<_>, Vec<_>) =
            names.into_iter().zip(&volumes).partition(|(_, volume)| is_left(volume));
        let names = |list: Vec<(String, &VolumeId)>| list.into_iter().map(|(name, _)| name).collect();
        Ok(DeletedView { deleted: names(deleted), deferred: names(deferred) })
    }

    /// The snapshots of the volumes called `names` that are not among these.
    fn snapshots_of(&self, names: &[String]) -> Vec<String> {
        let all = self.engine.volumes().into_iter().map(|info| info.name);
        let snapshots = all.filter(|name| names::is_snapshot(name) && !names.contains(name));
        let is_of = |name: &String| names.iter().any(|volume| names::volume_of(name) == Ok(volume));
        snapshots.filter(is_of).collect()
    }

    pub(super) fn carry_out_change(&mut self, name: &str, change: &ChangeView) -> Result<ChangedView> {
        let volume = self.find(name)?;
        let (request, changed, force) = match change {
            ChangeView::Resize { size_bytes, shrink, force } => {
                self.check_resize(name, volume, *size_bytes, *shrink)?;
                (Request::Resize { volume, size_bytes: *size_bytes }, volume, *force)
            }
            ChangeView::Rename { name, force } => {
                names::check_any(name)?;
                (Request::Rename { volume, name: name.clone() }, volume, *force)
            }
            ChangeView::Rollback { force } => {
                let snapshot = volume;
                let volume = self.find(names::volume_of(name)?)?;
                (Request::Rollback { volume, snapshot }, volume, *force)
            }
            ChangeView::Set(settings) => {
                (Request::SetProperties { volume, change: Box::new(settings.change()) }, volume, false)
            }
            ChangeView::Collapse {} => (Request::Collapse { volume }, volume, false),
            ChangeView::Hold { tag } => (Request::Hold { volume, tag: tag.clone() }, volume, false),
            ChangeView::Release { tag, force } => {
                (Request::Release { volume, tag: tag.clone() }, volume, *force)
            }
        };
        self.ask(request, force)?;
        if !matches!(change, ChangeView::Rename { .. } | ChangeView::Hold { .. } | ChangeView::Set(_)) {
            self.engine.settle();
        }
        let views = VolumeView::all(&self.engine.volumes());
        Ok(ChangedView { volume: views.into_iter().find(|view| view.number == changed.0) })
    }

    fn check_resize(&self, name: &str, volume: VolumeId, size_bytes: u64, shrink: bool) -> Result<()> {
        let is_it = |info: &VolumeInfo| info.id == volume && size_bytes < info.size_bytes;
        match self.engine.volumes().into_iter().find(is_it) {
            Some(info) if !shrink => {
                let (old, new) = (Size(info.size_bytes), Size(size_bytes));
                Err(Error::new(Kind::Invalid, format!("'{name}' has {old}, which is more than {new}"))
                    .hint("what lies behind a smaller end is lost; --shrink allows that"))
            }
            _ => Ok(()),
        }
    }

    fn ask(&mut self, request: Request, force: bool) -> Result<()> {
        let reply = if force { self.engine.force(request) } else { self.engine.request(request) };
        reply.map(drop).map_err(|error| {
            let in_use = error.kind() == ErrorKind::Busy && error.place().is_none();
            let error = self.explain(error);
            if in_use { error.hint("--force disconnects them") } else { error }
        })
    }
}

/// The error with a hint, where snapshots are what is in the way.
fn hinted(error: Error, hint: &'static str) -> Error {
    let is_it = error.kind() == Kind::Busy && error.message().contains("it has snapshots");
    if is_it { error.hint(hint) } else { error }
}
