//! Joins the two layers of blocks that own both: the smaller is copied into the larger, in place.
//!
//! Owns one step of a walk over a volume's two-layer mappings: to the next block that can be joined, and its joining. Needs
//! no free block, and frees one for every block it joins. Which volumes are walked, and how fast, is `collapse_walks.rs`.

use super::gather::{GatherKind, whole_block};
use super::room::Room;
use super::write::WriteTask;
use super::{Core, Key, Task};
use crate::error::Error;
use crate::format::Mapping;
use crate::metadata::tree::TwoLayers;
use crate::metadata::{Fault, Found};
use crate::request::Outcome;
use crate::storage::Buffer;
use crate::units::{DataBlock, Generation, SectorMask, VirtualBlock, VolumeId};

/// Entries of leaves that one step looks at.
const STEP_ENTRIES: usize = 16 * 1024;
/// What looking at one mapping of two layers counts as: it is looked up, with its counts.
const LOOKUP_ENTRIES: usize = 8;

/// A walk over the mappings of a volume.
pub struct CollapseTask {
    pub cause: Cause,
    pub volume: VolumeId,
    /// Where it goes on.
    next: VirtualBlock,
    /// Leaves made before this checkpoint hold nothing of interest.
    since: Generation,
    pub freed: u64,
    /// How many of these the sum knows.
    pub counted: u64,
    locked: bool,
    /// A block was joined: what comes next is up to the pace.
    rests: bool,
}

/// Why a volume is walked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Somebody asked, and waits for the answer.
    Request(Key),
    /// Somebody waits for a free block.
    Shortage,
    /// A snapshot that shared its blocks is gone.
    Background,
}

impl Cause {
    /// The request that waits; for the others one that there never is.
    fn key(self) -> Key {
        match self {
            Self::Request(key) => key,
            Self::Shortage | Self::Background => Key(u64::MAX),
        }
    }
}

impl CollapseTask {
    pub fn new(cause: Cause, volume: VolumeId, since: Generation) -> Self {
        Self {
            cause,
            volume,
            next: VirtualBlock(0),
            since,
            freed: 0,
            counted: 0,
            locked: false,
            rests: false,
        }
    }
}

impl CollapseTask {
    /// Leaves made before this checkpoint hold nothing of interest.
    pub fn since(&self) -> Generation {
        self.since
    }

    /// Walks the whole volume once more, among leaves made since `since` too.
    pub fn begin_again(&mut self, since: Generation) {
        self.next = VirtualBlock(0);
        self.since = self.since.min(since);
    }
}

/// What a step came upon.
enum Step {
    /// A block that can be joined.
    Joinable(VirtualBlock),
    /// Nothing so far; goes on from here.
    Further(VirtualBlock),
    /// The end of the volume.
    End,
}

impl Core {
    pub(super) fn collapse(&mut self, mut task: CollapseTask) {
        if std::mem::take(&mut task.rests) {
            return self.collapse_rests(task);
        }
        if self.closing && !matches!(task.cause, Cause::Request(_)) {
            self.unlock_walk(&mut task);
            return self.collapse_ends(&task, Ok(()));
        }
        if task.locked {
            return self.collapse_block(task);
        }
        match self.next_joinable(&task) {
            Ok(Step::Joinable(block)) => self.collapse_block(CollapseTask { next: block, ..task }),
            Ok(Step::Further(next)) => self.collapse_rests(CollapseTask { next, ..task }),
            Ok(Step::End) => self.collapse_ends(&task, Ok(())),
            Err(fault) => self.put_off(fault, Task::Collapse(task)),
        }
    }

    /// The next block that owns both its layers.
    fn next_joinable(&self, task: &CollapseTask) -> Result<Step, Fault> {
        let root = self.metadata.volumes.active(task.volume)?.root;
        let forest = &self.metadata.forest;
        let (mut next, mut entries_left) = (task.next, STEP_ENTRIES);
        loop {
            match forest.next_two_layers(&root, next, task.since, &mut entries_left)? {
                TwoLayers::End => return Ok(Step::End),
                TwoLayers::Further(next) => return Ok(Step::Further(next)),
                TwoLayers::Found(block) => {
                    let found = forest.lookup(&root, block)?;
                    if found.mapping.is_some_and(|mapping| self.owned_layers(&found, &mapping).is_some()) {
                        return Ok(Step::Joinable(block));
                    }
                    next = VirtualBlock(block.0 + 1);
                    entries_left = entries_left.saturating_sub(LOOKUP_ENTRIES);
                    if entries_left == 0 {
                        return Ok(Step::Further(next));
                    }
                }
            }
        }
    }

