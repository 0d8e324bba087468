//! A stream: a snapshot, or what differs from a base, on its way to another pool.
//!
//! Owns its bytes: encoding into chunks and decoding from pieces of any length, without I/O and in bounded memory. Every
//! chunk is proven before it is handed out. What is done with it is `transfer/`'s.

use super::checksum::crc32_seeded;
use super::codec::{Reader, Writer, from_body, to_body};
use super::volume_record::{NAME_BYTES_MAX, VolumeKind, check_name};
use crate::error::{Error, ErrorKind, Result};
use crate::request::{Arrival, NewVolume, Source, StreamBase, Uuid};
use crate::units::SECTOR_BYTES;
use bytes::Bytes;

// the stream: a preamble, then chunks: one start, any number of data and zeros with rising offsets, one end
//
// preamble
// offset  size  field
//      0     8  magic "VELSTRM1"
//      8     4  version, 1
//     12     4  features that a reader must know
//
// chunk
// offset  size  field
//      0     4  CRC-32 of bytes 4.. and the payload, seeded with the checksum of the chunk before this one; that before
//               the first chunk is version and features of the preamble
//      4     4  kind: 1 start, 2 data, 3 zeros, 4 end
//      8     8  number of the chunk, from 0
//     16     8  data, zeros: where the range starts in the volume, in bytes
//     24     8  data, zeros: how long it is
//     32     4  length of the payload
//     36     4  zero
//     40        payload; start: `StreamHeader` in bincode; data: the data; end: `StreamTotals` in bincode
const MAGIC: &[u8; 8] = b"VELSTRM1";
/// The version of streams that this program reads and writes.
pub const STREAM_VERSION: u32 = 1;
const PREAMBLE_BYTES: usize = 16;
const CHUNK_HEADER_BYTES: usize = 40;
/// Data that one chunk has at most.
pub const CHUNK_BYTES_MAX: usize = 1 << 20;
const START_BYTES_MAX: usize = 8192;

const START: u32 = 1;
const DATA: u32 = 2;
const ZEROS: u32 = 3;
const END: u32 = 4;

/// What a stream says first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamHeader {
    /// The stream's own uuid: no chunk of another one can stand in for one of this.
    pub stream: Uuid,
    /// The snapshot, and what is brought of it.
    pub arrival: Arrival,
    /// How much data is to come, in bytes; for people.
    pub data_bytes: u64,
}

/// What a stream says last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct StreamTotals {
    /// Bytes of data.
    pub data_bytes: u64,
    /// Bytes that read as zeros.
    pub zero_bytes: u64,
    /// CRC-32 of all data, in order.
    pub data_crc: u32,
}

/// A piece of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chunk {
    /// What it is about. The first one.
    Start(Box<StreamHeader>),
    /// A range holds this data.
    Data {
        /// Where it starts in the volume, in bytes.
        offset_bytes: u64,
        /// Whole sectors.
        bytes: Bytes,
    },
    /// A range reads as zeros.
    Zeros {
        /// Where it starts in the volume, in bytes.
        offset_bytes: u64,
        /// How long it is.
        length_bytes: u64,
    },
    /// All of it was there. The last one.
    End(StreamTotals),
}

impl StreamHeader {
    fn encode(&self) -> Vec<u8> {
        let Arrival { new, size_bytes, source, base, position_bytes, properties } = &self.arrival;
        to_body(&(
            self.stream,
            (&new.name, new.uuid, new.created_unix_s),
            *size_bytes,
            *source,
            *base,
            *position_bytes,
            properties.to_vec(),
            self.data_bytes,
        ))
    }

