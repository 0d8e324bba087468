//! Requests that change volumes as a whole: each is decided in one turn, so each is one cut (hazard 1).
//!
//! Owns the way of such a request, the checks before something is made, frozen or cloned, and what a snapshot waits for
//! before it is answered: its record, the writes decided before the cut, and a sync after both. What is there already
//! is changed by `change.rs`, and made smaller by `shrink.rs`.

use super::commit::Commit;
use super::room::Room;
use super::{Core, Key, Task, Then};
use crate::canary::{self, Canary};
use crate::error::{Error, ErrorKind, Place, Result};
use crate::format::{Delta, VolumeKind, VolumeRecord, check_name};
use crate::metadata::tree::LAST_KEY;
use crate::metadata::{LOG_VOLUME, Metadata, name_is_taken};
use crate::request::{NewVolume, Outcome, Request};
use crate::settings::Settings;
use crate::storage::Ticket;
use crate::units::{BLOCK_BYTES, SECTOR_BYTES, VirtualBlock, VolumeId};

/// The largest volume, in bytes.
pub(super) const VOLUME_BYTES_MAX: u64 = BLOCK_BYTES << 40;
/// Volumes that one cut freezes at most; its delta has to fit into one record.
const CUTS_MAX: usize = 64;

/// A change of volumes that waits for room.
pub struct ControlTask {
    pub key: Key,
    pub request: Request,
}

impl Core {
    pub(super) fn control(&mut self, task: ControlTask) {
        if let Some(volume) = self.must_be_quiet(&task.request) {
            let (first, last) = (VirtualBlock(0), VirtualBlock(LAST_KEY));
            return self.locks.wait_for_range(volume, first, last, Task::Control(task));
        }
        if let Some(shrink) = self.as_shrink(task.key, &task.request) {
            return self.start_shrink(shrink);
        }
        let (delta, made) = match self.delta_for(&task.request) {
            Ok(prepared) => prepared,
            Err(error) => {
                self.end_trial(&task.request);
                return self.part_done(task.key, Err(error));
            }
        };
        if let Err(error) = delta.check() {
            return self.part_done(task.key, Err(error));
        }
        let Some(task) = self.reserve_for(task, &delta) else { return };
        let bytes = delta.encoded_bytes();
        let metadata_pages = self.pages_for_records(&delta);
        let needed = Room { log_pages: Commit::pages_for(bytes), metadata_pages, unproven_bytes: 0 };
        if needed.log_pages > self.commit.ring.pages() / 4 {
            let error =
                Error::new(ErrorKind::Limit, "the log of this pool is too small for so many volumes at once");
            return self.part_done(task.key, Err(error));
        }
        // What makes nothing goes on where metadata is short: it may be what makes room.
        if !(if made.is_empty() { self.admit_unmap(needed) } else { self.admit(needed) }) {
            return self.wait_for_room(Task::Control(task));
        }
        match self.apply(&delta) {
            Ok(()) => self.control_applied(task.key, needed, delta, made),
            Err(fault) => {
                self.withdraw(needed);
                self.put_off(fault, Task::Control(task));
            }
        }
    }

    fn control_applied(&mut self, key: Key, needed: Room, delta: Delta, made: Vec<VolumeId>) {
        self.settle(Room { log_pages: 0, ..needed });
        self.unborn.extend(&made);
        if matches!(delta, Delta::Snapshot { .. } | Delta::Arrive { .. }) {
            self.await_writes_before_cut(key);
        }
        if delta.volume() == Some(LOG_VOLUME) {
            self.settings = settings_of(&self.metadata);
            self.room.changed = true;
        }
        let deleted = self.deleted_by(&delta);
        self.limits_follow(&delta);
        if let Some(partial) = made.first().and_then(|made| self.partial_info(*made)) {
            self.set_outcome(key, Outcome::Receiving(partial));
        } else if !made.is_empty() {
            self.set_outcome(key, Outcome::Created(made.clone()));
        }
        if canary::broken(Canary::SnapshotBeforeDurable) && matches!(delta, Delta::Snapshot { .. }) {
            self.append(delta, Then::Nothing);
            return self.answer(key);
        }
        self.append(delta, Then::Part(key));
        for volume in deleted {
            let task = self.deletion(volume);
            self.ready.push_back(Task::Unmap(task));
        }
    }

    /// Writes decided before the cut may be under way in blocks that are shared now: they must have completed
    /// before anybody is told of the snapshot.
    fn await_writes_before_cut(&mut self, key: Key) {
        if self.data_writes.is_empty() {
            return;
        }
        if let Some(request) = self.requests.get_mut(&key) {
            request.parts += 1;
        }
        self.barriers.push((Ticket(self.next_ticket), key));
    }

    /// Some data writes have completed: snapshots whose cut they preceded may go on.
    pub(super) fn check_barriers(&mut self) {
        let oldest = self.data_writes.first().copied();
        let passed = |limit: Ticket| oldest.is_none_or(|ticket| ticket >= limit);
        let (done, waiting) =
            std::mem::take(&mut self.barriers).into_iter().partition(|(limit, _)| passed(*limit));
        self.barriers = waiting;
        let done: Vec<(Ticket, Key)> = done;
        done.into_iter().for_each(|(_, key)| self.part_done(key, Ok(())));
    }

