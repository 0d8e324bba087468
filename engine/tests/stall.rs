//! Pools without room: who waits, who goes on, who is woken, who fails.

#[allow(dead_code)]
mod common;

use common::{empty_pool, new_volume, open_options};
use std::collections::BTreeMap;
use vellum_engine::error::ErrorKind;
use vellum_engine::options::OpenOptions;
use vellum_engine::request::{Outcome, PropertiesChange, Reply, Request, RequestId, Segment};
use vellum_engine::settings::Settings;
use vellum_engine::storage::{Completion, Disk, DiskError, HostRoom, MemoryDisk, Operation, Ticket};
use vellum_engine::units::{BLOCK_BYTES, SECTOR_BYTES, VolumeId};
use vellum_engine::{Core, Shortage, Side, SpaceState};

/// A core on memory, driven by hand. The data disk gives no room behind a limit.
struct Driven {
    core: Core,
    data: MemoryDisk,
    metadata: MemoryDisk,
    answers: BTreeMap<u64, Reply>,
    next: u64,
    now_ms: u64,
    host_blocks: u64,
    /// How far the metadata file may reach.
    metadata_bytes: u64,
    /// Data writes are refused for want of room.
    refuses_writes: bool,
    /// Writes of the log and of the metadata file are refused, too.
    refuses_own: bool,
    /// The next write of the metadata file is refused.
    refuses_metadata_once: bool,
    room: Option<HostRoom>,
}

impl Driven {
    fn new(data_blocks: u64) -> Self {
        let options = OpenOptions { can_wait: true, ..open_options() };
        let (mut data, mut metadata) = empty_pool(data_blocks, 2).close().unwrap();
        let core = vellum_engine::open(&mut data, &mut metadata, &options).unwrap();
        let (host_blocks, room) = (u64::MAX, None);
        let answers = BTreeMap::new();
        Self {
            core,
            data,
            metadata,
            answers,
            next: 0,
            now_ms: 0,
            host_blocks,
            metadata_bytes: u64::MAX,
            refuses_writes: false,
            refuses_own: false,
            refuses_metadata_once: false,
            room,
        }
    }

    /// Asks without waiting for the answer.
    fn ask(&mut self, request: Request) -> u64 {
        let id = self.next;
        self.next += 1;
        self.core.submit(RequestId(id), request);
        self.settle();
        id
    }

    fn now(&mut self, request: Request) -> Reply {
        let id = self.ask(request);
        self.answers.remove(&id).expect("this waits for nothing")
    }

    fn pass(&mut self, ms: u64) {
        for _ in 0..ms.div_ceil(100) {
            self.now_ms += 100;
            self.settle();
        }
    }

    fn settle(&mut self) {
        loop {
            self.core.turn(self.now_ms);
            if self.core.wants_host_room() {
                self.core.host_has_room(self.room);
                continue;
            }
            let mut any = false;
            while let Some((side, ticket, operation)) = self.core.next_operation() {
                any = true;
                let completion = self.perform(side, ticket, operation);
                self.core.complete(completion);
            }
            while let Some((id, reply)) = self.core.next_reply() {
                self.answers.insert(id.0, reply);
            }
            if !any {
                return;
            }
        }
    }

    fn perform(&mut self, side: Side, ticket: Ticket, operation: Operation) -> Completion {
        let is_refused = match &operation {
            Operation::Allocate { offset_bytes, length_bytes } if side == Side::Metadata => {
                offset_bytes + length_bytes > self.metadata_bytes
            }
            Operation::Write { .. } if side == Side::Metadata && self.refuses_metadata_once => {
                self.refuses_metadata_once = false;
                true
            }
            // The log stands in the first blocks.
            Operation::Write { offset_bytes, .. }
                if side == Side::Metadata || *offset_bytes < 2 * BLOCK_BYTES =>
            {
                self.refuses_own
            }
            _ if side == Side::Metadata => false,
            Operation::Allocate { offset_bytes, length_bytes } => {
                offset_bytes + length_bytes > self.host_blocks.saturating_mul(BLOCK_BYTES)
            }
            Operation::Write { .. } => self.refuses_writes,
            _ => false,
        };
        if is_refused {
            return Completion { ticket, operation, result: Err(DiskError::NoSpace) };
        }
        let disk = if side == Side::Data { &mut self.data } else { &mut self.metadata };
        disk.submit(ticket, operation);
        disk.next_completion().unwrap()
    }

