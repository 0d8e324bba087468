//! Changes of volumes that are there: resize, rename, rollback, deletion with the last hold.
//!
//! Owns what may be seen while such a change is under way and after it has failed. Two changes of one volume are never under
//! way at once, nor a change together with a snapshot of the volume: what either would come to is for the tests of the
//! engine. Reads, writes and discards go on meanwhile.

use super::history::{Entry, History, Moment, RecordNumber, View};
use super::verdict::End;
use super::{
    Asked, Check, Key, Model, Observed, Pending, State, Tolerance, UNIT, Verdict, Violation, Volume,
};
use crate::tag::Value;
use crate::workload::Selector;
use vellum_engine::request::Request;
use vellum_engine::units::{SECTOR_BYTES, VolumeId};

impl Model {
    /// All that are snapshots of `key` by their names, whatever their state.
    pub(super) fn snapshots_of(&self, key: Key) -> impl Iterator<Item = Key> {
        self.volumes
            .iter()
            .filter(move |(_, volume)| volume.parent == Some(key))
            .map(|(&snapshot, _)| snapshot)
    }

    pub(super) fn live_snapshots_of(&self, key: Key) -> impl Iterator<Item = (Key, VolumeId)> {
        let live = move |snapshot: Key| {
            let volume = &self.volumes[&snapshot];
            volume.id.filter(|_| volume.is_live()).map(|id| (snapshot, id))
        };
        self.snapshots_of(key).filter_map(live)
    }

    /// Whether a change of `key` is under way.
    pub(super) fn is_changing(&self, key: Key) -> bool {
        self.pending.values().any(|pending| match &pending.what {
            Asked::DeleteDeferred { snapshot, .. } => *snapshot == key,
            Asked::Resize { volume, .. } => *volume == key,
            Asked::Rename { names } => names.iter().any(|(renamed, _)| *renamed == key),
            Asked::Rollback { volume, snapshot, .. } => *volume == key || *snapshot == key,
            _ => false,
        })
    }

    /// Whether nothing is under way that makes, takes away or changes `key` as a whole.
    fn is_at_rest(&self, key: Key) -> bool {
        let touched = self.pending.values().any(|pending| match &pending.what {
            Asked::Hold { volume, .. } | Asked::Release { volume, .. } => *volume == key,
            Asked::Delete { volumes } => volumes.contains(&key),
            _ => false,
        });
        !touched && !self.is_changing(key) && !self.is_source(key)
    }

    fn choose_to_change(
        &self,
        selector: Selector,
        fits: impl Fn(&Volume) -> bool,
    ) -> Option<(Key, VolumeId)> {
        let fits = |volume: &Volume| volume.is_live() && volume.is_certain() && fits(volume);
        self.choose(selector, fits).filter(|&(key, _)| self.is_at_rest(key))
    }

    pub(super) fn issue_delete_deferred(&mut self, selector: Selector) -> Option<(Asked, Request)> {
        let certain = |volume: &Volume| volume.holds.values().all(|&certain| certain);
        let (snapshot, id) =
            self.choose_to_change(selector, |volume| volume.is_snapshot && certain(volume))?;
        let volume = self.volumes.get_mut(&snapshot)?;
        let held = !volume.holds.is_empty();
        if held {
            volume.deferred = None;
        } else {
            volume.state = State::Deleting;
        }
        let request = Request::Delete { volumes: vec![id], deferred: true };
        Some((Asked::DeleteDeferred { snapshot, held }, request))
    }

    pub(super) fn issue_resize(
        &mut self,
        selector: Selector,
        sectors: u64,
        issued: Moment,
    ) -> Option<(Asked, Request)> {
        let (key, id) = self.choose_to_change(selector, |volume| !volume.is_snapshot)?;
        let size_bytes = sectors * SECTOR_BYTES;
        let (_, record) = self.new_write(issued, true);
        let volume = self.volumes.get_mut(&key)?;
        let old = volume.size_bytes;
        volume.new_size_bytes = Some(size_bytes).filter(|_| size_bytes != old);
        volume.reach(size_bytes);
        // What is behind the new end may still be written by those who asked before.
        let end = volume.units.len() as u64 * UNIT as u64;
        if size_bytes < old {
            self.add_change(key, size_bytes..end, None, record);
        }
        Some((Asked::Resize { volume: key, record }, Request::Resize { volume: id, size_bytes }))
    }

