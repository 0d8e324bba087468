//! The log and its syncs, flushes, and punches of freed blocks.
//!
//! Owns what *written*, *durable* and *proven* mean (L3), and who is answered by what. Which blocks
//! may be written is `requests.rs`. Read next: `checkpoint.rs`.

use crate::breaks::Break;
use crate::model::{Emit, Model, Step};
use crate::requests::acknowledge;
use crate::state::{Kind, Record, Stage, State};
use crate::tree::Delta;

/// Every step of the log, the data file's syncs and its punches.
pub fn steps(model: &Model, state: &State, emit: Emit) {
    submit_record(model, state, emit);
    for flying in 0..state.flying.len() {
        record_completes(model, state, flying, emit);
    }
    match state.sync {
        None => submit_sync(model, state, emit),
        Some(covers) => sync_returns(model, state, covers, emit),
    }
    flush(model, state, emit);
    punches(model, state, emit);
}

/// Composes the queued deltas into a record; an empty one is a proof.
fn submit_record(model: &Model, state: &State, emit: Emit) {
    let proof = state.queue[0] == Delta::None;
    let useful = state.budget.proofs > 0 && state.durable > state.proven.max(state.stated);
    let newest = state.disk.slots.iter().map(|s| s.base.sequence).max().unwrap_or(0);
    let needed = if model.breaks(Break::LogReleasedEarly) { newest } else { state.oldest() };
    let room = usize::try_from(state.next - needed).is_ok_and(|pages| pages <= model.scope.ring);
    let Some(place) = state.flying.iter().position(Option::is_none) else { return };
    if (proof && !useful) || !room {
        return;
    }
    let mut next = *state;
    let record = Record {
        incarnation: next.disk.head.base,
        sequence: next.next,
        synced: next.durable,
        deltas: std::mem::take(&mut next.queue),
    };
    next.flying[place] = Some(record);
    next.stated = record.synced;
    next.next += 1;
    next.budget.proofs -= u8::from(proof);
    emit(Step::SubmitRecord { sequence: record.sequence, synced: record.synced }, next);
}

fn record_completes(model: &Model, state: &State, flying: usize, emit: Emit) {
    let Some(record) = state.flying[flying] else { return };
    let mut next = *state;
    next.flying[flying] = None;
    if !next.disk.ring[record.sequence as usize % model.scope.ring].write(Some(record)) {
        return;
    }
    answer_written(model, &mut next);
    emit(Step::RecordCompletes { sequence: record.sequence }, next);
}

/// Answers every request whose record is written, in the order of the log (L7).
fn answer_written(model: &Model, state: &mut State) {
    let written = state.written();
    loop {
        let snapshots = model.breaks(Break::SnapshotUnsynced) && model.cut_settled(state);
        let logged = state.operations.iter().enumerate().filter(|(_, o)| o.stage == Stage::Logged);
        let ready = logged.filter(|(_, o)| o.sequence <= written && (o.kind != Kind::Snapshot || snapshots));
        match ready.min_by_key(|(_, o)| (o.sequence, o.place)) {
            Some((number, _)) => acknowledge(state, number),
            None => return,
        }
    }
}

/// A sync covers what has completed by now, and nothing else for certain.
fn cover(model: &Model, state: &mut State) {
    state.disk.data.iter_mut().flatten().for_each(|sector| sector.cover());
    state.disk.ring.iter_mut().for_each(|page| page.cover());
    let written = state.written();
    state.sync = Some(written);
    if model.cut_settled(state) {
        let snapshots = state.operations.iter_mut().filter(|o| o.kind == Kind::Snapshot);
        snapshots.filter(|o| o.sequence <= written).for_each(|o| o.stage = Stage::Covered);
    }
}

fn submit_sync(model: &Model, state: &State, emit: Emit) {
    if state.uncovered() {
        let mut next = *state;
        cover(model, &mut next);
        emit(Step::SubmitSync, next);
    }
}

fn sync_returns(model: &Model, state: &State, covers: i8, emit: Emit) {
    let mut next = *state;
    next.sync = None;
    next.disk.data.iter_mut().flatten().for_each(|sector| sector.settle());
    next.disk.ring.iter_mut().for_each(|page| page.settle());
    let durable = if model.breaks(Break::DurableAtCompletion) { next.written() } else { covers };
    next.durable = next.durable.max(durable);
    let last = next.disk.ring[next.durable as usize % model.scope.ring].current();
    if let Some(record) = last.filter(|r| r.sequence == next.durable) {
        next.proven = next.proven.max(record.synced);
    }
    if std::mem::take(&mut next.flush) {
        next.promise.acknowledge_flush();
    }
    for number in 0..next.operations.len() {
        if next.operations[number].stage == Stage::Covered {
            acknowledge(&mut next, number);
        }
    }
    emit(Step::SyncReturns, next);
}

/// A flush that arrives earlier than its sync is submitted promises less, so it arrives with it.
fn flush(model: &Model, state: &State, emit: Emit) {
    if state.budget.operations == 0 {
        return;
    }
    let mut next = *state;
    next.budget.operations -= 1;
    let running = state.sync.is_some();
    let shares = model.breaks(Break::FlushSharesSync) && running && !state.flush;
    let at_once =
        if model.breaks(Break::FlushAtSubmission) { running && !state.uncovered() } else { !state.dirty() };
    if at_once || shares || (!running && state.uncovered()) {
        next.promise.issue_flush();
        if at_once {
            next.promise.acknowledge_flush();
        } else if shares {
            next.flush = true;
        } else {
            cover(model, &mut next);
            next.flush = true;
        }
        emit(Step::Flush, next);
    }
}

/// Freed blocks are punched in the background; until the punch completes they are not free.
fn punches(model: &Model, state: &State, emit: Emit) {
    for block in 0..model.scope.blocks {
        let known = state.blocks[block as usize];
        let early = model.breaks(Break::PunchUnproven) && state.tree.count(block) == 0;
        let pinned = state.writes().any(|o| o.block == block);
        let content = state.disk.data[block as usize].iter().any(|s| s.current() != 0);
        let wanted = content && state.budget.punches > 0 && !known.punching;
        if wanted && !pinned && (early || model.is_free(state, block)) {
            let mut next = *state;
            next.blocks[block as usize].punching = true;
            next.budget.punches -= 1;
            emit(Step::SubmitPunch { block }, next);
        }
        if known.punching {
            let mut next = *state;
            next.blocks[block as usize].punching = false;
            if next.disk.data[block as usize].iter_mut().all(|s| s.write(0)) {
                emit(Step::PunchCompletes { block }, next);
            }
        }
    }
}
