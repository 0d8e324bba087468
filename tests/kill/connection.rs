//! A small NBD client: one connection, requests sent without waiting, simple replies.
//!
//! Owns the bytes on the wire. Knows nothing of what was sent: cookies are the caller's.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use vellum_tests::program::PATIENCE;

const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Fixed newstyle, no zeroes.
const CLIENT_FLAGS: u32 = 3;
const OPT_EXPORT_NAME: u32 = 1;

/// A command, by its number on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Command {
    Read = 0,
    Write = 1,
    Flush = 3,
    Trim = 4,
    Zero = 6,
}

/// A connection to one export.
pub struct Connection {
    stream: UnixStream,
    pub size_bytes: u64,
}

impl Connection {
    /// Connects and takes an export by its name.
    pub fn open(socket: &Path, export: &str) -> io::Result<Self> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.read_exact(&mut [0; 18])?;
        let mut hello = CLIENT_FLAGS.to_be_bytes().to_vec();
        hello.extend(OPTION_MAGIC.to_be_bytes());
        hello.extend(OPT_EXPORT_NAME.to_be_bytes());
        hello.extend((export.len() as u32).to_be_bytes());
        hello.extend(export.as_bytes());
        stream.write_all(&hello)?;
        let mut told = [0; 10];
        stream.read_exact(&mut told)?;
        let (size, _flags) = told.split_first_chunk().expect("ten bytes begin with eight");
        Ok(Self { stream, size_bytes: u64::from_be_bytes(*size) })
    }

    /// Sends a request.
    pub fn send(
        &mut self,
        command: Command,
        flags: u16,
        cookie: u64,
        (offset, length): (u64, u32),
        payload: &[u8],
    ) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(28 + payload.len());
        bytes.extend(REQUEST_MAGIC.to_be_bytes());
        bytes.extend(flags.to_be_bytes());
        bytes.extend((command as u16).to_be_bytes());
        bytes.extend(cookie.to_be_bytes());
        bytes.extend(offset.to_be_bytes());
        bytes.extend(length.to_be_bytes());
        bytes.extend(payload);
        self.stream.write_all(&bytes)
    }

    /// The cookie and error of the next reply. The data of a READ is still to be read.
    ///
    /// # Panics
    /// If none comes, or something else.
    pub fn receive(&mut self) -> io::Result<(u64, u32)> {
        let mut reply = [0; 16];
        if let Err(error) = self.stream.read_exact(&mut reply) {
            assert_ne!(error.kind(), io::ErrorKind::WouldBlock, "no reply came in {PATIENCE:?}");
            return Err(error);
        }
        let word = |at: usize| u32::from_be_bytes([reply[at], reply[at + 1], reply[at + 2], reply[at + 3]]);
        assert_eq!(word(0), SIMPLE_REPLY_MAGIC, "what came is no reply");
        Ok((u64::from(word(8)) << 32 | u64::from(word(12)), word(4)))
    }

    /// Reads a range and waits for it. Nothing else may be in flight.
    pub fn read(&mut self, offset: u64, length: u32) -> io::Result<Vec<u8>> {
        self.send(Command::Read, 0, 1, (offset, length), &[])?;
        assert_eq!(self.receive()?, (1, 0), "a read of {length} bytes at {offset} failed");
        let mut bytes = vec![0; length as usize];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}
