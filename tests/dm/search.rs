//! Random damage to random pools: what lenient reading finds by searching is right, and what it does not find is told.
//!
//! Owns the rule. A mapping that is given is one of the pool, or one that intact pointers lead to: a stale block in its own place cannot
//! be told from a right one. The images hold an older state too, in blocks that are free and in place of blocks that were damaged.

use crate::image::Image;
use crate::pools::{Pool, header, random, run};
use crate::round_trips::write;
use std::collections::BTreeMap;
use vellum_dm_bridge::format::{Block, BtreeNode, NodeFlags};
use vellum_dm_bridge::{LostRange, Metadata, MetadataWriter, Packing, Run, Salvage};
use vellum_tests::rng::Rng;

const IMAGE_BYTES: usize = 2 << 20;

/// Data block and time by virtual block, by device.
type Mappings = BTreeMap<u32, BTreeMap<u64, (u64, u32)>>;

fn mappings(pool: &Pool) -> Mappings {
    let device = |runs: &Vec<Run>| {
        let blocks = |run: &Run| {
            let (begin, data, time) = (run.virtual_begin, run.data_begin, run.time);
            (0..run.length).map(move |at| (begin + at, (data + at, time)))
        };
        runs.iter().flat_map(blocks).collect()
    };
    pool.devices.iter().map(|(id, _, runs)| (*id, device(runs))).collect()
}

/// A pool with deep enough trees: devices with scattered mappings, snapshots that share nodes, small ones.
fn pool(rng: &mut Rng) -> Pool {
    if rng.one_in(4) {
        let small = |pool: &Pool| pool.mappings() < 20_000;
        return (rng.below(1000)..).map(random).find(small).expect("many are small");
    }
    let mut pool = Pool { header: header(12_000), devices: Vec::new() };
    let (mut id, mut next, mut before) = (0, 0, Vec::new());
    for _ in 0..rng.between(1, 4) {
        id += rng.between(1, 3) as u32;
        let mut runs: Vec<Run> = Vec::new();
        if rng.one_in(2) {
            // A snapshot, that has its own mappings behind some point.
            runs = before.clone();
            runs.truncate(rng.between(0, runs.len() as u64) as usize);
        }
        let mut at = runs.last().map_or(0, |run| run.virtual_begin + 1);
        for _ in 0..rng.below(900) {
            at += rng.between(1, 3);
            runs.push(run(at, next, 1, 0));
            (at, next) = (at + 1, next + 1);
        }
        pool.add(id, &runs);
        before = runs;
    }
    pool
}

/// The state before: another pool, or the same with other data blocks, and perhaps with more before it so that its nodes lie elsewhere.
fn older(now: &Pool, rng: &mut Rng) -> Pool {
    if rng.one_in(3) {
        return pool(rng);
    }
    let mut older = Pool { header: now.header.clone(), devices: Vec::new() };
    let last = now.header.nr_data_blocks - 1;
    let is_shifted = rng.one_in(2) && now.devices[0].0 > 0;
    if is_shifted {
        let scattered: Vec<_> =
            (0..rng.between(1, 2000)).map(|at| run(at * 2, at % (last + 1), 1, 0)).collect();
        older.add(0, &scattered);
    }
    let changes = rng.one_in(2);
    for (id, _, runs) in &now.devices {
        let moved = |(at, block, time)| {
            let block: u64 = if changes { last - block } else { block };
            run(at, block, 1, time)
        };
        let single = runs.iter().flat_map(|run| {
            let (begin, data, time) = (run.virtual_begin, run.data_begin, run.time);
            (0..run.length).map(move |at| (begin + at, data + at, time))
        });
        let runs: Vec<_> = single.map(moved).filter(|_| changes || !rng.one_in(200)).collect();
        older.add(*id, &runs);
    }
    older
}

/// An image of `now` where `older` was before, and one of `older`.
fn images(now: &Pool, older: &Pool) -> (Image, Vec<u8>, u64) {
    let (before, _) = write(older, IMAGE_BYTES, Packing::Full);
    let mut bytes = before.clone();
    let mut writer = MetadataWriter::new(&mut bytes, Packing::Full).expect("a size");
    now.give(&mut writer).expect("it fits");
    let used = writer.written().metadata_blocks_used;
    (Image { bytes }, before, used)
}

fn place(block: u64) -> std::ops::Range<usize> {
    block as usize * 4096..(block as usize + 1) * 4096
}

/// A block to be damaged: mostly one that much hangs on.
fn victim(image: &Image, used: u64, rng: &mut Rng) -> u64 {
    let superblock = image.superblock();
    let devices = u64::from(image.u32(superblock.mapping_root, 16));
    match rng.below(8) {
        0 => superblock.mapping_root,
        1 if rng.one_in(3) => superblock.details_root,
        2 if rng.one_in(3) => superblock.metadata_space_map.bitmap_root,
        3..6 if devices > 0 => image.device_root(rng.below(devices) as usize),
        _ => rng.between(1, used - 1),
    }
}

