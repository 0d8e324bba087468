//! Trials for breaks that random runs meet too rarely: a bit that rots at rest, a read that is very slow, a sharer that
//! leaves just before a cut, a proof of which one record is lost, a rollback beside a write, a punch that is very slow.
//!
//! Owns these schedules. Each is right by itself and goes wrong when one rule is broken.

use super::faults::judge;
use super::machine::Machine;
use super::run::Run;
use super::{RunConfig, Stats};
use crate::adapter::Side;
use crate::model::{Check, End, Violation};
use crate::rng::Rng;
use crate::sim_disk::{Order, SimDisk};
use bytes::Bytes;
use vellum_engine::Core;
use vellum_engine::options::OpenOptions;
use vellum_engine::request::{NewVolume, Outcome, Reply, Request, RequestId, Segment};
use vellum_engine::storage::{Buffer, Completion, Disk, MemoryDisk, Operation, Ticket};
use vellum_engine::units::VolumeId;

const PAGE_BYTES: u64 = 4096;
/// The first page of the metadata file that belongs to a tree.
const FIRST_TREE_PAGE: u64 = 4;

/// Runs `config` undisturbed, kills the pool, and lets one bit of every eighth written metadata page rot, one page at a
/// time. What can be read afterwards is right; much may not be readable.
///
/// # Errors
/// If wrong data is read.
pub fn run_with_rot(config: &RunConfig) -> Check<Stats> {
    let mut rng = Rng::new(config.seed ^ 0x0207);
    let mut run = Run::start(config, &config.operations())?;
    run.to_the_end()?;
    run.machine.disks.set_order(Order::Submission);
    run.machine.rest(3000)?;
    let mut stats = Stats::default();
    let pages = run.machine.disks.metadata.size_bytes() / PAGE_BYTES;
    for page in (FIRST_TREE_PAGE..pages).filter(|_| rng.one_in(8)).collect::<Vec<_>>() {
        let mut disks = run.machine.disks.each(|disk| disk.kill(&mut rng));
        disks.set_order(Order::Submission);
        if !rot(&mut disks.metadata, page, &mut rng) {
            continue;
        }
        stats.crash_points += 1;
        let Ok(mut machine) = Machine::open(disks, config, 1 << 20) else { continue };
        machine.disks.set_order(Order::Submission);
        let observed = machine.observe(PAGE_BYTES)?;
        judge(&run.model, End::Kill, &observed, &[], "after rot")?;
        stats.recoveries += 1;
    }
    Ok(stats)
}

/// Flips a bit of a byte that is not zero. Whether there was one.
fn rot(disk: &mut SimDisk, page: u64, rng: &mut Rng) -> bool {
    let offset_bytes = page * PAGE_BYTES;
    let read = Operation::Read { offset_bytes, buffer: Buffer::zeroed(PAGE_BYTES as usize) };
    let Some(Operation::Read { mut buffer, .. }) = carry_out(disk, read) else { return false };
    let written: Vec<usize> = (0..buffer.len()).filter(|&at| buffer[at] != 0).collect();
    if written.is_empty() {
        return false;
    }
    buffer[*rng.pick(&written)] ^= 1 << rng.below(8);
    carry_out(disk, Operation::Write { offset_bytes, bytes: buffer.freeze() }).is_some()
}

fn carry_out(disk: &mut SimDisk, operation: Operation) -> Option<Operation> {
    disk.submit(Ticket(u64::MAX), operation);
    disk.next_completion().map(|completion| completion.operation)
}

