//! What each delta does to the state, the same at run time and in recovery.
//!
//! Owns the meaning of deltas; their bytes are `format/delta.rs`, their order is `data_path/commit.rs`.
//! A delta that meets a missing page changes nothing and can be applied again.

use super::{Fault, Metadata};
use crate::error::{Error, Place};
use crate::format::{Delta, VolumeRecord};
use crate::units::{VirtualBlock, VolumeId};

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
                Ok(())
            }
            Delta::Delete { volumes } => {
                volumes.iter().try_for_each(|volume| self.volumes.mark_deleting(*volume)).map_err(Fault::from)
            }
            Delta::Forget { volume } => Ok(self.volumes.forget(*volume)?),
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

    fn snapshot(&mut self, cuts: &[(VolumeId, VolumeRecord)]) -> Result<(), Fault> {
        for (source, record) in cuts {
            let root = self.volumes.active(*source)?.root;
            self.add_volume(VolumeRecord { root, ..record.clone() })?;
            self.forest.share(&root);
        }
        Ok(())
    }
}
