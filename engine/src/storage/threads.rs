//! Files and sockets without io_uring: pread, pwrite and fdatasync on a few threads, sockets by epoll.
//!
//! Owns the threads and the queue between them and the reactor. For places where io_uring is forbidden (the default
//! profile of container engines) or older than Linux 6.1. Promises the same; costs more system calls.

use super::reactor::{Event, Reactor, SocketToken, Waker};
use super::ring::consume;
use super::{Buffer, Completion, DiskFile, Operation, Ticket};
use bytes::Bytes;
use rustc_hash::FxHashMap;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Disk operations that run at the same time.
const DISK_THREADS: usize = 4;
/// Slices that one send takes at most.
const PARTS_MAX: usize = 1024;
const WAKER_KEY: u64 = u64::MAX;
const DISK_KEY: u64 = u64::MAX - 1;

/// Between the reactor and its threads.
struct Queue {
    state: Mutex<QueueState>,
    more: Condvar,
    /// Tells the reactor that something is over.
    over: Waker,
}

#[derive(Default)]
struct QueueState {
    waiting: VecDeque<(usize, Ticket, Operation)>,
    over: Vec<Completion>,
    stopped: bool,
}

/// What is under way on one socket.
struct Socket {
    descriptor: Arc<OwnedFd>,
    receive: Option<Receive>,
    send: Option<(SocketToken, VecDeque<Bytes>)>,
    /// Known to epoll: it was asked for once and stays, with or without interest.
    watched: bool,
}

struct Receive {
    token: SocketToken,
    buffer: Buffer,
    from: usize,
    to: usize,
    all: bool,
}

/// Files and sockets without io_uring.
pub struct Threads {
    queue: Arc<Queue>,
    threads: Vec<JoinHandle<()>>,
    waker: Waker,
    epoll: OwnedFd,
    /// By number of the descriptor, which stays open as long as something is under way.
    sockets: FxHashMap<u64, Socket>,
    ready: VecDeque<Event>,
    system_calls: u64,
}

impl Threads {
    /// Starts the threads.
    pub fn new(files: &[Arc<DiskFile>], waker: &Waker) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let over = Waker::new()?;
        for (key, waker) in [(WAKER_KEY, waker), (DISK_KEY, &over)] {
            let key = epoll::EventData::new_u64(key);
            epoll::add(&epoll, waker.descriptor(), key, epoll::EventFlags::IN)?;
        }
        let queue = Arc::new(Queue { state: Mutex::default(), more: Condvar::new(), over });
        let mut threads = Self {
            queue,
            threads: Vec::new(),
            waker: waker.clone(),
            epoll,
            sockets: FxHashMap::default(),
            ready: VecDeque::new(),
            system_calls: 0,
        };
        for _ in 0..DISK_THREADS {
            let (queue, files) = (threads.queue.clone(), files.to_vec());
            let thread = std::thread::Builder::new().name("disk".to_owned());
            threads.threads.push(thread.spawn(move || queue.work(&files))?);
        }
        Ok(threads)
    }

    /// Does what `socket` can do now, and asks epoll for the rest.
    fn advance(&mut self, key: u64) {
        let Some(socket) = self.sockets.get_mut(&key) else { return };
        self.system_calls += socket.try_receive(&mut self.ready);
        self.system_calls += socket.try_send(&mut self.ready);
        let interest = socket.interest();
        if interest.is_empty() {
            if socket.watched {
                let _ = epoll::delete(&self.epoll, &socket.descriptor);
            }
            self.sockets.remove(&key);
            return;
        }
        let data = epoll::EventData::new_u64(key);
        self.system_calls += 1;
        let asked = match socket.watched {
            true => epoll::modify(&self.epoll, &socket.descriptor, data, interest),
            false => epoll::add(&self.epoll, &socket.descriptor, data, interest),
        };
        match asked {
            Ok(()) => socket.watched = true,
            Err(cause) => {
                socket.fail(cause, &mut self.ready);
                self.sockets.remove(&key);
            }
        }
    }

    fn socket(&mut self, descriptor: &Arc<OwnedFd>) -> (u64, &mut Socket) {
        let key = descriptor.as_raw_fd() as u64;
        let socket = self.sockets.entry(key).or_insert_with(|| Socket {
            descriptor: descriptor.clone(),
            receive: None,
            send: None,
            watched: false,
        });
        (key, socket)
    }

    fn wait_for_sockets(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let mut found: Vec<epoll::Event> = Vec::with_capacity(64);
        let timeout =
            timeout.map(|t| Timespec { tv_sec: t.as_secs() as i64, tv_nsec: t.subsec_nanos().into() });
        self.system_calls += 1;
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut found), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(cause) => return Err(cause.into()),
        }
        for event in found {
            match event.data.u64() {
                WAKER_KEY => {
                    self.empty(&self.waker.clone());
                    self.ready.push_back(Event::Woken);
                }
                DISK_KEY => self.empty(&self.queue.over.clone()),
                key => self.advance(key),
            }
        }
        Ok(())
    }

    /// Takes what a waker has counted, so that it can be heard again.
    fn empty(&mut self, waker: &Waker) {
        self.system_calls += 1;
        let _ = rustix::io::read(waker.descriptor(), &mut [0; 8]);
    }
}

