//! What may be in each unit of the volume and of its snapshots, by what was issued and answered when.
//!
//! Owns the order of events: every issue and every answer has a moment. A request is out of the question for a unit once
//! another one, issued after its answer, is answered itself. Trims and zeroes are writes of zeros.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use vellum_tests::tag::{UNIT, Value, WriteNumber};

/// What happens at one place in the order of events.
type Moment = u64;

/// A request that may have made the content of a unit.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    write: WriteNumber,
    zeros: bool,
    /// When it was answered, or was known to be over.
    over: Option<Moment>,
}

impl Candidate {
    fn value(&self, unit: u64) -> Value {
        if self.zeros { Value::ZEROS } else { Value::written(self.write, unit) }
    }
}

/// Candidates of every unit.
type Units = Vec<Vec<Candidate>>;

/// A request under way.
#[derive(Clone, Debug)]
struct Issued {
    at: Moment,
    units: Range<u64>,
}

/// A snapshot, complete or being made.
#[derive(Clone, Debug)]
struct Snapshot {
    units: Units,
    /// While it is being made, whatever is issued may be in it.
    is_open: bool,
    /// Whether its making or deletion was answered, so that it must be there, or not.
    presence: Presence,
}

/// Whether a snapshot is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    There,
    Unknown,
}

/// All that was asked of the volume, and what came of it.
pub struct History {
    units: Units,
    now: Moment,
    writes: u64,
    issued: HashMap<WriteNumber, Issued>,
    snapshots: BTreeMap<String, Snapshot>,
    pub answered: u64,
}

impl History {
    /// Of a volume of so many units, all zeros.
    pub fn new(units: u64) -> Self {
        let zeros = Candidate { write: WriteNumber(0), zeros: true, over: Some(0) };
        Self {
            units: vec![vec![zeros]; units as usize],
            now: 0,
            writes: 0,
            issued: HashMap::new(),
            snapshots: BTreeMap::new(),
            answered: 0,
        }
    }

    fn tick(&mut self) -> Moment {
        self.now += 1;
        self.now
    }

    /// A request is about to be sent. Gives its number.
    pub fn issue(&mut self, units: Range<u64>, zeros: bool) -> WriteNumber {
        self.writes += 1;
        let write = WriteNumber(self.writes);
        let at = self.tick();
        let candidate = Candidate { write, zeros, over: None };
        let open = self.snapshots.values_mut().filter(|snapshot| snapshot.is_open);
        for all in open.map(|snapshot| &mut snapshot.units).chain([&mut self.units]) {
            for unit in units.clone() {
                all[unit as usize].push(candidate);
            }
        }
        self.issued.insert(write, Issued { at, units });
        write
    }

    /// A request was answered: what was over before it was issued is gone.
    pub fn answer(&mut self, write: WriteNumber) {
        self.answered += 1;
        let now = self.tick();
        let Some(Issued { at, units }) = self.issued.remove(&write) else { return };
        for unit in units {
            let candidates = &mut self.units[unit as usize];
            candidates.retain(|candidate| candidate.over.is_none_or(|over| over > at));
            let own = candidates.iter_mut().find(|candidate| candidate.write == write);
            own.expect("only an answer removes a request, by a later one").over = Some(now);
        }
    }

    /// The server that had this request is dead: it has happened or not, and will not happen any more.
    pub fn give_up(&mut self, write: WriteNumber) {
        let now = self.tick();
        let Some(Issued { units, .. }) = self.issued.remove(&write) else { return };
        for unit in units {
            let candidates = &mut self.units[unit as usize];
            let own = candidates.iter_mut().find(|candidate| candidate.write == write);
            own.expect("it was not answered").over = Some(now);
        }
    }

    /// The server is dead, and nobody writes.
    pub fn server_died(&mut self) {
        let under_way: Vec<WriteNumber> = self.issued.keys().copied().collect();
        under_way.into_iter().for_each(|write| self.give_up(write));
        self.snapshots.values_mut().for_each(|snapshot| snapshot.is_open = false);
    }

