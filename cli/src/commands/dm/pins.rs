//! The snapshots that pin what a picture shows: made, looked at again, and taken back.
//!
//! Owns that none is lost sight of. Each is followed by its uuid, which is chosen here: names change meanwhile, and
//! what was asked for may be there though the answer was lost.

use super::release::release;
use crate::error::{Error, Result};
use crate::exit::Kind;
use crate::host;
use crate::manage::Manage;
use crate::views::{FillView, FinishPictureView, NewPictureView, VolumeView};
use indicatif::ProgressBar;
use std::collections::HashSet;
use vellum_engine::format::uuid_text;

/// How often a name may be taken away between choosing and using it.
const TRIES: u32 = 20;

/// A snapshot that is shown, and the one that pins what is shown of it.
pub struct Pin {
    pub shown: VolumeView,
    pub pin: VolumeView,
    pub copied_bytes: u64,
}

/// What one picture pins.
#[derive(Default)]
pub struct Pins {
    pub list: Vec<Pin>,
    /// Uuid and name of the one that is being made.
    under_way: Option<(String, String)>,
}

impl Pins {
    /// Makes the snapshot that pins `shown`, whole and held by `tag`.
    pub fn make(
        &mut self,
        pool: &mut dyn Manage,
        shown: VolumeView,
        tag: &str,
        bar: &ProgressBar,
    ) -> Result<()> {
        let uuid = uuid_text(&host::new_uuid()?);
        let started = under_free_name(pool, &shown.name, &uuid, |pool, name| {
            self.under_way = Some((uuid.clone(), name.to_owned()));
            let snapshot = shown.name.clone();
            pool.start_picture(&NewPictureView { snapshot, name: name.to_owned(), uuid: Some(uuid.clone()) })
        })?;
        if started.base_uuid.as_ref() != Some(&shown.uuid) {
            let message = format!("'{}' is another snapshot than it was a moment ago", shown.name);
            return Err(Error::new(Kind::Busy, message).hint("export again, and it is the new one"));
        }
        let copied_bytes = fill(pool, &uuid, bar)?;
        let pin = under_free_name(pool, &shown.name, &uuid, |pool, name| {
            self.under_way = Some((uuid.clone(), name.to_owned()));
            pool.finish_picture(&uuid, &FinishPictureView { name: name.to_owned(), tag: tag.to_owned() })
        })?;
        self.under_way = None;
        self.list.push(Pin { shown, pin, copied_bytes });
        Ok(())
    }

    /// Learns what they are called now. Fails unless each is there, and what holds it.
    pub fn look_again(&mut self, pool: &mut dyn Manage) -> Result<()> {
        let volumes = pool.volumes()?;
        for Pin { pin, .. } in &mut self.list {
            let is_it = |volume: &&VolumeView| {
                volume.uuid == pin.uuid && pin.holds.iter().all(|tag| volume.holds.contains(tag))
            };
            let Some(now) = volumes.iter().find(is_it) else {
                let message = format!("'{}', which pins what is shown, was released meanwhile", pin.name);
                return Err(Error::new(Kind::NotFound, message).hint("export again, and let it stay"));
            };
            pin.name.clone_from(&now.name);
        }
        Ok(())
    }

    /// Takes all of them back, finished or not. What could not be taken stays in the list.
    pub fn take_back(&mut self, pool: &mut dyn Manage) {
        self.list.retain(|pin| drop_pin(pool, &pin.pin.uuid).is_err());
        self.under_way.take_if(|(uuid, _)| drop_pin(pool, uuid).is_ok());
    }

    /// The commands that take back what is there. Nothing if nothing is.
    pub fn commands(&self) -> Option<String> {
        let finished = self.list.iter().map(|pin| pin.pin.name.as_str());
        let under_way = self.under_way.as_ref().map(|(_, name)| name.as_str());
        let names: Vec<&str> = finished.chain(under_way).collect();
        let release = format!("`vellum dm release {}`", names.join(" "));
        match under_way {
            _ if names.is_empty() => None,
            None => Some(release),
            // Whether it was finished is not known: the pool did not answer.
            Some(name) => Some(format!("`vellum receive --abort {name}`, if it is there, and {release}")),
        }
    }
}

/// Drops the pin with this uuid, be it under way, finished, or never begun.
fn drop_pin(pool: &mut dyn Manage, uuid: &str) -> Result<()> {
    // In this order it is found even if it is being finished meanwhile.
    if pool.arrivals()?.iter().any(|arrival| arrival.uuid == uuid) && pool.abort(uuid).is_ok() {
        return Ok(());
    }
    match pool.volumes()?.iter().find(|volume| volume.uuid == uuid) {
        Some(pin) => release(pool, pin, false).map(drop),
        None => Ok(()),
    }
}

fn fill(pool: &mut dyn Manage, uuid: &str, bar: &ProgressBar) -> Result<u64> {
    let mut copied_bytes = 0;
    let mut next = Some(0);
    while let Some(offset_bytes) = next {
        let filled = pool.fill_picture(uuid, &FillView { offset_bytes })?;
        copied_bytes += filled.copied_bytes;
        bar.inc(filled.copied_bytes);
        next = filled.next_bytes;
    }
    Ok(copied_bytes)
}

/// Acts under a free name of a picture of `snapshot`; under the next one if somebody took it meanwhile.
fn under_free_name<T>(
    pool: &mut dyn Manage,
    snapshot: &str,
    own_uuid: &str,
    mut act: impl FnMut(&mut dyn Manage, &str) -> Result<T>,
) -> Result<T> {
    for _ in 0..TRIES {
        let name = free_name(pool, snapshot, own_uuid)?;
        match act(pool, &name) {
            Err(error) if error.kind() == Kind::Exists => {}
            done => return done,
        }
    }
    Err(Error::new(Kind::Busy, format!("others take the names of pictures of '{snapshot}', one by one"))
        .hint("try again later"))
}

/// The first name of a picture of `snapshot` that nobody else has.
fn free_name(pool: &mut dyn Manage, snapshot: &str, own_uuid: &str) -> Result<String> {
    let volumes = pool.volumes()?.into_iter().map(|volume| volume.name);
    let arrivals = pool.arrivals()?.into_iter().filter(|arrival| arrival.uuid != own_uuid);
    let taken: HashSet<String> = volumes.chain(arrivals.map(|arrival| arrival.name)).collect();
    let is_free = |name: &String| !taken.contains(name);
    let mut names = (1u64..).map(|number| format!("{snapshot}.picture-{number}"));
    Ok(names.find(is_free).unwrap_or_default())
}
