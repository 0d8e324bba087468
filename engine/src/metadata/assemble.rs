//! The state of a pool put together from trees that were just built, for a metadata file that is new as a whole.
//!
//! Owns what is derived from the mapping trees: free pages, the hidden volume of the log, and that every count, record
//! and leaf has to be written. Reads nothing. Who builds the trees is `repair/`.

use super::checkpoint::CountTrees;
use super::counts::Counts;
use super::create::log_volume;
use super::tree::Forest;
use super::{LOG_VOLUME, Metadata, VolumeTable};
use crate::error::{Error, Result};
use crate::format::{Extent, Properties, RootSlot, Superblock, VolumeRecord, WINDOW_BLOCKS};
use crate::metadata::Fault;
use crate::units::{DataBlock, Generation, SectorMask, VirtualBlock, VolumeId};

/// What a new metadata file starts from.
pub struct Parts {
    /// Who the pool is.
    pub superblock: Superblock,
    /// Sizes, where the log is, and what else a slot says beside its trees.
    pub slot: RootSlot,
    /// Every record but that of the log's volume; their trees are on disk.
    pub records: Vec<VolumeRecord>,
    /// What was set on the log's volume: the settings of the pool.
    pub settings: Properties,
    /// The number that the next volume gets.
    pub next_volume: VolumeId,
    /// The counts of pages that the records' trees and the places of superblocks and slots make.
    pub page_counts: Counts,
    /// The counts of data blocks that the records' trees make.
    pub data_counts: Counts,
    /// The checkpoint that is built next; no page of the trees is as young.
    pub building: Generation,
}

/// The state that `parts` make. The file must be made as long as the counts of pages then say.
pub fn assemble(parts: Parts) -> Result<Metadata> {
    let Parts { superblock, slot, records, settings, next_volume, page_counts, data_counts, building } =
        parts;
    let mut forest = Forest::new(superblock.pool, 0, 0);
    (forest.page_counts, forest.data_counts) = (page_counts, data_counts);
    forest.find_free_pages();
    let log = slot.log.clone();
    let created_unix_s = superblock.created_unix_s;
    let count_trees = CountTrees::default();
    let volumes = VolumeTable::default();
    let mut state = Metadata { superblock, forest, volumes, next_volume, slot, count_trees };
    records.into_iter().try_for_each(|record| state.volumes.insert(record))?;
    let log_blocks = log.iter().map(|extent| extent.blocks).sum::<u64>();
    // As a new pool has: two checkpoints of everything, the log's mappings, and some to begin with.
    let room = 2 * state.checkpoint_pages_at_most() as u64 + 4 * log_blocks.div_ceil(WINDOW_BLOCKS) + 64;
    // Leaves of counts for the room itself.
    let pages = state.forest.page_counts.len() + room + room / 256;
    state.forest.grow_pages(pages);
    state.forest.start_generation(building);
    map_log(&mut state, &log, created_unix_s)?;
    state.volumes.change(LOG_VOLUME)?.properties = settings;
    Ok(state)
}

/// The log's volume is derived: it maps the extents that the slot names.
fn map_log(state: &mut Metadata, log: &[Extent], created_unix_s: u64) -> Result<()> {
    let blocks = log.iter().map(|extent| extent.blocks).sum();
    let whole = Extent { first: DataBlock(0), blocks };
    state.volumes.insert(log_volume(&whole, created_unix_s))?;
    let record = state.volumes.change(LOG_VOLUME)?;
    let named = log.iter().flat_map(|extent| (0..extent.blocks).map(|index| extent.first.0 + index));
    for (index, block) in (0..).zip(named) {
        let published = state.forest.publish(
            LOG_VOLUME,
            &mut record.root,
            VirtualBlock(index),
            DataBlock(block),
            SectorMask::FULL,
        );
        published.map_err(|fault| match fault {
            Fault::Failed(error) => error,
            Fault::Missing(_) => Error::damaged("the log's mappings are not in memory"),
        })?;
    }
    state.forest.events.clear();
    Ok(())
}
