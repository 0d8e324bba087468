//! A raw NBD client for tests: it can say anything, right or wrong, and tells exactly what came back.
//!
//! Owns its own copy of the protocol's numbers, so that a wrong one in the server is not wrong here too. Has no
//! cleverness: nothing is retried, nothing is hidden. Every wait ends after [`PATIENCE`].

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// How long a client waits for a byte, or for room for one: longer is a hang.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Options.
#[allow(missing_docs)]
pub mod option {
    pub const EXPORT_NAME: u32 = 1;
    pub const ABORT: u32 = 2;
    pub const LIST: u32 = 3;
    pub const STARTTLS: u32 = 5;
    pub const INFO: u32 = 6;
    pub const GO: u32 = 7;
    pub const STRUCTURED_REPLY: u32 = 8;
    pub const LIST_META_CONTEXT: u32 = 9;
    pub const SET_META_CONTEXT: u32 = 10;
    pub const EXTENDED_HEADERS: u32 = 11;
}

/// Types of replies to options.
#[allow(missing_docs)]
pub mod answer {
    pub const ACK: u32 = 1;
    pub const SERVER: u32 = 2;
    pub const INFO: u32 = 3;
    pub const META_CONTEXT: u32 = 4;
    pub const UNSUP: u32 = 0x8000_0001;
    pub const INVALID: u32 = 0x8000_0003;
    pub const UNKNOWN: u32 = 0x8000_0006;
    pub const TOO_BIG: u32 = 0x8000_0009;
}

/// Commands.
#[allow(missing_docs)]
pub mod command {
    pub const READ: u16 = 0;
    pub const WRITE: u16 = 1;
    pub const DISC: u16 = 2;
    pub const FLUSH: u16 = 3;
    pub const TRIM: u16 = 4;
    pub const CACHE: u16 = 5;
    pub const WRITE_ZEROES: u16 = 6;
    pub const BLOCK_STATUS: u16 = 7;
}

/// Command flags.
#[allow(missing_docs)]
pub mod flag {
    pub const FUA: u16 = 1;
    pub const NO_HOLE: u16 = 2;
    pub const DF: u16 = 4;
    pub const REQ_ONE: u16 = 8;
    pub const FAST_ZERO: u16 = 16;
}

/// Types of chunks.
#[allow(missing_docs)]
pub mod chunk {
    pub const NONE: u16 = 0;
    pub const DATA: u16 = 1;
    pub const HOLE: u16 = 2;
    pub const STATUS: u16 = 5;
    pub const ERROR: u16 = 0x8001;
    pub const ERROR_OFFSET: u16 = 0x8002;
}

const GREETING: [u8; 16] = *b"NBDMAGICIHAVEOPT";
const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
const REQUEST: u32 = 0x2560_9513;
const SIMPLE: u32 = 0x6744_6698;
const STRUCTURED: u32 = 0x668e_33ef;

/// One reply to an option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The option it answers.
    pub option: u32,
    /// One of [`answer`].
    pub kind: u32,
    /// What it carries.
    pub data: Vec<u8>,
}

impl Answer {
    /// Whether no more replies to this option follow.
    pub fn is_last(&self) -> bool {
        self.kind == answer::ACK || self.kind >> 31 == 1
    }
}

/// A reply to a request, or a chunk of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Simple. The data of a READ that went well follows.
    Simple {
        /// The error, or 0.
        error: u32,
        /// Which request.
        cookie: u64,
    },
    /// A chunk.
    Chunk {
        /// Whether it is the last of its reply.
        done: bool,
        /// One of [`chunk`].
        kind: u16,
        /// Which request.
        cookie: u64,
        /// What it carries.
        payload: Vec<u8>,
    },
}

impl Reply {
    /// Which request is answered.
    pub fn cookie(&self) -> u64 {
        match self {
            Self::Simple { cookie, .. } | Self::Chunk { cookie, .. } => *cookie,
        }
    }
}

/// What a server tells of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Export {
    /// Its size.
    pub size_bytes: u64,
    /// Its transmission flags.
    pub flags: u16,
}

/// Length and flags of each extent.
pub type Extents = Vec<(u32, u32)>;

/// A client.
pub struct NbdClient {
    stream: UnixStream,
    structured: bool,
    next_cookie: u64,
}

impl NbdClient {
    /// Connects to a Unix socket and says nothing yet.
    ///
    /// # Errors
    /// If nobody answers.
    pub fn connect(path: &Path) -> io::Result<Self> {
        Self::over(UnixStream::connect(path)?)
    }

    /// Connects to a TCP address and says nothing yet.
    ///
    /// # Errors
    /// If nobody answers.
    pub fn connect_tcp(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        // What is done with the stream here is the same for every kind of socket.
        Self::over(UnixStream::from(OwnedFd::from(stream)))
    }

