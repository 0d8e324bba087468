//! A pool on files of its own and a server over it, for one test.
//!
//! Owns the folder, which goes when the test is over. Read next: `harness/nbd_client.rs`, the other side.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use vellum_engine::error::ErrorKind;
use vellum_engine::options::{CreateOptions, OpenOptions};
use vellum_engine::request::{NewVolume, Outcome, Request};
use vellum_engine::storage::{CacheMode, DiskFile, FileDisk, ReactorKind};
use vellum_nbd_server::{Config, Handle, Limits, Server};
use vellum_tests::nbd_client::NbdClient;

/// Both ways to files and sockets.
pub const REACTORS: [ReactorKind; 2] = [ReactorKind::Ring, ReactorKind::Threads];
/// Size of the volume `disk`.
pub const DISK_BYTES: u64 = 256 << 20;
/// Size of the volume `huge`.
pub const HUGE_BYTES: u64 = 1 << 44;

/// Tests that measure the whole process take this for themselves, where tests share a process.
static PROCESS: RwLock<()> = RwLock::new(());

/// The files of a pool.
pub struct PoolFiles {
    folder: TempDir,
    mode: CacheMode,
    /// Not while another test measures.
    _together: Option<RwLockReadGuard<'static, ()>>,
}

/// Nobody else runs until this is dropped.
pub fn alone() -> RwLockWriteGuard<'static, ()> {
    PROCESS.write().unwrap_or_else(PoisonError::into_inner)
}

impl PoolFiles {
    /// A new pool of 512 MiB; none if the file system does not have this mode.
    pub fn create(mode: CacheMode) -> Option<Self> {
        let together = PROCESS.read().unwrap_or_else(PoisonError::into_inner);
        Some(Self { _together: Some(together), ..Self::create_unshared(mode)? })
    }

    /// As [`PoolFiles::create`], for a test that is [`alone`].
    pub fn create_unshared(mode: CacheMode) -> Option<Self> {
        let folder = tempfile::Builder::new().prefix("nbd-").tempdir_in(env!("CARGO_TARGET_TMPDIR"));
        let files = Self { folder: folder.expect("a folder can be made"), mode, _together: None };
        let made = |name| match DiskFile::create(files.path(name), 0, mode) {
            Err(error) if error.kind() == ErrorKind::Unsupported => None,
            other => Some(Arc::new(other.expect("a file can be made"))),
        };
        let (data, metadata) = (made("data")?, made("metadata")?);
        let options = CreateOptions {
            data_blocks: 8 * 1024,
            log_blocks: 128,
            uuid: [1; 16],
            secret: 42,
            created_unix_s: 0,
        };
        vellum_engine::create(&mut FileDisk::over(data), &mut FileDisk::over(metadata), &options)
            .expect("a pool can be made");
        Some(files)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Opens the pool, recovering it if need be, and serves it at `socket`.
    pub fn serve(&self, config: Config) -> Serving {
        let opened =
            |name| Arc::new(DiskFile::open(self.path(name), self.mode).expect("nobody else has the pool"));
        let (data, metadata) = (opened("data"), opened("metadata"));
        let options = OpenOptions { slab_blocks: 128, enforce_limits: true, ..OpenOptions::default() };
        let core = vellum_engine::open(
            &mut FileDisk::over(data.clone()),
            &mut FileDisk::over(metadata.clone()),
            &options,
        )
        .expect("the pool opens");
        let mut server = Server::start(core, data, metadata, config).expect("the server starts");
        let socket = self.path("socket");
        server.listen_unix(&socket).expect("the socket can be made");
        Serving { handle: server.handle(), server, socket }
    }

    /// The findings of a check of the pool, which nobody may have open.
    pub fn check(&self) -> Vec<String> {
        let opened = |name| FileDisk::open(self.path(name)).expect("nobody else has the pool");
        vellum_tests::adapter::check(&mut opened("data"), &mut opened("metadata")).expect("it can be checked")
    }
}

/// A server and where it is.
pub struct Serving {
    pub server: Server,
    pub handle: Handle,
    pub socket: PathBuf,
}

impl Serving {
    pub fn create_volume(&self, name: &str, size_bytes: u64) {
        let new = new_volume(name);
        self.handle
            .request(Request::CreateVolume { new, size_bytes, reservation_bytes: 0 })
            .expect("the volume can be made");
    }

