//! Electricity for the disks of one machine: lasts for a number of disk events, then all of them fail.
//!
//! Owns the count. Used to cut a recovery short wherever it is; `cut.rs` then says what is left of the disks.

use std::cell::Cell;
use std::rc::Rc;

/// Shared by the disks of a machine; every submission and every completion draws from it.
#[derive(Clone, Debug)]
pub struct PowerSupply {
    left: Rc<Cell<u64>>,
}

impl PowerSupply {
    /// Lasts for ever.
    pub fn endless() -> Self {
        Self::lasting(u64::MAX)
    }

    /// Lasts for so many submissions and completions.
    pub fn lasting(events: u64) -> Self {
        Self { left: Rc::new(Cell::new(events)) }
    }

    /// Takes one event's worth. False when there is none left.
    pub fn draw(&self) -> bool {
        let left = self.left.get();
        self.left.set(left.saturating_sub(1));
        left > 0
    }

    /// Whether nothing is left.
    pub fn is_off(&self) -> bool {
        self.left.get() == 0
    }

    /// How many events are left.
    pub fn left(&self) -> u64 {
        self.left.get()
    }
}
