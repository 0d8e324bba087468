//! The room that the host of a simulated disk has: which pages it has allocated, and how many more it could.
//!
//! Owns the account. Others use the host too: its room changes at any moment, but what was allocated and synced stays.
//! A *late* host takes writes that it has no room for and says so only when they are synced, as a thin device under a
//! file system does; an early one refuses the write.

use super::image::PAGE;
use super::volatile::{Cover, OperationNumber};
use std::collections::BTreeSet;
use std::ops::Range;
use vellum_engine::storage::HostRoom;

/// What is free where there is no limit.
const ENDLESS_PAGES: u64 = 1 << 28;

/// A change that no sync has covered.
#[derive(Clone, Debug)]
struct Change {
    operation: OperationNumber,
    pages: Range<u64>,
    is_added: bool,
}

/// What a host holds of a disk.
#[derive(Clone, Debug, Default)]
pub struct Host {
    allocated: BTreeSet<u64>,
    durable: BTreeSet<u64>,
    changes: Vec<Change>,
    /// Pages that it could hold; none for no limit.
    room_pages: Option<u64>,
    is_late: bool,
}

impl Host {
    /// Makes it a late one.
    pub fn set_late(&mut self) {
        self.is_late = true;
    }

    /// Leaves so many pages free from now on; none for no limit.
    pub fn leave_free(&mut self, free_pages: Option<u64>) {
        self.room_pages = free_pages.map(|free| self.allocated.len() as u64 + free);
    }

    /// What it says of itself. One without a limit says that it is large.
    pub fn room(&self) -> HostRoom {
        let allocated = self.allocated.len() as u64;
        let free = self.room_pages.map_or(ENDLESS_PAGES, |room| room.saturating_sub(allocated));
        let bytes = |pages: u64| pages * PAGE as u64;
        HostRoom {
            allocated_bytes: bytes(allocated),
            free_bytes: bytes(free),
            total_bytes: bytes(allocated + free),
        }
    }

    /// Whether it has room for all of `pages`.
    pub fn has_room_for(&self, pages: &Range<u64>) -> bool {
        let Some(room) = self.room_pages else { return true };
        let new = pages.clone().filter(|page| !self.allocated.contains(page)).count() as u64;
        new == 0 || self.allocated.len() as u64 + new <= room
    }

    /// Whether it refuses a write into `pages`.
    pub fn refuses(&self, pages: &Range<u64>) -> bool {
        !self.is_late && !self.has_room_for(pages)
    }

    /// Whether it took more than it has room for: a sync finds out.
    pub fn is_overcommitted(&self) -> bool {
        self.room_pages.is_some_and(|room| self.allocated.len() as u64 > room)
    }

    /// An allocation or write of `pages` has happened.
    pub fn add(&mut self, operation: OperationNumber, pages: Range<u64>) {
        self.allocated.extend(pages.clone());
        self.changes.push(Change { operation, pages, is_added: true });
    }

    /// A punch of `pages` has happened.
    pub fn remove(&mut self, operation: OperationNumber, pages: Range<u64>) {
        pages.clone().for_each(|page| _ = self.allocated.remove(&page));
        self.changes.push(Change { operation, pages, is_added: false });
    }

    /// A sync has completed.
    pub fn settle(&mut self, cover: &Cover) {
        let durable = &mut self.durable;
        self.changes.retain(|change| {
            let is_covered = cover.contains(change.operation);
            if is_covered && change.is_added {
                durable.extend(change.pages.clone());
            } else if is_covered {
                change.pages.clone().for_each(|page| _ = durable.remove(&page));
            }
            !is_covered
        });
    }

    /// The host after a power cut: what was not synced is not allocated.
    pub fn after_power_cut(&self) -> Self {
        let room_pages = self.room_pages.map(|room| room.max(self.durable.len() as u64));
        let changes = Vec::new();
        Self { allocated: self.durable.clone(), durable: self.durable.clone(), changes, room_pages, ..*self }
    }
}
