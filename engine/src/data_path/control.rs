//! Volumes and snapshots: made, frozen, cloned, held, deleted. Each in one turn, so each is one cut (hazard 1).
//!
//! Owns the checks that make a delta valid before it is applied, and what a snapshot waits for before it is
//! answered: its record, the writes decided before the cut, and a sync after both.

use super::commit::Commit;
use super::room::Room;
use super::{Core, Key, Task, Then};
use crate::canary::{self, Canary};
use crate::error::{Error, ErrorKind, Place, Result};
use crate::format::{Delta, Properties, VolumeKind, VolumeRecord, VolumeState, check_name};
use crate::request::{NewVolume, Outcome, Request};
use crate::storage::Ticket;
use crate::units::{BLOCK_BYTES, Generation, SECTOR_BYTES, VolumeId};

/// The largest volume, in bytes.
const VOLUME_BYTES_MAX: u64 = BLOCK_BYTES << 40;
/// Volumes that one cut freezes at most; its delta has to fit into one record.
const CUTS_MAX: usize = 64;
const HOLDS_MAX: usize = 16;
const TAG_BYTES_MAX: usize = 64;

/// A change of volumes that waits for room.
pub struct ControlTask {
    pub key: Key,
    pub request: Request,
}

impl Core {
    pub(super) fn control(&mut self, task: ControlTask) {
        let (delta, made) = match self.delta_for(&task.request) {
            Ok(prepared) => prepared,
            Err(error) => return self.part_done(task.key, Err(error)),
        };
        if let Err(error) = delta.check() {
            return self.part_done(task.key, Err(error));
        }
        let bytes = delta.encoded_bytes();
        let needed = Room { log_pages: Commit::pages_for(bytes), ..Room::default() };
        if needed.log_pages > self.commit.ring.pages() / 4 {
            let error =
                Error::new(ErrorKind::Limit, "the log of this pool is too small for so many volumes at once");
            return self.part_done(task.key, Err(error));
        }
        let frees = matches!(delta, Delta::Delete { .. });
        if !(if frees { self.admit_unmap(needed) } else { self.admit(needed) }) {
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
        if matches!(delta, Delta::Snapshot { .. }) {
            self.await_writes_before_cut(key);
        }
        let deleted = if let Delta::Delete { volumes } = &delta { volumes.clone() } else { Vec::new() };
        if !made.is_empty() {
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
            Request::CreateVolume { new, size_bytes } => self.delta_for_create(new, *size_bytes),
            Request::Snapshot { cuts } => self.delta_for_snapshot(cuts),
            Request::Clone { snapshot, new } => self.delta_for_clone(*snapshot, new),
            Request::Delete { volumes } => self.delta_for_delete(volumes),
            Request::Hold { volume, tag } => self.delta_for_hold(*volume, tag),
            Request::Release { volume, tag } => self.delta_for_release(*volume, tag),
            _ => Err(Error::invalid("this request changes no volume")),
        }
    }

    /// The record of a volume that has been answered.
    fn born(&self, volume: VolumeId) -> Result<&VolumeRecord> {
        if self.unborn.contains(&volume) {
            return Err(Error::new(ErrorKind::Busy, "it is still being made").at(Place::Volume(volume)));
        }
        self.metadata.volumes.active(volume)
    }

    fn delta_for_create(&self, new: &NewVolume, size_bytes: u64) -> Result<(Delta, Vec<VolumeId>)> {
        if size_bytes == 0 || !size_bytes.is_multiple_of(SECTOR_BYTES) || size_bytes > VOLUME_BYTES_MAX {
            return Err(Error::invalid(
                "a volume's size is a multiple of 4 KiB, more than 0 and at most 64 PiB",
            ));
        }
        let id = self.metadata.next_volume;
        let record = VolumeRecord { size_bytes, ..self.new_record(id, VolumeKind::Volume, new)? };
        Ok((Delta::Create { record }, vec![id]))
    }

    fn new_record(&self, id: VolumeId, kind: VolumeKind, new: &NewVolume) -> Result<VolumeRecord> {
        check_name(kind, &new.name)?;
        if self.metadata.volumes.find(&new.name).is_some() {
            return Err(Error::new(ErrorKind::Exists, format!("the name '{}' is taken", new.name)));
        }
        Ok(VolumeRecord {
            id,
            uuid: new.uuid,
            name: new.name.clone(),
            kind,
            state: VolumeState::Active,
            origin: None,
            size_bytes: 0,
            created_unix_s: new.created_unix_s,
            generation_of_birth: self.metadata.forest.building,
            root: None,
            holds: Vec::new(),
            properties: Properties::default(),
            key_slot: 0,
            in_place_since: Generation(0),
            deletion_deferred: false,
            unknown_tail: Vec::new(),
        })
    }

    fn delta_for_snapshot(&self, cuts: &[(VolumeId, NewVolume)]) -> Result<(Delta, Vec<VolumeId>)> {
        if cuts.is_empty() || cuts.len() > CUTS_MAX {
            return Err(Error::invalid(format!("one cut freezes 1 to {CUTS_MAX} volumes")));
        }
        let mut records = Vec::with_capacity(cuts.len());
        for (index, (source, new)) in cuts.iter().enumerate() {
            let origin = self.born(*source)?;
            if cuts[..index].iter().any(|(_, other)| other.name == new.name) {
                return Err(Error::new(ErrorKind::Exists, format!("the name '{}' is given twice", new.name)));
            }
            let id = VolumeId(self.metadata.next_volume.0 + index as u64);
            let record = self.new_record(id, VolumeKind::Snapshot, new)?;
            records.push((
                *source,
                VolumeRecord { origin: Some(*source), size_bytes: origin.size_bytes, ..record },
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
        let record = VolumeRecord { origin: Some(snapshot), size_bytes: origin.size_bytes, ..record };
        Ok((Delta::Snapshot { cuts: vec![(snapshot, record)] }, vec![id]))
    }

    fn delta_for_delete(&self, volumes: &[VolumeId]) -> Result<(Delta, Vec<VolumeId>)> {
        if volumes.is_empty() || volumes.len() > CUTS_MAX {
            return Err(Error::invalid(format!("one request deletes 1 to {CUTS_MAX} volumes")));
        }
        for (index, volume) in volumes.iter().enumerate() {
            let record = self.born(*volume)?;
            if volumes[..index].contains(volume) {
                return Err(Error::invalid("a volume is named twice").at(Place::Volume(*volume)));
            }
            if let Some(tag) = record.holds.first() {
                return Err(Error::new(
                    ErrorKind::Busy,
                    format!("it is held by '{tag}'; release that first"),
                )
                .at(Place::Volume(*volume)));
            }
        }
        Ok((Delta::Delete { volumes: volumes.to_vec() }, Vec::new()))
    }

    fn delta_for_hold(&self, volume: VolumeId, tag: &str) -> Result<(Delta, Vec<VolumeId>)> {
        let record = self.born(volume)?;
        if tag.is_empty() || tag.len() > TAG_BYTES_MAX || tag.chars().any(char::is_control) {
            return Err(Error::invalid("a tag has 1 to 64 bytes and no control characters"));
        }
        if record.holds.iter().any(|held| held == tag) {
            return Err(
                Error::new(ErrorKind::Exists, format!("'{tag}' holds it already")).at(Place::Volume(volume))
            );
        }
        if record.holds.len() == HOLDS_MAX {
            return Err(
                Error::new(ErrorKind::Limit, format!("it has {HOLDS_MAX} holds")).at(Place::Volume(volume))
            );
        }
        Ok((update(record, record.holds.iter().cloned().chain([tag.to_owned()]).collect()), Vec::new()))
    }

    fn delta_for_release(&self, volume: VolumeId, tag: &str) -> Result<(Delta, Vec<VolumeId>)> {
        let record = self.born(volume)?;
        if !record.holds.iter().any(|held| held == tag) {
            return Err(Error::new(ErrorKind::NotFound, format!("'{tag}' does not hold it"))
                .at(Place::Volume(volume)));
        }
        Ok((update(record, record.holds.iter().filter(|held| *held != tag).cloned().collect()), Vec::new()))
    }
}

fn update(record: &VolumeRecord, holds: Vec<String>) -> Delta {
    Delta::Update {
        volume: record.id,
        name: record.name.clone(),
        size_bytes: record.size_bytes,
        holds,
        properties: record.properties.clone(),
        deletion_deferred: record.deletion_deferred,
    }
}
