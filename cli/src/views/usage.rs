//! What volumes and snapshots have alone, in JSON.
//!
//! Owns the names and the translation from the engine's.

use serde::{Deserialize, Serialize};
use vellum_engine::request::Usage;
use vellum_engine::units::{BLOCK_BYTES, PAGE_BYTES, SECTOR_BYTES};

/// What a volume or snapshot has alone and shares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeUsageView {
    /// Blocks that nothing else has.
    pub exclusive_bytes: u64,
    /// Blocks that others have too.
    pub shared_bytes: u64,
    /// What deleting it frees; of a volume, deleting it with all its snapshots.
    pub freed_if_deleted_bytes: u64,
}

/// Asks what volumes and snapshots have alone, all together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AskUsageView {
    /// Their names, or patterns. One without `@` is for volumes, one with `@` for snapshots.
    pub names: Vec<String>,
    /// The snapshots of the volumes belong to it too.
    #[serde(default)]
    pub snapshots: bool,
    /// Count what is mapped in sectors too, for which all metadata of the set is read.
    #[serde(default)]
    pub sectors: bool,
}

/// What volumes and snapshots have alone, all together. All figures are of one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageView {
    /// Their names.
    pub names: Vec<String>,
    /// What they map, in blocks of 64 KiB, added up.
    pub mapped_bytes: u64,
    /// What they map, in sectors of 4 KiB, added up; absent if that was not asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mapped_sectors_bytes: Option<u64>,
    /// What deleting all of them frees: blocks that nothing else has.
    pub freed_if_deleted_bytes: u64,
    /// Blocks that something else has too. Exact for one volume or snapshot; of several that share, what they reach by
    /// different pages of metadata may count for each.
    pub shared_bytes: u64,
    /// What deleting all of them frees of the metadata file.
    pub freed_metadata_bytes: u64,
    /// The checkpoint of the pool that was under construction at that moment.
    pub generation: u64,
    /// The last record of the log until then.
    pub sequence: u64,
}

impl UsageView {
    /// The view of what the engine says of `names`.
    pub fn new(names: Vec<String>, usage: &Usage) -> Self {
        Self {
            names,
            mapped_bytes: usage.mapped_blocks * BLOCK_BYTES,
            mapped_sectors_bytes: usage.mapped_sectors.map(|sectors| sectors * SECTOR_BYTES),
            freed_if_deleted_bytes: usage.exclusive_blocks * BLOCK_BYTES,
            shared_bytes: usage.shared_blocks * BLOCK_BYTES,
            freed_metadata_bytes: usage.metadata_pages * PAGE_BYTES as u64,
            generation: usage.generation.0,
            sequence: usage.sequence.0,
        }
    }
}