/// A read of a snapshot hangs in the disk while the snapshot is deleted and its volume, now the only owner of the
/// block, writes. The read must bring what the snapshot held.
///
/// # Errors
/// If it brings what the volume wrote.
pub fn slow_read_of_a_former_owner(seed: u64) -> Check<Stats> {
    let config = RunConfig::quiet(seed);
    let mut pool = HandPool::new(&config)?;
    let volume = pool.create(0)?;
    pool.write(volume, 1)?;
    let snapshot = pool.created(Request::Snapshot { cuts: vec![(volume, named("v@s", 2))] })?;
    pool.rest();

    let read = pool.submit(Request::Read { volume: snapshot, offset_bytes: 0, length_bytes: PAGE_BYTES });
    let held = pool.hold_next_read()?;
    pool.ask(Request::Delete { volumes: vec![snapshot], deferred: false })?;
    pool.rest();
    let write = pool.submit(Request::Write { volume, offset_bytes: 0, bytes: content(2), fua: false });
    pool.rest();
    pool.carry_out(held);
    pool.rest();

    match pool.reply(read)? {
        Ok(Outcome::Data(segments)) if is_content(&segments, 1) => {}
        other => return Err(Violation(format!("a slow read of a snapshot brought {other:?}"))),
    }
    pool.reply(write)?.map_err(|error| Violation(format!("the write behind it failed: {error}")))?;
    Ok(Stats { recoveries: 1, ..Stats::default() })
}

/// A clone gives a block up, and before the record of that is written its only other owner overwrites the block; then the
/// power fails. The clone must have what it had.
///
/// # Errors
/// If it has what the other owner wrote.
pub fn cut_before_the_last_sharer_left(seed: u64) -> Check<Stats> {
    let config = RunConfig::quiet(seed);
    let mut pool = HandPool::new(&config)?;
    let volume = pool.create(0)?;
    pool.write(volume, 1)?;
    let snapshot = pool.created(Request::Snapshot { cuts: vec![(volume, named("v@s", 2))] })?;
    let clone = pool.created(Request::Clone { snapshot, new: named("c", 3) })?;
    pool.ask(Request::Delete { volumes: vec![snapshot], deferred: false })?;
    pool.rest();

    let whole =
        Request::Discard { volume: clone, offset_bytes: 0, length_bytes: 16 * PAGE_BYTES, fua: false };
    pool.submit(whole);
    let _lost = pool.hold_next(|operation| matches!(operation, Operation::Write { .. }))?;
    pool.submit(Request::Write { volume, offset_bytes: 0, bytes: content(2), fua: false });
    pool.rest();

    let mut pool = pool.reopened(&config)?;
    match pool.ask(Request::Read { volume: clone, offset_bytes: 0, length_bytes: PAGE_BYTES })? {
        Outcome::Data(segments) if is_content(&segments, 1) => {
            Ok(Stats { recoveries: 1, ..Stats::default() })
        }
        other => Err(Violation(format!("the clone holds what it never had: {other:?}"))),
    }
}

/// A write hangs in the disk while its volume is deleted and the block is freed; another volume takes a block and writes.
/// When the old write lands at last, the new one must be whole.
///
/// # Errors
/// If it is not.
pub fn late_write_to_a_freed_block(seed: u64) -> Check<Stats> {
    let mut pool = HandPool::new(&RunConfig::quiet(seed))?;
    let volume = pool.create(0)?;
    pool.write(volume, 1)?;
    pool.rest();
    pool.submit(Request::Write { volume, offset_bytes: 0, bytes: content(2), fua: false });
    let late = pool.hold_next(|operation| matches!(operation, Operation::Write { .. }))?;
    pool.ask(Request::Delete { volumes: vec![volume], deferred: false })?;
    pool.rest();
    let other = pool.created(Request::CreateVolume { new: named("w", 4), size_bytes: 1 << 20 })?;
    pool.write(other, 3)?;
    pool.carry_out(late);
    pool.rest();
    match pool.ask(Request::Read { volume: other, offset_bytes: 0, length_bytes: PAGE_BYTES })? {
        Outcome::Data(segments) if is_content(&segments, 3) => {
            Ok(Stats { recoveries: 1, ..Stats::default() })
        }
        other => Err(Violation(format!("a late write landed in another volume: {other:?}"))),
    }
}

