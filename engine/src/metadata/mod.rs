//! What the pool knows: volumes, their mappings, counts, free pages; and how that becomes a checkpoint.
//!
//! Owns the state that deltas change, in memory, and its encoding as pages. Does no I/O: what is not in memory is
//! a [`Fault`], what has to be written is handed out. When a page may be written or a block reused is decided in
//! `data_path/`. Read next: `apply.rs` (what a delta does), `checkpoint.rs` (how state becomes pages),
//! `recovery.rs` (how pages and log become state), `tree/mod.rs` (mappings).
//!
//! Invariants, checked by `check/`:
//! 1. the count of a page is the number of its parents, the count of a block the number of layers naming it;
//! 2. a page of an earlier generation, or with a count above 1, is never changed;
//! 3. names of active volumes are unique and lead to their records;
//! 4. a page number is free only if neither root slot's trees nor the state in memory use it.

mod apply;
mod assemble;
pub mod cache;
mod checkpoint;
pub mod counts;
#[cfg(test)]
mod counts_tests;
mod create;
pub mod files;
mod index_tree;
pub mod load;
pub mod log_ring;
pub mod page_space;
pub mod recovery;
pub mod tree;
mod volume_table;

pub use assemble::{Parts, assemble};
pub use checkpoint::{Frozen, SlotFacts};
pub use counts::LoadedCounts;
pub use create::{create, write_checkpoint, write_log, write_now, write_slots};
pub use index_tree::IndexTree;
pub use log_ring::{LogRing, PAGES_PER_BLOCK};
pub use tree::{Fault, Forest, Found};
pub use volume_table::{LOG_VOLUME, VolumeTable, name_is_taken};

use crate::format::{RootSlot, Superblock};
use crate::units::{PageNumber, VolumeId};
use bytes::Bytes;

/// Takes a page that is to be written, at a number that nothing durable uses.
pub type PageSink<'a> = dyn FnMut(PageNumber, Bytes) + 'a;

/// The state of a pool in memory.
pub struct Metadata {
    /// Who the pool is.
    pub superblock: Superblock,
    /// Mappings of all volumes, counts, free pages.
    pub forest: Forest,
    /// Records of all volumes.
    pub volumes: VolumeTable,
    /// The number that the next volume gets.
    pub next_volume: VolumeId,
    /// The root slot that was read or written last.
    pub slot: RootSlot,
    count_trees: checkpoint::CountTrees,
}

impl Metadata {
    /// Pages that making a checkpoint of the present state may take.
    pub fn checkpoint_pages_at_most(&self) -> usize {
        self.volumes.pages_at_most() + self.count_trees.pages_at_most(&self.forest)
    }

    /// All index trees: volume records, counts, overflow.
    pub fn index_trees(&self) -> impl Iterator<Item = &IndexTree> {
        std::iter::once(&self.volumes.tree).chain(self.count_trees.iter())
    }
}