    /// Somebody begins to take a snapshot.
    pub fn begin_snapshot(&mut self, name: &str) {
        let snapshot = Snapshot { units: self.units.clone(), is_open: true, presence: Presence::Unknown };
        self.snapshots.insert(name.to_owned(), snapshot);
    }

    /// The snapshot was answered: nothing issued from now on is in it.
    pub fn end_snapshot(&mut self, name: &str) {
        let snapshot = self.snapshots.get_mut(name).expect("it was begun");
        (snapshot.is_open, snapshot.presence) = (false, Presence::There);
    }

    /// Somebody begins to delete a snapshot.
    pub fn begin_deletion(&mut self, name: &str) {
        self.snapshots.get_mut(name).expect("it is there").presence = Presence::Unknown;
    }

    /// The snapshot is gone, and must not come back.
    pub fn forget_snapshot(&mut self, name: &str) {
        self.snapshots.remove(name);
    }

    /// The snapshots that may be there.
    pub fn snapshots(&self) -> Vec<(String, Presence)> {
        self.snapshots.iter().map(|(name, snapshot)| (name.clone(), snapshot.presence)).collect()
    }

    /// A snapshot was seen, so it stays.
    pub fn confirm_snapshot(&mut self, name: &str) {
        self.snapshots.get_mut(name).expect("it was begun").presence = Presence::There;
    }

    /// Compares what was read of the volume, or of a snapshot, with what may be there. What is there stays there.
    /// Nothing may be under way.
    pub fn compare(&mut self, snapshot: Option<&str>, first: u64, bytes: &[u8]) -> Result<(), String> {
        let now = self.tick();
        let units = match snapshot {
            Some(name) => &mut self.snapshots.get_mut(name).expect("it is there").units,
            None => &mut self.units,
        };
        for (unit, found) in (first..).zip(bytes.chunks(UNIT)) {
            let candidates = &mut units[unit as usize];
            let value = Value::of(found);
            let Some(&holds) = candidates.iter().find(|candidate| candidate.value(unit) == value) else {
                let known: Vec<String> =
                    candidates.iter().map(|candidate| candidate.value(unit).to_string()).collect();
                let place = snapshot.unwrap_or("the volume");
                return Err(format!("unit {unit} of {place} holds {value}, not {}", known.join(" or ")));
            };
            *candidates = vec![Candidate { over: Some(now), ..holds }];
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vellum_tests::tag::payload;

    fn may_hold(history: &History, write: Option<WriteNumber>) -> bool {
        let bytes = write.map_or_else(|| vec![0; UNIT], |write| payload(write, 0, UNIT as u64));
        let mut history = History { units: history.units.clone(), ..History::new(1) };
        history.compare(None, 0, &bytes).is_ok()
    }

    #[test]
    fn an_answer_rules_out_what_was_over_before_its_request() {
        let mut history = History::new(1);
        let one = history.issue(0..1, false);
        assert!(may_hold(&history, None) && may_hold(&history, Some(one)));
        history.answer(one);
        assert!(!may_hold(&history, None) && may_hold(&history, Some(one)));
        let (two, three) = (history.issue(0..1, false), history.issue(0..1, false));
        history.answer(three);
        assert!(!may_hold(&history, Some(one)) && may_hold(&history, Some(two)));
        history.server_died();
        let four = history.issue(0..1, true);
        assert!(may_hold(&history, Some(two)) && may_hold(&history, Some(three)));
        history.answer(four);
        assert!(may_hold(&history, None) && !may_hold(&history, Some(two)));
    }

    #[test]
    fn a_snapshot_holds_what_was_issued_before_its_answer() {
        let mut history = History::new(1);
        let one = history.issue(0..1, false);
        history.answer(one);
        history.begin_snapshot("s");
        let two = history.issue(0..1, false);
        history.answer(two);
        history.end_snapshot("s");
        let three = history.issue(0..1, false);
        history.answer(three);
        let mut compare = |write| history.compare(Some("s"), 0, &payload(write, 0, UNIT as u64));
        assert!(compare(three).is_err());
        assert!(compare(two).is_ok());
        assert!(compare(one).is_err(), "it held something else before");
    }
}
