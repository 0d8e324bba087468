//! Changes of volumes and snapshots that are there: held, released, deleted, renamed, grown, rolled back, given properties.
//!
//! Owns the checks that make such a change valid before it is applied. The way of these requests is `control.rs`;
//! making a volume smaller takes more than one step and is `shrink.rs`.

use super::Core;
use super::control::{check_reservation, check_size, family};
use crate::canary::{self, Canary};
use crate::error::{Error, ErrorKind, Place, Result};
use crate::format::{Delta, Properties, VolumeKind, VolumeRecord, VolumeState, check_name, check_tag};
use crate::metadata::tree::LAST_KEY;
use crate::metadata::{LOG_VOLUME, name_is_taken};
use crate::request::{PropertiesChange, Request};
use crate::settings::Settings;
use crate::units::{VirtualBlock, VolumeId};

/// Volumes and snapshots that go in one step; a volume takes all its snapshots along.
const DELETIONS_MAX: usize = 4096;
const HOLDS_MAX: usize = 16;
const LABEL_BYTES_MAX: usize = 64;
/// Snapshots that a message names.
const NAMED_MAX: usize = 3;

impl Core {
    /// The delta of a request that changes what is there, checked so that applying it cannot fail.
    pub(super) fn delta_for_change(&self, request: &Request) -> Result<Delta> {
        match request {
            Request::Delete { volumes, deferred } => self.delta_for_delete(volumes, *deferred),
            Request::Hold { volume, tag } => self.delta_for_hold(*volume, tag),
            Request::Release { volume, tag } => self.delta_for_release(*volume, tag),
            Request::Resize { volume, size_bytes } => self.delta_for_resize(*volume, *size_bytes),
            Request::Rename { volume, name } => self.delta_for_rename(*volume, name),
            Request::SetProperties { volume, change } => self.delta_for_properties(*volume, change),
            Request::Rollback { volume, snapshot } => self.delta_for_rollback(*volume, *snapshot),
            Request::Configure { settings } => self.delta_for_configure(settings),
            _ => Err(Error::invalid("this request changes no volume")),
        }
    }

    /// The volume whose writes in flight `request` has to wait for. A rollback does: what a write has read of the old
    /// tree, to merge it with what it brings, must not get into the new one. And what arrives is written no more once it
    /// is a snapshot.
    pub(super) fn must_be_quiet(&self, request: &Request) -> Option<VolumeId> {
        let (Request::Rollback { volume, .. } | Request::FinishReceive { volume, .. }) = request else {
            return None;
        };
        let is_quiet = self.locks.range_is_free(*volume, VirtualBlock(0), VirtualBlock(LAST_KEY));
        (!is_quiet && !canary::broken(Canary::RollbackBesideWrites)).then_some(*volume)
    }

    /// The volumes that an applied `delta` has deleted, and that have to be taken down.
    pub(super) fn deleted_by(&self, delta: &Delta) -> Vec<VolumeId> {
        let of = |volume: &VolumeId| self.metadata.volumes.get(*volume);
        let is_going = |volume: &VolumeId| of(volume).is_some_and(|r| r.state == VolumeState::Deleting);
        let named: &[VolumeId] = match delta {
            Delta::Delete { volumes } => volumes,
            Delta::Update { volume, .. } => std::slice::from_ref(volume),
            Delta::Rollback { old, .. } => std::slice::from_ref(old),
            _ => &[],
        };
        named.iter().copied().filter(is_going).collect()
    }

    /// Metadata pages that the next two checkpoints may take more for the records that `delta` changes.
    pub(super) fn pages_for_records(&self, delta: &Delta) -> u64 {
        2 * match delta {
            // Each, and who inherits what it had.
            Delta::Delete { volumes } => 3 * volumes.len() as u64,
            Delta::Update { volume, name, .. } => {
                let record = self.metadata.volumes.get(*volume).filter(|record| record.name != *name);
                record.map_or(0, |record| 1 + self.metadata.volumes.snapshots_of(&record.name).count() as u64)
            }
            _ => 0,
        }
    }

