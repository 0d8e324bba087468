//! One client's connection: bytes in, requests out; replies in, bytes out. Does no I/O.
//!
//! Owns the input that is not understood yet, the payload that is under way, and the output. A header is taken from
//! whatever has arrived, many at a time; a large payload goes from the socket straight into the memory that is
//! written to disk. Read next: `worker.rs`, which carries the bytes.

use crate::limits::Limits;
use crate::output::Output;
use crate::protocol::{self, CloseReason, Command, Errno, Exports, Handshake, RequestHeader, Session, Step};
use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;
use vellum_engine::storage::Buffer;
use vellum_engine::units::VolumeId;

/// Input taken in one receive, in bytes: some dozens of small requests.
const STAGING_BYTES: usize = 128 * 1024;

/// A request with its payload.
pub struct Arrived {
    /// The header.
    pub header: RequestHeader,
    /// What it asks for, or why it cannot be.
    pub command: Result<Command, Errno>,
    /// What is to be written, for a write.
    pub payload: Bytes,
}

/// What to do next.
pub enum Next {
    /// A request.
    Arrived(Arrived),
    /// The client and we agreed on an export: [`Connection::transmit`] it, or close.
    Agreed(Session),
    /// More input is needed.
    Input,
    /// Nothing before some replies have gone out.
    Wait,
    /// The client broke the protocol or wants no more.
    Close(Why),
}

/// Why a connection is closed.
pub enum Why {
    /// The handshake came to nothing.
    Handshake(CloseReason),
    /// A request does not begin with the magic: nobody knows where the next one begins.
    BadRequestMagic,
}

impl std::fmt::Display for Why {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Handshake(reason) => reason.fmt(out),
            Self::BadRequestMagic => out.write_str("a request does not begin with its magic"),
        }
    }
}

/// Where the next input goes.
pub struct Input {
    /// The memory; comes back through [`Connection::received`].
    pub buffer: Buffer,
    /// From which byte on.
    pub from: usize,
    /// Until it is full, rather than as soon as anything is there.
    pub all: bool,
}

enum Phase {
    Handshake(Box<Handshake>),
    Transmit(Rc<Session>, VolumeId),
}

/// A payload of which a part has arrived.
enum Incoming {
    Payload {
        header: RequestHeader,
        command: Command,
        buffer: Option<Buffer>,
        filled: usize,
    },
    /// Of a write that is refused: it has to be taken from the socket all the same.
    Discard {
        header: RequestHeader,
        errno: Errno,
        left: usize,
    },
}

/// One client.
pub struct Connection {
    /// Its socket.
    pub socket: Arc<OwnedFd>,
    phase: Phase,
    /// Input is between `begin` and `end`. Away while something is received into it.
    staging: Option<Buffer>,
    begin: usize,
    end: usize,
    incoming: Option<Incoming>,
    /// A receive is under way.
    pub receiving: bool,
    /// What is to be sent.
    pub output: Output,
    /// Bytes of the send that is under way.
    pub sending_bytes: u64,
    /// Requests that are being carried out.
    pub requests: usize,
    /// Bytes that they read or write.
    pub request_bytes: u64,
    /// No input is taken any more: what was asked for is finished, then the connection ends.
    pub ending: bool,
    /// What has arrived is not looked at any more either.
    deaf: bool,
    /// The client sends no more: it does not wait for room either.
    pub gone: bool,
    /// Nothing can be sent any more.
    pub broken: bool,
    /// What waits of its requests has been taken back.
    pub given_up: bool,
    /// When the handshake has to be over.
    pub deadline: Option<Instant>,
}

impl Connection {
    /// A client that has just connected. The greeting is in the output.
    pub fn new(socket: OwnedFd, deadline: Instant) -> Self {
        let handshake = Handshake::new(protocol::Limits::default());
        let mut output = Output::default();
        output.headers().extend_from_slice(&handshake.greeting());
        Self {
            socket: Arc::new(socket),
            phase: Phase::Handshake(Box::new(handshake)),
            staging: Some(Buffer::zeroed(STAGING_BYTES)),
            begin: 0,
            end: 0,
            incoming: None,
            receiving: false,
            output,
            sending_bytes: 0,
            requests: 0,
            request_bytes: 0,
            ending: false,
            deaf: false,
            gone: false,
            broken: false,
            given_up: false,
            deadline: Some(deadline),
        }
    }

    /// What was agreed, once it was.
    pub fn session(&self) -> Option<(Rc<Session>, VolumeId)> {
        match &self.phase {
            Phase::Handshake(_) => None,
            Phase::Transmit(session, volume) => Some((session.clone(), *volume)),
        }
    }

    /// The handshake is over.
    pub fn transmit(&mut self, session: Session, volume: VolumeId) {
        self.phase = Phase::Transmit(Rc::new(session), volume);
        self.deadline = None;
    }

    /// Takes one step through the input.
    pub fn next(&mut self, exports: &dyn Exports, limits: &Limits) -> Next {
        let listens = !self.receiving && !self.deaf;
        let Some(staging) = self.staging.as_ref().filter(|_| listens) else { return Next::Wait };
        if let Phase::Handshake(handshake) = &mut self.phase {
            let input = &staging[self.begin..self.end];
            let (consumed, step) = handshake.receive(input, exports, self.output.headers());
            self.begin += consumed;
            return match step {
                Step::Continue => self.more(),
                Step::Transmit(session) => Next::Agreed(session),
                Step::Close(reason) => Next::Close(Why::Handshake(reason)),
            };
        }
        if self.is_full(limits) {
            return Next::Wait;
        }
        if self.incoming.is_some() { self.next_of_payload() } else { self.next_request() }
    }

