//! What sets of volumes and snapshots have alone, and share: counted on request, a slice a turn, exact at one moment.
//!
//! Owns the counts under way, when one has to begin again, and the answers that still hold. Looking is
//! `metadata/tree/usage.rs`'s. An answer holds until a tree of the set changes, or a page or block somewhere gets an owner
//! beside another or loses one: writes to blocks of one owner elsewhere disturb nobody. When it does change under way,
//! the next attempt takes more a turn, until one turn is enough; so somebody who writes all the time delays the answer and
//! cannot prevent it.

use super::{Core, Key, Task};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{Delta, Pointer};
use crate::metadata::Fault;
use crate::metadata::tree::{Holdings, Progress, Root};
use crate::request::{Outcome, Usage};
use crate::units::{Generation, VirtualBlock, VolumeId};
use rustc_hash::FxHashMap;
use std::collections::VecDeque;

/// Volumes of one set at most.
const SET_MAX: usize = 4096;
/// Mappings that the first attempt looks at in one turn; a page counts as some.
const TURN_MAPPINGS: u64 = 8192;
/// By how much, as a power of two, every attempt takes more than the one before.
const MORE_BITS: u32 = 2;
/// The attempt that takes all in one turn, as far as it is in memory.
const WHOLE_ATTEMPT: u32 = 10;
/// Attempts before it is given up: pages come into memory slower than what they say changes.
const ATTEMPTS_MAX: u32 = 64;
/// Missing pages that are read together.
const PAGES_TOGETHER: usize = 32;
/// Members that all sets have whose answers are kept, all together.
const KEPT_MEMBERS_MAX: usize = 1 << 16;

/// A count under way.
pub struct UsageTask {
    pub key: Key,
    /// In order, each once.
    volumes: Vec<VolumeId>,
    sectors: bool,
    attempt: u32,
    count: Option<Count>,
}

/// How far one attempt has come.
struct Count {
    moment: Moment,
    /// A checkpoint seals pages: pointers to them from before it say nothing of what is read behind it.
    building: Generation,
    holdings: Holdings,
    sectors: u64,
    /// The member whose sectors are counted, and from which virtual block on.
    member: usize,
    next: VirtualBlock,
}

/// What tells whether something has changed since.
#[derive(Clone, Copy)]
struct Moment {
    /// Of the changes that were noted.
    change: u64,
    /// [`crate::metadata::Forest::sharing_changes`].
    sharing: u64,
}

/// An answer, and when it was right.
struct Kept {
    moment: Moment,
    usage: Usage,
}

/// Counts that wait for their next turn, and answers.
#[derive(Default)]
pub struct UsageState {
    waiting: VecDeque<Box<UsageTask>>,
    /// One has taken its slice of this turn.
    has_stepped: bool,
    /// Changes of the mappings of volumes in `changed`.
    changes: u64,
    /// The last change of each volume that somebody has asked about.
    changed: FxHashMap<VolumeId, u64>,
    kept: FxHashMap<Vec<VolumeId>, Kept>,
    kept_members: usize,
}

impl UsageState {
    /// Whether a count goes on with the next turn.
    pub fn wants_turn(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// A new turn begins: what waited for it.
    pub fn new_turn(&mut self) -> impl Iterator<Item = Task> + use<> {
        self.has_stepped = false;
        std::mem::take(&mut self.waiting).into_iter().map(Task::Usage)
    }

    /// A delta was applied.
    pub fn note(&mut self, delta: &Delta) {
        if self.changed.is_empty() {
            return;
        }
        // Others change no mappings, or change who shares a root.
        if let Delta::Publish { volume, .. }
        | Delta::Clear { volume, .. }
        | Delta::Unmap { volume, .. }
        | Delta::Rollback { volume, .. } = delta
            && let Some(changed) = self.changed.get_mut(volume)
        {
            self.changes += 1;
            *changed = self.changes;
        }
    }

    /// What changes from now on is noted for all of `volumes`.
    fn begin(&mut self, volumes: &[VolumeId], sharing: u64) -> Moment {
        for volume in volumes {
            self.changed.entry(*volume).or_insert(self.changes);
        }
        Moment { change: self.changes, sharing }
    }

    /// Whether nothing has changed since.
    fn holds(&self, volumes: &[VolumeId], moment: Moment, sharing: u64) -> bool {
        let is_same = |volume| self.changed.get(volume).is_some_and(|changed| *changed <= moment.change);
        moment.sharing == sharing && volumes.iter().all(is_same)
    }

    fn keep(&mut self, volumes: &[VolumeId], kept: Kept) {
        if self.kept_members + volumes.len() > KEPT_MEMBERS_MAX {
            // Counts under way begin again, for their volumes are not watched any more.
            (self.kept_members, self.kept, self.changed) = Default::default();
            self.changed.extend(volumes.iter().map(|volume| (*volume, kept.moment.change)));
        }
        if self.kept.insert(volumes.to_vec(), kept).is_none() {
            self.kept_members += volumes.len();
        }
    }
}

impl Core {
    pub(super) fn start_usage(&mut self, key: Key, mut volumes: Vec<VolumeId>, sectors: bool) -> Result<()> {
        volumes.sort_unstable();
        volumes.dedup();
        if volumes.is_empty() || volumes.len() > SET_MAX {
            return Err(Error::new(
                ErrorKind::Limit,
                format!("a set has 1 to {SET_MAX} volumes and snapshots"),
            ));
        }
        volumes.iter().try_for_each(|volume| self.check_range(*volume, 0, 0).map(drop))?;
        let task = UsageTask { key, volumes, sectors, attempt: 0, count: None };
        self.start_part(key, Task::Usage(Box::new(task)));
        Ok(())
    }

