//! The scopes that are explored: how large the world is, and where it starts.
//!
//! Owns sizes, budgets and starting states. Each scope is small enough to be finished, and together
//! they hold every rule. Read next: `model.rs`.

use crate::disk::{GARBAGE, Place, Sector};
use crate::promise::{ABSENT, PRESENT, Promise, Register};
use crate::state::{Budget, Checkpoint, Disk, PAGES, Page, Phase, RING, Slot, State};
use crate::tree::{BLOCKS, Layer, Life, SECTORS, Sectors, Tree, VOLUMES, each};

/// One bounded world.
pub struct Scope {
    pub name: &'static str,
    pub volumes: usize,
    pub blocks: u8,
    /// The sets of sectors that a request may name.
    pub spans: &'static [Sectors],
    /// Requests and background writes under way at a time.
    pub concurrency: usize,
    /// Pages of the log.
    pub ring: usize,
    pub budget: Budget,
    /// Requests after each crash that was recovered from.
    pub operations_after_crash: u8,
    pub start: fn() -> State,
}

/// A pool that does nothing and promises nothing, over a disk.
pub fn empty(disk: Disk) -> State {
    State {
        phase: Phase::Serving,
        budget: Budget::default(),
        disk,
        tree: Tree::default(),
        queue: Default::default(),
        flying: Default::default(),
        next: 1,
        durable: 0,
        proven: 0,
        stated: 0,
        sync: None,
        flush: false,
        checkpoint: Checkpoint::Idle,
        taken: 0,
        blocks: Default::default(),
        operations: Default::default(),
        promise: Promise::default(),
        killed: false,
        fault: None,
    }
}

/// A pool at rest with the given mappings, each sector with a tag of its own. Of what no mapping
/// shows, sectors in use hold garbage.
fn at_rest(in_use: Sectors, mappings: &[&[(u8, Sectors)]]) -> State {
    let mut tree = Tree::default();
    let mut data = [[Sector::default(); SECTORS]; BLOCKS];
    for block in &mut data {
        each(in_use).for_each(|sector| block[sector] = Sector::settled(GARBAGE));
    }
    let mut tag = 0;
    for (volume, layers) in mappings.iter().enumerate() {
        tree.volumes[volume].life = Life::Live;
        for (place, &(block, sectors)) in layers.iter().enumerate() {
            tree.volumes[volume].mapping[place] = Layer { block, sectors };
            for sector in each(sectors) {
                if data[block as usize][sector] == Sector::settled(GARBAGE) {
                    tag += 1;
                    data[block as usize][sector] = Sector::settled(tag);
                }
            }
        }
    }
    let slot = |generation| Slot { generation, incarnation: 1, page: 0, tree_generation: 2, sequence: 0 };
    let mut pages = [Place::default(); PAGES];
    pages[0] = Place::settled(Page { generation: 2, tree });
    let slots = [Place::settled(slot(2)), Place::settled(slot(3))];
    let mut state =
        empty(Disk { data, ring: [Place::default(); RING], head: Place::settled(1), slots, pages });
    state.tree = tree;
    for volume in 0..VOLUMES {
        let live = tree.volumes[volume].life == Life::Live;
        state.promise.exists[volume] = Register::certain(if live { PRESENT } else { ABSENT });
        for sector in 0..SECTORS {
            let tag = state.read(&tree, volume, sector);
            state.promise.sectors[volume][sector] = Register::certain(1 << tag);
        }
    }
    state
}

/// What most scopes allow beside requests.
const FEW: Budget = Budget { operations: 3, crashes: 2, proofs: 1, checkpoints: 0, punches: 0, collapses: 0 };

/// Two volumes, two blocks of one sector, two requests at a time.
const BASE: Scope = Scope {
    name: "two volumes",
    volumes: 2,
    blocks: 2,
    spans: &[1],
    concurrency: 2,
    ring: 4,
    budget: FEW,
    operations_after_crash: 1,
    start: || at_rest(1, &[&[(0, 1)], &[]]),
};

/// The scopes of the default run, with `depth` requests more.
pub fn all(depth: u8) -> Vec<Scope> {
    let scopes = vec![
        BASE,
        Scope {
            name: "one after the other",
            concurrency: 1,
            // Proofs come with the records of later requests.
            budget: Budget { operations: 4, proofs: 0, ..FEW },
            operations_after_crash: 2,
            ..BASE
        },
        Scope { name: "shared block", concurrency: 1, start: || at_rest(1, &[&[(0, 1)], &[(0, 1)]]), ..BASE },
        Scope { name: "snapshot", start: || at_rest(1, &[&[(0, 1)]]), ..BASE },
        Scope { name: "punch", concurrency: 1, budget: Budget { operations: 2, punches: 1, ..FEW }, ..BASE },
        Scope { name: "two sectors", spans: &[1, 2], start: || at_rest(3, &[&[(0, 1)]]), ..BASE },
        Scope {
            name: "checkpoints, small log",
            concurrency: 1,
            ring: 2,
            budget: Budget { checkpoints: 2, ..FEW },
            ..BASE
        },
        Scope {
            name: "two layers",
            blocks: 3,
            spans: &[1, 4],
            budget: Budget { crashes: 1, ..FEW },
            start: || at_rest(7, &[&[(0, 3), (1, 4)]]),
            ..BASE
        },
        Scope {
            name: "collapse",
            blocks: 3,
            spans: &[1, 2],
            budget: Budget { operations: 2, collapses: 1, ..FEW },
            start: || at_rest(3, &[&[(0, 1), (1, 2)]]),
            ..BASE
        },
        Scope {
            name: "copy while writing",
            blocks: 3,
            spans: &[1, 2],
            concurrency: 3,
            budget: Budget { operations: 3, crashes: 1, ..FEW },
            start: || at_rest(3, &[&[(0, 1), (1, 2)]]),
            ..BASE
        },
    ];
    let deeper = |scope: Scope| {
        let operations = scope.budget.operations + depth;
        Scope { budget: Budget { operations, ..scope.budget }, ..scope }
    };
    scopes.into_iter().map(deeper).collect()
}
