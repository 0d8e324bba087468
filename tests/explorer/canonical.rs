//! One form for states that differ in nothing that matters, so that each is explored once.
//!
//! Owns renaming (tags, sequences, generations, incarnations, pages, order of requests) and the removal
//! of what nothing can read any more. Changes no behaviour: a step from the one form and from the
//! other lead to the same. Read next: `search.rs`.

use crate::disk::{GARBAGE, Tag};
use crate::promise::Tags;
use crate::scope::Scope;
use crate::state::{Checkpoint, Kind, Operation, PAGES, Page, Record, Slot, State};
use crate::tree::{BLOCKS, Delta};

/// Brings a state into its canonical form.
pub fn reduce(scope: &Scope, state: &mut State) {
    forget_proofs(state);
    rebase(scope, state);
    reorder_slots(state);
    reorder_pages(state);
    reorder_blocks(state);
    state.operations.sort();
    state.flying.sort_by_key(|r| r.map_or(i8::MAX, |r| r.sequence));
    state.promise.tidy(state.flush);
    rename_tags(state);
}

fn forget_proofs(state: &mut State) {
    let proven = state.proven;
    for block in &mut state.blocks {
        for sequence in block.published.iter_mut().chain([&mut block.freed, &mut block.exclusive]) {
            *sequence = if *sequence <= proven { 0 } else { *sequence };
        }
    }
}

/// Counts sequences, generations and incarnations from the older slot; drops records before it.
fn rebase(scope: &Scope, state: &mut State) {
    let bases = state.disk.slots.map(|s| s.base);
    let shift = bases.iter().map(|s| s.sequence).min().unwrap_or(0);
    let age = bases.iter().map(|s| s.incarnation).min().unwrap_or(1) - 1;
    let generations = bases.iter().map(|s| s.generation).min().unwrap_or(2) - 2;
    if (shift, age, generations) == (0, 0, 0) {
        return;
    }
    let dead = |r: &Record| r.sequence <= shift || r.incarnation <= age;
    let renumber = |r: Record| Record {
        incarnation: r.incarnation.saturating_sub(age),
        sequence: r.sequence - shift,
        synced: (r.synced - shift).max(0),
        ..r
    };
    for page in &mut state.disk.ring {
        page.base = page.base.filter(|r| !dead(r)).map(renumber);
        page.later = page.later.map(|r| r.map(renumber));
    }
    state.disk.ring[..scope.ring].rotate_left(shift as usize % scope.ring);
    state.flying = state.flying.map(|r| r.map(renumber));
    let slot = |s: Slot| Slot {
        generation: s.generation - generations,
        tree_generation: s.tree_generation - generations,
        incarnation: s.incarnation - age,
        sequence: s.sequence - shift,
        ..s
    };
    for place in &mut state.disk.slots {
        place.base = slot(place.base);
        place.later = place.later.map(slot);
    }
    let page = |p: Page| Page { generation: p.generation.saturating_sub(generations), ..p };
    for place in &mut state.disk.pages {
        place.base = page(place.base);
        place.later = place.later.map(page);
    }
    state.disk.head.base = state.disk.head.base.saturating_sub(age);
    state.disk.head.later = state.disk.head.later.map(|head| head.saturating_sub(age));
    shift_memory(state, shift);
}

fn shift_memory(state: &mut State, shift: i8) {
    for sequence in
        [&mut state.next, &mut state.durable, &mut state.proven, &mut state.stated, &mut state.taken]
    {
        *sequence = (*sequence - shift).max(0);
    }
    state.sync = state.sync.map(|covers| (covers - shift).max(0));
    for block in &mut state.blocks {
        for sequence in block.published.iter_mut().chain([&mut block.freed, &mut block.exclusive]) {
            *sequence = (*sequence - shift).max(0);
        }
    }
    for operation in &mut state.operations {
        operation.sequence = (operation.sequence - shift).max(0);
    }
}

/// Which of the two places is the even one makes no difference: the older slot goes first.
fn reorder_slots(state: &mut State) {
    let [first, second] = state.disk.slots.map(|s| s.base.generation);
    if second < first {
        state.disk.slots.swap(0, 1);
    }
}

/// Newest slot's page first, then the older slot's; a page that no slot names is empty.
fn reorder_pages(state: &mut State) {
    let mut slots = state.disk.slots.map(|s| s.base);
    slots.sort_by_key(|s| std::cmp::Reverse(s.generation));
    let mut order: Vec<usize> = Vec::with_capacity(PAGES);
    for page in slots.iter().map(|s| s.page as usize).chain(0..PAGES) {
        if !order.contains(&page) {
            order.push(page);
        }
    }
    let places = state.disk.slots.iter().flat_map(|s| [Some(s.base), s.later]);
    let named: Vec<usize> = places.flatten().map(|s| s.page as usize).collect();
    let newest = slots[0].generation;
    let mut pages = state.disk.pages;
    for (number, page) in pages.iter_mut().enumerate() {
        let coming = state.checkpoint == Checkpoint::PagesSynced && page.base.generation > newest;
        if !named.contains(&number) && !coming {
            page.base = Page::default();
        }
    }
    for (place, page) in order.iter().enumerate() {
        state.disk.pages[place] = pages[*page];
    }
    let moved =
        |s: Slot| Slot { page: order.iter().position(|p| *p == s.page as usize).map_or(0, |p| p as u8), ..s };
    for slot in &mut state.disk.slots {
        slot.base = moved(slot.base);
        slot.later = slot.later.map(moved);
    }
}

