//! What some trees have alone, against models and against dropping them; and that it changes only when it is said to.

use super::*;
use crate::metadata::tree::Holdings;
use std::collections::{BTreeMap, HashSet};

/// Exclusive blocks, shared ones, and pages.
type Found = (u64, u64, u64);

/// Walks to the end, a small budget at a time, and loads what is missing.
fn walk(world: &mut World, random: &mut Random, set: &[usize]) -> Found {
    let roots: Vec<Root> = set.iter().map(|volume| world.volumes[*volume].root).collect();
    let mut holdings: Holdings = world.forest.holdings(&roots).unwrap();
    while !holdings.is_complete() {
        let mut budget = 1 + random.below(40);
        match world.forest.look_for_holdings(&mut holdings, &mut budget) {
            Ok(()) => {}
            Err(Fault::Missing(pointer)) => world.load(&pointer),
            Err(fault) => panic!("{fault:?}"),
        }
    }
    (holdings.exclusive_blocks, holdings.shared_blocks, holdings.pages)
}

/// Blocks that only the models of the set name.
fn truth(world: &World, set: &[usize]) -> u64 {
    let of = |in_set: bool| {
        let volumes = world.volumes.iter().enumerate().filter(move |(at, _)| set.contains(at) == in_set);
        volumes.flat_map(|(_, volume)| volume.model.values()).flat_map(|mapping| mapping.blocks())
    };
    let outside: HashSet<DataBlock> = of(false).collect();
    of(true).filter(|block| !outside.contains(block)).collect::<HashSet<_>>().len() as u64
}

fn some_of(world: &World, random: &mut Random) -> Vec<usize> {
    (0..world.volumes.len()).filter(|_| random.one_in(2)).collect()
}

/// A block is named at one virtual block only, as in a pool.
fn change(world: &mut World, random: &mut Random) -> usize {
    let volume = random.below(world.volumes.len() as u64) as usize;
    match random.below(12) {
        0 => clear(world, random, volume),
        1 => {
            let (one, other) = (virtual_block(random), virtual_block(random));
            unmap(world, random, volume, one.min(other), one.max(other));
        }
        _ => {
            let at = virtual_block(random);
            let own = world.volumes[volume].model.get(&at).map(|mapping| mapping.upper.block);
            let block = own.filter(|_| random.one_in(3)).or_else(|| free_block(world, random));
            block.into_iter().for_each(|block| publish(world, volume, at, block, mask(random)));
        }
    }
    volume
}

/// Drops the volumes of a set, and compares what that frees.
fn drop_set(world: &mut World, random: &mut Random, set: &[usize]) {
    let (exclusive, _, pages) = walk(world, random, set);
    let in_use = |world: &World| (world.forest.data_counts.in_use(), world.forest.page_counts.in_use());
    let before = in_use(world);
    for volume in set.iter().rev() {
        // In one step: a page that is cut in the middle would be copied first.
        world
            .run(*volume, |forest, id, root| forest.unmap(id, root, VirtualBlock(0), VirtualBlock(LAST_KEY)));
        world.volumes.remove(*volume);
    }
    let after = in_use(world);
    assert_eq!((exclusive, pages), (before.0 - after.0, before.1 - after.1));
}

#[test]
fn what_some_trees_have_alone_is_what_dropping_them_frees() {
    let (mut kept, mut drops) = (0, 0);
    for seed in 0..40 {
        let mut random = Random(seed);
        let mut world = World::new(600, 6000, if seed % 3 == 0 { SMALL } else { TINY });
        world.volumes.push(Volume { id: VolumeId(1), root: None, model: world::Model::new() });
        let mut answers: BTreeMap<Vec<usize>, (u64, Found)> = BTreeMap::new();
        for number in 2..250 {
            let changed = change(&mut world, &mut random);
            answers.retain(|set, _| !set.contains(&changed));
            // What nothing has changed that is said to matter is what it was.
            let sharing = world.forest.sharing_changes();
            answers.retain(|_, (since, _)| *since == sharing);
            for (set, (_, found)) in &answers {
                assert_eq!(walk(&mut world, &mut random, set), *found, "seed {seed}: {set:?}");
                kept += 1;
            }
            match random.below(16) {
                0 if world.volumes.len() < 6 => {
                    let source = random.below(world.volumes.len() as u64) as usize;
                    world.snapshot(source, number);
                }
                1 if world.volumes.len() > 2 => {
                    let mut set = some_of(&world, &mut random);
                    set.retain(|volume| *volume > 0);
                    drop_set(&mut world, &mut random, &set);
                    answers.clear();
                    drops += usize::from(set.len() > 1);
                }
                2 => world.checkpoint(),
                3 => evict(&mut world, &mut random),
                _ => {}
            }
            let set = some_of(&world, &mut random);
            let found = walk(&mut world, &mut random, &set);
            assert_eq!(found.0, truth(&world, &set), "seed {seed}: {set:?}");
            if let [volume] = set[..] {
                let model = &world.volumes[volume].model;
                let two_layers = model.values().filter(|mapping| mapping.lower.is_some()).count() as u64;
                let named = model.len() as u64;
                assert!((named..=named + two_layers).contains(&(found.0 + found.1)), "seed {seed}");
            }
            answers.insert(set, (world.forest.sharing_changes(), found));
        }
        world.verify();
    }
    assert!(kept > 1000 && drops > 50, "{kept} answers held, {drops} sets dropped");
}
