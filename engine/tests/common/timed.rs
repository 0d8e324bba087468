//! A core in simulated time, with many requests under way.
//!
//! Owns the time, and the answers with the moments at which they came. Judges nothing.

use super::{new_volume, open_options};
use vellum_engine::options::{CreateOptions, OpenOptions};
use vellum_engine::request::{NewVolume, Outcome, PropertiesChange, Reply, Request, RequestId};
use vellum_engine::storage::{Disk, MemoryDisk};
use vellum_engine::units::VolumeId;
use vellum_engine::{Core, Side};

pub const MIB: u64 = 1 << 20;

/// A core on two disks in memory, whose time is what the test says.
pub struct Timed {
    pub core: Core,
    pub data: MemoryDisk,
    pub metadata: MemoryDisk,
    pub now_ms: u64,
    next: u64,
    /// Answers, and when they came.
    pub answers: Vec<(RequestId, u64, Reply)>,
}

impl Timed {
    pub fn new(data_blocks: u64, enforce_limits: bool) -> Self {
        Self::with(data_blocks, &OpenOptions { enforce_limits, ..open_options() })
    }

    pub fn with(data_blocks: u64, options: &OpenOptions) -> Self {
        let create =
            CreateOptions { data_blocks, log_blocks: 64, uuid: [1; 16], secret: 4, created_unix_s: 0 };
        let (mut data, mut metadata) = (MemoryDisk::new(0), MemoryDisk::new(0));
        vellum_engine::metadata::create(&mut data, &mut metadata, &create).unwrap();
        let core = vellum_engine::open(&mut data, &mut metadata, options).unwrap();
        Self { core, data, metadata, now_ms: 0, next: 0, answers: Vec::new() }
    }

    pub fn submit(&mut self, request: Request) -> RequestId {
        self.next += 1;
        self.core.submit(RequestId(self.next), request);
        RequestId(self.next)
    }

    /// Everything that can be done without time passing.
    pub fn settle(&mut self) {
        loop {
            self.core.turn(self.now_ms);
            while let Some((side, ticket, operation)) = self.core.next_operation() {
                match side {
                    Side::Data => self.data.submit(ticket, operation),
                    Side::Metadata => self.metadata.submit(ticket, operation),
                }
            }
            let now_ms = self.now_ms;
            let replies = std::iter::from_fn(|| self.core.next_reply());
            self.answers.extend(replies.map(|(id, reply)| (id, now_ms, reply)));
            let done = self.data.next_completion().or_else(|| self.metadata.next_completion());
            match done {
                Some(completion) => self.core.complete(completion),
                None if self.core.is_idle() => return,
                None => {}
            }
        }
    }

    /// Carries one request out.
    pub fn ask(&mut self, request: Request) -> Reply {
        let id = self.submit(request);
        self.settle();
        self.answers.iter().find(|(other, ..)| *other == id).expect("it is answered at once").2.clone()
    }

    /// Goes to the time that the core asks for. Whether it asks for one before `until_ms`.
    pub fn pass_time(&mut self, until_ms: u64) -> bool {
        match self.core.wants_turn_at_ms().filter(|due_ms| *due_ms < until_ms) {
            Some(due_ms) => {
                assert!(due_ms > self.now_ms, "a turn would have done it");
                self.now_ms = due_ms;
                self.settle();
                true
            }
            None => {
                self.now_ms = until_ms;
                false
            }
        }
    }

    pub fn volume(&mut self, number: u8) -> VolumeId {
        let new = NewVolume { uuid: [number; 16], ..new_volume(&format!("v{number}")) };
        let Outcome::Created(made) =
            self.ask(Request::CreateVolume { new, size_bytes: 64 * MIB, reservation_bytes: 0 }).unwrap()
        else {
            panic!("no volume was made")
        };
        made[0]
    }

    pub fn set(&mut self, volume: VolumeId, change: PropertiesChange) {
        self.ask(Request::SetProperties { volume, change: Box::new(change) }).unwrap();
    }

    pub fn limited(&mut self, number: u8, iops: u64, bytes_per_s: u64, in_flight: u32) -> VolumeId {
        let volume = self.volume(number);
        let change = PropertiesChange {
            limit_iops: Some(iops),
            limit_bytes_per_s: Some(bytes_per_s),
            limit_in_flight: Some(in_flight),
            ..PropertiesChange::default()
        };
        self.set(volume, change);
        self.answers.clear();
        volume
    }
}

pub fn read(volume: VolumeId, offset_bytes: u64, length_bytes: u64) -> Request {
    Request::Read { volume, offset_bytes, length_bytes }
}

pub fn write(volume: VolumeId, offset_bytes: u64, length_bytes: u64, byte: u8) -> Request {
    let bytes = vec![byte; length_bytes as usize].into();
    Request::Write { volume, offset_bytes, bytes, fua: false }
}
