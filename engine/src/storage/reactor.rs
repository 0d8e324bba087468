//! Waits for files and sockets at once: what a thread that serves many requests at a time turns around.
//!
//! Owns the vocabulary: what can be started, and the events that come of it. Everything started owns its memory and
//! its socket until its event comes. Two reactors do it: `ring.rs` by io_uring, `threads.rs` by threads, pread and
//! pwrite, where io_uring is forbidden or the kernel is too old. [`reactor`] chooses.

use super::ring::Ring;
use super::threads::Threads;
use super::{Buffer, Completion, DiskFile, Operation, Ticket};
use bytes::Bytes;
use rustix::event::{EventfdFlags, eventfd};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// Chosen by whoever starts something on a socket; comes back with its event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SocketToken(pub u64);

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// A disk operation is over.
    Disk(Completion),
    /// A receive is over.
    Received {
        /// Which.
        token: SocketToken,
        /// The memory it was given, with what came in behind what it held.
        buffer: Buffer,
        /// How many bytes came; 0 if the other side sends no more.
        result: io::Result<usize>,
    },
    /// A send is over: all of it, or as much as nobody knows.
    Sent {
        /// Which.
        token: SocketToken,
        /// Whether all of it was taken.
        result: io::Result<()>,
    },
    /// A [`Waker`] was used.
    Woken,
}

/// Carries out what it is given and says when it is over, in any order.
pub trait Reactor {
    /// Starts an operation on one of the files it was made with, by their order.
    fn start(&mut self, file: usize, ticket: Ticket, operation: Operation);

    /// Receives into `buffer` from byte `from` on: until it is full if `all`, else as soon as anything is there.
    /// One receive a socket at a time.
    fn receive(&mut self, token: SocketToken, socket: &Arc<OwnedFd>, buffer: Buffer, from: usize, all: bool);

    /// Sends `parts`, one behind the other, whole. One send a socket at a time.
    fn send(&mut self, token: SocketToken, socket: &Arc<OwnedFd>, parts: Vec<Bytes>);

    /// Waits until something has happened or `timeout` is over, and appends what has happened to `events`. May come
    /// back early with nothing.
    fn wait(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()>;

    /// System calls made so far for all of this.
    fn system_calls(&self) -> u64;

    /// Which it is, for people.
    fn name(&self) -> &'static str;
}

/// Ends the wait of a reactor from another thread.
#[derive(Clone, Debug)]
pub struct Waker(Arc<OwnedFd>);

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Waker {
    /// A waker that the reactor made with it will hear.
    pub fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?)))
    }

    /// The reactor's wait ends now, or at once when it begins.
    pub fn wake(&self) {
        // The kernel reads a number in the order of this machine.
        #[expect(clippy::host_endian_bytes, reason = "eventfd is no format, it never leaves the machine")]
        let one = 1u64.to_ne_bytes();
        let _ = rustix::io::write(&self.0, &one);
    }

    pub(super) fn descriptor(&self) -> &Arc<OwnedFd> {
        &self.0
    }
}

/// Which reactor to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReactorKind {
    /// io_uring where it works, else threads.
    #[default]
    Auto,
    /// io_uring or an error. Needs Linux 6.1.
    Ring,
    /// Threads.
    Threads,
}

/// A reactor for `files`, used by the calling thread only. With [`ReactorKind::Auto`] the second value says why it is not
/// io_uring, if it is not.
///
/// Fails if there is no descriptor, memory or thread to be had, or if io_uring was asked for and is not there.
pub fn reactor(
    kind: ReactorKind,
    files: &[Arc<DiskFile>],
    waker: &Waker,
) -> io::Result<(Box<dyn Reactor>, Option<io::Error>)> {
    if kind == ReactorKind::Threads {
        return Ok((Box::new(Threads::new(files, waker)?), None));
    }
    match Ring::new(files, waker) {
        Ok(ring) => Ok((Box::new(ring), None)),
        Err(cause) if kind == ReactorKind::Auto => Ok((Box::new(Threads::new(files, waker)?), Some(cause))),
        Err(cause) => Err(cause),
    }
}

#[cfg(test)]
mod tests {
    use super::super::CacheMode;
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    const KINDS: [ReactorKind; 2] = [ReactorKind::Ring, ReactorKind::Threads];

