//! Trees against models: random operations with tiny pages, and what single operations may cost.

mod difference;
mod moves;
mod usage;
mod world;

use super::*;
use crate::format::Mapping;
use crate::units::{SectorMask, VirtualBlock, VolumeId};
use std::result::Result;
use world::{Volume, World};

const TINY: TreeLimits = TreeLimits { leaf_bytes: 64, inner_entries: 3 };
const SMALL: TreeLimits = TreeLimits { leaf_bytes: 200, inner_entries: 6 };

/// A small generator of numbers that a seed reproduces.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn one_in(&mut self, chances: u64) -> bool {
        self.below(chances) == 0
    }
}

fn mask(random: &mut Random) -> SectorMask {
    let first = random.below(16) as u32;
    match random.below(3) {
        0 => SectorMask::FULL,
        1 => SectorMask::range(first, 1 + random.below(u64::from(16 - first)) as u32),
        _ => SectorMask(random.below(0xffff) as u16 + 1),
    }
}

/// Blocks of a few windows, near each other, so that operations meet.
fn virtual_block(random: &mut Random) -> u64 {
    let windows = [0, 1, 2, 7, (1 << 34) - 1];
    let window = windows[random.below(5) as usize] * WINDOW_BLOCKS;
    let offset = if random.one_in(4) { WINDOW_BLOCKS - 20 } else { 0 };
    window + offset + random.below(20)
}

fn free_block(world: &World, random: &mut Random) -> Option<DataBlock> {
    let len = world.forest.data_counts.len();
    let start = random.below(len);
    let mut blocks = (start..len).chain(0..start);
    blocks.find(|block| world.forest.data_counts.is_zero(*block)).map(DataBlock)
}

fn publish(world: &mut World, volume: usize, at: u64, block: DataBlock, sectors: SectorMask) {
    let Ok(next) = Mapping::publish(world.volumes[volume].model.get(&at).copied(), block, sectors) else {
        return;
    };
    let room = world.forest.pages.free_pages();
    let needed = world.forest.pages_needed(&world.volumes[volume].root) as u64;
    let done =
        world.run(volume, |forest, id, root| forest.publish(id, root, VirtualBlock(at), block, sectors));
    assert!(done.is_some() || room < needed, "refused with {room} pages free of {needed} needed");
    assert!(world.forest.pages.free_pages() + needed >= room);
    if done.is_some() {
        world.volumes[volume].model.insert(at, next);
    }
}

fn random_publish(world: &mut World, random: &mut Random, volume: usize) {
    let at = virtual_block(random);
    let current = world.volumes[volume].model.get(&at).copied();
    let own = current.map(|mapping| mapping.lower.unwrap_or(mapping.upper).block);
    let block = match random.below(10) {
        0..4 => own.or_else(|| free_block(world, random)),
        4 => Some(DataBlock(random.below(world.forest.data_counts.len()))),
        _ => free_block(world, random),
    };
    let Some(block) = block else { return };
    publish(world, volume, at, block, mask(random));
    if random.one_in(4) {
        let run = 1 + random.below(12);
        for ahead in 1..run {
            let block = DataBlock(block.0 + ahead);
            let in_range = block.0 < world.forest.data_counts.len() && at + ahead <= LAST_KEY;
            if in_range && world.forest.data_counts.is_zero(block.0) {
                publish(world, volume, at + ahead, block, SectorMask::FULL);
            }
        }
    }
}

fn clear(world: &mut World, random: &mut Random, volume: usize) {
    let (at, sectors) = (virtual_block(random), mask(random));
    let done = world.run(volume, |forest, id, root| forest.clear(id, root, VirtualBlock(at), sectors));
    let model = &mut world.volumes[volume].model;
    if let (Some(()), Some(current)) = (done, model.get(&at).copied()) {
        match current.clear(sectors) {
            Some(next) => model.insert(at, next),
            None => model.remove(&at),
        };
    }
}

fn unmap(world: &mut World, random: &mut Random, volume: usize, first: u64, last: u64) -> Option<u64> {
    let (first, last) = (VirtualBlock(first), VirtualBlock(last));
    let budget = random.below(30);
    let reach = world.run(volume, |forest, _, root| forest.plan_unmap(root, first, last, budget))?;
    assert!(first <= reach && reach <= last);
    let faults = world.faults;
    let removed = world.run(volume, |forest, id, root| forest.unmap(id, root, first, reach))?;
    assert_eq!(world.faults, faults, "the plan counted on a page that is not in memory");
    let model = &mut world.volumes[volume].model;
    let gone: Vec<u64> = model.range(first.0..=reach.0).map(|(at, _)| *at).collect();
    model.retain(|at, _| !(first.0..=reach.0).contains(at));
    assert_eq!(removed, gone.len() as u64);
    Some(reach.0)
}

