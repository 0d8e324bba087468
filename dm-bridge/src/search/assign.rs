//! Which head belongs into which hole, where there is only one way.
//!
//! Owns the rules. A head may stand in a hole if all its keys lie in the hole's and it is not too high. It does stand there if the holes
//! where it may are as many as its lost owners. Two heads of a hole with the same keys contradict each other: then the hole stays
//! as it is. If all that devices have now are the mapped blocks that their details count, nothing else is missing.

use super::heads::Lost;
use super::space::Counts;
use super::survey::{Hole, Role, Survey};
use super::{Graft, Head};
use crate::device::Source;
use crate::format::BtreeNode;
use crate::tree::DEPTH_MAX;
use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::BTreeMap;

/// Pairs of a head and a hole that are compared at most; beyond, nothing is found.
const PAIRS_MAX: usize = 1 << 31;

/// Nodes that are looked at most to add up what devices have; beyond, nothing is found.
const STEPS_MAX: u64 = 1 << 22;

type Grafts = FxHashMap<u64, Graft>;
/// Root, and mapped blocks if they are known.
type Tree = (u64, Option<u64>);

/// Roots for devices that have details only. All heads must be roots: no other node is lost.
pub(super) fn roots(heads: &[Lost], rootless: &BTreeMap<u32, u64>) -> FxHashMap<u32, u64> {
    let mut roots = FxHashMap::default();
    for (id, mapped) in rootless {
        let mut same = heads.iter().filter(|head| head.node.entries == *mapped && !head.node.has_holes);
        let (Some(head), None) = (same.next(), same.next()) else { continue };
        let devices = rootless.values().filter(|other| *other == mapped).count();
        if devices == head.owners as usize {
            roots.insert(*id, head.block);
        }
    }
    roots
}

/// What belongs into the holes of the mappings.
pub(super) fn grafts<S: Source>(
    survey: &Survey<'_, S>,
    counts: &Counts,
    heads: &[Lost],
    trees: &[Tree],
) -> Grafts {
    let mut grafts = forced(survey, counts, heads);
    let mut trees: Vec<_> = trees.iter().filter(|(root, _)| has_holes(survey, *root)).copied().collect();
    trees.sort_unstable();
    trees.dedup();
    // A node that is in another tree too has only its count in the space map to say that it belongs here: not enough, unless
    // the details say so, too.
    let verdicts = Verdicts::of(survey, &grafts, &trees);
    for (block, graft) in &mut grafts {
        let is_proven = verdicts.exact.contains(block) && !verdicts.too_much.contains(block);
        graft.heads.retain(|head| is_proven || survey.nodes[&head.block].is_orphan);
    }
    let verdicts = Verdicts::of(survey, &grafts, &trees);
    grafts.retain(|block, graft| !graft.heads.is_empty() && !verdicts.too_much.contains(block));
    let verdicts = Verdicts::of(survey, &grafts, &trees);
    grafts.retain(|block, _| !verdicts.too_much.contains(block));
    for (block, graft) in &mut grafts {
        graft.is_complete = verdicts.exact.contains(block);
    }
    grafts
}

fn has_holes<S>(survey: &Survey<'_, S>, root: u64) -> bool {
    survey.nodes.get(&root).is_none_or(|node| node.has_holes)
}

/// Heads in the holes where they must be.
fn forced<S: Source>(survey: &Survey<'_, S>, counts: &Counts, heads: &[Lost]) -> Grafts {
    let holes = survey.holes.iter().filter(|(_, hole)| hole.role == Role::Mappings);
    let holders: Vec<_> =
        holes.filter_map(|(block, hole)| Some((*block, *hole, survey.room(*block, hole, counts)?))).collect();
    let mut grafts = Grafts::default();
    if heads.len().saturating_mul(holders.len()) > PAIRS_MAX {
        return grafts;
    }
    for head in heads.iter().filter(|head| head.node.entries > 0) {
        let fits = holders.iter().filter(|(_, hole, room)| may_stand(head, hole, *room));
        let fits: Vec<u64> = fits.map(|(block, ..)| *block).take(head.owners as usize + 1).collect();
        if fits.len() == head.owners as usize {
            let head = Head {
                block: head.block,
                first: head.node.first,
                last: if head.node.is_open { u64::MAX } else { head.node.last },
            };
            fits.iter().for_each(|hole| grafts.entry(*hole).or_default().heads.push(head));
        }
    }
    // Pointers that are wrong in different ways have one block in common, but not what should be there.
    let is_one = |block: &u64| !survey.is_misled(*block, counts) || survey.holes[block].places == 1;
    grafts.retain(|block, graft| is_one(block) && are_apart(survey, &graft.heads));
    grafts
}