/// A trim's punch hangs in the disk while a volume asks for a block and writes. When it has happened at last, what was
/// written must be there.
///
/// # Errors
/// If it is gone.
pub fn late_punch_of_a_trim(seed: u64) -> Check<Stats> {
    let mut pool = HandPool::new(&RunConfig::quiet(seed))?;
    let volume = pool.create(0)?;
    pool.rest();
    let trim = pool.submit(Request::Trim { first_block: 0 });
    let late = pool.hold_next(|operation| matches!(operation, Operation::Punch { .. }))?;
    let write = pool.submit(Request::Write { volume, offset_bytes: 0, bytes: content(1), fua: false });
    pool.rest();
    pool.carry_out(late);
    pool.rest();
    for id in [trim, write] {
        pool.reply(id)?.map_err(|error| Violation(format!("a request failed: {error}")))?;
    }
    match pool.ask(Request::Read { volume, offset_bytes: 0, length_bytes: PAGE_BYTES })? {
        Outcome::Data(segments) if is_content(&segments, 1) => {
            Ok(Stats { recoveries: 1, ..Stats::default() })
        }
        other => Err(Violation(format!("a trim took what had been written: {other:?}"))),
    }
}

/// The device loses the first record of a proof against its word; then what was proven is overwritten, flushed, and the
/// process dies. What was flushed is there, or the pool refuses.
///
/// # Errors
/// If anything else is read.
pub fn one_witness_is_lost(seed: u64) -> Check<Stats> {
    let config = RunConfig::quiet(seed);
    let mut pool = HandPool::new(&config)?;
    let volume = pool.create(0)?;
    pool.rest();
    pool.write_at_once(volume, 1)?;
    pool.now_ms += 2000;
    let (_, ticket, operation) = pool.hold_next(|operation| matches!(operation, Operation::Write { .. }))?;
    pool.core.complete(Completion { ticket, operation, result: Ok(()) });
    pool.rest();
    pool.write_at_once(volume, 2)?;

    let Ok(mut pool) = pool.reopened(&config) else { return Ok(Stats::default()) };
    match pool.ask(Request::Read { volume, offset_bytes: 0, length_bytes: PAGE_BYTES })? {
        Outcome::Data(segments) if is_content(&segments, 2) => {
            Ok(Stats { recoveries: 1, ..Stats::default() })
        }
        other => Err(Violation(format!("a flushed write is gone: {other:?}"))),
    }
}

/// A write of part of a sector has read the rest of it, slowly, while its volume is rolled back. Around what it wrote there
/// is what the snapshot had.
///
/// # Errors
/// If there is what the rollback took away.
pub fn rollback_beside_a_slow_write(seed: u64) -> Check<Stats> {
    let config = RunConfig::quiet(seed);
    let mut pool = HandPool::new(&config)?;
    let volume = pool.create(0)?;
    pool.write(volume, 1)?;
    let snapshot = pool.created(Request::Snapshot { cuts: vec![(volume, named("v@s", 2))] })?;
    pool.write(volume, 2)?;
    pool.rest();

    let part = content(3).slice(..100);
    let write = pool.submit(Request::Write { volume, offset_bytes: 0, bytes: part, fua: false });
    let held = pool.hold_next_read()?;
    let rollback = pool.submit(Request::Rollback { volume, snapshot });
    pool.rest();
    pool.carry_out(held);
    pool.rest();
    for id in [write, rollback] {
        pool.reply(id)?.map_err(|error| Violation(format!("a request failed: {error}")))?;
    }

    let rest = Request::Read { volume, offset_bytes: 100, length_bytes: PAGE_BYTES - 100 };
    match pool.ask(rest)? {
        Outcome::Data(segments) if is_content(&segments, 1) => {
            Ok(Stats { recoveries: 1, ..Stats::default() })
        }
        other => Err(Violation(format!("a rollback left what it took away: {other:?}"))),
    }
}

fn named(name: &str, uuid: u8) -> NewVolume {
    NewVolume { name: name.to_owned(), uuid: [uuid; 16], created_unix_s: 0 }
}

fn content(byte: u8) -> Bytes {
    Bytes::from(vec![byte; PAGE_BYTES as usize])
}

fn is_content(segments: &[Segment], byte: u8) -> bool {
    segments
        .iter()
        .all(|segment| matches!(segment, Segment::Bytes(bytes) if bytes.iter().all(|b| *b == byte)))
}

