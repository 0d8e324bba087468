//! The steps of the explored system, and the helpers that all of them share.
//!
//! Owns the list of steps and which module takes them. Read next: `requests.rs` (clients),
//! `log.rs` (records, syncs, punches), `checkpoint.rs`, `crash.rs`, `recovery.rs`.

use crate::breaks::Break;
use crate::canonical;
use crate::scope::Scope;
use crate::state::{Phase, Stage, State};
use crate::tree::{Delta, SECTORS, Sectors, each};
use crate::{checkpoint, crash, log, recovery, requests};

/// One step, as a counterexample prints it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    WriteInPlace { volume: u8, sectors: Sectors, block: u8 },
    WriteAndPublish { volume: u8, sectors: Sectors, block: u8 },
    Discard { volume: u8, sectors: Sectors },
    Snapshot { from: u8, to: u8 },
    Delete { volume: u8 },
    Flush,
    DataCompletes { volume: u8, block: u8, sectors: Sectors },
    UnmapDeleted { volume: u8 },
    Collapse { volume: u8, into: u8 },
    SubmitRecord { sequence: i8, synced: i8 },
    RecordCompletes { sequence: i8 },
    SubmitSync,
    SyncReturns,
    SubmitPunch { block: u8 },
    PunchCompletes { block: u8 },
    CheckpointPages { sequence: i8 },
    CheckpointPagesSynced,
    CheckpointSlot,
    CheckpointSlotSynced,
    PowerCut,
    ProcessKilled,
    RecoveryWritesPages,
    RecoverySyncsAndWritesFirstSlot,
    RecoverySyncsAndWritesSecondSlot,
    RecoverySyncsAndWritesLogHead,
    RecoverySyncsAndServes,
}

/// Collects what may follow a state.
pub type Emit<'a> = &'a mut dyn FnMut(Step, State);

/// The protocol, whole or with one rule broken, within one scope.
pub struct Model<'a> {
    pub scope: &'a Scope,
    pub broken: Option<Break>,
}

impl Model<'_> {
    /// Is this rule the broken one?
    pub fn breaks(&self, rule: Break) -> bool {
        self.broken == Some(rule)
    }

    /// Every state that one step leads to, in canonical form.
    pub fn successors(&self, state: &State, emit: Emit) {
        let emit: Emit = &mut |step, mut next: State| {
            canonical::reduce(self.scope, &mut next);
            emit(step, next);
        };
        if state.phase == Phase::Serving {
            requests::steps(self, state, emit);
            log::steps(self, state, emit);
            checkpoint::steps(self, state, emit);
        } else {
            recovery::steps(self, state, emit);
        }
        crash::steps(self, state, emit);
    }

    /// Is this state as promised? An error says what is wrong.
    pub fn check(&self, state: &State) -> Result<(), String> {
        if let Some(fault) = state.fault {
            return Err(fault.into());
        }
        match state.phase {
            Phase::Serving => check_reads(state),
            Phase::Found => recovery::check(self, state),
            _ => Ok(()),
        }
    }

    /// Applies a delta in memory and queues it for the next record, in one turn.
    pub fn apply(&self, state: &mut State, delta: Delta) {
        let before = state.tree;
        if let Err(fault) = state.tree.apply(delta) {
            state.fault = Some(fault);
        }
        for block in 0..self.scope.blocks {
            let (had, has) = (before.count(block), state.tree.count(block));
            let known = &mut state.blocks[block as usize];
            if has > 0 {
                known.freed = 0;
            } else if had > 0 && !self.breaks(Break::ReuseUnproven) {
                known.freed = state.next;
            }
            if has < had && !self.breaks(Break::ExclusiveUnproven) {
                known.exclusive = state.next;
            }
        }
        self.note_publication(state, delta);
        let place = state.queue.iter_mut().find(|d| **d == Delta::None);
        *place.expect("steps look for room in the queue first") = delta;
    }

    fn note_publication(&self, state: &mut State, delta: Delta) {
        match delta {
            Delta::Publish { block, sectors, .. } if !self.breaks(Break::OverwriteUnproven) => {
                each(sectors).for_each(|s| state.blocks[block as usize].published[s] = state.next);
            }
            Delta::Clear { .. } if self.breaks(Break::RefillUnproven) => {
                state.blocks.iter_mut().for_each(|b| b.published = [0; SECTORS]);
            }
            _ => {}
        }
    }

    /// May this block be given out?
    pub fn is_free(&self, state: &State, block: u8) -> bool {
        let known = &state.blocks[block as usize];
        let pinned = state.writes().any(|o| o.block == block);
        state.tree.count(block) == 0
            && known.freed <= state.proven
            && (!pinned || self.breaks(Break::NoPins))
            && (!known.punching || self.breaks(Break::PunchRace))
    }

    /// What a snapshot waits for beside its record: writes decided before its cut.
    pub fn cut_settled(&self, state: &State) -> bool {
        self.breaks(Break::SnapshotUnsettled) || !state.writes().any(|o| o.before_cut)
    }
}

/// Readers see nothing that nobody wrote, also without a crash.
fn check_reads(state: &State) -> Result<(), String> {
    for volume in State::volumes().filter(|v| state.usable(*v)) {
        for sector in 0..SECTORS {
            let tag = state.read(&state.tree, volume, sector);
            let flying = state.operations.iter().filter(|o| o.stage != Stage::Free).count();
            if state.promise.sectors[volume][sector].now >> tag & 1 == 0 {
                return Err(format!(
                    "volume {volume} sector {sector} reads as {tag}, {flying} requests under way"
                ));
            }
        }
    }
    Ok(())
}