fn delete(world: &mut World, random: &mut Random, volume: usize) {
    let mut first = 0;
    while world.volumes[volume].root.is_some() {
        match unmap(world, random, volume, first, LAST_KEY) {
            Some(reach) => first = reach.saturating_add(1).min(LAST_KEY),
            None => return,
        }
    }
    assert!(world.volumes[volume].model.is_empty());
    world.volumes.remove(volume);
}

fn evict(world: &mut World, random: &mut Random) {
    if random.one_in(2) {
        let newest = Generation(world.forest.building.0);
        world.forest.shrink_cache(random.below(20) as usize * 250, newest);
    } else {
        let mut pages: Vec<PageNumber> = world.forest.cache.iter().map(|(page, _)| page).collect();
        pages.sort_unstable();
        pages.retain(|_| random.one_in(2));
        pages.into_iter().filter(|page| world.forest.evict(*page)).for_each(drop);
    }
}

fn step(world: &mut World, random: &mut Random, next_volume: &mut u64) {
    if world.volumes.is_empty() {
        *next_volume += 1;
        world.volumes.push(Volume { id: VolumeId(*next_volume), root: None, model: world::Model::new() });
    }
    let volume = random.below(world.volumes.len() as u64) as usize;
    match random.below(100) {
        0..60 => random_publish(world, random, volume),
        60..72 => clear(world, random, volume),
        72..80 => {
            let (one, other) = (virtual_block(random), virtual_block(random));
            unmap(world, random, volume, one.min(other), one.max(other));
        }
        80..86 if world.volumes.len() < 6 => {
            *next_volume += 1;
            world.snapshot(volume, *next_volume);
        }
        86..89 if world.volumes.len() > 1 => delete(world, random, volume),
        89..93 => world.checkpoint(),
        93..97 => evict(world, random),
        97 => world.prove(),
        98 => world.seal_in_vain(),
        99 if random.one_in(4) => world.reopen(),
        _ => {}
    }
}

fn run_seed(seed: u64, limits: TreeLimits, data_blocks: u64, metadata_pages: u64, steps: usize) -> World {
    let mut random = Random(seed);
    let mut world = World::new(data_blocks, metadata_pages, limits);
    let mut next_volume = 0;
    for at in 0..steps {
        step(&mut world, &mut random, &mut next_volume);
        if at % 8 == 0 || at + 1 == steps {
            world.verify();
        }
    }
    while !world.volumes.is_empty() {
        let before = world.volumes.len();
        delete(&mut world, &mut random, 0);
        if world.volumes.len() == before {
            world.forest.grow_pages(world.forest.pages.len() + 16);
        }
    }
    world.verify();
    assert_eq!((world.forest.data_counts.in_use(), world.forest.page_counts.in_use()), (0, 0));
    world
}

/// Runs the seeds, and returns how many pages were missing and how many operations refused.
fn run_seeds(seeds: std::ops::Range<u64>, metadata_pages: impl Fn(u64) -> u64) -> (usize, usize) {
    let worlds = seeds.map(|seed| {
        println!("seed {seed}");
        let limits = if seed % 3 == 0 { SMALL } else { TINY };
        let world = run_seed(seed, limits, 300, metadata_pages(seed), 400);
        (world.faults, world.refusals)
    });
    worlds.fold((0, 0), |sum, world| (sum.0 + world.0, sum.1 + world.1))
}

#[test]
fn random_operations_agree_with_models() {
    let (faults, refusals) = run_seeds(0..60, |_| 4000);
    assert!(faults > 1000 && refusals == 0, "{faults} faults, {refusals} refusals");
}

#[test]
fn a_full_metadata_file_leaves_nothing_half_done() {
    let (faults, refusals) = run_seeds(1000..1150, |seed| 20 + seed % 130);
    assert!(faults > 1000 && refusals > 1000, "{faults} faults, {refusals} refusals");
}

/// A volume of `blocks` single mappings, every second virtual block, and a checkpoint of it.
fn scattered(blocks: u64, limits: TreeLimits) -> World {
    let mut world = World::new(600, 600, limits);
    world.volumes.push(Volume { id: VolumeId(1), root: None, model: world::Model::new() });
    (0..blocks).for_each(|block| publish(&mut world, 0, 2 * block, DataBlock(block), SectorMask::FULL));
    world.checkpoint();
    world
}

