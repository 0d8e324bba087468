//! Snapshots that go to another pool, and those that arrive from one.
//!
//! Owns the life of a *partial* volume: made, written like any volume but by its number only, and made a snapshot in
//! one step when all of it has arrived. What a stream says is `format/stream.rs`'s, the way of its bytes `transfer/`'s.

use super::control::{VOLUME_BYTES_MAX, family};
use super::{Core, Key, Task, control};
use crate::error::{Error, ErrorKind, Place, Result};
use crate::format::{Delta, Properties, Received, VolumeKind, VolumeRecord, check_name, uuid_text};
use crate::request::{
    Arrival, Base, NewVolume, Outcome, PICTURE_GENERATION, Partial, Request, Source, StreamBase,
};
use crate::units::{SECTOR_BYTES, VolumeId};

impl Core {
    /// Says what a stream has to say of a snapshot, if there can be one from this base.
    pub(super) fn describe(&mut self, key: Key, snapshot: VolumeId, base: Base) -> Result<()> {
        if self.check_range(snapshot, 0, 0)? != VolumeKind::Snapshot {
            return Err(
                Error::invalid("only a snapshot can be sent; take one first").at(Place::Volume(snapshot))
            );
        }
        let record = self.metadata.volumes.active(snapshot)?;
        self.check_base(base, record)?;
        let base = match base {
            Base::Nothing => StreamBase::Whole,
            Base::Generation(since) => StreamBase::Since(since),
            Base::Volume(volume) => {
                let base = self.metadata.volumes.active(volume)?;
                if base.kind != VolumeKind::Snapshot {
                    let error = Error::invalid("a stream starts from a snapshot: a volume goes on changing");
                    return Err(error.at(Place::Volume(volume)));
                }
                StreamBase::Snapshot(base.uuid)
            }
        };
        let arrival = Arrival {
            new: NewVolume {
                name: record.name.clone(),
                uuid: record.uuid,
                created_unix_s: record.created_unix_s,
            },
            size_bytes: record.size_bytes,
            source: self.source_of(record),
            base,
            position_bytes: 0,
            properties: record.properties.encode().into(),
        };
        self.set_outcome(key, Outcome::Snapshot(Box::new(arrival)));
        Ok(())
    }

    fn source_of(&self, record: &VolumeRecord) -> Source {
        // What a picture holds is no state of its volume at the time of its birth.
        let volume = self.shown_by(record).or(record.origin).unwrap_or(record.id);
        Source { pool: self.metadata.superblock.pool, volume, generation: record.generation_of_birth }
    }

    /// The snapshot that a picture shows, finished or not; none if it is no picture.
    pub(super) fn shown_by(&self, record: &VolumeRecord) -> Option<VolumeId> {
        let source = record.received.as_deref()?.source;
        self.is_of_picture(&source).then_some(source.volume)
    }

    fn is_of_picture(&self, source: &Source) -> bool {
        source.pool == self.metadata.superblock.pool && source.generation == PICTURE_GENERATION
    }

    /// All that has arrived in part, by number.
    pub(super) fn partials(&self) -> Vec<Partial> {
        self.metadata.volumes.iter().filter_map(|record| self.partial_info(record.id)).collect()
    }

    pub(super) fn partial_info(&self, volume: VolumeId) -> Option<Partial> {
        let record = self.metadata.volumes.get(volume).filter(|record| record.is_writable())?;
        let received = record.received.as_deref().filter(|_| record.kind == VolumeKind::Partial)?;
        Some(Partial {
            volume,
            name: record.name.clone(),
            uuid: record.uuid,
            base: received.base,
            position_bytes: received.position_bytes,
            size_bytes: record.size_bytes,
            is_resumed: false,
            is_picture: self.is_of_picture(&received.source),
        })
    }

    /// The record of a partial volume.
    pub(super) fn partial(&self, volume: VolumeId) -> Result<&VolumeRecord> {
        let record = self.metadata.volumes.active(volume)?;
        match record.kind {
            VolumeKind::Partial if !self.unborn.contains(&volume) => Ok(record),
            _ => {
                Err(Error::new(ErrorKind::NotFound, "nothing is being received there")
                    .at(Place::Volume(volume)))
            }
        }
    }

    /// Goes on with the partial volume that is there, or has one made.
    pub(super) fn start_receive(&mut self, key: Key, arrival: Box<Arrival>) -> Result<()> {
        let there = self.partials().into_iter().find(|partial| partial.uuid == arrival.new.uuid);
        let Some(partial) = there else {
            self.set_durable(key, true);
            let request = Request::StartReceive { arrival };
            self.start_part(key, Task::Control(control::ControlTask { key, request }));
            return Ok(());
        };
        let source = self.partial(partial.volume)?.received.as_deref().map(|received| received.source);
        if source != Some(arrival.source) || partial.base != arrival.base {
            return Err(mismatch("this snapshot is being received by another stream, from another base"));
        }
        if arrival.position_bytes > partial.position_bytes {
            return Err(mismatch("the stream begins behind what has arrived"));
        }
        let (volume, position_bytes) = (partial.volume, arrival.position_bytes);
        if position_bytes < partial.position_bytes {
            // What is written over has not arrived any more, also if this stream breaks off.
            self.set_durable(key, true);
            let request = Request::ReceiveProgress { volume, position_bytes };
            self.start_part(key, Task::Control(control::ControlTask { key, request }));
        }
        self.set_outcome(key, Outcome::Receiving(Partial { is_resumed: true, position_bytes, ..partial }));
        Ok(())
    }

