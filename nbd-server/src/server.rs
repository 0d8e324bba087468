//! A pool being served: its threads, where clients arrive, and what others may ask of it meanwhile.
//!
//! Owns starting and stopping. A stop takes no more clients, answers what was asked, writes a checkpoint and leaves a
//! pool that opens at once.

use crate::limits::Limits;
use crate::listener::Listener;
use crate::shared::{Inbox, Message, Shared};
use crate::worker::Worker;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use vellum_engine::error::{Error, ErrorKind, Result};
use vellum_engine::request::{Reply, Request};
use vellum_engine::settings::Settings;
use vellum_engine::storage::{DiskFile, ReactorKind, reactor};
use vellum_engine::{Core, PoolStatus, SpaceEvent, VolumeInfo};

/// How a server is run.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Threads that serve clients; 0 for one a processor.
    pub threads: usize,
    /// How they reach files and sockets.
    pub reactor: ReactorKind,
    /// What one client may take.
    pub limits: Limits,
    /// The volume or snapshot that a client gets which names none. Without it such a client is refused.
    pub default_export: Option<String>,
    /// Where what happens to the pool's space is told. The other end learns of the server's end by its closing.
    pub space_events: Option<mpsc::Sender<SpaceEvent>>,
}

/// A pool being served.
pub struct Server {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    listeners: Vec<Listener>,
    reactor_name: &'static str,
}

/// A way to a served pool for those who are not clients.
#[derive(Clone)]
pub struct Handle(Arc<Shared>);

impl Server {
    /// Serves the pool of `core`, whose files are `data` and `metadata`. No clients arrive before a `listen`.
    pub fn start(
        core: Core,
        data: Arc<DiskFile>,
        metadata: Arc<DiskFile>,
        config: Config,
    ) -> io::Result<Self> {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let kind = config.reactor;
        let threads = if config.threads == 0 { processors } else { config.threads };
        let inboxes = (0..threads).map(|_| Inbox::new()).collect::<io::Result<Vec<_>>>()?;
        let files = [data, metadata];
        let shared = Arc::new(Shared::new(core, files, inboxes, config));
        let mut server =
            Self { shared, threads: Vec::new(), listeners: Vec::new(), reactor_name: "io_uring" };
        for index in 0..threads {
            if let Err(cause) = server.start_thread(index, kind) {
                server.stop_threads();
                return Err(cause);
            }
        }
        Ok(server)
    }

    fn start_thread(&mut self, index: usize, kind: ReactorKind) -> io::Result<()> {
        let (ready, started) = mpsc::sync_channel(1);
        let shared = self.shared.clone();
        let builder = std::thread::Builder::new().name(format!("serve-{index}"));
        let thread = builder.spawn(move || serve(index, shared, kind, &ready))?;
        self.threads.push(thread);
        let (name, why_not_ring) =
            started.recv().map_err(|_| io::Error::other("a thread ended at once"))??;
        self.reactor_name = name;
        if let Some(cause) = why_not_ring.filter(|_| index == 0) {
            log::warn!(
                "serving with threads: io_uring cannot be used here ({cause}); it needs Linux 6.1 or newer"
            );
        }
        Ok(())
    }

    /// Takes clients at a Unix socket that only this user may open. A socket file that nobody answers at is replaced.
    pub fn listen_unix(&mut self, path: &Path) -> io::Result<()> {
        let handle = self.handle();
        self.listeners.push(Listener::unix(path, move |client| handle.connect(client))?);
        Ok(())
    }

    /// Takes clients at a TCP address. The address that it became comes back: port 0 takes any.
    pub fn listen_tcp(&mut self, address: SocketAddr) -> io::Result<SocketAddr> {
        let handle = self.handle();
        let (listener, address) = Listener::tcp(address, move |client| handle.connect(client))?;
        self.listeners.push(listener);
        Ok(address)
    }

    /// A way in for others, as long as the server runs.
    pub fn handle(&self) -> Handle {
        Handle(self.shared.clone())
    }

    /// How files and sockets are reached: `io_uring` or `threads`.
    pub fn reactor_name(&self) -> &'static str {
        self.reactor_name
    }

    /// Takes no more clients, answers what was asked, ends the connections and closes the pool.
    ///
    /// An error says that the pool was not closed; the next opening recovers it.
    pub fn stop(mut self) -> Result<()> {
        self.listeners.clear();
        self.put_to_all(|| Message::Drain);
        let late = Instant::now() + self.shared.limits.drain;
        while self.shared.connections() > 0 && Instant::now() < late {
            std::thread::sleep(Duration::from_millis(5));
        }
        let closed = self.handle().request(Request::Close).map(drop);
        self.stop_threads();
        closed
    }

    fn put_to_all(&self, message: impl Fn() -> Message) {
        for inbox in &self.shared.inboxes {
            inbox.put(message());
        }
    }

    fn stop_threads(&mut self) {
        self.put_to_all(|| Message::Stop);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        // Only now: a thread that left before the others may still be told of their answers.
        self.shared.inboxes.iter().for_each(Inbox::close);
        self.shared.tell_no_more();
    }
}

