//! Streams: any bytes, in pieces; then any start, ranges and data under right checksums.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vellum_engine::format::{Chunk, Reader, StreamDecoder, StreamEncoder, StreamHeader};
use vellum_engine::request::{Arrival, NewVolume, Source, StreamBase};
use vellum_engine::units::{Generation, VolumeId};

/// Everything that the decoder hands out, and whether it came to the end.
fn decode(bytes: &[u8], piece: usize) -> (Vec<Chunk>, bool) {
    let mut decoder = StreamDecoder::default();
    let mut chunks = Vec::new();
    for mut rest in bytes.chunks(piece.max(1)) {
        while !rest.is_empty() {
            match decoder.take(&mut rest) {
                Ok(chunk) => chunks.extend(chunk),
                Err(_) => return (chunks, false),
            }
        }
    }
    (chunks, decoder.is_finished())
}

/// A stream whose fields are taken from `data`.
fn stream_of(data: &[u8]) -> Option<Vec<u8>> {
    let mut reader = Reader::new(data);
    let new =
        NewVolume { name: "a@b".into(), uuid: reader.array().ok()?, created_unix_s: reader.u64().ok()? };
    let base = match reader.u8().ok()? % 3 {
        0 => StreamBase::Whole,
        1 => StreamBase::Snapshot([7; 16]),
        _ => StreamBase::Since(Generation(3)),
    };
    let arrival = Arrival {
        new,
        size_bytes: reader.u32().ok()?.into(),
        source: Source { pool: [1; 16], volume: VolumeId(2), generation: Generation(3) },
        base,
        position_bytes: reader.u32().ok()?.into(),
        properties: Vec::<u8>::new().into(),
    };
    let (mut encoder, mut bytes) =
        StreamEncoder::start(&StreamHeader { stream: [9; 16], arrival, data_bytes: 0 });
    while let (Ok(offset), Ok(length)) = (reader.u32(), reader.u16()) {
        let (offset, length) = (u64::from(offset), u64::from(length));
        bytes.extend(match length % 2 {
            0 => encoder.zeros(offset, length * 2048),
            _ => encoder.data(offset, vec![length as u8; length as usize * 16].into()),
        });
    }
    bytes.extend(encoder.end());
    Some(bytes)
}

fuzz_target!(|data: &[u8]| {
    let piece = data.first().map_or(1, |byte| usize::from(*byte));
    decode(data, piece);
    if let Some(bytes) = stream_of(data) {
        let whole = decode(&bytes, bytes.len());
        assert_eq!(decode(&bytes, piece), whole);
        assert!(!whole.1 || matches!(whole.0.last(), Some(Chunk::End(_))));
    }
});