    fn over(stream: UnixStream) -> io::Result<Self> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream, structured: false, next_cookie: 1 })
    }

    /// A client that has agreed on `export`, with simple replies.
    ///
    /// # Errors
    /// If the server does not agree.
    pub fn open(path: &Path, export: &str) -> io::Result<Self> {
        let mut client = Self::connect(path)?;
        client.greet()?;
        client.go(export)?;
        Ok(client)
    }

    /// A client that has agreed on `export`, with structured replies and these contexts.
    ///
    /// # Errors
    /// If the server does not agree.
    pub fn open_structured(path: &Path, export: &str, contexts: &[&str]) -> io::Result<Self> {
        let mut client = Self::connect(path)?;
        client.greet()?;
        client.agree_on_structured()?;
        if !contexts.is_empty() {
            let answers = client.ask(option::SET_META_CONTEXT, &context_data(export.as_bytes(), contexts))?;
            expect(answers.len() == contexts.len() + 1, "a context is missing")?;
        }
        client.go(export)?;
        Ok(client)
    }

    /// Sends any bytes.
    ///
    /// # Errors
    /// If the server does not take them.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Receives exactly so many bytes.
    ///
    /// # Errors
    /// If they do not come.
    pub fn receive(&mut self, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Waits until the server closes; `false` if it sends something or lets us wait.
    pub fn is_dropped(&mut self) -> bool {
        match self.stream.read(&mut [0]) {
            Ok(bytes) => bytes == 0,
            Err(cause) => cause.kind() == io::ErrorKind::ConnectionReset,
        }
    }

    /// The socket, for what else can be done to it.
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Says that no more will be sent.
    ///
    /// # Errors
    /// If the socket is gone.
    pub fn finish_sending(&self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)
    }

    /// Receives the greeting and sends the usual client flags. Returns the server's handshake flags.
    ///
    /// # Errors
    /// If the greeting is none.
    pub fn greet(&mut self) -> io::Result<u16> {
        let flags = self.greeting()?;
        self.send(&3u32.to_be_bytes())?;
        Ok(flags)
    }

    /// Receives the greeting. Returns the server's handshake flags.
    ///
    /// # Errors
    /// If the greeting is none.
    pub fn greeting(&mut self) -> io::Result<u16> {
        let bytes = self.receive(18)?;
        expect(bytes[..16] == GREETING, "this is no greeting")?;
        Ok(u16::from_be_bytes([bytes[16], bytes[17]]))
    }

    /// Receives one reply to an option.
    ///
    /// # Errors
    /// If something else comes.
    pub fn answer(&mut self) -> io::Result<Answer> {
        let head = self.receive(20)?;
        expect(u64_at(&head, 0) == OPTION_REPLY, "this is no reply to an option")?;
        let data = self.receive(u32_at(&head, 16) as usize)?;
        Ok(Answer { option: u32_at(&head, 8), kind: u32_at(&head, 12), data })
    }

    /// Sends an option and receives all replies to it.
    ///
    /// # Errors
    /// If something else comes, or nothing.
    pub fn ask(&mut self, option: u32, data: &[u8]) -> io::Result<Vec<Answer>> {
        self.send(&option_bytes(option, data))?;
        let mut answers = Vec::new();
        loop {
            let answer = self.answer()?;
            expect(answer.option == option, "a reply to another option")?;
            answers.push(answer);
            if answers.last().is_some_and(Answer::is_last) {
                return Ok(answers);
            }
        }
    }

    /// Sends an option and returns the type of its last reply.
    ///
    /// # Errors
    /// If something else comes, or nothing.
    pub fn ask_kind(&mut self, option: u32, data: &[u8]) -> io::Result<u32> {
        Ok(self.ask(option, data)?.last().map_or(0, |answer| answer.kind))
    }

    /// Agrees on structured replies.
    ///
    /// # Errors
    /// If the server does not.
    pub fn agree_on_structured(&mut self) -> io::Result<()> {
        let kind = self.ask_kind(option::STRUCTURED_REPLY, &[])?;
        expect(kind == answer::ACK, "no structured replies")?;
        self.structured = true;
        Ok(())
    }

    /// Takes an export by GO.
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn go(&mut self, export: &str) -> io::Result<Export> {
        let answers = self.ask(option::GO, &info_data(export.as_bytes(), &[]))?;
        expect(answers.last().is_some_and(|last| last.kind == answer::ACK), "the export was refused")?;
        export_of(&answers)
    }

    /// Sends a request, without waiting. Returns its cookie.
    ///
    /// # Errors
    /// If the server does not take it.
    pub fn request(
        &mut self,
        flags: u16,
        command: u16,
        offset: u64,
        length: u32,
        payload: &[u8],
    ) -> io::Result<u64> {
        let cookie = self.next_cookie;
        self.next_cookie += 1;
        let mut bytes = request_bytes(flags, command, cookie, offset, length).to_vec();
        bytes.extend(payload);
        self.send(&bytes)?;
        Ok(cookie)
    }

    /// Receives a simple reply (without the data of a READ) or a chunk with its payload.
    ///
    /// # Errors
    /// If something else comes.
    pub fn reply(&mut self) -> io::Result<Reply> {
        let head = self.receive(16)?;
        match u32_at(&head, 0) {
            SIMPLE => Ok(Reply::Simple { error: u32_at(&head, 4), cookie: u64_at(&head, 8) }),
            STRUCTURED => {
                let length = self.receive(4)?;
                let payload = self.receive(u32_at(&length, 0) as usize)?;
                let (flags, kind) = (u32_at(&head, 4) >> 16, u32_at(&head, 4) as u16);
                Ok(Reply::Chunk { done: flags == 1, kind, cookie: u64_at(&head, 8), payload })
            }
            other => Err(io::Error::other(format!("{other:#x} opens no reply"))),
        }
    }

    /// All chunks of the reply to `cookie`, which must be the next one.
    ///
    /// # Errors
    /// If something else comes.
    pub fn chunks(&mut self, cookie: u64) -> io::Result<Vec<(u16, Vec<u8>)>> {
        let mut chunks = Vec::new();
        loop {
            let Reply::Chunk { done, kind, cookie: of, payload } = self.reply()? else {
                return Err(io::Error::other("a simple reply where a structured one was agreed on"));
            };
            expect(of == cookie, "a chunk of another request")?;
            chunks.push((kind, payload));
            if done {
                return Ok(chunks);
            }
        }
    }

    /// Makes a request that returns no data; its error, or 0.
    ///
    /// # Errors
    /// If something else comes than one reply.
    pub fn call(
        &mut self,
        flags: u16,
        command: u16,
        offset: u64,
        length: u32,
        payload: &[u8],
    ) -> io::Result<u32> {
        let cookie = self.request(flags, command, offset, length, payload)?;
        match self.reply()? {
            Reply::Simple { error, cookie: of } => {
                expect(of == cookie, "a reply to another request")?;
                Ok(error)
            }
            Reply::Chunk { done, kind, cookie: of, payload } => {
                expect(of == cookie && done, "another chunk than the only one")?;
                expect(kind == chunk::NONE || kind >> 15 == 1, "data where none was asked for")?;
                Ok(if kind == chunk::NONE { 0 } else { u32_at(&payload, 0) })
            }
        }
    }

    /// Writes.
    ///
    /// # Errors
    /// If the connection fails.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<u32> {
        self.call(0, command::WRITE, offset, bytes.len() as u32, bytes)
    }

    /// Flushes.
    ///
    /// # Errors
    /// If the connection fails.
    pub fn flush(&mut self) -> io::Result<u32> {
        self.call(0, command::FLUSH, 0, 0, &[])
    }

    /// Reads; the inner error is the server's.
    ///
    /// # Errors
    /// If the connection fails, or if chunks overlap, leave a gap or leave the range.
    pub fn read(&mut self, flags: u16, offset: u64, length: u32) -> io::Result<Result<Vec<u8>, u32>> {
        let cookie = self.request(flags, command::READ, offset, length, &[])?;
        if self.structured {
            let chunks = self.chunks(cookie)?;
            return assemble(&chunks, offset, length);
        }
        match self.reply()? {
            Reply::Simple { error: 0, cookie: of } if of == cookie => Ok(Ok(self.receive(length as usize)?)),
            Reply::Simple { error, cookie: of } if of == cookie => Ok(Err(error)),
            other => Err(io::Error::other(format!("{other:?} answers no simple read"))),
        }
    }

    /// Asks for the state of a range: a context's id and extents, for each context.
    ///
    /// # Errors
    /// If the connection fails or something else comes.
    pub fn status(
        &mut self,
        flags: u16,
        offset: u64,
        length: u32,
    ) -> io::Result<Result<Vec<(u32, Extents)>, u32>> {
        let cookie = self.request(flags, command::BLOCK_STATUS, offset, length, &[])?;
        let mut contexts = Vec::new();
        for (kind, payload) in self.chunks(cookie)? {
            match kind {
                chunk::STATUS => {
                    let extents = payload[4..].chunks_exact(8);
                    let extents = extents.map(|extent| (u32_at(extent, 0), u32_at(extent, 4))).collect();
                    contexts.push((u32_at(&payload, 0), extents));
                }
                chunk::ERROR | chunk::ERROR_OFFSET => return Ok(Err(u32_at(&payload, 0))),
                _ => return Err(io::Error::other(format!("a chunk of type {kind} tells no state"))),
            }
        }
        Ok(Ok(contexts))
    }
}

