//! What the pool under test must hold, kept beside it in plain memory.
//!
//! Owns every volume's histories, the requests that are not answered yet, and the clock that orders requests and
//! replies. It knows nothing of blocks, logs or disks: only what clients asked for and were told. Read next:
//! `history.rs` (the rule), `issue.rs` and `reply.rs` (a request's way), `change.rs` (resize, rename, rollback, deferred
//! deletion), `verdict.rs` (after an end), `cuts.rs`.

mod change;
mod cuts;
mod history;
mod issue;
mod observed;
mod reply;
#[cfg(test)]
mod tests;
mod verdict;

pub use observed::{Observed, ObservedVolume};
pub use reply::flatten;
pub use verdict::{End, Verdict};

use crate::tag::{UNIT, Value, WriteNumber};
use history::{Bound, Entry, History, Moment, NEVER, RecordNumber, View, WriteRecord};
use std::collections::{BTreeMap, BTreeSet};
use vellum_engine::request::RequestId;
use vellum_engine::units::VolumeId;

/// The pool broke a promise, or the simulation could not go on. For people.
#[derive(Clone, Debug)]
pub struct Violation(pub String);

/// Well, or a broken promise.
pub type Check<T = ()> = Result<T, Violation>;

impl Violation {
    /// A violation in words.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

impl std::fmt::Display for Violation {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&self.0)
    }
}

/// Which errors a pool may answer with where nobody did anything wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tolerance {
    /// None.
    Nothing,
    /// Whatever takes space may fail for want of it.
    Space,
    /// Everything may fail: the disks do.
    Faults,
    /// Everything may fail, and client data may be wrong where the disk lied about it.
    WrongData,
}

impl Tolerance {
    /// Whether the disks fail.
    fn of_faults(self) -> bool {
        matches!(self, Self::Faults | Self::WrongData)
    }
}

/// The model's own number of a volume or snapshot.
type Key = u64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Creating,
    Live,
    Deleting,
    Deleted(Moment),
}

/// When a snapshot was asked for and answered: its content is that of one moment in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Cut {
    issued: Moment,
    acked: Moment,
}

#[derive(Clone, Debug)]
struct Volume {
    name: String,
    /// It may be called so already: that was asked for and not answered well.
    new_name: Option<String>,
    id: Option<VolumeId>,
    state: State,
    is_snapshot: bool,
    /// Of a snapshot that was answered.
    cut: Option<Cut>,
    size_bytes: u64,
    /// It may have this size already.
    new_size_bytes: Option<u64>,
    /// When its size changed last.
    resized: Moment,
    /// At least as many as its size has.
    units: Vec<History>,
    /// What it is a snapshot of.
    parent: Option<Key>,
    /// Whether it goes with its last hold, if that is certain.
    deferred: Option<bool>,
    /// Tags, and whether they are certain.
    holds: BTreeMap<String, bool>,
}

/// A request that is not answered yet.
#[derive(Clone, Debug)]
struct Pending {
    issued: Moment,
    what: Asked,
}

#[derive(Clone, Debug)]
enum Asked {
    Read { volume: Key, offset_bytes: u64, length_bytes: u64 },
    Change { volume: Key, record: RecordNumber },
    Create { volume: Key },
    Snapshot { pairs: Vec<(Key, Key)> },
    Clone { snapshot: Key, volume: Key },
    Delete { volumes: Vec<Key> },
    DeleteDeferred { snapshot: Key, held: bool },
    Resize { volume: Key, record: RecordNumber },
    Rename { names: Vec<(Key, String)> },
    Rollback { volume: Key, snapshot: Key, record: RecordNumber },
    Hold { volume: Key, tag: String },
    Release { volume: Key, tag: String },
    Collapse { volume: Key },
    Flush,
    Checkpoint,
    Trim,
    Extend,
    Configure,
    Close,
}

