//! Opens a pool: recovers the present, and writes the verdict before anything is served (L5).
//!
//! Owns the order of an opening. What is found is `metadata/recovery.rs`'s answer.

use super::auto_extend::AutoExtendState;
use super::checkpoint::CheckpointState;
use super::collapse_walks::CollapseWalks;
use super::commit::Commit;
use super::control::settings_of;
use super::locks::Locks;
use super::punch::PunchState;
use super::space::Space;
use super::space_events::SpaceEvents;
use super::stall::StallState;
use super::unproven::Unproven;
use super::write_ahead::WriteAheadState;
use super::{Core, Task, limits, reclaim, reservations, room};
use crate::canary::{self, Canary};
use crate::error::{ErrorKind, Result};
use crate::format::{LogHead, ROOT_SLOT_PAGES, RootSlot, VolumeState};
use crate::metadata::files::Files;
use crate::metadata::recovery::{Checked, Fallback, Recovered, recover};
use crate::metadata::{Metadata, SlotFacts, write_slots};
use crate::options::OpenOptions;
use crate::storage::Disk;
use crate::units::{BLOCK_BYTES, Incarnation, PAGE_BYTES, SECTOR_BYTES};
use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::{BTreeSet, VecDeque};

/// Opens the pool on two disks for writing, one operation at a time. No other opening may have them.
pub fn open(data: &mut dyn Disk, metadata: &mut dyn Disk, options: &OpenOptions) -> Result<Core> {
    let mut files = Files::new(data, metadata);
    let mut found = recover(&mut files)?;
    found.metadata.superblock.refuse_read_only()?;
    // After a process died, what was read may be in memory only: nothing may be written over what is on disk still.
    files.metadata.sync()?;
    if let Some(fallback) = &found.findings.fallback {
        settle_fallback(&mut files, &found, fallback)?;
    }
    let incarnation = found.incarnation.next(options.nonce);
    write_verdict(&mut files, &mut found, incarnation, options)?;
    found.ring.tail = found.ring.head;
    let mut core = Core::behind(found, incarnation, options);
    core.punch.note_end(files.data.size_bytes() / BLOCK_BYTES);
    core.resume_deletions();
    core.load_limits();
    core.load_reservations();
    Ok(core)
}

/// The newest slot led to damage, the other one did not: before anything else is written, the good one becomes newest.
fn settle_fallback(files: &mut Files<'_>, found: &Recovered, fallback: &Fallback) -> Result<()> {
    let state = &found.metadata;
    let slot = RootSlot { generation: fallback.copy, ..state.slot.clone() };
    let page = ROOT_SLOT_PAGES[(slot.generation.0 % 2) as usize];
    files.metadata.write(page.offset_bytes(), slot.encode(&state.superblock.pool)?.freeze())?;
    files.metadata.sync()
}

/// Sync of the data, then the state that was found in both slots under a new incarnation, then the log head.
fn write_verdict(
    files: &mut Files<'_>,
    found: &mut Recovered,
    incarnation: Incarnation,
    options: &OpenOptions,
) -> Result<()> {
    if !canary::broken(Canary::VerdictUnsynced) {
        rewrite_checked(files, &found.checked)?;
        files.data.sync()?;
    }
    let state = &mut found.metadata;
    make_room(files, state)?;
    let facts = SlotFacts {
        incarnation,
        sequence: found.sequence,
        log_position: found.ring.head,
        clean: false,
        owner: options.owner.clone(),
    };
    write_slots(files, state, &facts, ROOT_SLOT_PAGES.len())?;
    let head = LogHead { pool: state.superblock.pool, incarnation };
    files.data.write(found.ring.head_offset_bytes(incarnation), head.encode().freeze())?;
    files.data.sync()
}