fn may_stand(head: &Lost, hole: &Hole, room: u8) -> bool {
    let node = &head.node;
    node.first >= hole.first && node.last <= hole.last && node.height.is_none_or(|height| height <= room)
}

/// Whether no key is below two of the heads, which are in the order of their first keys.
fn are_apart<S>(survey: &Survey<'_, S>, heads: &[Head]) -> bool {
    heads.windows(2).all(|pair| survey.nodes[&pair[0].block].last < pair[1].first)
}

/// Holes with what was found for them, by what that makes of a device which has them.
#[derive(Default)]
struct Verdicts {
    /// It has all the mappings that it should have.
    exact: FxHashSet<u64>,
    /// It has more, or cannot be counted.
    too_much: FxHashSet<u64>,
}

impl Verdicts {
    fn of<S: Source>(survey: &Survey<'_, S>, grafts: &Grafts, trees: &[Tree]) -> Self {
        let mut verdicts = Self::default();
        let mut steps_left = STEPS_MAX;
        for (root, mapped) in trees {
            let mut sum =
                Sum { survey, grafts, steps_left, entries: 0, empty_holes: 0, holes: FxHashSet::default() };
            let is_countable = sum.add(*root, 0).is_some();
            steps_left = sum.steps_left;
            let (entries, least) = (sum.entries, sum.entries.saturating_add(sum.empty_holes));
            if !is_countable || mapped.is_some_and(|mapped| least > mapped) {
                verdicts.too_much.extend(sum.holes);
            } else if *mapped == Some(entries) {
                verdicts.exact.extend(sum.holes);
            }
        }
        // What was not reached cannot be believed.
        if steps_left == 0 {
            verdicts.too_much.extend(grafts.keys());
        }
        verdicts
    }
}

/// What a device has, with what was found. Counting ends with `None` where a node is twice in one tree.
struct Sum<'g, 's, S> {
    survey: &'g Survey<'s, S>,
    grafts: &'g Grafts,
    steps_left: u64,
    entries: u64,
    /// Holes in which nothing was found. Each had at least one mapping.
    empty_holes: u64,
    /// Holes for which something was found.
    holes: FxHashSet<u64>,
}

impl<S: Source> Sum<'_, '_, S> {
    fn add(&mut self, block: u64, depth: usize) -> Option<()> {
        self.steps_left = self.steps_left.saturating_sub(1);
        if depth > DEPTH_MAX || self.steps_left == 0 {
            return None;
        }
        match self.survey.nodes.get(&block) {
            Some(node) if !node.has_holes => self.entries = self.entries.saturating_add(node.entries),
            Some(_) => return self.children(block, depth),
            None => return self.hole(block, depth),
        }
        Some(())
    }

    fn hole(&mut self, block: u64, depth: usize) -> Option<()> {
        let grafts = self.grafts;
        let Some(graft) = grafts.get(&block) else {
            self.empty_holes += 1;
            return Some(());
        };
        if !self.holes.insert(block) {
            return None;
        }
        graft.heads.iter().try_for_each(|head| self.add(head.block, depth + 1))
    }

    fn children(&mut self, block: u64, depth: usize) -> Option<()> {
        let node = BtreeNode::decode(self.survey.blocks.read(block).ok()?, block, 8).ok()?;
        for at in 0..node.len() {
            let child = node.value_u64(at);
            // A pointer to a node that stands elsewhere is a hole here.
            match self.survey.holes.contains_key(&child) {
                true => self.hole(child, depth)?,
                false => self.add(child, depth + 1)?,
            }
        }
        Some(())
    }
}
