//! What a unit of a volume may hold: every write that touched it, and when it was asked for and answered.
//!
//! Owns the rule. A write is *superseded* for an observer if another write was asked for after it had been answered,
//! and was itself sure to be seen: answered before the observer asked (or, after a power cut, made durable). What
//! is not superseded and was asked for in time is legal, and nothing else is. Read next: `mod.rs`.

use crate::tag::{UNIT, Value};

/// A moment, counted in requests and replies. 0 is before everything.
pub type Moment = u64;

/// Later than everything.
pub const NEVER: Moment = u64::MAX;

/// Number of a write's record.
pub type RecordNumber = u32;

/// The record of what a volume held when the run began, or at the last recovery.
pub const BASE: RecordNumber = 0;

/// When one write (or discard) happened.
#[derive(Clone, Debug)]
pub struct WriteRecord {
    /// When it was asked for.
    pub issued: Moment,
    /// When it was answered, well or ill, or given up: it does not take effect later than this.
    pub replied: Moment,
    /// When it was answered well.
    pub acked: Moment,
    /// Whether its answer promised durability.
    pub fua: bool,
}

impl WriteRecord {
    /// A write asked for now.
    pub fn issued(issued: Moment, fua: bool) -> Self {
        Self { issued, replied: NEVER, acked: NEVER, fua }
    }

    /// The record of what is there from the beginning.
    pub fn base() -> Self {
        Self { issued: 0, replied: 0, acked: 0, fua: false }
    }
}

/// Which writes are sure to be seen.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    /// Those answered before this.
    pub acked_before: Moment,
    /// Those with FUA answered before this.
    pub fua_acked_before: Moment,
}

impl Bound {
    /// Whoever looks at a running pool sees all that was answered before.
    pub fn all_acked_before(moment: Moment) -> Self {
        Self { acked_before: moment, fua_acked_before: moment }
    }

    /// The weaker of both.
    pub fn and_before(self, moment: Moment) -> Self {
        Self {
            acked_before: self.acked_before.min(moment),
            fua_acked_before: self.fua_acked_before.min(moment),
        }
    }

    fn covers(&self, record: &WriteRecord) -> bool {
        record.acked < self.acked_before || record.fua && record.acked < self.fua_acked_before
    }
}

/// What an observer must accept.
#[derive(Clone, Copy, Debug)]
pub struct View {
    /// Writes sure to be seen.
    pub bound: Bound,
    /// Only writes asked for before this can be seen.
    pub issued_before: Moment,
    /// Units may be byte mixtures of what is legal (mode `writeback`, after a power cut).
    pub mixing: bool,
}

/// One write's part of a unit.
#[derive(Clone, Debug)]
pub struct Entry {
    /// What it put there.
    pub value: Value,
    /// Its record.
    pub record: RecordNumber,
    /// First byte of the unit that it touched.
    pub from: u16,
    /// Behind the last byte that it touched.
    pub to: u16,
}

impl Entry {
    /// What a unit holds from the beginning.
    pub fn base(value: Value) -> Self {
        Self { value, record: BASE, from: 0, to: UNIT as u16 }
    }

    fn contains(&self, from: usize, to: usize) -> bool {
        usize::from(self.from) <= from && to <= usize::from(self.to)
    }

    fn is_whole(&self) -> bool {
        self.contains(0, UNIT)
    }
}

/// The writes that touched one unit and could still be seen in it.
#[derive(Clone, Debug, Default)]
pub struct History {
    entries: Vec<Entry>,
}

impl History {
    /// Of a unit that holds `value`.
    pub fn starting_with(value: Value) -> Self {
        Self { entries: vec![Entry::base(value)] }
    }

    /// Adds a write, and forgets what nobody bound by `bound` can see any more.
    pub fn add(&mut self, entry: Entry, records: &[WriteRecord], bound: Bound) {
        if self.entries.len() > 2 {
            self.forget(records, bound);
        }
        self.entries.push(entry);
    }

    /// Forgets what nobody bound by `bound` can see any more.
    pub fn forget(&mut self, records: &[WriteRecord], bound: Bound) {
        let entries = &self.entries;
        let kept: Vec<Entry> = entries
            .iter()
            .filter(|entry| {
                let floor = self.floor(records, bound, entry.from.into(), entry.to.into());
                records[entry.record as usize].replied >= floor
            })
            .cloned()
            .collect();
        self.entries = kept;
    }