/// A sync that failed before the last process died may have left data in memory that a later sync does not write:
/// what was verified is written once more, so that the sync of the verdict covers it.
fn rewrite_checked(files: &mut Files<'_>, checked: &[Checked]) -> Result<()> {
    for (block, sectors) in checked {
        for (first, count) in sectors.runs() {
            let offset = block.offset_bytes() + u64::from(first) * SECTOR_BYTES;
            let bytes = files.data.read(offset, (u64::from(count) * SECTOR_BYTES) as usize)?;
            files.data.write(offset, bytes.freeze())?;
        }
    }
    Ok(())
}

/// Makes sure of the pages that replaying used, and of those that the verdict needs.
fn make_room(files: &mut Files<'_>, state: &mut Metadata) -> Result<()> {
    let page = PAGE_BYTES as u64;
    let sure = state.slot.metadata_pages;
    let now = state.forest.page_counts.len();
    let needed = 2 * state.checkpoint_pages_at_most() as u64;
    let more = needed.saturating_sub(state.forest.pages.free_pages());
    if now + more == sure {
        return Ok(());
    }
    let whole = files.metadata.allocate(sure * page, (now + more - sure) * page);
    match whole.and_then(|()| files.metadata.sync()) {
        Ok(()) => state.forest.grow_pages(now + more),
        // Where the file cannot grow the reserve has to do; freezing says so if it does not.
        Err(error) if error.kind() == ErrorKind::NoSpace => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

impl Core {
    fn behind(found: Recovered, incarnation: Incarnation, options: &OpenOptions) -> Self {
        let metadata = found.metadata;
        let space = Space::new(&metadata.forest.data_counts, options.recycle_blocks)
            .on_device(options.data_is_device);
        let position = found.ring.head;
        let durable = metadata.slot.generation;
        let commit = Commit::new(found.ring, metadata.superblock.secret, incarnation, found.sequence);
        Self {
            settings: settings_of(&metadata),
            metadata,
            commit,
            space,
            locks: Locks::default(),
            unproven: Unproven::default(),
            options: options.clone(),
            requests: FxHashMap::default(),
            next_key: 0,
            pending: FxHashMap::default(),
            next_ticket: 0,
            data_writes: BTreeSet::new(),
            barriers: Vec::new(),
            outbox: VecDeque::new(),
            replies: VecDeque::new(),
            ready: VecDeque::new(),
            page_loads: FxHashMap::default(),
            waiting_for_proof: VecDeque::new(),
            waiting_for_room: VecDeque::new(),
            stall: StallState::default(),
            refused: super::refused::RefusedState::default(),
            auto_extend: AutoExtendState::default(),
            space_events: SpaceEvents::default(),
            waiting_for_pins: VecDeque::new(),
            collapse: CollapseWalks::default(),
            usage: super::usage::UsageState::default(),
            rates: super::rates::RateState::default(),
            room: room::RoomState::default(),
            checkpoint: CheckpointState::new(position, durable),
            slab: reclaim::SlabState::default(),
            punch: PunchState::default(),
            write_ahead: WriteAheadState::default(),
            growth: reclaim::GrowthState::default(),
            reads: FxHashMap::default(),
            gathers: FxHashMap::default(),
            jobs: FxHashMap::default(),
            next_job: 0,
            unborn: FxHashSet::default(),
            shrinking: FxHashMap::default(),
            reservations: reservations::Reservations::default(),
            own_steps_left: 0,
            limits: limits::Limits::new(options.enforce_limits),
            failure: None,
            unsynced: FxHashMap::default(),
            syncing: FxHashMap::default(),
            lost: FxHashMap::default(),
            now_ms: 0,
            unproven_since_ms: 0,
            closing: false,
            is_extending: false,
        }
    }

    /// Deletions that a crash interrupted go on where their records say.
    fn resume_deletions(&mut self) {
        let deleting = self.metadata.volumes.iter().filter(|record| record.state == VolumeState::Deleting);
        let tasks: Vec<Task> = deleting.map(|record| Task::Unmap(self.deletion(record.id))).collect();
        self.ready.extend(tasks);
    }
}

const _: () = assert!(BLOCK_BYTES.is_multiple_of(SECTOR_BYTES));
