//! Differences against a comparison of models, sector by sector: random trees that share, and what changed since.

use super::world::Model;
use super::*;
use std::collections::BTreeMap;

/// What a walk reports, by virtual block: changed and absent.
type Reported = BTreeMap<u64, (SectorMask, SectorMask)>;

/// Runs of full absence are kept as ranges: what is not mapped between two windows is long.
#[derive(Default, Debug)]
struct Report {
    blocks: Reported,
    absent: Vec<(u64, u64)>,
    end: u64,
}

impl Report {
    fn add(&mut self, differing: Differing) {
        let Differing { first, blocks, changed, absent } = differing;
        assert!(first.0 >= self.end && blocks > 0 && !changed.overlaps(absent), "{differing:?}");
        self.end = first.0 + blocks;
        if changed.is_empty() && absent.is_full() {
            return self.absent.push((first.0, self.end));
        }
        for at in first.0..self.end {
            self.blocks.insert(at, (changed, absent));
        }
    }

    fn at(&self, block: u64) -> (SectorMask, SectorMask) {
        let is_absent = self.absent.iter().any(|(first, end)| (*first..*end).contains(&block));
        let none = (SectorMask::EMPTY, if is_absent { SectorMask::FULL } else { SectorMask::EMPTY });
        self.blocks.get(&block).copied().unwrap_or(none)
    }
}

/// Walks to the end, a small budget at a time, and loads what is missing.
fn walk(
    world: &mut World,
    random: &mut Random,
    step: impl Fn(&Forest, &mut Progress, &mut dyn FnMut(Differing)) -> Result<(), Fault>,
) -> Report {
    let mut report = Report::default();
    let mut progress = Progress::new(VirtualBlock(0), 0);
    while !progress.is_done() {
        progress.budget = 100 + random.below(200) as u32;
        match step(&world.forest, &mut progress, &mut |differing| report.add(differing)) {
            Ok(()) => {}
            Err(Fault::Missing(pointer)) => world.load(&pointer),
            Err(fault) => panic!("{fault:?}"),
        }
    }
    report
}

/// What really differs at one block: changed and absent.
fn truth(old: Option<&Mapping>, new: Option<&Mapping>) -> (SectorMask, SectorMask) {
    let source = |mapping: Option<&Mapping>, sector| mapping.and_then(|mapping| mapping.layer_of(sector));
    let (mut changed, mut absent) = (SectorMask::EMPTY, SectorMask::EMPTY);
    for sector in 0..16 {
        let one = SectorMask::range(sector, 1);
        match (source(old, sector), source(new, sector)) {
            (before, Some(after)) if before != Some(after) => changed = changed.union(one),
            (Some(_), None) => absent = absent.union(one),
            _ => {}
        }
    }
    (changed, absent)
}

