//! `inspect` recognises every structure of a pool, and draws whatever it is given without a panic.
//!
//! Owns the list of structures that must be recognised.

#[allow(dead_code)]
mod common;

use bytes::Bytes;
use common::{Busy, Random, disks};
use vellum_engine::inspect::{self, Checksum, Contents, LogState, Structure};
use vellum_engine::storage::{Blocking, Disk, MemoryDisk};
use vellum_engine::units::{PAGE_BYTES, PageNumber};

fn busy_disks() -> (MemoryDisk, MemoryDisk) {
    let mut busy = Busy::new(5);
    (0..150).for_each(|_| busy.step());
    disks(&busy.pool)
}

fn kind(structure: &Structure) -> &'static str {
    match structure {
        Structure::Zeros => "zeros",
        Structure::Unknown => "unknown",
        Structure::Superblock(_) => "superblock",
        Structure::RootSlot(..) => "root slot",
        Structure::LogHead(_) => "log head",
        Structure::LogRecord(_) => "log record",
        Structure::TreePage { contents, .. } => match contents {
            Contents::Mappings(_) => "mappings",
            Contents::Pointers(_) => "pointers",
            Contents::Volumes(_) => "volumes",
            Contents::Counts(_) => "counts",
            Contents::Overflow(_) => "overflow",
            Contents::Bytes(_) => "bytes",
        },
    }
}

fn pages(disk: &mut MemoryDisk, limit: u64) -> Vec<Vec<u8>> {
    let count = (disk.size_bytes() / PAGE_BYTES as u64).min(limit);
    let mut blocking = Blocking::metadata(disk);
    (0..count).map(|page| blocking.read(page * PAGE_BYTES as u64, PAGE_BYTES).unwrap().to_vec()).collect()
}

#[test]
fn every_structure_is_recognised_and_drawn() {
    let (mut data, mut metadata) = busy_disks();
    let mut seen = std::collections::BTreeSet::new();
    for bytes in pages(&mut metadata, u64::MAX).into_iter().chain(pages(&mut data, 64)) {
        let found = inspect::page(&bytes);
        assert!(
            found.problems.is_empty()
                || kind(&found.structure) == "log record"
                || kind(&found.structure) == "unknown",
            "{found}"
        );
        assert!(!found.to_string().is_empty());
        seen.insert(kind(&found.structure));
    }
    for expected in
        ["superblock", "root slot", "log head", "log record", "mappings", "pointers", "volumes", "counts"]
    {
        assert!(seen.contains(expected), "{expected} is not among {seen:?}");
    }
}

#[test]
fn a_bad_checksum_is_said_and_the_rest_is_shown() {
    let (mut data, mut metadata) = busy_disks();
    for (mut bytes, at) in [
        (pages(&mut metadata, 1).remove(0), 70),
        (pages(&mut metadata, 2).remove(1), 41),
        (pages(&mut data, 1).remove(0), 25),
    ] {
        let whole = inspect::page(&bytes);
        assert_eq!((whole.checksum, whole.problems.len()), (Checksum::Right, 0));
        bytes[at] ^= 1;
        let found = inspect::page(&bytes);
        assert_eq!((found.checksum, found.problems.len()), (Checksum::Wrong, 0));
        assert!(
            found.to_string().contains("CHECKSUM WRONG")
                && found.to_string().len() >= whole.to_string().len() - 9
        );
    }
}

#[test]
fn damage_never_panics() {
    let (mut data, mut metadata) = busy_disks();
    let mut random = Random::new(3);
    for whole in pages(&mut metadata, u64::MAX).into_iter().chain(pages(&mut data, 16)) {
        for length in [0, 1, 4, 8, 12, 30, 96, 100, 511, 512, 4095] {
            drop(inspect::page(&whole[..length]).to_string());
        }
        for _ in 0..200 {
            let mut bytes = whole.clone();
            for _ in 0..=random.below(4) {
                bytes[random.below(600) as usize] = random.below(256) as u8;
            }
            drop(inspect::page(&bytes).to_string());
        }
    }
    for _ in 0..2000 {
        let bytes: Vec<u8> = (0..PAGE_BYTES).map(|_| random.below(256) as u8).collect();
        drop(inspect::page(&bytes).to_string());
    }
}

#[test]
fn the_log_is_listed_with_its_chain_and_its_torn_records() {
    let (mut data, mut metadata) = busy_disks();
    let found = inspect::log(&mut data, &mut metadata).unwrap();
    let chain: Vec<_> = found.entries.iter().filter(|entry| entry.state == LogState::InChain).collect();
    assert!(chain.len() > 2 && found.entries.iter().any(|entry| entry.state == LogState::Old));
    assert!(chain.is_sorted_by(|left, right| left.header.sequence.0 + 1 == right.header.sequence.0));
    assert!(found.to_string().contains("publish volume"), "{found}");

    let torn = chain[1].offset_bytes;
    let mut blocking = Blocking::data(&mut data);
    let mut bytes = blocking.read(torn, PAGE_BYTES).unwrap().to_vec();
    bytes[60] ^= 1;
    blocking.write(torn, Bytes::from(bytes)).unwrap();
    let found = inspect::log(&mut data, &mut metadata).unwrap();
    let states = |state| found.entries.iter().filter(|entry| entry.state == state).count();
    assert_eq!((states(LogState::InChain), states(LogState::Detached)), (1, chain.len() - 2));
    assert_eq!(
        found.entries.iter().find(|entry| entry.offset_bytes == torn).unwrap().state,
        LogState::Invalid
    );
}

#[test]
fn the_summary_shows_the_fixed_places() {
    let (_, mut metadata) = busy_disks();
    let found = inspect::summary(&mut metadata);
    let kinds: Vec<&str> =
        found.pages.iter().map(|(_, found)| kind(&found.as_ref().unwrap().structure)).collect();
    assert_eq!(kinds, ["superblock", "superblock", "root slot", "root slot"]);
    assert!(found.to_string().contains("data blocks: 2048"));
    assert!(inspect::metadata_page(&mut metadata, PageNumber(u64::MAX)).is_err());
    assert_eq!(inspect::summary(&mut MemoryDisk::new(0)).pages.len(), 4);
    assert!(inspect::log(&mut MemoryDisk::new(0), &mut MemoryDisk::new(0)).is_err());
}
