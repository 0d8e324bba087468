//! The log's writing half: deltas into records, records into durable and proven ones (L1, L3, L7).
//!
//! Owns the queue of deltas, the records in flight, the running sync and who waits for what. Counts deltas by
//! [`DeltaNumber`], because a delta knows its number before it knows its record. What a delta does is
//! `metadata/apply.rs`; when proofs are asked for is decided by the other files of this folder.

use super::{DeltaNumber, Then};
use crate::canary::{self, Canary};
use crate::format::{Delta, LogRecord, RECORD_HEADER_BYTES};
use crate::metadata::LogRing;
use crate::units::{Incarnation, PAGE_BYTES, Sequence};
use bytes::Bytes;
use std::collections::VecDeque;

/// Log pages that only proofs may take: two records each, for two proofs.
const PROOF_PAGES: u64 = 4;

struct Queued {
    number: DeltaNumber,
    delta: Delta,
    bytes: usize,
    then: Then,
}

/// A record on its way.
struct InFlight {
    sequence: Sequence,
    mark: Mark,
    /// Deltas up to here were durable when it was composed.
    synced: DeltaNumber,
    written: bool,
    thens: Vec<Then>,
}

/// How far a stage has come: the record and the last delta in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// The record.
    pub sequence: Sequence,
    /// The last delta up to and including it.
    pub number: DeltaNumber,
}

/// A sync on its way, and what it will make true.
pub struct RunningSync {
    covers: Mark,
    stamp: u64,
    /// Who is answered by it.
    pub waiters: Vec<Then>,
}

/// Durable records that have to say so before a delta is proven.
fn witnesses() -> usize {
    if canary::broken(Canary::ProofByOneRecord) { 1 } else { 2 }
}

/// A record to be written.
pub struct NewRecord {
    /// Which.
    pub sequence: Sequence,
    /// Where, in bytes of the data file.
    pub offset_bytes: u64,
    /// What.
    pub bytes: Bytes,
}

/// The log as it is being written.
pub struct Commit {
    /// The ring.
    pub ring: LogRing,
    secret: u64,
    incarnation: Incarnation,
    queue: VecDeque<Queued>,
    in_flight: VecDeque<InFlight>,
    /// Who found that there was nothing to do, because of a delta that is not written yet.
    followers: VecDeque<(DeltaNumber, Then)>,
    /// Written records that are not durable yet: sequence, and the deltas that they say are synced.
    claims: VecDeque<(Sequence, DeltaNumber)>,
    /// What the last durable record says is synced. It counts as proven once a second one says so too.
    last_claim: DeltaNumber,
    queued: DeltaNumber,
    /// The last record composed.
    pub composed: Mark,
    /// The last record written, with all before it.
    pub written: Mark,
    /// The last durable record.
    pub durable: Mark,
    /// The last proven delta.
    pub proven: DeltaNumber,
    /// The newest delta that somebody wants proven.
    proof_wanted: DeltaNumber,
    /// Pages set aside for deltas that were admitted and are not in a record yet.
    reserved_pages: u64,
    /// The running sync.
    pub sync: Option<RunningSync>,
    /// Who waits for a sync submitted from now on.
    waiters: Vec<Then>,
    /// Counts completed writes, punches and allocations of the data file.
    stamp: u64,
    synced_stamp: u64,
}

impl Commit {
    /// A log that goes on behind `sequence`, under a new incarnation; everything before is proven.
    pub fn new(ring: LogRing, secret: u64, incarnation: Incarnation, sequence: Sequence) -> Self {
        let start = Mark { sequence, number: DeltaNumber(0) };
        Self {
            ring,
            secret,
            incarnation,
            queue: VecDeque::new(),
            in_flight: VecDeque::new(),
            followers: VecDeque::new(),
            claims: VecDeque::new(),
            last_claim: DeltaNumber(0),
            queued: DeltaNumber(0),
            composed: start,
            written: start,
            durable: start,
            proven: DeltaNumber(0),
            proof_wanted: DeltaNumber(0),
            reserved_pages: 0,
            sync: None,
            waiters: Vec::new(),
            stamp: 0,
            synced_stamp: 0,
        }
    }

    /// The opening that writes this log.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Log pages that a delta may take at worst; a large one may need the rest of a data block skipped.
    pub fn pages_for(delta_bytes: usize) -> u64 {
        let pages = LogRecord::pages_for(delta_bytes) as u64;
        if pages > 1 { pages + crate::metadata::PAGES_PER_BLOCK } else { pages }
    }

