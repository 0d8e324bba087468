//! A request on its way out: the reply is checked, and from now on it binds the pool.
//!
//! Owns which replies are right. Read next: `history.rs`.

use super::history::{Bound, Moment, RecordNumber, View};
use super::{Asked, Check, Cut, Key, Model, Pending, State, Tolerance, Violation, units_of};
use vellum_engine::error::{Error, ErrorKind};
use vellum_engine::request::{Outcome, Reply, RequestId, Segment};
use vellum_engine::units::VolumeId;

impl Model {
    /// Takes the reply to request `id`.
    ///
    /// # Errors
    /// If the reply breaks a promise.
    pub fn reply(&mut self, id: RequestId, reply: Reply) -> Check {
        let Some(pending) = self.pending.remove(&id) else {
            return Err(Violation(format!("a second reply to request {}: {reply:?}", id.0)));
        };
        let now = self.tick();
        let told = format!("{:?}", pending.what);
        let verdict = match reply {
            Ok(outcome) => self.succeed(pending, outcome, now),
            Err(error) => self.fail(pending, &error, now),
        };
        self.forget_deleted();
        verdict.map_err(|violation| Violation(format!("request {} ({told}): {violation}", id.0)))
    }

    fn succeed(&mut self, pending: Pending, outcome: Outcome, now: Moment) -> Check {
        let what = pending.what.clone();
        match (what, outcome) {
            (Asked::Read { volume, offset_bytes, length_bytes }, Outcome::Data(segments)) => {
                self.check_read(volume, offset_bytes, length_bytes, &segments, pending.issued)
            }
            (Asked::Change { record, .. }, Outcome::Done | Outcome::Freed(_)) => {
                self.settle_change(record, now, true);
                Ok(())
            }
            (Asked::Create { volume } | Asked::Clone { volume, .. }, Outcome::Created(ids)) => {
                let [id] = ids.as_slice() else { return Err(Violation(format!("made {ids:?}"))) };
                self.make(volume, *id)
            }
            (Asked::Snapshot { pairs }, Outcome::Created(ids)) => {
                self.make_snapshots(&pairs, &ids, Cut { issued: pending.issued, acked: now })
            }
            (Asked::Delete { volumes }, Outcome::Done | Outcome::Freed(_)) => self.delete(&volumes, now),
            (
                Asked::DeleteDeferred { .. }
                | Asked::Resize { .. }
                | Asked::Rename { .. }
                | Asked::Rollback { .. },
                Outcome::Done,
            ) => self.changed(pending.what, now),
            (Asked::Hold { volume, tag }, Outcome::Done) => self.set_hold(volume, tag, Some(true)),
            (Asked::Release { volume, tag }, Outcome::Done) => {
                self.set_hold(volume, tag, None)?;
                self.released(volume, now)
            }
            (Asked::Flush | Asked::Close, Outcome::Done) => {
                self.flushed = self.flushed.max(pending.issued);
                Ok(())
            }
            (
                Asked::Collapse { .. } | Asked::Checkpoint | Asked::Trim | Asked::Extend | Asked::Configure,
                _,
            ) => Ok(()),
            (_, outcome) => Err(Violation(format!("a reply that does not fit: {outcome:?}"))),
        }
    }

    pub(super) fn settle_change(&mut self, record: RecordNumber, now: Moment, well: bool) {
        if let Some(record) = self.records.get_mut(record as usize) {
            record.replied = now;
            if well {
                record.acked = now;
            }
        }
    }

    fn make(&mut self, key: Key, id: VolumeId) -> Check {
        if let Some((_, other)) =
            self.volumes.iter().find(|&(&other, volume)| other != key && volume.id == Some(id))
        {
            return Err(Violation(format!("number {id} was given out again, it is {}", other.name)));
        }
        if let Some(volume) = self.volumes.get_mut(&key) {
            volume.id = Some(id);
            volume.state = State::Live;
        }
        Ok(())
    }

    fn make_snapshots(&mut self, pairs: &[(Key, Key)], ids: &[VolumeId], cut: Cut) -> Check {
        if pairs.len() != ids.len() {
            return Err(Violation(format!("{} snapshots asked for, {} made", pairs.len(), ids.len())));
        }
        for (&(source, snapshot), &id) in pairs.iter().zip(ids) {
            let source = self.volumes.get(&source);
            let mut units = source.map(|source| source.units.clone()).unwrap_or_default();
            units.truncate(source.map_or(0, |source| source.size_bytes as usize / super::UNIT));
            units.iter_mut().for_each(|unit| unit.forget(&self.records, Bound::all_acked_before(cut.issued)));
            if let Some(volume) = self.volumes.get_mut(&snapshot) {
                volume.units = units;
                volume.cut = Some(cut);
            }
            self.make(snapshot, id)?;
        }
        Ok(())
    }

    fn delete(&mut self, keys: &[Key], now: Moment) -> Check {
        for key in keys {
            let Some(volume) = self.volumes.get_mut(key) else { continue };
            if volume.holds.values().any(|&certain| certain) {
                return Err(Violation(format!("{} was deleted although it is held", volume.name)));
            }
            let name = volume.name.clone();
            if let Some(left) = self.live_snapshots_of(*key).find(|(snapshot, _)| !keys.contains(snapshot)) {
                return Err(Violation(format!("{name} was deleted without its snapshot {left:?}")));
            }
            let Some(volume) = self.volumes.get_mut(key) else { continue };
            volume.state = State::Deleted(now);
        }
        Ok(())
    }

