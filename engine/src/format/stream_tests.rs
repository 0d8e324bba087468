//! Streams: round trips in pieces of any length, golden bytes, and everything that is to be refused.

use super::golden;
use super::stream::*;
use crate::error::{ErrorKind, Result};
use crate::request::{Arrival, NewVolume, Source, StreamBase};
use crate::units::{Generation, VolumeId};
use bytes::Bytes;

fn header() -> StreamHeader {
    let new = NewVolume { name: "group/disk@7".into(), uuid: [0xc5; 16], created_unix_s: 1_700_000_000 };
    let source = Source { pool: golden::POOL, volume: VolumeId(3), generation: Generation(6) };
    let arrival = Arrival {
        new,
        size_bytes: 1 << 30,
        source,
        base: StreamBase::Snapshot([0xd6; 16]),
        position_bytes: 4096,
        properties: Bytes::from_static(b"properties"),
    };
    StreamHeader { stream: [0x57; 16], arrival, data_bytes: 8192 }
}

fn chunks() -> Vec<Chunk> {
    let data = Bytes::from((0..8192).map(|at| at as u8).collect::<Vec<u8>>());
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&data);
    let totals = StreamTotals { data_bytes: 8192, zero_bytes: 1 << 20, data_crc: hasher.finalize() };
    vec![
        Chunk::Start(Box::new(header())),
        Chunk::Data { offset_bytes: 4096, bytes: data },
        Chunk::Zeros { offset_bytes: 1 << 20, length_bytes: 1 << 20 },
        Chunk::End(totals),
    ]
}

fn parts(header: &StreamHeader) -> Vec<Vec<u8>> {
    let (mut encoder, start) = StreamEncoder::start(header);
    let mut parts = vec![start];
    for chunk in chunks() {
        match chunk {
            Chunk::Data { offset_bytes, bytes } => parts.push(encoder.data(offset_bytes, bytes)),
            Chunk::Zeros { offset_bytes, length_bytes } => {
                parts.push(encoder.zeros(offset_bytes, length_bytes))
            }
            _ => {}
        }
    }
    parts.push(encoder.end());
    parts
}

fn decode(bytes: &[u8], piece: usize) -> Result<(Vec<Chunk>, bool)> {
    let mut decoder = StreamDecoder::default();
    let mut chunks = Vec::new();
    for mut rest in bytes.chunks(piece) {
        while !rest.is_empty() {
            chunks.extend(decoder.take(&mut rest)?);
        }
    }
    Ok((chunks, decoder.is_finished()))
}

#[test]
fn round_trip_in_pieces_of_any_length() {
    let bytes = parts(&header()).concat();
    for piece in [1, 2, 3, 39, 40, 41, 1000, 1 << 20] {
        assert_eq!(decode(&bytes, piece), Ok((chunks(), true)));
    }
}

#[test]
fn golden_bytes() {
    golden::assert_golden(
        &parts(&header()).concat(),
        "56454c5354524d310100000000000000",
        0xb735_5a88_e165_5c32,
    );
}

#[test]
fn a_cut_is_seen_and_every_changed_bit_too() {
    let bytes = parts(&header()).concat();
    for length in 0..bytes.len() {
        let (found, finished) = decode(&bytes[..length], 1 << 20).unwrap();
        assert!(!finished && chunks().starts_with(&found));
    }
    for at in (0..bytes.len()).filter(|at| *at < 600 || at % 17 == 0 || *at + 200 > bytes.len()) {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1 << (at % 8);
        assert!(decode(&bytes, 1 << 20).is_err_and(|error| error.kind() != ErrorKind::Invalid), "byte {at}");
    }
}

#[test]
fn chunks_out_of_order_or_of_another_stream_are_refused() {
    let parts_of = parts(&header());
    let swapped = [0, 2, 1, 3].map(|index| parts_of[index].clone()).concat();
    let left_out = [0, 1, 3].map(|index| parts_of[index].clone()).concat();
    let twice = [0, 1, 1, 2, 3].map(|index| parts_of[index].clone()).concat();
    let longer = [parts_of.concat(), vec![0]].concat();
    let other = parts(&StreamHeader { stream: [0x58; 16], ..header() });
    let mixed = [parts_of[0].clone(), other[1].clone(), parts_of[2].clone(), parts_of[3].clone()].concat();
    for wrong in [swapped, left_out, twice, longer, mixed] {
        assert_eq!(decode(&wrong, 1 << 20).unwrap_err().kind(), ErrorKind::Damaged);
    }
}

#[test]
fn a_newer_version_is_unsupported() {
    for at in [8, 12] {
        let mut bytes = parts(&header()).concat();
        bytes[at] ^= 2;
        assert_eq!(decode(&bytes, 100).unwrap_err().kind(), ErrorKind::Unsupported);
    }
}

#[test]
fn ranges_that_cannot_be_are_refused_under_right_checksums() {
    let data = Bytes::from(vec![1; 4096]);
    let refused = |act: &dyn Fn(&mut StreamEncoder) -> Vec<u8>| {
        let (mut encoder, mut bytes) = StreamEncoder::start(&header());
        bytes.extend(act(&mut encoder));
        assert!(decode(&bytes, 1 << 20).is_err());
    };
    refused(&|encoder| encoder.data(0, data.clone()));
    refused(&|encoder| encoder.data(1 << 30, data.clone()));
    refused(&|encoder| encoder.data(5000, data.clone()));
    refused(&|encoder| encoder.data(8192, data.slice(..100)));
    refused(&|encoder| encoder.zeros(8192, u64::MAX - 4095));
    refused(&|encoder| encoder.zeros(8192, 0));
    refused(&|encoder| [encoder.zeros(8192, 8192), encoder.zeros(12288, 4096)].concat());
    refused(&|encoder| encoder.chunk(&Chunk::End(StreamTotals { data_bytes: 1, ..StreamTotals::default() })));
    refused(&|encoder| encoder.chunk(&Chunk::Start(Box::new(header()))));
    // Lengths that add up to more than a number can hold.
    refused(&|encoder| [encoder.zeros(0, 4096), encoder.zeros(4096, u64::MAX)].concat());
}
