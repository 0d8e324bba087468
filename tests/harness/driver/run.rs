//! One run: clients, core, disks and time take turns as the seed says, and a copy is cut at every disk event.
//!
//! Owns the schedule. Read next: `examine.rs`.

use super::machine::{Disks, Machine};
use super::{RunConfig, Stats, examine};
use crate::adapter::Side;
use crate::model::{Check, End, Model, Violation};
use crate::rng::Rng;
use crate::sim_disk::Order;
use crate::workload::Op;
use std::collections::{BTreeMap, VecDeque};
use vellum_engine::request::RequestId;
use vellum_engine::storage::Disk;

/// Steps without an answer after which a pool counts as hung, whatever it does to its disks meanwhile.
const PATIENCE_STEPS: u32 = 6000;
/// Steps without an answer after which a crowded pool gets all the room it may want: writes may wait for it, for ever.
/// In so many steps more time passes than the longest time-out has.
const RELIEF_STEPS: u32 = 3000;

/// Where only slow operations are in flight, one in so many chances completes one.
const SLOW_COMPLETION_ONE_IN: u64 = 16;

/// How an opening ends for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The power goes off.
    PowerCut,
    /// The process dies; its clients live and ask again for what was not answered.
    Kill,
    /// The pool is closed.
    Close,
}

/// A run in progress.
pub struct Run<'a> {
    config: &'a RunConfig,
    /// The pool.
    pub machine: Machine,
    /// What it must hold.
    pub model: Model,
    rng: Rng,
    /// Decides the cuts; apart, so that a run without cuts takes the same way.
    cut_rng: Rng,
    to_do: VecDeque<Op>,
    asked: BTreeMap<RequestId, Op>,
    next_id: u64,
    /// Steps since the last answer to a client.
    silent_steps: u32,
    /// The last request that no client made: its answer is no sign of life.
    relief: Option<RequestId>,
    /// Print everything that happens: `VELLUM_TRACE` is set.
    trace: bool,
    /// What has happened so far.
    pub stats: Stats,
}

/// Runs `ops` on a new pool, to the end, and looks at everything.
///
/// # Errors
/// If a promise was broken.
pub fn run(config: &RunConfig, ops: &[Op]) -> Check<Stats> {
    let mut run = Run::start(config, ops)?;
    run.to_the_end()?;
    run.finish()
}

impl<'a> Run<'a> {
    /// A new pool, and `ops` to be done.
    ///
    /// # Errors
    /// If the pool cannot be made or opened.
    pub fn start(config: &'a RunConfig, ops: &[Op]) -> Check<Self> {
        let disks = Disks::with_new_pool(config)?;
        Self::start_on(disks, config, ops)
    }

    /// A new pool on `disks`, and `ops` to be done.
    ///
    /// # Errors
    /// If the pool cannot be opened.
    pub fn start_on(disks: Disks, config: &'a RunConfig, ops: &[Op]) -> Check<Self> {
        let mut rng = Rng::new(config.seed);
        let machine = Machine::open(disks, config, 0)
            .map_err(|refused| Violation(format!("a new pool does not open: {}", refused.0)))?;
        Ok(Self {
            config,
            machine,
            model: Model::new(config.tolerance),
            cut_rng: rng.fork(),
            rng,
            to_do: ops.iter().cloned().collect(),
            asked: BTreeMap::new(),
            next_id: 1,
            silent_steps: 0,
            relief: None,
            trace: std::env::var_os("VELLUM_TRACE").is_some(),
            stats: Stats::default(),
        })
    }

    /// Steps until everything was asked and answered.
    ///
    /// # Errors
    /// If a promise was broken, or an answer does not come.
    pub fn to_the_end(&mut self) -> Check {
        while !self.to_do.is_empty() || self.model.pending() > 0 {
            self.step()?;
            if self.config.end_one_in > 0 && self.rng.one_in(self.config.end_one_in * 8) {
                let ending = *self.rng.pick(&[Ending::PowerCut, Ending::Kill, Ending::Close]);
                self.end(ending)?;
            }
        }
        Ok(())
    }

    fn step(&mut self) -> Check {
        let can_ask = !self.to_do.is_empty() && self.model.pending() < self.config.in_flight;
        let busy: Vec<Side> = self.machine.disks.busy().collect();
        let slow = busy.iter().all(|&side| self.machine.disks.side(side).is_slow());
        match self.rng.below(8) {
            0..3 if can_ask => self.ask(),
            3..7 if !busy.is_empty() && (!slow || self.rng.one_in(SLOW_COMPLETION_ONE_IN)) => {
                let side = *self.rng.pick(&busy);
                let completed = self.machine.complete_one(side);
                self.tell(|| format!("    {side:?} {completed:?} completed"));
                self.cut()?;
            }
            7 => self.machine.now_ms += *self.rng.pick(&[1, 10, 10, 300, 1500]),
            _ if can_ask || !busy.is_empty() => {}
            _ => self.machine.now_ms += 50,
        }
        self.bound_silence()?;
        if self.rng.one_in(self.config.turn_one_in) { self.turn() } else { Ok(()) }
    }

    fn tell(&self, line: impl FnOnce() -> String) {
        if self.trace {
            println!(
                "[{} event {} at {} ms] {}",
                self.model.now(),
                self.stats.disk_events,
                self.machine.now_ms,
                line()
            );
        }
    }

