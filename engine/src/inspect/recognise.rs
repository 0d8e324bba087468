//! From bytes to the structure that they are, or were.
//!
//! Owns the order of guesses: magic first, then the header of a tree's page. Where a checksum is wrong the bytes are
//! decoded under a made-up one, so that there is one decoder for each structure: the one in `format/`.

use super::{Checksum, Contents, Inspection, Structure};
use crate::error::{Error, Result};
use crate::format::{
    self, InnerPage, LogHead, LogRecord, MapLeaf, PageHeader, PageKind, Reader, RootSlot, Superblock,
    VolumeRecord, crc32, crc32_seeded,
};
use crate::request::Uuid;
use crate::units::{PAGE_BYTES, UNIT_BYTES};

const UNIT: usize = UNIT_BYTES as usize;

/// What `bytes` are: a page, or, of a log record, all of its pages.
pub fn page(bytes: &[u8]) -> Inspection {
    let magic = |at: usize, magic: &[u8]| bytes.get(at..).is_some_and(|rest| rest.starts_with(magic));
    if bytes.iter().all(|byte| *byte == 0) {
        return Inspection { structure: Structure::Zeros, checksum: Checksum::None, problems: Vec::new() };
    }
    if magic(0, b"VELLUMTP") {
        return superblock(bytes);
    }
    if magic(8, b"VELROOT1") {
        return root_slot(bytes);
    }
    if magic(0, b"VELLOGHD") {
        return log_head(bytes);
    }
    if magic(4, b"VREC") {
        return log_record(bytes, None);
    }
    match format::inspect(bytes) {
        Ok(found) => tree_page(found),
        Err(error) => {
            Inspection { structure: Structure::Unknown, checksum: Checksum::None, problems: vec![error] }
        }
    }
}

/// Decodes bytes as they are, and again with a checksum made right if they did not pass.
fn lenient<T>(
    bytes: &[u8],
    checksum_ok: bool,
    repair: impl FnOnce(&mut Vec<u8>),
    decode: impl Fn(&[u8]) -> Result<T>,
) -> (Option<T>, Checksum, Vec<Error>) {
    let checksum = if checksum_ok { Checksum::Right } else { Checksum::Wrong };
    let decoded = if checksum_ok {
        decode(bytes)
    } else {
        let mut repaired = bytes.to_vec();
        repair(&mut repaired);
        decode(&repaired)
    };
    match decoded {
        Ok(value) => (Some(value), checksum, Vec::new()),
        Err(error) => (None, checksum, vec![error]),
    }
}

fn put(bytes: &mut [u8], at: usize, value: u32) {
    if let Some(place) = bytes.get_mut(at..at + 4) {
        place.copy_from_slice(&value.to_le_bytes());
    }
}

fn has(bytes: &[u8], at: usize, value: u32) -> bool {
    bytes.get(at..at + 4) == Some(&value.to_le_bytes())
}

/// Superblock and log head: the checksum is behind what it covers, at the end of the first unit.
fn trailing_checksum<T>(
    bytes: &[u8],
    decode: impl Fn(&[u8]) -> Result<T>,
) -> (Option<T>, Checksum, Vec<Error>) {
    let covered = bytes.get(..UNIT - 4).map(crc32).unwrap_or_default();
    lenient(bytes, has(bytes, UNIT - 4, covered), |bytes| put(bytes, UNIT - 4, covered), decode)
}

fn superblock(bytes: &[u8]) -> Inspection {
    let (found, checksum, problems) = trailing_checksum(bytes, Superblock::decode);
    Inspection { structure: Structure::Superblock(found), checksum, problems }
}

fn log_head(bytes: &[u8]) -> Inspection {
    let pool = uuid_at(bytes, 8);
    let (found, checksum, problems) = trailing_checksum(bytes, |bytes| LogHead::decode(bytes, &pool));
    Inspection { structure: Structure::LogHead(found), checksum, problems }
}

fn root_slot(bytes: &[u8]) -> Inspection {
    let pool = uuid_at(bytes, 16);
    let covered = bytes.get(4..UNIT).map(crc32).unwrap_or_default();
    let (found, checksum, problems) = lenient(
        bytes,
        has(bytes, 0, covered),
        |bytes| put(bytes, 0, covered),
        |bytes| RootSlot::decode(bytes, &pool),
    );
    Inspection { structure: Structure::RootSlot(found.map(Box::new), pool), checksum, problems }
}

fn uuid_at(bytes: &[u8], at: usize) -> Uuid {
    let mut reader = Reader::new(bytes.get(at..).unwrap_or_default());
    reader.array().unwrap_or_default()
}

/// A log record, its checksum judged where the pool's secret is known.
pub(super) fn log_record(bytes: &[u8], secret: Option<u64>) -> Inspection {
    let seed = secret.unwrap_or_default();
    let repair = |bytes: &mut Vec<u8>| {
        let Some(header) = LogRecord::peek(bytes) else { return };
        let length = usize::from(header.pages) * PAGE_BYTES;
        let checksum = bytes.get(4..length).map(|rest| crc32_seeded(&[seed, header.incarnation.0], rest));
        checksum.into_iter().for_each(|checksum| put(bytes, 0, checksum));
    };
    let is_intact = secret.is_some_and(|secret| LogRecord::is_intact(bytes, secret));
    let (found, checksum, problems) =
        lenient(bytes, is_intact, repair, |bytes| LogRecord::decode(bytes, seed));
    let checksum = if secret.is_none() { Checksum::NeedsSecret } else { checksum };
    Inspection { structure: Structure::LogRecord(found), checksum, problems }
}

fn tree_page(found: format::Inspected<'_>) -> Inspection {
    let checksum = if found.checksum_ok { Checksum::Right } else { Checksum::Wrong };
    let mut problems = Vec::new();
    let contents = contents(&found.header, found.body, &mut problems).unwrap_or_else(|error| {
        problems.push(error);
        Contents::Bytes(found.body.to_vec())
    });
    let structure = Structure::TreePage { header: found.header, pool: found.pool, contents };
    Inspection { structure, checksum, problems }
}

fn contents(header: &PageHeader, body: &[u8], problems: &mut Vec<Error>) -> Result<Contents> {
    Ok(match header.kind {
        PageKind::MapLeaf => Contents::Mappings(MapLeaf::decode(body, header.first_key, header.last_key)?),
        PageKind::Inner => Contents::Pointers(InnerPage::decode(header.level, body)?),
        PageKind::VolumeLeaf => Contents::Volumes(volumes(body, problems)),
        PageKind::CountLeaf => Contents::Counts(format::decode_count_leaf(body)?.to_vec()),
        PageKind::OverflowLeaf => Contents::Overflow(format::decode_overflow_leaf(body)?),
    })
}

/// Records up to the first that cannot be read.
fn volumes(body: &[u8], problems: &mut Vec<Error>) -> Vec<VolumeRecord> {
    let mut reader = Reader::new(body);
    let mut records = Vec::new();
    while !reader.is_empty() {
        match VolumeRecord::read(&mut reader) {
            Ok(record) => records.push(record),
            Err(error) => {
                problems.push(error);
                break;
            }
        }
    }
    records
}
