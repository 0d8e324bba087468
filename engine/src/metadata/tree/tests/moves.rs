//! Blocks that move under random trees: every mapping follows, what is shared stays shared, and nothing is counted twice.

use super::world::World;
use super::{Random, SMALL, TINY, step};
use crate::metadata::tree::{Fault, Forest, Moves, Root, TreeLimits};
use crate::units::DataBlock;
use std::collections::{HashMap, HashSet};

/// Some blocks in use, each with a free one.
fn random_moves(world: &World, random: &mut Random) -> HashMap<DataBlock, DataBlock> {
    let counts = &world.forest.data_counts;
    let of =
        |zero: bool| (0..counts.len()).filter(move |block| counts.is_zero(*block) == zero).map(DataBlock);
    let mut free: Vec<DataBlock> = of(true).collect();
    let some: Vec<DataBlock> = of(false).filter(|_| !random.one_in(3)).collect();
    let take = |block| {
        (!free.is_empty()).then(|| (block, free.swap_remove(random.below(free.len() as u64) as usize)))
    };
    some.into_iter().map_while(take).collect()
}

/// Does something in every tree, until no page is missing.
fn in_every_tree(
    world: &mut World,
    mut action: impl FnMut(&mut Forest, usize, &mut Root) -> Result<bool, Fault>,
) -> usize {
    let mut done = 0;
    for volume in 0..world.volumes.len() {
        loop {
            let mut root = world.volumes[volume].root;
            match action(&mut world.forest, volume, &mut root) {
                Ok(changed) => done += usize::from(changed),
                Err(Fault::Missing(pointer)) => {
                    world.load(&pointer);
                    continue;
                }
                Err(Fault::Failed(error)) => panic!("{error}"),
            }
            world.volumes[volume].root = root;
            break;
        }
    }
    done
}

fn distinct_roots(world: &World) -> usize {
    let roots = world.volumes.iter().flat_map(|volume| volume.root);
    roots.map(|(_, pointer)| pointer.page).collect::<HashSet<_>>().len()
}

/// Moves blocks in a world without changes since its checkpoint. Returns the pages that it took.
fn move_blocks(world: &mut World, moves: &HashMap<DataBlock, DataBlock>) -> usize {
    let (roots, before) = (distinct_roots(world), world.forest.data_counts.in_use());
    let mut following = Moves::new(moves.iter().map(|(from, to)| (*from, *to)));
    in_every_tree(world, |forest, _, root| forest.survey_moves(root, &mut following).map(|()| false));
    let numbers = following.page_numbers() as usize;
    let ids: Vec<_> = world.volumes.iter().map(|volume| volume.id).collect();
    in_every_tree(world, |forest, volume, root| forest.follow_moves(ids[volume], root, &mut following));
    for volume in &mut world.volumes {
        for mapping in volume.model.values_mut() {
            for block in mapping.blocks() {
                let masks = mapping.layers().filter(|layer| layer.block == block).map(|layer| layer.mask);
                let seen = following.mask(block);
                assert!(
                    !moves.contains_key(&block) || masks.into_iter().all(|mask| seen.union(mask) == seen)
                );
            }
            *mapping = mapping.with_blocks_moved(|block| moves.get(&block).copied().unwrap_or(block));
        }
    }
    world.forest.count_moves(following).unwrap();
    assert!(world.forest.dirty_pages() <= numbers, "{} of {numbers}", world.forest.dirty_pages());
    assert_eq!((distinct_roots(world), world.forest.data_counts.in_use()), (roots, before));
    world.prove();
    world.verify();
    world.forest.dirty_pages()
}

fn run(seed: u64, limits: TreeLimits) -> (usize, usize) {
    let mut random = Random(seed);
    let mut world = World::new(300, 6000, limits);
    let (mut next_volume, mut made, mut grown) = (0, 0, 0);
    for _ in 0..6 {
        (0..60).for_each(|_| step(&mut world, &mut random, &mut next_volume));
        world.checkpoint();
        if random.one_in(2) {
            world.reopen();
        }
        let levels = |world: &World| {
            world
                .volumes
                .iter()
                .flat_map(|volume| volume.root)
                .map(|(level, _)| u64::from(level))
                .sum::<u64>()
        };
        let (pages, before) = (world.forest.page_counts.in_use(), levels(&world));
        let moves = random_moves(&world, &mut random);
        made += move_blocks(&mut world, &moves);
        grown +=
            usize::from(levels(&world) > before) + usize::from(world.forest.page_counts.in_use() > pages);
        world.checkpoint();
        world.verify();
    }
    (made, grown)
}

#[test]
fn mappings_follow_and_stay_shared() {
    let (mut made, mut grown) = (0, 0);
    for seed in 0..80 {
        println!("seed {seed}");
        let (pages, more) = run(seed, if seed % 3 == 0 { SMALL } else { TINY });
        (made, grown) = (made + pages, grown + more);
    }
    assert!(made > 5000 && grown > 100, "{made} pages made, {grown} times more than before");
}