    fn delta_for_delete(&self, volumes: &[VolumeId], deferred: bool) -> Result<Delta> {
        if volumes.is_empty() || volumes.len() > DELETIONS_MAX {
            return Err(Error::invalid(format!("one request deletes 1 to {DELETIONS_MAX} volumes")));
        }
        for (index, volume) in volumes.iter().enumerate() {
            let record = self.born(*volume)?;
            if volumes[..index].contains(volume) {
                return Err(Error::invalid("a volume is named twice").at(Place::Volume(*volume)));
            }
            let is_deferred = deferred && record.kind == VolumeKind::Snapshot;
            if let Some(tag) = record.holds.first().filter(|_| !is_deferred) {
                let message = format!("it is held by '{tag}'; release that first");
                return Err(Error::new(ErrorKind::Busy, message).at(Place::Volume(*volume)));
            }
            self.check_goes_with_snapshots(record, volumes)?;
        }
        Ok(Delta::Delete { volumes: volumes.to_vec() })
    }

    /// A snapshot without its volume would belong to the next volume of that name, whose snapshot it is not.
    fn check_goes_with_snapshots(&self, record: &VolumeRecord, volumes: &[VolumeId]) -> Result<()> {
        let snapshots = self.metadata.volumes.snapshots_of(&record.name);
        let stays = |id: &VolumeId| {
            let held = self.metadata.volumes.get(*id).is_some_and(|snapshot| !snapshot.holds.is_empty());
            held || !volumes.contains(id)
        };
        let names: Vec<String> =
            snapshots.filter(|(id, _)| stays(id)).map(|(_, name)| format!("'{name}'")).collect();
        if names.is_empty() {
            return Ok(());
        }
        let (named, more) = names.split_at(names.len().min(NAMED_MAX));
        let more = if more.is_empty() { String::new() } else { format!(" and {} more", more.len()) };
        let message = format!("it has snapshots: {}{more}; delete them first, or with it", named.join(", "));
        Err(Error::new(ErrorKind::Busy, message).at(Place::Volume(record.id)))
    }

    /// The settings of the pool stand in the record of the log's volume.
    fn delta_for_configure(&self, settings: &Settings) -> Result<Delta> {
        let Some(record) = self.metadata.volumes.get(LOG_VOLUME) else {
            return Err(Error::damaged("there is no record of it").at(Place::Volume(LOG_VOLUME)));
        };
        let properties = Properties { labels: settings.to_pairs(), ..record.properties.clone() };
        checked(VolumeRecord { properties, ..record.clone() })
    }

    fn delta_for_hold(&self, volume: VolumeId, tag: &str) -> Result<Delta> {
        let record = self.born(volume)?;
        check_tag(tag)?;
        if record.holds.iter().any(|held| held == tag) {
            let message = format!("'{tag}' holds it already");
            return Err(Error::new(ErrorKind::Exists, message).at(Place::Volume(volume)));
        }
        if record.holds.len() == HOLDS_MAX {
            let message = format!("it has {HOLDS_MAX} holds");
            return Err(Error::new(ErrorKind::Limit, message).at(Place::Volume(volume)));
        }
        let holds = record.holds.iter().cloned().chain([tag.to_owned()]).collect();
        checked(VolumeRecord { holds, ..record.clone() })
    }

    fn delta_for_release(&self, volume: VolumeId, tag: &str) -> Result<Delta> {
        let record = self.born(volume)?;
        if !record.holds.iter().any(|held| held == tag) {
            let message = format!("'{tag}' does not hold it");
            return Err(Error::new(ErrorKind::NotFound, message).at(Place::Volume(volume)));
        }
        let holds = record.holds.iter().filter(|held| *held != tag).cloned().collect();
        checked(VolumeRecord { holds, ..record.clone() })
    }

    /// The record of a volume that may get another size or other mappings.
    pub(super) fn changeable(&self, volume: VolumeId) -> Result<&VolumeRecord> {
        let record = self.born(volume)?;
        if record.kind != VolumeKind::Volume {
            let message = "a snapshot stays as it is; clone it, and change the clone";
            return Err(Error::invalid(message).at(Place::Volume(volume)));
        }
        self.check_not_shrinking(volume)?;
        Ok(record)
    }

