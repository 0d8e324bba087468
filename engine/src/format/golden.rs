//! What the tests of all structures share: golden bytes, sample values, and damage.
//!
//! Owns the samples that the golden bytes of version 1 were taken from. They never change.

use super::{Pointer, Properties, Received, VolumeKind, VolumeRecord, VolumeState};
use crate::request::{Source, StreamBase, Uuid};
use crate::units::{Generation, PageNumber, VolumeId};

pub const POOL: Uuid =
    [0xa0, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xa8, 0xa9, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf];
pub const OTHER_POOL: Uuid = [0xb0; 16];

pub fn leaf_pointer(page: u64) -> Pointer {
    Pointer {
        page: PageNumber(page),
        copy: None,
        generation: Generation(7),
        checksum: 0x1234_5678,
        mapped: 42,
    }
}

pub fn inner_pointer(page: u64) -> Pointer {
    Pointer { copy: Some(PageNumber(page + 1)), ..leaf_pointer(page) }
}

pub fn snapshot_record(id: u64) -> VolumeRecord {
    VolumeRecord {
        id: VolumeId(id),
        uuid: [0xc5; 16],
        name: format!("group/disk@{id}"),
        kind: VolumeKind::Snapshot,
        state: VolumeState::Active,
        origin: Some(VolumeId(3)),
        size_bytes: 10 << 30,
        created_unix_s: 1_700_000_000,
        generation_of_birth: Generation(6),
        root: Some((1, inner_pointer(77))),
        holds: vec!["backup".into()],
        properties: Properties {
            limit_iops: 500,
            labels: vec![("for".into(), "test".into())],
            ..Properties::default()
        },
        key_slot: 0,
        in_place_since: Generation(5),
        deletion_deferred: true,
        received: Some(Box::new(Received {
            source: Source { pool: OTHER_POOL, volume: VolumeId(9), generation: Generation(4) },
            base: StreamBase::Snapshot([0xd6; 16]),
            position_bytes: 1 << 30,
        })),
        unknown_tail: Vec::new(),
    }
}

/// Compares the beginning in full and the whole by a hash.
#[track_caller]
pub fn assert_golden(bytes: &[u8], prefix: &str, hash: u64) {
    let hex: String = bytes.iter().take(prefix.len() / 2).map(|byte| format!("{byte:02x}")).collect();
    let found = (hex.as_str(), format!("{:#x}", fnv1a(bytes)));
    assert_eq!(found, (prefix, format!("{hash:#x}")), "the format has changed");
}

// Not a CRC: that of bytes that end in their own CRC is always the same.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Gives `decode` every truncation and many changes of `bytes`; all it has to do is not to panic.
pub fn damage(bytes: &[u8], mut decode: impl FnMut(&[u8])) {
    for length in 0..bytes.len().min(600) {
        decode(&bytes[..length]);
    }
    let mut bytes = bytes.to_vec();
    for index in 0..bytes.len().min(600) {
        let original = bytes[index];
        for value in [0, 1, 2, 0x7f, 0x80, 0xff, original ^ 1, original.wrapping_add(1)] {
            bytes[index] = value;
            decode(&bytes);
        }
        bytes[index] = original;
    }
}
