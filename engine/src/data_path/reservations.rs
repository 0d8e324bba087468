//! Reservations: what volumes may still get of the blocks that were promised to them.
//!
//! Owns the promise. A volume with a reservation of R blocks can always have R blocks that nobody shares. Of these it has
//! some already; the rest is *outstanding*, and so many free, allocated blocks are given to nobody else. What a volume has
//! alone is counted by its deltas from a lower bound on: 0 at an opening and behind a snapshot, and what a walk over its
//! tree has found (`own_walk.rs`). A lower bound keeps too many blocks, never too few. What may raise the sum is checked
//! before it is done, by `reserve.rs`.

use super::write::WriteTask;
use super::{Core, Task};
use crate::format::{Delta, VolumeKind, VolumeRecord, VolumeState};
use crate::metadata::Fault;
use crate::metadata::tree::{Event, OwnCount};
use crate::units::{BLOCK_BYTES, VirtualBlock, VolumeId};
use rustc_hash::FxHashMap;
use std::collections::VecDeque;

/// What was promised to a volume, and what has come of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Promise {
    /// Blocks of the reservation; 0 while it is being found out whether it can be made.
    pub blocks: u64,
    /// Blocks that nobody shares with the volume, at least.
    pub own: u64,
    /// Blocks that it was given and has not published yet.
    given: u64,
    /// A count of what it has alone that is under way.
    pub walk: Option<OwnCount>,
}

impl Promise {
    /// What it may still get, were it promised `blocks`, and had it `own` alone.
    pub fn outstanding_of(&self, blocks: u64, own: u64) -> u64 {
        blocks.saturating_sub(own + self.given)
    }

    fn outstanding(&self) -> u64 {
        self.outstanding_of(self.blocks, self.own)
    }

    /// A change of mappings from `first` on gave it `new` blocks, and freed `freed` that only it had.
    fn count(&mut self, first: VirtualBlock, new: u64, freed: u64) {
        self.own = (self.own + new).saturating_sub(freed);
        self.given = self.given.saturating_sub(new);
        // What lies behind the walk's place it will see itself.
        if let Some(walk) = self.walk.as_mut().filter(|walk| first < walk.next) {
            walk.blocks = (walk.blocks + new).saturating_sub(freed);
        }
    }

    /// Everything that the volume has is shared now.
    fn share_all(&mut self) {
        self.own = 0;
        self.walk = None;
    }
}

/// All promises, and who waits for what becomes of them.
#[derive(Default)]
pub struct Reservations {
    promises: FxHashMap<VolumeId, Promise>,
    /// The sum of what is outstanding.
    outstanding: u64,
    /// Volumes whose blocks are to be counted, the first one now.
    pub walks: VecDeque<VolumeId>,
    /// A walk waits for a page.
    pub walk_waits: bool,
    /// Tasks that wait for a walk, or for blocks to be allocated on the host.
    pub waiting: VecDeque<Task>,
    /// So many free blocks shall be allocated on the host for a request that waits.
    pub wanted: Option<u64>,
}

impl Reservations {
    /// Whether any volume has a reservation: if not, writes are spared all else.
    #[inline]
    pub fn any(&self) -> bool {
        !self.promises.is_empty()
    }

    /// What is promised to `volume`.
    pub fn promise(&self, volume: VolumeId) -> Option<&Promise> {
        self.promises.get(&volume)
    }

    /// Blocks that all volumes together may still get of what was promised to them.
    pub fn outstanding_blocks(&self) -> u64 {
        self.outstanding
    }

    /// What the others may still get.
    fn outstanding_but(&self, volume: VolumeId) -> u64 {
        self.outstanding - self.promise(volume).map_or(0, Promise::outstanding)
    }

    /// Whether it is not known yet how much some volume has alone.
    pub fn is_walking(&self) -> bool {
        !self.walks.is_empty()
    }

    /// Whether a walk goes on in the next turn.
    pub fn wants_turn(&self) -> bool {
        self.is_walking() && !self.walk_waits
    }

    /// Whether somebody waits for a walk that needs nothing but another turn.
    pub fn wants_turn_now(&self) -> bool {
        self.wants_turn() && !self.waiting.is_empty()
    }

    /// Counts a volume's blocks from the beginning.
    pub fn begin_walk(&mut self, volume: VolumeId) {
        let Some(promise) = self.promises.get_mut(&volume) else { return };
        promise.walk = Some(OwnCount::default());
        if !self.walks.contains(&volume) {
            self.walks.push_back(volume);
        }
    }

    /// Changes one promise, and the sum with it.
    fn change(&mut self, volume: VolumeId, change: impl FnOnce(&mut Promise)) {
        let Some(promise) = self.promises.get_mut(&volume) else { return };
        let before = promise.outstanding();
        change(promise);
        self.outstanding = self.outstanding - before + promise.outstanding();
    }
}

/// The blocks that a record promises: not more than the volume can map.
pub fn promised_blocks(record: &VolumeRecord) -> u64 {
    let is_volume = record.kind == VolumeKind::Volume && record.state == VolumeState::Active;
    let bytes = record.properties.reservation_bytes.min(record.size_bytes);
    if is_volume { bytes.div_ceil(BLOCK_BYTES) } else { 0 }
}

