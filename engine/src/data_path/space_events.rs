//! What is told when a pool runs low on space, runs out of it, and has some again.
//!
//! Owns the state of the pool's space and its events. They are told when the state changes and, while it is not well,
//! again and again: who missed one is told by the next. Numbers have no gaps within an opening.

use super::stall::StallStatus;
use super::{Core, MetadataState};
use crate::units::BLOCK_BYTES;

/// How often an event comes again while the state stays, in milliseconds.
const AGAIN_MS: u64 = 60_000;
/// Events that are kept for a driver that does not fetch them.
const EVENTS_MAX: usize = 64;

/// How a pool is off for space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SpaceState {
    /// There is enough.
    #[default]
    Ok,
    /// Less is free than the low-water mark, or the metadata file is nearly full and cannot grow.
    Low,
    /// Writes that need a new block wait or fail.
    OutOfSpace,
}

/// A change of the state, or that it lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpaceEvent {
    /// Counts events from 1 on.
    pub number: u64,
    /// How the pool is off.
    pub state: SpaceState,
    /// How the metadata file is off.
    pub metadata: MetadataState,
    /// What the pool may use, in bytes.
    pub pool_bytes: u64,
    /// What nothing maps of it, in bytes.
    pub free_bytes: u64,
    /// Below so many free bytes the pool is low.
    pub low_water_bytes: u64,
    /// Writes that wait, and for what.
    pub stall: StallStatus,
}

/// What was told.
#[derive(Default)]
pub struct SpaceEvents {
    told: (SpaceState, MetadataState),
    told_ms: u64,
    number: u64,
    events: std::collections::VecDeque<SpaceEvent>,
}

impl Core {
    /// The next event of the pool's space.
    pub fn next_space_event(&mut self) -> Option<SpaceEvent> {
        self.space_events.events.pop_front()
    }

    /// The number of the last event; 0 for none yet.
    pub(super) fn space_event_number(&self) -> u64 {
        self.space_events.number
    }

    /// How the pool is off for space.
    pub(super) fn space_state(&self) -> SpaceState {
        let metadata = self.metadata_state();
        if self.shortage().is_some() || metadata == MetadataState::Full {
            return SpaceState::OutOfSpace;
        }
        if self.is_low() || metadata == MetadataState::NearFull { SpaceState::Low } else { SpaceState::Ok }
    }

    /// Whether less is free than the low-water mark. What is low must have a little more to be well again.
    pub(super) fn is_low(&self) -> bool {
        let mark = self.settings.low_water_of(self.metadata.forest.data_counts.len() * BLOCK_BYTES);
        let was_low = self.space_events.told.0 != SpaceState::Ok;
        self.free_bytes() < if was_low { mark + mark / 8 } else { mark }
    }

    fn free_bytes(&self) -> u64 {
        let counts = &self.metadata.forest.data_counts;
        (counts.len() - counts.in_use()) * BLOCK_BYTES
    }

    /// Notes what there is to tell now.
    pub(super) fn note_space(&mut self) {
        let state = (self.space_state(), self.metadata_state());
        let is_well = state == <(SpaceState, MetadataState)>::default();
        let comes_again = !is_well && self.now_ms >= self.space_events.told_ms + AGAIN_MS;
        if state == self.space_events.told && !comes_again {
            return;
        }
        let pool_bytes = self.metadata.forest.data_counts.len() * BLOCK_BYTES;
        let (free_bytes, stall) = (self.free_bytes(), self.stall_status());
        let low_water_bytes = self.settings.low_water_of(pool_bytes);
        let events = &mut self.space_events;
        (events.told, events.told_ms, events.number) = (state, self.now_ms, events.number + 1);
        if events.events.len() == EVENTS_MAX {
            events.events.pop_front();
        }
        events.events.push_back(SpaceEvent {
            number: events.number,
            state: state.0,
            metadata: state.1,
            pool_bytes,
            free_bytes,
            low_water_bytes,
            stall,
        });
    }
}
