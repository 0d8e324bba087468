//! What hangs on a root slot, brought into memory: counts and volume records whole, mapping pages one at a time.
//!
//! Owns the reading counterpart of `checkpoint.rs`. Does not look at the log; that is `recovery.rs`.

use super::checkpoint::CountTrees;
use super::counts::LoadedCounts;
use super::files::Files;
use super::index_tree::IndexTree;
use super::tree::Forest;
use super::{Metadata, VolumeTable};
use crate::error::{Error, ErrorKind, Place, Result};
use crate::format::{self, COUNTS_PER_LEAF, PageKind, Pointer, RootSlot, Superblock};
use crate::units::{DATA_BLOCKS_MAX, Generation, PAGE_BYTES, PageNumber};

/// What hangs on `slot`, without the log.
pub fn load(
    files: &mut Files<'_>,
    superblock: &Superblock,
    slot: RootSlot,
    building: Generation,
) -> Result<Metadata> {
    let pool = superblock.pool;
    check_sizes(files, &slot)?;
    let mut forest = Forest::new(pool, slot.data_blocks, slot.metadata_pages);
    let mut trees = CountTrees::default();
    let forest_counts = &mut forest;
    trees.data = load_counts(files, &pool, slot.data_counts, &mut |first, bytes| {
        forest_counts.data_counts.load_leaf(first, bytes)
    })?;
    trees.data_overflow = load_overflow(files, &pool, slot.data_overflow, &mut |index, count| {
        forest_counts.data_counts.load_overflow(index, count)
    })?;
    trees.pages = load_counts(files, &pool, slot.page_counts, &mut |first, bytes| {
        forest_counts.page_counts.load_leaf(first, bytes)
    })?;
    trees.page_overflow = load_overflow(files, &pool, slot.page_overflow, &mut |index, count| {
        forest_counts.page_counts.load_overflow(index, count)
    })?;
    forest.data_counts.finish_load()?;
    forest.page_counts.finish_load()?;
    // The file may have grown since the checkpoint; pages of that growth may have been used by what is replayed.
    forest.grow_pages(files.metadata.size_bytes() / PAGE_BYTES as u64);
    forest.find_free_pages();
    forest.start_generation(building);
    let volumes = load_volumes(files, &pool, slot.volumes)?;
    files.forget_ahead();
    let next_volume = slot.next_volume;
    Ok(Metadata { superblock: superblock.clone(), forest, volumes, next_volume, slot, count_trees: trees })
}

/// Sizes decide how much memory is taken, so they are not believed blindly.
fn check_sizes(files: &Files<'_>, slot: &RootSlot) -> Result<()> {
    if slot.data_blocks > DATA_BLOCKS_MAX {
        return Err(Error::new(ErrorKind::Unsupported, "the pool is larger than this program can hold"));
    }
    if slot.metadata_pages > files.metadata.size_bytes() / PAGE_BYTES as u64 {
        return Err(Error::damaged("the metadata file is shorter than its root slot says; is it whole?"));
    }
    Ok(())
}

fn load_volumes(files: &mut Files<'_>, pool: &[u8; 16], root: Option<Pointer>) -> Result<VolumeTable> {
    let mut records = Vec::new();
    let tree = IndexTree::load(
        root,
        pool,
        &mut |pointer| files.page_in_order(pool, pointer),
        &mut |_, header, body| {
            if header.kind != PageKind::VolumeLeaf {
                return Err(wrong_kind(header.number));
            }
            records.extend(format::decode_volume_leaf(body)?);
            Ok(())
        },
        &mut |_, _| Err(Error::damaged("a pointer to a volume leaf names no page")),
    )?;
    VolumeTable::loaded(tree, records)
}

fn wrong_kind(page: PageNumber) -> Error {
    Error::damaged("a page of another kind stands where this tree needs one").at(Place::Page(page))
}

fn load_counts(
    files: &mut Files<'_>,
    pool: &[u8; 16],
    root: Option<Pointer>,
    put: &mut dyn FnMut(u64, LoadedCounts<'_>) -> Result<()>,
) -> Result<IndexTree> {
    let put = std::cell::RefCell::new(put);
    IndexTree::load(
        root,
        pool,
        &mut |pointer| files.page_in_order(pool, pointer),
        &mut |key, header, body| {
            if header.kind != PageKind::CountLeaf || header.first_key != key {
                return Err(wrong_kind(header.number));
            }
            (put.borrow_mut())(key, LoadedCounts::Each(format::decode_count_leaf(body)?))
        },
        &mut |key, count| (put.borrow_mut())(key, LoadedCounts::Uniform(count)),
    )
}

fn load_overflow(
    files: &mut Files<'_>,
    pool: &[u8; 16],
    root: Option<Pointer>,
    put: &mut dyn FnMut(u64, u32) -> Result<()>,
) -> Result<IndexTree> {
    IndexTree::load(
        root,
        pool,
        &mut |pointer| files.page_in_order(pool, pointer),
        &mut |_, header, body| {
            if header.kind != PageKind::OverflowLeaf {
                return Err(wrong_kind(header.number));
            }
            format::decode_overflow_leaf(body)?.into_iter().try_for_each(|(index, count)| put(index, count))
        },
        &mut |_, _| Err(Error::damaged("a pointer to an overflow leaf names no page")),
    )
}

/// Pages of the other root slot's trees stay as they are until that slot has been replaced. If they cannot be
/// read the other slot is worth nothing anyway.
pub(super) fn keep_other_pages(files: &mut Files<'_>, metadata: &mut Metadata, other: &RootSlot) {
    let pool = metadata.superblock.pool;
    let mut used = Vec::new();
    let loaded = load_counts(files, &pool, other.page_counts, &mut |first, counts| {
        match counts {
            LoadedCounts::Each(bytes) => {
                let pages = (first..).zip(bytes).filter(|(_, count)| **count > 0);
                used.extend(pages.map(|(page, _)| PageNumber(page)));
            }
            LoadedCounts::Uniform(0) => {}
            LoadedCounts::Uniform(_) => used.extend((first..first + COUNTS_PER_LEAF).map(PageNumber)),
        }
        Ok(())
    });
    files.forget_ahead();
    if loaded.is_ok() {
        used.into_iter().for_each(|page| metadata.forest.keep_page(page, metadata.slot.generation));
    }
}

/// Reads one mapping page into memory.
pub fn load_page(files: &mut Files<'_>, metadata: &mut Metadata, pointer: &Pointer) -> Result<()> {
    let bytes = files.page(&metadata.superblock.pool, pointer)?;
    metadata.forest.insert_loaded(pointer, &bytes)
}
