//! What the pool cannot do without and the host has no room for: log records, pages of checkpoints, root slots.
//!
//! Owns such writes until they are done. All go where there is room already, but some file systems need room for every
//! write (copy on write, a quota that counts them). Nothing was acknowledged by them yet, and the same bytes written again
//! at the same place mend what a refused write may have left half done. A sync that was refused is another matter: what it
//! covered is not known, and the pool fails.

use super::operations::Pending;
use super::{Core, Side};
use crate::storage::{DiskError, Operation, Ticket};
use rustc_hash::FxHashMap;

/// How often the host is asked again, in milliseconds.
const RETRY_MS: u64 = 1000;

struct Refused {
    side: Side,
    operation: Operation,
    pending: Pending,
    since_ms: u64,
}

/// Writes that were refused and are not done.
#[derive(Default)]
pub struct RefusedState {
    waiting: Vec<Refused>,
    /// Those that are being tried again, and since when they have been refused.
    retrying: FxHashMap<Ticket, u64>,
    retried_ms: u64,
}

impl RefusedState {
    /// How many are not done.
    pub fn count(&self) -> u64 {
        (self.waiting.len() + self.retrying.len()) as u64
    }

    /// Since when the oldest of them has been refused.
    pub fn since_ms(&self) -> Option<u64> {
        let waiting = self.waiting.iter().map(|refused| refused.since_ms);
        waiting.chain(self.retrying.values().copied()).min()
    }
}

impl Core {
    /// Puts a refused write of the pool's own aside, if that may help. Otherwise gives it back.
    pub(super) fn put_refused_aside(
        &mut self,
        ticket: Ticket,
        pending: Pending,
        operation: Operation,
        result: Result<(), DiskError>,
    ) -> Option<(Pending, Operation)> {
        let side = match &pending {
            Pending::Record(_) => Side::Data,
            Pending::CheckpointPage | Pending::Slot => Side::Metadata,
            _ => return Some((pending, operation)),
        };
        let refused_ms = self.refused.retrying.remove(&ticket);
        if result != Err(DiskError::NoSpace) {
            return Some((pending, operation));
        }
        let since_ms = refused_ms.unwrap_or(self.now_ms);
        let timeout_ms = u64::from(self.settings.no_space_timeout_s) * 1000;
        let is_over = timeout_ms > 0 && self.now_ms >= since_ms + timeout_ms;
        if !self.options.can_wait || self.closing || is_over || self.failure.is_some() {
            return Some((pending, operation));
        }
        if self.refused.count() == 0 {
            self.refused.retried_ms = self.now_ms;
        }
        self.refused.waiting.push(Refused { side, operation, pending, since_ms });
        None
    }

    /// Tries refused writes again now and then, and all at once when the pool is being closed.
    pub(super) fn retry_refused(&mut self) {
        if self.failure.is_some() {
            return self.refused.waiting.clear();
        }
        let is_due = self.closing || self.now_ms >= self.refused.retried_ms + RETRY_MS;
        if self.refused.waiting.is_empty() || !is_due {
            return;
        }
        self.refused.retried_ms = self.now_ms;
        for Refused { side, operation, pending, since_ms } in std::mem::take(&mut self.refused.waiting) {
            let ticket = self.submit_operation(side, operation, pending);
            self.refused.retrying.insert(ticket, since_ms);
        }
    }
}