impl Drop for Server {
    /// A server that was not stopped leaves its pool as a killed process would.
    fn drop(&mut self) {
        self.listeners.clear();
        self.stop_threads();
    }
}

impl Handle {
    /// Serves the client at the other end of `socket`, or turns it away when there are too many.
    pub fn connect(&self, socket: OwnedFd) {
        let limit = self.0.limits.connections;
        if self.0.connections() >= limit {
            return log::warn!("a client was turned away: {limit} are connected already");
        }
        let load = |inbox: &&crate::shared::Inbox| inbox.connections.load(Ordering::Acquire);
        if let Some(inbox) = self.0.inboxes.iter().min_by_key(load) {
            inbox.connections.fetch_add(1, Ordering::AcqRel);
            if !inbox.put(Message::Connection(socket)) {
                inbox.connections.fetch_sub(1, Ordering::AcqRel);
            }
        }
    }

    /// Asks the engine and waits for the answer. What would take something from connected clients is refused.
    pub fn request(&self, request: Request) -> Reply {
        self.ask(|answer| Message::Control(request, answer))
    }

    /// As [`Handle::request`]; clients that are in the way of a change are disconnected instead of refusing it.
    pub fn request_forced(&self, request: Request) -> Reply {
        self.ask(|answer| Message::Forced(request, answer))
    }

    fn ask(&self, message: impl FnOnce(mpsc::SyncSender<Reply>) -> Message) -> Reply {
        let (answer, answered) = mpsc::sync_channel(1);
        let gone = || Error::new(ErrorKind::Io, "the server has stopped");
        self.0.inboxes.first().ok_or_else(gone)?.put(message(answer));
        answered.recv().unwrap_or_else(|_| Err(gone()))
    }

    /// The state of the pool.
    pub fn status(&self) -> PoolStatus {
        let now_ms = self.0.now_ms();
        let mut engine = self.0.lock();
        engine.core.pass_time(now_ms);
        engine.core.status()
    }

    /// What the pool does about space.
    pub fn settings(&self) -> Settings {
        self.0.lock().core.settings().clone()
    }

    /// All volumes and snapshots, by number.
    pub fn volumes(&self) -> Vec<VolumeInfo> {
        self.0.lock().core.volumes()
    }

    /// The volume or snapshot of this name.
    pub fn volume(&self, name: &str) -> Option<VolumeInfo> {
        self.0.lock().core.volume(name)
    }

    /// Clients that are connected.
    pub fn connections(&self) -> usize {
        self.0.connections()
    }

    /// Bytes that the host has allocated for the data file and the metadata file.
    pub fn host_bytes(&self) -> io::Result<(u64, u64)> {
        let [data, metadata] = &self.0.files;
        Ok((data.host_bytes()?, metadata.host_bytes()?))
    }
}

type Started = io::Result<(&'static str, Option<io::Error>)>;

/// What a serving thread does, from its start to its end.
fn serve(index: usize, shared: Arc<Shared>, kind: ReactorKind, ready: &mpsc::SyncSender<Started>) {
    // A client of this machine that writes back its cache through us must not wait for us to write back ours.
    let _ = rustix::process::configure_io_flusher_behavior(true);
    let (reactor, why_not_ring) = match reactor(kind, &shared.files, &shared.inboxes[index].waker) {
        Ok(made) => made,
        Err(cause) => return drop(ready.send(Err(cause))),
    };
    if ready.send(Ok((reactor.name(), why_not_ring))).is_err() {
        return;
    }
    let worker = Worker::new(index, shared, reactor);
    let ended = std::panic::catch_unwind(AssertUnwindSafe(|| worker.run()));
    let cause = match ended {
        Ok(Ok(())) => return,
        Ok(Err(cause)) => cause.to_string(),
        Err(_) => "it contradicted itself".to_owned(),
    };
    // What was acknowledged is in the log. Going on with half a decision could cost it.
    log::error!("a serving thread failed: {cause}; the process ends, the next start recovers the pool");
    std::process::abort();
}
