//! One run: a server, writers, somebody who takes snapshots, kills, and a look at everything after each.
//!
//! Owns the threads and the choice of moments. Requests and moments come from the seed; how they meet does not.

use crate::history::{History, Presence};
use std::collections::HashSet;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};
use std::{panic, thread};
use vellum_tests::nbd_client::{NbdClient, Reply, command, flag, request_bytes};
use vellum_tests::place::Place;
use vellum_tests::program::{Pool, Process, Served, wait_for};
use vellum_tests::rng::Rng;
use vellum_tests::tag::{UNIT, WriteNumber, payload};

const UNITS: u64 = (16 << 20) / UNIT as u64;
const SECTOR_UNITS: u64 = 8;
const WRITE_UNITS_MAX: u64 = 128;
const ZERO_UNITS_MAX: u64 = 1024;
const CONNECTIONS: u64 = 4;
const SNAPSHOTS_MAX: usize = 3;
const ANSWERS_MAX: u64 = 4000;
const READ_BYTES: u32 = 1 << 20;

/// A number from the environment.
pub fn environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} must be a number")))
}

/// A pool and all that is known of it.
pub struct Campaign<'p> {
    _place: &'p Place,
    pool: Pool,
    arguments: Vec<String>,
    seed: u64,
    rng: Rng,
    history: Mutex<History>,
    snapshots_made: u64,
}

/// What the snapshot taker was doing.
enum Doing {
    Taking(String),
    Deleting(String),
}

impl<'p> Campaign<'p> {
    /// Nothing is started yet.
    pub fn new(place: &'p Place, cache: &str, seed: u64) -> Self {
        let pool = Pool::new(env!("CARGO_BIN_EXE_vellum"), place.path("pool"));
        let io = if seed.is_multiple_of(2) { "threads" } else { "auto" };
        let arguments =
            ["--create", "256M", "--volume", "disk=16M", "--cache", cache, "--io", io, "--threads", "2"];
        let arguments = arguments.map(str::to_owned).to_vec();
        let history = Mutex::new(History::new(UNITS));
        Self { _place: place, pool, arguments, seed, rng: Rng::new(seed), history, snapshots_made: 0 }
    }

    /// Kills the server so many times, looks at everything each time, and has the pool checked at the end.
    pub fn run(mut self, kills: u64) {
        let seed = self.seed;
        let mut kill = 0;
        let outcome = panic::catch_unwind(panic::AssertUnwindSafe(|| {
            while kill < kills {
                kill += 1 + self.round();
            }
            self.serve().stop();
            self.pool.ok(&["pool", "check"]);
        }));
        if let Err(cause) = outcome {
            println!("failed in kill {kill} of {kills}: VELLUM_SEED={seed} VELLUM_KILLS={}", kills * 6);
            panic::resume_unwind(cause);
        }
        println!("{} requests answered", self.history().answered);
    }

    /// Writes, kills, and looks. Gives how many more kills there were under living writers and in recovery.
    fn round(&mut self) -> u64 {
        let mut more = 0;
        let is_over = AtomicBool::new(false);
        let mut served = self.serve();
        let writers: Vec<Rng> = (0..CONNECTIONS).map(|_| self.rng.fork()).collect();
        let history = &self.history;
        let socket = &self.pool.file("nbd.sock");
        let mut rng = self.rng.fork();
        let mut doing = None;
        let mut made = self.snapshots_made;
        thread::scope(|scope| {
            // A panic here must end the writers too.
            let _ends = EndsOnDrop(&is_over);
            for rng in writers {
                let is_over = &is_over;
                scope.spawn(move || {
                    Writer { history, socket, rng, is_over, in_flight: HashSet::new() }.write()
                });
            }
            loop {
                let kills_at = self.answered() + rng.below(ANSWERS_MAX);
                let mut snapshots = rng.below(3);
                while snapshots > 0 && self.answered() < kills_at {
                    snapshots -= 1;
                    self.wait_for_answers(self.answered() + rng.below(ANSWERS_MAX / 4));
                    self.change_snapshots(&mut rng, &mut made);
                }
                self.wait_for_answers(kills_at);
                // Half of the kills come while a snapshot is taken or deleted.
                let in_snapshot = rng.one_in(2).then(|| self.begin_snapshot_change(&mut rng, &mut made));
                spin(Duration::from_micros(rng.below(4000)));
                served.kill();
                if let Some((what, process)) = in_snapshot {
                    doing = self.end_snapshot_change(what, process);
                }
                let goes_on = doing.is_none() && rng.one_in(3);
                if !goes_on {
                    return;
                }
                // The writers live on, and come back to the next server.
                more += 1;
                served = self.serve();
            }
        });
        self.snapshots_made = made;
        self.history().server_died();
        while self.rng.one_in(3) {
            more += 1;
            self.kill_while_it_opens();
        }
        let served = self.serve();
        if let Some(doing) = doing {
            self.look_for(doing);
        }
        self.compare_all();
        if self.rng.one_in(4) {
            // In order for once.
            served.stop();
            self.serve().kill();
        } else {
            served.kill();
        }
        more
    }