    pub(super) fn issue_rename(&mut self, selector: Selector) -> Option<(Asked, Request)> {
        let (key, id) = self.choose_to_change(selector, |_| true)?;
        let snapshots: Vec<Key> = self.snapshots_of(key).collect();
        let ready = |key: &Key| {
            let volume = &self.volumes[key];
            self.is_at_rest(*key) && volume.is_live() && volume.is_certain()
        };
        if !snapshots.iter().filter(|key| !matches!(self.volumes[key].state, State::Deleted(_))).all(ready) {
            return None;
        }
        self.next_key += 1;
        let old = self.volumes[&key].name.clone();
        let name = match old.split_once('@') {
            Some((volume, _)) => format!("{volume}@r{}", self.next_key),
            None => format!("r{}", self.next_key),
        };
        let mut names = vec![(key, name.clone())];
        for (snapshot, _) in self.live_snapshots_of(key) {
            names.push((snapshot, format!("{name}{}", &self.volumes[&snapshot].name[old.len()..])));
        }
        for (key, name) in &names {
            self.volumes.entry(*key).and_modify(|volume| volume.new_name = Some(name.clone()));
        }
        Some((Asked::Rename { names }, Request::Rename { volume: id, name }))
    }

    pub(super) fn issue_rollback(&mut self, selector: Selector, issued: Moment) -> Option<(Asked, Request)> {
        let (snapshot, id) = self.choose_to_change(selector, |volume| volume.is_snapshot)?;
        let origin = &self.volumes[&snapshot];
        let (view, parent, size_bytes) = (Self::view_of_cut(origin.cut?), origin.parent?, origin.size_bytes);
        let volume = self.volumes.get(&parent).filter(|volume| volume.is_live() && volume.is_certain())?;
        let volume_id = volume.id.filter(|_| self.is_at_rest(parent))?;
        let (_, record) = self.new_write(issued, true);
        let brought: Vec<Vec<Entry>> = self.volumes[&snapshot]
            .units
            .iter()
            .map(|unit| unit.as_written_by(record, &self.records, &view))
            .collect();
        self.bring(parent, brought, record, size_bytes);
        let request = Request::Rollback { volume: volume_id, snapshot: id };
        Some((Asked::Rollback { volume: parent, snapshot, record }, request))
    }

    /// Puts what a rollback brings into every unit; zeros behind the end of the snapshot.
    fn bring(&mut self, key: Key, brought: Vec<Vec<Entry>>, record: RecordNumber, size_bytes: u64) {
        let bound = self.forgettable();
        let Some(volume) = self.volumes.get_mut(&key) else { return };
        volume.new_size_bytes = Some(size_bytes).filter(|_| size_bytes != volume.size_bytes);
        volume.reach(size_bytes);
        let zeros = Entry { record, ..Entry::base(Value::ZEROS) };
        let brought = brought.into_iter().chain(std::iter::repeat(vec![zeros]));
        for (unit, entries) in volume.units.iter_mut().zip(brought) {
            entries.into_iter().for_each(|entry| unit.add(entry, &self.records, bound));
        }
    }

    /// A change was answered well.
    pub(super) fn changed(&mut self, what: Asked, now: Moment) -> Check {
        match what {
            Asked::DeleteDeferred { snapshot, held } => {
                if let Some(volume) = self.volumes.get_mut(&snapshot) {
                    match held {
                        true => volume.deferred = Some(true),
                        false => volume.state = State::Deleted(now),
                    }
                }
            }
            Asked::Resize { volume, record, .. } | Asked::Rollback { volume, record, .. } => {
                self.settle_change(record, now, true);
                if let Some(volume) = self.volumes.get_mut(&volume) {
                    volume.size_bytes = volume.new_size_bytes.take().unwrap_or(volume.size_bytes);
                    volume.resized = now;
                }
            }
            Asked::Rename { names } => {
                for (key, name) in names {
                    self.volumes.entry(key).and_modify(|volume| {
                        volume.new_name = None;
                        volume.name = name;
                    });
                }
            }
            other => return Err(Violation(format!("{other:?} is no change"))),
        }
        Ok(())
    }