    fn decode(body: &[u8]) -> Result<Self> {
        type Fields = (Uuid, (String, Uuid, u64), u64, Source, StreamBase, u64, Vec<u8>, u64);
        let (fields, used): (Fields, usize) = from_body(body)?;
        if used != body.len() {
            return Err(wrong("its start is longer than this version knows"));
        }
        let (
            stream,
            (name, uuid, created_unix_s),
            size_bytes,
            source,
            base,
            position_bytes,
            properties,
            data_bytes,
        ) = fields;
        if name.len() > NAME_BYTES_MAX || check_name(VolumeKind::Snapshot, &name).is_err() {
            return Err(wrong("the snapshot has an impossible name"));
        }
        let aligned = |bytes: u64| bytes.is_multiple_of(SECTOR_BYTES);
        if !aligned(size_bytes) || !aligned(position_bytes) || position_bytes > size_bytes {
            return Err(wrong("the snapshot has an impossible size"));
        }
        let new = NewVolume { name, uuid, created_unix_s };
        let arrival =
            Arrival { new, size_bytes, source, base, position_bytes, properties: properties.into() };
        Ok(Self { stream, arrival, data_bytes })
    }
}

/// Both ends of a stream keep the same account.
#[derive(Clone, Debug)]
struct Account {
    /// Checksum of the last chunk.
    chain: u32,
    /// Chunks so far.
    chunks: u64,
    totals: StreamTotals,
    data: crc32fast::Hasher,
}

impl Account {
    fn new(features: u32) -> Self {
        let chain = crc32_seeded(&[u64::from(STREAM_VERSION), u64::from(features)], &[]);
        Self { chain, chunks: 0, totals: StreamTotals::default(), data: crc32fast::Hasher::new() }
    }

    fn add(&mut self, chunk: &Chunk) {
        match chunk {
            Chunk::Data { bytes, .. } => {
                self.totals.data_bytes += bytes.len() as u64;
                self.data.update(bytes);
            }
            // Whoever reads refuses lengths that do not add up.
            Chunk::Zeros { length_bytes, .. } => {
                self.totals.zero_bytes = self.totals.zero_bytes.wrapping_add(*length_bytes);
            }
            Chunk::Start(_) | Chunk::End(_) => {}
        }
    }

    fn totals(&self) -> StreamTotals {
        StreamTotals { data_crc: self.data.clone().finalize(), ..self.totals }
    }
}

/// Makes the bytes of a stream.
pub struct StreamEncoder {
    account: Account,
}

impl StreamEncoder {
    /// A stream and its first bytes.
    pub fn start(header: &StreamHeader) -> (Self, Vec<u8>) {
        let mut out = Writer::with_capacity(PREAMBLE_BYTES);
        out.bytes(MAGIC);
        out.u32(STREAM_VERSION);
        out.u32(0);
        let mut encoder = Self { account: Account::new(0) };
        let mut bytes = out.finish();
        bytes.extend(encoder.chunk(&Chunk::Start(Box::new(header.clone()))));
        (encoder, bytes)
    }

    /// The bytes of data, which is whole sectors and at most [`CHUNK_BYTES_MAX`] bytes.
    pub fn data(&mut self, offset_bytes: u64, bytes: Bytes) -> Vec<u8> {
        assert!(bytes.len() <= CHUNK_BYTES_MAX, "a chunk of {} bytes", bytes.len());
        self.chunk(&Chunk::Data { offset_bytes, bytes })
    }

    /// The bytes of a range of zeros.
    pub fn zeros(&mut self, offset_bytes: u64, length_bytes: u64) -> Vec<u8> {
        self.chunk(&Chunk::Zeros { offset_bytes, length_bytes })
    }

    /// The last bytes.
    pub fn end(mut self) -> Vec<u8> {
        let totals = self.account.totals();
        self.chunk(&Chunk::End(totals))
    }

