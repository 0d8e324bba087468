//! Makes a new pool: superblocks, an empty log, and a first checkpoint in both root slots.
//!
//! Owns the order in which a pool comes into being: the slots are written last, so a cut leaves no pool.

use super::checkpoint::{CountTrees, Frozen, SlotFacts};
use super::files::Files;
use super::log_ring::{LOG_HEAD_PAGES, LogRing};
use super::tree::{Fault, Forest};
use super::{LOG_VOLUME, Metadata, VolumeTable};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{
    Extent, FIRST_FREE_PAGE, LogHead, ROOT_SLOT_PAGES, RootSlot, SUPERBLOCK_PAGES, Superblock, VolumeKind,
    VolumeRecord, WINDOW_BLOCKS,
};
use crate::options::{CreateOptions, Owner};
use crate::request::Uuid;
use crate::storage::{Buffer, Disk};
use crate::units::{
    BLOCK_BYTES, DATA_BLOCKS_MAX, DataBlock, Generation, Incarnation, PAGE_BYTES, SectorMask, Sequence,
    VirtualBlock, VolumeId,
};

/// Pages that a new metadata file has at least.
const PAGES_AT_LEAST: u64 = 64;

/// Makes a new pool on two empty disks. Fails with `Exists` if the metadata disk holds one.
pub fn create(data: &mut dyn Disk, metadata: &mut dyn Disk, options: &CreateOptions) -> Result<()> {
    check_options(options)?;
    let mut files = Files::new(data, metadata);
    refuse_existing(&mut files)?;
    let log = Extent { first: DataBlock(0), blocks: options.log_blocks };
    let mut state = first_state(options, log)?;
    write_log(&mut files, &options.uuid, &[log], Incarnation(0))?;
    files.metadata.allocate(0, state.forest.page_counts.len() * PAGE_BYTES as u64)?;
    for page in SUPERBLOCK_PAGES {
        files.metadata.write(page.offset_bytes(), state.superblock.encode().freeze())?;
    }
    files.metadata.sync()?;
    for _ in ROOT_SLOT_PAGES {
        let facts = SlotFacts {
            incarnation: Incarnation(0),
            sequence: Sequence(0),
            log_position: 0,
            clean: true,
            owner: Owner::default(),
        };
        write_now(&mut files, &mut state, facts)?;
    }
    Ok(())
}

fn check_options(options: &CreateOptions) -> Result<()> {
    if options.data_blocks > DATA_BLOCKS_MAX {
        return Err(Error::new(ErrorKind::Limit, "a pool has at most 2^32 data blocks: 256 TiB"));
    }
    if options.log_blocks == 0 || options.log_blocks >= options.data_blocks {
        return Err(Error::invalid("the log needs at least one data block and must leave some for data"));
    }
    Ok(())
}

/// Whatever version or features it has, a pool is not written over, nor is a data file whose metadata is elsewhere.
fn refuse_existing(files: &mut Files<'_>) -> Result<()> {
    let page_bytes = PAGE_BYTES as u64;
    for page in SUPERBLOCK_PAGES {
        let fits = page.offset_bytes() + page_bytes <= files.metadata.size_bytes();
        if fits && Superblock::is_one(&files.metadata.read(page.offset_bytes(), PAGE_BYTES)?) {
            return Err(exists("the metadata file"));
        }
    }
    for page in 0..LOG_HEAD_PAGES {
        let fits = (page + 1) * page_bytes <= files.data.size_bytes();
        if fits && LogHead::is_one(&files.data.read(page * page_bytes, PAGE_BYTES)?) {
            return Err(exists("the data file"));
        }
    }
    Ok(())
}

fn exists(file: &str) -> Error {
    Error::new(ErrorKind::Exists, format!("{file} belongs to a pool already; remove it first if you mean it"))
}