    /// A change failed: nothing of it has happened, or, where disks fail, nobody knows.
    pub(super) fn not_changed(&mut self, what: &Asked, now: Moment) {
        if let Asked::Resize { record, .. } | Asked::Rollback { record, .. } = what {
            self.settle_change(*record, now, false);
        }
        if self.tolerance.of_faults() {
            return;
        }
        let mut revert = |key: &Key, change: &dyn Fn(&mut Volume)| {
            self.volumes.get_mut(key).into_iter().for_each(change);
        };
        match what {
            Asked::DeleteDeferred { snapshot, held: true } => revert(snapshot, &|v| v.deferred = Some(false)),
            Asked::DeleteDeferred { snapshot, held: false } => revert(snapshot, &|v| v.state = State::Live),
            Asked::Release { volume, .. } => revert(volume, &|v| {
                if v.state == State::Deleting && v.deferred == Some(true) {
                    v.state = State::Live;
                }
            }),
            Asked::Resize { volume, .. } | Asked::Rollback { volume, .. } => {
                revert(volume, &|v| {
                    v.new_size_bytes = None;
                    v.resized = now;
                });
            }
            Asked::Rename { names } => {
                names.iter().for_each(|(key, _)| revert(key, &|v| v.new_name = None));
            }
            _ => {}
        }
    }

    /// A hold was taken away; what waited for that is gone.
    pub(super) fn released(&mut self, key: Key, now: Moment) -> Check {
        let Some(volume) = self.volumes.get_mut(&key) else { return Ok(()) };
        if volume.holds.is_empty() && volume.deferred == Some(true) {
            volume.state = State::Deleted(now);
        }
        Ok(())
    }

    /// Whether a request may have found the end of its volume before its own.
    pub(super) fn may_have_shrunk(&self, pending: &Pending) -> bool {
        let (Asked::Read { volume, .. } | Asked::Change { volume, .. }) = pending.what else { return false };
        let volume = self.volumes.get(&volume);
        volume.is_some_and(|v| v.new_size_bytes.is_some() || v.resized > pending.issued)
    }

    /// Names of one request change together, and a rollback that is not answered has happened, or has not.
    pub(super) fn judge_changes(&self, observed: &Observed, end: End, verdict: &mut Verdict) {
        for pending in self.pending.values() {
            match &pending.what {
                Asked::Rename { names } => {
                    let new = names.iter().filter(|(_, name)| observed.volumes.contains_key(name)).count();
                    if new != 0 && new != names.len() {
                        verdict.structure.push(format!("{names:?} was done in part"));
                    }
                }
                Asked::Rollback { volume, record, .. }
                    if self.tolerance != Tolerance::WrongData
                        && !self.is_rolled_back_or_not(*volume, *record, observed, self.view_after(end)) =>
                {
                    verdict.structure.push(format!("{:?} was done in part", pending.what));
                }
                _ => {}
            }
        }
    }

    fn is_rolled_back_or_not(&self, key: Key, record: RecordNumber, observed: &Observed, view: View) -> bool {
        let volume = &self.volumes[&key];
        let Some(seen) = observed.find(volume.names()).filter(|seen| seen.unreadable.is_empty()) else {
            return true;
        };
        let mut not = self.records.clone();
        not[record as usize].issued = Moment::MAX;
        let mut done = self.records.clone();
        done[record as usize].acked = done[record as usize].issued;
        [not, done].iter().any(|records| {
            let mut units = volume.units.iter().zip(seen.bytes.chunks_exact(UNIT));
            units.all(|(history, bytes)| history.accepts(records, &view, 0, bytes))
        })
    }
}

impl Volume {
    /// Zeros up to a size that it may have soon.
    fn reach(&mut self, size_bytes: u64) {
        let units = size_bytes as usize / UNIT;
        if self.units.len() < units {
            self.units.resize(units, History::starting_with(Value::ZEROS));
        }
    }
}