impl Core {
    /// Whether `volume` may be given a block: the others keep what is outstanding to them.
    #[inline]
    pub(super) fn may_take(&self, volume: VolumeId) -> bool {
        !self.reservations.any() || self.space.ready() > self.reservations.outstanding_but(volume)
    }

    /// Puts a task aside that may not take a block now: as on a full pool, unless too much may be held back only because
    /// it is not known yet what is there.
    pub(super) fn wait_for_share(&mut self, task: WriteTask) {
        if self.reservations.is_walking() && self.check_healthy().is_ok() {
            return self.reservations.waiting.push_back(Task::Write(task));
        }
        self.wait_for_block(task);
    }

    /// `volume` was given a block.
    pub(super) fn note_given(&mut self, volume: VolumeId) {
        self.change_promise(volume, |promise| promise.given += 1);
    }

    /// `volume` gave a block back that it had not published.
    pub(super) fn note_given_back(&mut self, volume: VolumeId) {
        self.change_promise(volume, |promise| promise.given = promise.given.saturating_sub(1));
    }

    pub(super) fn change_promise(&mut self, volume: VolumeId, change: impl FnOnce(&mut Promise)) {
        self.reservations.change(volume, change);
        self.keep_for_reservations();
    }

    /// What is outstanding, and what is to be, stays allocated.
    pub(super) fn keep_for_reservations(&mut self) {
        let wanted = self.reservations.wanted.unwrap_or(0);
        self.space.keep_blocks(self.reservations.outstanding.max(wanted));
    }

    /// Whether what `delta` does has to be counted for reservations.
    pub(super) fn concerns_reservations(&self, delta: &Delta) -> bool {
        let makes_one = matches!(delta, Delta::Create { record } if promised_blocks(record) > 0);
        self.reservations.any() || makes_one
    }

    /// Applies `delta`, and counts what volumes with reservations have by it.
    pub(super) fn apply_counted(&mut self, delta: &Delta) -> Result<(), Fault> {
        let counts = &self.metadata.forest.data_counts;
        let is_new = matches!(delta, Delta::Publish { data_block, .. } if counts.is_zero(data_block.0));
        let events = self.metadata.forest.events.len();
        self.metadata.apply(delta)?;
        let added = &self.metadata.forest.events[events..];
        let freed = added.iter().filter(|event| matches!(event, Event::BlockFreed(_))).count() as u64;
        match delta {
            Delta::Publish { volume, virtual_block: first, .. }
            | Delta::Clear { volume, virtual_block: first, .. }
            | Delta::Unmap { volume, first, .. } => {
                self.change_promise(*volume, |promise| promise.count(*first, u64::from(is_new), freed));
            }
            Delta::Snapshot { cuts } => {
                cuts.iter().for_each(|(source, _)| self.change_promise(*source, Promise::share_all));
            }
            Delta::Rollback { volume, .. } => {
                self.change_promise(*volume, Promise::share_all);
                self.refresh_promise(*volume);
            }
            Delta::Update { volume, .. } => self.refresh_promise(*volume),
            Delta::Delete { volumes } => volumes.iter().for_each(|volume| self.refresh_promise(*volume)),
            Delta::Forget { .. } => self.count_again(),
            Delta::Create { record } => self.refresh_promise(record.id),
            Delta::Receive { .. } | Delta::Arrive { .. } => {}
        }
        Ok(())
    }

    /// Makes the promise what the volume's record says.
    pub(super) fn refresh_promise(&mut self, volume: VolumeId) {
        let blocks = self.metadata.volumes.get(volume).map_or(0, promised_blocks);
        if blocks > 0 {
            self.track_promise(volume);
        }
        self.change_promise(volume, |promise| promise.blocks = blocks);
        if blocks == 0 {
            self.reservations.promises.remove(&volume);
        }
    }

    /// Begins to count what `volume` has alone, if nobody does.
    pub(super) fn track_promise(&mut self, volume: VolumeId) {
        if self.reservations.promises.contains_key(&volume) {
            return;
        }
        self.reservations.promises.insert(volume, Promise::default());
        if self.metadata.volumes.get(volume).is_some_and(|record| record.root.is_some()) {
            self.reservations.begin_walk(volume);
        }
    }

    /// The promises of all volumes, at an opening.
    pub(super) fn load_reservations(&mut self) {
        let promised = self.metadata.volumes.iter().filter(|record| promised_blocks(record) > 0);
        let volumes: Vec<VolumeId> = promised.map(|record| record.id).collect();
        volumes.into_iter().for_each(|volume| self.refresh_promise(volume));
    }

    /// Something was deleted: what it shared, others may have alone now.
    fn count_again(&mut self) {
        let promises = self.reservations.promises.iter();
        let lacking = promises.filter(|(_, promise)| promise.outstanding() > 0);
        let volumes: Vec<VolumeId> = lacking.map(|(volume, _)| *volume).collect();
        volumes.into_iter().for_each(|volume| self.reservations.begin_walk(volume));
    }
}