    /// The delta of a request, checked so that applying it cannot fail, and the volumes that it makes.
    fn delta_for(&self, request: &Request) -> Result<(Delta, Vec<VolumeId>)> {
        match request {
            Request::CreateVolume { new, size_bytes, reservation_bytes } => {
                self.delta_for_create(new, *size_bytes, *reservation_bytes)
            }
            Request::Snapshot { cuts } => self.delta_for_snapshot(cuts),
            Request::Clone { snapshot, new } => self.delta_for_clone(*snapshot, new),
            Request::AbortReceive { volume } => {
                let volumes = vec![self.partial(*volume)?.id];
                Ok((Delta::Delete { volumes }, Vec::new()))
            }
            Request::StartReceive { arrival } => self.delta_for_start_receive(arrival),
            Request::ReceiveProgress { volume, position_bytes } => {
                self.delta_for_progress(*volume, *position_bytes)
            }
            Request::FinishReceive { volume, name, size_bytes } => {
                self.delta_for_finish(*volume, name, *size_bytes)
            }
            other => Ok((self.delta_for_change(other)?, Vec::new())),
        }
    }

    /// The record of a volume that has been answered.
    pub(super) fn born(&self, volume: VolumeId) -> Result<&VolumeRecord> {
        if self.unborn.contains(&volume) {
            return Err(Error::new(ErrorKind::Busy, "it is still being made").at(Place::Volume(volume)));
        }
        let record = self.metadata.volumes.active(volume)?;
        if record.kind == VolumeKind::Partial {
            return Err(
                Error::new(ErrorKind::NotFound, "it has arrived in part only").at(Place::Volume(volume))
            );
        }
        Ok(record)
    }

    fn delta_for_create(
        &self,
        new: &NewVolume,
        size_bytes: u64,
        reservation_bytes: u64,
    ) -> Result<(Delta, Vec<VolumeId>)> {
        check_size(size_bytes)?;
        check_reservation(reservation_bytes, size_bytes)?;
        let id = self.metadata.next_volume;
        let mut record = VolumeRecord { size_bytes, ..self.new_record(id, VolumeKind::Volume, new)? };
        record.properties.reservation_bytes = reservation_bytes;
        Ok((Delta::Create { record }, vec![id]))
    }

    pub(super) fn new_record(&self, id: VolumeId, kind: VolumeKind, new: &NewVolume) -> Result<VolumeRecord> {
        check_name(kind, &new.name)?;
        if self.metadata.volumes.find(&new.name).is_some() {
            return Err(name_is_taken(&new.name));
        }
        Ok(VolumeRecord {
            id,
            uuid: new.uuid,
            name: new.name.clone(),
            kind,
            created_unix_s: new.created_unix_s,
            generation_of_birth: self.metadata.forest.building,
            ..VolumeRecord::new_volume(0)
        })
    }

    fn delta_for_snapshot(&self, cuts: &[(VolumeId, NewVolume)]) -> Result<(Delta, Vec<VolumeId>)> {
        if cuts.is_empty() || cuts.len() > CUTS_MAX {
            return Err(Error::invalid(format!("one cut freezes 1 to {CUTS_MAX} volumes")));
        }
        let mut records = Vec::with_capacity(cuts.len());
        for (index, (source, new)) in cuts.iter().enumerate() {
            let origin = self.born(*source)?;
            self.check_not_shrinking(*source)?;
            if family(&new.name) != family(&origin.name) {
                let message = format!("a snapshot of '{}' is called '{0}@…'", family(&origin.name));
                return Err(Error::invalid(message).at(Place::Volume(*source)));
            }
            if cuts[..index].iter().any(|(_, other)| other.name == new.name) {
                return Err(Error::new(ErrorKind::Exists, format!("the name '{}' is given twice", new.name)));
            }
            let id = VolumeId(self.metadata.next_volume.0 + index as u64);
            let record = self.new_record(id, VolumeKind::Snapshot, new)?;
            records.push((
                *source,
                VolumeRecord {
                    origin: Some(*source),
                    size_bytes: origin.size_bytes,
                    properties: origin.properties.inherited(),
                    ..record
                },
            ));
        }
        let made = records.iter().map(|(_, record)| record.id).collect();
        Ok((Delta::Snapshot { cuts: records }, made))
    }

    fn delta_for_clone(&self, snapshot: VolumeId, new: &NewVolume) -> Result<(Delta, Vec<VolumeId>)> {
        let origin = self.born(snapshot)?;
        if origin.kind != VolumeKind::Snapshot {
            return Err(
                Error::invalid("a clone starts from a snapshot; take one first").at(Place::Volume(snapshot))
            );
        }
        let id = self.metadata.next_volume;
        let record = self.new_record(id, VolumeKind::Volume, new)?;
        let record = VolumeRecord {
            origin: Some(snapshot),
            size_bytes: origin.size_bytes,
            properties: origin.properties.inherited(),
            ..record
        };
        Ok((Delta::Snapshot { cuts: vec![(snapshot, record)] }, vec![id]))
    }
}

/// What the pool does about space: set on the log's volume.
pub(super) fn settings_of(metadata: &Metadata) -> Settings {
    let log = metadata.volumes.get(LOG_VOLUME);
    log.map_or_else(Settings::default, |record| Settings::from_pairs(&record.properties.labels))
}

/// A volume can have no more than it can map.
pub fn check_reservation(reservation_bytes: u64, size_bytes: u64) -> Result<()> {
    if reservation_bytes > size_bytes {
        return Err(Error::invalid(format!(
            "a reservation is at most the volume's size, {size_bytes} bytes"
        )));
    }
    Ok(())
}

/// Whether a volume may be as large.
pub(super) fn check_size(size_bytes: u64) -> Result<()> {
    if size_bytes == 0 || !size_bytes.is_multiple_of(SECTOR_BYTES) || size_bytes > VOLUME_BYTES_MAX {
        return Err(Error::invalid("a volume's size is a multiple of 4 KiB, more than 0 and at most 64 PiB"));
    }
    Ok(())
}

/// The volume that a name belongs to: what stands before the `@` of a snapshot's.
pub(super) fn family(name: &str) -> &str {
    name.split('@').next().unwrap_or(name)
}
