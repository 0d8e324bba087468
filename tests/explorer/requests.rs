//! Requests of clients and background work on mappings: where a write goes, and what it waits for.
//!
//! Owns the decision in place / fill / new block with rule L4, and completion of data. A request
//! that would have to wait is simply not offered yet: waiting changes nothing on disk.
//! Read next: `log.rs`.

use crate::breaks::Break;
use crate::disk::{GARBAGE, Tag};
use crate::model::{Emit, Model, Step};
use crate::promise::Tags;
use crate::state::{Kind, Operation, Stage, State};
use crate::tree::{Delta, Life, SECTORS, Sectors, each};

/// Every step of a client, and of the pool's work on mappings.
pub fn steps(model: &Model, state: &State, emit: Emit) {
    for number in 0..state.operations.len() {
        if state.operations[number].stage == Stage::Flying {
            data_completes(model, state, number, emit);
        }
    }
    unmaps(model, state, emit);
    let under_way = state.operations.iter().filter(|o| o.stage != Stage::Free).count();
    if under_way >= model.scope.concurrency {
        return;
    }
    collapses(model, state, emit);
    if state.budget.operations == 0 {
        return;
    }
    for volume in State::volumes().filter(|v| state.usable(*v)) {
        for &sectors in model.scope.spans {
            write(model, state, volume, sectors, emit);
            discard(model, state, volume, sectors, emit);
        }
        snapshot(model, state, volume, emit);
        delete(model, state, volume, emit);
    }
}

/// A tag that is in no place of the state.
fn fresh_tag(state: &State) -> Tag {
    let used = crate::canonical::tags_in_use(state);
    (1..GARBAGE).find(|t| used >> t & 1 == 0).expect("fewer tags in use than there are")
}

/// Is a sector of the volume being written or copied?
fn busy(state: &State, volume: usize, sectors: Sectors) -> bool {
    state.writes().any(|o| o.volume as usize == volume && o.sectors & sectors != 0)
}

/// Is a sector of the block being written?
fn block_busy(state: &State, block: u8, sectors: Sectors) -> bool {
    state.writes().any(|o| o.block == block && o.sectors & sectors != 0)
}

/// L4: may these sectors of the block be written, as far as publications go?
fn published_proven(state: &State, block: u8, sectors: Sectors) -> bool {
    each(sectors).all(|s| state.blocks[block as usize].published[s] <= state.proven)
}

/// L4: does the block have one owner for good?
fn exclusive_proven(state: &State, block: u8) -> bool {
    state.tree.count(block) == 1 && state.blocks[block as usize].exclusive <= state.proven
}

fn write(model: &Model, state: &State, volume: usize, sectors: Sectors, emit: Emit) {
    if busy(state, volume, sectors) {
        return;
    }
    let [upper, lower] = state.tree.volumes[volume].mapping;
    let tag = fresh_tag(state);
    let mut tags = [0; SECTORS];
    each(sectors).for_each(|s| tags[s] = tag);
    let publishing = state.publishes(volume).next().is_some();
    let base = Operation {
        stage: Stage::Flying,
        volume: volume as u8,
        sectors,
        asked: sectors,
        tags,
        ..Operation::default()
    };
    let mut offer = |operation| start(model, state, operation, emit);
    let shared = state.tree.count(upper.block) > 1;
    if upper.sectors != 0 && !shared {
        let ready = exclusive_proven(state, upper.block)
            && published_proven(state, upper.block, sectors)
            && !block_busy(state, upper.block, sectors);
        if ready && sectors & !upper.sectors == 0 {
            offer(Operation { kind: Kind::InPlace, block: upper.block, ..base });
        } else if ready && sectors & upper.sectors == 0 && !new_block_coming(state, volume) {
            let whole = whole_mask(model, upper.sectors | sectors);
            offer(Operation { kind: Kind::Publish, block: upper.block, whole, ..base });
        }
        return;
    }
    if publishing {
        return;
    }
    let copied = if lower.sectors == 0 { 0 } else { upper.sectors & !sectors };
    let settled = model.breaks(Break::CopyUnsettled) || !block_busy(state, upper.block, copied);
    if settled {
        each(copied).for_each(|s| tags[s] = state.read(&state.tree, volume, s));
        for block in (0..model.scope.blocks).filter(|b| model.is_free(state, *b)) {
            let sectors = sectors | copied;
            let whole = whole_mask(model, sectors);
            offer(Operation { kind: Kind::Publish, block, sectors, tags, whole, ..base });
        }
    }
}