    fn volume(&mut self, name: &str) -> VolumeId {
        let request =
            Request::CreateVolume { new: new_volume(name), size_bytes: 1 << 30, reservation_bytes: 0 };
        let Outcome::Created(made) = self.now(request).unwrap() else { panic!("nothing was made") };
        made[0]
    }

    fn configure(&mut self, change: impl FnOnce(&mut Settings)) {
        let mut settings = self.core.settings().clone();
        change(&mut settings);
        self.now(Request::Configure { settings: Box::new(settings) }).unwrap();
    }

    fn write(&mut self, volume: VolumeId, block: u64) -> u64 {
        self.ask(write(volume, block))
    }

    /// Fills the pool, and gives the first block that waits and its request.
    fn fill(&mut self, volume: VolumeId) -> (u64, u64) {
        for block in 0.. {
            let id = self.write(volume, block);
            if self.answers.remove(&id).is_none() {
                return (block, id);
            }
        }
        unreachable!()
    }

    fn answer(&mut self, id: u64) -> Option<Reply> {
        self.answers.remove(&id)
    }
}

fn write(volume: VolumeId, block: u64) -> Request {
    let bytes = vec![(block % 250) as u8 + 1; BLOCK_BYTES as usize].into();
    Request::Write { volume, offset_bytes: block * BLOCK_BYTES, bytes, fua: false }
}

#[test]
fn writes_wait_and_everything_else_goes_on() {
    let mut pool = Driven::new(64);
    let volume = pool.volume("disk");
    let (full, waiting) = pool.fill(volume);
    let status = pool.core.status();
    assert_eq!((status.space_state, status.stall.writes), (SpaceState::OutOfSpace, 1));
    assert_eq!(status.stall.shortage, Some(Shortage::Blocks));
    pool.now(write(volume, 0)).unwrap();
    pool.now(Request::Flush).unwrap();
    let read = Request::Read { volume, offset_bytes: 0, length_bytes: BLOCK_BYTES };
    pool.now(read).unwrap();
    // Where the write waits others may be: it holds nothing.
    let (offset_bytes, length_bytes) = (full * BLOCK_BYTES, BLOCK_BYTES);
    pool.now(Request::Discard { volume, offset_bytes, length_bytes, fua: false }).unwrap();
    pool.now(Request::Snapshot { cuts: vec![(volume, new_volume("disk@now"))] }).unwrap();
    pool.pass(5000);
    assert_eq!(pool.core.status().stall.oldest_ms, 5000);
    assert!(pool.answer(waiting).is_none());
    pool.now(Request::Extend { data_blocks: 128 }).unwrap();
    pool.answer(waiting).expect("it was woken").unwrap();
    assert_eq!(pool.core.status().stall.writes, 0);
    assert_ne!(pool.core.status().space_state, SpaceState::OutOfSpace);
}

#[test]
fn who_came_first_is_served_first() {
    let mut pool = Driven::new(64);
    let volume = pool.volume("disk");
    let (full, first) = pool.fill(volume);
    let waiting: Vec<u64> = [first].into_iter().chain((1..6).map(|n| pool.write(volume, full + n))).collect();
    for (done, id) in waiting.iter().enumerate() {
        let offset_bytes = done as u64 * BLOCK_BYTES;
        pool.now(Request::Discard { volume, offset_bytes, length_bytes: BLOCK_BYTES, fua: false }).unwrap();
        // One comes in between, before the freed block is proven.
        let late = pool.write(volume, 100 + done as u64);
        pool.pass(2000);
        pool.answer(*id).unwrap_or_else(|| panic!("number {done} is next")).unwrap();
        assert!(waiting[done + 1..].iter().all(|id| !pool.answers.contains_key(id)));
        assert!(pool.answer(late).is_none());
    }
}