fn all_evicted(world: &mut World) {
    world.forest.shrink_cache(0, Generation(u64::MAX));
    assert!(world.forest.cache.is_empty());
}

fn levels(world: &World) -> usize {
    world.volumes[0].root.map_or(0, |(level, _)| usize::from(level) + 1)
}

#[test]
fn a_snapshot_costs_one_count_and_its_first_write_one_path() {
    let mut world = scattered(100, TINY);
    let counts = world.state();
    world.snapshot(0, 2);
    assert_eq!(world.forest.dirty_pages(), 0);
    let root = world.volumes[0].root.unwrap().1.page;
    assert_eq!(world.forest.page_counts.get(root.0), 2);
    all_evicted(&mut world);
    publish(&mut world, 0, 20, DataBlock(10), SectorMask(1));
    assert_eq!(world.forest.dirty_pages(), 0, "what is published already changes nothing");
    // A second layer would lengthen the leaf, which is full for it was filled in order.
    publish(&mut world, 0, 20, DataBlock(500), SectorMask::FULL);
    assert_eq!(world.forest.dirty_pages(), 2 * levels(&world) - 1);
    assert_eq!(world.forest.cache.len(), 2 * levels(&world));
    assert_ne!(world.state(), counts);
    world.verify();
}

/// Mappings that cannot be runs, filled in order: every leaf but the last is full.
#[test]
fn a_tree_filled_in_order_has_full_leaves() {
    let world = scattered(120, SMALL);
    let leaves = world.forest.cache.iter().filter(|(_, page)| page.node.level() == 0).count();
    assert_eq!(leaves, 120 / (SMALL.leaf_bytes / 10));
}

#[test]
fn what_others_share_is_unmapped_without_being_read() {
    let mut world = scattered(100, TINY);
    world.snapshot(0, 2);
    all_evicted(&mut world);
    let faults = world.faults;
    let reach =
        world.run(1, |forest, _, root| forest.plan_unmap(root, VirtualBlock(0), VirtualBlock(LAST_KEY), 1));
    assert_eq!(reach, Some(VirtualBlock(LAST_KEY)));
    let removed =
        world.run(1, |forest, id, root| forest.unmap(id, root, VirtualBlock(0), VirtualBlock(LAST_KEY)));
    assert_eq!((removed, world.faults, world.forest.dirty_pages()), (Some(100), faults, 0));
    world.volumes.remove(1);
    world.verify();
}

/// The pages below a shared page have a count of 1, and still are not the volume's alone.
#[test]
fn a_subtree_below_a_shared_page_is_dropped_without_being_read() {
    let mut world = scattered(100, TINY);
    world.snapshot(0, 2);
    all_evicted(&mut world);
    let (first, last, levels) = (VirtualBlock(1), VirtualBlock(199), levels(&world));
    let removed = world.run(0, |forest, id, root| forest.unmap(id, root, first, last));
    assert_eq!(removed, Some(99));
    world.volumes[0].model.retain(|at, _| *at == 0);
    assert!(world.faults < 2 * levels, "{} pages were read for two paths", world.faults);
    world.verify();
}

/// A deleted snapshot made the root exclusive, unproven; then the root went, and its only child took its place.
#[test]
fn a_new_root_is_no_more_proven_than_the_old_one() {
    let mut world = scattered(10, TINY);
    world.snapshot(0, 2);
    world.prove();
    let (first, last) = (VirtualBlock(0), VirtualBlock(LAST_KEY));
    world.run(1, |forest, id, root| forest.unmap(id, root, first, last));
    world.volumes.remove(1);
    let leaf =
        world.forest.lookup(&world.volumes[0].root, VirtualBlock(18)).unwrap().path.pages().last().unwrap();
    assert!(levels(&world) > 1 && !world.pending_pages.contains(&leaf));
    world.run(0, |forest, id, root| forest.unmap(id, root, first, VirtualBlock(11)));
    world.volumes[0].model.retain(|at, _| *at > 11);
    world.verify();
    assert!(levels(&world) == 1 && world.pending_pages.contains(&leaf));
}

