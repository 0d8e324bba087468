//! Recovery: which tree a disk stands for, and the verdict, step by step.
//!
//! Owns L1, L2 and L5 on replay, and the search for evidence of lost records. Every step may be cut
//! (`crash.rs`), and then recovery starts again. Read next: `promise.rs`.

use crate::breaks::Break;
use crate::checkpoint::{free_page, sync_metadata};
use crate::model::{Emit, Model, Step};
use crate::state::{Checkpoint, Disk, Page, Phase, Record, Slot, State};
use crate::tree::{Delta, Life, SECTORS, Tree, each};

/// What recovery makes of a disk.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Found {
    tree: Tree,
    /// The last record taken whole.
    sequence: i8,
}

/// Is what recovery finds one of the states promised, from either root slot?
pub fn check(model: &Model, state: &State) -> Result<(), String> {
    let newest = state.slots().next().ok_or("no root slot")?;
    let found = find(model, &state.disk, newest)?;
    for volume in State::volumes() {
        let present = found.tree.volumes[volume].life == Life::Live;
        let read = contents(state, &found.tree, volume);
        if !state.promise.holds(volume, present, read, state.killed) {
            let kept = if state.killed { "acknowledged" } else { "flushed" };
            return Err(format!(
                "volume {volume}: present {present}, holds {read:?}: what was {kept} is gone"
            ));
        }
    }
    for older in state.slots().skip(1) {
        let other = find(model, &state.disk, older).map_err(|e| format!("from the older root slot: {e}"))?;
        for volume in State::volumes() {
            let (one, two) = (found.tree.volumes[volume].life, other.tree.volumes[volume].life);
            if one != two || contents(state, &found.tree, volume) != contents(state, &other.tree, volume) {
                return Err(format!("the older root slot gives another state of volume {volume}"));
            }
        }
    }
    Ok(())
}

fn contents(state: &State, tree: &Tree, volume: usize) -> [u8; SECTORS] {
    std::array::from_fn(|sector| state.read(tree, volume, sector))
}

/// Replays the log on the tree of `slot`.
fn find(model: &Model, disk: &Disk, slot: Slot) -> Result<Found, String> {
    let page = disk.pages[slot.page as usize].current();
    if page.generation != slot.tree_generation {
        return Err(format!("root slot {} points to a page that is not there", slot.generation));
    }
    let chain = chain(model, disk, slot);
    evidence(disk, slot, slot.sequence + 1 + chain.len() as i8)?;
    // A slot whose tree cannot be read proves its record all the same.
    let slots = disk.slots.iter().map(|s| s.current()).filter(|s| s.incarnation == slot.incarnation);
    let by_slot = slots.map(|s| s.sequence).fold(slot.sequence, i8::max);
    let by_slot = if model.breaks(Break::SlotProofForgotten) { slot.sequence } else { by_slot };
    let proven = chain.iter().map(|r| r.synced).fold(by_slot, i8::max);
    let mut found = Found { tree: page.tree, sequence: slot.sequence };
    let mut dropped = 0_u8;
    for record in chain {
        for delta in record.deltas {
            if record.sequence > proven && fails(model, disk, delta, dropped) {
                if !model.breaks(Break::DropPerBlock) {
                    return Ok(found);
                }
                dropped |= block_bit(delta);
                continue;
            }
            found.tree.apply(delta).map_err(|fault| format!("replay: {fault}"))?;
        }
        found.sequence = record.sequence;
    }
    Ok(found)
}

/// The records that follow a slot: each the next sequence, all of the slot's incarnation.
fn chain(model: &Model, disk: &Disk, slot: Slot) -> Vec<Record> {
    let mut chain = Vec::new();
    for sequence in slot.sequence + 1.. {
        let record = disk.ring[sequence as usize % model.scope.ring].current();
        match record.filter(|r| r.sequence == sequence && r.incarnation == slot.incarnation) {
            Some(record) => chain.push(record),
            None => break,
        }
    }
    chain
}

/// Is there a record that proves that `missing` was durable, or that the metadata is too old?
fn evidence(disk: &Disk, slot: Slot, missing: i8) -> Result<(), String> {
    let records = || disk.ring.iter().filter_map(|page| page.current());
    let later = |r: &Record| r.incarnation == slot.incarnation && r.sequence > missing && r.synced >= missing;
    if records().any(|r| later(&r)) {
        return Err(format!("refused: record {missing} was durable and is gone"));
    }
    if disk.head.current() > slot.incarnation || records().any(|r| r.incarnation > slot.incarnation) {
        return Err("refused: the metadata is older than its data".into());
    }
    Ok(())
}

