//! One thread of a server: its clients, its share of the disk operations, one turn after the other.
//!
//! Owns the loop. The walk of a request:
//!
//! | step | where | what happens |
//! |---|---|---|
//! | 1 | `connection.rs` | bytes from the socket become requests, as many as have arrived |
//! | 2 | `pending.rs` | each becomes a request of the engine |
//! | 3 | here, `turn` | under the lock: completions and requests go in, operations and answers come out |
//! | 4 | the reactor | operations run; their completions are the next turn's |
//! | 5 | `reply.rs` | answers become replies; all of a turn go out in one send a client |

use crate::changes::Submitted;
use crate::connection::{Arrived, Connection, Next};
use crate::exports::PoolExports;
use crate::pending::{ClientRequest, Pending};
use crate::protocol::{Command, Errno, Session};
use crate::reply::{self, Asked};
use crate::shared::{Message, Shared};
use rustc_hash::FxHashSet;
use rustix::net::Shutdown;
use slab::Slab;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use vellum_engine::error::ErrorKind;
use vellum_engine::request::{Outcome, Reply, Request, RequestId};
use vellum_engine::storage::{Buffer, Completion, Event, HostRoom, Operation, Reactor, SocketToken, Ticket};
use vellum_engine::units::VolumeId;
use vellum_engine::{Side, VolumeInfo};

/// How often the engine is told the time while it waits for time to pass.
const TICK: Duration = Duration::from_millis(100);
/// How often overdue handshakes are looked for.
const DEADLINE_TICK: Duration = Duration::from_millis(500);
/// A request's number: the thread above, the thread's own number below.
const THREAD_SHIFT: u32 = 48;

/// One thread of a server.
pub struct Worker {
    index: usize,
    shared: Arc<Shared>,
    reactor: Box<dyn Reactor>,
    connections: Slab<Connection>,
    requests: Slab<Pending>,
    /// For the next turn.
    submissions: Vec<(RequestId, Request)>,
    /// The same, for what clients must not be in the way of.
    forced: Vec<(RequestId, Request)>,
    completions: Vec<Completion>,
    /// Requests of clients that have left.
    gone: FxHashSet<RequestId>,
    /// Connections that something happened to.
    touched: Vec<usize>,
    /// What the engine asked: what the host has room for.
    host_room: Option<Option<HostRoom>>,
    /// Writes wait for room, and perhaps for ever: who has left is looked for.
    somebody_is_stuck: bool,
    /// The engine waits for time to pass.
    ticking: bool,
    /// The engine has more to do at once, if nobody else is waiting.
    hurrying: bool,
    /// When the engine has something to do although nothing happens, in its milliseconds.
    due_ms: Option<u64>,
    /// Requests of clients that are gone.
    abandoned: Vec<RequestId>,
    draining: bool,
    stopped: bool,
    /// No failed request is logged before.
    quiet_until: Instant,
}

/// What a turn of the engine gave.
#[derive(Default)]
struct Decided {
    operations: Vec<(Side, Ticket, Operation)>,
    replies: Vec<(RequestId, Reply)>,
    wants_host_room: bool,
}

impl Worker {
    /// The thread of this number, with its reactor.
    pub fn new(index: usize, shared: Arc<Shared>, reactor: Box<dyn Reactor>) -> Self {
        Self {
            index,
            shared,
            reactor,
            connections: Slab::new(),
            requests: Slab::new(),
            submissions: Vec::new(),
            forced: Vec::new(),
            completions: Vec::new(),
            touched: Vec::new(),
            gone: FxHashSet::default(),
            host_room: None,
            somebody_is_stuck: false,
            // Whatever the opening left to prove.
            ticking: true,
            hurrying: false,
            due_ms: None,
            abandoned: Vec::new(),
            draining: false,
            stopped: false,
            quiet_until: Instant::now(),
        }
    }

    /// Serves until it is told to stop.
    pub fn run(mut self) -> std::io::Result<()> {
        let mut events = Vec::new();
        while !self.stopped {
            self.reactor.wait(self.timeout(), &mut events)?;
            events.drain(..).for_each(|event| self.happened(event));
            self.end_late_handshakes();
            self.settle();
        }
        Ok(())
    }