fn keys<'a>(models: impl IntoIterator<Item = &'a Model>, report: &Report) -> Vec<u64> {
    let mut keys: Vec<u64> = models.into_iter().flat_map(|model| model.keys().copied()).collect();
    keys.extend(report.blocks.keys());
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// A difference of two trees says exactly what differs.
fn check_difference(world: &mut World, random: &mut Random) {
    let pick = |random: &mut Random| random.below(world.volumes.len() as u64) as usize;
    let (old, new) = (pick(random), pick(random));
    let (old, new) = (world.volumes[old].clone(), world.volumes[new].clone());
    let report = walk(world, random, |forest, progress, visit| {
        forest.difference((&old.root, &new.root), progress, visit)
    });
    for block in keys([&old.model, &new.model], &report) {
        let truth = truth(old.model.get(&block), new.model.get(&block));
        assert_eq!(report.at(block), truth, "block {block}");
    }
}

/// A state that a tree had while a checkpoint was built.
#[derive(Clone)]
struct Base {
    line: VolumeId,
    generation: Generation,
    model: Model,
}

/// What is said to have changed since then has all that did, and nothing that could not be applied.
fn check_since(world: &mut World, random: &mut Random, base: &Base) {
    let Some(new) = world.volumes.iter().find(|volume| volume.id == base.line).cloned() else { return };
    let report = walk(world, random, |forest, progress, visit| {
        forest.changed_since(&new.root, base.generation, progress, visit)
    });
    for block in keys([&base.model, &new.model], &report) {
        let (changed, absent) = truth(base.model.get(&block), new.model.get(&block));
        let (said_changed, said_absent) = report.at(block);
        assert!(said_changed.contains(changed), "block {block}: {changed:?} of {said_changed:?}");
        assert!(said_absent.contains(absent), "block {block}: {absent:?} of {said_absent:?}");
        let visible = new.model.get(&block).map_or(SectorMask::EMPTY, |mapping| mapping.visible());
        assert!(visible.contains(said_changed) && !visible.overlaps(said_absent), "block {block}");
    }
}

/// Whoever was snapshot now has the states that its source had.
fn inherit(world: &World, before: &[VolumeId], bases: &mut Vec<Base>, source: VolumeId) {
    for volume in world.volumes.iter().filter(|volume| !before.contains(&volume.id)) {
        let inherited: Vec<Base> = bases.iter().filter(|base| base.line == source).cloned().collect();
        bases.extend(inherited.into_iter().map(|base| Base { line: volume.id, ..base }));
    }
}

fn run(seed: u64, limits: TreeLimits) -> usize {
    let mut random = Random(seed);
    let mut world = World::new(300, 4000, limits);
    let mut bases: Vec<Base> = Vec::new();
    let (mut next_volume, mut checks) = (0, 0);
    for _ in 0..500 {
        if world.volumes.is_empty() || random.one_in(12) {
            let before: Vec<VolumeId> = world.volumes.iter().map(|volume| volume.id).collect();
            if before.len() > 1 && before.len() < 6 {
                next_volume += 1;
                let source = random.below(before.len() as u64) as usize;
                world.snapshot(source, 1000 + next_volume);
                inherit(&world, &before, &mut bases, before[source]);
            }
        } else if random.one_in(60) && world.slots.len() == 2 {
            world.reopen();
            bases.clear();
        }
        step_without_crash(&mut world, &mut random, &mut next_volume);
        bases.retain(|base| world.volumes.iter().any(|volume| volume.id == base.line));
        if random.one_in(5) && !world.volumes.is_empty() {
            let volume = &world.volumes[random.below(world.volumes.len() as u64) as usize];
            let generation = world.forest.building;
            bases.push(Base { line: volume.id, generation, model: volume.model.clone() });
        }
        if random.one_in(6) && !world.volumes.is_empty() {
            check_difference(&mut world, &mut random);
            checks += 1;
        }
        if !bases.is_empty() {
            let base = bases[random.below(bases.len() as u64) as usize].clone();
            check_since(&mut world, &mut random, &base);
            checks += 1;
        }
    }
    checks
}

/// As [`step`], but snapshots and crashes are the caller's, who has to know of them.
fn step_without_crash(world: &mut World, random: &mut Random, next_volume: &mut u64) {
    if world.volumes.len() < 2 {
        *next_volume += 1;
        world.volumes.push(Volume { id: VolumeId(*next_volume), root: None, model: Model::new() });
    }
    let volume = random.below(world.volumes.len() as u64) as usize;
    match random.below(100) {
        0..50 => random_publish(world, random, volume),
        50..65 => clear(world, random, volume),
        65..80 => {
            let (one, other) = (virtual_block(random), virtual_block(random));
            unmap(world, random, volume, one.min(other), one.max(other));
        }
        80..83 if world.volumes.len() > 2 => delete(world, random, volume),
        83..92 => world.checkpoint(),
        _ => evict(world, random),
    }
}

#[test]
fn differences_agree_with_models() {
    let checks: usize = (0..60)
        .map(|seed| {
            println!("seed {seed}");
            run(seed, if seed % 3 == 0 { SMALL } else { TINY })
        })
        .sum();
    assert!(checks > 20_000, "{checks}");
}

#[test]
fn what_is_shared_is_not_looked_at() {
    let mut world = scattered(250, TINY);
    world.snapshot(0, 2);
    publish(&mut world, 0, 20, DataBlock(500), SectorMask(1));
    world.checkpoint();
    let roots = (world.volumes[1].root, world.volumes[0].root);
    all_evicted(&mut world);
    let mut random = Random(1);
    let report = walk(&mut world, &mut random, |forest, progress, visit| {
        forest.difference((&roots.0, &roots.1), progress, visit)
    });
    assert_eq!(report.blocks.into_iter().collect::<Vec<_>>(), [(20, (SectorMask(1), SectorMask::EMPTY))]);
    // One way down in each tree; the write may have split a full leaf.
    let (looked_at, ways) = (world.forest.cache.len(), 2 * levels(&world));
    assert!((ways..=ways + 1).contains(&looked_at), "{looked_at} pages, {ways} on the two ways");
}
