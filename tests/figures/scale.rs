//! What large pools take, counted: bytes of metadata a mapping, and memory while all mappings are looked at.
//!
//! Owns a pool of 64 Ki mappings whose data was never written. Times and larger pools: `benches/scale`.

use crate::fixture::{Figures, named};
use vellum_engine::Pool;
use vellum_engine::format::{Delta, FIRST_FREE_PAGE};
use vellum_engine::metadata::files::Files;
use vellum_engine::metadata::recovery::{Recovered, recover};
use vellum_engine::metadata::{IndexTree, SlotFacts, write_now};
use vellum_engine::options::{CreateOptions, OpenOptions, Owner};
use vellum_engine::request::{Outcome, Request};
use vellum_engine::storage::MemoryDisk;
use vellum_engine::units::{BLOCK_BYTES, DataBlock, PAGE_BYTES, SectorMask, VirtualBlock, VolumeId};

const MAPPINGS: u64 = 64 << 10;
const LOG_BLOCKS: u64 = 64;
const DISK: VolumeId = VolumeId(1);

/// Pages that a pool has beside mappings and counts: volume records, the log's mappings, and inner pages above them.
const OTHER_PAGES: u64 = 12;

/// A closed pool that maps every block of one volume, written in the order of `blocks`, and what its pages hold.
struct Filled {
    data: MemoryDisk,
    metadata: MemoryDisk,
    mapping_bytes: u64,
    count_bytes: u64,
}

fn fill(blocks: impl Iterator<Item = u64>, sectors: SectorMask) -> Filled {
    let data_blocks = MAPPINGS + LOG_BLOCKS;
    let options =
        CreateOptions { data_blocks, log_blocks: LOG_BLOCKS, uuid: [7; 16], secret: 7, created_unix_s: 0 };
    let (data, metadata) = (MemoryDisk::new(0), MemoryDisk::new(0));
    let mut pool = Pool::create(data, metadata, &options, &OpenOptions::default()).unwrap();
    pool.create_volume(named("disk", 1), MAPPINGS * BLOCK_BYTES).unwrap();
    let (mut data, mut metadata) = pool.close().unwrap();
    let mut files = Files::new(&mut data, &mut metadata);
    let mut found = recover(&mut files).unwrap();
    let (now, more) = (found.metadata.forest.page_counts.len(), MAPPINGS / 100);
    let page_bytes = PAGE_BYTES as u64;
    files.metadata.allocate(now * page_bytes, more * page_bytes).unwrap();
    found.metadata.forest.grow_pages(now + more);
    for (index, at) in blocks.enumerate() {
        let data_block = DataBlock(LOG_BLOCKS + index as u64);
        let delta =
            Delta::Publish { volume: DISK, virtual_block: VirtualBlock(at), data_block, sectors, crc: 0 };
        found.metadata.apply(&delta).unwrap();
        found.metadata.forest.events.clear();
    }
    checkpoint(&mut files, &mut found);
    checkpoint(&mut files, &mut found);
    let forest = &found.metadata.forest;
    let in_counts = found.metadata.index_trees().skip(1).flat_map(IndexTree::pages);
    let count_pages: u64 = in_counts.map(|pointer| 1 + u64::from(pointer.copy.is_some())).sum();
    let pages = forest.page_counts.in_use() - FIRST_FREE_PAGE.0 - count_pages;
    Filled { data, metadata, mapping_bytes: pages * page_bytes, count_bytes: count_pages * page_bytes }
}

fn checkpoint(files: &mut Files<'_>, found: &mut Recovered) {
    let facts = SlotFacts {
        incarnation: found.incarnation,
        sequence: found.sequence,
        log_position: found.ring.head,
        clean: true,
        owner: Owner::default(),
    };
    let generation = write_now(files, &mut found.metadata, facts).unwrap();
    found.metadata.forest.pages.release(generation);
}

/// Every block once, neighbours far apart.
fn at_random() -> impl Iterator<Item = u64> {
    (0..MAPPINGS).map(|index| index.wrapping_mul(0x9e37_79b1) % MAPPINGS)
}

/// In order at most 8 MiB for 16 Mi mappings, half a byte each; at random at most 24 bytes each. Counts that are all
/// equal take no pages but those that say so.
#[test]
fn metadata_a_mapping() {
    let mut figures = Figures::new("64 Ki mappings (bytes of metadata, of counts)");
    let full = SectorMask::FULL;
    let pools = [
        ("in order", fill(0..MAPPINGS, full), MAPPINGS / 2),
        ("in order, parts of blocks", fill(0..MAPPINGS, SectorMask(1)), 11 * MAPPINGS),
        ("at random", fill(at_random(), full), 24 * MAPPINGS),
    ];
    for (order, pool, promised) in pools {
        let (mapping, counts) = (pool.mapping_bytes, pool.count_bytes);
        figures.note(format!("{order:<26} {mapping:>8}, {counts:>6}; promised {promised}"));
        assert!(mapping <= promised + OTHER_PAGES * PAGE_BYTES as u64, "{order}: {mapping} bytes");
        assert!(counts <= 8 * PAGE_BYTES as u64, "{order}: {counts} bytes of counts");
    }
    figures.print();
}

/// Looking at all mappings takes no more memory than the bound, without a checkpoint in between.
#[test]
fn memory_of_a_scan() {
    const BOUND: usize = 256 << 10;
    let mut figures = Figures::new("memory of pages while 64 Ki mappings at random are looked at (KiB)");
    let Filled { data, metadata, .. } = fill(at_random(), SectorMask::FULL);
    let unbounded = scan(data.clone(), metadata.clone(), usize::MAX);
    let bounded = scan(data, metadata, BOUND);
    figures.note(format!("no bound: {}; bound of {}: {}", unbounded >> 10, BOUND >> 10, bounded >> 10));
    figures.print();
    assert!(unbounded > 2 * BOUND as u64, "the pool is too small to tell: {unbounded} bytes");
    assert!(bounded <= BOUND as u64, "{bounded} bytes");
}

/// The most memory that pages took after any request.
fn scan(data: MemoryDisk, metadata: MemoryDisk, cache_bytes: usize) -> u64 {
    let options = OpenOptions { cache_bytes, ..OpenOptions::default() };
    let mut pool = Pool::open(data, metadata, &options).unwrap();
    let (mut offset_bytes, mut most, end) = (0, 0, MAPPINGS * BLOCK_BYTES);
    while offset_bytes < end {
        let length_bytes = (100 * BLOCK_BYTES).min(end - offset_bytes);
        let request = Request::Extents { volume: DISK, offset_bytes, length_bytes };
        let Ok(Outcome::Extents(extents)) = pool.request(request) else { panic!("extents were asked for") };
        offset_bytes += extents.iter().map(|extent| extent.length_bytes).sum::<u64>();
        most = most.max(pool.status().cached_bytes);
    }
    most
}