    fn timeout(&self) -> Option<Duration> {
        let handshakes = self.connections.iter().any(|(_, connection)| connection.deadline.is_some());
        if self.hurrying || !self.abandoned.is_empty() {
            return Some(Duration::ZERO);
        }
        let tick = match (self.ticking, handshakes) {
            (true, _) => Some(TICK),
            (false, true) => Some(DEADLINE_TICK),
            (false, false) => None,
        };
        let due = self.due_ms.map(|due_ms| {
            (self.shared.start + Duration::from_millis(due_ms)).saturating_duration_since(Instant::now())
        });
        tick.into_iter().chain(due).min()
    }

    /// Whether the engine's next turn is due, and this thread is the one to take it.
    fn is_due(&mut self) -> bool {
        let is_due = self.due_ms.is_some_and(|due_ms| self.shared.now_ms() >= due_ms);
        if is_due && self.shared.timekeeper.load(Ordering::Acquire) != self.index {
            // Another thread has taken a turn since, and knows better.
            self.due_ms = None;
            return false;
        }
        is_due
    }

    fn happened(&mut self, event: Event) {
        match event {
            Event::Disk(completion) => self.completions.push(completion),
            Event::Received { token, buffer, result } => self.received(token.0 as usize, buffer, result),
            Event::Sent { token, result } => {
                let key = token.0 as usize;
                let Some(connection) = self.connections.get_mut(key) else { return };
                connection.sending_bytes = 0;
                if result.is_err() {
                    // A client that is gone is not worth waiting for.
                    cut_off(connection);
                }
                self.touched.push(key);
            }
            Event::Woken => {
                for message in self.shared.inboxes[self.index].take() {
                    self.message(message);
                }
            }
        }
    }