    pub(super) fn usage(&mut self, mut task: Box<UsageTask>) {
        match self.usage_of(&mut task) {
            Ok(Some(usage)) => {
                self.set_outcome(task.key, Outcome::Usage(usage));
                self.part_done(task.key, Ok(()));
            }
            Ok(None) => self.usage.waiting.push_back(task),
            Err(Fault::Missing(pointer)) => self.wait_for_pages(pointer, task),
            Err(Fault::Failed(error)) => self.part_done(task.key, Err(error)),
        }
    }

    /// Counts until it is done or others have their turn. Nothing if there is more to count.
    fn usage_of(&mut self, task: &mut UsageTask) -> std::result::Result<Option<Usage>, Fault> {
        let roots = self.roots_of(&task.volumes)?;
        let sharing = self.metadata.forest.sharing_changes();
        if let Some(usage) = self.kept_usage(task) {
            return Ok(Some(usage));
        }
        if self.usage.has_stepped {
            return Ok(None);
        }
        let building = self.metadata.forest.building;
        let holds = |count: &Count| {
            count.building == building && self.usage.holds(&task.volumes, count.moment, sharing)
        };
        let mut count = match task.count.take().filter(holds) {
            Some(count) => count,
            None => self.begin_count(task, &roots)?,
        };
        let mut budget = match task.attempt {
            attempt if attempt >= WHOLE_ATTEMPT => u64::MAX,
            attempt => TURN_MAPPINGS << (MORE_BITS * (attempt - 1)),
        };
        let before = budget;
        let counted = self.count_on(&mut count, &roots, task.sectors, &mut budget);
        self.usage.has_stepped |= budget < before;
        let is_complete = matches!(counted, Ok(true));
        if is_complete {
            self.keep_usage(task, &count, &roots);
        }
        task.count = Some(count);
        counted?;
        Ok(if is_complete { self.kept_usage(task) } else { None })
    }

    fn begin_count(&mut self, task: &mut UsageTask, roots: &[Root]) -> std::result::Result<Count, Fault> {
        task.attempt += 1;
        if task.attempt > ATTEMPTS_MAX {
            let message =
                "what it shares changes faster than it can be counted; ask again when less is written";
            return Err(Error::new(ErrorKind::Busy, message).into());
        }
        let forest = &self.metadata.forest;
        let moment = self.usage.begin(&task.volumes, forest.sharing_changes());
        let holdings = forest.holdings(roots)?;
        let building = forest.building;
        Ok(Count { moment, building, holdings, sectors: 0, member: 0, next: VirtualBlock(0) })
    }

    /// Whether all is counted.
    fn count_on(
        &self,
        count: &mut Count,
        roots: &[Root],
        sectors: bool,
        budget: &mut u64,
    ) -> std::result::Result<bool, Fault> {
        let forest = &self.metadata.forest;
        forest.look_for_holdings(&mut count.holdings, budget)?;
        while sectors && *budget > 0 && count.member < roots.len() {
            let slice = u32::try_from(*budget).unwrap_or(u32::MAX);
            let mut progress = Progress::new(count.next, slice);
            let found = &mut count.sectors;
            let walked = forest.difference((&None, &roots[count.member]), &mut progress, |run| {
                *found += run.blocks * u64::from(run.changed.count());
            });
            *budget -= u64::from(slice - progress.budget).max(1);
            (count.member, count.next) = match progress.is_done() {
                true => (count.member + 1, VirtualBlock(0)),
                false => (count.member, VirtualBlock(progress.next)),
            };
            walked?;
        }
        Ok(count.holdings.is_complete() && (!sectors || count.member == roots.len()))
    }

    fn roots_of(&self, volumes: &[VolumeId]) -> Result<Vec<Root>> {
        volumes.iter().map(|volume| Ok(self.metadata.volumes.active(*volume)?.root)).collect()
    }

    fn keep_usage(&mut self, task: &UsageTask, count: &Count, roots: &[Root]) {
        let usage = Usage {
            mapped_blocks: roots.iter().flatten().map(|(_, pointer)| pointer.mapped).sum(),
            mapped_sectors: task.sectors.then_some(count.sectors),
            exclusive_blocks: count.holdings.exclusive_blocks,
            shared_blocks: count.holdings.shared_blocks,
            metadata_pages: count.holdings.pages,
            ..Usage::default()
        };
        self.usage.keep(&task.volumes, Kept { moment: count.moment, usage });
    }

    /// An answer that holds, and so is exact now.
    fn kept_usage(&self, task: &UsageTask) -> Option<Usage> {
        let Kept { moment, usage } = self.usage.kept.get(&task.volumes)?;
        let holds = self.usage.holds(&task.volumes, *moment, self.metadata.forest.sharing_changes());
        if !holds || (task.sectors && usage.mapped_sectors.is_none()) {
            return None;
        }
        Some(Usage {
            mapped_sectors: usage.mapped_sectors.filter(|_| task.sectors),
            generation: self.metadata.forest.building,
            sequence: self.commit.composed.sequence,
            ..*usage
        })
    }

    /// Waits for a page, and has those read that come next.
    fn wait_for_pages(&mut self, pointer: Pointer, task: Box<UsageTask>) {
        let next = task.count.iter().flat_map(|count| count.holdings.pending());
        let next: Vec<Pointer> = next.take(PAGES_TOGETHER).copied().collect();
        self.wait_for_page(pointer, Task::Usage(task));
        next.iter().for_each(|pointer| self.load_ahead(pointer));
    }

    /// Counts that wait for a turn, for a pool that failed.
    pub(super) fn fail_counts(&mut self, tasks: &mut VecDeque<Task>) {
        tasks.extend(self.usage.new_turn());
    }
}