/// The bytes of an option.
pub fn option_bytes(option: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = GREETING[8..].to_vec();
    bytes.extend(option.to_be_bytes());
    bytes.extend((data.len() as u32).to_be_bytes());
    bytes.extend(data);
    bytes
}

/// The data of INFO and GO.
pub fn info_data(name: &[u8], requests: &[u16]) -> Vec<u8> {
    let mut data = (name.len() as u32).to_be_bytes().to_vec();
    data.extend(name);
    data.extend((requests.len() as u16).to_be_bytes());
    data.extend(requests.iter().flat_map(|request| request.to_be_bytes()));
    data
}

/// The data of LIST_META_CONTEXT and SET_META_CONTEXT.
pub fn context_data(name: &[u8], queries: &[&str]) -> Vec<u8> {
    let mut data = (name.len() as u32).to_be_bytes().to_vec();
    data.extend(name);
    data.extend((queries.len() as u32).to_be_bytes());
    for query in queries {
        data.extend((query.len() as u32).to_be_bytes());
        data.extend(query.as_bytes());
    }
    data
}

/// The header of a request.
pub fn request_bytes(flags: u16, command: u16, cookie: u64, offset: u64, length: u32) -> [u8; 28] {
    let mut bytes = [0; 28];
    bytes[..4].copy_from_slice(&REQUEST.to_be_bytes());
    bytes[4..6].copy_from_slice(&flags.to_be_bytes());
    bytes[6..8].copy_from_slice(&command.to_be_bytes());
    bytes[8..16].copy_from_slice(&cookie.to_be_bytes());
    bytes[16..24].copy_from_slice(&offset.to_be_bytes());
    bytes[24..].copy_from_slice(&length.to_be_bytes());
    bytes
}

