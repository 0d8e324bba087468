//! A pool driven by hand: operations are carried out at once, but for those that a schedule holds back.
//!
//! Owns the way of requests and operations for `directed.rs`.

use super::RunConfig;
use crate::adapter::Side;
use crate::model::{Check, Violation};
use bytes::Bytes;
use vellum_engine::Core;
use vellum_engine::options::OpenOptions;
use vellum_engine::request::{NewVolume, Outcome, Reply, Request, RequestId, Segment};
use vellum_engine::storage::{Completion, Disk, MemoryDisk, Operation, Ticket};
use vellum_engine::units::VolumeId;

/// What most requests of these schedules move.
pub const PAGE_BYTES: u64 = 4096;

pub fn named(name: &str, uuid: u8) -> NewVolume {
    NewVolume { name: name.to_owned(), uuid: [uuid; 16], created_unix_s: 0 }
}

pub fn content(byte: u8) -> Bytes {
    Bytes::from(vec![byte; PAGE_BYTES as usize])
}

pub fn is_content(segments: &[Segment], byte: u8) -> bool {
    segments
        .iter()
        .all(|segment| matches!(segment, Segment::Bytes(bytes) if bytes.iter().all(|b| *b == byte)))
}

pub fn first_made(outcome: Outcome) -> Check<VolumeId> {
    match outcome {
        Outcome::Created(made) => made.first().copied().ok_or_else(|| Violation::new("nothing was made")),
        other => Err(Violation(format!("nothing was made: {other:?}"))),
    }
}

/// A pool whose operations are carried out at once, but for those that are held back.
pub struct HandPool {
    pub core: Core,
    data: MemoryDisk,
    metadata: MemoryDisk,
    replies: Vec<(RequestId, Reply)>,
    next_id: u64,
    pub now_ms: u64,
}

impl HandPool {
    pub fn new(config: &RunConfig) -> Check<Self> {
        Self::with(config, OpenOptions { recycle_blocks: 64, ..config.open.clone() })
    }

    pub fn with(config: &RunConfig, options: OpenOptions) -> Check<Self> {
        let (mut data, mut metadata) = (MemoryDisk::new(0), MemoryDisk::new(0));
        let failed = |error| Violation(format!("no pool: {error}"));
        vellum_engine::create(&mut data, &mut metadata, &config.create).map_err(failed)?;
        let core = vellum_engine::open(&mut data, &mut metadata, &options).map_err(failed)?;
        Ok(Self { core, data, metadata, replies: Vec::new(), next_id: 0, now_ms: 0 })
    }

    pub fn submit(&mut self, request: Request) -> RequestId {
        self.next_id += 1;
        self.core.submit(RequestId(self.next_id), request);
        RequestId(self.next_id)
    }

    /// Carries everything out, and lets enough time pass for proofs.
    pub fn rest(&mut self) {
        (0..200).for_each(|_| self.step());
    }

    fn step(&mut self) {
        self.core.turn(self.now_ms);
        match self.core.next_operation() {
            Some(operation) => self.carry_out(operation),
            None => self.now_ms += 500,
        }
        self.replies.extend(std::iter::from_fn(|| self.core.next_reply()));
    }

    /// Asks, and lets no more time pass than proofs take.
    pub fn ask_soon(&mut self, request: Request) -> Check<Outcome> {
        let (id, begin_ms) = (self.submit(request), self.now_ms);
        while self.now_ms < begin_ms + 3000 {
            self.step();
        }
        self.reply(id)?.map_err(|error| Violation(format!("a request failed: {error}")))
    }

    /// Carries one operation out, and tells the core.
    pub fn carry_out(&mut self, (side, ticket, operation): (Side, Ticket, Operation)) {
        let disk = if side == Side::Data { &mut self.data } else { &mut self.metadata };
        disk.submit(ticket, operation);
        let done: Vec<Completion> = std::iter::from_fn(|| disk.next_completion()).collect();
        done.into_iter().for_each(|completion| self.core.complete(completion));
    }

    pub fn hold_next_read(&mut self) -> Check<(Side, Ticket, Operation)> {
        self.hold_next(|operation| matches!(operation, Operation::Read { .. }))
    }

    /// The next operation of the data file that `wanted` accepts; what comes before is carried out.
    pub fn hold_next(&mut self, wanted: impl Fn(&Operation) -> bool) -> Check<(Side, Ticket, Operation)> {
        // Pages that are not in memory are read first.
        for _ in 0..100 {
            self.core.turn(self.now_ms);
            match self.core.next_operation() {
                Some(next) if next.0 == Side::Data && wanted(&next.2) => return Ok(next),
                Some(other) => self.carry_out(other),
                None => {}
            }
        }
        Err(Violation::new("the operation that was waited for never came"))
    }

    /// The same, though it takes time.
    pub fn hold_next_in_time(
        &mut self,
        wanted: impl Fn(&Operation) -> bool,
    ) -> Check<(Side, Ticket, Operation)> {
        for _ in 0..100 {
            if let Ok(held) = self.hold_next(&wanted) {
                return Ok(held);
            }
            self.now_ms += 100;
        }
        Err(Violation::new("the operation that was waited for never came in time"))
    }

    /// Writes and flushes, and does nothing else: no time passes in which a proof might come.
    pub fn write_at_once(&mut self, volume: VolumeId, byte: u8) -> Check {
        let id = self.submit(Request::Write { volume, offset_bytes: 0, bytes: content(byte), fua: true });
        for _ in 0..200 {
            self.core.turn(self.now_ms);
            if let Some(operation) = self.core.next_operation() {
                self.carry_out(operation);
            }
            self.replies.extend(std::iter::from_fn(|| self.core.next_reply()));
            if self.replies.iter().any(|(answered, _)| *answered == id) {
                break;
            }
        }
        self.reply(id)?.map(drop).map_err(|error| Violation(format!("a write failed: {error}")))
    }

    /// The pool after the death of its process; what was held back never happened.
    pub fn reopened(self, config: &RunConfig) -> Check<Self> {
        let (mut data, mut metadata) = (self.data, self.metadata);
        let core = vellum_engine::open(&mut data, &mut metadata, &config.open)
            .map_err(|error| Violation(format!("the pool does not open: {error}")))?;
        Ok(Self { core, data, metadata, replies: Vec::new(), next_id: 0, now_ms: 0 })
    }

    pub fn reply(&mut self, id: RequestId) -> Check<Reply> {
        let at = self.replies.iter().position(|(answered, _)| *answered == id);
        at.map(|at| self.replies.swap_remove(at).1).ok_or_else(|| Violation::new("no answer came"))
    }

    pub fn ask(&mut self, request: Request) -> Check<Outcome> {
        let id = self.submit(request);
        self.rest();
        self.reply(id)?.map_err(|error| Violation(format!("a request failed: {error}")))
    }

    pub fn created(&mut self, request: Request) -> Check<VolumeId> {
        self.ask(request).and_then(first_made)
    }

    pub fn create(&mut self, number: u8) -> Check<VolumeId> {
        self.created(Request::CreateVolume {
            new: named("v", number),
            size_bytes: 1 << 20,
            reservation_bytes: 0,
        })
    }

    pub fn write(&mut self, volume: VolumeId, byte: u8) -> Check {
        self.ask(Request::Write { volume, offset_bytes: 0, bytes: content(byte), fua: true }).map(drop)
    }
}
