//! The receiving end: the bytes of a stream, written to a partial volume that becomes a snapshot at the proven end.
//!
//! Owns what happens to a stream that is not good. Nothing of it is ever to be seen: it is written to a volume without a
//! name. If it breaks off, what has arrived stays there and the transfer can go on; if it is wrong, what this stream made
//! goes. What an earlier stream brought stays, and is written over when the transfer goes on.

use super::{Ask, ResumeToken, unexpected};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{Chunk, StreamDecoder, StreamHeader};
use crate::request::{Outcome, Partial, Request};
use crate::units::VolumeId;
use bytes::Bytes;

/// Bytes of a volume after which it is made sure, and noted, how far a transfer has come.
const NOTE_EVERY_BYTES: u64 = 64 << 20;

/// A snapshot that has arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// Its number.
    pub snapshot: VolumeId,
    /// Its name.
    pub name: String,
}

/// A snapshot arriving.
struct Arriving {
    partial: Partial,
    header: Box<StreamHeader>,
    /// What is before this byte has been written.
    position_bytes: u64,
    /// What is before this byte was noted.
    noted_bytes: u64,
}

/// A stream being received.
pub struct Receiver {
    decoder: StreamDecoder,
    name: Option<String>,
    arriving: Option<Arriving>,
    received: Option<Received>,
}

impl Receiver {
    /// A receiver that calls the snapshot `name`, or what the sender called it.
    pub fn new(name: Option<String>) -> Self {
        Self { decoder: StreamDecoder::default(), name, arriving: None, received: None }
    }

    /// What the stream says it brings, once that was there.
    pub fn header(&self) -> Option<&StreamHeader> {
        self.arriving.as_ref().map(|arriving| &*arriving.header)
    }

    /// Takes the next bytes of the stream, whole chunks or not. After an error the receiver takes no more; what the stream
    /// made is gone, or can be resumed where the pool is the cause.
    pub fn take(&mut self, ask: &mut dyn Ask, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            match self.decoder.take(&mut bytes) {
                Ok(Some(chunk)) => self.apply(ask, chunk)?,
                Ok(None) => {}
                Err(error) => {
                    self.drop_partial(ask);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// The bytes have come to an end. Fails with `Io` if the stream has not: then what has arrived stays.
    pub fn finish(mut self, ask: &mut dyn Ask) -> Result<Received> {
        if let Some(received) = self.received.take() {
            return Ok(received);
        }
        match self.interrupt(ask) {
            Some(token) => Err(Error::new(
                ErrorKind::Io,
                format!(
                    "the stream breaks off; what has arrived is kept, and goes on with the token {token}"
                ),
            )),
            None => Err(Error::new(ErrorKind::Io, "the stream breaks off before it says what it brings")),
        }
    }

    /// No more bytes will come. What has arrived stays, and the token says where to go on.
    pub fn interrupt(&mut self, ask: &mut dyn Ask) -> Option<ResumeToken> {
        // If it cannot be noted, the transfer goes on where it was noted before.
        let _ = self.note(ask);
        let arriving = self.arriving.as_ref()?;
        let position_bytes = arriving.noted_bytes;
        Some(ResumeToken { position_bytes, ..ResumeToken::from(&arriving.partial) })
    }

    fn apply(&mut self, ask: &mut dyn Ask, chunk: Chunk) -> Result<()> {
        match chunk {
            Chunk::Start(header) => self.start(ask, header),
            Chunk::Data { offset_bytes, bytes } => self.write(ask, offset_bytes, bytes),
            Chunk::Zeros { offset_bytes, length_bytes } => self.clear(ask, offset_bytes, length_bytes),
            Chunk::End(_) => self.arrive(ask),
        }
    }

    fn start(&mut self, ask: &mut dyn Ask, header: Box<StreamHeader>) -> Result<()> {
        let mut arrival = header.arrival.clone();
        if let Some(name) = &self.name {
            arrival.new.name.clone_from(name);
        }
        let position_bytes = arrival.position_bytes;
        let partial = match ask.ask(Request::StartReceive { arrival: Box::new(arrival) })? {
            Outcome::Receiving(partial) => partial,
            other => return Err(unexpected(&other)),
        };
        let noted_bytes = partial.position_bytes;
        self.arriving = Some(Arriving { partial, header, position_bytes, noted_bytes });
        Ok(())
    }

    fn write(&mut self, ask: &mut dyn Ask, offset_bytes: u64, bytes: Bytes) -> Result<()> {
        let end = offset_bytes + bytes.len() as u64;
        let volume = self.volume()?;
        ask.ask(Request::Write { volume, offset_bytes, bytes, fua: false })?;
        self.has_come_to(ask, end)
    }

    fn clear(&mut self, ask: &mut dyn Ask, offset_bytes: u64, length_bytes: u64) -> Result<()> {
        let volume = self.volume()?;
        ask.ask(Request::Discard { volume, offset_bytes, length_bytes, fua: false })?;
        self.has_come_to(ask, offset_bytes + length_bytes)
    }

    fn has_come_to(&mut self, ask: &mut dyn Ask, position_bytes: u64) -> Result<()> {
        let Some(arriving) = &mut self.arriving else { return Ok(()) };
        arriving.position_bytes = position_bytes;
        if position_bytes.saturating_sub(arriving.noted_bytes) >= NOTE_EVERY_BYTES {
            self.note(ask)
        } else {
            Ok(())
        }
    }

    /// Makes sure of what was written and notes it. The record of the note is behind those of the writes, and one sync
    /// covers all.
    fn note(&mut self, ask: &mut dyn Ask) -> Result<()> {
        let Some(arriving) = &mut self.arriving else { return Ok(()) };
        if arriving.position_bytes <= arriving.noted_bytes {
            return Ok(());
        }
        let (volume, position_bytes) = (arriving.partial.volume, arriving.position_bytes);
        ask.ask(Request::ReceiveProgress { volume, position_bytes })?;
        arriving.noted_bytes = position_bytes;
        Ok(())
    }

    /// All of the stream was there: what is written becomes a snapshot.
    fn arrive(&mut self, ask: &mut dyn Ask) -> Result<()> {
        let volume = self.volume()?;
        let Some(arriving) = &self.arriving else { return Ok(()) };
        let size_bytes = arriving.header.arrival.size_bytes;
        let behind = arriving.partial.size_bytes.saturating_sub(size_bytes);
        let name = self.name.clone().unwrap_or_else(|| arriving.header.arrival.new.name.clone());
        if behind > 0 {
            ask.ask(Request::Discard { volume, offset_bytes: size_bytes, length_bytes: behind, fua: false })?;
        }
        match ask.ask(Request::FinishReceive { volume, name: name.clone(), size_bytes })? {
            Outcome::Created(made) if made == [volume] => {
                self.received = Some(Received { snapshot: volume, name });
                Ok(())
            }
            other => Err(unexpected(&other)),
        }
    }

    fn volume(&self) -> Result<VolumeId> {
        let volume = self.arriving.as_ref().map(|arriving| arriving.partial.volume);
        volume.ok_or_else(|| Error::damaged("the stream is broken: it has no beginning"))
    }

    /// The stream is wrong: what it made goes. If that cannot be, it stays invisible and can be aborted later.
    fn drop_partial(&mut self, ask: &mut dyn Ask) {
        let made =
            self.arriving.take().filter(|arriving| !arriving.partial.is_resumed && self.received.is_none());
        if let Some(arriving) = made {
            let _ = ask.ask(Request::AbortReceive { volume: arriving.partial.volume });
        }
    }
}