    /// Runs `test` with every reactor, over a fresh file of 1 MiB.
    fn with_each(mode: CacheMode, test: impl Fn(&mut dyn Reactor, &Arc<DiskFile>, &Waker)) {
        for kind in KINDS {
            let directory = tempfile::tempdir().unwrap();
            let file = DiskFile::create(directory.path().join("file"), 1 << 20, mode).unwrap();
            let file = Arc::new(file);
            let waker = Waker::new().unwrap();
            let (mut reactor, why_not) = reactor(kind, std::slice::from_ref(&file), &waker).unwrap();
            assert!(why_not.is_none());
            test(reactor.as_mut(), &file, &waker);
        }
    }

    fn events(reactor: &mut dyn Reactor, count: usize) -> Vec<Event> {
        let mut events = Vec::new();
        let begin = std::time::Instant::now();
        while events.len() < count {
            reactor.wait(Some(Duration::from_secs(10)), &mut events).unwrap();
            assert!(begin.elapsed().as_secs() < 60, "{}: nothing happened", reactor.name());
        }
        events
    }

    fn run(reactor: &mut dyn Reactor, operation: Operation) -> Completion {
        reactor.start(0, Ticket(7), operation);
        match events(reactor, 1).pop() {
            Some(Event::Disk(completion)) => completion,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn disk_operations_do_what_they_say_in_every_mode() {
        for mode in [CacheMode::Direct, CacheMode::Cached, CacheMode::Writeback] {
            with_each(mode, |reactor, file, _| {
                let bytes = Buffer::copy_of(&[7; 8192]).freeze();
                run(reactor, Operation::Write { offset_bytes: 4096, bytes }).result.unwrap();
                run(reactor, Operation::Sync).result.unwrap();
                let read = Operation::Read { offset_bytes: 0, buffer: Buffer::zeroed(16384) };
                let Operation::Read { buffer, .. } = run(reactor, read).operation else { panic!() };
                assert_eq!((buffer[4095], buffer[4096], buffer[12287], buffer[12288]), (0, 7, 7, 0));
                run(reactor, Operation::Allocate { offset_bytes: 1 << 20, length_bytes: 1 << 20 })
                    .result
                    .unwrap();
                assert_eq!(file.size_bytes(), 2 << 20);
                run(reactor, Operation::Punch { offset_bytes: 4096, length_bytes: 4096 }).result.unwrap();
                let read = Operation::Read { offset_bytes: 4096, buffer: Buffer::zeroed(8192) };
                let Operation::Read { buffer, .. } = run(reactor, read).operation else { panic!() };
                assert_eq!((buffer[0], buffer[4096]), (0, 7));
            });
        }
    }

    #[test]
    fn nothing_moves_behind_the_end() {
        with_each(CacheMode::Cached, |reactor, _, _| {
            use super::super::DiskError;
            let write = Operation::Write { offset_bytes: 1 << 20, bytes: Buffer::zeroed(4096).freeze() };
            assert_eq!(run(reactor, write).result, Err(DiskError::Short));
            let read = Operation::Read { offset_bytes: (1 << 20) - 4096, buffer: Buffer::zeroed(8192) };
            assert_eq!(run(reactor, read).result, Err(DiskError::Short));
        });
    }

    #[test]
    fn more_operations_than_the_queue_holds_are_all_carried_out() {
        with_each(CacheMode::Writeback, |reactor, _, _| {
            for index in 0..2000 {
                let bytes = Bytes::from(vec![index as u8; 512]);
                reactor.start(0, Ticket(index), Operation::Write { offset_bytes: index * 512, bytes });
            }
            let done = events(reactor, 2000);
            assert!(done.iter().all(|event| matches!(event, Event::Disk(c) if c.result.is_ok())));
        });
    }

    #[test]
    fn sockets_carry_everything_in_order_and_tell_of_the_end() {
        with_each(CacheMode::Writeback, |reactor, _, _| {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            let ours = Arc::new(OwnedFd::from(ours));
            let token = SocketToken(3);
            reactor.receive(token, &ours, Buffer::zeroed(4096), 0, false);
            theirs.write_all(b"hello").unwrap();
            match events(reactor, 1).pop() {
                Some(Event::Received { token: SocketToken(3), buffer, result: Ok(5) }) => {
                    assert_eq!(&buffer[..5], b"hello");
                    reactor.receive(token, &ours, buffer, 5, true);
                }
                other => panic!("{other:?}"),
            }
            let sender = std::thread::spawn(move || {
                theirs.write_all(&[1; 2000]).unwrap();
                theirs.write_all(&[2; 2091]).unwrap();
                theirs
            });
            match events(reactor, 1).pop() {
                Some(Event::Received { buffer, result: Ok(4091), .. }) => {
                    assert_eq!((buffer[4], buffer[2004], buffer[2005], buffer[4095]), (b'o', 1, 2, 2));
                }
                other => panic!("{other:?}"),
            }
            let mut theirs = sender.join().unwrap();
            let parts: Vec<Bytes> = (0..3000).map(|i| Bytes::from(vec![i as u8; 1000])).collect();
            reactor.send(token, &ours, parts);
            let reader = std::thread::spawn(move || {
                let mut all = vec![0; 3_000_000];
                theirs.read_exact(&mut all).unwrap();
                (0..3000).all(|i| all[i * 1000..(i + 1) * 1000].iter().all(|byte| *byte == i as u8))
            });
            assert!(matches!(events(reactor, 1).pop(), Some(Event::Sent { result: Ok(()), .. })));
            assert!(reader.join().unwrap());
            reactor.receive(token, &ours, Buffer::zeroed(10), 0, true);
            assert!(matches!(events(reactor, 1).pop(), Some(Event::Received { result: Ok(0), .. })));
            reactor.send(token, &ours, vec![Bytes::from_static(b"nobody")]);
            assert!(matches!(events(reactor, 1).pop(), Some(Event::Sent { result: Err(_), .. })));
        });
    }

    #[test]
    fn a_waker_ends_the_wait_as_often_as_it_is_used() {
        with_each(CacheMode::Writeback, |reactor, _, waker| {
            for _ in 0..3 {
                let waker = waker.clone();
                let thread = std::thread::spawn(move || waker.wake());
                assert!(matches!(events(reactor, 1).pop(), Some(Event::Woken)));
                thread.join().unwrap();
            }
            let mut none = Vec::new();
            reactor.wait(Some(Duration::from_millis(10)), &mut none).unwrap();
            assert!(none.is_empty());
        });
    }

    #[test]
    fn a_send_that_nobody_takes_does_not_keep_the_thread_awake() {
        with_each(CacheMode::Writeback, |reactor, _, waker| {
            let (ours, _theirs) = UnixStream::pair().unwrap();
            let ours = Arc::new(OwnedFd::from(ours));
            reactor.send(SocketToken(1), &ours, vec![Bytes::from(vec![7; 8 << 20])]);
            let calls = reactor.system_calls();
            let waker = waker.clone();
            let thread = std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(200));
                waker.wake();
            });
            let mut none = Vec::new();
            while none.is_empty() {
                reactor.wait(None, &mut none).unwrap();
            }
            assert!(reactor.system_calls() - calls < 20, "{}", reactor.system_calls() - calls);
            thread.join().unwrap();
        });
    }

    #[test]
    fn a_reactor_that_goes_away_lets_go_of_what_was_under_way() {
        for kind in KINDS {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let ours = Arc::new(OwnedFd::from(ours));
            let waker = Waker::new().unwrap();
            let (mut reactor, _) = reactor(kind, &[], &waker).unwrap();
            reactor.receive(SocketToken(1), &ours, Buffer::zeroed(4096), 0, false);
            reactor.wait(Some(Duration::ZERO), &mut Vec::new()).unwrap();
            drop(reactor);
            assert_eq!(Arc::strong_count(&ours), 1);
            drop(theirs);
        }
    }

    #[test]
    fn a_reactor_that_goes_away_lets_go_of_its_files() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        drop(DiskFile::create(&path, 1 << 20, CacheMode::Writeback).unwrap());
        for kind in KINDS {
            for _ in 0..20 {
                let file = Arc::new(DiskFile::open(&path, CacheMode::Cached).unwrap());
                let (mut reactor, _) = reactor(kind, &[file], &Waker::new().unwrap()).unwrap();
                run(reactor.as_mut(), Operation::Sync).result.unwrap();
            }
        }
    }
}
