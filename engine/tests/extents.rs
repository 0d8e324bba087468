//! What ranges are said to consist of: agrees with what is read, and knows what is shared.

#[allow(dead_code)]
mod common;

use common::{Random, empty_pool, new_volume};
use vellum_engine::Pool;
use vellum_engine::request::{Extent, Outcome, Request};
use vellum_engine::storage::MemoryDisk;
use vellum_engine::units::{BLOCK_BYTES, SECTOR_BYTES, VolumeId};

/// All extents of a range, asked for until its end.
fn extents(pool: &mut Pool<MemoryDisk>, volume: VolumeId, mut from: u64, to: u64) -> Vec<Extent> {
    let mut all: Vec<Extent> = Vec::new();
    while from < to {
        let asked = Request::Extents { volume, offset_bytes: from, length_bytes: to - from };
        let Outcome::Extents(some) = pool.request(asked).unwrap() else { panic!() };
        assert!(!some.is_empty() && some.iter().all(|extent| extent.length_bytes > 0));
        from += some.iter().map(|extent| extent.length_bytes).sum::<u64>();
        all.extend(some);
    }
    assert_eq!(from, to);
    all
}

#[test]
fn sectors_blocks_and_holes_are_told_apart_and_sharing_is_seen() {
    let mut pool = empty_pool(256, 4);
    let disk = pool.create_volume(new_volume("disk"), 1 << 40).unwrap();
    pool.write(disk, BLOCK_BYTES + SECTOR_BYTES, vec![1; SECTOR_BYTES as usize]).unwrap();
    let extent = |length_bytes, mapped, shared| Extent { length_bytes, mapped, shared };
    let before = [
        extent(BLOCK_BYTES + SECTOR_BYTES, false, false),
        extent(SECTOR_BYTES, true, false),
        extent((1 << 40) - BLOCK_BYTES - 2 * SECTOR_BYTES, false, false),
    ];
    assert_eq!(extents(&mut pool, disk, 0, 1 << 40), before);
    let snapshot = pool.snapshot(disk, new_volume("disk@one")).unwrap();
    let shared = [before[0], extent(SECTOR_BYTES, true, true), before[2]];
    assert_eq!(extents(&mut pool, disk, 0, 1 << 40), shared);
    assert_eq!(extents(&mut pool, snapshot, 0, 1 << 40), shared);
    pool.delete(snapshot).unwrap();
    pool.idle(5000);
    assert_eq!(extents(&mut pool, disk, 0, 1 << 40), before);
    assert_eq!(
        extents(&mut pool, disk, BLOCK_BYTES + SECTOR_BYTES + 5, BLOCK_BYTES + SECTOR_BYTES + 9),
        [extent(4, true, false)]
    );
}

#[test]
fn what_is_said_to_be_a_hole_reads_as_zeros_and_what_was_written_is_mapped() {
    for seed in 1..40 {
        let mut random = Random::new(seed);
        let mut pool = empty_pool(512, 4);
        let size = 64 * BLOCK_BYTES;
        let disk = pool.create_volume(new_volume("disk"), size).unwrap();
        for step in 0..random.below(60) {
            let at = random.below(size / 512) * 512;
            let length = (random.below(300) * 512 + 512).min(size - at);
            match random.below(4) {
                0 => drop(pool.request(Request::Discard {
                    volume: disk,
                    offset_bytes: at,
                    length_bytes: length,
                    fua: false,
                })),
                1 => drop(pool.snapshot(disk, new_volume(&format!("disk@{step}")))),
                _ => pool.write(disk, at, vec![7; length as usize]).unwrap(),
            }
        }
        let from = random.below(size);
        let all = extents(&mut pool, disk, from, size);
        let bytes = pool.read(disk, from, size - from).unwrap();
        let mut at = 0;
        for extent in all {
            let part = &bytes[at..at + extent.length_bytes as usize];
            at += part.len();
            if !extent.mapped {
                assert!(part.iter().all(|byte| *byte == 0), "seed {seed}");
            }
            assert!(extent.mapped || !extent.shared);
        }
        assert!(bytes[at..].is_empty());
    }
}

#[test]
fn an_answer_has_an_end_however_much_there_is() {
    let mut pool = empty_pool(4096, 16);
    let disk = pool.create_volume(new_volume("disk"), 1 << 40).unwrap();
    for block in 0..600 {
        for sector in [0, 2, 4, 6, 8, 10, 12, 14] {
            pool.write(disk, block * BLOCK_BYTES + sector * SECTOR_BYTES, vec![1; 4096]).unwrap();
        }
    }
    let asked = Request::Extents { volume: disk, offset_bytes: 0, length_bytes: 1 << 40 };
    let Outcome::Extents(some) = pool.request(asked).unwrap() else { panic!() };
    assert!(some.len() < 4200);
    let all = extents(&mut pool, disk, 0, 1 << 40);
    assert_eq!(all.iter().filter(|extent| extent.mapped).count(), 600 * 8);
}
