//! Trials for breaks that random runs meet too rarely: a bit that rots at rest, a read that is very slow, a sharer that
//! leaves just before a cut, a proof of which one record is lost, a rollback beside a write, a punch that is very slow, a
//! discard whose turn comes late.
//!
//! Owns these schedules. Each is right by itself and goes wrong when one rule is broken.

use super::faults::judge;
use super::hand_pool::{HandPool, PAGE_BYTES, content, first_made, is_content, named};
use super::machine::Machine;
use super::run::Run;
use super::{RunConfig, Stats};
use crate::model::{Check, End, Violation};
use crate::rng::Rng;
use crate::sim_disk::{Order, SimDisk};
use bytes::Bytes;
use vellum_engine::options::OpenOptions;
use vellum_engine::request::{Outcome, Request};
use vellum_engine::settings::{DiscardPolicy, Settings};
use vellum_engine::storage::{Buffer, Completion, Disk, Operation, Ticket};

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
    let other = pool.created(Request::CreateVolume {
        new: named("w", 4),
        size_bytes: 1 << 20,
        reservation_bytes: 0,
    })?;
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

/// The punch of a freed block hangs in the disk while a volume asks for blocks and writes. When it has happened at last, what
/// was written must be there.
///
/// # Errors
/// If something is gone.
pub fn late_punch_of_a_freed_block(seed: u64) -> Check<Stats> {
    let config = RunConfig::quiet(seed);
    let hasty = OpenOptions { recycle_blocks: 0, spare_blocks: 0, slab_blocks: 1, ..config.open.clone() };
    let mut pool = HandPool::with(&config, hasty)?;
    let volume = pool.create(0)?;
    pool.write(volume, 1)?;
    pool.submit(Request::Discard { volume, offset_bytes: 0, length_bytes: 16 * PAGE_BYTES, fua: true });
    let late = pool.hold_next_in_time(|operation| matches!(operation, Operation::Punch { .. }))?;
    // More than one: there may be a block ready beside the one that is being punched.
    let blocks = 1..5;
    let offset_bytes = |block: u64| block * 16 * PAGE_BYTES;
    for block in blocks.clone() {
        pool.submit(Request::Write {
            volume,
            offset_bytes: offset_bytes(block),
            bytes: content(2),
            fua: false,
        });
        pool.rest();
    }
    pool.carry_out(late);
    pool.rest();
    for block in blocks {
        let read = Request::Read { volume, offset_bytes: offset_bytes(block), length_bytes: PAGE_BYTES };
        match pool.ask(read)? {
            Outcome::Data(segments) if is_content(&segments, 2) => {}
            other => return Err(Violation(format!("a punch took what had been written: {other:?}"))),
        }
    }
    Ok(Stats { recoveries: 1, ..Stats::default() })
}

/// A sector is discarded and written again; long afterwards it moves to an upper layer, and before the record of that is
/// written the old discard's turn comes. Then the power fails: what was flushed must be there.
///
/// # Errors
/// If it was punched.
pub fn discard_outlived_by_what_was_written(seed: u64) -> Check<Stats> {
    let config = RunConfig::quiet(seed);
    let late = OpenOptions { reclaim_after_ms: 100_000, collapse_bytes_per_s: 0, ..OpenOptions::default() };
    let mut pool = HandPool::with(&config, late)?;
    let volume = pool.create(0)?;
    let lazy = Settings { discard: DiscardPolicy::Lazy, ..Settings::default() };
    pool.ask_soon(Request::Configure { settings: Box::new(lazy) })?;
    let pages = |pages: u64, byte| Bytes::from(vec![byte; (pages * PAGE_BYTES) as usize]);
    let write = |bytes, fua| Request::Write { volume, offset_bytes: 0, bytes, fua };
    pool.ask_soon(write(pages(4, 1), true))?;
    pool.ask_soon(Request::Discard { volume, offset_bytes: 0, length_bytes: PAGE_BYTES, fua: true })?;
    pool.ask_soon(write(pages(1, 2), true))?;
    let cut = Request::Snapshot { cuts: vec![(volume, named("v@s", 2))] };
    let snapshot = pool.ask_soon(cut).and_then(first_made)?;
    let beside = Request::Write { volume, offset_bytes: PAGE_BYTES, bytes: pages(1, 3), fua: true };
    pool.ask_soon(beside)?;
    pool.ask_soon(Request::Delete { volumes: vec![snapshot], deferred: false })?;

    pool.submit(write(pages(2, 4), false));
    let data = pool.hold_next(|operation| matches!(operation, Operation::Write { .. }))?;
    pool.carry_out(data);
    let _lost = pool.hold_next(|operation| matches!(operation, Operation::Write { .. }))?;
    pool.now_ms += 100 * 100_000;
    pool.rest();

    let mut pool = pool.reopened(&config)?;
    match pool.ask(Request::Read { volume, offset_bytes: 0, length_bytes: PAGE_BYTES })? {
        Outcome::Data(segments) if is_content(&segments, 2) || is_content(&segments, 4) => {
            Ok(Stats { recoveries: 1, ..Stats::default() })
        }
        other => Err(Violation(format!("an old discard took what was flushed later: {other:?}"))),
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
