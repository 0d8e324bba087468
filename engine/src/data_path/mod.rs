//! Moves requests: decides, hands out disk operations that own their memory, takes completions, answers.
//!
//! Owns [`Core`], one for a pool. It never waits and never does I/O; time comes in through [`Core::turn`]. A decision
//! that lacks a metadata page is put aside as a [`Task`] until the page is there, and is then taken anew from the
//! start, so nothing is ever half done.
//!
//! The walk of a write:
//!
//! | step | file | what happens |
//! |---|---|---|
//! | 1 | `submit.rs` | the range is checked and cut at block boundaries, one task a block (at zeros too: `zeros.rs`); `limits.rs` may hold it back |
//! | 2 | `write.rs` | mapping found, sectors locked (`locks.rs`), place chosen, room set aside (`room.rs`) |
//! | 3 | `gather.rs` | only for parts of sectors and second layers: what is there is read first |
//! | 4 | `job.rs` | data written to the chosen block (`space.rs` gave it); on completion the delta is applied |
//! | 5 | `commit.rs` | the delta is put into a record; when it is written the request is answered |
//! | 6 | `commit.rs` | for FUA and flush: one sync of the data file, shared by all who wait |
//!
//! Reads are `read.rs`; clears and unmaps `unmap.rs`; volumes and snapshots `control.rs`, `change.rs` and `shrink.rs`; joining two layers
//! `collapse.rs` and `collapse_walks.rs`; reservations `reservations.rs`, `reserve.rs` and `own_walk.rs`; what differs
//! `difference.rs`; where snapshots have their blocks `mappings.rs`; what volumes have alone `usage.rs`; snapshots that arrive `receive.rs`. In the
//! background: `checkpoint.rs`, `reclaim.rs` (slabs, growth of the metadata file), `punch.rs` and `sector_punch.rs` (space
//! given back to the host), `write_ahead.rs` (free blocks written before they are needed). `trim.rs` has everything free
//! punched on request. Writes that find no room wait in `stall.rs`, the pool's own in `refused.rs`. A pool is made larger by `extend.rs`, and makes itself
//! larger by `auto_extend.rs`; `space_events.rs` tells how it is off.
//! `opening.rs` makes a core from two disks.

mod auto_extend;
mod change;
mod checkpoint;
mod collapse;
mod collapse_walks;
mod commit;
mod control;
mod difference;
mod extend;
mod extents;
mod fail;
mod gather;
mod job;
mod limits;
mod locks;
mod mappings;
mod opening;
mod operations;
mod own_walk;
mod punch;
mod rates;
mod read;
mod receive;
mod reclaim;
mod refused;
mod reservations;
mod reserve;
mod room;
mod sector_punch;
mod shrink;
mod space;
mod space_events;
mod stall;
mod status;
mod submit;
mod trim;
mod turn;
mod unmap;
mod unproven;
mod usage;
mod write;
mod write_ahead;
mod zeros;

pub use collapse_walks::CollapseStatus;
pub use opening::open;
pub use rates::Rates;
pub use space::SpaceCounts;
pub use space_events::{SpaceEvent, SpaceState};
pub use stall::{Shortage, StallStatus};
pub use status::{MetadataState, PoolStatus, VolumeInfo};

use crate::error::Error;
use crate::metadata::Metadata;
use crate::options::OpenOptions;
use crate::request::{Outcome, Reply, RequestId};
use crate::settings::Settings;
use crate::storage::{Operation, Ticket};
use crate::units::{DataBlock, PageNumber, SectorMask, VolumeId};
use commit::Commit;
use locks::Locks;
use operations::Pending;
use rustc_hash::{FxHashMap, FxHashSet};
use space::Space;
use std::collections::{BTreeSet, VecDeque};
use unproven::Unproven;

/// Which of a pool's two disks an operation is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The data file: blocks and log.
    Data,
    /// The metadata file.
    Metadata,
}

/// Counts deltas from the opening on. A delta has its number before it has its record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeltaNumber(pub u64);

/// A request while it is being carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(u64);

/// A decision that can be taken, now or when what it waits for has come.
pub enum Task {
    /// Read the whole range of a request.
    Read(read::ReadTask),
    /// Say what a range consists of.
    Extents(extents::ExtentsTask),
    /// Say how a volume differs from a base.
    Difference(difference::DifferenceTask),
    /// Say where a snapshot has its blocks.
    Mappings(mappings::MappingsTask),
    /// Say what a set of volumes uses.
    Usage(Box<usage::UsageTask>),
    /// Write into one block.
    Write(write::WriteTask),
    /// Publish what a job has written.
    Publish(Box<job::Job>),
    /// Make sectors of one block read as zeros.
    Clear(unmap::ClearTask),
    /// Unmap a range of blocks, a slice at a time.
    Unmap(unmap::UnmapTask),
    /// Join layers, block by block.
    Collapse(collapse::CollapseTask),
    /// Make, freeze, delete or change volumes.
    Control(control::ControlTask),
    /// Make the pool larger.
    Extend(extend::ExtendTask),
    /// Make a volume smaller, a slice of its tail at a time.
    Shrink(shrink::ShrinkTask),
    /// Punch discarded sectors of a block.
    PunchSectors(DataBlock),
    /// Punch the free blocks of a part of the pool.
    Trim(trim::TrimTask),
    /// Count the blocks that a volume has alone, some at a time.
    CountOwn(VolumeId),
}