impl Reactor for Threads {
    fn start(&mut self, file: usize, ticket: Ticket, operation: Operation) {
        self.queue.lock().waiting.push_back((file, ticket, operation));
        self.queue.more.notify_one();
    }

    fn receive(&mut self, token: SocketToken, socket: &Arc<OwnedFd>, buffer: Buffer, from: usize, all: bool) {
        let (key, socket) = self.socket(socket);
        socket.receive = Some(Receive { token, buffer, from, to: from, all });
        self.advance(key);
    }

    fn send(&mut self, token: SocketToken, socket: &Arc<OwnedFd>, parts: Vec<Bytes>) {
        let (key, socket) = self.socket(socket);
        socket.send = Some((token, parts.into_iter().filter(|part| !part.is_empty()).collect()));
        self.advance(key);
    }

    fn wait(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        let over = std::mem::take(&mut self.queue.lock().over);
        let nothing = over.is_empty() && self.ready.is_empty();
        events.extend(over.into_iter().map(Event::Disk));
        self.wait_for_sockets(if nothing { timeout } else { Some(Duration::ZERO) })?;
        events.extend(self.ready.drain(..));
        let over = std::mem::take(&mut self.queue.lock().over);
        events.extend(over.into_iter().map(Event::Disk));
        Ok(())
    }

    fn system_calls(&self) -> u64 {
        self.system_calls
    }

    fn name(&self) -> &'static str {
        "threads"
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.queue.lock().stopped = true;
        self.queue.more.notify_all();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, QueueState> {
        // Nothing that holds this lock can panic half way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What every thread does until there is no more.
    fn work(&self, files: &[Arc<DiskFile>]) {
        while let Some((file, ticket, mut operation)) = self.next() {
            let result = files[file].perform(&mut operation);
            self.lock().over.push(Completion { ticket, operation, result });
            self.over.wake();
        }
    }

    fn next(&self) -> Option<(usize, Ticket, Operation)> {
        let mut state = self.lock();
        loop {
            if let Some(work) = state.waiting.pop_front() {
                return Some(work);
            }
            if state.stopped {
                return None;
            }
            state = self.more.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Socket {
    /// Receives what is there. Returns the system calls made.
    fn try_receive(&mut self, ready: &mut VecDeque<Event>) -> u64 {
        let Some(mut receive) = self.receive.take() else { return 0 };
        let mut calls = 0;
        let result = loop {
            calls += 1;
            let free = &mut receive.buffer[receive.to..];
            match rustix::net::recv(&self.descriptor, free, RecvFlags::DONTWAIT) {
                Ok((0, _)) => break Ok(receive.to - receive.from),
                Ok((bytes, _)) => {
                    receive.to += bytes;
                    if !receive.all || receive.to == receive.buffer.len() {
                        break Ok(receive.to - receive.from);
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    self.receive = Some(receive);
                    return calls;
                }
                Err(cause) => break Err(cause.into()),
            }
        };
        ready.push_back(Event::Received { token: receive.token, buffer: receive.buffer, result });
        calls
    }

    /// Sends what the socket takes. Returns the system calls made.
    fn try_send(&mut self, ready: &mut VecDeque<Event>) -> u64 {
        let Some((token, mut parts)) = self.send.take() else { return 0 };
        let mut calls = 0;
        let result = loop {
            if parts.is_empty() {
                break Ok(());
            }
            calls += 1;
            let slices: Vec<io::IoSlice<'_>> =
                parts.iter().take(PARTS_MAX).map(|part| io::IoSlice::new(part)).collect();
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match rustix::net::sendmsg(&self.descriptor, &slices, &mut Default::default(), flags) {
                Ok(bytes) => consume(&mut parts, bytes),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    self.send = Some((token, parts));
                    return calls;
                }
                Err(cause) => break Err(cause.into()),
            }
        };
        ready.push_back(Event::Sent { token, result });
        calls
    }

    fn interest(&self) -> epoll::EventFlags {
        let mut interest = epoll::EventFlags::empty();
        interest.set(epoll::EventFlags::IN, self.receive.is_some());
        interest.set(epoll::EventFlags::OUT, self.send.is_some());
        interest
    }

    fn fail(&mut self, cause: Errno, ready: &mut VecDeque<Event>) {
        if let Some(receive) = self.receive.take() {
            let result = Err(cause.into());
            ready.push_back(Event::Received { token: receive.token, buffer: receive.buffer, result });
        }
        if let Some((token, _)) = self.send.take() {
            ready.push_back(Event::Sent { token, result: Err(cause.into()) });
        }
    }
}
