//! The figures that the design promises, counted on counting disks: flushes, bytes, pages, not seconds.
//!
//! Each test prints its rows and fails when a promise is broken. `docs/testing.md` has the command that prints all.

mod fixture;
mod scale;

use fixture::{Figures, Row, named, pool, pool_of};
use vellum_engine::request::{NewVolume, Request};
use vellum_engine::units::{BLOCK_BYTES, SECTOR_BYTES, VolumeId};

/// A synced 4 KiB write: one device flush, 4 KiB of data and 4 KiB of log at most.
#[test]
fn synced_writes() {
    let mut figures = Figures::new("synced 4 KiB writes (data file: flushes, KiB written)");
    let mut pool = pool();
    let disk = pool.volume(1);
    pool.warm_up(disk);

    let fresh = pool.synced_write(disk, 100 * BLOCK_BYTES);
    figures.add(Row::new("to a new block", fresh, 1, 8));

    pool.prove();
    let overwrite = pool.synced_write(disk, 100 * BLOCK_BYTES);
    figures.add(Row::new("overwrite", overwrite, 1, 4));

    let second = pool.synced_write(disk, 100 * BLOCK_BYTES + SECTOR_BYTES);
    figures.add(Row::new("to another sector of a block", second, 1, 8));

    let unproven = pool.synced_write(disk, 100 * BLOCK_BYTES + SECTOR_BYTES);
    figures.add(Row::new("first overwrite of a sector not proven yet", unproven, 2, 16));
    let then = pool.synced_write(disk, 100 * BLOCK_BYTES + SECTOR_BYTES);
    figures.add(Row::new("the overwrite after that", then, 1, 4));

    pool.snapshot(disk, 2);
    pool.prove();
    let shared = pool.synced_write(disk, 100 * BLOCK_BYTES);
    figures.add(Row::new("to a block shared with a snapshot", shared, 1, 8));

    let nothing = pool.counted(|pool| pool.pool.flush().unwrap());
    figures.add(Row::new("flush with nothing new", nothing, 0, 0));
    figures.print();
}

/// Bytes written for every 4 KiB random write, after ever more snapshots. Nothing may grow with their number.
#[test]
fn random_writes_after_snapshots() {
    const WRITES: u64 = 256;
    let mut figures =
        Figures::new("256 random 4 KiB writes, one flush, after snapshots (flushes, KiB a write)");
    for snapshots in [0u64, 1, 2, 5, 20] {
        let mut pool = pool();
        let disk = pool.volume(1);
        pool.fill(disk, 256);
        for number in 0..snapshots {
            pool.snapshot(disk, 2 + number as u8);
            // Between snapshots a quarter of the blocks changes, so that both layers are at work.
            (0..64).for_each(|i| pool.write(disk, random(i * 7 + number), number));
        }
        pool.prove();
        let counted = pool.counted(|pool| {
            (0..WRITES).for_each(|i| pool.write(disk, random(1000 + i), i));
            pool.pool.flush().unwrap();
        });
        let bytes_a_write = counted.bytes_written.div_ceil(WRITES);
        figures.note(format!(
            "{snapshots:>2} snapshots: {:>6.2} KiB a write, {} flushes, {} reads",
            bytes_a_write as f64 / 1024.0,
            counted.syncs,
            counted.reads
        ));
        assert!(bytes_a_write <= 16 * 1024, "{snapshots} snapshots: {bytes_a_write} bytes a 4 KiB write");
    }
    figures.print();
}

/// A sector of the 256 blocks that `fill` writes.
fn random(index: u64) -> u64 {
    let mixed = index.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
    mixed % (256 * 16) * SECTOR_BYTES
}

/// A snapshot and a deletion cost the same whatever the size of the volume.
#[test]
fn snapshot_and_delete() {
    let mut figures =
        Figures::new("snapshot and immediate delete, by mapped blocks (metadata pages read, written)");
    let mut costs = Vec::new();
    for blocks in [16u64, 1024, 16 * 1024] {
        let mut pool = pool_of(2 * blocks + 512);
        let disk = pool.volume(1);
        pool.map_blocks(disk, blocks);
        let mut pool = pool.reopened();
        pool.pool.request(Request::Checkpoint).unwrap();
        let before = pool.metadata_counters();
        let snapshot = pool.snapshot(disk, 9);
        pool.pool.delete(snapshot).unwrap();
        pool.pool.idle(0);
        let work = pool.metadata_counters().since(&before);
        pool.pool.request(Request::Checkpoint).unwrap();
        let all = pool.metadata_counters().since(&before);
        figures.note(format!(
            "{blocks:>6} blocks: {} pages read, {} written at once; {} written by the next checkpoint",
            work.reads, work.writes, all.writes
        ));
        costs.push((work.reads, work.writes, all.writes));
    }
    figures.print();
    assert!(
        costs.iter().all(|cost| cost.0 == 0 && cost.1 == 0),
        "nothing is read or written at once: {costs:?}"
    );
    let spread =
        costs.iter().map(|cost| cost.2).max().unwrap() - costs.iter().map(|cost| cost.2).min().unwrap();
    assert!(spread <= 2, "the checkpoint does not grow with the volume: {costs:?}");
}

/// Names of the volumes that figures are taken on.
fn volume_name(number: u8) -> NewVolume {
    named(&format!("disk{number}"), number)
}

/// The volume that all figures write to.
const DISK: VolumeId = VolumeId(1);
