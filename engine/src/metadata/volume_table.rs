//! The volumes and snapshots of a pool, all in memory, and which of their pages have to be written.
//!
//! Owns names, numbers and records. Mappings live in the trees that the records point to (`tree/`).

use super::index_tree::{IndexTree, inner_pages};
use crate::error::{Error, ErrorKind, Place, Result};
use crate::format::{BODY_BYTES, VolumeKind, VolumeRecord, VolumeState};
use crate::units::VolumeId;
use std::collections::{BTreeMap, BTreeSet};

/// The hidden volume that maps the blocks of the log.
pub const LOG_VOLUME: VolumeId = VolumeId(0);

/// All volume records, by number and by name.
#[derive(Default)]
pub struct VolumeTable {
    records: BTreeMap<VolumeId, VolumeRecord>,
    /// In order, so that the snapshots of a volume, `volume@…`, stand side by side.
    names: BTreeMap<String, VolumeId>,
    dirty: BTreeSet<VolumeId>,
    /// The first number of each leaf, in order; the pointers stand in the tree.
    pub(super) tree: IndexTree,
}

impl VolumeTable {
    /// The record of `volume`, whatever its state.
    pub fn get(&self, volume: VolumeId) -> Option<&VolumeRecord> {
        self.records.get(&volume)
    }

    /// The record of `volume` if it is there for users, or for whoever receives it.
    pub fn active(&self, volume: VolumeId) -> Result<&VolumeRecord> {
        self.records
            .get(&volume)
            .filter(|r| r.state == VolumeState::Active && r.kind != VolumeKind::Hidden)
            .ok_or_else(|| {
                Error::new(ErrorKind::NotFound, "no such volume or snapshot").at(Place::Volume(volume))
            })
    }