fn fails(model: &Model, disk: &Disk, delta: Delta, dropped: u8) -> bool {
    let Delta::Publish { block, sectors, tags, .. } = delta else { return false };
    let matches = |s: usize| disk.data[block as usize][s].current() == tags[s];
    let seen = !model.breaks(Break::UnprovenUnseen);
    seen && (dropped & block_bit(delta) != 0 || !each(sectors).all(matches))
}

fn block_bit(delta: Delta) -> u8 {
    if let Delta::Publish { block, .. } = delta { 1 << block } else { 0 }
}

/// The next step of recovery. A sync and the write that follows it are one step: between the two
/// a cut finds what it may find behind them too.
pub fn steps(model: &Model, state: &State, emit: Emit) {
    if state.budget.crashes == 0 {
        return;
    }
    let newest = state.slots().next().unwrap_or_default();
    let mut next = *state;
    let step = match state.phase {
        Phase::Serving => return,
        Phase::Found => {
            let Ok(found) = find(model, &state.disk, newest) else { return };
            if !model.breaks(Break::VerdictUnsynced) {
                sync_data(&mut next.disk);
            }
            // A slot seen may be in the cache only: the one below it still needs its pages.
            if !model.breaks(Break::RecoveryOverCache) {
                sync_metadata(&mut next);
            }
            let page = Page { generation: newest.generation + 1, tree: found.tree };
            next.disk.pages[free_page(state)].later = Some(page);
            next.taken = found.sequence;
            hold(&mut next, &found.tree);
            next.phase = Phase::VerdictPages;
            Step::RecoveryWritesPages
        }
        Phase::VerdictPages => {
            sync_metadata(&mut next);
            next.write_slot(first_verdict(model, state, newest));
            next.phase = Phase::FirstSlot;
            Step::RecoverySyncsAndWritesFirstSlot
        }
        Phase::FirstSlot if !model.breaks(Break::VerdictOneSlot) => {
            sync_metadata(&mut next);
            next.write_slot(Slot { generation: newest.generation + 1, ..newest });
            next.phase = Phase::SecondSlot;
            Step::RecoverySyncsAndWritesSecondSlot
        }
        Phase::FirstSlot | Phase::SecondSlot => {
            sync_metadata(&mut next);
            next.disk.head.later = Some(newest.incarnation);
            next.phase = Phase::LogHead;
            Step::RecoverySyncsAndWritesLogHead
        }
        Phase::LogHead => {
            next.disk.head.sync();
            serve(model, &mut next, newest);
            Step::RecoverySyncsAndServes
        }
    };
    emit(step, next);
}

/// Both files synced.
pub fn sync_all(state: &mut State) {
    sync_data(&mut state.disk);
    sync_metadata(state);
    state.disk.head.sync();
}

fn sync_data(disk: &mut Disk) {
    disk.data.iter_mut().flatten().for_each(|sector| {
        sector.cover();
        sector.settle();
    });
    disk.ring.iter_mut().for_each(|page| page.sync());
}

fn first_verdict(model: &Model, state: &State, newest: Slot) -> Slot {
    let generation = newest.generation + 1;
    let page = state.disk.pages.iter().position(|p| p.current().generation == generation);
    let old = model.breaks(Break::OldIncarnation);
    Slot {
        generation,
        incarnation: newest.incarnation + u8::from(!old),
        page: page.expect("written before the slot") as u8,
        tree_generation: generation,
        sequence: state.taken,
    }
}

/// Opens the pool for clients with what was recovered.
fn serve(model: &Model, state: &mut State, slot: Slot) {
    let budget = state.budget;
    state.budget =
        crate::state::Budget { operations: budget.operations, crashes: budget.crashes, ..model.scope.budget };
    state.phase = Phase::Serving;
    state.checkpoint = Checkpoint::Idle;
    state.tree = state.disk.pages[slot.page as usize].current().tree;
    state.taken = 0;
    (state.durable, state.proven, state.stated) = (slot.sequence, slot.sequence, slot.sequence);
    state.next = slot.sequence + 1;
}

/// From here on a second recovery must find the same, however the first is cut.
fn hold(state: &mut State, tree: &Tree) {
    state.killed = false;
    for volume in State::volumes() {
        let read = contents(state, tree, volume);
        state.promise.hold(volume, tree.volumes[volume].life == Life::Live, read);
    }
}
