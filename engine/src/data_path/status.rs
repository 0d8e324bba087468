//! What a pool says of itself, at once and without disk operations.
//!
//! Owns the shapes of these answers.

use super::space_events::SpaceState;
use super::stall::StallStatus;
use super::{CollapseStatus, Core, Rates, SpaceCounts};
use crate::error::Error;
use crate::format::{Properties, VolumeKind, VolumeRecord, VolumeState};
use crate::request::Uuid;
use crate::units::{Generation, Sequence, VolumeId};

/// A volume or snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeInfo {
    /// Its number.
    pub id: VolumeId,
    /// Its uuid.
    pub uuid: Uuid,
    /// Its name; `volume@snapshot` for a snapshot.
    pub name: String,
    /// Whether it can be written.
    pub kind: VolumeKind,
    /// What it was made from.
    pub origin: Option<VolumeId>,
    /// Its size, in bytes.
    pub size_bytes: u64,
    /// Virtual blocks that are mapped.
    pub mapped_blocks: u64,
    /// When it was made, in seconds since 1970.
    pub created_unix_s: u64,
    /// The checkpoint that was under construction when it was made: what changed in its volume since can be asked for
    /// by this number, also when it is gone.
    pub generation: Generation,
    /// What keeps it from being deleted.
    pub holds: Vec<String>,
    /// It goes when the last hold is released.
    pub deletion_deferred: bool,
    /// Limits, reservation, policy and labels; of a snapshot what clones of it begin with.
    pub properties: Properties,
}

/// Whether a metadata file takes what writes need.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MetadataState {
    /// It has room, or grows when it has not.
    #[default]
    Ok,
    /// It cannot grow any more, and few of its pages are free.
    NearFull,
    /// It cannot grow any more: writes to new blocks wait or fail. Reads, overwrites, discards and deletions go on.
    Full,
}

/// The state of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolStatus {
    /// Data blocks of the pool.
    pub data_blocks: u64,
    /// Data blocks that something maps, the log included.
    pub used_blocks: u64,
    /// Data blocks that nothing maps, by state.
    pub space: SpaceCounts,
    /// Pages of the metadata file.
    pub metadata_pages: u64,
    /// Pages of it that are free.
    pub metadata_free_pages: u64,
    /// Whether it takes what writes need.
    pub metadata_state: MetadataState,
    /// Data blocks that reservations keep from all others: what volumes may still get of what was promised to them.
    pub reserved_blocks: u64,
    /// What volumes with reservations have is being counted; until then `reserved_blocks` may be too high.
    pub counts_reserved: bool,
    /// How the pool is off for space.
    pub space_state: SpaceState,
    /// Writes that wait for room.
    pub stall: StallStatus,
    /// The number of the last event of the pool's space; 0 for none since it was opened.
    pub space_event: u64,
    /// Memory that pages of mappings take, in bytes.
    pub cached_bytes: u64,
    /// Pages of the log, and how many of them are in use.
    pub log_pages: (u64, u64),
    /// The last record composed.
    pub composed: Sequence,
    /// The last durable record.
    pub durable: Sequence,
    /// Published bytes that recovery would have to check.
    pub unproven_bytes: u64,
    /// What joining the layers of blocks has come to.
    pub collapse: CollapseStatus,
    /// How fast it fills.
    pub rates: Rates,
    /// Volumes and snapshots whose mappings are being taken down.
    pub deleting: u64,
    /// Why the pool takes no writes, if it takes none.
    pub failure: Option<Error>,
}

impl Core {
    /// All volumes and snapshots, by number.
    pub fn volumes(&self) -> Vec<VolumeInfo> {
        let visible = |id: &VolumeId| !self.unborn.contains(id);
        let active = self.metadata.volumes.iter().filter(|record| record.has_name() && visible(&record.id));
        active.map(info).collect()
    }

    /// The volume or snapshot of this name, with what there is to say about it.
    pub fn volume(&self, name: &str) -> Option<VolumeInfo> {
        self.find(name).and_then(|id| self.metadata.volumes.get(id)).map(info)
    }

    /// The volume or snapshot of this number.
    pub fn volume_of(&self, id: VolumeId) -> Option<VolumeInfo> {
        self.metadata.volumes.active(id).ok().filter(|_| !self.unborn.contains(&id)).map(info)
    }

    /// The volume or snapshot of this name.
    pub fn find(&self, name: &str) -> Option<VolumeId> {
        self.metadata.volumes.find(name).filter(|id| !self.unborn.contains(id))
    }

    /// It is `now_ms` by the clock of [`Core::turn`], although nothing is to be done: for what a status says of rates.
    pub fn pass_time(&mut self, now_ms: u64) {
        self.now_ms = self.now_ms.max(now_ms);
    }

    /// The state of the pool.
    pub fn status(&self) -> PoolStatus {
        let forest = &self.metadata.forest;
        PoolStatus {
            data_blocks: forest.data_counts.len(),
            used_blocks: forest.data_counts.in_use(),
            space: self.space.counts(),
            metadata_pages: forest.page_counts.len(),
            metadata_free_pages: forest.pages.free_pages(),
            metadata_state: self.metadata_state(),
            reserved_blocks: self.reservations.outstanding_blocks(),
            counts_reserved: self.reservations.is_walking(),
            space_state: self.space_state(),
            stall: self.stall_status(),
            space_event: self.space_event_number(),
            cached_bytes: forest.cache.memory_bytes() as u64,
            log_pages: (self.commit.ring.pages(), self.commit.ring.used_pages()),
            composed: self.commit.composed.sequence,
            durable: self.commit.durable.sequence,
            unproven_bytes: self.unproven.bytes(),
            collapse: self.collapse.status(),
            rates: self.rates.rates(self.now_ms, forest.data_counts.len() - forest.data_counts.in_use()),
            deleting: self.metadata.volumes.iter().filter(|r| r.state == VolumeState::Deleting).count()
                as u64,
            failure: self.failure.clone(),
        }
    }

    /// Whether every delta is proven. If not, time brings the proof: drivers have to go on calling [`Core::turn`].
    pub fn is_proven(&self) -> bool {
        self.commit.proven >= self.commit.newest()
    }
}

fn info(record: &VolumeRecord) -> VolumeInfo {
    VolumeInfo {
        id: record.id,
        uuid: record.uuid,
        name: record.name.clone(),
        kind: record.kind,
        origin: record.origin,
        size_bytes: record.size_bytes,
        mapped_blocks: record.root.map_or(0, |(_, pointer)| pointer.mapped),
        created_unix_s: record.created_unix_s,
        generation: record.generation_of_birth,
        holds: record.holds.clone(),
        deletion_deferred: record.deletion_deferred,
        properties: record.properties.clone(),
    }
}
