//! Checks metadata, and tells what is wrong, where, and what it costs.
//!
//! Owns the order: superblock, devices, their mappings, times, the metadata snapshot, and at last both space maps, which must
//! agree with all the owners that were seen before. Reads only, believes nothing, and goes on behind damage. It finds what
//! both thin_check 0.9 and 1.3 miss: sums of free space, times, numbers of devices, sizes. Memory goes with the metadata: a
//! byte a mapped data block and four a metadata block, and some for each node.

mod findings;
mod forest;
mod space_maps;
mod times;

pub use findings::{Cost, Defect, DeviceRange, Finding, Report};

use crate::device::{Blocks, Source};
use crate::error::{Error, ErrorKind, Place, Result};
use crate::format::{
    BlockTime, DATA_BLOCK_LIMIT, DEVICE_ID_LIMIT, DeviceDetails, MAX_METADATA_BLOCKS, SpaceMapRoot,
    Superblock, TIME_LIMIT, data_block_sectors_are_valid,
};
use crate::tree::Role;
use crate::tree::TreeWalk;
use forest::Forest;
use rustc_hash::{FxHashMap, FxHashSet};
use space_maps::{Comparison, data_index, metadata_index};

/// A row of the tree of devices.
struct DeviceRoot {
    id: u64,
    root: u64,
    place: Place,
}

/// Checks the metadata of a pool that is not active.
///
/// Fails only with `Io`, if the size or the first block cannot be read; everything else is a finding.
pub fn check(source: impl Source) -> Result<Report> {
    let blocks = Blocks::new(source)?;
    let superblock = match blocks.read(0).and_then(|bytes| Superblock::decode(&bytes, 0)) {
        Ok(superblock) => superblock,
        Err(error) => return without_superblock(error),
    };
    let nr_data_blocks = superblock.data_space_map.nr_blocks;
    let mut forest = Forest::new(&blocks, nr_data_blocks, superblock.time);
    forest.report.needs_check = superblock.needs_check;
    forest.report.is_picture = superblock.is_picture;
    check_superblock(&mut forest, &superblock);
    forest.own(0);
    let (devices, details) = read_devices(&mut forest, &superblock);
    check_devices(&mut forest, &devices, &details);
    check_times(&mut forest, &devices, &details);
    check_snapshot(&mut forest, &superblock);
    check_space_maps(&mut forest, &superblock, &devices);
    Ok(forest.report)
}

fn without_superblock(error: Error) -> Result<Report> {
    if error.kind() == ErrorKind::Io {
        return Err(error);
    }
    let mut report = Report::default();
    report.add(Defect::Superblock, error.place(), Cost::Pool, error.message());
    Ok(report)
}

fn check_superblock<S: Source>(forest: &mut Forest<'_, S>, superblock: &Superblock) {
    let mut pool = |defect, byte, text: String| {
        forest.report.add(defect, Place::byte(0, byte), Cost::Pool, text);
    };
    let sectors = superblock.data_block_sectors;
    if !data_block_sectors_are_valid(sectors) {
        pool(Defect::DataBlockSize, 336, format!("data blocks of {sectors} sectors, not a multiple of 128"));
    }
    if superblock.unknown_flags != 0 {
        pool(Defect::Superblock, 4, format!("unknown flags {:#x}", superblock.unknown_flags));
    }
    let data = superblock.data_space_map.nr_blocks;
    if data > DATA_BLOCK_LIMIT {
        pool(Defect::Superblock, 64, format!("{data} data blocks, where {DATA_BLOCK_LIMIT} is the end"));
    }
    if superblock.time >= TIME_LIMIT {
        let text = format!("the pool has time {}, and mappings have room for 24 bits", superblock.time);
        forest.report.add(Defect::Time, Place::byte(0, 44), Cost::Overwritten(Vec::new()), text);
    }
    let metadata = superblock.metadata_space_map.nr_blocks;
    let limit = forest.blocks.count().min(MAX_METADATA_BLOCKS);
    if metadata > limit {
        let text = format!("{metadata} metadata blocks, where the device has {limit}");
        forest.report.add(Defect::MetadataSize, Place::byte(0, 192), Cost::Pool, text);
    }
}

type Details = FxHashMap<u64, (DeviceDetails, Place)>;

/// Both trees of devices, row by row.
fn read_devices<S: Source>(
    forest: &mut Forest<'_, S>,
    superblock: &Superblock,
) -> (Vec<DeviceRoot>, Details) {
    let mut devices = Vec::new();
    let mut details = Details::default();
    forest.visit_tree(superblock.mapping_root, Role::Devices, &mut |_, block, node| {
        for at in 0..node.len() {
            let place = Place { device: Some(node.key(at)), ..Place::byte(block, node.value_offset(at)) };
            devices.push(DeviceRoot { id: node.key(at), root: node.value_u64(at), place });
        }
    });
    forest.visit_tree(superblock.details_root, Role::Details, &mut |_, block, node| {
        for at in 0..node.len() {
            let mut bytes = [0; DeviceDetails::BYTES];
            bytes.copy_from_slice(node.value(at));
            let place = Place { device: Some(node.key(at)), ..Place::byte(block, node.value_offset(at)) };
            details.insert(node.key(at), (DeviceDetails::decode(&bytes), place));
        }
    });
    (devices, details)
}

