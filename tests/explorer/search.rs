//! Breadth-first search over all states, with the shortest way to a broken promise.
//!
//! Owns the visited set, the ways back and the printing of counterexamples. Knows nothing of the
//! protocol. Read next: `main.rs`.

use std::collections::HashSet;
use std::collections::VecDeque;
use std::fmt::Write;
use std::hash::{BuildHasherDefault, Hash, Hasher};

use crate::canonical;
use crate::model::{Model, Step};
use crate::state::State;

/// What a search saw.
#[derive(Clone, Copy, Default, Debug)]
pub struct Seen {
    pub states: u64,
    /// Disks that a power cut or a kill left, and that recovery was run on.
    pub cuts: u64,
    /// Ended by the limit on states, not by exhaustion.
    pub limited: bool,
}

/// A broken promise and the shortest way to it.
pub struct Counterexample {
    pub trace: String,
    pub steps: usize,
}

/// Mixes the bytes of a state into 64 bits.
#[derive(Default)]
pub struct Mixer {
    sum: u64,
    word: u64,
    bytes: u32,
}

impl Mixer {
    fn mix(&mut self, word: u64) {
        let product = u128::from(self.sum ^ word ^ 0x9e37_79b9_7f4a_7c15) * 0xd6e8_feb8_6659_fd93_u128;
        self.sum = (product as u64 ^ (product >> 64) as u64).rotate_left(23);
    }
}

impl Hasher for Mixer {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u8(*byte));
    }

    fn write_u8(&mut self, byte: u8) {
        self.word = self.word << 8 | u64::from(byte);
        self.bytes += 1;
        if self.bytes.is_multiple_of(8) {
            self.mix(self.word);
        }
    }

    fn write_usize(&mut self, length: usize) {
        self.write_u8(length as u8);
    }

    fn write_isize(&mut self, discriminant: isize) {
        self.write_u8(discriminant as u8);
    }

    fn finish(&self) -> u64 {
        let mut last = Mixer { sum: self.sum, word: 0, bytes: 0 };
        last.mix(self.word);
        last.mix(u64::from(self.bytes));
        last.sum
    }
}

/// The hash is one already.
#[derive(Default)]
pub struct Same(u64);

impl Hasher for Same {
    fn write(&mut self, _: &[u8]) {}

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

fn fingerprint(state: &State) -> u64 {
    let mut mixer = Mixer::default();
    state.hash(&mut mixer);
    mixer.finish()
}

/// Where a state was first reached from: its number, and which of its successors it is.
type Way = (u32, u32);

/// Explores everything within the scope, at most `limit` states.
pub fn explore(model: &Model, limit: u64) -> (Seen, Option<Counterexample>) {
    let mut first = (model.scope.start)();
    first.budget = model.scope.budget;
    canonical::reduce(model.scope, &mut first);
    let mut seen = Seen { states: 1, ..Seen::default() };
    let mut visited: HashSet<u64, BuildHasherDefault<Same>> = HashSet::default();
    let mut ways: Vec<Way> = vec![(0, 0)];
    let mut queue = VecDeque::from([(0_u32, first)]);
    visited.insert(fingerprint(&first));
    while let Some((number, state)) = queue.pop_front() {
        let mut failed = None;
        let mut ordinal = 0;
        model.successors(&state, &mut |step, next| {
            ordinal += 1;
            if failed.is_some() || !visited.insert(fingerprint(&next)) {
                return;
            }
            seen.states += 1;
            seen.cuts += u64::from(matches!(step, Step::PowerCut | Step::ProcessKilled));
            ways.push((number, ordinal - 1));
            if let Err(reason) = model.check(&next) {
                failed = Some((ways.len() - 1, reason));
            } else if next.budget.crashes > 0 {
                queue.push_back((ways.len() as u32 - 1, next));
            }
        });
        if let Some((at, reason)) = failed {
            return (seen, Some(retrace(model, first, &ways, at, &reason)));
        }
        if seen.states >= limit {
            seen.limited = true;
            break;
        }
    }
    (seen, None)
}

/// Walks the way to a state again and writes down its steps.
fn retrace(model: &Model, first: State, ways: &[Way], mut at: usize, reason: &str) -> Counterexample {
    let mut ordinals = Vec::new();
    while at != 0 {
        ordinals.push(ways[at].1);
        at = ways[at].0 as usize;
    }
    let mut state = first;
    let mut trace = String::new();
    for ordinal in ordinals.iter().rev() {
        let mut count = 0;
        let mut taken = None;
        model.successors(&state, &mut |step, next| {
            if count == *ordinal {
                taken = Some((step, next));
            }
            count += 1;
        });
        let (step, next) = taken.expect("the same steps as before");
        let _ = writeln!(trace, "    {step:?}");
        if matches!(step, Step::PowerCut | Step::ProcessKilled) {
            describe(&mut trace, &next);
        }
        state = next;
    }
    let _ = writeln!(trace, "    => {reason}");
    Counterexample { trace, steps: ordinals.len() }
}

/// What stands on the disk after a cut.
fn describe(trace: &mut String, state: &State) {
    let data: Vec<Vec<_>> = state.disk.data.iter().map(|b| b.iter().map(|s| s.current()).collect()).collect();
    let _ = writeln!(trace, "        blocks {data:?}");
    for record in state.disk.ring.iter().filter_map(|page| page.current()) {
        let _ = writeln!(trace, "        {record:?}");
    }
    for slot in state.slots() {
        let _ = writeln!(trace, "        {slot:?}");
    }
    for (volume, register) in state.promise.exists.iter().enumerate().filter(|(_, r)| r.allowed != 1) {
        let sets = state.promise.sectors[volume]
            .map(|r| format!("{:b}", if state.killed { r.now } else { r.allowed }));
        let _ =
            writeln!(trace, "        volume {volume}: existence {:02b}, sectors {sets:?}", register.allowed);
    }
}
