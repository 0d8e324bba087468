//! What the threads of a server share: the engine behind its lock, and a letter box for each thread.
//!
//! Owns the lock. It is held while the engine decides and never across I/O.

use crate::changes::Changes;
use crate::limits::Limits;
use crate::server::Config;
use rustc_hash::FxHashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Instant;
use vellum_engine::request::{Reply, Request, RequestId};
use vellum_engine::storage::{DiskFile, Waker};
use vellum_engine::units::VolumeId;
use vellum_engine::{Core, SpaceEvent};

/// The engine, and who uses what of it.
pub struct Engine {
    /// All decisions.
    pub core: Core,
    /// Connections to each volume and snapshot.
    pub connected: FxHashMap<VolumeId, usize>,
    /// Requests that change volumes under their clients.
    pub changes: Changes,
}

/// What one thread asks of another.
pub enum Message {
    /// Serve this client.
    Connection(OwnedFd),
    /// The engine answered one of yours: your number for it, and the answer.
    Reply(u64, Reply),
    /// Ask the engine for somebody who is not a client.
    Control(Request, mpsc::SyncSender<Reply>),
    /// The same; clients that are in its way are disconnected.
    Forced(Request, mpsc::SyncSender<Reply>),
    /// The clients that your request of this number waited for are gone.
    Submit(RequestId, Request),
    /// End the connections to these volumes at once.
    Disconnect(Vec<VolumeId>),
    /// Take no more requests, finish what is there, end the connections.
    Drain,
    /// Leave.
    Stop,
}

/// Where a thread finds its messages.
pub struct Inbox {
    /// None once the thread has left: a message that nobody will read is dropped, and who waits for its answer learns it.
    messages: Mutex<Option<Vec<Message>>>,
    /// Ends the thread's wait.
    pub waker: Waker,
    /// Connections that the thread serves.
    pub connections: AtomicUsize,
}

impl Inbox {
    /// An empty one.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self {
            messages: Mutex::new(Some(Vec::new())),
            waker: Waker::new()?,
            connections: AtomicUsize::new(0),
        })
    }

    /// Leaves a message and wakes the thread. Whether the thread is still there.
    pub fn put(&self, message: Message) -> bool {
        self.put_all([message])
    }

    /// Leaves messages and wakes the thread once. Whether the thread is still there.
    pub fn put_all(&self, messages: impl IntoIterator<Item = Message>) -> bool {
        match &mut *self.lock() {
            Some(waiting) => waiting.extend(messages),
            None => return false,
        }
        self.waker.wake();
        true
    }

    /// Takes all messages.
    pub fn take(&self) -> Vec<Message> {
        self.lock().as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// The thread leaves.
    pub fn close(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> MutexGuard<'_, Option<Vec<Message>>> {
        self.messages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the threads of a server share.
pub struct Shared {
    engine: Mutex<Engine>,
    /// The data file and the metadata file, in the order of [`vellum_engine::Side`].
    pub files: [Arc<DiskFile>; 2],
    /// One a thread.
    pub inboxes: Vec<Inbox>,
    /// What one client may take.
    pub limits: Limits,
    /// What a client gets that names nothing.
    pub default_export: Option<String>,
    /// Where what happens to the pool's space is told.
    space_events: Mutex<Option<mpsc::Sender<SpaceEvent>>>,
    /// The engine's time counts from here.
    pub start: Instant,
    /// The thread that ran the engine's last turn. It knows when the next is due, and keeps that time for all.
    pub timekeeper: AtomicUsize,
}

impl Shared {
    /// Around an open engine.
    pub fn new(core: Core, files: [Arc<DiskFile>; 2], inboxes: Vec<Inbox>, config: Config) -> Self {
        let engine =
            Mutex::new(Engine { core, connected: FxHashMap::default(), changes: Changes::default() });
        let timekeeper = AtomicUsize::new(0);
        let Config { limits, default_export, space_events, .. } = config;
        let space_events = Mutex::new(space_events);
        let start = Instant::now();
        Self { engine, files, inboxes, limits, default_export, space_events, start, timekeeper }
    }

    /// The engine, for one decision. If a thread panicked with it in hand, what it holds is half a decision: the process
    /// ends, before anybody is answered by it. What was acknowledged is in the log.
    pub fn lock(&self) -> MutexGuard<'_, Engine> {
        self.engine.lock().unwrap_or_else(|_| std::process::abort())
    }

    /// Tells whoever wants to know. Nobody may.
    pub fn tell(&self, event: SpaceEvent) {
        if let Some(listener) = &*self.listener() {
            let _ = listener.send(event);
        }
    }

    /// Tells nobody any more: who listens learns that this was all.
    pub fn tell_no_more(&self) {
        *self.listener() = None;
    }

    fn listener(&self) -> MutexGuard<'_, Option<mpsc::Sender<SpaceEvent>>> {
        self.space_events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The engine's time.
    pub fn now_ms(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }

    /// Connections of all threads.
    pub fn connections(&self) -> usize {
        self.inboxes.iter().map(|inbox| inbox.connections.load(Ordering::Acquire)).sum()
    }
}
