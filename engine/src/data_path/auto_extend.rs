//! A pool that grows by itself while it is low on space, or somebody waits for a block.
//!
//! Owns the judgement whether and how far. What the host can hold is not known here: it is asked for, and whoever drives
//! the core tells it. How a pool grows is `extend.rs`.

use super::{Core, Key};
use crate::storage::HostRoom;
use crate::units::BLOCK_BYTES;

/// The smallest and the largest step, in bytes; between them a fifth of the pool.
const STEP_BYTES: std::ops::RangeInclusive<u64> = 64 << 20..=256 << 30;
/// How long a refusal is believed, in milliseconds.
const REFUSED_MS: u64 = 5000;

/// What is known about growing.
#[derive(Default)]
pub struct AutoExtendState {
    /// The host's room was asked for.
    asks: bool,
    /// Before this time growing is of no use: the host has too little room, or refused.
    refused_until_ms: u64,
    /// The extension that was begun here, and is under way.
    running: Option<Key>,
}

impl Core {
    /// Whether the driver is to say, by [`Core::host_has_room`], how much room the host has.
    pub fn wants_host_room(&self) -> bool {
        self.auto_extend.asks
    }

    /// What the host of the data file holds and could hold; none if that is not known. Call [`Core::turn`] afterwards.
    pub fn host_has_room(&mut self, room: Option<HostRoom>) {
        if !std::mem::take(&mut self.auto_extend.asks) {
            return;
        }
        let to_blocks = room.and_then(|room| self.next_size(&room));
        let begun = to_blocks.is_some_and(|blocks| self.start_auto_extend(blocks));
        if !begun {
            self.auto_extend.refused_until_ms = self.now_ms + REFUSED_MS;
        }
    }

    /// Asks for room when the pool is to grow.
    pub(super) fn run_auto_extend(&mut self) {
        if self.failure.is_none() && !self.closing && self.needs_growth() && self.may_grow() {
            self.auto_extend.asks = true;
        }
    }

    /// Whether blocks may come of growing: whoever waits for one goes on waiting.
    pub(super) fn grows_by_itself(&self) -> bool {
        self.auto_extend.running.is_some() || self.needs_growth() && self.may_grow()
    }

    /// Whether more blocks are needed. Where the host has no room for those that the pool has, more are of no use; where all
    /// are promised to others they are, however many are free.
    fn needs_growth(&self) -> bool {
        let is_used_up = self.space.counts().holes == 0 && self.stall.wants_block();
        self.is_low() || is_used_up && self.no_block_comes()
    }

    fn may_grow(&self) -> bool {
        let is_allowed =
            self.settings.auto_extend_bytes / BLOCK_BYTES > self.metadata.forest.data_counts.len();
        let is_quiet = !self.is_extending && self.auto_extend.running.is_none();
        self.options.can_wait && is_allowed && is_quiet && self.now_ms >= self.auto_extend.refused_until_ms
    }

    /// The next size in data blocks; none if the host cannot hold a larger pool than this one.
    fn next_size(&self, room: &HostRoom) -> Option<u64> {
        let now = self.metadata.forest.data_counts.len();
        let step = (now * BLOCK_BYTES / 5).clamp(*STEP_BYTES.start(), *STEP_BYTES.end());
        let to_bytes = (now * BLOCK_BYTES).saturating_add(step);
        let bytes = to_bytes.min(self.settings.auto_extend_bytes).min(room.holds_at_most());
        Some(bytes / BLOCK_BYTES).filter(|blocks| *blocks > now)
    }

    fn start_auto_extend(&mut self, to_blocks: u64) -> bool {
        let key = Key(self.next_key);
        self.next_key += 1;
        self.auto_extend.running = Some(key);
        let begun = self.start_extend(key, to_blocks).is_ok();
        if !begun {
            self.auto_extend.running = None;
        }
        begun
    }

    /// An extension is over, this one's or another.
    pub(super) fn note_extended(&mut self, key: Key, has_grown: bool) {
        if self.auto_extend.running == Some(key) {
            self.auto_extend.running = None;
            if !has_grown {
                self.auto_extend.refused_until_ms = self.now_ms + REFUSED_MS;
            }
        }
    }
}