/// The reference.
#[derive(Clone, Debug)]
pub struct Model {
    now: Moment,
    volumes: BTreeMap<Key, Volume>,
    records: Vec<WriteRecord>,
    pending: BTreeMap<RequestId, Pending>,
    /// When the last flush that was answered had been asked for.
    flushed: Moment,
    next_write: u64,
    next_key: Key,
    tolerance: Tolerance,
    /// Names whose making failed although it may have happened.
    doubtful: BTreeSet<String>,
}

impl Model {
    /// Of an empty pool.
    pub fn new(tolerance: Tolerance) -> Self {
        Self {
            now: 1,
            volumes: BTreeMap::new(),
            records: vec![WriteRecord::base()],
            pending: BTreeMap::new(),
            flushed: 0,
            next_write: 1,
            next_key: 1,
            tolerance,
            doubtful: BTreeSet::new(),
        }
    }

    /// Accepts other errors from now on.
    pub fn set_tolerance(&mut self, tolerance: Tolerance) {
        self.tolerance = tolerance;
    }

    /// The clock: counts requests and replies.
    pub fn now(&self) -> u64 {
        self.now
    }

    /// How many requests are not answered yet.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// The unanswered requests, for people.
    pub fn describe_pending(&self) -> String {
        format!("{:?}", self.pending)
    }

    fn tick(&mut self) -> Moment {
        self.now += 1;
        self.now
    }

    /// What nobody who has asked already, and no recovery, can see any more need not be kept.
    fn forgettable(&self) -> Bound {
        let oldest = self.pending.values().map(|pending| pending.issued).min().unwrap_or(self.now);
        Bound { acked_before: self.flushed, fua_acked_before: self.now }.and_before(oldest)
    }

    fn new_write(&mut self, issued: Moment, fua: bool) -> (WriteNumber, RecordNumber) {
        let write = WriteNumber(self.next_write);
        self.next_write += 1;
        self.records.push(WriteRecord::issued(issued, fua));
        (write, (self.records.len() - 1) as RecordNumber)
    }

    /// Notes a change of `range` of a volume; `write` is absent for zeros.
    fn add_change(
        &mut self,
        key: Key,
        range: std::ops::Range<u64>,
        write: Option<WriteNumber>,
        record: RecordNumber,
    ) {
        let bound = self.forgettable();
        let Some(volume) = self.volumes.get_mut(&key) else { return };
        for (unit, from, to) in units_of(range) {
            let value = write.map_or(Value::ZEROS, |write| Value::written(write, unit));
            let entry = Entry { value, record, from: from as u16, to: to as u16 };
            volume.units[unit as usize].add(entry, &self.records, bound);
        }
    }

    /// How a snapshot is to be seen, for ever.
    fn view_of_cut(cut: Cut) -> View {
        View { bound: Bound::all_acked_before(cut.issued), issued_before: cut.acked, mixing: false }
    }

    fn forget_deleted(&mut self) {
        let oldest = self.pending.values().map(|pending| pending.issued).min().unwrap_or(NEVER);
        self.volumes.retain(|_, volume| !matches!(volume.state, State::Deleted(when) if when < oldest));
    }
}

impl Volume {
    fn is_live(&self) -> bool {
        self.state == State::Live
    }

    /// Whether name and size are known.
    fn is_certain(&self) -> bool {
        self.new_name.is_none() && self.new_size_bytes.is_none()
    }

    fn names(&self) -> impl Iterator<Item = &String> {
        std::iter::once(&self.name).chain(&self.new_name)
    }

    fn may_have_size(&self, size_bytes: u64) -> bool {
        size_bytes == self.size_bytes || Some(size_bytes) == self.new_size_bytes
    }

    fn is_going(&self) -> bool {
        matches!(self.state, State::Deleting | State::Deleted(_))
    }
}

/// The units that a byte range touches: number, first byte and end inside the unit.
fn units_of(range: std::ops::Range<u64>) -> impl Iterator<Item = (u64, usize, usize)> {
    let unit = UNIT as u64;
    (range.start / unit..range.end.div_ceil(unit)).map(move |number| {
        let from = range.start.saturating_sub(number * unit) as usize;
        let to = (range.end - number * unit).min(unit) as usize;
        (number, from, to)
    })
}