    pub(super) fn chunk(&mut self, chunk: &Chunk) -> Vec<u8> {
        self.account.add(chunk);
        let (kind, range, payload) = match chunk {
            Chunk::Start(header) => (START, (0, 0), header.encode().into()),
            Chunk::Data { offset_bytes, bytes } => (DATA, (*offset_bytes, bytes.len() as u64), bytes.clone()),
            Chunk::Zeros { offset_bytes, length_bytes } => {
                (ZEROS, (*offset_bytes, *length_bytes), Bytes::new())
            }
            Chunk::End(totals) => (END, (0, 0), to_body(totals).into()),
        };
        let mut out = Writer::with_capacity(CHUNK_HEADER_BYTES + payload.len());
        out.u32(0);
        out.u32(kind);
        out.u64(self.account.chunks);
        out.u64(range.0);
        out.u64(range.1);
        out.u32(payload.len() as u32);
        out.u32(0);
        out.bytes(&payload);
        let mut bytes = out.finish();
        let checksum = crc32_seeded(&[u64::from(self.account.chain)], &bytes[4..]);
        bytes[..4].copy_from_slice(&checksum.to_le_bytes());
        self.account.chain = checksum;
        self.account.chunks += 1;
        bytes
    }
}

/// The header of a chunk that was not proven yet.
#[derive(Clone, Copy)]
struct ChunkHeader {
    checksum: u32,
    kind: u32,
    number: u64,
    offset_bytes: u64,
    length_bytes: u64,
    payload_bytes: usize,
}

/// Takes a stream apart. Keeps at most one chunk in memory.
#[derive(Default)]
pub struct StreamDecoder {
    waiting: Vec<u8>,
    account: Option<Account>,
    /// Of the snapshot, once the start was there.
    size_bytes: Option<u64>,
    /// Where the next range may start.
    position_bytes: u64,
    ended: bool,
}

impl StreamDecoder {
    /// Takes bytes from the front of `bytes`, as many as the next chunk needs, and removes them. Gives the chunk when
    /// all of it is there and proven; nothing when `bytes` are used up before.
    ///
    /// Fails with `Damaged` when the bytes are no such stream, `Unsupported` for one of a newer version. After an error
    /// the decoder is of no use.
    pub fn take(&mut self, bytes: &mut &[u8]) -> Result<Option<Chunk>> {
        if self.ended && !bytes.is_empty() {
            return Err(wrong("something stands behind its end"));
        }
        if self.account.is_none() {
            if !self.fill(bytes, PREAMBLE_BYTES) {
                return Ok(None);
            }
            self.account = Some(read_preamble(&self.waiting)?);
            self.waiting.clear();
        }
        if self.ended || !self.fill(bytes, CHUNK_HEADER_BYTES) {
            return Ok(None);
        }
        let header = self.read_header()?;
        if !self.fill(bytes, CHUNK_HEADER_BYTES + header.payload_bytes) {
            return Ok(None);
        }
        let chunk = self.read_chunk(&header)?;
        self.waiting.clear();
        Ok(Some(chunk))
    }

    /// Whether all of the stream was there.
    pub fn is_finished(&self) -> bool {
        self.ended
    }

    /// Moves bytes until `length` wait. Whether they do.
    fn fill(&mut self, bytes: &mut &[u8], length: usize) -> bool {
        let missing = length.saturating_sub(self.waiting.len()).min(bytes.len());
        let (taken, rest) = bytes.split_at(missing);
        self.waiting.extend_from_slice(taken);
        *bytes = rest;
        self.waiting.len() >= length
    }

    /// Lengths decide how much memory is taken, so they are looked at before the checksum can be.
    fn read_header(&self) -> Result<ChunkHeader> {
        let mut reader = Reader::new(&self.waiting);
        let header = ChunkHeader {
            checksum: reader.u32()?,
            kind: reader.u32()?,
            number: reader.u64()?,
            offset_bytes: reader.u64()?,
            length_bytes: reader.u64()?,
            payload_bytes: reader.u32()? as usize,
        };
        let is_possible = match header.kind {
            START => header.payload_bytes <= START_BYTES_MAX,
            DATA => {
                header.payload_bytes <= CHUNK_BYTES_MAX && header.payload_bytes as u64 == header.length_bytes
            }
            ZEROS => header.payload_bytes == 0,
            END => header.payload_bytes <= 64,
            _ => false,
        };
        let chunks = self.account.as_ref().map_or(0, |account| account.chunks);
        let is_first = chunks == 0;
        if !is_possible || reader.u32()? != 0 || header.number != chunks || is_first != (header.kind == START)
        {
            return Err(wrong("a chunk is damaged, missing, or of another stream"));
        }
        Ok(header)
    }