    /// The same as a starting point: everything that `view` accepts is there from the beginning.
    pub fn as_base(&self, records: &[WriteRecord], view: &View) -> Self {
        let legal = self.entries.iter().filter(|entry| self.is_legal(entry, records, view));
        Self { entries: legal.map(|entry| Entry { record: BASE, ..entry.clone() }).collect() }
    }

    /// Everything that `view` accepts, as brought here by another write.
    pub fn as_written_by(&self, record: RecordNumber, records: &[WriteRecord], view: &View) -> Vec<Entry> {
        let legal = self.entries.iter().filter(|entry| self.is_legal(entry, records, view));
        legal.map(|entry| Entry { record, ..entry.clone() }).collect()
    }

    /// Keeps only what matches what was seen; nothing changes it any more.
    pub fn narrow(&mut self, seen: &[u8]) {
        let matching = |entry: &Entry| entry.is_whole() && entry.value.matches(0, seen);
        if self.entries.iter().any(matching) {
            self.entries.retain(matching);
        }
    }

    /// Whether `bytes`, read from position `from` of the unit, are what `view` accepts.
    pub fn accepts(&self, records: &[WriteRecord], view: &View, from: usize, bytes: &[u8]) -> bool {
        if let [only] = self.entries.as_slice() {
            return only.value.matches(from, bytes);
        }
        if !view.mixing && self.entries.iter().all(Entry::is_whole) {
            return self.matching(records, view, from, bytes).next().is_some();
        }
        self.segments(from, from + bytes.len(), view.mixing).all(|(low, high)| {
            self.matching(records, view, low, &bytes[low - from..high - from]).next().is_some()
        })
    }

    /// The latest moment at which the newest write that is surely part of what was seen was asked for.
    pub fn newest_seen(&self, records: &[WriteRecord], view: &View, seen: &[u8]) -> Moment {
        let issued = |entry: &Entry| records[entry.record as usize].issued;
        self.matching(records, view, 0, seen).map(issued).min().unwrap_or(0)
    }

    /// Whether only one value can be seen, whatever the view.
    pub fn is_settled(&self) -> bool {
        self.entries.len() == 1
    }

    fn matching<'a>(
        &'a self,
        records: &'a [WriteRecord],
        view: &'a View,
        from: usize,
        bytes: &'a [u8],
    ) -> impl Iterator<Item = &'a Entry> {
        let to = from + bytes.len();
        let floor = self.floor(records, view.bound, from, to);
        self.entries.iter().filter(move |entry| {
            let record = &records[entry.record as usize];
            entry.contains(from, to)
                && record.issued < view.issued_before
                && record.replied >= floor
                && entry.value.matches(from, bytes)
        })
    }

    fn is_legal(&self, entry: &Entry, records: &[WriteRecord], view: &View) -> bool {
        let record = &records[entry.record as usize];
        let floor = self.floor(records, view.bound, entry.from.into(), entry.to.into());
        record.issued < view.issued_before && record.replied >= floor
    }

    /// When the newest write of these bytes that is sure to be seen was asked for.
    fn floor(&self, records: &[WriteRecord], bound: Bound, from: usize, to: usize) -> Moment {
        let covering = self.entries.iter().filter(|entry| entry.contains(from, to));
        let sure =
            covering.map(|entry| &records[entry.record as usize]).filter(|record| bound.covers(record));
        sure.map(|record| record.issued).max().unwrap_or(0)
    }

    /// Pieces of `from..to` inside which every entry covers all or nothing; single bytes where bytes may mix.
    fn segments(&self, from: usize, to: usize, mixing: bool) -> impl Iterator<Item = (usize, usize)> {
        let mut ends: Vec<usize> = if mixing {
            (from..to).collect()
        } else {
            let ends = self.entries.iter().flat_map(|entry| [entry.from.into(), entry.to.into()]);
            ends.filter(|end| (from..to).contains(end)).chain([from]).collect()
        };
        ends.push(to);
        ends.sort_unstable();
        ends.dedup();
        (1..ends.len()).map(move |index| (ends[index - 1], ends[index]))
    }

    /// For people: everything that is known of the unit.
    pub fn describe(&self, records: &[WriteRecord]) -> String {
        let moment = |moment| if moment == NEVER { "never".to_owned() } else { format!("{moment}") };
        let lines = self.entries.iter().map(|entry| {
            let record = &records[entry.record as usize];
            let fua = if record.fua { ", FUA" } else { "" };
            let (replied, acked) = (moment(record.replied), moment(record.acked));
            format!(
                "\n      bytes {}..{}: {} (asked at {}, answered at {replied}, well at {acked}{fua})",
                entry.from, entry.to, entry.value, record.issued
            )
        });
        lines.collect()
    }
}