fn whole_mask(model: &Model, sectors: Sectors) -> Sectors {
    if model.breaks(Break::AbsoluteMask) { sectors } else { 0 }
}

/// Is a block on its way into the volume's mapping?
fn new_block_coming(state: &State, volume: usize) -> bool {
    let mapping = state.tree.volumes[volume].mapping;
    let named = |block| mapping.iter().any(|l| l.sectors != 0 && l.block == block);
    state.publishes(volume).any(|o| !named(o.block))
}

/// Starts an operation that writes data.
fn start(model: &Model, state: &State, operation: Operation, emit: Emit) {
    let Some(place) = state.vacancy() else { return };
    let mut next = *state;
    next.operations[place] = operation;
    let Operation { volume, block, asked, .. } = operation;
    if asked != 0 {
        next.budget.operations -= 1;
        next.promise.issue(volume as usize, asked, operation.tags);
    }
    if operation.kind == Kind::Publish && model.breaks(Break::MaskBeforeData) {
        if !state.queue_room() {
            return;
        }
        model.apply(&mut next, publication(&operation));
    }
    let step = match operation.kind {
        Kind::InPlace => Step::WriteInPlace { volume, sectors: asked, block },
        _ if asked == 0 => Step::Collapse { volume, into: block },
        _ => Step::WriteAndPublish { volume, sectors: asked, block },
    };
    emit(step, next);
}

fn publication(o: &Operation) -> Delta {
    Delta::Publish { volume: o.volume, block: o.block, sectors: o.sectors, tags: o.tags, whole: o.whole }
}

fn data_completes(model: &Model, state: &State, number: usize, emit: Emit) {
    let mut next = *state;
    let operation = state.operations[number];
    if !each(operation.sectors).all(|s| next.disk.data[operation.block as usize][s].write(operation.tags[s]))
    {
        return;
    }
    let alive = state.tree.volumes[operation.volume as usize].life == Life::Live;
    if operation.kind == Kind::Publish && !alive {
        // The volume was deleted meanwhile: the request is answered with an error.
        next.operations[number] = Operation::default();
    } else if operation.kind == Kind::InPlace || model.breaks(Break::MaskBeforeData) {
        acknowledge(&mut next, number);
    } else if state.queue_room() {
        next.operations[number].stage = Stage::Logged;
        next.operations[number].sequence = next.next;
        next.operations[number].place = next.queued();
        model.apply(&mut next, publication(&operation));
        answer_early(model, &mut next, number);
    } else {
        return;
    }
    let Operation { volume, block, sectors, .. } = operation;
    emit(Step::DataCompletes { volume, block, sectors }, next);
}

fn answer_early(model: &Model, state: &mut State, number: usize) {
    if model.breaks(Break::AcknowledgeEarly) {
        acknowledge(state, number);
    }
}

/// Answers a request; background work has nobody to answer.
pub fn acknowledge(state: &mut State, number: usize) {
    let done = std::mem::take(&mut state.operations[number]);
    let volume = done.volume as usize;
    match done.kind {
        Kind::Snapshot => {
            let to = done.block as usize;
            let read = std::array::from_fn(|s| state.read(&state.tree, to, s));
            state.promise.acknowledge_snapshot(to, read);
            state.operations.iter_mut().for_each(|o| o.before_cut = false);
        }
        Kind::Delete => state.promise.acknowledge_delete(volume),
        _ => {
            for sector in each(done.asked) {
                let others =
                    state.operations.iter().filter(|o| o.stage != Stage::Free && o.volume == done.volume);
                let others = others
                    .filter(|o| o.asked >> sector & 1 == 1)
                    .fold(0, |set: Tags, o| set | 1 << o.tags[sector]);
                state.promise.acknowledge(volume, sector, done.tags[sector], others);
            }
        }
    }
}

fn discard(model: &Model, state: &State, volume: usize, sectors: Sectors, emit: Emit) {
    let mapped = state.tree.volumes[volume].mapping.iter().fold(0, |set, l| set | l.sectors);
    if mapped & sectors != 0 && !busy(state, volume, sectors) {
        let operation = Operation {
            kind: Kind::Discard,
            volume: volume as u8,
            sectors,
            asked: sectors,
            ..Operation::default()
        };
        let step = Step::Discard { volume: volume as u8, sectors };
        log_operation(model, state, operation, Delta::Clear { volume: volume as u8, sectors }, step, emit);
    }
}