fn first_state(options: &CreateOptions, log: Extent) -> Result<Metadata> {
    let superblock = superblock(options);
    let slot = RootSlot { log: vec![log], ..RootSlot::default() };
    let mut state = Metadata {
        forest: Forest::new(superblock.pool, options.data_blocks, PAGES_AT_LEAST),
        superblock,
        volumes: VolumeTable::default(),
        next_volume: VolumeId(1),
        slot,
        count_trees: CountTrees::default(),
    };
    for page in 0..FIRST_FREE_PAGE.0 {
        state.forest.page_counts.increment(page)?;
    }
    // What checkpoints need; the file grows with the first write.
    let room = 2 * state.checkpoint_pages_at_most() as u64 + 4 * log.blocks.div_ceil(WINDOW_BLOCKS) + 64;
    state.forest.grow_pages(room.max(PAGES_AT_LEAST));
    state.forest.start_generation(Generation(1));
    state.volumes.insert(log_volume(&log, options.created_unix_s))?;
    map_log(&mut state, &log)?;
    Ok(state)
}

fn superblock(options: &CreateOptions) -> Superblock {
    Superblock::new(options.uuid, options.secret, options.created_unix_s, options.data_blocks)
}

pub(super) fn log_volume(log: &Extent, created_unix_s: u64) -> VolumeRecord {
    VolumeRecord {
        id: LOG_VOLUME,
        uuid: [0; 16],
        name: "log".to_owned(),
        kind: VolumeKind::Hidden,
        created_unix_s,
        generation_of_birth: Generation(1),
        ..VolumeRecord::new_volume(log.blocks * BLOCK_BYTES)
    }
}

fn map_log(state: &mut Metadata, log: &Extent) -> Result<()> {
    let record = state.volumes.change(LOG_VOLUME)?;
    for index in 0..log.blocks {
        let block = DataBlock(log.first.0 + index);
        state
            .forest
            .publish(LOG_VOLUME, &mut record.root, VirtualBlock(index), block, SectorMask::FULL)
            .map_err(|fault| match fault {
                Fault::Failed(error) => error,
                Fault::Missing(_) => Error::damaged("a new pool has pages that are not in memory"),
            })?;
    }
    state.forest.events.clear();
    Ok(())
}

/// Makes an empty log and syncs the data file. The log is written with zeros: overwriting what was written costs one flush,
/// filling a hole costs two.
pub fn write_log(files: &mut Files<'_>, pool: &Uuid, log: &[Extent], incarnation: Incarnation) -> Result<()> {
    let ring = LogRing::new(log, 0)?;
    for extent in log {
        files.data.allocate(extent.first.offset_bytes(), extent.blocks * BLOCK_BYTES)?;
    }
    let zeros = Buffer::zeroed(BLOCK_BYTES as usize).freeze();
    for block in ring.blocks() {
        files.data.write(block.offset_bytes(), zeros.clone())?;
    }
    let head = LogHead { pool: *pool, incarnation };
    for offset in ring.head_page_offsets_bytes() {
        files.data.write(offset, head.encode().freeze())?;
    }
    files.data.sync()
}

/// Writes a checkpoint with nothing else going on: pages, sync, slot, sync.
pub fn write_checkpoint(files: &mut Files<'_>, pool: &[u8; 16], frozen: Frozen) -> Result<()> {
    for (number, bytes) in frozen.pages {
        files.metadata.write(number.offset_bytes(), bytes)?;
    }
    write_slot(files, pool, &frozen.slot)
}

/// Freezes the present state and writes it as a checkpoint, page by page, with nothing else going on. Returns its
/// generation.
pub fn write_now(files: &mut Files<'_>, state: &mut Metadata, facts: SlotFacts) -> Result<Generation> {
    let mut written = Ok(());
    let slot = state.freeze_into(facts, &mut |number, bytes| {
        if written.is_ok() {
            written = files.metadata.write(number.offset_bytes(), bytes);
        }
    })?;
    written?;
    write_slot(files, &state.superblock.pool, &slot)?;
    Ok(slot.generation)
}

/// Writes the present state so many times, each time into the older slot: by two both slots say it.
pub fn write_slots(
    files: &mut Files<'_>,
    state: &mut Metadata,
    facts: &SlotFacts,
    slots: usize,
) -> Result<()> {
    for _ in 0..slots {
        let generation = write_now(files, state, facts.clone())?;
        state.forest.pages.release(generation);
    }
    Ok(())
}

fn write_slot(files: &mut Files<'_>, pool: &[u8; 16], slot: &RootSlot) -> Result<()> {
    files.metadata.sync()?;
    let page = ROOT_SLOT_PAGES[(slot.generation.0 % 2) as usize];
    files.metadata.write(page.offset_bytes(), slot.encode(pool)?.freeze())?;
    files.metadata.sync()
}
