//! Pictures of snapshots for dm-thin, in JSON: what a server is asked for, and what comes of it.
//!
//! Owns the words. Blocks have 64 KiB, and are named by where they start.

use serde::{Deserialize, Serialize};
use vellum_engine::picture::Filled;
use vellum_engine::request::{MappedRun, Mappings};
use vellum_engine::units::{BLOCK_BYTES, DataBlock, VirtualBlock};

/// Asks for a picture to be begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewPictureView {
    /// The snapshot that it shows.
    pub snapshot: String,
    /// What it shall be called: a snapshot of the same volume.
    pub name: String,
    /// What its uuid shall be; without it, a new one. With one that was asked for before, what there is of that picture is told.
    #[serde(default)]
    pub uuid: Option<String>,
}

/// Asks for a part of a picture to be filled.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FillView {
    /// From where on.
    #[serde(default)]
    pub offset_bytes: u64,
}

/// What was filled.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilledView {
    /// What was written anew.
    pub copied_bytes: u64,
    /// From where on to go on; absent at the end.
    pub next_bytes: Option<u64>,
}

impl FilledView {
    /// The view of what the engine says.
    pub fn new(filled: &Filled) -> Self {
        let next_bytes = filled.next.map(VirtualBlock::offset_bytes);
        Self { copied_bytes: filled.blocks * BLOCK_BYTES, next_bytes }
    }
}

/// Asks for a picture that is filled to become a snapshot that is held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FinishPictureView {
    /// Its name.
    pub name: String,
    /// Who needs it, for the tag of the hold; at most 53 bytes.
    pub tag: String,
}

/// Asks where a snapshot has its blocks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AskMappingsView {
    /// The uuid of the snapshot.
    pub uuid: String,
    /// From where on.
    #[serde(default)]
    pub offset_bytes: u64,
}

/// Where a snapshot has its blocks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MappingsView {
    /// Runs of blocks, in order.
    pub runs: Vec<MappedRunView>,
    /// From where on to ask for more; absent if that was all.
    pub next_bytes: Option<u64>,
}

/// Neighbouring blocks of a snapshot in neighbouring blocks of the data file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MappedRunView {
    /// Where they start in the snapshot.
    pub offset_bytes: u64,
    /// Where they start in the data file.
    pub data_offset_bytes: u64,
    /// How long they are.
    pub length_bytes: u64,
    /// Whether all of each block stands there. Otherwise it has holes, or sectors in another block.
    pub whole: bool,
}

impl MappingsView {
    /// The view of an answer of the engine.
    pub fn new(mappings: &Mappings) -> Self {
        let run = |run: &MappedRun| MappedRunView {
            offset_bytes: run.virtual_block.offset_bytes(),
            data_offset_bytes: run.data_block.offset_bytes(),
            length_bytes: run.blocks * BLOCK_BYTES,
            whole: run.is_whole,
        };
        let next_bytes = mappings.next.map(VirtualBlock::offset_bytes);
        Self { runs: mappings.runs.iter().map(run).collect(), next_bytes }
    }
}

impl MappedRunView {
    /// The run in the engine's words.
    pub fn run(&self) -> MappedRun {
        MappedRun {
            virtual_block: VirtualBlock::containing(self.offset_bytes),
            data_block: DataBlock(self.data_offset_bytes / BLOCK_BYTES),
            blocks: self.length_bytes / BLOCK_BYTES,
            is_whole: self.whole,
        }
    }
}

/// What a picture shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DmPictureView {
    /// The file or device with the metadata.
    pub metadata: String,
    /// The pool's data file or device.
    pub data: String,
    /// Size of a data block, as the table of a thin pool wants it.
    pub data_block_sectors: u64,
    /// Data blocks of the pool, as the table of a thin pool wants them.
    pub data_blocks: u64,
    /// Those that the picture shows.
    pub data_blocks_used: u64,
    /// Blocks that were written anew, as a whole.
    pub copied_blocks: u64,
    /// What they take of the pool.
    pub copied_bytes: u64,
    /// What is used of the metadata.
    pub metadata_used_bytes: u64,
    /// What dm-thin can use of it.
    pub metadata_bytes: u64,
    /// All snapshots that it shows, by number.
    pub devices: Vec<DmPinnedView>,
}

/// A snapshot, the thin device that shows it, and what keeps its blocks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DmPinnedView {
    /// Number of the thin device, and of the snapshot.
    pub device: u32,
    /// Name of the snapshot.
    pub name: String,
    /// Its uuid.
    pub uuid: String,
    /// Its size, which the table of the thin device has to have.
    pub size_bytes: u64,
    /// What it has mapped.
    pub mapped_bytes: u64,
    /// The snapshot that pins what is shown; `vellum dm release` takes it.
    pub pinned_by: String,
    /// The tag by which that is held.
    pub hold: String,
}