    fn serve(&self) -> Served {
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        self.pool.serve(&arguments)
    }

    fn kill_while_it_opens(&mut self) {
        let mut arguments = vec!["serve"];
        arguments.extend(self.arguments.iter().map(String::as_str));
        let mut process = Process::start(&mut self.pool.command(arguments));
        spin(Duration::from_micros(self.rng.below(30_000)));
        process.kill();
    }

    fn history(&self) -> MutexGuard<'_, History> {
        lock(&self.history)
    }

    fn answered(&self) -> u64 {
        self.history().answered
    }

    fn wait_for_answers(&self, count: u64) {
        wait_for("the next answer", || (self.answered() >= count).then_some(()));
    }

    fn change_snapshots(&self, rng: &mut Rng, made: &mut u64) {
        let (what, process) = self.begin_snapshot_change(rng, made);
        assert!(self.end_snapshot_change(what, process).is_none(), "a snapshot could not be made or deleted");
    }

    /// Takes a snapshot, or deletes the oldest, by a program of its own.
    fn begin_snapshot_change(&self, rng: &mut Rng, made: &mut u64) -> (Doing, Process) {
        let known = self.history().snapshots();
        let deletes = known.len() >= SNAPSHOTS_MAX || (!known.is_empty() && rng.one_in(3));
        if deletes {
            let name = rng.pick(&known).0.clone();
            self.history().begin_deletion(&name);
            let process = Process::start(&mut self.pool.command(["snapshot", "delete", &name]));
            return (Doing::Deleting(name), process);
        }
        *made += 1;
        let name = format!("disk@{made:06}");
        self.history().begin_snapshot(&name);
        let process = Process::start(&mut self.pool.command(["snapshot", "create", &name]));
        (Doing::Taking(name), process)
    }

    /// Gives back what was to be done if nobody knows whether it was.
    fn end_snapshot_change(&self, what: Doing, mut process: Process) -> Option<Doing> {
        if process.wait("the end of a snapshot command") != Some(0) {
            return Some(what);
        }
        match what {
            Doing::Taking(name) => self.history().end_snapshot(&name),
            Doing::Deleting(name) => self.history().forget_snapshot(&name),
        }
        None
    }

    /// Whether it was done after all.
    fn look_for(&self, what: Doing) {
        let (Doing::Taking(name) | Doing::Deleting(name)) = what;
        if self.snapshots().contains(&name) {
            self.history().confirm_snapshot(&name);
        } else {
            self.history().forget_snapshot(&name);
        }
    }

    fn snapshots(&self) -> Vec<String> {
        let list: serde_json::Value =
            serde_json::from_str(&self.pool.ok(&["--json", "snapshot", "list"])).unwrap();
        let names = list["snapshots"].as_array().unwrap().iter();
        names.map(|snapshot| snapshot["name"].as_str().unwrap().to_owned()).collect()
    }

    fn compare_all(&self) {
        let known = self.history().snapshots();
        assert!(known.iter().all(|(_, presence)| *presence == Presence::There));
        let names: Vec<String> = known.into_iter().map(|(name, _)| name).collect();
        assert_eq!(self.snapshots(), names, "snapshots on disk, and those that must be there");
        self.compare("disk", None);
        for name in &names {
            self.compare(name, Some(name));
        }
    }

    fn compare(&self, export: &str, snapshot: Option<&str>) {
        let mut client = NbdClient::open(&self.pool.file("nbd.sock"), export).unwrap();
        for offset in (0..UNITS * UNIT as u64).step_by(READ_BYTES as usize) {
            let bytes = client.read(0, offset, READ_BYTES).unwrap().expect("what was written can be read");
            let same = self.history().compare(snapshot, offset / UNIT as u64, &bytes);
            same.unwrap_or_else(|difference| panic!("{difference}"));
        }
    }
}

/// Ends the writers, however the scope is left.
struct EndsOnDrop<'o>(&'o AtomicBool);

impl Drop for EndsOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// One connection that writes until it is over, and comes back to a new server.
struct Writer<'h> {
    history: &'h Mutex<History>,
    socket: &'h PathBuf,
    rng: Rng,
    is_over: &'h AtomicBool,
    in_flight: HashSet<WriteNumber>,
}