    fn read_chunk(&mut self, header: &ChunkHeader) -> Result<Chunk> {
        let Some(account) = &mut self.account else { return Err(wrong("it has no beginning")) };
        let end = CHUNK_HEADER_BYTES + header.payload_bytes;
        let (covered, payload) = (&self.waiting[4..end], &self.waiting[CHUNK_HEADER_BYTES..end]);
        if crc32_seeded(&[u64::from(account.chain)], covered) != header.checksum {
            return Err(wrong("a chunk is damaged, missing, or of another stream"));
        }
        account.chain = header.checksum;
        account.chunks += 1;
        let ChunkHeader { offset_bytes, length_bytes, .. } = *header;
        let chunk = match header.kind {
            START => Chunk::Start(Box::new(StreamHeader::decode(payload)?)),
            DATA => Chunk::Data { offset_bytes, bytes: Bytes::copy_from_slice(payload) },
            ZEROS => Chunk::Zeros { offset_bytes, length_bytes },
            _ => Chunk::End(decode_totals(payload)?),
        };
        let totals = account.totals_at_end(&chunk);
        self.follow(&chunk, header, totals)?;
        // Behind the check: lengths that cannot be would not add up.
        self.account.iter_mut().for_each(|account| account.add(&chunk));
        Ok(chunk)
    }

    /// Ranges rise and lie in the volume; the end agrees with what was there.
    fn follow(&mut self, chunk: &Chunk, header: &ChunkHeader, totals: Option<StreamTotals>) -> Result<()> {
        match chunk {
            Chunk::Start(header) => {
                self.size_bytes = Some(header.arrival.size_bytes);
                self.position_bytes = header.arrival.position_bytes;
            }
            Chunk::Data { .. } | Chunk::Zeros { .. } => {
                let aligned = header.offset_bytes.is_multiple_of(SECTOR_BYTES)
                    && header.length_bytes.is_multiple_of(SECTOR_BYTES);
                let end = header
                    .offset_bytes
                    .checked_add(header.length_bytes)
                    .filter(|end| Some(*end) <= self.size_bytes);
                match end {
                    Some(end)
                        if aligned
                            && header.length_bytes > 0
                            && header.offset_bytes >= self.position_bytes =>
                    {
                        self.position_bytes = end;
                    }
                    _ => return Err(wrong("a range lies outside the snapshot or before the last one")),
                }
            }
            Chunk::End(said) => {
                if totals != Some(*said) {
                    return Err(wrong("its end does not agree with what was there"));
                }
                self.ended = true;
            }
        }
        Ok(())
    }
}

impl Account {
    fn totals_at_end(&self, chunk: &Chunk) -> Option<StreamTotals> {
        matches!(chunk, Chunk::End(_)).then(|| self.totals())
    }
}

fn read_preamble(bytes: &[u8]) -> Result<Account> {
    let mut reader = Reader::new(bytes);
    if reader.array()? != *MAGIC {
        return Err(wrong("it does not begin as one"));
    }
    let (version, features) = (reader.u32()?, reader.u32()?);
    if version != STREAM_VERSION || features != 0 {
        let message = format!(
            "a stream of version {version} with features {features:#x}; this program knows version {STREAM_VERSION}"
        );
        return Err(Error::new(ErrorKind::Unsupported, message));
    }
    Ok(Account::new(features))
}

fn decode_totals(payload: &[u8]) -> Result<StreamTotals> {
    let (totals, used) = from_body(payload)?;
    if used != payload.len() {
        return Err(wrong("its end is longer than this version knows"));
    }
    Ok(totals)
}

fn wrong(what: &'static str) -> Error {
    Error::damaged(format!("the stream is broken: {what}"))
}