    pub(super) fn delta_for_start_receive(&self, arrival: &Arrival) -> Result<(Delta, Vec<VolumeId>)> {
        let Arrival { new, size_bytes, source, base, position_bytes, .. } = arrival;
        check_size(*size_bytes)?;
        check_name(VolumeKind::Snapshot, &new.name)?;
        let is_same =
            |record: &&VolumeRecord| record.uuid == new.uuid && record.is_writable() | record.has_name();
        if let Some(there) = self.metadata.volumes.iter().find(is_same) {
            let message = format!("this snapshot is here already, as '{}'", there.name);
            return Err(Error::new(ErrorKind::Exists, message));
        }
        if *position_bytes > 0 {
            return Err(mismatch("the stream goes on with something that is not here; send all of it"));
        }
        let id = self.metadata.next_volume;
        let record = VolumeRecord {
            size_bytes: *size_bytes,
            // A reservation of the sender is no promise of this pool.
            properties: Properties::decode(&arrival.properties)?.inherited(),
            received: Some(Box::new(Received { source: *source, base: *base, position_bytes: 0 })),
            ..self.new_record(id, VolumeKind::Partial, new)?
        };
        let Some(base) = self.base_of(arrival)? else { return Ok((Delta::Create { record }, vec![id])) };
        let is_picture = self.is_of_picture(source);
        if is_picture && family(&new.name) != family(&base.name) {
            let message = format!("a picture of '{}' is called '{}@…'", base.name, family(&base.name));
            return Err(Error::invalid(message).at(Place::Volume(base.id)));
        }
        let record = VolumeRecord {
            // A picture shares with the volume as the snapshot does, also when that is gone.
            origin: if is_picture { base.origin } else { Some(base.id) },
            // Until it has arrived nothing of the base is cut off.
            size_bytes: record.size_bytes.max(base.size_bytes),
            ..record
        };
        Ok((Delta::Snapshot { cuts: vec![(base.id, record)] }, vec![id]))
    }

    /// The snapshot of this pool that a stream starts from.
    fn base_of(&self, arrival: &Arrival) -> Result<Option<&VolumeRecord>> {
        let snapshots = || {
            let is_snapshot =
                |record: &&VolumeRecord| record.kind == VolumeKind::Snapshot && record.has_name();
            self.metadata.volumes.iter().filter(is_snapshot)
        };
        let (found, what) = match arrival.base {
            StreamBase::Whole => return Ok(None),
            StreamBase::Snapshot(uuid) => {
                (snapshots().find(|record| record.uuid == uuid), uuid_text(&uuid).to_string())
            }
            StreamBase::Since(generation) => {
                let source = Source { generation, ..arrival.source };
                let is_base = |record: &&VolumeRecord| {
                    record
                        .received
                        .as_deref()
                        .map_or_else(|| self.source_of(record), |received| received.source)
                        == source
                };
                (snapshots().find(is_base), format!("of generation {generation}"))
            }
        };
        let found = found.filter(|record| !self.unborn.contains(&record.id)).ok_or_else(|| {
            let message =
                format!("the snapshot that the stream starts from ({what}) is not here; receive it first");
            Error::new(ErrorKind::NotFound, message)
        });
        found.map(Some)
    }

    pub(super) fn delta_for_progress(
        &self,
        volume: VolumeId,
        position_bytes: u64,
    ) -> Result<(Delta, Vec<VolumeId>)> {
        self.partial(volume)?;
        Ok((Delta::Receive { volume, position_bytes }, Vec::new()))
    }

    pub(super) fn delta_for_finish(
        &self,
        volume: VolumeId,
        name: &str,
        size_bytes: u64,
    ) -> Result<(Delta, Vec<VolumeId>)> {
        let record = self.partial(volume)?;
        check_size(size_bytes)?;
        if size_bytes > record.size_bytes {
            return Err(Error::invalid("it is larger than what was announced").at(Place::Volume(volume)));
        }
        check_name(VolumeKind::Snapshot, name)?;
        self.check_family(record, name)?;
        if self.metadata.volumes.find(name).is_some() {
            return Err(Error::new(ErrorKind::Exists, format!("the name '{name}' is taken")));
        }
        let generation = self.metadata.forest.building;
        Ok((Delta::Arrive { volume, name: name.to_owned(), size_bytes, generation }, vec![volume]))
    }

    /// A picture is called as a snapshot of its volume, whatever that is called by now.
    fn check_family(&self, record: &VolumeRecord, name: &str) -> Result<()> {
        if self.shown_by(record).is_none() {
            return Ok(());
        }
        let volume = record.origin.and_then(|origin| self.metadata.volumes.get(origin));
        let own = family(&volume.filter(|volume| volume.has_name()).unwrap_or(record).name);
        if family(name) == own {
            return Ok(());
        }
        let message = format!("a picture of a snapshot of '{own}' is called '{own}@…'");
        Err(Error::invalid(message).at(Place::Volume(record.id)))
    }
}

fn check_size(size_bytes: u64) -> Result<()> {
    if size_bytes == 0 || !size_bytes.is_multiple_of(SECTOR_BYTES) || size_bytes > VOLUME_BYTES_MAX {
        return Err(Error::invalid(
            "a snapshot's size is a multiple of 4 KiB, more than 0 and at most 64 PiB",
        ));
    }
    Ok(())
}

fn mismatch(message: &'static str) -> Error {
    Error::new(ErrorKind::Mismatch, message)
}
