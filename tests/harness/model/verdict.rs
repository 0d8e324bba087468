//! After an end (power cut, kill, close) and a recovery: is what can be seen something that may be seen?
//!
//! Owns the crash rule of `docs/format.md` ("Promise") as it concerns clients, and the new start from what was
//! recovered. Read next: `history.rs`, `cuts.rs`.

use super::history::{Bound, History, NEVER, View, WriteRecord};
use super::{Asked, Check, Cut, Key, Model, Observed, ObservedVolume, State, Violation, Volume};
use crate::tag::{UNIT, Value};
use std::collections::BTreeSet;

/// How an opening of the pool ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The machine lost power. What the last answered flush covers is kept.
    PowerCut,
    /// As [`End::PowerCut`], and units that were not flushed may be byte mixtures (mode `writeback`).
    PowerCutMixing,
    /// The process died, or nothing ended at all. What was answered is kept.
    Kill,
}

/// What is wrong with a pool.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Volumes that are missing, unknown, or of the wrong kind or size; cuts that are none.
    pub structure: Vec<String>,
    /// Units that hold what they must not, described.
    pub wrong_units: Vec<String>,
}

impl Verdict {
    /// The first thing wrong, as an error.
    ///
    /// # Errors
    /// If anything is wrong.
    pub fn into_check(self) -> Check {
        let count = self.structure.len() + self.wrong_units.len();
        match self.structure.into_iter().chain(self.wrong_units).next() {
            None => Ok(()),
            Some(first) => Err(Violation(format!("{first}\n    ({count} findings)"))),
        }
    }
}

impl Model {
    /// Compares what is seen after `end` with everything that clients were promised.
    pub fn verdict(&self, end: End, observed: &Observed) -> Verdict {
        let mut verdict = Verdict::default();
        self.judge_names(observed, &mut verdict);
        for (&key, volume) in &self.volumes {
            if let Some(seen) = observed.find(volume.names()) {
                self.judge_volume(key, volume, seen, end, &mut verdict);
            }
        }
        self.judge_groups(observed, &mut verdict);
        self.judge_changes(observed, end, &mut verdict);
        if verdict.wrong_units.is_empty() {
            self.judge_cuts(observed, &mut verdict);
        }
        verdict
    }

    fn judge_names(&self, observed: &Observed, verdict: &mut Verdict) {
        for volume in self.volumes.values().filter(|volume| volume.is_live()) {
            if observed.find(volume.names()).is_none() {
                verdict.structure.push(format!("{} is missing", volume.name));
            }
        }
        let possible = |volume: &&Volume| !matches!(volume.state, State::Deleted(_));
        let known: BTreeSet<&str> =
            self.volumes.values().filter(possible).flat_map(Volume::names).map(String::as_str).collect();
        for name in observed.volumes.keys() {
            if !known.contains(name.as_str()) && !self.doubtful.contains(name) {
                verdict.structure.push(format!("{name} exists and should not"));
            }
        }
    }

    pub(super) fn view_after(&self, end: End) -> View {
        let acked_before = if end == End::Kill { self.now + 1 } else { self.flushed };
        let bound = Bound { acked_before, fua_acked_before: self.now + 1 };
        View { bound, issued_before: NEVER, mixing: end == End::PowerCutMixing }
    }

    fn judge_volume(
        &self,
        key: Key,
        volume: &Volume,
        seen: &ObservedVolume,
        end: End,
        verdict: &mut Verdict,
    ) {
        let same_id = volume.id.is_none_or(|id| id == seen.id);
        let same_size = volume.may_have_size(seen.bytes.len() as u64);
        if seen.is_snapshot != volume.is_snapshot || !same_size || !same_id {
            verdict.structure.push(format!("{} came back as something else", volume.name));
            return;
        }
        if !volume.may_have_holds(&seen.holds) {
            verdict
                .structure
                .push(format!("{} has the holds {:?}, not {:?}", volume.name, seen.holds, volume.holds));
        }
        if volume.deferred.is_some_and(|deferred| deferred != seen.deletion_deferred) {
            verdict.structure.push(format!("{}: deletion deferred: {}", volume.name, seen.deletion_deferred));
        }
        let after = self.view_after(end);
        let (units, view) = match (volume.cut, self.source_of(key)) {
            (Some(cut), _) => (&volume.units, Self::view_of_cut(cut)),
            (None, Some((source, issued))) => {
                (&self.volumes[&source].units, View { bound: after.bound.and_before(issued), ..after })
            }
            (None, None) => (&volume.units, after),
        };
        for (unit, (history, bytes)) in units.iter().zip(seen.bytes.chunks_exact(UNIT)).enumerate() {
            let at = unit as u64 * UNIT as u64;
            if !history.accepts(&self.records, &view, 0, bytes) && !seen.is_unreadable(at) {
                let Violation(text) =
                    wrong(&volume.name, unit as u64, 0, bytes, history, &self.records, &view);
                verdict.wrong_units.push(text);
            }
        }
    }