    /// What a pool does for itself, such as asking its host for room every second, is no sign of life: answers are.
    fn bound_silence(&mut self) -> Check {
        self.silent_steps += 1;
        if self.config.crowded && self.silent_steps == RELIEF_STEPS {
            let timeout_s = self.machine.core.settings().no_space_timeout_s;
            if timeout_s > 0 {
                return Err(self.hang(&format!("although writes fail after {timeout_s} s")));
            }
            self.relieve();
        }
        if self.silent_steps > PATIENCE_STEPS { Err(self.hang("for ever")) } else { Ok(()) }
    }

    fn hang(&self, how: &str) -> Violation {
        let (pending, status) = (self.model.describe_pending(), self.machine.core.status());
        Violation(format!("the pool hangs {how}; not answered: {pending}; {status:?}"))
    }

    fn ask(&mut self) {
        let Some(op) = self.to_do.pop_front() else { return };
        if let Op::HostRoom(data_pages, metadata_pages) = op {
            self.tell(|| format!("{op:?}"));
            return self.machine.disks.leave_free(data_pages, metadata_pages);
        }
        let id = self.new_id();
        if let Some(request) = self.model.issue(id, &op) {
            self.tell(|| format!("ask {} {}", id.0, brief(&request)));
            self.machine.core.submit(id, request);
            self.asked.insert(id, op);
            self.stats.requests += 1;
        }
    }

    /// Gives the pool all the room it may want: nobody else would.
    fn relieve(&mut self) {
        self.tell(|| "all the room it may want".to_owned());
        self.machine.disks.leave_free(None, None);
        self.to_do.push_front(Op::Extend(2 * self.machine.core.status().data_blocks));
        self.ask();
        self.relief = Some(RequestId(self.next_id));
    }

    fn new_id(&mut self) -> RequestId {
        self.next_id += 1;
        RequestId(self.next_id)
    }

    /// A turn of the core; its operations reach the disks one by one, its replies the clients.
    fn turn(&mut self) -> Check {
        self.machine.turn();
        while let Some((side, ticket, operation)) = self.machine.core.next_operation() {
            self.tell(|| format!("    {side:?} {} {}", ticket.0, brief(&operation)));
            self.machine.disks.side(side).submit(ticket, operation);
            self.cut()?;
        }
        while let Some((id, reply)) = self.machine.core.next_reply() {
            if self.relief != Some(id) {
                self.silent_steps = 0;
            }
            self.asked.remove(&id);
            self.tell(|| format!("answer {} {}", id.0, brief(&reply)));
            self.model.reply(id, reply)?;
        }
        Ok(())
    }

    /// Ends a copy of the machine here, and looks at what is left.
    fn cut(&mut self) -> Check {
        self.stats.disk_events += 1;
        if self.config.cut_one_in == 0 || !self.cut_rng.one_in(self.config.cut_one_in) {
            return Ok(());
        }
        self.stats.crash_points += 1;
        let mut rng = self.cut_rng.fork();
        let (end, disks) = self.leave(rng.one_in(4), &mut rng);
        let verdict = examine::reopen(&self.model, disks, end, self.config, &mut rng, &mut self.stats);
        verdict.map(|_| ()).map_err(|violation| {
            Violation(format!("{end:?} at disk event {}: {violation}", self.stats.disk_events))
        })
    }

    fn leave(&self, kill: bool, rng: &mut Rng) -> (End, Disks) {
        if kill {
            (End::Kill, self.machine.disks.each(|disk| disk.kill(rng)))
        } else {
            (self.config.power_cut(), self.machine.disks.each(|disk| disk.power_cut(rng)))
        }
    }

    /// Ends the opening for good and goes on with the next one.
    fn end(&mut self, ending: Ending) -> Check {
        if ending == Ending::Close {
            self.close()?;
        }
        let mut rng = self.cut_rng.fork();
        let (end, disks) = self.leave(ending == Ending::Kill, &mut rng);
        let mut config = self.config.clone();
        config.check_one_in = 1;
        let found = examine::reopen(&self.model, disks, end, &config, &mut rng, &mut self.stats);
        let found = found.map_err(|violation| {
            Violation(format!("{ending:?} after disk event {}: {violation}", self.stats.disk_events))
        })?;
        self.model.rebase(&found.observed);
        self.machine = found.machine;
        self.machine.disks.set_order(Order::Random);
        let again = std::mem::take(&mut self.asked);
        again.into_values().rev().for_each(|op| self.to_do.push_front(op));
        self.stats.endings += 1;
        Ok(())
    }

    fn close(&mut self) -> Check {
        let id = self.new_id();
        let request = self.model.issue_close(id);
        self.machine.core.submit(id, request);
        let to_do = std::mem::take(&mut self.to_do);
        while self.model.pending() > 0 {
            self.step()?;
        }
        self.to_do = to_do;
        Ok(())
    }

    /// Everything was answered: looks at the running pool, closes it, and looks again.
    ///
    /// # Errors
    /// If a promise was broken.
    pub fn finish(mut self) -> Check<Stats> {
        let observed = self.machine.observe(1 << 16)?;
        observed.all_readable()?;
        self.model.verdict(End::Kill, &observed).into_check()?;
        self.end(Ending::Close)?;
        let size_bytes = self.machine.disks.data.size_bytes();
        self.stats.data_bytes_max = self.stats.data_bytes_max.max(size_bytes);
        Ok(self.stats)
    }
}

/// The beginning of what something looks like.
fn brief(what: &impl std::fmt::Debug) -> String {
    format!("{what:?}").chars().take(160).collect()
}
