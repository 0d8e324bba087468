//! Many seeds on several threads, until enough was done or one has failed.
//!
//! Owns counting, catching panics, and what the environment says: `VELLUM_SEED` runs one seed, `VELLUM_SEEDS`
//! multiplies the number of seeds.

use crate::model::{Check, Violation};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, Once};
use std::time::Duration;

/// What was done.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Seeds run to their end.
    pub runs: u64,
    /// Requests of clients.
    pub requests: u64,
    /// Submissions and completions of disk operations.
    pub disk_events: u64,
    /// Cuts of a copy, each with a recovery and a whole comparison.
    pub crash_points: u64,
    /// Recoveries.
    pub recoveries: u64,
    /// Recoveries that were cut short.
    pub recovery_cuts: u64,
    /// Runs of `check`.
    pub checks: u64,
    /// Openings that ended and were followed by another.
    pub endings: u64,
    /// Length of the longest data file.
    pub data_bytes_max: u64,
    /// Time spent, added up over threads.
    pub busy: Duration,
}

impl Stats {
    fn add(&mut self, other: &Self) {
        self.runs += other.runs;
        self.requests += other.requests;
        self.disk_events += other.disk_events;
        self.crash_points += other.crash_points;
        self.recoveries += other.recoveries;
        self.recovery_cuts += other.recovery_cuts;
        self.checks += other.checks;
        self.endings += other.endings;
        self.data_bytes_max = self.data_bytes_max.max(other.data_bytes_max);
        self.busy += other.busy;
    }

    /// Crash points a second on one core.
    pub fn crash_points_per_core_second(&self) -> f64 {
        self.crash_points as f64 / self.busy.as_secs_f64().max(1e-9)
    }
}

impl std::fmt::Display for Stats {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            out,
            "{} runs, {} requests, {} disk events, {} crash points, {} recoveries ({} cut short), {} checks, \
             {} endings, in {:.1} core seconds",
            self.runs,
            self.requests,
            self.disk_events,
            self.crash_points,
            self.recoveries,
            self.recovery_cuts,
            self.checks,
            self.endings,
            self.busy.as_secs_f64()
        )
    }
}

/// A seed that broke a promise.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// How.
    pub violation: Violation,
}

/// Many seeds.
#[derive(Clone, Copy, Debug)]
pub struct Campaign {
    /// The first seed; the others follow.
    pub first_seed: u64,
    /// Seeds at most.
    pub seeds: u64,
    /// Enough when there were so many crash points.
    pub crash_points: u64,
    /// Threads.
    pub threads: usize,
}

impl Campaign {
    /// Runs seeds until one fails or enough is done. The lowest failing seed is told.
    pub fn run(&self, job: impl Fn(u64) -> Check<Stats> + Sync) -> (Stats, Option<Failure>) {
        let next = AtomicU64::new(0);
        let total = Mutex::new((Stats::default(), None::<Failure>));
        std::thread::scope(|scope| {
            for _ in 0..self.threads {
                scope.spawn(|| self.work(&next, &total, &job));
            }
        });
        total.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn work(
        &self,
        next: &AtomicU64,
        total: &Mutex<(Stats, Option<Failure>)>,
        job: &(impl Fn(u64) -> Check<Stats> + Sync),
    ) {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= self.seeds {
                return;
            }
            let seed = self.first_seed + index;
            let begin = time_on_a_core();
            let result = guarded(|| job(seed));
            let mut total = total.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            match result {
                Ok(stats) => {
                    total.0.add(&Stats { runs: 1, busy: time_on_a_core().saturating_sub(begin), ..stats })
                }
                Err(violation) => {
                    if total.1.as_ref().is_none_or(|failure| seed < failure.seed) {
                        total.1 = Some(Failure { seed, violation });
                    }
                }
            }
            if total.1.is_some() || total.0.crash_points >= self.crash_points {
                return;
            }
        }
    }
}

/// Runs `job`; a panic is a violation too.
///
/// # Errors
/// What the job fails with, or its panic.
pub fn guarded<T>(job: impl FnOnce() -> Check<T>) -> Check<T> {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let loud = take_hook();
        set_hook(Box::new(move |panic| match GUARDED.get() {
            true => LAST_PANIC.set(panic.to_string()),
            false => loud(panic),
        }));
    });
    let before = GUARDED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(job));
    GUARDED.set(before);
    result.unwrap_or_else(|_| Err(Violation(format!("a panic: {}", LAST_PANIC.take()))))
}

thread_local! {
    /// Whether a panic of this thread is a finding, and nothing to print.
    static GUARDED: Cell<bool> = const { Cell::new(false) };
    static LAST_PANIC: Cell<String> = const { Cell::new(String::new()) };
}

/// The seed that the environment asks for, alone.
pub fn only_seed() -> Option<u64> {
    let text = std::env::var("VELLUM_SEED").ok()?;
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    Some(parsed.expect("VELLUM_SEED is a number"))
}

/// How many times the default number of seeds the environment asks for.
pub fn multiplier() -> u64 {
    std::env::var("VELLUM_SEEDS").map_or(1, |text| text.parse().expect("VELLUM_SEEDS is a number"))
}

/// How long this thread has run on a core: what else runs on the machine does not count.
fn time_on_a_core() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = text.split_whitespace().next().and_then(|first| first.parse().ok());
    Duration::from_nanos(nanoseconds.expect("the kernel tells how long a thread has run"))
}
