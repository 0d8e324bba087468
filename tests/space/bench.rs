//! A served pool that is soon full, and fio.
//!
//! Owns the words of settings and status that all these tests use.

use std::process::Command;
use std::thread::{self, JoinHandle};
use std::time::Duration;
use vellum_tests::nbd_client::NbdClient;
use vellum_tests::place::Place;
use vellum_tests::program::{PATIENCE, Pool, Ran, Served, run_within, wait_for, wait_within};

/// A number from the environment.
pub fn environment(name: &str, default: u64) -> u64 {
    let Ok(text) = std::env::var(name) else { return default };
    text.parse().unwrap_or_else(|_| panic!("{name} must be a number, not `{text}`"))
}

/// How long writes are left waiting, and how long a time-out is.
pub fn stall_time() -> Duration {
    Duration::from_secs(environment("VELLUM_STALL_SECONDS", 2).max(1))
}

/// How long anything may take that may have to wait for a stall.
pub fn patience() -> Duration {
    PATIENCE + 2 * stall_time()
}

/// A served pool with the volume `disk`.
pub struct Bench {
    pub pool: Pool,
    served: Served,
    volume_size: String,
    // After the server, which has files in it.
    _place: Place,
}

impl Bench {
    /// A pool of 128 MiB, of which the log takes 4, in the temporary directory; the volume has twice as much.
    pub fn small(settings: &[&str]) -> Self {
        Self::new(Place::new("ext4"), "128M", "256M", settings)
    }

    /// A pool that never grows by itself.
    pub fn new(place: Place, size: &str, volume_size: &str, settings: &[&str]) -> Self {
        let pool = Pool::new(env!("CARGO_BIN_EXE_vellum"), place.path("pool"));
        pool.ok(&["pool", "create", "--size", size, "--no-auto-extend"]);
        if !settings.is_empty() {
            pool.ok(&[&["pool", "set"], settings].concat());
        }
        let served = serve(&pool, volume_size);
        Self { pool, served, volume_size: volume_size.to_owned(), _place: place }
    }

    /// Kills the server as a power switch would, and serves the pool again.
    pub fn kill_and_serve(self) -> Self {
        self.served.kill();
        let served = serve(&self.pool, &self.volume_size);
        Self { served, ..self }
    }

    /// The process that serves.
    pub fn server(&self) -> u32 {
        self.served.pid()
    }

    /// A client of `export`, which waits for replies as long as a stall may take.
    pub fn client(&self, export: &str) -> NbdClient {
        let client = NbdClient::open(&self.pool.file("nbd.sock"), export).unwrap();
        client.stream().set_read_timeout(Some(patience())).unwrap();
        client
    }

    /// The pool's state.
    pub fn status(&self) -> Status {
        Status(serde_json::from_str(&self.pool.ok(&["--json", "pool", "status"])).unwrap())
    }

    /// Waits until so many writes wait for space that does not come by itself.
    pub fn wait_for_waiting(&self, writes: u64) -> Status {
        wait_within(patience(), "a write that waits for space", || {
            let status = self.status();
            (status.is_stalled() && status.number("waiting_writes") >= writes).then_some(status)
        })
    }

    /// Waits until nobody waits for space.
    pub fn wait_for_nobody(&self) {
        wait_for("the end of all waiting", || (self.status().number("waiting_writes") == 0).then_some(()));
    }

    /// Starts fio on the volume: writes from the start of each job's own part, and verifies. Gives what comes of it.
    pub fn fio(&self, jobs: u64, mebibytes_each: u64, more: &[&str]) -> JoinHandle<Ran> {
        let mut command = Command::new("fio");
        let common = ["--name=disk", "--ioengine=nbd", "--thread", "--group_reporting", "--randseed=42"];
        command.args(common).args(["--iodepth=16", "--verify=crc32c", "--do_verify=1", "--verify_fatal=1"]);
        command.args(["--verify_state_save=0", "--rw=randwrite", "--bssplit=4k/30:64k/40:256k/30"]);
        command.arg(format!("--uri={}", self.pool.uri("disk")));
        command.arg(format!("--size={mebibytes_each}m")).arg(format!("--numjobs={jobs}"));
        command.arg(format!("--offset_increment={mebibytes_each}m")).args(more);
        thread::spawn(move || {
            run_within(patience(), &mut command).expect("fio is missing: apt-get install fio")
        })
    }

    /// Stops the server, and has the pool checked.
    pub fn finish(self) {
        self.served.stop();
        self.pool.ok(&["pool", "check"]);
    }
}

fn serve(pool: &Pool, volume_size: &str) -> Served {
    pool.serve(&["--volume", &format!("disk={volume_size}"), "--threads", "2"])
}

/// What the pool says of itself.
#[derive(Debug)]
pub struct Status(serde_json::Value);

impl Status {
    /// A number.
    pub fn number(&self, key: &str) -> u64 {
        self.0[key].as_u64().unwrap_or_else(|| panic!("no number `{key}` in {}", self.0))
    }

    /// Whether there is no room, and somebody waits. A write waits for a moment, too, while blocks are made ready.
    pub fn is_stalled(&self) -> bool {
        let state = self.0["space_state"].as_str();
        let state = state.unwrap_or_else(|| panic!("no `space_state` in {}", self.0));
        state == "out-of-space" && self.number("waiting_writes") > 0
    }
}

/// fio must have ended well: nothing failed, and everything was verified.
pub fn must_be_well(fio: JoinHandle<Ran>) {
    let ran = fio.join().expect("fio ends");
    assert_eq!(ran.code, Some(0), "fio: {}{}", ran.out, ran.err);
}
