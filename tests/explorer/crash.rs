//! Power cuts and killed processes, at any state.
//!
//! Owns what a disk may hold afterwards: any subset of what no returned sync covers, in any order.
//! Decides nothing. Read next: `recovery.rs`.

use crate::disk::{Place, Sector, Tag};
use crate::model::{Emit, Model, Step};
use crate::recovery::sync_all;
use crate::scope;
use crate::state::{Disk, Phase, State};
use crate::tree::each;

/// Every way to lose power or the process here.
pub fn steps(model: &Model, state: &State, emit: Emit) {
    let serving = state.phase == Phase::Serving;
    if state.budget.crashes == 0 {
        return;
    }
    for disk in survivors(model, state) {
        emit(Step::PowerCut, crashed(model, state, disk, false));
    }
    for disk in left_behind(model, state) {
        let mut next = crashed(model, state, disk, serving || state.killed);
        if next.budget.crashes == 0 {
            // Nothing but what is found will be looked at.
            sync_all(&mut next);
        }
        emit(Step::ProcessKilled, next);
    }
}

fn crashed(model: &Model, state: &State, disk: Disk, killed: bool) -> State {
    let mut next = scope::empty(disk);
    next.phase = Phase::Found;
    next.killed = killed;
    next.promise = state.promise;
    next.promise.crash(killed);
    next.budget.operations = model.scope.operations_after_crash;
    next.budget.crashes = state.budget.crashes - u8::from(state.phase == Phase::Serving);
    next
}

/// Multiplies disks: each also with each of the values in one place.
fn branch<T: Copy>(disks: &mut Vec<Disk>, values: &[T], set: impl Fn(&mut Disk, T)) {
    let before = disks.clone();
    for value in values {
        disks.extend(before.iter().map(|disk| {
            let mut disk = *disk;
            set(&mut disk, *value);
            disk
        }));
    }
}

/// Writes to a sector that have been submitted and not completed.
fn in_flight(state: &State, block: usize, sector: usize) -> Vec<Tag> {
    let writes = state.writes().filter(|o| o.block as usize == block && each(o.sectors).any(|s| s == sector));
    let mut tags: Vec<Tag> = writes.map(|o| o.tags[sector]).collect();
    if state.blocks[block].punching {
        tags.push(0);
    }
    tags
}

/// The disks that a power cut may leave.
fn survivors(model: &Model, state: &State) -> Vec<Disk> {
    let now = &state.disk;
    let mut disks = vec![Disk {
        data: now.data.map(|block| block.map(|sector| Sector::settled(sector.base))),
        ring: now.ring.map(|page| Place::settled(page.base)),
        head: Place::settled(now.head.base),
        slots: now.slots.map(|slot| Place::settled(slot.base)),
        pages: now.pages.map(|page| Place::settled(page.base)),
    }];
    for (block, sectors) in now.data.iter().enumerate() {
        for (number, sector) in sectors.iter().enumerate() {
            let mut tags: Vec<Tag> = sector.later().chain(in_flight(state, block, number)).collect();
            tags.sort();
            tags.dedup();
            tags.retain(|tag| *tag != sector.base);
            branch(&mut disks, &tags, |disk, tag| disk.data[block][number] = Sector::settled(tag));
        }
    }
    for (number, page) in now.ring.iter().enumerate() {
        let flying =
            state.flying.iter().flatten().filter(|r| r.sequence as usize % model.scope.ring == number);
        let records: Vec<_> = page.later.into_iter().chain(flying.map(|r| Some(*r))).collect();
        branch(&mut disks, &records, |disk, record| disk.ring[number] = Place::settled(record));
    }
    for (number, slot) in now.slots.iter().enumerate() {
        branch(&mut disks, slot.later.as_slice(), |disk, slot| disk.slots[number] = Place::settled(slot));
    }
    for (number, page) in now.pages.iter().enumerate() {
        branch(&mut disks, page.later.as_slice(), |disk, page| disk.pages[number] = Place::settled(page));
    }
    branch(&mut disks, now.head.later.as_slice(), |disk, head| disk.head = Place::settled(head));
    disks
}

/// The disks that a killed process may leave: what had completed is there, what was in flight may be.
fn left_behind(model: &Model, state: &State) -> Vec<Disk> {
    let mut disks = vec![state.disk];
    // A sync that never returned covers nothing.
    disks[0].data.iter_mut().flatten().for_each(|sector| sector.uncover());
    disks[0].ring.iter_mut().for_each(|page| page.uncover());
    for block in 0..state.disk.data.len() {
        for sector in 0..state.disk.data[block].len() {
            branch(&mut disks, &in_flight(state, block, sector), |disk, tag| {
                disk.data[block][sector].write(tag);
            });
        }
    }
    for record in state.flying.iter().flatten() {
        branch(&mut disks, &[*record], |disk, record| {
            disk.ring[record.sequence as usize % model.scope.ring].write(Some(record));
        });
    }
    for number in 0..state.disk.slots.len() {
        let lost = &[()][..usize::from(state.disk.slots[number].later.is_some())];
        branch(&mut disks, lost, |disk, ()| disk.slots[number].later = None);
    }
    for number in 0..state.disk.pages.len() {
        let lost = &[()][..usize::from(state.disk.pages[number].later.is_some())];
        branch(&mut disks, lost, |disk, ()| disk.pages[number].later = None);
    }
    disks
}