#[test]
fn after_the_time_out_writes_fail_until_there_is_room() {
    let mut pool = Driven::new(64);
    pool.configure(|settings| settings.no_space_timeout_s = 3);
    let volume = pool.volume("disk");
    let (full, waiting) = pool.fill(volume);
    pool.pass(2900);
    assert!(pool.answer(waiting).is_none());
    pool.pass(200);
    assert_eq!(pool.answer(waiting).unwrap().unwrap_err().kind(), ErrorKind::NoSpace);
    // Nobody waits for what is known not to come.
    assert_eq!(pool.now(write(volume, full + 1)).unwrap_err().kind(), ErrorKind::NoSpace);
    assert_eq!(pool.core.status().space_state, SpaceState::OutOfSpace);
    pool.now(Request::Extend { data_blocks: 66 }).unwrap();
    let (_, waiting) = pool.fill(volume);
    pool.pass(2900);
    assert!(pool.answer(waiting).is_none(), "time counts anew");
}

#[test]
fn a_change_of_policy_reaches_those_who_wait() {
    let mut pool = Driven::new(64);
    pool.configure(|settings| settings.no_space_timeout_s = 0);
    let volume = pool.volume("disk");
    let (_, waiting) = pool.fill(volume);
    pool.pass(600_000);
    assert!(pool.answer(waiting).is_none(), "0 is for ever");
    pool.configure(|settings| settings.set("no-space", "error").unwrap());
    pool.pass(100);
    assert_eq!(pool.answer(waiting).unwrap().unwrap_err().kind(), ErrorKind::NoSpace);
}

#[test]
fn a_full_host_is_waited_for_as_a_full_pool_is() {
    let mut pool = Driven::new(4096);
    let volume = pool.volume("disk");
    pool.host_blocks = 40;
    let (full, waiting) = pool.fill(volume);
    assert!((30..=40).contains(&full), "{full}");
    let status = pool.core.status();
    assert_eq!((status.space_state, status.stall.writes), (SpaceState::OutOfSpace, 1));
    pool.now(write(volume, 0)).unwrap();
    pool.pass(5000);
    assert!(pool.answer(waiting).is_none());
    pool.host_blocks = 400;
    pool.pass(1100);
    pool.answer(waiting).expect("the host is asked every second").unwrap();
}

#[test]
fn a_full_host_is_told_and_timed_also_if_the_pool_may_grow() {
    let mut pool = Driven::new(4096);
    pool.configure(|settings| {
        settings.no_space_timeout_s = 3;
        settings.auto_extend_bytes = 5000 * BLOCK_BYTES;
    });
    let volume = pool.volume("disk");
    pool.host_blocks = 40;
    let (_, waiting) = pool.fill(volume);
    assert_eq!(
        pool.core.status().space_state,
        SpaceState::OutOfSpace,
        "most of the pool is free, and of no use"
    );
    pool.pass(3100);
    assert_eq!(pool.answer(waiting).unwrap().unwrap_err().kind(), ErrorKind::NoSpace);
}

#[test]
fn a_write_that_the_host_refuses_waits_and_is_done_later() {
    let mut pool = Driven::new(64);
    let volume = pool.volume("disk");
    pool.now(write(volume, 0)).unwrap();
    pool.refuses_writes = true;
    let (over, new) = (pool.write(volume, 0), pool.write(volume, 1));
    let status = pool.core.status();
    assert_eq!((status.stall.writes, status.stall.shortage), (2, Some(Shortage::Host)));
    assert!(status.stall.overwrites_need_room);
    pool.refuses_writes = false;
    pool.pass(1100);
    pool.answer(over).unwrap().unwrap();
    pool.answer(new).unwrap().unwrap();
    assert_eq!(pool.core.status().stall.shortage, None);
}