/// Damages one to five blocks. `stale` gets those alone that are replaced by what was there before.
fn damage(image: &mut Image, stale: &mut Image, before: &[u8], used: u64, rng: &mut Rng) {
    let victims: Vec<_> = (0..rng.between(1, 5)).map(|_| victim(image, used, rng)).collect();
    for block in victims {
        let kind = rng.below(4);
        eprintln!("DBG {kind} block {block}");
        match kind {
            0 => image.bytes[place(block)].fill(0),
            1 => image.bytes[place(block)][rng.below(4096) as usize] ^= 1 << rng.below(8),
            2 => {
                let other = rng.between(1, used - 1);
                let first = image.bytes[place(block)].to_vec();
                image.bytes.copy_within(place(other), place(block).start);
                image.bytes[place(other)].copy_from_slice(&first);
            }
            _ => {
                for image in [&mut *image, &mut *stale] {
                    image.bytes[place(block)].copy_from_slice(&before[place(block)]);
                }
            }
        }
    }
}

/// What pointers lead to, by a reader of our own that searches for nothing.
fn pointed_at(image: &Image) -> Mappings {
    let mut roots = Vec::new();
    below(image, image.superblock().mapping_root, 0, u64::MAX, &mut |key, value| roots.push((key, value)));
    let mut all = Mappings::new();
    for (id, root) in roots {
        let device = all.entry(id as u32).or_default();
        below(image, root, 0, u64::MAX, &mut |key, value| {
            device.insert(key, (value >> 24, (value & 0xff_ffff) as u32));
        });
    }
    all
}

fn below(image: &Image, block: u64, first: u64, last: u64, entry: &mut dyn FnMut(u64, u64)) {
    if block as usize >= image.bytes.len() / 4096 {
        return;
    }
    let bytes: Box<Block> = Box::new(*image.block(block));
    let Ok(node) = BtreeNode::decode(bytes, block, 8) else { return };
    let end = node.len();
    if end == 0 || node.key(0) < first || node.key(end - 1) > last {
        return;
    }
    for at in 0..end {
        if node.flags() == NodeFlags::Leaf {
            entry(node.key(at), node.value_u64(at));
        } else {
            let last = if at + 1 < end { node.key(at + 1) - 1 } else { last };
            below(image, node.value_u64(at), node.key(at), last, entry);
        }
    }
}

fn has(ranges: &[LostRange], key: u64) -> bool {
    ranges.iter().any(|range| (range.first..=range.last).contains(&key))
}

/// Fails unless everything given is right, and everything missing told. Returns what was not given.
fn compare(name: &str, original: &Mappings, stale: &Mappings, given: &Mappings, salvage: &Salvage) -> usize {
    let entry = |all: &Mappings, id: &u32, at: &u64| all.get(id).and_then(|device| device.get(at)).copied();
    for (id, device) in given {
        for (at, value) in device {
            let rights = [entry(original, id, at), entry(stale, id, at)];
            assert!(
                rights.contains(&Some(*value)),
                "{name}: device {id}, block {at}: {value:?}, not {rights:?}"
            );
        }
    }
    let mut missing = 0;
    for (id, device) in original {
        let lost = salvage.devices.iter().find(|(lost, _)| lost == id).map_or(&[][..], |(_, lost)| lost);
        let is_told = has(&salvage.device_numbers, (*id).into());
        for (at, value) in device {
            if entry(given, id, at).is_some() {
                continue;
            }
            missing += 1;
            // A stale block in its place says that there is nothing.
            let is_there = entry(stale, id, at) == Some(*value);
            assert!(!is_there || is_told || has(lost, *at), "{name}: device {id}, block {at} is not told");
        }
    }
    missing
}

#[test]
fn what_is_found_is_right() {
    let times: u64 = std::env::var("VELLUM_SEEDS").ok().and_then(|times| times.parse().ok()).unwrap_or(1);
    let (mut found, mut missing, mut of, mut with_found) = (0, 0, 0, 0);
    for seed in 0..600 * times {
        let mut rng = Rng::new(seed);
        let now = pool(&mut rng);
        let (whole, before, used) = images(&now, &older(&now, &mut rng));
        let original = mappings(&now);
        for turn in 0..8 {
            let (mut image, mut stale) =
                (Image { bytes: whole.bytes.clone() }, Image { bytes: whole.bytes.clone() });
            damage(&mut image, &mut stale, &before, used, &mut rng);
            let metadata = Metadata::open(&image.bytes).expect("the superblock is whole").lenient();
            let mut given = Pool::default();
            let salvage = metadata.copy_to(&mut given).expect("memory takes it");
            let name = format!("seed {seed}, turn {turn}");
            eprintln!(
                "DBG {name} roots {:?} found {:?} lost {:?} {:?}",
                (0..whole.u32(whole.superblock().mapping_root, 16))
                    .map(|i| whole.device_root(i as usize))
                    .collect::<Vec<_>>(),
                salvage.found,
                salvage.devices,
                salvage.device_numbers
            );
            eprintln!("DBG superblock {:?} used {used}", whole.superblock());
            let now_found: u64 = salvage.found.iter().map(|(_, found)| found).sum();
            missing += compare(&name, &original, &pointed_at(&stale), &mappings(&given), &salvage);
            of += now.mappings();
            found += now_found;
            with_found += u64::from(now_found > 0);
        }
    }
    println!("of {of} mappings {found} found, in {with_found} images, and {missing} missing");
    assert!(found * 20 > of, "it searches for too little: {found} of {of}");
}