    /// The record of `volume`, to be changed; it will be written by the next checkpoint.
    pub fn change(&mut self, volume: VolumeId) -> Result<&mut VolumeRecord> {
        self.dirty.insert(volume);
        self.records.get_mut(&volume).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "no such volume or snapshot").at(Place::Volume(volume))
        })
    }

    /// Adds a record. Name and number must be free.
    pub fn insert(&mut self, record: VolumeRecord) -> Result<()> {
        if self.records.contains_key(&record.id) {
            return Err(Error::damaged("two volumes have one number").at(Place::Volume(record.id)));
        }
        if record.has_name() {
            self.claim_name(&record.name, record.id)?;
        }
        self.dirty.insert(record.id);
        self.records.insert(record.id, record);
        Ok(())
    }

    fn claim_name(&mut self, name: &str, volume: VolumeId) -> Result<()> {
        if self.names.contains_key(name) {
            return Err(name_is_taken(name));
        }
        self.names.insert(name.to_owned(), volume);
        Ok(())
    }

    /// Gives `volume` another name, and its snapshots `volume@…` with it: all of them, or none.
    pub fn rename(&mut self, volume: VolumeId, name: &str) -> Result<()> {
        if self.get(volume).is_some_and(|record| record.name == name) {
            return Ok(());
        }
        let renamed = self.renamed(volume, name)?;
        if let Some((_, taken)) = renamed.iter().find(|(_, new)| self.names.contains_key(new)) {
            return Err(name_is_taken(taken));
        }
        for (id, new) in renamed {
            let record = self.change(id)?;
            let old = std::mem::replace(&mut record.name, new.clone());
            self.names.remove(&old);
            self.names.insert(new, id);
        }
        Ok(())
    }

    /// Whose name becomes which when `volume` is called `name`: its own, and those of its snapshots.
    pub fn renamed(&self, volume: VolumeId, name: &str) -> Result<Vec<(VolumeId, String)>> {
        let old = &self.active(volume)?.name;
        let snapshots = self.snapshots_of(old).map(|(id, own)| (id, format!("{name}{}", &own[old.len()..])));
        Ok(std::iter::once((volume, name.to_owned())).chain(snapshots).collect())
    }

    /// The snapshots of the volume called `name`, in order of their names.
    pub fn snapshots_of(&self, name: &str) -> impl Iterator<Item = (VolumeId, &str)> {
        let prefix = format!("{name}@");
        let from = self.names.range(prefix.clone()..);
        from.take_while(move |(own, _)| own.starts_with(&prefix)).map(|(own, id)| (*id, own.as_str()))
    }

    /// Deletes what no hold keeps; of what is held the deletion is deferred until the last hold is released. Whether it
    /// was deleted.
    pub fn delete(&mut self, volume: VolumeId) -> Result<bool> {
        self.active(volume)?;
        let record = self.change(volume)?;
        record.deletion_deferred = !record.holds.is_empty();
        let deleted = !record.deletion_deferred;
        if deleted {
            self.mark_deleting(volume)?;
        }
        Ok(deleted)
    }

    /// Makes `volume` invisible; its mappings are taken down by slices.
    fn mark_deleting(&mut self, volume: VolumeId) -> Result<()> {
        let record = self.active(volume)?;
        if record.has_name() {
            let name = record.name.clone();
            self.names.remove(&name);
        }
        self.change(volume)?.state = VolumeState::Deleting;
        Ok(())
    }

    /// Makes a snapshot of a partial volume.
    pub fn arrive(&mut self, volume: VolumeId, name: &str) -> Result<&mut VolumeRecord> {
        if self.active(volume)?.kind != VolumeKind::Partial {
            return Err(Error::damaged("a volume arrives that was not received").at(Place::Volume(volume)));
        }
        self.claim_name(name, volume)?;
        let record = self.change(volume)?;
        record.kind = VolumeKind::Snapshot;
        name.clone_into(&mut record.name);
        Ok(record)
    }

    /// Removes the record of a volume that was taken down.
    pub fn forget(&mut self, volume: VolumeId) -> Result<()> {
        match self.records.get(&volume) {
            Some(record) if record.state == VolumeState::Deleting && record.root.is_none() => {
                self.records.remove(&volume);
                self.dirty.insert(volume);
                Ok(())
            }
            _ => Err(Error::damaged("a volume is forgotten that is still in use").at(Place::Volume(volume))),
        }
    }

    /// Which volume or snapshot has this name.
    pub fn find(&self, name: &str) -> Option<VolumeId> {
        self.names.get(name).copied()
    }

    /// Fails with `Busy` if somebody outside of the pool knows where blocks are: then they stay there.
    pub fn check_no_pictures(&self) -> Result<()> {
        match self.iter().find(|record| record.has_name() && record.is_picture()) {
            None => Ok(()),
            Some(record) => {
                let message = format!(
                    "'{}' is a picture, whose blocks have to stay where they are: release it first",
                    record.name
                );
                Err(Error::new(ErrorKind::Busy, message))
            }
        }
    }

    /// All records, by number.
    pub fn iter(&self) -> impl Iterator<Item = &VolumeRecord> {
        self.records.values()
    }

    /// All records with changed trees allowed to change their roots, for sealing.
    pub(super) fn changed_mut(&mut self) -> impl Iterator<Item = &mut VolumeRecord> {
        let dirty = &self.dirty;
        self.records.values_mut().filter(|record| dirty.contains(&record.id))
    }

    /// The table of records read from disk; nothing of them has to be written.
    pub(super) fn loaded(tree: IndexTree, records: Vec<VolumeRecord>) -> Result<Self> {
        let mut table = Self { tree, ..Self::default() };
        for record in records {
            table.insert(record)?;
        }
        table.dirty.clear();
        Ok(table)
    }

    /// Pages that writing every leaf could take, some split.
    pub(super) fn pages_at_most(&self) -> usize {
        let leaves = 2 * self.tree.leaves.len() + self.dirty.len() + 4;
        leaves + inner_pages(leaves)
    }

    /// The leaves that have to be written, packed anew: for each changed leaf of the tree, its index and the
    /// leaves (none, one or several) that take its place. In descending order of index.
    pub(super) fn take_changed_leaves(&mut self) -> Vec<(usize, Vec<Vec<VolumeRecord>>)> {
        let dirty = std::mem::take(&mut self.dirty);
        let firsts: Vec<u64> = self.tree.leaves.iter().map(|leaf| leaf.first_key).collect();
        let changed: BTreeSet<usize> =
            dirty.iter().map(|id| firsts.partition_point(|first| *first <= id.0).saturating_sub(1)).collect();
        let mut result = Vec::new();
        for index in changed.into_iter().rev() {
            let from = if index == 0 { 0 } else { firsts[index] };
            let to = firsts.get(index + 1).copied().unwrap_or(u64::MAX);
            let records = self.records.range(VolumeId(from)..VolumeId(to)).map(|(_, record)| record);
            result.push((index, pack(records)));
        }
        result
    }
}

/// What is said of a name that something has already.
pub fn name_is_taken(name: &str) -> Error {
    Error::new(ErrorKind::Exists, format!("the name '{name}' is taken"))
}

/// Records into leaves, each filled as far as it goes.
fn pack<'a>(records: impl Iterator<Item = &'a VolumeRecord>) -> Vec<Vec<VolumeRecord>> {
    let mut leaves = Vec::new();
    let mut current: Vec<VolumeRecord> = Vec::new();
    let mut bytes = 0;
    for record in records {
        let size = record.encoded_bytes();
        if bytes + size > BODY_BYTES {
            leaves.push(std::mem::take(&mut current));
            bytes = 0;
        }
        bytes += size;
        current.push(record.clone());
    }
    if !current.is_empty() {
        leaves.push(current);
    }
    leaves
}
