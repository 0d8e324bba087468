//! A client that keeps so many requests in flight and costs as little as it can: one write and one read of the socket
//! for everything that has become possible.
//!
//! Owns its half of the protocol: EXPORT_NAME and simple replies, which every server speaks.

use std::io::{Error, Read, Result, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;
const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;

/// What the requests of one run do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Read.
    Read,
    /// Write.
    Write,
    /// Write, answered when it is durable.
    WriteDurable,
    /// Flush.
    Flush,
    /// Discard.
    Trim,
}

/// A connection to an export.
pub struct Client {
    socket: UnixStream,
}

impl Client {
    /// Connects to the export of this name.
    pub fn connect(socket: &Path, export: &str) -> Result<Self> {
        let mut socket = UnixStream::connect(socket)?;
        socket.read_exact(&mut [0; 18])?;
        let mut hello = 3u32.to_be_bytes().to_vec();
        hello.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
        hello.extend_from_slice(&1u32.to_be_bytes());
        hello.extend_from_slice(&(export.len() as u32).to_be_bytes());
        hello.extend_from_slice(export.as_bytes());
        socket.write_all(&hello)?;
        socket.read_exact(&mut [0; 10])?;
        Ok(Self { socket })
    }

    /// Carries out one request of `bytes` at each offset, `depth` at a time.
    pub fn run(&mut self, kind: Kind, offsets: &[u64], bytes: usize, depth: usize) -> Result<()> {
        self.carry_out(kind, offsets, bytes, depth, |_, _| {})
    }

    /// The same, and gives the time from sending each request to its reply.
    pub fn run_timed(
        &mut self,
        kind: Kind,
        offsets: &[u64],
        bytes: usize,
        depth: usize,
    ) -> Result<Vec<Duration>> {
        let now = Instant::now();
        let mut sent_at = vec![now; offsets.len()];
        let mut times = Vec::with_capacity(offsets.len());
        self.carry_out(kind, offsets, bytes, depth, |request, answered| {
            if answered {
                times.push(sent_at[request].elapsed());
            } else {
                sent_at[request] = Instant::now();
            }
        })?;
        Ok(times)
    }

    /// `told` hears of each request twice: when it is sent, and when it is answered.
    fn carry_out(
        &mut self,
        kind: Kind,
        offsets: &[u64],
        bytes: usize,
        depth: usize,
        mut told: impl FnMut(usize, bool),
    ) -> Result<()> {
        let reply_bytes = 16 + if kind == Kind::Read { bytes } else { 0 };
        let (mut sent, mut answered, mut partial) = (0, 0, 0);
        let mut input = vec![0; (reply_bytes * depth).max(64)];
        let mut output = Vec::new();
        while answered < offsets.len() {
            output.clear();
            while sent < offsets.len() && sent - answered < depth {
                request(&mut output, kind, sent as u64, offsets[sent], bytes);
                told(sent, false);
                sent += 1;
            }
            self.socket.write_all(&output)?;
            let read = self.socket.read(&mut input[partial..])?;
            if read == 0 {
                return Err(Error::other("the server has gone"));
            }
            let filled = partial + read;
            for reply in input[..filled].chunks_exact(reply_bytes) {
                told(check(reply)? as usize, true);
                answered += 1;
            }
            partial = filled % reply_bytes;
            input.copy_within(filled - partial..filled, 0);
        }
        Ok(())
    }

    /// Everything answered before is durable afterwards.
    pub fn flush(&mut self) -> Result<()> {
        self.run(Kind::Flush, &[0], 0, 1)
    }
}

fn request(output: &mut Vec<u8>, kind: Kind, cookie: u64, offset_bytes: u64, bytes: usize) {
    let (flags, command) = match kind {
        Kind::Read => (0u16, 0u16),
        Kind::Write => (0, 1),
        Kind::WriteDurable => (1, 1),
        Kind::Flush => (0, 3),
        Kind::Trim => (0, 4),
    };
    output.extend_from_slice(&REQUEST_MAGIC.to_be_bytes());
    output.extend_from_slice(&flags.to_be_bytes());
    output.extend_from_slice(&command.to_be_bytes());
    output.extend_from_slice(&cookie.to_be_bytes());
    output.extend_from_slice(&offset_bytes.to_be_bytes());
    output.extend_from_slice(&(bytes as u32).to_be_bytes());
    if matches!(kind, Kind::Write | Kind::WriteDurable) {
        // Not zeros, which a server may treat in another way, and not the same everywhere.
        output.resize(output.len() + bytes, (offset_bytes / 4096 + cookie) as u8 | 1);
    }
}

/// The cookie of a reply that tells no error.
fn check(reply: &[u8]) -> Result<u64> {
    let number = |at: usize| reply[at..at + 4].iter().fold(0u32, |all, byte| all << 8 | u32::from(*byte));
    match (number(0), number(4)) {
        (REPLY_MAGIC, 0) => Ok(u64::from(number(8)) << 32 | u64::from(number(12))),
        (REPLY_MAGIC, errno) => Err(Error::from_raw_os_error(errno as i32)),
        (magic, _) => Err(Error::other(format!("a reply begins with {magic:#x}"))),
    }
}