fn check_devices<S: Source>(forest: &mut Forest<'_, S>, devices: &[DeviceRoot], details: &Details) {
    let mut with_mappings = FxHashSet::default();
    for device in devices {
        with_mappings.insert(device.id);
        forest.device = Some(device.id);
        let summary = forest.visit_tree(device.root, Role::Mappings, &mut |_, _, _| {});
        forest.device = None;
        forest.charge(device.id, &summary);
        forest.report.devices += 1;
        forest.report.mappings = forest.report.mappings.saturating_add(summary.entries);
        if device.id >= DEVICE_ID_LIMIT {
            let text = "numbers of devices end at 16777215; the device cannot be activated";
            forest.report.add(Defect::DeviceId, device.place, Cost::Pool, text);
        }
        let Some((row, place)) = details.get(&device.id) else {
            let text = "the device has mappings and no details";
            let lost = Cost::Devices(device.id, device.id);
            forest.report.add(Defect::DeviceTrees, device.place, lost, text);
            continue;
        };
        let damaged = summary.lost.iter().any(|(_, first, last)| first != last);
        if row.mapped_blocks != summary.entries && !damaged {
            let text =
                format!("{} mapped blocks by the details, {} mappings", row.mapped_blocks, summary.entries);
            forest.report.add(Defect::MappedBlocks, *place, Cost::Nothing, text);
        }
        let latest = row.creation_time.max(row.snapshotted_time);
        if latest > forest.pool_time {
            let text = format!("the device has time {latest}, the pool {}", forest.pool_time);
            forest.report.add(Defect::Time, *place, Cost::Nothing, text);
        }
    }
    let mut alone: Vec<_> = details.iter().filter(|(id, _)| !with_mappings.contains(id)).collect();
    alone.sort_by_key(|(id, _)| **id);
    for (id, (_, place)) in alone {
        let text = "the device has details and no mappings";
        forest.report.add(Defect::DeviceTrees, *place, Cost::Devices(*id, *id), text);
    }
}

fn check_times<S: Source>(forest: &mut Forest<'_, S>, devices: &[DeviceRoot], details: &Details) {
    if !times::anything_shared(forest) {
        return;
    }
    for device in devices {
        if let Some((row, _)) = details.get(&device.id) {
            times::check_device(forest, device.id, row, device.root);
        }
    }
}

/// The trees of the metadata snapshot own nodes and data blocks like those of live devices.
fn check_snapshot<S: Source>(forest: &mut Forest<'_, S>, live: &Superblock) {
    let Some(block) = live.held_root else { return };
    forest.own(block);
    let snapshot = match forest.blocks.read(block).and_then(|bytes| Superblock::decode(&bytes, block)) {
        Ok(snapshot) => snapshot,
        Err(error) => {
            forest.report.counts_incomplete = true;
            forest.report.add(Defect::MetadataSnapshot, error.place(), Cost::Snapshot, error.message());
            return;
        }
    };
    forest.in_snapshot = true;
    let (devices, _) = read_devices(forest, &snapshot);
    for device in devices {
        forest.device = Some(device.id);
        forest.visit_tree(device.root, Role::Mappings, &mut |_, _, _| {});
        forest.device = None;
    }
    forest.in_snapshot = false;
}

fn check_space_maps<S: Source>(forest: &mut Forest<'_, S>, superblock: &Superblock, devices: &[DeviceRoot]) {
    // Larger numbers were told before; the comparison counts on block numbers that the format can have.
    let clamp = |root: SpaceMapRoot, limit| SpaceMapRoot { nr_blocks: root.nr_blocks.min(limit), ..root };
    let data = clamp(superblock.data_space_map, DATA_BLOCK_LIMIT);
    let metadata = clamp(superblock.metadata_space_map, MAX_METADATA_BLOCKS);
    let index_of_data = data_index(forest, &data);
    let index_of_metadata = metadata_index(forest, &metadata);
    let blocks = forest.blocks;
    let mut comparison = Comparison::new(blocks, &mut forest.report, "data", data);
    let used = comparison.run(&index_of_data, &forest.data_owners);
    let too_low = comparison.too_low;
    forest.report.data_blocks_used = used;
    charge(forest, devices, &too_low);
    let mut comparison = Comparison::new(blocks, &mut forest.report, "metadata", metadata);
    let used = comparison.run(&index_of_metadata, &forest.owners);
    forest.report.metadata_blocks_used = used;
}

/// Tells the findings about low counts whose mappings are in danger.
fn charge<S: Source>(forest: &mut Forest<'_, S>, devices: &[DeviceRoot], too_low: &[(u64, u64, usize)]) {
    if too_low.is_empty() {
        return;
    }
    for device in devices {
        let mut walk = TreeWalk::new(forest.blocks, device.root, 8, true);
        while let Ok(Some((_, node))) = walk.next_leaf() {
            for at in 0..node.len() {
                let block = BlockTime::unpack(node.value_u64(at)).block;
                let place = too_low.partition_point(|(_, last, _)| *last < block);
                if let Some((_, _, finding)) = too_low.get(place).filter(|(first, ..)| *first <= block) {
                    let (device, key) = (device.id, node.key(at));
                    forest.report.hurts(*finding, DeviceRange { device, first: key, last: key });
                }
            }
        }
    }
}
