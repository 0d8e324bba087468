//! Random damage to random pools: what lenient reading finds by searching is right, and what it does not find is told.
//!
//! Owns the rule. A mapping that is given is one of the pool, or one that intact pointers lead to, or stands in a node of this device: a
//! stale block in its own place cannot be told from a right one if all counts agree. The images hold an older state too, in blocks that are free and in place of blocks that were damaged.

use crate::fixtures::linux;
use crate::image::Image;
use crate::pools::{Pool, header, random, run};
use crate::round_trips::write;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
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
        0 if rng.one_in(2) => superblock.mapping_root,
        1 if rng.one_in(5) => superblock.details_root,
        2 if rng.one_in(5) => superblock.metadata_space_map.bitmap_root,
        3..6 if devices > 0 => image.device_root(rng.below(devices) as usize),
        _ => rng.between(1, used - 1),
    }
}

/// Damages one to five blocks. `stale` gets those alone that are replaced by what was there before.
fn damage(image: &mut Image, stale: &mut Image, before: &[u8], used: u64, rng: &mut Rng) {
    let most = rng.between(1, 5);
    let victims: Vec<_> = (0..rng.between(1, most)).map(|_| victim(image, used, rng)).collect();
    for block in victims {
        match rng.below(4) {
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
    let devices = image.superblock().mapping_root;
    below(image, devices, 0, u64::MAX, &mut |_, key, value| roots.push((key, value)));
    let mut all = Mappings::new();
    for (id, root) in roots {
        let device = all.entry(id as u32).or_default();
        below(image, root, 0, u64::MAX, &mut |_, key, value| {
            device.insert(key, (value >> 24, (value & 0xff_ffff) as u32));
        });
    }
    all
}

/// What stands in the leaves of each device that are stale, if leaves of the device that are lost in `image` have these data blocks; and
/// the keys that stale leaves speak for.
fn in_stale_leaves(
    [whole, stale, image]: [&Image; 3],
) -> (Mappings, BTreeMap<u32, Vec<RangeInclusive<u64>>>) {
    let (mut all, mut spans) = (Mappings::new(), BTreeMap::new());
    for at in 0..whole.u32(whole.superblock().mapping_root, 16) as usize {
        let (id, root) = (whole.u64(whole.superblock().mapping_root, 32 + 8 * at), whole.device_root(at));
        let mut leaves = BTreeSet::new();
        below(whole, root, 0, u64::MAX, &mut |leaf, _, _| {
            leaves.insert(leaf);
        });
        let mut blocks = BTreeSet::new();
        for leaf in leaves.iter().filter(|leaf| whole.block(**leaf) != image.block(**leaf)) {
            below(whole, *leaf, 0, u64::MAX, &mut |_, _, value| {
                blocks.insert(value >> 24);
            });
        }
        for leaf in leaves.into_iter().filter(|leaf| whole.block(*leaf) != stale.block(*leaf)) {
            let mut entries = BTreeMap::new();
            below(stale, leaf, 0, u64::MAX, &mut |at, key, value| {
                if at == leaf && blocks.contains(&(value >> 24)) {
                    entries.insert(key, (value >> 24, (value & 0xff_ffff) as u32));
                }
            });
            if let (Some((first, _)), Some((last, _))) = (entries.first_key_value(), entries.last_key_value())
            {
                spans.entry(id as u32).or_insert_with(Vec::new).push(*first..=*last);
            }
            all.entry(id as u32).or_default().append(&mut entries);
        }
    }
    (all, spans)
}

fn below(image: &Image, block: u64, first: u64, last: u64, entry: &mut dyn FnMut(u64, u64, u64)) {
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
            entry(block, node.key(at), node.value_u64(at));
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
fn compare(
    name: &str,
    original: &Mappings,
    images: [&Image; 3],
    given: &Mappings,
    salvage: &Salvage,
) -> usize {
    let (pointed_at, (own, spans)) = (pointed_at(images[1]), in_stale_leaves(images));
    let entry = |all: &Mappings, id: &u32, at: &u64| all.get(id).and_then(|device| device.get(at)).copied();
    for (id, device) in given {
        for (at, value) in device {
            let rights = [original, &pointed_at, &own].map(|all| entry(all, id, at));
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
            let is_spoken_for = spans.get(id).is_some_and(|spans| spans.iter().any(|span| span.contains(at)));
            let is_there = entry(&pointed_at, id, at) == Some(*value) && !is_spoken_for;
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
            let now_found: u64 = salvage.found.iter().map(|(_, found)| found).sum();
            missing += compare(&name, &original, [&whole, &stale, &image], &mappings(&given), &salvage);
            of += now.mappings();
            found += now_found;
            with_found += u64::from(now_found > 0);
        }
    }
    println!("of {of} mappings {found} found, in {with_found} images, and {missing} missing");
    assert!(found * 20 > of, "it searches for too little: {found} of {of}");
}

fn read(image: &Image) -> (Mappings, Salvage) {
    let mut pool = Pool::default();
    let metadata = Metadata::open(&image.bytes).expect("the superblock is whole").lenient();
    let salvage = metadata.copy_to(&mut pool).expect("memory takes it");
    (mappings(&pool), salvage)
}

fn zero(image: &mut Image, block: u64) {
    image.bytes[place(block)].fill(0);
}

/// Counts, bitmaps and sums as Linux has them are believed, a metadata snapshot included.
#[test]
fn devices_of_the_kernel_are_found_by_what_they_count() {
    let mut image = Image { bytes: linux() };
    let (whole, _) = read(&image);
    let devices = image.superblock().mapping_root;
    zero(&mut image, devices);
    let (given, salvage) = read(&image);
    // One device has 9 mappings, two have 8, and nobody knows which is which.
    assert_eq!((given[&0].len(), &given[&0]), (9, &whole[&0]));
    assert_eq!((given[&1].len(), given[&2].len(), salvage.found), (0, 0, vec![(0, 9)]));
}

/// Two devices, and a metadata snapshot of the first; the pool has only the second. So the first is what the other was before.
fn with_snapshot() -> (Image, [u64; 3]) {
    let mut pool = Pool { header: header(4000), devices: Vec::new() };
    let scattered = |from| (0..600).map(|at| run(at * 2, from + at, 1, 0)).collect::<Vec<_>>();
    pool.add(1, &scattered(0));
    pool.add(2, &scattered(1000));
    let (bytes, written) = write(&pool, 1 << 20, Packing::Full);
    let mut image = Image { bytes };
    let superblock = image.superblock();
    let roots = [image.device_root(0), image.device_root(1)];
    let held = written.metadata_blocks_used;
    // What is the snapshot's: a superblock, a tree of devices, details.
    for (at, from) in [superblock.mapping_root, superblock.details_root].into_iter().enumerate() {
        let block = held + 1 + at as u64;
        image.bytes.copy_within(place(from), place(block).start);
        image.put_u64(block, 8, block);
        image.put_u32(block, 16, 1);
        let value_bytes = image.u32(from, 24) as usize;
        image.change(from, |node| {
            let values = 32 + 8 * u32::from_le_bytes(*node[20..].first_chunk().expect("inside")) as usize;
            node.copy_within(40..48, 32);
            node.copy_within(values + value_bytes..values + 2 * value_bytes, values);
        });
        image.put_u32(from, 16, 1);
    }
    image.bytes.copy_within(place(0), place(held).start);
    for (offset, value) in [(8, held), (320, held + 1), (328, held + 2)] {
        image.put_u64(held, offset, value);
    }
    image.put_u64(0, 56, held);
    (held..held + 3).for_each(|block| image.set_metadata_bits(block, 2));
    image.put_u64(0, 200, image.u64(0, 200) + 3);
    let index = superblock.metadata_space_map.bitmap_root;
    image.put_u32(index, 24, image.u32(index, 24) - 3);
    // The search does not look at where the first free block is; the check does.
    image.put_u32(index, 28, image.u32(index, 28) + 3);
    (image, [roots[0], roots[1], held])
}

#[test]
fn a_metadata_snapshot_keeps_what_is_its_own() {
    let (image, [old, new, held]) = with_snapshot();
    let report = vellum_dm_bridge::check(&image.bytes).expect("memory can be read");
    assert!(report.is_clean(), "{report:#?}");
    let (whole, _) = read(&image);
    let broken = |blocks: &[u64]| {
        let mut image = Image { bytes: image.bytes.clone() };
        blocks.iter().for_each(|block| zero(&mut image, *block));
        read(&image)
    };
    // The snapshot's own nodes are known, so the others are the device's.
    let (given, salvage) = broken(&[new]);
    assert_eq!((given, salvage.found), (whole, vec![(2, 600)]));
    // Here they may be either's, and here it is not known what the snapshot has.
    for blocks in [[new, old], [new, held]] {
        let (given, salvage) = broken(&blocks);
        assert_eq!((given[&2].len(), salvage.found), (0, vec![]));
    }
}

/// Two devices with the same virtual blocks and different data, in three leaves each.
fn twins() -> Image {
    let mut pool = Pool { header: header(4000), devices: Vec::new() };
    for (id, from) in [(1, 0), (2, 1000)] {
        let scattered: Vec<_> = (0..600).map(|at| run(at * 2, from + at, 1, 0)).collect();
        pool.add(id, &scattered);
    }
    Image { bytes: write(&pool, 1 << 20, Packing::Full).0 }
}

#[test]
fn a_leaf_that_another_device_hides_is_not_taken() {
    let mut image = twins();
    let (whole, _) = read(&image);
    let roots = [image.device_root(0), image.device_root(1)];
    let leaf = image.child(roots[0], 1);
    // An older root of the second device would not lead to its second leaf, and say nothing about it.
    image.change(roots[1], |node| {
        node.copy_within(48..56, 40);
        node.copy_within(2048 + 16..2048 + 24, 2048 + 8);
    });
    image.put_u32(roots[1], 16, 2);
    zero(&mut image, roots[0]);
    // Now the second leaf of the second device has just the keys, and the number of them, that the first device lacks.
    zero(&mut image, leaf);
    let (given, salvage) = read(&image);
    let wrong = given[&1].iter().find(|(at, value)| whole[&1][at] != **value);
    assert_eq!((wrong, salvage.found), (None, vec![]));
}

#[test]
fn what_could_be_either_devices_stays_lost() {
    let mut image = twins();
    let roots = [image.device_root(0), image.device_root(1)];
    roots.iter().for_each(|root| zero(&mut image, *root));
    let (given, salvage) = read(&image);
    assert_eq!((given[&1].len(), given[&2].len(), salvage.found.len()), (0, 0, 0));
    assert_eq!(salvage.devices.len(), 2);
}

/// One device whose root stands above three inner nodes; the mappings are two blocks apart.
#[test]
fn deep_trees_are_put_together() {
    const MAPPINGS: u64 = 130_000;
    let mut pool = Pool { header: header(MAPPINGS), devices: Vec::new() };
    let scattered: Vec<_> = (0..MAPPINGS).map(|at| run(at * 2, at, 1, 0)).collect();
    pool.add(7, &scattered);
    let image = Image { bytes: write(&pool, 4 << 20, Packing::Full).0 };
    let (whole, _) = read(&image);
    let root = image.device_root(0);
    let [inner, next] = [0, 1].map(|at| image.child(root, at));
    let leaf = image.child(inner, 3);
    let leaves = (0..image.u32(inner, 16) as usize).map(|at| image.child(inner, at));
    let in_inner: u64 = leaves.map(|leaf| u64::from(image.u32(leaf, 16))).sum();
    let in_leaf = u64::from(image.u32(leaf, 16));
    for (lost, found, missing) in [
        (vec![root], MAPPINGS, 0),
        (vec![inner], in_inner, 0),
        (vec![root, inner], MAPPINGS, 0),
        (vec![root, inner, next], MAPPINGS, 0),
        (vec![inner, leaf], in_inner - in_leaf, in_leaf),
        (vec![root, leaf], MAPPINGS - in_leaf, in_leaf),
        (vec![root, inner, leaf], MAPPINGS - in_leaf, in_leaf),
    ] {
        let mut broken = Image { bytes: image.bytes.clone() };
        lost.iter().for_each(|block| zero(&mut broken, *block));
        let (given, salvage) = read(&broken);
        let name = format!("{lost:?}");
        assert_eq!(salvage.found, [(7, found)], "{name}");
        assert_eq!(
            compare(&name, &whole, [&image, &image, &broken], &given, &salvage),
            missing as usize,
            "{name}"
        );
    }
}

/// Nodes that nothing leads to, each above the one before, deeper than any tree is.
#[test]
fn a_long_chain_of_nodes_ends() {
    let mut pool = Pool { header: header(4000), devices: Vec::new() };
    let scattered: Vec<_> = (0..600).map(|at| run(at * 2, at, 1, 0)).collect();
    pool.add(1, &scattered);
    let (bytes, written) = write(&pool, 16 << 20, Packing::Full);
    let mut image = Image { bytes };
    let (first, end) = (written.metadata_blocks_used, 4000);
    let root = image.device_root(0);
    for block in first..end {
        let below = if block == first { image.child(root, 0) } else { block - 1 };
        let mut node = BtreeNode::build(NodeFlags::Internal, &[0], &below.to_le_bytes(), 8);
        BtreeNode::seal(&mut node, block);
        image.bytes[place(block)].copy_from_slice(&node[..]);
        image.set_metadata_bits(block, 2);
    }
    let index = image.superblock().metadata_space_map.bitmap_root;
    image.put_u64(0, 200, image.u64(0, 200) + end - first);
    image.put_u32(index, 24, image.u32(index, 24) - (end - first) as u32);
    zero(&mut image, root);
    let (given, salvage) = read(&image);
    // The chain and the leaf contradict each other, for the leaf has one owner.
    assert_eq!(salvage.devices.len(), 1);
    let found: u64 = salvage.found.iter().map(|(_, found)| found).sum();
    assert_eq!(given[&1].len() as u64, found);
}
