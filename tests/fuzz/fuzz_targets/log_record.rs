//! Log records: any bytes, then any deltas under a right header and checksum.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vellum_engine::format::{Delta, LogRecord, RECORD_HEADER_BYTES, RECORD_PAGES_MAX, Reader, crc32_seeded};
use vellum_fuzz::{SECRET, padded, put};

fn count(mut reader: Reader<'_>) -> u16 {
    let mut deltas = 0;
    while !reader.is_empty() && Delta::read(&mut reader).is_ok() {
        deltas += 1;
    }
    deltas
}

/// `data` is sequence, incarnation, synced and deltas of a record.
fn record_of(data: &[u8]) -> Vec<u8> {
    let numbers = padded(data, 24);
    let room = RECORD_PAGES_MAX * 4096 - RECORD_HEADER_BYTES;
    let deltas = data.get(24..).unwrap_or_default();
    let deltas = &deltas[..deltas.len().min(room)];
    let pages = LogRecord::pages_for(deltas.len());
    let mut record = vec![0; pages * 4096];
    put(&mut record, 4, b"VREC");
    put(&mut record, 8, &(pages as u16).to_le_bytes());
    put(&mut record, 10, &count(Reader::new(deltas)).to_le_bytes());
    put(&mut record, 16, &numbers);
    put(&mut record, 40, &(deltas.len() as u32).to_le_bytes());
    put(&mut record, RECORD_HEADER_BYTES, deltas);
    let incarnation = LogRecord::peek(&record).expect("the header is right").incarnation;
    let checksum = crc32_seeded(&[SECRET, incarnation.0], &record[4..]);
    put(&mut record, 0, &checksum.to_le_bytes());
    record
}

fuzz_target!(|data: &[u8]| {
    LogRecord::peek(data);
    let _ = LogRecord::decode(data, SECRET);
    if let Ok(record) = LogRecord::decode(&record_of(data), SECRET) {
        let again = record.encode(SECRET, usize::from(record.pages));
        assert_eq!(LogRecord::decode(&again, SECRET), Ok(record));
    }
});