impl Writer<'_> {
    fn write(mut self) {
        while !self.is_over() {
            // The socket of a dead server refuses; the next one makes it anew.
            let Some(mut client) = unless_gone(NbdClient::open(self.socket, "disk")) else {
                thread::sleep(Duration::from_millis(1));
                continue;
            };
            self.in_flight.drain().for_each(|write| lock(self.history).give_up(write));
            while !self.is_over() && self.exchange(&mut client).is_some() {}
        }
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }

    /// Sends until enough is in flight, then takes one answer. `None` when the server is gone.
    fn exchange(&mut self, client: &mut NbdClient) -> Option<()> {
        let depth = *self.rng.pick(&[1, 4, 16, 32]);
        while self.in_flight.len() < depth {
            let request = self.request();
            if unless_gone(client.send(&request)).is_none() {
                // What it had answered before it died is an answer.
                while self.receive(client).is_some() {}
                return None;
            }
        }
        self.receive(client)
    }

    /// The bytes of a new request.
    fn request(&mut self) -> Vec<u8> {
        let rng = &mut self.rng.fork();
        let fua = if rng.one_in(16) { flag::FUA } else { 0 };
        match rng.below(20) {
            0 => {
                let flush = self.issue(0..0, false);
                request_bytes(0, command::FLUSH, flush.0, 0, 0).to_vec()
            }
            1 | 2 => {
                let units = range(rng, ZERO_UNITS_MAX);
                let write = self.issue(units.clone(), true);
                let no_hole = if rng.one_in(2) { flag::NO_HOLE } else { 0 };
                let (offset, length) = bytes_of(&units);
                request_bytes(fua | no_hole, command::WRITE_ZEROES, write.0, offset, length).to_vec()
            }
            3 => {
                // Only whole sectors become zeros; the edges stay as they are.
                let units = range(rng, ZERO_UNITS_MAX);
                let start = units.start.next_multiple_of(SECTOR_UNITS);
                let end = units.end / SECTOR_UNITS * SECTOR_UNITS;
                let write = self.issue(start..end.max(start), true);
                let (offset, length) = bytes_of(&units);
                request_bytes(fua, command::TRIM, write.0, offset, length).to_vec()
            }
            _ => {
                let units = range(rng, WRITE_UNITS_MAX);
                let write = self.issue(units.clone(), false);
                let (offset, length) = bytes_of(&units);
                let mut bytes = request_bytes(fua, command::WRITE, write.0, offset, length).to_vec();
                bytes.extend(payload(write, offset, u64::from(length)));
                bytes
            }
        }
    }

    fn issue(&mut self, units: Range<u64>, zeros: bool) -> WriteNumber {
        let write = lock(self.history).issue(units, zeros);
        self.in_flight.insert(write);
        write
    }

    fn receive(&mut self, client: &mut NbdClient) -> Option<()> {
        let Reply::Simple { error, cookie } = unless_gone(client.reply())? else {
            panic!("a chunk where simple replies were agreed on");
        };
        assert_eq!(error, 0, "request {cookie} failed");
        assert!(
            self.in_flight.remove(&WriteNumber(cookie)),
            "request {cookie} is answered, but was not sent"
        );
        lock(self.history).answer(WriteNumber(cookie));
        Some(())
    }
}

/// `None` if the server is not there, or not any more; anything else that goes wrong is a failure.
fn unless_gone<T>(outcome: std::io::Result<T>) -> Option<T> {
    use std::io::ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset, NotFound, UnexpectedEof};
    outcome
        .map_err(|cause| {
            let gone = [BrokenPipe, ConnectionRefused, ConnectionReset, NotFound, UnexpectedEof];
            assert!(gone.contains(&cause.kind()), "{cause}");
        })
        .ok()
}

/// Small ones more often than large ones, and now and then the same place again.
fn range(rng: &mut Rng, most: u64) -> Range<u64> {
    let most = *rng.pick(&[1, 8, most / 4, most]);
    let count = rng.between(1, most);
    let limit = if rng.one_in(3) { 2048 } else { UNITS };
    let first = rng.below(limit - count + 1);
    let first = if rng.one_in(2) { first / SECTOR_UNITS * SECTOR_UNITS } else { first };
    first..first + count
}

fn bytes_of(units: &Range<u64>) -> (u64, u32) {
    (units.start * UNIT as u64, ((units.end - units.start) * UNIT as u64) as u32)
}

/// Waits without giving the processor away, so that short moments are met.
fn spin(time: Duration) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        std::hint::spin_loop();
    }
}

/// A writer that failed an assertion is told by its own panic, not by whoever asks next.
fn lock(history: &Mutex<History>) -> MutexGuard<'_, History> {
    history.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