impl Task {
    /// Whether it takes a deleted volume down.
    fn is_deletion(&self) -> bool {
        matches!(self, Self::Unmap(task) if task.then == unmap::UnmapThen::Forget)
    }
}

/// What happens when something has been reached.
pub enum Then {
    /// Nothing.
    Nothing,
    /// A part of a request is done.
    Part(Key),
    /// A request is durable and can be answered.
    Answer(Key),
    /// A task goes on.
    Run(Task),
    /// A slab can be given out: first block and length.
    Slab(DataBlock, u64),
    /// Free blocks were written, or not: first block, length and which.
    WrittenAhead(DataBlock, u64, bool),
}

/// A request that is not answered yet.
struct OpenRequest {
    id: RequestId,
    parts: u32,
    error: Option<Error>,
    /// Answer only after a sync.
    durable: bool,
    outcome: Outcome,
}

/// The engine of one open pool.
pub struct Core {
    metadata: Metadata,
    commit: Commit,
    space: Space,
    locks: Locks,
    unproven: Unproven,
    options: OpenOptions,
    settings: Settings,
    requests: FxHashMap<Key, OpenRequest>,
    next_key: u64,
    /// Operations in flight, by ticket.
    pending: FxHashMap<Ticket, Pending>,
    next_ticket: u64,
    /// Tickets of data writes in flight, for snapshots to wait for.
    data_writes: BTreeSet<Ticket>,
    /// Snapshots that wait until no data write before a ticket is in flight.
    barriers: Vec<(Ticket, Key)>,
    outbox: VecDeque<(Side, Ticket, Operation)>,
    replies: VecDeque<(RequestId, Reply)>,
    ready: VecDeque<Task>,
    page_loads: FxHashMap<PageNumber, operations::PageLoad>,
    waiting_for_proof: VecDeque<(DeltaNumber, Task)>,
    waiting_for_room: VecDeque<Task>,
    stall: stall::StallState,
    refused: refused::RefusedState,
    auto_extend: auto_extend::AutoExtendState,
    space_events: space_events::SpaceEvents,
    /// Blocks that operations of former owners still name.
    waiting_for_pins: VecDeque<Task>,
    collapse: collapse_walks::CollapseWalks,
    usage: usage::UsageState,
    rates: rates::RateState,
    room: room::RoomState,
    checkpoint: checkpoint::CheckpointState,
    slab: reclaim::SlabState,
    punch: punch::PunchState,
    write_ahead: write_ahead::WriteAheadState,
    growth: reclaim::GrowthState,
    reads: FxHashMap<Key, read::OpenRead>,
    gathers: FxHashMap<u64, gather::Gather>,
    jobs: FxHashMap<u64, Box<job::Job>>,
    next_job: u64,
    /// Snapshots and volumes that are not answered yet, and therefore not to be seen.
    unborn: FxHashSet<VolumeId>,
    /// Volumes that are being made smaller, and where they will end, in bytes.
    shrinking: FxHashMap<VolumeId, u64>,
    reservations: reservations::Reservations,
    /// Steps of counting walks that this turn may still take.
    own_steps_left: u32,
    /// Requests that volumes' limits hold back.
    limits: limits::Limits,
    /// Why the pool takes no writes, once it does not.
    failure: Option<Error>,
    /// Sectors written since the last sync was submitted, and those that the running sync covers.
    unsynced: FxHashMap<DataBlock, SectorMask>,
    syncing: FxHashMap<DataBlock, SectorMask>,
    /// Sectors whose writes a failed sync may have lost.
    lost: FxHashMap<DataBlock, SectorMask>,
    now_ms: u64,
    /// When the oldest delta that is not proven was appended, or later: when a proof came.
    unproven_since_ms: u64,
    closing: bool,
    /// The pool is being made larger.
    is_extending: bool,
}

impl Core {
    /// The next disk operation to start. Its completion comes back through [`Core::complete`].
    pub fn next_operation(&mut self) -> Option<(Side, Ticket, Operation)> {
        self.outbox.pop_front()
    }

    /// The next answer.
    pub fn next_reply(&mut self) -> Option<(RequestId, Reply)> {
        self.replies.pop_front()
    }

    /// What the pool does about space.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Whether something is under way that time alone moves on: drivers go on calling [`Core::turn`] now and then.
    pub fn wants_time(&self) -> bool {
        self.failure.is_none()
            && (!self.is_proven()
                || !self.waiting_for_room.is_empty()
                || !self.stall.is_empty()
                || self.refused.count() > 0
                || self.collapse.wants_turn()
                || self.punches_want_time()
                || self.reservations.wants_turn())
    }

    /// Whether another turn would move something on at once: somebody waits for a walk, which takes a few steps a turn.
    pub fn wants_turn(&self) -> bool {
        let wants =
            self.collapse.wants_turn_now() || self.reservations.wants_turn_now() || self.usage.wants_turn();
        self.failure.is_none() && wants
    }

    /// Whether nothing is left to do but wait for requests and time.
    pub fn is_idle(&self) -> bool {
        self.pending.is_empty() && self.outbox.is_empty() && self.ready.is_empty() && !self.wants_turn()
    }
}