/// A pool whose operations are carried out at once, but for those that are held back.
struct HandPool {
    core: Core,
    data: MemoryDisk,
    metadata: MemoryDisk,
    replies: Vec<(RequestId, Reply)>,
    next_id: u64,
    now_ms: u64,
}

impl HandPool {
    fn new(config: &RunConfig) -> Check<Self> {
        let (mut data, mut metadata) = (MemoryDisk::new(0), MemoryDisk::new(0));
        let failed = |error| Violation(format!("no pool: {error}"));
        vellum_engine::create(&mut data, &mut metadata, &config.create).map_err(failed)?;
        let options = OpenOptions { recycle_blocks: 64, ..config.open.clone() };
        let core = vellum_engine::open(&mut data, &mut metadata, &options).map_err(failed)?;
        Ok(Self { core, data, metadata, replies: Vec::new(), next_id: 0, now_ms: 0 })
    }

    fn submit(&mut self, request: Request) -> RequestId {
        self.next_id += 1;
        self.core.submit(RequestId(self.next_id), request);
        RequestId(self.next_id)
    }

    /// Carries everything out, and lets enough time pass for proofs.
    fn rest(&mut self) {
        for _ in 0..200 {
            self.core.turn(self.now_ms);
            match self.core.next_operation() {
                Some(operation) => self.carry_out(operation),
                None => self.now_ms += 500,
            }
            self.replies.extend(std::iter::from_fn(|| self.core.next_reply()));
        }
    }

    fn carry_out(&mut self, (side, ticket, operation): (Side, Ticket, Operation)) {
        let disk = if side == Side::Data { &mut self.data } else { &mut self.metadata };
        disk.submit(ticket, operation);
        let done: Vec<Completion> = std::iter::from_fn(|| disk.next_completion()).collect();
        done.into_iter().for_each(|completion| self.core.complete(completion));
    }

    fn hold_next_read(&mut self) -> Check<(Side, Ticket, Operation)> {
        self.hold_next(|operation| matches!(operation, Operation::Read { .. }))
    }

    /// The next operation of the data file that `wanted` accepts; what comes before is carried out.
    fn hold_next(&mut self, wanted: impl Fn(&Operation) -> bool) -> Check<(Side, Ticket, Operation)> {
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

    /// Writes and flushes, and does nothing else: no time passes in which a proof might come.
    fn write_at_once(&mut self, volume: VolumeId, byte: u8) -> Check {
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
    fn reopened(self, config: &RunConfig) -> Check<Self> {
        let (mut data, mut metadata) = (self.data, self.metadata);
        let core = vellum_engine::open(&mut data, &mut metadata, &config.open)
            .map_err(|error| Violation(format!("the pool does not open: {error}")))?;
        Ok(Self { core, data, metadata, replies: Vec::new(), next_id: 0, now_ms: 0 })
    }

    fn reply(&mut self, id: RequestId) -> Check<Reply> {
        let at = self.replies.iter().position(|(answered, _)| *answered == id);
        at.map(|at| self.replies.swap_remove(at).1).ok_or_else(|| Violation::new("no answer came"))
    }

    fn ask(&mut self, request: Request) -> Check<Outcome> {
        let id = self.submit(request);
        self.rest();
        self.reply(id)?.map_err(|error| Violation(format!("a request failed: {error}")))
    }

    fn created(&mut self, request: Request) -> Check<VolumeId> {
        match self.ask(request)? {
            Outcome::Created(made) => made.first().copied().ok_or_else(|| Violation::new("nothing was made")),
            other => Err(Violation(format!("nothing was made: {other:?}"))),
        }
    }

    fn create(&mut self, number: u8) -> Check<VolumeId> {
        self.created(Request::CreateVolume { new: named("v", number), size_bytes: 1 << 20 })
    }

    fn write(&mut self, volume: VolumeId, byte: u8) -> Check {
        self.ask(Request::Write { volume, offset_bytes: 0, bytes: content(byte), fua: true }).map(drop)
    }
}