#[test]
fn what_nobody_asks_for_any_more_waits_no_longer() {
    let mut pool = Driven::new(64);
    let volume = pool.volume("disk");
    let (full, waiting) = pool.fill(volume);
    let other = pool.write(volume, full + 1);
    pool.core.cancel_waiting(|id| id.0 == waiting);
    pool.settle();
    pool.answer(waiting).unwrap().unwrap_err();
    assert!(pool.answer(other).is_none());
    pool.now(Request::Delete { volumes: vec![volume], deferred: false }).unwrap();
    pool.pass(100);
    pool.answer(other).expect("its volume is gone").unwrap_err();
}

#[test]
fn a_pool_closes_although_writes_wait() {
    let mut pool = Driven::new(64);
    let volume = pool.volume("disk");
    let (_, waiting) = pool.fill(volume);
    pool.now(Request::Close).unwrap();
    pool.answer(waiting).unwrap().unwrap_err();
}

#[test]
fn a_pool_grows_by_itself_to_its_maximum_and_what_the_host_holds() {
    let mut pool = Driven::new(64);
    pool.configure(|settings| settings.auto_extend_bytes = 5000 * BLOCK_BYTES);
    pool.room = Some(HostRoom { allocated_bytes: 0, free_bytes: 100 << 30, total_bytes: 100 << 30 });
    let volume = pool.volume("disk");
    for block in 0..2000 {
        let id = pool.write(volume, block);
        pool.answer(id).expect("it grew in time").unwrap();
    }
    let size = pool.core.status().data_blocks;
    assert!((2000..5000).contains(&size), "in steps: {size}");
    pool.room = Some(HostRoom { allocated_bytes: 0, free_bytes: 2 << 20, total_bytes: 10 << 20 });
    let (full, waiting) = pool.fill(volume);
    assert!(full < 5000);
    assert_eq!(pool.core.status().data_blocks, size.max(pool.core.status().data_blocks));
    pool.room = Some(HostRoom { allocated_bytes: 0, free_bytes: 100 << 30, total_bytes: 100 << 30 });
    pool.pass(6000);
    pool.answer(waiting).expect("the host has room again").unwrap();
    let (_, _) = pool.fill(volume);
    assert_eq!(pool.core.status().data_blocks, 5000);
}

/// A pool that is not low by its mark has nothing to give to this write all the same.
#[test]
fn a_pool_grows_for_who_waits_although_it_is_not_low() {
    let mut pool = Driven::new(64);
    let volume = pool.volume("disk");
    pool.room = Some(HostRoom { allocated_bytes: 0, free_bytes: 100 << 30, total_bytes: 100 << 30 });
    pool.configure(|settings| {
        settings.low_water_bytes = Some(0);
        settings.auto_extend_bytes = 100 * BLOCK_BYTES;
    });
    let (full, _) = pool.fill(volume);
    assert!(full > 90, "{full}");

    let mut pool = Driven::new(64);
    let (kept, other) = (pool.volume("kept"), pool.volume("other"));
    pool.room = Some(HostRoom { allocated_bytes: 0, free_bytes: 100 << 30, total_bytes: 100 << 30 });
    let change =
        PropertiesChange { reservation_bytes: Some(50 * BLOCK_BYTES), ..PropertiesChange::default() };
    pool.now(Request::SetProperties { volume: kept, change: Box::new(change) }).unwrap();
    let (promised, waiting) = pool.fill(other);
    assert!(promised < 14, "{promised}");
    pool.configure(|settings| settings.auto_extend_bytes = 100 * BLOCK_BYTES);
    pool.answer(waiting).expect("it grew").unwrap();
    assert_eq!(pool.core.status().data_blocks, 100);
}

