//! The whole state of the explored system: disk, memory of the core, requests, what is promised.
//!
//! Owns the data and small questions about it. Decides nothing: that is `core.rs` (a serving pool),
//! `checkpoint.rs` and `recovery.rs`. What may hold after a crash is `promise.rs`.

use crate::disk::{Place, Sector, Tag};
use crate::promise::Promise;
use crate::tree::{BLOCKS, Delta, SECTORS, Sectors, Tree, VOLUMES};

pub const RING: usize = 6;
pub const OPERATIONS: usize = 3;
pub const PAGES: usize = 3;

/// A log record. One page each, so its sequence is its position too.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Record {
    pub incarnation: u8,
    pub sequence: i8,
    pub synced: i8,
    pub deltas: [Delta; 2],
}

/// A root slot. A new one goes over the older one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Slot {
    pub generation: u8,
    pub incarnation: u8,
    /// The page of its tree, which carries `tree_generation`.
    pub page: u8,
    pub tree_generation: u8,
    /// The record whose tree this is.
    pub sequence: i8,
}

/// A whole tree as one page; the generation stands for the checksum in the pointer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Page {
    pub generation: u8,
    pub tree: Tree,
}

/// How far a request has come.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug, PartialOrd, Ord)]
pub enum Stage {
    #[default]
    Free,
    /// Its data is being written.
    Flying,
    /// Its delta is applied and waits for its record to be written.
    Logged,
    /// A snapshot: a sync that covers it has been submitted.
    Covered,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug, PartialOrd, Ord)]
pub enum Kind {
    #[default]
    None,
    /// A write over sectors that a mapping shows.
    InPlace,
    /// A write of sectors that no mapping shows yet; collapse and copies too.
    Publish,
    Discard,
    Snapshot,
    Delete,
}

/// A request, or background work, under way.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug, PartialOrd, Ord)]
pub struct Operation {
    pub stage: Stage,
    pub kind: Kind,
    pub volume: u8,
    /// The block written; of a snapshot, the new volume.
    pub block: u8,
    /// Sectors written, those that are only copied included.
    pub sectors: Sectors,
    /// Sectors that the client asked for; none for background work.
    pub asked: Sectors,
    pub tags: [Tag; SECTORS],
    pub whole: Sectors,
    /// Its record, and its delta's place in it.
    pub sequence: i8,
    pub place: u8,
    /// Decided before the cut of a snapshot that is not acknowledged.
    pub before_cut: bool,
}

/// What the core knows of a data block beside its mappings; sequences are zero once proven.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Block {
    pub published: [i8; SECTORS],
    pub freed: i8,
    pub exclusive: i8,
    pub punching: bool,
}

/// What the pool is doing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Phase {
    Serving,
    /// Recovery has changed nothing yet.
    Found,
    VerdictPages,
    FirstSlot,
    SecondSlot,
    LogHead,
}

/// Which step a checkpoint has done.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub enum Checkpoint {
    #[default]
    Idle,
    Pages,
    PagesSynced,
    Slot,
}

/// What is left of each bounded kind of event.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Budget {
    pub operations: u8,
    pub crashes: u8,
    pub proofs: u8,
    pub checkpoints: u8,
    pub punches: u8,
    pub collapses: u8,
}

/// Data file and metadata file.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Disk {
    pub data: [[Sector; SECTORS]; BLOCKS],
    pub ring: [Place<Option<Record>>; RING],
    /// Newest incarnation, in the log head.
    pub head: Place<u8>,
    pub slots: [Place<Slot>; 2],
    pub pages: [Place<Page>; PAGES],
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct State {
    pub phase: Phase,
    pub budget: Budget,
    pub disk: Disk,
    pub tree: Tree,
    /// Deltas applied, for the next record.
    pub queue: [Delta; 2],
    /// Records being written.
    pub flying: [Option<Record>; 2],
    pub next: i8,
    pub durable: i8,
    pub proven: i8,
    /// The `synced` of the last record.
    pub stated: i8,
    /// A sync of the data file is running; it makes records up to this one durable.
    pub sync: Option<i8>,
    /// A flush waits for that sync.
    pub flush: bool,
    pub checkpoint: Checkpoint,
    /// The record whose tree the checkpoint under way took.
    pub taken: i8,
    pub blocks: [Block; BLOCKS],
    pub operations: [Operation; OPERATIONS],
    pub promise: Promise,
    /// The process was killed and power held: nothing acknowledged may be missing.
    pub killed: bool,
    /// Damage found in memory.
    pub fault: Option<&'static str>,
}

impl State {
    /// Content of a sector of a volume as a read sees it now.
    pub fn read(&self, tree: &Tree, volume: usize, sector: usize) -> Tag {
        let block = tree.find(volume, sector);
        block.map_or(0, |b| self.disk.data[b as usize][sector].current())
    }

    /// The last record that is written with all before it.
    pub fn written(&self) -> i8 {
        self.flying.iter().flatten().map(|r| r.sequence).min().unwrap_or(self.next) - 1
    }

    /// Requests whose data is being written.
    pub fn writes(&self) -> impl Iterator<Item = &Operation> {
        self.operations.iter().filter(|o| o.stage == Stage::Flying)
    }

    /// Requests that publish and whose data is being written.
    pub fn publishes(&self, volume: usize) -> impl Iterator<Item = &Operation> {
        self.writes().filter(move |o| o.kind == Kind::Publish && o.volume as usize == volume)
    }

    /// The slots as a read sees them, newest first; those never written are left out.
    pub fn slots(&self) -> impl Iterator<Item = Slot> {
        let mut slots = self.disk.slots.map(|s| s.current());
        slots.sort_by_key(|s| std::cmp::Reverse(s.generation));
        slots.into_iter().filter(|s| s.generation != 0)
    }

    /// Writes a root slot over the older one.
    pub fn write_slot(&mut self, slot: Slot) {
        let newer = self.disk.slots[1].current().generation > self.disk.slots[0].current().generation;
        self.disk.slots[usize::from(!newer)].later = Some(slot);
    }

    /// The first record that some durable slot still needs, less one.
    pub fn oldest(&self) -> i8 {
        self.disk.slots.iter().map(|s| s.base.sequence).min().unwrap_or(0)
    }

    /// Is a sync needed before a flush could be answered?
    pub fn dirty(&self) -> bool {
        self.disk.data.iter().flatten().any(Sector::unsynced)
            || self.disk.ring.iter().any(|p| p.later.is_some())
    }

    /// Has something completed that no submitted sync covers?
    pub fn uncovered(&self) -> bool {
        self.disk.data.iter().flatten().any(Sector::uncovered) || self.disk.ring.iter().any(Place::uncovered)
    }

    /// A free place for a request.
    pub fn vacancy(&self) -> Option<usize> {
        self.operations.iter().position(|o| o.stage == Stage::Free)
    }

    /// How many deltas wait for the next record.
    pub fn queued(&self) -> u8 {
        self.queue.iter().filter(|d| **d != Delta::None).count() as u8
    }

    /// Is there room in the next record?
    pub fn queue_room(&self) -> bool {
        self.queue[1] == Delta::None
    }

    /// May `volume` be used by clients?
    pub fn usable(&self, volume: usize) -> bool {
        self.promise.present(volume)
    }

    /// All volume numbers.
    pub fn volumes() -> std::ops::Range<usize> {
        0..VOLUMES
    }
}
