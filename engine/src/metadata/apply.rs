//! What each delta does to the state, the same at run time and in recovery.
//!
//! Owns the meaning of deltas; their bytes are `format/delta.rs`, their order is `data_path/commit.rs`.
//! A delta that meets a missing page changes nothing and can be applied again.

use super::{Fault, Metadata};
use crate::error::{Error, Place};
use crate::format::{Delta, VolumeRecord, VolumeState};
use crate::units::{Generation, VirtualBlock, VolumeId};

impl Metadata {
    /// Applies `delta`. What it freed or made exclusive stands in the forest's events.
    pub fn apply(&mut self, delta: &Delta) -> Result<(), Fault> {
        match delta {
            Delta::Publish { volume, virtual_block, data_block, sectors, .. } => {
                let root = &mut self.volumes.change(*volume)?.root;
                self.forest.publish(*volume, root, *virtual_block, *data_block, *sectors)
            }
            Delta::Clear { volume, virtual_block, sectors } => {
                let root = &mut self.volumes.change(*volume)?.root;
                self.forest.clear(*volume, root, *virtual_block, *sectors)
            }
            Delta::Unmap { volume, first, last } => self.unmap(*volume, *first, *last),
            Delta::Create { record } => self.add_volume(record.clone()),
            Delta::Snapshot { cuts } => self.snapshot(cuts),
            Delta::Update { volume, name, size_bytes, holds, properties, deletion_deferred } => {
                self.volumes.rename(*volume, name)?;
                let record = self.volumes.change(*volume)?;
                record.size_bytes = *size_bytes;
                record.holds.clone_from(holds);
                record.properties = properties.clone();
                record.deletion_deferred = *deletion_deferred;
                // The last hold was released: what waited for it happens in the same step.
                if *deletion_deferred && holds.is_empty() { self.delete(*volume) } else { Ok(()) }
            }
            Delta::Delete { volumes } => volumes.iter().try_for_each(|volume| self.delete(*volume)),
            Delta::Rollback { volume, snapshot, old } => self.roll_back(*volume, *snapshot, *old),
            Delta::Forget { volume } => Ok(self.volumes.forget(*volume)?),
            Delta::Receive { volume, position_bytes } => {
                if let Some(received) = &mut self.volumes.change(*volume)?.received {
                    received.position_bytes = *position_bytes;
                }
                Ok(())
            }
            Delta::Arrive { volume, name, size_bytes, generation } => {
                let record = self.volumes.arrive(*volume, name)?;
                record.size_bytes = *size_bytes;
                record.generation_of_birth = *generation;
                // While it arrived it was no state of anything.
                record.in_place_since = *generation;
                Ok(())
            }
        }
    }

    fn unmap(&mut self, volume: VolumeId, first: VirtualBlock, last: VirtualBlock) -> Result<(), Fault> {
        let root = &mut self.volumes.change(volume)?.root;
        self.forest.unmap(volume, root, first, last)?;
        Ok(())
    }

    fn add_volume(&mut self, record: VolumeRecord) -> Result<(), Fault> {
        if record.id < self.next_volume {
            return Err(Error::damaged("a new volume has a number that was given out before")
                .at(Place::Volume(record.id))
                .into());
        }
        self.next_volume = VolumeId(record.id.0 + 1);
        Ok(self.volumes.insert(record)?)
    }

    /// The tree of `volume` becomes that of `snapshot`. What it had goes to the new record `old`, which is taken down as
    /// every deleted volume is: whatever that frees or makes exclusive waits for its proof (L4).
    fn roll_back(&mut self, volume: VolumeId, snapshot: VolumeId, old: VolumeId) -> Result<(), Fault> {
        let VolumeRecord { root, size_bytes, .. } = *self.volumes.active(snapshot)?;
        let before = self.volumes.active(volume)?.clone();
        self.add_volume(VolumeRecord {
            id: old,
            state: VolumeState::Deleting,
            holds: Vec::new(),
            deletion_deferred: false,
            ..before
        })?;
        self.forest.share(&root);
        let record = self.volumes.change(volume)?;
        record.root = root;
        record.size_bytes = size_bytes;
        self.end_of_history(volume)
    }

    fn snapshot(&mut self, cuts: &[(VolumeId, VolumeRecord)]) -> Result<(), Fault> {
        for (source, record) in cuts {
            let source = self.volumes.active(*source)?;
            let root = source.root;
            // A clone is no state of the volume whose snapshot it starts as: it can be told what changed in it, not
            // what changed since another state of that volume.
            let of_clone = if record.is_writable() { record.generation_of_birth } else { Generation(0) };
            let in_place_since = source.in_place_since.max(of_clone);
            self.add_volume(VolumeRecord { root, in_place_since, ..record.clone() })?;
            self.forest.share(&root);
        }
        Ok(())
    }

    /// Deletes a volume, or notes that it is to go with its last hold. Whoever may become the only owner of what the
    /// deleted one had may overwrite it in place from now on.
    fn delete(&mut self, deleted: VolumeId) -> Result<(), Fault> {
        if !self.volumes.delete(deleted)? {
            return Ok(());
        }
        let origin = self.volumes.get(deleted).and_then(|record| record.origin);
        let is_heir = |record: &&VolumeRecord| {
            record.is_writable() && (Some(record.id) == origin || record.origin == Some(deleted))
        };
        let heirs: Vec<VolumeId> = self.volumes.iter().filter(is_heir).map(|record| record.id).collect();
        heirs.into_iter().try_for_each(|heir| self.end_of_history(heir))
    }

    /// From now on nobody can be told what changed in `volume` since a checkpoint up to this one. For whatever makes
    /// it something else than its pages say: blocks overwritten in place behind a deleted snapshot, another tree.
    pub(super) fn end_of_history(&mut self, volume: VolumeId) -> Result<(), Fault> {
        self.volumes.change(volume)?.in_place_since = self.forest.building;
        Ok(())
    }
}
