//! Limits of volumes: requests that come too fast wait here, each volume's in its own line.
//!
//! Owns the lines, and when the next of each may go. Reads, writes, zeroings and discards of a volume with limits pass
//! through here before they are checked; everything else, and every other volume, does not. A flush covers what was
//! answered, so it never waits for a line. Rates are kept by buckets that may go into debt: a request goes as soon as
//! there is any credit, however large it is, and those behind it wait until it is paid for. Nothing starves.

use super::{Core, Key};
use crate::error::{Error, ErrorKind};
use crate::format::{Delta, Properties, VolumeKind, VolumeState};
use crate::request::{Request, RequestId};
use crate::units::VolumeId;
use rustc_hash::FxHashMap;
use std::collections::VecDeque;

/// What a volume that was idle may spend at once, in milliseconds of its rate.
const BURST_MS: i128 = 100;
/// Credit is counted in thousandths, so that each millisecond earns a whole number: the rate a second.
const UNIT: i128 = 1000;

/// Credit for requests or bytes.
#[derive(Debug)]
struct Bucket {
    /// What a second earns, which is also what a millisecond earns in thousandths; 0 for no limit.
    per_s: u64,
    credit: i128,
    filled_ms: u64,
}

impl Bucket {
    fn full(per_s: u64, now_ms: u64) -> Self {
        let mut bucket = Self { per_s, credit: 0, filled_ms: now_ms };
        bucket.credit = bucket.capacity();
        bucket
    }

    /// At least one request's worth.
    fn capacity(&self) -> i128 {
        (i128::from(self.per_s) * BURST_MS).max(UNIT)
    }

    fn fill(&mut self, now_ms: u64) {
        let earned = i128::from(now_ms.saturating_sub(self.filled_ms)) * i128::from(self.per_s);
        self.credit = (self.credit + earned).min(self.capacity());
        self.filled_ms = self.filled_ms.max(now_ms);
    }

    /// Milliseconds until there is credit again.
    fn wait_ms(&self) -> u64 {
        if self.per_s == 0 || self.credit > 0 {
            return 0;
        }
        let missing = 1 - self.credit;
        missing.div_euclid(i128::from(self.per_s)) as u64
            + u64::from(missing.rem_euclid(i128::from(self.per_s)) > 0)
    }

    fn spend(&mut self, amount: u64) {
        if self.per_s > 0 {
            self.credit -= i128::from(amount) * UNIT;
        }
    }

    /// Another rate from now on. What is owed stays owed, so that setting a rate again and again gives nothing away.
    fn change(&mut self, per_s: u64, now_ms: u64) {
        self.fill(now_ms);
        if self.per_s == 0 {
            *self = Self::full(per_s, now_ms);
        }
        self.per_s = per_s;
        self.credit = self.credit.min(self.capacity());
    }
}

/// The line of one volume.
#[derive(Debug)]
struct Line {
    requests: Bucket,
    bytes: Bucket,
    in_flight_max: u32,
    in_flight: u32,
    waiting: VecDeque<(Key, Request)>,
}

impl Line {
    fn new(properties: &Properties, now_ms: u64) -> Self {
        Self {
            requests: Bucket::full(properties.limit_iops, now_ms),
            bytes: Bucket::full(properties.limit_bytes_per_s, now_ms),
            in_flight_max: properties.limit_in_flight,
            in_flight: 0,
            waiting: VecDeque::new(),
        }
    }

    fn is_full(&self) -> bool {
        self.in_flight_max > 0 && self.in_flight >= self.in_flight_max
    }

    /// Milliseconds until the first may go as far as rates go.
    fn wait_ms(&self) -> u64 {
        self.requests.wait_ms().max(self.bytes.wait_ms())
    }

    /// The first, if it may go now.
    fn next(&mut self, now_ms: u64) -> Option<(Key, Request)> {
        self.requests.fill(now_ms);
        self.bytes.fill(now_ms);
        if self.is_full() || self.wait_ms() > 0 {
            return None;
        }
        let (key, request) = self.waiting.pop_front()?;
        self.requests.spend(1);
        self.bytes.spend(bytes_of(&request));
        self.in_flight += 1;
        Some((key, request))
    }
}

