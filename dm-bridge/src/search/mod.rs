//! Finds nodes that nothing points at any more, and to which device they belong.
//!
//! Owns the order, and when nothing is searched for: only if something of the trees is lost. What is read first (`survey.rs`) tells the
//! *holes*, pointers behind which no usable node is. The metadata space map (`space.rs`) tells which nodes have more
//! owners than were seen: these are the *heads* (`heads.rs`), for their owners were lost. `assign.rs` gives heads to holes where there is only
//! one way. Nothing is guessed: what could be another device's, or of an older state, stays lost. Memory is some tens of bytes
//! a node, four a metadata block, and one a data block that is mapped.

mod assign;
mod heads;
mod space;
mod survey;

use crate::device::{Blocks, Source};
use crate::format::{DEVICE_ID_LIMIT, DeviceDetails, Superblock};
use crate::tree::{Entries, TreeWalk};
use rustc_hash::FxHashMap;
use std::collections::BTreeMap;
use survey::Survey;

/// A node that stands where another one was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub block: u64,
    pub first: u64,
}

/// What was found for a hole, in the order of keys.
#[derive(Clone, Debug, Default)]
pub(crate) struct Graft {
    pub heads: Vec<Head>,
    /// Nothing else can have been there: the counts of devices say so.
    pub is_complete: bool,
}

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// By the block that cannot be used.
    pub grafts: FxHashMap<u64, Graft>,
    /// Roots of devices that the tree of devices does not have.
    pub roots: FxHashMap<u32, u64>,
}

/// Devices of one superblock.
struct Listed {
    /// Root and mapped blocks, if they are known.
    trees: Vec<(u64, Option<u64>)>,
    /// Devices that have details and no root, with their mapped blocks.
    rootless: BTreeMap<u32, u64>,
    /// There may be devices that neither tree has.
    has_unknown: bool,
}

/// Searches for what a pool that is not active has lost.
pub(crate) fn search<S: Source>(blocks: &Blocks<S>, live: &Superblock) -> Found {
    let mut survey = Survey::new(blocks, live);
    let mut listed = vec![list(blocks, live)];
    survey.superblock(live);
    if let Some(held) = live.held_root {
        survey.own(held);
        match blocks.read(held).and_then(|bytes| Superblock::decode(&bytes, held)) {
            Ok(held) => {
                survey.superblock(&held);
                listed.push(list(blocks, &held));
            }
            // What is the snapshot's cannot be told from what is lost.
            Err(_) => return Found::default(),
        }
    }
    survey.space_maps(live);
    let is_whole = !survey.has_holes() && listed.iter().all(|listed| listed.rootless.is_empty());
    if is_whole || listed.iter().any(|listed| listed.has_unknown) {
        return Found::default();
    }
    let counts = space::metadata_counts(blocks, &live.metadata_space_map, survey.parents());
    survey.orphans(&counts);
    let heads = heads::heads(&survey, &counts, &live.data_space_map);
    if listed.iter().all(|listed| listed.rootless.is_empty()) {
        let trees: Vec<_> = listed.into_iter().flat_map(|listed| listed.trees).collect();
        return Found { grafts: assign::grafts(&survey, &counts, &heads, &trees), ..Found::default() };
    }
    // Any head may be the root of a device, or what is left of it. Only if all are roots it can be told whose they are.
    let are_roots = listed[1..].iter().all(|held| held.rootless.is_empty())
        && listed.iter().all(|listed| assign::are_exact(&survey, &listed.trees))
        && !survey.has_holders(&counts)
        && survey.explains(&counts);
    let roots = if are_roots { assign::roots(&heads, &listed[0].rootless) } else { FxHashMap::default() };
    Found { roots, ..Found::default() }
}

fn list<S: Source>(blocks: &Blocks<S>, superblock: &Superblock) -> Listed {
    let mut roots = Entries::new(TreeWalk::new(blocks, superblock.mapping_root, 8, true));
    let mut details =
        Entries::new(TreeWalk::new(blocks, superblock.details_root, DeviceDetails::BYTES, true));
    let mut mapped = BTreeMap::new();
    // A lenient walk does not fail.
    while let Ok(Some((id, value, ..))) = details.next::<{ DeviceDetails::BYTES }>() {
        mapped.insert(id, DeviceDetails::decode(&value).mapped_blocks);
    }
    let mut trees = Vec::new();
    let mut rootless = mapped.clone();
    while let Ok(Some((id, value, ..))) = roots.next::<8>() {
        trees.push((u64::from_le_bytes(value), mapped.get(&id).copied()));
        rootless.remove(&id);
    }
    let roots_are_lost = !roots.take_lost().is_empty();
    let details_are_lost = !details.take_lost().is_empty();
    let is_complete = rootless.is_empty();
    let is_odd = rootless.keys().any(|id| *id >= DEVICE_ID_LIMIT);
    Listed {
        trees,
        rootless: rootless.into_iter().map(|(id, mapped)| (id as u32, mapped)).collect(),
        has_unknown: is_odd || roots_are_lost && (details_are_lost || is_complete),
    }
}