    fn received(&mut self, key: usize, buffer: Buffer, result: std::io::Result<usize>) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        connection.received(buffer, result.ok().filter(|bytes| *bytes > 0));
        self.touched.push(key);
    }

    fn message(&mut self, message: Message) {
        match message {
            Message::Connection(socket) => self.connected(socket),
            Message::Reply(slot, reply) => self.replied(slot as usize, reply),
            Message::Control(request, answer) => {
                let id = self.request_id(Pending::Control(answer));
                self.submissions.push((id, request));
            }
            Message::Forced(request, answer) => {
                let id = self.request_id(Pending::Control(answer));
                self.forced.push((id, request));
            }
            Message::Submit(id, request) => self.forced.push((id, request)),
            Message::Disconnect(volumes) => self.disconnect_all(&volumes),
            Message::Drain => self.drain(),
            Message::Stop => self.stopped = true,
        }
    }

    fn connected(&mut self, socket: OwnedFd) {
        let deadline = Instant::now() + self.shared.limits.handshake;
        let mut connection = Connection::new(socket, deadline);
        connection.ending = self.draining;
        let key = self.connections.insert(connection);
        self.touched.push(key);
    }

    /// Ends receives, so that every connection ends once its requests are answered.
    fn drain(&mut self) {
        self.draining = true;
        self.shared.lock().core.lift_limits();
        self.ticking = true;
        for (key, connection) in &mut self.connections {
            connection.ending = true;
            // What still waits for room waits no longer.
            connection.gone = true;
            let _ = rustix::net::shutdown(&connection.socket, Shutdown::Read);
            self.touched.push(key);
        }
    }

    /// Ends the connections to `volumes`: nothing more is taken from them, and what they asked for is answered to nobody.
    fn disconnect_all(&mut self, volumes: &[VolumeId]) {
        for (key, connection) in &mut self.connections {
            if connection.session().is_some_and(|(_, volume)| volumes.contains(&volume)) {
                cut_off(connection);
                self.touched.push(key);
            }
        }
    }

    /// Nobody waits for what this client asked for: what has not begun need not begin.
    fn give_up(&mut self, key: usize) {
        let is_of =
            |pending: &Pending| matches!(pending, Pending::Client(client) if client.connection == key);
        let slots = self.requests.iter().filter(|(_, pending)| is_of(pending)).map(|(slot, _)| slot);
        let ids: Vec<RequestId> = slots.map(|slot| request_id(self.index, slot)).collect();
        self.abandoned.extend(ids);
    }

    fn end_late_handshakes(&mut self) {
        let now = Instant::now();
        let touched = &mut self.touched;
        for (key, connection) in &mut self.connections {
            if connection.deadline.is_some_and(|deadline| deadline < now) {
                cut_off(connection);
                connection.deadline = None;
                touched.push(key);
            }
        }
    }

    /// Input into requests, requests into decisions, decisions into replies, until nothing more comes of it.
    fn settle(&mut self) {
        if self.somebody_is_stuck {
            self.find_gone();
        }
        let mut tick = self.is_due() || self.ticking || !self.abandoned.is_empty();
        loop {
            self.touched.sort_unstable();
            self.touched.dedup();
            for index in 0..self.touched.len() {
                self.take_requests(self.touched[index]);
            }
            let asked = !self.submissions.is_empty() || !self.forced.is_empty();
            if !asked && self.completions.is_empty() && self.host_room.is_none() && !tick {
                break;
            }
            self.turn();
            tick = false;
        }
        let mut touched = std::mem::take(&mut self.touched);
        touched.drain(..).for_each(|key| self.carry_on(key));
        self.touched = touched;
    }

    /// Whoever has left does not wait for room any more.
    fn find_gone(&mut self) {
        let connections = &mut self.connections;
        connections.iter_mut().filter(|(_, c)| c.requests > 0).for_each(|(_, c)| c.look_for_hangup());
        let is_gone = |client: &ClientRequest| {
            connections.get(client.connection).is_some_and(|connection| connection.gone)
        };
        let asked = self.requests.iter().filter_map(|(slot, pending)| match pending {
            Pending::Client(client) if is_gone(client) => Some(request_id(self.index, slot)),
            _ => None,
        });
        self.gone = asked.collect();
    }

    /// Takes what has arrived from one client.
    fn take_requests(&mut self, key: usize) {
        let shared = self.shared.clone();
        let exports = PoolExports(&shared);
        while let Some(connection) = self.connections.get_mut(key).filter(|connection| !connection.broken) {
            match connection.next(&exports, &shared.limits) {
                Next::Arrived(arrived) => self.arrived(key, arrived),
                Next::Agreed(session) => self.agreed(key, session),
                Next::Input | Next::Wait => break,
                Next::Close(reason) => {
                    log::debug!("a client was disconnected: {reason}");
                    connection.take_no_more();
                }
            }
        }
    }

    /// The handshake is over: from now on the volume is in use.
    fn agreed(&mut self, key: usize, session: Session) {
        let mut engine = self.shared.lock();
        let found = engine.core.volume(&session.export.name);
        let Some(connection) = self.connections.get_mut(key) else { return };
        let is_as_agreed = |info: &VolumeInfo| {
            info.size_bytes == session.export.size_bytes && !engine.changes.is_changing(info.id)
        };
        match found.filter(is_as_agreed) {
            Some(info) => {
                *engine.connected.entry(info.id).or_default() += 1;
                connection.transmit(session, info.id);
            }
            // Changed since it was looked up: the client finds the connection closed, and may look again.
            None => connection.take_no_more(),
        }
    }

    fn arrived(&mut self, key: usize, arrived: Arrived) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Some((session, volume)) = connection.session() else { return };
        let header = arrived.header;
        let one =
            matches!(arrived.command, Ok(Command::Read { df: true } | Command::BlockStatus { one: true }));
        let asked = Asked { cookie: header.cookie, offset_bytes: header.offset_bytes, one };
        match arrived.command {
            Ok(Command::Disconnect) => connection.take_no_more(),
            // The engine is not asked about nothing, which may lie anywhere.
            Ok(
                Command::Read { .. }
                | Command::Write { .. }
                | Command::Trim { .. }
                | Command::Cache
                | Command::WriteZeroes { .. },
            ) if header.length_bytes == 0 => {
                reply::done(&mut connection.output, &session, &asked);
            }
            Ok(command) => {
                let length = u64::from(header.length_bytes);
                self.ask(
                    key,
                    &session,
                    ClientRequest::new(key, asked, volume, &command, length, arrived.payload),
                );
            }
            Err(errno) => {
                let message = refusal(errno);
                reply::failure(&mut connection.output, &session, &asked, errno, message);
            }
        }
    }

    fn ask(&mut self, key: usize, session: &Session, (client, request): (ClientRequest, Option<Request>)) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Some(request) = request else {
            return reply::done(&mut connection.output, session, &client.asked);
        };
        connection.requests += 1;
        connection.request_bytes += client.bytes;
        let id = self.request_id(Pending::Client(client));
        self.submissions.push((id, request));
    }

    fn request_id(&mut self, pending: Pending) -> RequestId {
        request_id(self.index, self.requests.insert(pending))
    }

    /// One turn of the engine, and what comes of it.
    fn turn(&mut self) {
        let decided = self.decide();
        if decided.wants_host_room {
            self.host_room = Some(self.shared.files[Side::Data as usize].host_room().ok());
        }
        for (side, ticket, operation) in decided.operations {
            self.reactor.start(side as usize, ticket, operation);
        }
        let mut others: Vec<Vec<Message>> = Vec::new();
        for (RequestId(id), reply) in decided.replies {
            let (thread, slot) = ((id >> THREAD_SHIFT) as usize, id & ((1 << THREAD_SHIFT) - 1));
            if thread == self.index {
                self.replied(slot as usize, reply);
            } else {
                others.resize_with(self.shared.inboxes.len(), Vec::new);
                others[thread].push(Message::Reply(slot, reply));
            }
        }
        for (thread, messages) in others.into_iter().enumerate().filter(|(_, messages)| !messages.is_empty())
        {
            self.shared.inboxes[thread].put_all(messages);
        }
    }

    fn decide(&mut self) -> Decided {
        let mut decided = Decided::default();
        let mut engine = self.shared.lock();
        self.completions.drain(..).for_each(|completion| engine.core.complete(completion));
        // Before new requests, which may have got the numbers of answered ones.
        self.abandoned.drain(..).for_each(|id| engine.core.abandon(id));
        let asked = self.submissions.drain(..).map(|(id, request)| (id, request, false));
        for (id, request, forced) in asked.chain(self.forced.drain(..).map(|(id, r)| (id, r, true))) {
            match engine.submit(id, request, forced) {
                Submitted::Asked => {}
                Submitted::Refused(error) => decided.replies.push((id, Err(error))),
                Submitted::Waits(volumes) => {
                    let inboxes = self.shared.inboxes.iter();
                    inboxes.for_each(|inbox| _ = inbox.put(Message::Disconnect(volumes.clone())));
                }
            }
        }
        if !self.gone.is_empty() {
            engine.core.cancel_waiting(|id| self.gone.contains(&id));
            self.gone.clear();
        }
        if let Some(room) = self.host_room.take() {
            engine.core.host_has_room(room);
        }
        engine.core.turn(self.shared.now_ms());
        decided.wants_host_room = engine.core.wants_host_room();
        std::iter::from_fn(|| engine.core.next_space_event()).for_each(|event| self.shared.tell(event));
        decided.operations.extend(std::iter::from_fn(|| engine.core.next_operation()));
        let answered = std::iter::from_fn(|| engine.core.next_reply());
        decided.replies.extend(answered);
        decided.replies.iter().for_each(|(id, _)| engine.changes.answered(*id));
        self.ticking = engine.core.wants_time();
        self.somebody_is_stuck = engine.core.somebody_is_stuck();
        self.hurrying = engine.core.wants_turn();
        self.due_ms = engine.core.wants_turn_at_ms();
        self.shared.timekeeper.store(self.index, Ordering::Release);
        decided
    }

    /// The engine answered a request of this thread.
    fn replied(&mut self, slot: usize, reply: Reply) {
        let Some(pending) = self.requests.try_remove(slot) else { return };
        match pending {
            // Who does not wait any more needs no answer.
            Pending::Control(answer) => drop(answer.try_send(reply)),
            Pending::Client(client) => self.client_replied(client, reply),
        }
    }

    fn client_replied(&mut self, mut client: ClientRequest, reply: Reply) {
        // Nobody waits for the rest of what a client asked for that is gone.
        let is_wanted = self.connections.get(client.connection).is_some_and(|connection| !connection.broken);
        if reply.is_ok()
            && is_wanted
            && let Some(request) = client.next()
        {
            let id = self.request_id(Pending::Client(client));
            return self.submissions.push((id, request));
        }
        let Some(connection) = self.connections.get_mut(client.connection) else { return };
        connection.requests -= 1;
        connection.request_bytes -= client.bytes;
        self.touched.push(client.connection);
        let Some((session, _)) = connection.session().filter(|_| !connection.broken) else { return };
        let (output, asked) = (&mut connection.output, &client.asked);
        match reply {
            Err(error) => {
                // One a second: a client that goes on asking must not fill the log.
                let now = Instant::now();
                if error.kind() != ErrorKind::NoSpace && self.quiet_until < now {
                    self.quiet_until = now + Duration::from_secs(1);
                    log::warn!("{}: {error}", session.export.name);
                }
                reply::engine_error(output, &session, asked, &error);
            }
            Ok(Outcome::Data(segments)) if !client.is_prefetch() => {
                reply::data(output, &session, asked, segments);
            }
            Ok(Outcome::Extents(extents)) if !extents.is_empty() => {
                reply::status(output, &session, asked, &extents);
            }
            Ok(Outcome::Extents(_)) => {
                reply::failure(output, &session, asked, Errno::EINVAL, "an empty range has no status");
            }
            Ok(_) => reply::done(output, &session, asked),
        }
    }

    /// Starts what one connection can do now: send, receive, or end.
    fn carry_on(&mut self, key: usize) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let token = SocketToken(key as u64);
        if !connection.output.is_empty() && connection.sending_bytes == 0 && !connection.broken {
            connection.sending_bytes = connection.output.len_bytes();
            let parts = connection.output.take();
            self.reactor.send(token, &connection.socket, parts);
        }
        if connection.is_over() {
            return self.disconnect(key);
        }
        if connection.broken && connection.requests > 0 && !std::mem::replace(&mut connection.given_up, true)
        {
            return self.give_up(key);
        }
        if let Some(input) = connection.input(&self.shared.limits) {
            self.reactor.receive(token, &connection.socket, input.buffer, input.from, input.all);
        }
    }

    fn disconnect(&mut self, key: usize) {
        let connection = self.connections.remove(key);
        let _ = rustix::net::shutdown(&connection.socket, Shutdown::Both);
        if let Some((_, volume)) = connection.session() {
            self.leave(volume);
        }
        self.shared.inboxes[self.index].connections.fetch_sub(1, Ordering::AcqRel);
    }

    fn leave(&self, volume: VolumeId) {
        let alone = self.shared.lock().disconnected(volume);
        for (id, request) in alone {
            self.shared.inboxes[(id.0 >> THREAD_SHIFT) as usize].put(Message::Submit(id, request));
        }
    }
}

/// The number of a thread's request, for all threads.
fn request_id(thread: usize, slot: usize) -> RequestId {
    RequestId((thread as u64) << THREAD_SHIFT | slot as u64)
}

/// Ends a connection at once: nothing is taken from the client or told to it any more, and its receive ends by this. What
/// it asked for is finished first.
fn cut_off(connection: &mut Connection) {
    connection.gone = true;
    connection.broken = true;
    connection.ending = true;
    let _ = rustix::net::shutdown(&connection.socket, Shutdown::Both);
}

/// What people are told of a request that was refused by its header alone.
fn refusal(errno: Errno) -> &'static str {
    match errno {
        Errno::EPERM => "a snapshot is read-only; clone it to write",
        Errno::ENOSPC => "the range ends behind the export",
        Errno::EOVERFLOW => "more than one reply can hold; split the request",
        Errno::ENOTSUP => "this cannot be done faster than by writing",
        _ => "the request cannot be carried out as it stands",
    }
}

const _: () = assert!(Side::Data as usize == 0 && Side::Metadata as usize == 1);
