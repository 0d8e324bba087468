//! What the pool cannot do without and the host has no room for: log records, pages of checkpoints, root slots.
//!
//! Owns such writes until they are done. All go where there is room already, but some file systems need room for every
//! write (copy on write, a quota that counts them). Nothing was acknowledged by them yet, and the same bytes written again
//! at the same place mend what a refused write may have left half done. A sync that was refused is another matter: what it
//! covered is not known, and the pool fails.

use super::operations::Pending;
use super::{Core, Side};
use crate::storage::{DiskError, Operation};

/// How often the host is asked again, in milliseconds.
const RETRY_MS: u64 = 1000;

/// Writes that were refused and will be tried again.
#[derive(Default)]
pub struct RefusedState {
    writes: Vec<(Side, Operation, Pending)>,
    /// Since when none got through.
    since_ms: Option<u64>,
    retried_ms: u64,
}

impl RefusedState {
    /// Whether something waits for room, or was refused the last time.
    pub fn is_waiting(&self) -> bool {
        self.since_ms.is_some()
    }

    /// Since when none got through.
    pub fn since_ms(&self) -> Option<u64> {
        self.since_ms
    }

    /// How many wait.
    pub fn waiting(&self) -> u64 {
        self.writes.len() as u64
    }
}

impl Core {
    /// Puts a refused write of the pool's own aside, if that may help. Otherwise gives it back.
    pub(super) fn put_refused_aside(
        &mut self,
        pending: Pending,
        operation: Operation,
        result: Result<(), DiskError>,
    ) -> Option<(Pending, Operation)> {
        let side = match &pending {
            Pending::Record(_) => Side::Data,
            Pending::CheckpointPage | Pending::Slot => Side::Metadata,
            _ => return Some((pending, operation)),
        };
        if result != Err(DiskError::NoSpace) {
            self.refused.since_ms = None;
            return Some((pending, operation));
        }
        let since_ms = *self.refused.since_ms.get_or_insert(self.now_ms);
        let timeout_ms = u64::from(self.settings.no_space_timeout_s) * 1000;
        let is_over = timeout_ms > 0 && self.now_ms >= since_ms + timeout_ms;
        if !self.options.can_wait || self.closing || is_over || self.failure.is_some() {
            return Some((pending, operation));
        }
        self.refused.writes.push((side, operation, pending));
        None
    }

    /// Tries refused writes again now and then, and all at once when the pool is being closed.
    pub(super) fn retry_refused(&mut self) {
        if self.failure.is_some() {
            return self.refused.writes.clear();
        }
        let is_due = self.closing || self.now_ms >= self.refused.retried_ms + RETRY_MS;
        if self.refused.writes.is_empty() || !is_due {
            return;
        }
        self.refused.retried_ms = self.now_ms;
        for (side, operation, pending) in std::mem::take(&mut self.refused.writes) {
            self.submit_operation(side, operation, pending);
        }
    }
}
