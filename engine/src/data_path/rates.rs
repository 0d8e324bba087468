//! How fast blocks are given out and freed, and when the pool is full at that.
//!
//! Owns sums a second over the last minute, by the clock that turns bring. What is given out and freed is counted by the
//! counts of blocks, so collapse, copies and deletions are in it too.

use crate::units::BLOCK_BYTES;
use std::collections::VecDeque;

/// What counts as now, in seconds.
const WINDOW_S: u64 = 60;

/// How fast the pool fills, over the last minute or since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Bytes of blocks that got their first owner, a second.
    pub given_bytes_per_s: u64,
    /// Bytes of blocks that lost their last owner, a second.
    pub freed_bytes_per_s: u64,
    /// Seconds until no block is free at the difference of both; nothing if the pool does not fill.
    pub full_in_s: Option<u64>,
}

/// Blocks of one second.
struct Second {
    second: u64,
    given: u64,
    freed: u64,
}

/// What has happened lately.
#[derive(Default)]
pub struct RateState {
    /// The last minute, as far as anything happened.
    seconds: VecDeque<Second>,
    /// When the pool was opened.
    since_ms: Option<u64>,
    /// Blocks that were in use when it was last noted.
    in_use: u64,
    /// Blocks freed since.
    freed: u64,
}

impl RateState {
    /// A block lost its last owner.
    pub fn block_freed(&mut self) {
        self.freed += 1;
    }

    /// A turn is over; so many blocks are in use.
    pub fn note(&mut self, now_ms: u64, in_use: u64) {
        if self.since_ms.is_none() {
            self.since_ms = Some(now_ms);
            (self.in_use, self.freed) = (in_use, 0);
        }
        let freed = std::mem::take(&mut self.freed);
        let given = (in_use + freed).saturating_sub(self.in_use);
        self.in_use = in_use;
        if given + freed == 0 {
            return;
        }
        let second = now_ms / 1000;
        while self.seconds.pop_front_if(|old| old.second + WINDOW_S <= second).is_some() {}
        match self.seconds.back_mut().filter(|last| last.second == second) {
            Some(last) => (last.given, last.freed) = (last.given + given, last.freed + freed),
            None => self.seconds.push_back(Second { second, given, freed }),
        }
    }

    /// What comes of it, when so many blocks are free.
    pub fn rates(&self, now_ms: u64, free_blocks: u64) -> Rates {
        let now = now_ms / 1000;
        let lately = self.seconds.iter().filter(|second| second.second + WINDOW_S > now);
        let (given, freed) =
            lately.fold((0, 0), |(given, freed), second| (given + second.given, freed + second.freed));
        let age_ms = now_ms.saturating_sub(self.since_ms.unwrap_or(now_ms));
        let window_ms = age_ms.clamp(1000, WINDOW_S * 1000);
        let bytes_per_s = |blocks: u64| (blocks * 1000).saturating_mul(BLOCK_BYTES) / window_ms;
        let full_in_s = given.checked_sub(freed).filter(|net| *net > 0).map(|net| {
            let ms = u128::from(free_blocks) * u128::from(window_ms) / u128::from(net);
            u64::try_from(ms / 1000).unwrap_or(u64::MAX)
        });
        Rates { given_bytes_per_s: bytes_per_s(given), freed_bytes_per_s: bytes_per_s(freed), full_in_s }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_counts_and_older_seconds_do_not() {
        let mut state = RateState::default();
        state.note(5_000, 100);
        state.note(5_500, 160);
        let rates = state.rates(5_500, 600);
        assert_eq!(rates.given_bytes_per_s, 60 * BLOCK_BYTES, "a second is the least");
        assert_eq!(rates.full_in_s, Some(10));
        state.note(65_000, 160);
        assert_eq!(state.rates(64_999, 600).given_bytes_per_s, 60 * BLOCK_BYTES * 1000 / 59_999);
        assert_eq!(state.rates(65_000, 600), Rates::default(), "also if nothing else happens");
    }

    #[test]
    fn what_is_freed_counts_beside_what_is_given_out() {
        let mut state = RateState::default();
        state.note(0, 100);
        (0..30).for_each(|_| state.block_freed());
        state.note(10_000, 90);
        let rates = state.rates(10_000, 1000);
        assert_eq!((rates.given_bytes_per_s, rates.freed_bytes_per_s), (2 * BLOCK_BYTES, 3 * BLOCK_BYTES));
        assert_eq!(rates.full_in_s, None, "it gets emptier");
        state.note(10_900, 130);
        assert_eq!(state.rates(20_000, 600).full_in_s, Some(600 * 20 / 30));
    }
}