    /// What a snapshot that is not answered yet is being made of, and since when.
    fn source_of(&self, key: Key) -> Option<(Key, super::Moment)> {
        self.pending.values().find_map(|pending| {
            let Asked::Snapshot { pairs } = &pending.what else { return None };
            pairs.iter().find(|&&(_, snapshot)| snapshot == key).map(|&(source, _)| (source, pending.issued))
        })
    }

    /// What is made or deleted by one request is made or deleted together.
    fn judge_groups(&self, observed: &Observed, verdict: &mut Verdict) {
        for pending in self.pending.values() {
            let group: Vec<Key> = match &pending.what {
                Asked::Snapshot { pairs } => pairs.iter().map(|&(_, snapshot)| snapshot).collect(),
                Asked::Delete { volumes } => volumes.clone(),
                _ => continue,
            };
            let exists = |key: &Key| observed.find(self.volumes[key].names()).is_some();
            let existing = group.iter().filter(|key| exists(key)).count();
            if existing != 0 && existing != group.len() {
                verdict.structure.push(format!("{:?} was done in part", pending.what));
            }
        }
    }

    /// Starts again from what was recovered: nothing is pending, and what was seen is what there is.
    pub fn rebase(&mut self, observed: &Observed) {
        self.pending.clear();
        self.doubtful.clear();
        self.records.truncate(1);
        self.volumes.retain(|_, volume| {
            let Some(seen) = observed.find(volume.names()) else { return false };
            if let Some(new) = volume.new_name.take().filter(|new| observed.volumes.contains_key(new)) {
                volume.name = new;
            }
            volume.size_bytes = seen.bytes.len() as u64;
            volume.new_size_bytes = None;
            volume.resized = 0;
            volume.deferred = Some(seen.deletion_deferred);
            volume.id = Some(seen.id);
            volume.state = State::Live;
            volume.holds = seen.holds.iter().map(|tag| (tag.clone(), true)).collect();
            volume.cut = volume.is_snapshot.then_some(Cut { issued: 1, acked: 1 });
            volume.units = seen.bytes.chunks_exact(UNIT).map(Value::of).map(History::starting_with).collect();
            true
        });
        self.flushed = self.tick();
    }
}

impl Volume {
    /// Certain holds are there, and others only where their making or taking away was never answered.
    fn may_have_holds(&self, seen: &BTreeSet<String>) -> bool {
        let certain = self.holds.iter().filter(|&(_, &certain)| certain);
        certain.into_iter().all(|(tag, _)| seen.contains(tag))
            && seen.iter().all(|tag| self.holds.contains_key(tag))
    }
}

impl ObservedVolume {
    pub(super) fn is_unreadable(&self, offset_bytes: u64) -> bool {
        self.unreadable.iter().any(|(range, _)| range.contains(&offset_bytes))
    }
}

/// For people: a unit that holds what it must not.
pub(super) fn wrong(
    name: &str,
    unit: u64,
    from: usize,
    seen: &[u8],
    history: &History,
    records: &[WriteRecord],
    view: &View,
) -> Violation {
    let value =
        if from == 0 && seen.len() == UNIT { Value::of(seen).to_string() } else { format!("{seen:02x?}") };
    Violation(format!(
        "{name}, unit {unit} (block {}, sector {}), from byte {from}: holds {value}; \
         sure to be seen: answered before {}, FUA before {}; could be seen:{}",
        unit / 128,
        unit / 8 % 16,
        view.bound.acked_before,
        view.bound.fua_acked_before,
        history.describe(records)
    ))
}