/// All lines.
#[derive(Debug, Default)]
pub struct Limits {
    is_enforced: bool,
    lines: FxHashMap<VolumeId, Line>,
    /// Volumes whose lines are not empty, in the order in which they became so.
    busy: Vec<VolumeId>,
    /// Requests that went, until they are answered.
    in_flight: FxHashMap<Key, VolumeId>,
    /// One was answered, or a limit is gone: the next may go.
    pub changed: bool,
}

impl Limits {
    /// No lines.
    pub fn new(is_enforced: bool) -> Self {
        Self { is_enforced, ..Self::default() }
    }

    /// Whether any volume has a limit: if not, requests are spared all else.
    #[inline]
    pub fn any(&self) -> bool {
        !self.lines.is_empty()
    }

    /// When the next may go, if it is time that it waits for.
    pub fn due_ms(&self) -> Option<u64> {
        let lines = self.busy.iter().filter_map(|volume| self.lines.get(volume));
        let waiting = lines.filter(|line| !line.is_full() && !line.waiting.is_empty());
        waiting.map(|line| line.requests.filled_ms.saturating_add(line.wait_ms())).min()
    }

    /// Puts a request into its volume's line, if that has one. Otherwise gives it back.
    pub fn enqueue(&mut self, key: Key, request: Request) -> Option<Request> {
        let Some(volume) = limited_volume(&request) else { return Some(request) };
        let Some(line) = self.lines.get_mut(&volume) else { return Some(request) };
        if line.waiting.is_empty() {
            self.busy.push(volume);
        }
        line.waiting.push_back((key, request));
        None
    }

    /// A request was answered.
    pub fn answered(&mut self, key: Key) {
        let Some(volume) = self.in_flight.remove(&key) else { return };
        if let Some(line) = self.lines.get_mut(&volume) {
            line.in_flight = line.in_flight.saturating_sub(1);
            self.changed |= line.in_flight_max > 0 && !line.waiting.is_empty();
        }
    }

    /// Takes a waiting request out of its line.
    pub fn take_out(&mut self, is_it: impl Fn(Key) -> bool) -> Option<Key> {
        let found = self.lines.values_mut().find_map(|line| {
            let index = line.waiting.iter().position(|(key, _)| is_it(*key))?;
            line.waiting.remove(index).map(|(key, _)| key)
        });
        self.forget_idle();
        found
    }

    fn forget_idle(&mut self) {
        let lines = &self.lines;
        self.busy.retain(|volume| lines.get(volume).is_some_and(|line| !line.waiting.is_empty()));
    }

    /// Those that may go now: one of each volume in turn, so that no line stands in front of another.
    fn take_due(&mut self, now_ms: u64) -> Vec<(Key, Request)> {
        let mut due = Vec::new();
        for index in 0..self.busy.len() {
            let volume = self.busy[index];
            let Some(line) = self.lines.get_mut(&volume) else { continue };
            while let Some((key, request)) = line.next(now_ms) {
                self.in_flight.insert(key, volume);
                due.push((key, request));
            }
        }
        self.forget_idle();
        due
    }

    /// What waits, in order, whatever the limits say; of one volume, or of all.
    fn take_waiting(&mut self, of: Option<VolumeId>) -> Vec<(Key, Request)> {
        let mut all: Vec<(Key, Request)> = Vec::new();
        for (_, line) in self.lines.iter_mut().filter(|(volume, _)| of.is_none_or(|of| of == **volume)) {
            all.extend(line.waiting.drain(..));
        }
        self.forget_idle();
        all.sort_unstable_by_key(|(key, _)| *key);
        all
    }
}

/// The volume that a request counts for, if it is of those that are limited.
fn limited_volume(request: &Request) -> Option<VolumeId> {
    match request {
        Request::Read { volume, .. }
        | Request::Write { volume, .. }
        | Request::WriteWhole { volume, .. }
        | Request::WriteZeroes { volume, .. }
        | Request::Discard { volume, .. } => Some(*volume),
        _ => None,
    }
}

/// Bytes that are moved. Zeros count where they are written.
fn bytes_of(request: &Request) -> u64 {
    match request {
        Request::Read { length_bytes, .. }
        | Request::WriteZeroes { length_bytes, keep_allocated: true, .. } => *length_bytes,
        Request::Write { bytes, .. } | Request::WriteWhole { bytes, .. } => bytes.len() as u64,
        _ => 0,
    }
}