    /// Sets `pages` aside, if a delta may still take them.
    pub fn reserve(&mut self, pages: u64) -> bool {
        let fits = self.ring.free_pages() >= self.reserved_pages + pages + PROOF_PAGES;
        if fits {
            self.reserved_pages += pages;
        }
        fits
    }

    /// Gives reserved pages back: the delta does not come.
    pub fn unreserve(&mut self, pages: u64) {
        self.reserved_pages -= pages;
    }

    /// The number that the next delta gets.
    pub fn next_number(&self) -> DeltaNumber {
        DeltaNumber(self.queued.0 + 1)
    }

    /// The newest delta there is.
    pub fn newest(&self) -> DeltaNumber {
        self.queued
    }

    /// Appends an applied delta, for which pages were reserved. `then` happens when its record is written.
    pub fn push(&mut self, delta: Delta, then: Then) -> DeltaNumber {
        let number = self.next_number();
        self.queued = number;
        let bytes = delta.encoded_bytes();
        self.queue.push_back(Queued { number, delta, bytes, then });
        number
    }

    /// Records whose writes are in flight.
    pub fn writes_in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// The next record of queued deltas; as many as fit into the rest of the data block.
    pub fn compose(&mut self) -> Option<NewRecord> {
        let room_pages = self.ring.contiguous_pages(self.ring.head);
        let room = room_pages as usize * PAGE_BYTES - RECORD_HEADER_BYTES;
        let first = self.queue.front()?;
        if first.bytes > room {
            // The delta goes whole into the next data block; this record only leads there.
            return Some(self.put_record(Vec::new(), Vec::new(), room_pages as usize));
        }
        let (mut bytes, mut deltas, mut thens) = (0, Vec::new(), Vec::new());
        let mut number = self.composed.number;
        while let Some(queued) = self.queue.pop_front_if(|q| bytes + q.bytes <= room) {
            bytes += queued.bytes;
            number = queued.number;
            self.reserved_pages -= Self::pages_for(queued.bytes);
            deltas.push(queued.delta);
            thens.push(queued.then);
        }
        self.composed.number = number;
        Some(self.put_record(deltas, thens, LogRecord::pages_for(bytes)))
    }

    fn put_record(&mut self, deltas: Vec<Delta>, thens: Vec<Then>, pages: usize) -> NewRecord {
        // Writing over what a root slot needs would cost acknowledged data: better to stop here.
        assert!(pages as u64 <= self.ring.free_pages(), "a log record was composed without room for it");
        let sequence = self.composed.sequence.next();
        self.composed.sequence = sequence;
        let record = LogRecord {
            sequence,
            incarnation: self.incarnation,
            synced: self.durable.sequence,
            pages: pages as u16,
            deltas,
        };
        let offset_bytes = self.ring.offset_bytes(self.ring.head);
        self.ring.head += pages as u64;
        let synced = self.durable.number;
        self.in_flight.push_back(InFlight { sequence, mark: self.composed, synced, written: false, thens });
        NewRecord { sequence, offset_bytes, bytes: record.encode(self.secret, pages).freeze() }
    }

    /// A record's write completed. What happens once it and all before it are written is given back.
    pub fn record_written(&mut self, sequence: Sequence) -> Vec<Then> {
        self.stamp += 1;
        if let Some(record) = self.in_flight.iter_mut().find(|record| record.sequence == sequence) {
            record.written = true;
        }
        let mut thens = Vec::new();
        while let Some(record) = self.in_flight.pop_front_if(|record| record.written) {
            self.written = record.mark;
            self.claims.push_back((record.sequence, record.synced));
            thens.extend(record.thens);
        }
        let written = self.written.number;
        while let Some((_, then)) = self.followers.pop_front_if(|(number, _)| *number <= written) {
            thens.push(then);
        }
        thens
    }

    /// Calls `then` when all deltas so far are written, or gives it back if they are. For whoever is answered because
    /// of what they did: the answer must not outlive them.
    pub fn follow(&mut self, then: Then) -> Option<Then> {
        if self.written.number >= self.queued || canary::broken(Canary::NothingToDoAtOnce) {
            return Some(then);
        }
        self.followers.push_back((self.queued, then));
        None
    }

    /// A write, punch or allocation of the data file completed.
    pub fn data_changed(&mut self) {
        self.stamp += 1;
    }