#[test]
fn events_are_numbered_and_come_again_while_it_is_not_well() {
    let mut pool = Driven::new(64);
    pool.configure(|settings| settings.low_water_bytes = Some(10 * BLOCK_BYTES));
    pool.configure(|settings| settings.no_space_timeout_s = 0);
    let volume = pool.volume("disk");
    pool.fill(volume);
    pool.pass(61_000);
    pool.now(Request::Extend { data_blocks: 640 }).unwrap();
    pool.pass(100);
    let events: Vec<_> = std::iter::from_fn(|| pool.core.next_space_event()).collect();
    let states: Vec<SpaceState> = events.iter().map(|event| event.state).collect();
    let out = SpaceState::OutOfSpace;
    // It is out of space until whoever waits has been given a block.
    assert_eq!(states, [SpaceState::Low, out, out, SpaceState::Ok]);
    assert!(events.iter().zip(1..).all(|(event, number)| event.number == number));
    assert_eq!(events[2].stall.writes, 1);
    assert_eq!(pool.core.status().space_event, 4);
}

/// A part of a sector that waits has read what was there: it must be read anew when its turn comes.
#[test]
fn a_write_of_a_part_that_waited_merges_with_what_is_there_then() {
    let mut pool = Driven::new(64);
    let volume = pool.volume("disk");
    pool.fill(volume);
    pool.now(Request::Snapshot { cuts: vec![(volume, new_volume("disk@a"))] }).unwrap();
    let part = |byte: u8, at: u64| Request::Write {
        volume,
        offset_bytes: at,
        bytes: vec![byte; 100].into(),
        fua: false,
    };
    let (first, second) = (pool.ask(part(8, 0)), pool.ask(part(9, 1000)));
    assert!(pool.answer(first).is_none() && pool.answer(second).is_none());
    pool.now(Request::Extend { data_blocks: 128 }).unwrap();
    pool.answer(first).unwrap().unwrap();
    pool.answer(second).unwrap().unwrap();
    let read = Request::Read { volume, offset_bytes: 0, length_bytes: SECTOR_BYTES };
    let Outcome::Data(segments) = pool.now(read).unwrap() else { panic!() };
    let bytes: Vec<u8> = segments
        .into_iter()
        .flat_map(|segment| match segment {
            vellum_engine::request::Segment::Bytes(bytes) => bytes.to_vec(),
            vellum_engine::request::Segment::Zeros(length) => vec![0; length as usize],
        })
        .collect();
    let count = |byte: u8| bytes.iter().filter(|other| **other == byte).count();
    assert_eq!((count(8), count(9), count(1)), (100, 100, SECTOR_BYTES as usize - 200));
}

/// Mappings of so much of a volume stand in one page.
const WINDOW_BYTES: u64 = 64 << 30;

#[test]
fn zeros_that_would_be_holes_wait_for_metadata_as_other_writes_do() {
    let mut pool = Driven::new(4096);
    let new = Request::CreateVolume { new: new_volume("disk"), size_bytes: 1 << 50, reservation_bytes: 0 };
    let Outcome::Created(made) = pool.now(new).unwrap() else { panic!("nothing was made") };
    let volume = made[0];
    pool.configure(|settings| settings.detect_zeros = true);
    let sector = |window: u64, byte| Request::Write {
        volume,
        offset_bytes: window * WINDOW_BYTES,
        bytes: vec![byte; SECTOR_BYTES as usize].into(),
        fua: false,
    };
    let written = 300;
    (0..written).for_each(|window| drop(pool.now(sector(window, 7)).unwrap()));
    // Every page is shared from now on: clearing in one takes a new page, as writing does.
    pool.now(Request::Snapshot { cuts: vec![(volume, new_volume("disk@s"))] }).unwrap();
    pool.metadata_bytes = pool.metadata.size_bytes();
    let first_waiting = (written..).find_map(|window| {
        let id = pool.ask(sector(window, 7));
        pool.answer(id).is_none().then_some(id)
    });
    let zeros = pool.ask(sector(0, 0));
    assert!(pool.answer(zeros).is_none(), "it waits");
    let status = pool.core.status().stall;
    assert_eq!((status.writes, status.shortage), (2, Some(Shortage::Metadata)));
    pool.metadata_bytes = u64::MAX;
    pool.pass(2000);
    pool.answer(first_waiting.unwrap()).unwrap().unwrap();
    pool.answer(zeros).unwrap().unwrap();
    let read = Request::Read { volume, offset_bytes: 0, length_bytes: SECTOR_BYTES };
    let Ok(Outcome::Data(segments)) = pool.now(read) else { panic!("it can be read") };
    assert!(segments.iter().all(|segment| match segment {
        Segment::Bytes(bytes) => bytes.iter().all(|byte| *byte == 0),
        _ => true,
    }));
}