    /// Freezes `volume` as `volume@name`.
    pub fn snapshot(&self, volume: &str, name: &str) {
        let id = self.handle.volume(volume).expect("the volume is there").id;
        let cuts = vec![(id, new_volume(&format!("{volume}@{name}")))];
        let made = self.handle.request(Request::Snapshot { cuts }).expect("the snapshot can be made");
        assert!(matches!(made, Outcome::Created(ids) if ids.len() == 1));
    }

    pub fn client(&self, export: &str) -> NbdClient {
        NbdClient::open(&self.socket, export).expect("the server agrees")
    }

    pub fn structured(&self, export: &str, contexts: &[&str]) -> NbdClient {
        NbdClient::open_structured(&self.socket, export, contexts).expect("the server agrees")
    }

    /// A client that has received the greeting and sent its flags.
    pub fn greeted(&self) -> NbdClient {
        let mut client = NbdClient::connect(&self.socket).expect("the server is there");
        client.greet().expect("the server greets");
        client
    }

    /// Waits until nobody is connected.
    pub fn wait_until_alone(&self, within: Duration) {
        assert!(until(within, || self.handle.connections() == 0), "{} are left", self.handle.connections());
    }

    pub fn stop(self) {
        let Self { server, handle, .. } = self;
        drop(handle);
        server.stop().expect("the pool closes");
    }
}

/// A new pool with `disk` and `huge`, served by this reactor.
pub fn serve(reactor: ReactorKind) -> (PoolFiles, Serving) {
    serve_within(reactor, Limits::default())
}

/// As [`serve`], with limits.
pub fn serve_within(reactor: ReactorKind, limits: Limits) -> (PoolFiles, Serving) {
    filled(PoolFiles::create(CacheMode::Writeback), reactor, limits)
}

/// As [`serve_within`], for a test that is [`alone`].
pub fn serve_unshared(reactor: ReactorKind, limits: Limits) -> (PoolFiles, Serving) {
    filled(PoolFiles::create_unshared(CacheMode::Writeback), reactor, limits)
}

fn filled(files: Option<PoolFiles>, reactor: ReactorKind, limits: Limits) -> (PoolFiles, Serving) {
    let files = files.expect("every file system has this mode");
    let serving = files.serve(config(reactor, limits));
    serving.create_volume("disk", DISK_BYTES);
    serving.create_volume("huge", HUGE_BYTES);
    (files, serving)
}

pub fn config(reactor: ReactorKind, limits: Limits) -> Config {
    Config { threads: 2, reactor, limits, ..Config::default() }
}

/// Asks until it is so; whether it became so in time.
pub fn until(within: Duration, mut is_so: impl FnMut() -> bool) -> bool {
    let late = Instant::now() + within;
    loop {
        if is_so() {
            return true;
        }
        if Instant::now() > late {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Bytes that differ from place to place.
pub fn pattern(seed: u64, length: usize) -> Vec<u8> {
    let mut rng = vellum_tests::rng::Rng::new(seed);
    let mut bytes: Vec<u8> = (0..length.div_ceil(8)).flat_map(|_| rng.bits().to_le_bytes()).collect();
    bytes.truncate(length);
    bytes
}

/// Open descriptors of this process.
pub fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

/// Memory of this process that is in use, in bytes.
pub fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) << 10
}

/// Whether a file is there, whatever it is.
pub fn is_there(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok()
}

fn new_volume(name: &str) -> NewVolume {
    NewVolume { name: name.to_owned(), uuid: [7; 16], created_unix_s: 0 }
}