    /// Joins the next block, if nobody writes there: who does may wait for a free block himself.
    fn collapse_block(&mut self, mut task: CollapseTask) {
        let place = (task.volume, task.next);
        let root = self.metadata.volumes.get(task.volume).and_then(|record| record.root);
        let found = match self.metadata.forest.lookup(&root, task.next) {
            Ok(found) => found,
            Err(fault) => return self.put_off(fault, Task::Collapse(task)),
        };
        let layers = found.mapping.and_then(|mapping| self.owned_layers(&found, &mapping));
        let Some((into, from)) = layers else { return self.collapse_next(task) };
        if let Some(number) = self.unproven_for(&found, into, from) {
            // Without a lock: nobody else waits for this.
            self.unlock_walk(&mut task);
            return self.wait_for_proof(number, Task::Collapse(task));
        }
        if !self.collapse_has_room(&task, from) {
            self.unlock_walk(&mut task);
            return self.wait_for_room(Task::Collapse(task));
        }
        if !task.locked && (self.locks.range_waits(place) || !self.locks.lock(place, SectorMask::FULL)) {
            return self.collapse_next(task);
        }
        task.locked = true;
        if self.space.is_pinned_by_others(into, task.volume) {
            return self.waiting_for_pins.push_back(Task::Collapse(task));
        }
        self.start_joining(task, &found, into, from);
    }

    /// Whether the delta of the next block has room now; what is in its way has been told if not.
    fn collapse_has_room(&mut self, task: &CollapseTask, sectors: SectorMask) -> bool {
        let Some(record) = self.metadata.volumes.get(task.volume) else { return true };
        let needed = Room::for_mapping(&self.metadata.forest, record).with_sectors(sectors);
        let admitted = self.admit_unmap(needed);
        if admitted {
            // It is set aside for good when the sectors have been read.
            self.withdraw(needed);
        }
        admitted
    }

    fn unlock_walk(&mut self, task: &mut CollapseTask) {
        if std::mem::take(&mut task.locked) {
            self.unlock((task.volume, task.next), SectorMask::FULL);
        }
    }

    /// The block that takes the other's sectors, and those sectors; only if both are owned.
    fn owned_layers(&self, found: &Found, mapping: &Mapping) -> Option<(DataBlock, SectorMask)> {
        let lower = mapping.lower.filter(|lower| !lower.is_lost())?;
        let upper = mapping.upper;
        let owned = self.is_exclusive(found, upper.block) && self.is_exclusive(found, lower.block);
        let (into, from) =
            if upper.mask.count() >= lower.mask.count() { (upper, lower) } else { (lower, upper) };
        owned.then_some((into.block, from.mask))
    }

    fn start_joining(&mut self, task: CollapseTask, found: &Found, into: DataBlock, sectors: SectorMask) {
        let mut write = whole_block(task.cause.key(), task.volume, task.next);
        write.copied = Some((sectors, bytes::Bytes::new()));
        self.collapse_costs(sectors);
        let after = Some(Task::Collapse(CollapseTask {
            next: VirtualBlock(task.next.0 + 1),
            freed: task.freed + 1,
            locked: false,
            rests: true,
            ..task
        }));
        self.gather_then(write, found, sectors, GatherKind::Collapse(into), after);
    }

    fn collapse_next(&mut self, mut task: CollapseTask) {
        self.unlock_walk(&mut task);
        task.next = VirtualBlock(task.next.0 + 1);
        self.collapse_rests(task);
    }

    pub(super) fn collapse_gathered(
        &mut self,
        mut task: WriteTask,
        into: DataBlock,
        image: Buffer,
        after: Option<Task>,
    ) {
        let Some((sectors, _)) = task.copied else { return };
        let room = if self.still_owned(&task, into) { self.room_for(&task, sectors) } else { None };
        let Some(needed) = room else {
            // It was shared meanwhile, or there is no room for its delta now: it stays as it is.
            self.unlock(task.place(), task.locked);
            return self.collapse_goes_on(after);
        };
        task.copied = Some((sectors, image.freeze()));
        self.start_collapse(task, into, sectors, needed, after);
    }

    /// Goes on behind a block that was not joined after all.
    pub(super) fn collapse_goes_on(&mut self, after: Option<Task>) {
        if let Some(Task::Collapse(mut next)) = after {
            next.freed -= 1;
            self.ready.push_back(Task::Collapse(next));
        }
    }

    fn room_for(&mut self, task: &WriteTask, sectors: SectorMask) -> Option<Room> {
        let record = self.metadata.volumes.active(task.volume).ok()?;
        let needed = Room::for_mapping(&self.metadata.forest, record).with_sectors(sectors);
        self.admit_unmap(needed).then_some(needed)
    }

    fn still_owned(&self, task: &WriteTask, into: DataBlock) -> bool {
        let root = self.metadata.volumes.get(task.volume).and_then(|record| record.root);
        let found = self.metadata.forest.lookup(&root, task.virtual_block);
        found.is_ok_and(|found| {
            let layers = found.mapping.and_then(|mapping| self.owned_layers(&found, &mapping));
            layers.is_some_and(|(block, _)| block == into)
        })
    }

    pub(super) fn fail_collapse(&mut self, task: &CollapseTask, error: &Error) {
        if task.locked {
            self.unlock((task.volume, task.next), SectorMask::FULL);
        }
        self.collapse_ends(task, Err(error.clone()));
    }

    fn collapse_ends(&mut self, task: &CollapseTask, result: crate::error::Result<()>) {
        if result.is_ok() {
            self.set_outcome(task.cause.key(), Outcome::Freed(task.freed));
        }
        self.part_done(task.cause.key(), result);
        self.walk_ends(task);
    }
}
