//! Which head belongs into which hole, where there is only one way.
//!
//! Owns the rules. A head may stand in a hole if all its keys lie in the hole's and it is not too high. It does stand there if the holes
//! where it may are as many as its lost owners. Two heads of a hole with the same keys contradict each other: then the hole stays
//! as it is. If all that devices have now are the mapped blocks that their details count, nothing else is missing.

use super::heads::Lost;
use super::space::Counts;
use super::survey::{Hole, Survey};
use super::{Graft, Head};
use crate::device::Source;
use crate::format::{BlockTime, BtreeNode, max_entries};
use crate::tree::{DEPTH_MAX, Role};
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

/// Whether all trees have what their devices count.
pub(super) fn are_exact<S>(survey: &Survey<'_, S>, trees: &[Tree]) -> bool {
    trees.iter().all(|(root, mapped)| {
        survey.nodes.get(root).is_some_and(|node| !node.has_holes && Some(node.entries) == *mapped)
    })
}

/// What belongs into the holes of the mappings.
pub(super) fn grafts<S: Source>(
    survey: &Survey<'_, S>,
    counts: &Counts,
    heads: &[Lost],
    trees: &[Tree],
) -> Grafts {
    let mut grafts = forced(survey, counts, heads);
    let mut trees = trees.to_vec();
    trees.sort_unstable();
    trees.dedup();
    // A node that is in another tree too has only its count in the space map to say that it belongs here: not enough, unless
    // the details say so, too.
    let verdicts = Verdicts::of(survey, counts, &grafts, &trees);
    for (block, graft) in &mut grafts {
        let is_exact = verdicts.is_exact(*block);
        graft.heads.retain(|head| is_exact || survey.nodes[&head.block].is_orphan);
    }
    grafts.retain(|_, graft| !graft.heads.is_empty());
    // What goes may have been what others were believed for.
    loop {
        let verdicts = Verdicts::of(survey, counts, &grafts, &trees);
        let before = grafts.len();
        grafts.retain(|block, graft| {
            graft.is_complete = verdicts.is_exact(*block);
            graft.is_complete || verdicts.may_be_part(*block)
        });
        if grafts.len() == before {
            return grafts;
        }
    }
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
            let head = Head { block: head.block, first: head.node.first };
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

/// How well what devices have agrees with what their details count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Exact,
    /// Some is missing, not more than the leaves that are lost can have had.
    Leaves,
    /// Some is missing, or that is not known.
    Part,
    /// More than there can be, or it cannot be counted.
    TooMuch,
}

/// Verdicts about all trees, and about those in which a hole is.
#[derive(Default)]
struct Verdicts {
    all: Tally,
    by_hole: FxHashMap<u64, Tally>,
    /// Trees were left out.
    is_short: bool,
}

/// Numbers of trees by their verdict.
#[derive(Clone, Copy, Default)]
struct Tally {
    exact: u64,
    leaves: u64,
    part: u64,
    too_much: u64,
}

impl Tally {
    fn add(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Exact => self.exact += 1,
            Verdict::Leaves => self.leaves += 1,
            Verdict::Part => self.part += 1,
            Verdict::TooMuch => self.too_much += 1,
        }
    }
}

impl Verdicts {
    fn of<S: Source>(survey: &Survey<'_, S>, counts: &Counts, grafts: &Grafts, trees: &[Tree]) -> Self {
        let mut verdicts = Self::default();
        let mut steps_left = STEPS_MAX;
        for (root, mapped) in trees {
            let holes = FxHashSet::default();
            let mut sum = Sum { survey, counts, grafts, steps_left, entries: 0, leaves: 0, others: 0, holes };
            let is_countable = sum.add(*root, 0).is_some();
            steps_left = sum.steps_left;
            let verdict = if is_countable { sum.verdict(*mapped) } else { Verdict::TooMuch };
            verdicts.all.add(verdict);
            sum.holes.iter().for_each(|hole| verdicts.by_hole.entry(*hole).or_default().add(verdict));
        }
        verdicts.is_short = steps_left == 0;
        verdicts
    }

    /// Whether a device with this hole has all its mappings, and other devices lack no more than leaves. If one
    /// lacked an inner node and did not say so, what is below that could have come here.
    fn is_exact(&self, hole: u64) -> bool {
        let Some(tally) = self.by_hole.get(&hole).filter(|_| !self.is_short) else { return false };
        tally.exact > 0 && tally.too_much == 0 && self.all.part + self.all.too_much == tally.part
    }

    /// Whether no device without this hole lacks anything.
    fn may_be_part(&self, hole: u64) -> bool {
        let Some(tally) = self.by_hole.get(&hole).filter(|_| !self.is_short) else { return false };
        let inexact = |tally: &Tally| tally.leaves + tally.part + tally.too_much;
        tally.too_much == 0 && inexact(&self.all) == inexact(tally)
    }
}

/// What a device has, with what was found. Counting ends with `None` where a node is twice in one tree.
struct Sum<'g, 's, S> {
    survey: &'g Survey<'s, S>,
    counts: &'g Counts,
    grafts: &'g Grafts,
    steps_left: u64,
    entries: u64,
    /// Lost leaves, for which nothing can be found. Each had at least one mapping.
    leaves: u64,
    /// Other holes for which nothing was found.
    others: u64,
    /// Holes for which something was found.
    holes: FxHashSet<u64>,
}

impl<S: Source> Sum<'_, '_, S> {
    fn verdict(&self, mapped: Option<u64>) -> Verdict {
        let least = self.entries.saturating_add(self.leaves + self.others);
        let most = self.entries.saturating_add(self.leaves * max_entries(BlockTime::BYTES) as u64);
        match mapped {
            None => Verdict::Part,
            Some(mapped) if mapped < least => Verdict::TooMuch,
            Some(mapped) if mapped == self.entries => Verdict::Exact,
            Some(mapped) if mapped <= most && self.others == 0 && self.holes.is_empty() => Verdict::Leaves,
            Some(_) => Verdict::Part,
        }
    }

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
            let is_leaf = self
                .survey
                .holes
                .get(&block)
                .is_some_and(|hole| self.survey.room(block, hole, self.counts).is_none());
            *(if is_leaf { &mut self.leaves } else { &mut self.others }) += 1;
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
