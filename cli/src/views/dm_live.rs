//! Pools that the kernel's dm-thin has active, in JSON.
//!
//! Owns the words; what they stand for is the kernel's. How a pool is off for space is told in the words of Vellum's own pools.

use super::{DmImportView, MetadataState, Shortage, SpaceState, VolumeKind};
use serde::{Deserialize, Serialize};

/// A pool that the kernel has, and what of it is active.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DmStatusView {
    /// The pool's uuid.
    pub uuid: String,
    /// Whether it is active.
    pub active: bool,
    /// The kernel's metadata, if the pool's directory knows where it is.
    pub metadata: Option<String>,
    /// The data file or device.
    pub data: String,
    /// The active pool.
    pub pool: Option<DmPoolView>,
    /// Its active thin devices, by number.
    pub devices: Vec<DmDeviceView>,
    /// Mapped devices that an interrupted activation has begun, and that have no table.
    pub begun: Vec<String>,
    /// Number of the thin device that an interrupted snapshot or clone had suspended.
    pub frozen: Option<u32>,
}

/// An active pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DmPoolView {
    /// Its name for device-mapper.
    pub name: String,
    /// Its device.
    pub path: String,
    /// How it is off for space.
    pub space_state: SpaceState,
    /// What writes lack.
    pub shortage: Option<Shortage>,
    /// Whether the metadata takes what writes need. It never grows by itself.
    pub metadata_state: MetadataState,
    /// What is wrong, if it takes no writes.
    pub failure: Option<String>,
    /// Whether the kernel asks for a check before it writes again.
    pub needs_check: bool,
    /// Whether its requests wait until somebody resumes it.
    pub suspended: bool,
    /// What the pool may use of its data.
    pub size_bytes: u64,
    /// What is used of that.
    pub used_bytes: u64,
    /// What is not.
    pub free_bytes: u64,
    /// The pool is low on space if less is free.
    pub low_water_bytes: u64,
    /// What the kernel can use of its metadata file or device.
    pub metadata_bytes: u64,
    /// What is used of that, with what the kernel keeps for itself.
    pub metadata_used_bytes: u64,
    /// The kernel tells if less of the metadata is free; none if it does not say.
    pub metadata_low_water_bytes: Option<u64>,
    /// What happens to writes that find no space: `stall` or `error`.
    pub no_space: String,
    /// What becomes of discards, in the kernel's word.
    pub discard: String,
    /// Userspace's own number in the metadata.
    pub transaction_id: u64,
    /// Whether there is a metadata snapshot.
    pub metadata_snapshot: bool,
    /// Number of the last event.
    pub event: u64,
}

/// An active thin device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DmDeviceView {
    /// Its number.
    pub device: u32,
    /// Name of the volume or snapshot; none for a device that the pool's directory does not know.
    pub name: Option<String>,
    /// What it is.
    pub kind: VolumeKind,
    /// Its size; none for a device that the pool's directory does not know.
    pub size_bytes: Option<u64>,
    /// What it has mapped; none if it does nothing any more.
    pub mapped_bytes: Option<u64>,
    /// Its device.
    pub path: String,
    /// Whether nobody may write.
    pub read_only: bool,
    /// How many have it open.
    pub open_count: u64,
    /// Whether its requests wait until somebody resumes it.
    pub suspended: bool,
}

/// A thin device that was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DmMadeView {
    /// Its number.
    pub device: u32,
    /// Name of the snapshot or volume.
    pub name: String,
    /// What it is.
    pub kind: VolumeKind,
    /// Its size.
    pub size_bytes: u64,
    /// Its device, if it is active.
    pub path: Option<String>,
}

/// What was ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DmDeactivateView {
    /// Names of the mapped devices that were removed.
    pub removed: Vec<String>,
    /// The pool that came back; none if the kernel keeps it.
    pub imported: Option<DmImportView>,
}