#[test]
fn a_plan_stops_at_the_budget_and_at_missing_pages() {
    let mut world = scattered(100, TINY);
    let root = world.volumes[0].root;
    let plan = |world: &World, budget| {
        world.forest.plan_unmap(&root, VirtualBlock(0), VirtualBlock(LAST_KEY), budget)
    };
    assert_eq!(plan(&world, 1000), Ok(VirtualBlock(LAST_KEY)));
    let reach = plan(&world, 20).unwrap().0;
    assert!((20..=42).contains(&reach), "20 mappings reach to {reach}");
    let path: Vec<PageNumber> = world.forest.lookup(&root, VirtualBlock(100)).unwrap().path.pages().collect();
    assert!(world.forest.evict(path[path.len() - 1]));
    let reach = plan(&world, 1000).unwrap().0;
    assert!((80..100).contains(&reach), "a missing leaf at 100 stops at {reach}");
    all_evicted(&mut world);
    assert_eq!(plan(&world, 1000), Err(Fault::Missing(root.unwrap().1)));
}

#[test]
fn a_long_run_is_one_leaf_of_one_entry() {
    let mut world = World::new(40_000, 100, TreeLimits::default());
    let (id, mut root) = (VolumeId(1), None);
    for block in 0..40_000 {
        let (at, block) = (VirtualBlock(block), DataBlock(block));
        world.forest.publish(id, &mut root, at, block, SectorMask::FULL).unwrap();
    }
    let (level, pointer) = root.unwrap();
    assert_eq!((level, pointer.mapped, world.forest.cache.len()), (1, 40_000, 4));
    let (first, last) = (VirtualBlock(100), VirtualBlock(39_899));
    assert_eq!(world.forest.unmap(id, &mut root, first, last), Ok(39_800));
    assert_eq!(world.forest.data_counts.in_use(), 200);
}

#[test]
fn a_block_freed_twice_is_damage_and_stays_so() {
    let mut world = scattered(1, TINY);
    let (id, mut root) = (VolumeId(1), world.volumes[0].root);
    world.forest.data_counts.decrement(0).unwrap();
    let fault = world.forest.unmap(id, &mut root, VirtualBlock(0), VirtualBlock(9)).unwrap_err();
    let damage = world.forest.damage().cloned().unwrap();
    assert_eq!(fault, Fault::Failed(damage));
    let again = world.forest.publish(id, &mut root, VirtualBlock(0), DataBlock(1), SectorMask::FULL);
    assert_eq!(again, Err(fault));
}

/// Pages that are whole by their checksum, and nonsense: a program with an error wrote them, or somebody who means
/// harm. Nothing may panic, and what contradicts the counts is said.
#[test]
fn nonsense_under_a_valid_checksum_is_refused_or_harmless() {
    let mut refused = 0;
    for seed in 0..1000 {
        let mut random = Random(seed);
        let mut world = scattered(1 + seed % 40, TINY);
        all_evicted(&mut world);
        let (id, mut root) = (VolumeId(1), world.volumes[0].root);
        world.forge_root_page(&mut root, |body| {
            for _ in 0..=random.below(3) {
                let at = random.below(body.len() as u64) as usize;
                body[at] = random.next() as u8;
            }
        });
        let mut attempt = |world: &mut World, operation: &mut dyn FnMut(&mut Forest) -> Result<(), Fault>| {
            for _ in 0..100 {
                match operation(&mut world.forest) {
                    Ok(()) => return,
                    Err(Fault::Failed(_)) => return refused += 1,
                    Err(Fault::Missing(pointer)) => {
                        let bytes = world.disk.get(&pointer.page).cloned().unwrap_or_default();
                        if world.forest.insert_loaded(&pointer, &bytes).is_err() {
                            return refused += 1;
                        }
                    }
                }
            }
            panic!("seed {seed}: a page is missing for ever");
        };
        let (at, block) = (VirtualBlock(random.below(100)), DataBlock(500));
        attempt(&mut world, &mut |forest| forest.lookup(&root, at).map(|_| ()));
        attempt(&mut world, &mut |forest| {
            forest.mappings(&root, VirtualBlock(0), at, |_, _| std::ops::ControlFlow::Continue(()))
        });
        attempt(&mut world, &mut |forest| forest.publish(id, &mut root, at, block, SectorMask(3)));
        attempt(&mut world, &mut |forest| forest.clear(id, &mut root, at, SectorMask(1)));
        attempt(&mut world, &mut |forest| {
            forest.unmap(id, &mut root, at, VirtualBlock(at.0 + 30)).map(|_| ())
        });
        attempt(&mut world, &mut |forest| {
            forest.unmap(id, &mut root, VirtualBlock(0), VirtualBlock(LAST_KEY)).map(|_| ())
        });
    }
    assert!(refused > 1000, "only {refused} refusals");
}