#[test]
fn a_log_that_the_host_refuses_is_waited_for() {
    let mut pool = Driven::new(64);
    let volume = pool.volume("disk");
    pool.now(write(volume, 0)).unwrap();
    pool.refuses_own = true;
    let waiting = pool.write(volume, 1);
    let checkpoint = pool.ask(Request::Checkpoint);
    pool.pass(5000);
    assert!([waiting, checkpoint].iter().all(|id| pool.answer(*id).is_none()), "nothing is known to be safe");
    let status = pool.core.status();
    assert_eq!((status.space_state, status.stall.shortage), (SpaceState::OutOfSpace, Some(Shortage::Host)));
    assert!(status.stall.writes > 0 && status.stall.oldest_ms == 5000, "{status:?}");
    assert!(status.failure.is_none() && pool.core.wants_time());
    pool.refuses_own = false;
    pool.pass(2000);
    for id in [waiting, checkpoint] {
        pool.answer(id).unwrap().unwrap();
    }
    assert_eq!(pool.core.status().space_state, SpaceState::Ok);
    pool.refuses_own = true;
    let late = pool.write(volume, 2);
    pool.pass(61_000);
    let error = pool.answer(late).unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReadOnly, "{error}");
    assert!(pool.core.status().failure.is_some(), "after the time-out");
}

#[test]
fn a_pool_closes_although_the_host_refuses_its_log() {
    let mut pool = Driven::new(64);
    let volume = pool.volume("disk");
    pool.refuses_own = true;
    let waiting = pool.write(volume, 1);
    let close = pool.ask(Request::Close);
    pool.pass(200);
    assert!(pool.answer(waiting).unwrap().is_err() && pool.answer(close).unwrap().is_err());
}

#[test]
fn one_page_that_the_host_refuses_is_not_forgotten() {
    let mut pool = Driven::new(64);
    let volume = pool.volume("disk");
    pool.now(write(volume, 0)).unwrap();
    pool.pass(5000);
    pool.refuses_metadata_once = true;
    let checkpoint = pool.ask(Request::Checkpoint);
    assert!(pool.answer(checkpoint).is_none() && pool.core.wants_time(), "a page is missing");
    assert_eq!(pool.core.status().stall.writes, 1);
    pool.pass(2000);
    pool.answer(checkpoint).unwrap().unwrap();
}

#[test]
fn a_closing_pool_ends_a_trim_at_once() {
    let mut pool = Driven::new(64);
    let volume = pool.volume("disk");
    pool.now(write(volume, 0)).unwrap();
    pool.pass(10_000);
    pool.core.submit(RequestId(100), Request::Trim { first_block: 0 });
    pool.core.submit(RequestId(101), Request::Close);
    pool.settle();
    assert_eq!(pool.answer(100).unwrap().unwrap_err().kind(), ErrorKind::Busy);
    pool.answer(101).expect("nothing else is waited for").unwrap();
}