fn snapshot(model: &Model, state: &State, from: usize, emit: Emit) {
    let absent = |to: &usize| state.promise.gone(*to) && state.tree.volumes[*to].life == Life::Absent;
    let Some(to) = (0..model.scope.volumes).find(absent) else { return };
    let used =
        |o: &&Operation| o.stage != Stage::Free && (o.kind == Kind::Snapshot || o.volume as usize == to);
    if state.operations.iter().find(used).is_some() {
        return;
    }
    let (from, to) = (from as u8, to as u8);
    let operation = Operation { kind: Kind::Snapshot, volume: from, block: to, ..Operation::default() };
    log_operation(model, state, operation, Delta::Snapshot { from, to }, Step::Snapshot { from, to }, emit);
}

fn delete(model: &Model, state: &State, volume: usize, emit: Emit) {
    let source =
        |o: &&Operation| o.stage != Stage::Free && o.kind == Kind::Snapshot && o.volume as usize == volume;
    if state.operations.iter().find(source).is_none() {
        let volume = volume as u8;
        let operation = Operation { kind: Kind::Delete, volume, ..Operation::default() };
        log_operation(model, state, operation, Delta::Delete { volume }, Step::Delete { volume }, emit);
    }
}

/// Starts a request that brings no data: its delta is applied and queued at once.
fn log_operation(model: &Model, state: &State, operation: Operation, delta: Delta, step: Step, emit: Emit) {
    let Some(place) = state.vacancy() else { return };
    if !state.queue_room() {
        return;
    }
    let mut next = *state;
    next.budget.operations -= 1;
    let volume = operation.volume as usize;
    match operation.kind {
        Kind::Snapshot => {
            next.promise.issue_snapshot(volume, operation.block as usize);
            let before = next
                .operations
                .iter_mut()
                .filter(|o| o.stage == Stage::Flying && o.volume == operation.volume);
            before.for_each(|o| o.before_cut = true);
        }
        Kind::Delete => next.promise.issue_delete(volume),
        _ => next.promise.issue(volume, operation.asked, operation.tags),
    }
    next.operations[place] =
        Operation { stage: Stage::Logged, sequence: state.next, place: state.queued(), ..operation };
    model.apply(&mut next, delta);
    if operation.kind != Kind::Snapshot {
        answer_early(model, &mut next, place);
    }
    emit(step, next);
}

/// The mappings of a deleted volume go, in the background.
fn unmaps(model: &Model, state: &State, emit: Emit) {
    for volume in State::volumes().filter(|v| state.tree.volumes[*v].life == Life::Deleting) {
        if state.queue_room() {
            let mut next = *state;
            let volume = volume as u8;
            model.apply(&mut next, Delta::Unmap { volume });
            emit(Step::UnmapDeleted { volume }, next);
        }
    }
}

/// Two exclusive layers become one: one is copied into the other, in place.
fn collapses(model: &Model, state: &State, emit: Emit) {
    for volume in State::volumes().filter(|v| state.usable(*v) && state.budget.collapses > 0) {
        let [upper, lower] = state.tree.volumes[volume].mapping;
        let exclusive = lower.sectors != 0
            && exclusive_proven(state, upper.block)
            && exclusive_proven(state, lower.block);
        if !exclusive || state.publishes(volume).next().is_some() {
            continue;
        }
        for (source, into) in [(upper, lower), (lower, upper)] {
            let sectors = source.sectors;
            let settled =
                !block_busy(state, source.block, sectors) && !block_busy(state, into.block, sectors);
            if settled && published_proven(state, into.block, sectors) {
                let tags = std::array::from_fn(|s| {
                    if sectors >> s & 1 == 1 { state.read(&state.tree, volume, s) } else { 0 }
                });
                let base = Operation { stage: Stage::Flying, kind: Kind::Publish, ..Operation::default() };
                let operation = Operation { volume: volume as u8, block: into.block, sectors, tags, ..base };
                let mut paid = *state;
                paid.budget.collapses -= 1;
                start(model, &paid, operation, emit);
            }
        }
    }
}