    fn more(&self) -> Next {
        if self.ending { Next::Wait } else { Next::Input }
    }

    /// Whether the client has as much under way as it may.
    fn is_full(&self, limits: &Limits) -> bool {
        let bytes = self.request_bytes + self.output.len_bytes() + self.sending_bytes;
        self.requests >= limits.requests || bytes >= limits.bytes
    }

    fn next_request(&mut self) -> Next {
        let Phase::Transmit(session, _) = &self.phase else { return Next::Wait };
        let Some(staging) = &self.staging else { return Next::Wait };
        let Some(bytes) = staging[self.begin..self.end].first_chunk::<{ RequestHeader::BYTES }>() else {
            return self.more();
        };
        let header = match RequestHeader::decode(bytes) {
            Ok(header) => header,
            Err(_) => return Next::Close(Why::BadRequestMagic),
        };
        self.begin += RequestHeader::BYTES;
        let command = protocol::check(&header, session);
        let length = header.payload_bytes() as usize;
        match command {
            Err(errno) if length > 0 => {
                self.incoming = Some(Incoming::Discard { header, errno, left: length });
                self.next_of_payload()
            }
            Ok(command) if length > 0 => {
                self.incoming = Some(Incoming::Payload { header, command, buffer: None, filled: 0 });
                self.next_of_payload()
            }
            command => Next::Arrived(Arrived { header, command, payload: Bytes::new() }),
        }
    }

    /// Takes what has arrived of the payload.
    fn next_of_payload(&mut self) -> Next {
        let (Some(incoming), Some(staging)) = (self.incoming.take(), &self.staging) else {
            return Next::Wait;
        };
        let staged = &staging[self.begin..self.end];
        match incoming {
            Incoming::Discard { header, errno, left } => {
                let taken = left.min(staged.len());
                self.begin += taken;
                if taken == left {
                    return Next::Arrived(Arrived { header, command: Err(errno), payload: Bytes::new() });
                }
                self.incoming = Some(Incoming::Discard { header, errno, left: left - taken });
                self.more()
            }
            Incoming::Payload { header, command, buffer, filled } => {
                let length = header.payload_bytes() as usize;
                let taken = (length - filled).min(staged.len());
                self.begin += taken;
                if taken == length {
                    let payload = Buffer::copy_of(&staged[..taken]).freeze();
                    return Next::Arrived(Arrived { header, command: Ok(command), payload });
                }
                let mut buffer = buffer.unwrap_or_else(|| Buffer::zeroed(length));
                buffer[filled..filled + taken].copy_from_slice(&staged[..taken]);
                if filled + taken == length {
                    let payload = buffer.freeze();
                    return Next::Arrived(Arrived { header, command: Ok(command), payload });
                }
                let filled = filled + taken;
                self.incoming = Some(Incoming::Payload { header, command, buffer: Some(buffer), filled });
                self.more()
            }
        }
    }

    /// Takes nothing more from the client, not even what has arrived.
    pub fn take_no_more(&mut self) {
        self.ending = true;
        self.deaf = true;
    }

    /// Where the next input goes: the rest of a payload, or whatever comes. None if none is to be taken now. Call it
    /// when [`Connection::next`] has nothing more to give.
    pub fn input(&mut self, limits: &Limits) -> Option<Input> {
        let transmits = matches!(self.phase, Phase::Transmit(..));
        if self.receiving || self.ending || (transmits && self.is_full(limits)) {
            return None;
        }
        if let Some(Incoming::Payload { buffer, filled, .. }) = &mut self.incoming
            && let Some(buffer) = buffer.take()
        {
            self.receiving = true;
            return Some(Input { buffer, from: *filled, all: true });
        }
        let mut buffer = self.staging.take()?;
        buffer.copy_within(self.begin..self.end, 0);
        self.end -= self.begin;
        self.begin = 0;
        self.receiving = true;
        Some(Input { buffer, from: self.end, all: false })
    }

    /// Takes back the memory of [`Connection::input`], with `bytes` more in it; none if the client sends no more.
    pub fn received(&mut self, buffer: Buffer, bytes: Option<usize>) {
        self.receiving = false;
        let into_payload = self.staging.is_some();
        match (&mut self.incoming, bytes) {
            (Some(Incoming::Payload { buffer: place, filled, .. }), Some(bytes)) if into_payload => {
                *filled += bytes;
                *place = Some(buffer);
            }
            (_, bytes) if !into_payload => {
                self.end += bytes.unwrap_or(0);
                self.staging = Some(buffer);
            }
            _ => {}
        }
        self.ending |= bytes.is_none();
        self.gone |= bytes.is_none();
    }

    /// Looks whether the client is still there while nothing is received from it.
    pub fn look_for_hangup(&mut self) {
        if self.receiving || self.gone {
            return;
        }
        let mut socket = [PollFd::new(&self.socket, PollFlags::RDHUP)];
        let polled = poll(&mut socket, Some(&Timespec::default()));
        let hangup = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
        self.gone = polled.is_ok() && socket[0].revents().intersects(hangup);
    }

    /// Whether nothing is under way any more and nothing will be.
    pub fn is_over(&self) -> bool {
        let sent = self.broken || self.output.is_empty();
        self.ending && self.requests == 0 && sent && self.sending_bytes == 0 && !self.receiving
    }
}