    /// Whether the last completed sync was submitted after everything that has completed.
    pub fn is_all_synced(&self) -> bool {
        self.stamp == self.synced_stamp
    }

    /// Calls `then` when a sync submitted from now on has completed.
    pub fn wait_for_sync(&mut self, then: Then) {
        match &mut self.sync {
            Some(sync) if canary::broken(Canary::FlushSharesRunningSync) => sync.waiters.push(then),
            _ => self.waiters.push(then),
        }
    }

    /// Wants delta `number` proven.
    pub fn want_proof(&mut self, number: DeltaNumber) {
        self.proof_wanted = self.proof_wanted.max(number.min(self.queued));
    }

    /// The next empty record that a wanted proof needs. A proof is two records, in pages of their own: one that is
    /// lost or rots must not make a proven delta look unproven.
    pub fn compose_proof(&mut self) -> Option<NewRecord> {
        let wanted = self.proof_wanted;
        let composed = self.in_flight.iter().filter(|record| record.synced >= wanted).count();
        let due = wanted > self.proven
            && self.durable.number >= wanted
            && composed + self.claims_of(wanted) < witnesses();
        (due && self.has_proof_page()).then(|| self.put_record(Vec::new(), Vec::new(), 1))
    }

    /// How many written records say that `number` is synced.
    fn claims_of(&self, number: DeltaNumber) -> usize {
        let written = self.claims.iter().filter(|(_, claim)| *claim >= number).count();
        written + usize::from(self.last_claim >= number)
    }

    /// Whether a page is left that no admitted delta may need.
    fn has_proof_page(&self) -> bool {
        self.ring.free_pages() > self.reserved_pages
    }

    /// Whether a proof is wanted for which the log has no page; a checkpoint makes room.
    pub fn proof_starves(&self) -> bool {
        self.proof_wanted > self.proven && !self.has_proof_page()
    }

    /// Whether a sync would bring anything that somebody waits for; the records up to `wanted` at least.
    pub fn needs_sync(&self, wanted: Sequence) -> bool {
        let records = wanted > self.durable.sequence && self.written.sequence >= wanted;
        let deltas = self.proof_wanted > self.durable.number && self.written.number >= self.proof_wanted;
        let durable = records || deltas;
        let proof = self.proof_wanted > self.proven && self.claims_of(self.proof_wanted) >= witnesses();
        !self.waiters.is_empty() || durable || proof
    }

    /// Notes a sync that is being submitted.
    pub fn sync_submitted(&mut self) {
        let waiters = std::mem::take(&mut self.waiters);
        self.sync = Some(RunningSync { covers: self.written, stamp: self.stamp, waiters });
    }

    /// The running sync completed without error. Who waited for it is given back.
    pub fn sync_completed(&mut self) -> Vec<Then> {
        let Some(mut sync) = self.sync.take() else { return Vec::new() };
        if canary::broken(Canary::DurableAtCompletion) {
            sync.covers = self.written;
            sync.stamp = self.stamp;
        }
        self.durable = sync.covers;
        self.synced_stamp = sync.stamp;
        while let Some((_, claim)) =
            self.claims.pop_front_if(|(sequence, _)| *sequence <= sync.covers.sequence)
        {
            let witnessed = if canary::broken(Canary::ProofByOneRecord) { claim } else { self.last_claim };
            self.proven = self.proven.max(witnessed.min(claim));
            self.last_claim = claim;
        }
        if self.is_all_synced() {
            // Nothing completed since it was submitted: whoever came while it ran has nothing more to wait for.
            sync.waiters.append(&mut self.waiters);
        }
        sync.waiters
    }

    /// Both durable root slots hold everything up to `number`.
    pub fn in_both_slots(&mut self, number: DeltaNumber) {
        self.proven = self.proven.max(number);
    }

    /// Everything that waits, for a pool that failed.
    pub fn drain(&mut self) -> Vec<Then> {
        let mut thens = Vec::new();
        for queued in self.queue.drain(..) {
            self.reserved_pages -= Self::pages_for(queued.bytes);
            thens.push(queued.then);
        }
        self.in_flight.drain(..).for_each(|record| thens.extend(record.thens));
        thens.extend(self.followers.drain(..).map(|(_, then)| then));
        thens.append(&mut self.waiters);
        if let Some(sync) = self.sync.take() {
            thens.extend(sync.waiters);
        }
        thens
    }
}
