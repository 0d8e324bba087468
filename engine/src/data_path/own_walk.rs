//! Walks that count the data blocks a volume has alone, for its reservation.
//!
//! Owns the steps of these walks. They run in the background, one at a time, after an opening, after a deletion, and
//! before a reservation is set; who waits for one makes them hurry.

use super::{Core, Task};
use crate::metadata::Fault;
use crate::units::VolumeId;

/// Steps that one turn takes at most: some hundred microseconds.
const STEPS_A_TURN: u32 = 4;
/// Entries of pages that one step looks at.
const STEP_ENTRIES: usize = 16 * 1024;

impl Core {
    /// Takes some steps.
    pub(super) fn run_own_walks(&mut self) {
        if !self.reservations.is_walking() {
            return;
        }
        if self.closing || self.failure.is_some() {
            // Who waits for them has to do with what is known.
            while let Some(volume) = self.reservations.walks.front() {
                self.own_walk_ends(*volume);
            }
            return;
        }
        for _ in 0..self.own_steps_left {
            let Some(volume) = self.reservations.walks.front().filter(|_| !self.reservations.walk_waits)
            else {
                break;
            };
            self.own_steps_left -= 1;
            self.count_own(*volume);
        }
    }

    /// A new turn begins.
    pub(super) fn renew_own_steps(&mut self) {
        self.own_steps_left = STEPS_A_TURN;
    }

    /// One step of a walk, now or when the page is there that it waited for.
    pub(super) fn count_own(&mut self, volume: VolumeId) {
        self.reservations.walk_waits = false;
        let root = self.metadata.volumes.get(volume).and_then(|record| record.root);
        let Some(count) = self.reservations.promise(volume).and_then(|promise| promise.walk) else {
            return self.own_walk_ends(volume);
        };
        match self.metadata.forest.count_own(&root, count, STEP_ENTRIES) {
            Ok(count) if count.is_over() => {
                self.change_promise(volume, |promise| promise.own = promise.own.max(count.blocks));
                self.own_walk_ends(volume);
            }
            Ok(count) => self.change_promise(volume, |promise| promise.walk = Some(count)),
            Err(Fault::Missing(pointer)) => {
                self.reservations.walk_waits = true;
                self.wait_for_page(pointer, Task::CountOwn(volume));
            }
            // What cannot be read counts as shared.
            Err(Fault::Failed(_)) => self.own_walk_ends(volume),
        }
    }

    /// A walk is over, or given up: then what is known stays.
    pub(super) fn own_walk_ends(&mut self, volume: VolumeId) {
        self.reservations.walk_waits = false;
        self.reservations.walks.retain(|other| *other != volume);
        self.change_promise(volume, |promise| promise.walk = None);
        if !self.reservations.is_walking() {
            self.wake_reservations();
        }
    }

    /// Who waits for walks, or for the host, looks again.
    pub(super) fn wake_reservations(&mut self) {
        self.ready.append(&mut self.reservations.waiting);
    }
}
