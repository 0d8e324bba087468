//! Checkpoints of a serving pool: rule L6.
//!
//! Owns the order pages, sync, root slot, sync, and what that releases. The tree is taken when its
//! record is durable and nothing newer is applied: to take it earlier and to wait gives the same
//! disks. Read next: `recovery.rs`.

use crate::breaks::Break;
use crate::model::{Emit, Model, Step};
use crate::state::{Checkpoint, PAGES, Page, Slot, State};
use crate::tree::Delta;

/// The next step of a checkpoint.
pub fn steps(model: &Model, state: &State, emit: Emit) {
    match state.checkpoint {
        Checkpoint::Idle => write_pages(model, state, emit),
        Checkpoint::Pages if model.breaks(Break::SlotBeforePages) => write_slot(state, emit),
        Checkpoint::Pages => {
            let mut next = *state;
            sync_metadata(&mut next);
            next.checkpoint = Checkpoint::PagesSynced;
            emit(Step::CheckpointPagesSynced, next);
        }
        Checkpoint::PagesSynced => write_slot(state, emit),
        Checkpoint::Slot => {
            let mut next = *state;
            sync_metadata(&mut next);
            next.checkpoint = Checkpoint::Idle;
            let sequence = next.slots().next().map_or(0, |s| s.sequence);
            next.proven = next.proven.max(sequence);
            emit(Step::CheckpointSlotSynced, next);
        }
    }
}

/// One sync of the metadata file, submitted and returned.
pub fn sync_metadata(state: &mut State) {
    state.disk.pages.iter_mut().for_each(|page| page.sync());
    state.disk.slots.iter_mut().for_each(|slot| slot.sync());
}

/// A page that no slot needs, as far as a read of the slots can tell.
pub fn free_page(state: &State) -> usize {
    let needed = |page: usize| state.slots().any(|s| s.page as usize == page);
    (0..PAGES).find(|page| !needed(*page)).expect("two slots need two pages of three")
}

fn write_pages(model: &Model, state: &State, emit: Emit) {
    let durable = state.durable == state.next - 1 || model.breaks(Break::CheckpointAhead);
    if state.budget.checkpoints == 0 || state.queue[0] != Delta::None || !durable {
        return;
    }
    let mut next = *state;
    next.budget.checkpoints -= 1;
    let [newest, oldest] = [state.slots().next(), state.slots().last()].map(Option::unwrap_or_default);
    let page = if model.breaks(Break::PagesReleasedEarly) && oldest.page != newest.page {
        oldest.page as usize
    } else {
        free_page(state)
    };
    next.disk.pages[page].later = Some(Page { generation: newest.generation + 1, tree: state.tree });
    next.taken = state.next - 1;
    next.checkpoint = Checkpoint::Pages;
    emit(Step::CheckpointPages { sequence: next.taken }, next);
}

fn write_slot(state: &State, emit: Emit) {
    let mut next = *state;
    let newest = state.slots().next().unwrap_or_default();
    let generation = newest.generation + 1;
    let page = state.disk.pages.iter().position(|p| p.current().generation == generation);
    let slot = Slot {
        generation,
        incarnation: newest.incarnation,
        page: page.expect("written before the slot") as u8,
        tree_generation: generation,
        sequence: state.taken,
    };
    next.write_slot(slot);
    next.checkpoint = Checkpoint::Slot;
    emit(Step::CheckpointSlot, next);
}