    fn set_hold(&mut self, key: Key, tag: String, certain: Option<bool>) -> Check {
        if let Some(volume) = self.volumes.get_mut(&key) {
            match certain {
                Some(certain) => volume.holds.insert(tag, certain),
                None => volume.holds.remove(&tag),
            };
        }
        Ok(())
    }

    fn check_read(
        &mut self,
        key: Key,
        offset_bytes: u64,
        length_bytes: u64,
        segments: &[Segment],
        issued: Moment,
    ) -> Check {
        let mut bytes = Vec::new();
        flatten(segments, &mut bytes);
        if bytes.len() as u64 != length_bytes {
            return Err(Violation(format!("{} bytes came", bytes.len())));
        }
        let live = View { bound: Bound::all_acked_before(issued), issued_before: self.now, mixing: false };
        let records = &self.records;
        let Some(volume) = self.volumes.get_mut(&key).filter(|_| self.tolerance != Tolerance::WrongData)
        else {
            return Ok(());
        };
        let view = volume.cut.map_or(live, Self::view_of_cut);
        for (unit, from, to) in units_of(offset_bytes..offset_bytes + length_bytes) {
            let at = (unit * super::UNIT as u64 + from as u64 - offset_bytes) as usize;
            let seen = &bytes[at..at + to - from];
            let history = &mut volume.units[unit as usize];
            if !history.accepts(records, &view, from, seen) {
                return Err(super::verdict::wrong(&volume.name, unit, from, seen, history, records, &view));
            }
            if volume.is_snapshot && seen.len() == super::UNIT && !history.is_settled() {
                history.narrow(seen);
            }
        }
        Ok(())
    }

    fn fail(&mut self, pending: Pending, error: &Error, now: Moment) -> Check {
        let excused = self.is_excused(&pending, error);
        self.not_changed(&pending.what, now);
        match pending.what {
            Asked::Change { record, .. } => self.settle_change(record, now, false),
            Asked::Create { volume } | Asked::Clone { volume, .. } => self.drop_failed(volume),
            Asked::Snapshot { pairs } => {
                pairs.into_iter().for_each(|(_, snapshot)| self.drop_failed(snapshot))
            }
            Asked::Delete { volumes } if !self.tolerance.of_faults() => self.keep(&volumes),
            _ => {}
        }
        if excused { Ok(()) } else { Err(Violation(format!("failed: {error}"))) }
    }

    /// What could not be made does not exist; where disks fail, it may.
    fn drop_failed(&mut self, key: Key) {
        if let Some(volume) = self.volumes.remove(&key).filter(|_| self.tolerance.of_faults()) {
            self.doubtful.insert(volume.name);
        }
    }

    fn keep(&mut self, keys: &[Key]) {
        for key in keys {
            if let Some(volume) = self.volumes.get_mut(key) {
                volume.state = State::Live;
            }
        }
    }

    fn is_closing(&self) -> bool {
        self.pending.values().any(|pending| matches!(pending.what, Asked::Close))
    }

    fn is_excused(&self, pending: &Pending, error: &Error) -> bool {
        let what = &pending.what;
        let takes_space = !matches!(
            what,
            Asked::Read { .. } | Asked::Flush | Asked::Checkpoint | Asked::Trim | Asked::Close
        );
        match self.tolerance {
            Tolerance::Faults | Tolerance::WrongData => return true,
            Tolerance::Space
                if takes_space && matches!(error.kind(), ErrorKind::NoSpace | ErrorKind::Limit) =>
            {
                return true;
            }
            _ => {}
        }
        let refused = matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Busy | ErrorKind::Invalid);
        if error.kind() == ErrorKind::Invalid && self.may_have_shrunk(pending) {
            return true;
        }
        match what {
            Asked::Delete { volumes } => error.kind() == ErrorKind::Busy && self.may_keep(volumes),
            Asked::Trim => error.kind() == ErrorKind::Busy && self.is_closing(),
            // It is under way, or the pool is larger already.
            Asked::Extend => refused,
            Asked::Read { volume, .. }
            | Asked::Change { volume, .. }
            | Asked::Hold { volume, .. }
            | Asked::Release { volume, .. }
            | Asked::Collapse { volume } => refused && self.is_going(*volume),
            _ => false,
        }
    }

    fn may_keep(&self, keys: &[Key]) -> bool {
        let held = |key: &Key| self.volumes.get(key).is_some_and(|volume| !volume.holds.is_empty());
        let is_there = |key: &Key| !matches!(self.volumes[key].state, State::Deleted(_));
        let stays = |key: &Key| is_there(key) && !keys.contains(key);
        keys.iter().any(|&key| held(&key) || self.snapshots_of(key).any(|snapshot| stays(&snapshot)))
    }

    fn is_going(&self, key: Key) -> bool {
        self.volumes.get(&key).is_none_or(super::Volume::is_going)
    }
}

/// Appends the bytes of a reply to `bytes`.
pub fn flatten(segments: &[Segment], bytes: &mut Vec<u8>) {
    for segment in segments {
        match segment {
            Segment::Zeros(length) => bytes.resize(bytes.len() + *length as usize, 0),
            Segment::Bytes(piece) => bytes.extend_from_slice(piece),
        }
    }
}