/// Size and flags among the replies to INFO or GO.
///
/// # Errors
/// If they are not there.
pub fn export_of(answers: &[Answer]) -> io::Result<Export> {
    let is_export = |answer: &&Answer| {
        answer.kind == answer::INFO && answer.data.len() == 12 && answer.data[..2] == [0, 0]
    };
    let found = answers.iter().find(is_export).ok_or_else(|| io::Error::other("no size was told"))?;
    Ok(Export {
        size_bytes: u64_at(&found.data, 2),
        flags: u16::from_be_bytes([found.data[10], found.data[11]]),
    })
}

/// The bytes that the chunks of a READ stand for.
///
/// # Errors
/// If chunks overlap, leave a gap or leave the range.
pub fn assemble(chunks: &[(u16, Vec<u8>)], offset: u64, length: u32) -> io::Result<Result<Vec<u8>, u32>> {
    let mut bytes = vec![0; length as usize];
    let mut ranges = Vec::new();
    for (kind, payload) in chunks {
        let (from, count) = match *kind {
            chunk::NONE => continue,
            chunk::DATA => (u64_at(payload, 0), payload.len() as u64 - 8),
            chunk::HOLE => (u64_at(payload, 0), u64::from(u32_at(payload, 8))),
            chunk::ERROR | chunk::ERROR_OFFSET => return Ok(Err(u32_at(payload, 0))),
            _ => return Err(io::Error::other(format!("a chunk of type {kind} carries no content"))),
        };
        expect(count > 0, "a chunk of nothing")?;
        let end = from.saturating_add(count);
        expect(from >= offset && end <= offset + u64::from(length), "a chunk leaves the range")?;
        ranges.push(from..end);
        if *kind == chunk::DATA {
            bytes[(from - offset) as usize..(end - offset) as usize].copy_from_slice(&payload[8..]);
        }
    }
    ranges.sort_by_key(|range| range.start);
    let mut at = offset;
    for range in ranges {
        expect(range.start == at, "chunks overlap or leave a gap")?;
        at = range.end;
    }
    expect(at == offset + u64::from(length), "chunks end before the range does")?;
    Ok(Ok(bytes))
}

/// The big-endian number of 32 bits at `at`.
///
/// # Panics
/// If `bytes` are too few.
pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The big-endian number of 64 bits at `at`.
///
/// # Panics
/// If `bytes` are too few.
pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) << 32 | u64::from(u32_at(bytes, at + 4))
}

fn expect(holds: bool, otherwise: &'static str) -> io::Result<()> {
    if holds { Ok(()) } else { Err(io::Error::other(otherwise)) }
}
