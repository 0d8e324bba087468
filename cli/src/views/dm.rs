//! Metadata of the kernel's dm-thin, in JSON.
//!
//! Owns the words; what they stand for is the bridge's. Data blocks are those of the thin pool, which have 64 KiB or more.

use super::VolumeKind;
use serde::{Deserialize, Serialize};

/// What a check of dm-thin's metadata found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DmCheckView {
    /// Whether nothing is wrong.
    pub clean: bool,
    /// Whether the kernel itself asked for a check. A picture always does.
    pub needs_check: bool,
    /// Whether it is a picture of a pool that goes on: for reading alone.
    #[serde(default)]
    pub is_picture: bool,
    /// What is wrong.
    pub findings: Vec<DmFindingView>,
    /// Findings beyond those.
    pub unlisted_findings: u64,
    /// Whether damage kept owners from being counted, so that counts that seem too high are not told.
    pub counts_incomplete: bool,
    /// Thin devices.
    pub devices: u64,
    /// Mappings of one block each, what is shared counted for each.
    pub mappings: u64,
    /// Data blocks with an owner.
    pub data_blocks_used: u64,
    /// Metadata blocks of 4 KiB with an owner.
    pub metadata_blocks_used: u64,
}

/// Something that is wrong with dm-thin's metadata.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DmFindingView {
    /// Its name.
    pub defect: String,
    /// Where.
    pub place: Option<String>,
    /// With its numbers.
    pub message: String,
    /// What it costs, if anything.
    pub cost: Option<String>,
}

/// What was dumped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DmDumpView {
    /// The file.
    pub output: Option<String>,
    /// Thin devices.
    pub devices: u64,
    /// Mappings of one block each.
    pub mappings: u64,
    /// What could not be read.
    pub lost: Vec<DmLostView>,
    /// What was found by searching.
    pub found: Vec<DmFoundView>,
}

/// Mappings of a thin device to which nothing led any more, and which were searched for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DmFoundView {
    /// The device.
    pub device: u32,
    /// Mappings of one block each.
    pub mappings: u64,
}

/// Virtual blocks of a thin device, or numbers of devices, that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DmLostView {
    /// The device; none where numbers of devices are lost.
    pub device: Option<u32>,
    /// The first block or number.
    pub first: u64,
    /// The last one; none for everything from the first on.
    pub last: Option<u64>,
    /// Why.
    pub message: String,
}

/// What was restored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DmRestoreView {
    /// The file or device.
    pub output: String,
    /// Thin devices.
    pub devices: u64,
    /// Mappings of one block each.
    pub mappings: u64,
    /// Data blocks with an owner.
    pub data_blocks_used: u64,
    /// What is used of the metadata.
    pub metadata_used_bytes: u64,
    /// What dm-thin can use of it.
    pub metadata_bytes: u64,
    /// Devices whose number of mapped blocks was wrong in the XML.
    pub corrected: Vec<DmCorrectedView>,
}

/// A number of mapped blocks that was wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DmCorrectedView {
    /// The device.
    pub device: u32,
    /// What the XML says.
    pub declared: u64,
    /// What is right, and was written.
    pub counted: u64,
}

/// What was given to the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DmExportView {
    /// The file or device with the kernel's metadata.
    pub metadata: String,
    /// The data file or device.
    pub data: String,
    /// Size of a data block, as the table of a thin pool wants it.
    pub data_block_sectors: u64,
    /// Data blocks of the pool.
    pub data_blocks: u64,
    /// Those with an owner.
    pub data_blocks_used: u64,
    /// Blocks that were copied, because others have what they lack.
    pub copied_blocks: u64,
    /// Blocks that were filled where they are.
    pub filled_blocks: u64,
    /// What was copied for both.
    pub copied_bytes: u64,
    /// What was made to read as zeros for both.
    pub cleared_bytes: u64,
    /// What is used of the metadata.
    pub metadata_used_bytes: u64,
    /// What dm-thin can use of it.
    pub metadata_bytes: u64,
    /// All volumes and snapshots, by number.
    pub devices: Vec<DmThinView>,
}

/// A volume or snapshot, and the thin device that it is for the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DmThinView {
    /// Number of the thin device.
    pub device: u32,
    /// Name of the volume or snapshot.
    pub name: String,
    /// Its uuid.
    pub uuid: String,
    /// What it is.
    pub kind: VolumeKind,
    /// Its size, which the table of the thin device has to have.
    pub size_bytes: u64,
    /// What it has mapped.
    pub mapped_bytes: u64,
}

/// A pool that is not the kernel's any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DmRevokeView {
    /// Whether it is certain that the kernel never had the pool.
    pub untouched: bool,
}

/// What was imported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DmImportView {
    /// Whether the data stayed where it is.
    pub adopted: bool,
    /// What the pool may use of its data file or device.
    pub size_bytes: u64,
    /// What was copied.
    pub copied_bytes: u64,
    /// The number that LVM compares with its own record.
    pub transaction_id: u64,
    /// Every device, by number of the volume.
    pub volumes: Vec<DmImportedView>,
    /// What could not be read; it reads as an error.
    pub lost: Vec<DmLostView>,
    /// What was found by searching.
    pub found: Vec<DmFoundView>,
}

/// A thin device, and the volume or snapshot that it is now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DmImportedView {
    /// Number that the thin device had.
    pub device: u32,
    /// Number in the pool.
    pub number: u64,
    /// Name of the volume or snapshot.
    pub name: String,
    /// Its uuid.
    pub uuid: String,
    /// What it is.
    pub kind: VolumeKind,
    /// Its size.
    pub size_bytes: u64,
    /// It was given away as a snapshot, and the kernel has written to it: it has a new uuid.
    pub changed: bool,
    /// Mapped blocks of the thin device.
    pub mapped_blocks: u64,
    /// How many the metadata counts. Where there are fewer, and nothing is told as lost, some read as zeros that were not.
    pub counted_blocks: u64,
}