    fn delta_for_resize(&self, volume: VolumeId, size_bytes: u64) -> Result<Delta> {
        check_size(size_bytes)?;
        checked(VolumeRecord { size_bytes, ..self.changeable(volume)?.clone() })
    }

    fn delta_for_properties(&self, volume: VolumeId, change: &PropertiesChange) -> Result<Delta> {
        let record = self.changeable(volume)?;
        let mut properties = record.properties.clone();
        if let Some(reservation_bytes) = change.reservation_bytes {
            check_reservation(reservation_bytes, record.size_bytes)
                .map_err(|error| error.at(Place::Volume(volume)))?;
            properties.reservation_bytes = reservation_bytes;
        }
        properties.limit_iops = change.limit_iops.unwrap_or(properties.limit_iops);
        properties.limit_bytes_per_s = change.limit_bytes_per_s.unwrap_or(properties.limit_bytes_per_s);
        properties.limit_in_flight = change.limit_in_flight.unwrap_or(properties.limit_in_flight);
        if let Some(policy) = change.no_space {
            properties.set_no_space(policy);
        }
        for (name, value) in &change.labels {
            let is_text = |text: &str| text.len() <= LABEL_BYTES_MAX && !text.chars().any(char::is_control);
            if name.is_empty() || !is_text(name) || !value.as_deref().is_none_or(is_text) {
                let message = "a label has a name of 1 to 64 bytes and a value of at most 64, without control characters";
                return Err(Error::invalid(message).at(Place::Volume(volume)));
            }
            properties.labels.retain(|(other, _)| other != name);
            properties.labels.extend(value.iter().map(|value| (name.clone(), value.clone())));
        }
        checked(VolumeRecord { properties, ..record.clone() })
    }

    fn delta_for_rename(&self, volume: VolumeId, name: &str) -> Result<Delta> {
        let record = self.born(volume)?;
        check_name(record.kind, name)?;
        if record.kind == VolumeKind::Snapshot && family(name) != family(&record.name) {
            let message = format!("a snapshot stays with its volume: '{}@…'", family(&record.name));
            return Err(Error::invalid(message).at(Place::Volume(volume)));
        }
        if record.name != name {
            self.check_new_names(volume, name)?;
        }
        checked(VolumeRecord { name: name.to_owned(), ..record.clone() })
    }

    /// Whether `volume` and its snapshots may be called by `name`.
    fn check_new_names(&self, volume: VolumeId, name: &str) -> Result<()> {
        for (id, new) in self.metadata.volumes.renamed(volume, name)? {
            let record = self.born(id)?;
            if self.metadata.volumes.find(&new).is_some() {
                return Err(name_is_taken(&new));
            }
            VolumeRecord { name: new, ..record.clone() }.check().map_err(|e| e.at(Place::Volume(id)))?;
        }
        Ok(())
    }

    /// Any snapshot that bears the volume's name will do: that is what people call its snapshots. Where it came from does
    /// not matter to the trees.
    fn delta_for_rollback(&self, volume: VolumeId, snapshot: VolumeId) -> Result<Delta> {
        let record = self.changeable(volume)?;
        let target = self.born(snapshot)?;
        if target.kind != VolumeKind::Snapshot || family(&target.name) != record.name {
            let message = format!("'{}' is no snapshot of '{}'; clone it instead", target.name, record.name);
            return Err(Error::invalid(message).at(Place::Volume(volume)));
        }
        Ok(Delta::Rollback { volume, snapshot, old: self.metadata.next_volume })
    }
}

/// The delta that makes a record what `record` is, if that can be stored.
fn checked(record: VolumeRecord) -> Result<Delta> {
    record.check().map_err(|error| error.at(Place::Volume(record.id)))?;
    Ok(update(&record))
}

/// The delta that makes a record what `record` is.
pub(super) fn update(record: &VolumeRecord) -> Delta {
    Delta::Update {
        volume: record.id,
        name: record.name.clone(),
        size_bytes: record.size_bytes,
        holds: record.holds.clone(),
        properties: record.properties.clone(),
        deletion_deferred: record.deletion_deferred,
    }
}