impl Core {
    /// When [`Core::turn`] has something to do, in its milliseconds, although nothing else happens: a request waits for its
    /// volume's limit. None while none does.
    pub fn wants_turn_at_ms(&self) -> Option<u64> {
        self.limits.due_ms()
    }

    /// Gives up a request that nobody wants any more, if it still waits for its volume's limit: it is answered with an
    /// error, and nothing of it was done. Any other goes on.
    pub fn abandon(&mut self, id: RequestId) {
        if self.limits.busy.is_empty() {
            return;
        }
        let requests = &self.requests;
        let found = self.limits.take_out(|key| requests.get(&key).is_some_and(|request| request.id == id));
        if let Some(key) = found {
            self.part_done(key, Err(Error::new(ErrorKind::Busy, "nobody waits for it any more")));
        }
    }

    /// From now on no request waits for a limit: whoever serves the pool is about to end. Call [`Core::turn`] afterwards.
    pub fn lift_limits(&mut self) {
        let waiting = self.limits.take_waiting(None);
        self.limits = Limits::new(false);
        self.start_waiting(waiting);
    }

    /// Puts a request behind those of its volume, if there are limits and the pool can carry it out. Otherwise gives it back.
    pub(super) fn line_up(&mut self, key: Key, request: Request) -> Option<Request> {
        let is_refused = self.closing || (self.failure.is_some() && !matches!(request, Request::Read { .. }));
        if is_refused { Some(request) } else { self.limits.enqueue(key, request) }
    }

    /// Begins what limits allow now.
    pub(super) fn start_due(&mut self) {
        self.limits.changed = false;
        if self.limits.busy.is_empty() {
            return;
        }
        let due = self.limits.take_due(self.now_ms);
        self.start_waiting(due);
    }

    /// Begins all that waits for limits: the pool ends, or failed, and nothing is gained by waiting.
    pub(super) fn start_all_limited(&mut self) {
        let waiting = self.limits.take_waiting(None);
        self.start_waiting(waiting);
    }

    fn start_waiting(&mut self, waiting: Vec<(Key, Request)>) {
        for (key, request) in waiting {
            let result = self.start(key, request);
            self.part_done(key, result);
        }
    }

    /// The limits of all volumes, at an opening.
    pub(super) fn load_limits(&mut self) {
        let volumes: Vec<VolumeId> = self.metadata.volumes.iter().map(|record| record.id).collect();
        volumes.into_iter().for_each(|volume| self.refresh_limits(volume));
    }

    /// An applied delta may have set, inherited or ended limits.
    pub(super) fn limits_follow(&mut self, delta: &Delta) {
        let volumes: Vec<VolumeId> = match delta {
            Delta::Update { volume, .. } => vec![*volume],
            Delta::Snapshot { cuts } => cuts.iter().map(|(_, record)| record.id).collect(),
            Delta::Delete { volumes } => volumes.clone(),
            _ => return,
        };
        volumes.into_iter().for_each(|volume| self.refresh_limits(volume));
    }

    fn refresh_limits(&mut self, volume: VolumeId) {
        let record = self.metadata.volumes.get(volume);
        let is_limited = self.limits.is_enforced
            && record.is_some_and(|record| {
                record.kind == VolumeKind::Volume
                    && record.state == VolumeState::Active
                    && record.properties.is_limited()
            });
        let Some(record) = record.filter(|_| is_limited) else {
            // Who waited goes on, or learns that the volume is gone.
            let waiting = self.limits.take_waiting(Some(volume));
            self.limits.lines.remove(&volume);
            self.limits.in_flight.retain(|_, of| *of != volume);
            return self.start_waiting(waiting);
        };
        let now_ms = self.now_ms;
        let line = self.limits.lines.entry(volume).or_insert_with(|| Line::new(&record.properties, now_ms));
        line.requests.change(record.properties.limit_iops, now_ms);
        line.bytes.change(record.properties.limit_bytes_per_s, now_ms);
        line.in_flight_max = record.properties.limit_in_flight;
        self.limits.changed = true;
    }
}
