//! The sending end: a snapshot, or what differs from a base, as the bytes of a stream.
//!
//! Owns the order: what differs is asked for range by range and read chunk by chunk, so that a stream of any length takes
//! little memory. A snapshot never changes, so a stream that broke off goes on anywhere.

use super::{Ask, ResumeToken, unexpected};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{CHUNK_BYTES_MAX, StreamEncoder, StreamHeader};
use crate::request::{Arrival, Base, Difference, DifferenceRange, Outcome, Request, Segment, Uuid};
use crate::units::VolumeId;
use bytes::Bytes;
use std::collections::VecDeque;

/// What is to be sent.
#[derive(Clone, Copy, Debug)]
pub struct SendPlan {
    /// The snapshot.
    pub snapshot: VolumeId,
    /// What the receiver has already.
    pub base: Base,
    /// Where to go on with a stream that broke off.
    pub resume: Option<ResumeToken>,
    /// The new stream's uuid. Must be random.
    pub stream: Uuid,
}

/// A stream being made.
pub struct Sender {
    plan: SendPlan,
    arrival: Arrival,
    data_bytes: u64,
    sent_bytes: u64,
    encoder: Option<StreamEncoder>,
    /// What is to be sent next.
    ranges: VecDeque<DifferenceRange>,
    /// From where on to ask for more.
    next_bytes: Option<u64>,
    ended: bool,
}

impl Sender {
    /// Looks at the snapshot and measures what is to be sent. Fails if there can be no such stream.
    pub fn start(ask: &mut dyn Ask, plan: SendPlan) -> Result<Self> {
        let described = ask.ask(Request::Describe { snapshot: plan.snapshot, base: plan.base })?;
        let Outcome::Snapshot(arrival) = described else { return Err(unexpected(&described)) };
        let mut arrival = *arrival;
        if let Some(token) = plan.resume {
            if token.snapshot != arrival.new.uuid || token.base != arrival.base {
                let message = "the token to resume is of another snapshot, or of another base";
                return Err(Error::new(ErrorKind::Mismatch, message));
            }
            arrival.position_bytes = token.position_bytes.min(arrival.size_bytes);
        }
        let mut sender = Self {
            plan,
            data_bytes: 0,
            sent_bytes: 0,
            encoder: None,
            ranges: VecDeque::new(),
            next_bytes: Some(arrival.position_bytes),
            ended: false,
            arrival,
        };
        sender.data_bytes = sender.measure(ask)?;
        Ok(sender)
    }

    /// How much data is to be sent in all, in bytes.
    pub fn data_bytes(&self) -> u64 {
        self.data_bytes
    }

    /// How much data was sent so far, in bytes.
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes
    }

    /// What the stream says of the snapshot.
    pub fn arrival(&self) -> &Arrival {
        &self.arrival
    }

    /// The next bytes of the stream, at most some more than a chunk; none when all were given, and behind an error.
    pub fn next(&mut self, ask: &mut dyn Ask) -> Result<Option<Bytes>> {
        if self.ended {
            return Ok(None);
        }
        let bytes = self.next_chunk(ask);
        self.ended |= bytes.is_err();
        bytes
    }

    fn next_chunk(&mut self, ask: &mut dyn Ask) -> Result<Option<Bytes>> {
        let Some(mut encoder) = self.encoder.take() else {
            let header = StreamHeader {
                stream: self.plan.stream,
                arrival: self.arrival.clone(),
                data_bytes: self.data_bytes,
            };
            let (encoder, bytes) = StreamEncoder::start(&header);
            self.encoder = Some(encoder);
            return Ok(Some(bytes.into()));
        };
        let Some(range) = self.next_range(ask)? else {
            self.ended = true;
            return Ok(Some(encoder.end().into()));
        };
        let DifferenceRange { offset_bytes, length_bytes, absent } = range;
        let bytes = if absent {
            encoder.zeros(offset_bytes, length_bytes)
        } else {
            let data = read(ask, self.plan.snapshot, offset_bytes, length_bytes)?;
            self.sent_bytes += length_bytes;
            if data.iter().all(|byte| *byte == 0) {
                encoder.zeros(offset_bytes, length_bytes)
            } else {
                encoder.data(offset_bytes, data)
            }
        };
        self.encoder = Some(encoder);
        Ok(Some(bytes.into()))
    }

    fn measure(&self, ask: &mut dyn Ask) -> Result<u64> {
        let (mut bytes, mut next) = (0, self.next_bytes);
        while let Some(offset_bytes) = next {
            let Difference { ranges, next_bytes } = self.difference(ask, offset_bytes)?;
            let present = ranges.iter().filter(|range| !range.absent);
            bytes += present.map(|range| range.length_bytes).sum::<u64>();
            next = next_bytes;
        }
        Ok(bytes)
    }

    fn difference(&self, ask: &mut dyn Ask, offset_bytes: u64) -> Result<Difference> {
        let (base, volume) = (self.plan.base, self.plan.snapshot);
        match ask.ask(Request::Difference { base, volume, offset_bytes })? {
            Outcome::Difference(difference) => Ok(difference),
            other => Err(unexpected(&other)),
        }
    }

    /// The next range, at most a chunk of data long.
    fn next_range(&mut self, ask: &mut dyn Ask) -> Result<Option<DifferenceRange>> {
        while self.ranges.is_empty() {
            let Some(offset_bytes) = self.next_bytes else { return Ok(None) };
            let Difference { ranges, next_bytes } = self.difference(ask, offset_bytes)?;
            self.ranges = ranges.into();
            self.next_bytes = next_bytes;
        }
        let Some(range) = self.ranges.pop_front() else { return Ok(None) };
        let length_bytes =
            if range.absent { range.length_bytes } else { range.length_bytes.min(CHUNK_BYTES_MAX as u64) };
        if length_bytes < range.length_bytes {
            self.ranges.push_front(DifferenceRange {
                offset_bytes: range.offset_bytes + length_bytes,
                length_bytes: range.length_bytes - length_bytes,
                ..range
            });
        }
        Ok(Some(DifferenceRange { length_bytes, ..range }))
    }
}

fn read(ask: &mut dyn Ask, volume: VolumeId, offset_bytes: u64, length_bytes: u64) -> Result<Bytes> {
    let segments = match ask.ask(Request::Read { volume, offset_bytes, length_bytes })? {
        Outcome::Data(segments) => segments,
        other => return Err(unexpected(&other)),
    };
    let mut bytes = Vec::with_capacity(length_bytes as usize);
    for segment in segments {
        match segment {
            Segment::Bytes(piece) => bytes.extend_from_slice(&piece),
            Segment::Zeros(length) => bytes.resize(bytes.len() + length as usize, 0),
        }
    }
    Ok(bytes.into())
}