fn deltas(state: &State) -> impl Iterator<Item = Delta> {
    let ring = state.disk.ring.iter().flat_map(|p| [p.base, p.later.flatten()]);
    let records = ring.chain(state.flying).flatten();
    records.flat_map(|r| r.deltas).chain(state.queue).filter(|d| *d != Delta::None)
}

fn deltas_mut(state: &mut State) -> impl Iterator<Item = &mut Delta> {
    let ring =
        state.disk.ring.iter_mut().flat_map(|p| [p.base.as_mut(), p.later.as_mut().and_then(Option::as_mut)]);
    let records = ring.flatten().chain(state.flying.iter_mut().flatten());
    records.flat_map(|r| r.deltas.iter_mut()).chain(state.queue.iter_mut())
}

/// Blocks are numbered in the order in which mappings, then requests, then deltas name them.
fn reorder_blocks(state: &mut State) {
    let mut names = [u8::MAX; BLOCKS];
    let mut given = 0;
    let mut name = |block: u8| {
        if names[block as usize] == u8::MAX {
            names[block as usize] = given;
            given += 1;
        }
    };
    let trees = std::iter::once(&state.tree).chain(state.disk.pages.iter().map(|p| &p.base.tree));
    let layers = trees.flat_map(|t| t.volumes.iter()).flat_map(|v| v.mapping.iter());
    layers.filter(|l| l.sectors != 0).for_each(|l| name(l.block));
    state.operations.iter().filter(|o| writes_block(o)).for_each(|o| name(o.block));
    for delta in deltas(state) {
        if let Delta::Publish { block, .. } = delta {
            name(block);
        }
    }
    (0..BLOCKS as u8).for_each(name);
    if !names.is_sorted() {
        renumber_blocks(state, &names);
    }
}

fn writes_block(operation: &Operation) -> bool {
    matches!(operation.kind, Kind::InPlace | Kind::Publish)
}

fn renumber_blocks(state: &mut State, names: &[u8; BLOCKS]) {
    let (data, blocks) = (state.disk.data, state.blocks);
    for (block, name) in names.iter().enumerate() {
        state.disk.data[*name as usize] = data[block];
        state.blocks[*name as usize] = blocks[block];
    }
    let pages = state.disk.pages.iter_mut().flat_map(|p| [Some(&mut p.base), p.later.as_mut()]).flatten();
    for tree in pages.map(|p| &mut p.tree).chain([&mut state.tree]) {
        let layers = tree.volumes.iter_mut().flat_map(|v| v.mapping.iter_mut());
        layers.filter(|l| l.sectors != 0).for_each(|l| l.block = names[l.block as usize]);
    }
    let operations = state.operations.iter_mut().filter(|o| writes_block(o));
    operations.for_each(|o| o.block = names[o.block as usize]);
    for delta in deltas_mut(state) {
        if let Delta::Publish { block, .. } = delta {
            *block = names[*block as usize];
        }
    }
}

/// Tags that a record, a request or a promise names.
pub fn tags_in_use(state: &State) -> Tags {
    let mut tags = state.promise.tags();
    for operation in &state.operations {
        tags |= operation.tags.iter().fold(0, |set, tag| set | 1 << tag);
    }
    for delta in deltas(state) {
        if let Delta::Publish { tags: named, .. } = delta {
            tags |= named.iter().fold(0, |set: Tags, tag| set | 1 << tag);
        }
    }
    tags
}

/// Names tags in the order in which they stand on disk; what nothing names is garbage.
fn rename_tags(state: &mut State) {
    let used = tags_in_use(state);
    let mut names = [GARBAGE; 16];
    names[0] = 0;
    let mut given = 0;
    let mut give = |tag: Tag| {
        if names[tag as usize] == GARBAGE && tag != GARBAGE && used >> tag & 1 == 1 {
            given += 1;
            names[tag as usize] = given;
        }
    };
    for sector in state.disk.data.iter().flatten() {
        give(sector.base);
        sector.later().for_each(&mut give);
    }
    (1..GARBAGE).for_each(&mut give);
    state.disk.data.iter_mut().flatten().for_each(|sector| sector.rename(&names));
    state.promise.rename(&names);
    for operation in &mut state.operations {
        operation.tags = operation.tags.map(|tag| names[tag as usize]);
    }
    for delta in deltas_mut(state) {
        if let Delta::Publish { tags, .. } = delta {
            *tags = tags.map(|tag| names[tag as usize]);
        }
    }
}
