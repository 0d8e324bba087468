//! Random pools of the engine given to the kernel: strictly sound, sound to thin_check, and every volume and snapshot what it was
//! when it is read through the new metadata.

use crate::tools;
use std::fs;
use std::path::Path;
use tempfile::TempDir;
use vellum_dm_bridge::export::{ExportOptions, Exported, Failure, export, metadata_bytes};
use vellum_dm_bridge::format::Superblock;
use vellum_dm_bridge::{Metadata, check};
use vellum_engine::Pool;
use vellum_engine::hand_over::Plan;
use vellum_engine::options::{CreateOptions, OpenOptions};
use vellum_engine::storage::MemoryDisk;
use vellum_engine::units::BLOCK_BYTES;
use vellum_tests::driver::multiplier;
use vellum_tests::rng::Rng;
use vellum_tests::thin::{Content, content_of_pool, differs, fill_at_random, named};

pub struct Given {
    pub data: MemoryDisk,
    pub metadata: MemoryDisk,
    pub thin: Vec<u8>,
    pub content: Content,
    pub exported: Exported,
}

fn options() -> OpenOptions {
    OpenOptions { collapse_bytes_per_s: 0, nonce: 7, ..OpenOptions::default() }
}

pub fn new_pool(data_blocks: u64) -> Pool<MemoryDisk> {
    let create = CreateOptions { data_blocks, log_blocks: 4, uuid: [1; 16], secret: 42, created_unix_s: 0 };
    Pool::create(MemoryDisk::new(0), MemoryDisk::new(0), &create, &options()).expect("a pool")
}

pub fn give(mut pool: Pool<MemoryDisk>) -> Given {
    let content = content_of_pool(&mut pool);
    let (mut data, mut metadata) = pool.close().expect("it closes");
    let mut thin = Vec::new();
    let options = ExportOptions { open: options(), interrupted: None };
    let exported = export::<_, Failure>(
        &mut data,
        &mut metadata,
        &options,
        |plan: &Plan, _| {
            thin = vec![0; metadata_bytes(plan) as usize];
            Ok(&mut thin)
        },
        &mut |_| {},
    );
    let exported = exported.expect("it fits");
    Given { data, metadata, thin, content, exported }
}

/// What thin_check and our own check say, and what every device holds.
pub fn assert_given(given: &mut Given, folder: &TempDir, what: &str) {
    let report = check(&given.thin).expect("memory can be read");
    assert!(report.is_clean(), "{what}: {:#?}", report.findings);
    let path = folder.path().join("tmeta");
    fs::write(&path, &given.thin).expect("space");
    tools::assert_thin_check(&path);
    assert_stable(&path, folder);
    differs(&given.thin, &mut given.data, &given.content).unwrap_or_else(|wrong| panic!("{what}: {wrong}"));
}

/// What thin_dump says of it, thin_restore makes the same of.
fn assert_stable(metadata: &Path, folder: &TempDir) {
    let dumped = tools::thin_dump(metadata);
    let [xml, restored] = ["xml", "restored"].map(|name| folder.path().join(name));
    fs::write(&xml, &dumped).expect("space");
    fs::write(&restored, vec![0; 4 << 20]).expect("space");
    tools::thin_restore(&xml, &restored);
    assert_eq!(tools::thin_dump(&restored), dumped);
}

#[test]
fn random_pools_are_whole_for_the_kernel() {
    let folder = TempDir::new().expect("a folder");
    let (mut copied, mut filled, mut shared, mut own) = (0, 0, 0, 0);
    for seed in 0..40 * multiplier() {
        let mut rng = Rng::new(seed);
        let mut pool = new_pool(4000);
        let size_bytes = 4096 * rng.between(1, 700);
        fill_at_random(&mut pool, &mut rng, size_bytes, 120);
        let mut given = give(pool);
        assert_given(&mut given, &folder, &format!("seed {seed}"));
        let Exported { plan, written, volumes } = &given.exported;
        assert_eq!(volumes.len(), given.content.len());
        for (volume, (id, name, bytes)) in volumes.iter().zip(&given.content) {
            assert_eq!((u64::from(volume.device), &volume.name), (id.0, name));
            assert_eq!((volume.size_bytes, volume.is_snapshot), (bytes.len() as u64, name.contains('@')));
        }
        let superblock =
            Superblock::decode(given.thin.first_chunk().expect("a block"), 0).expect("it is whole");
        assert_eq!((superblock.data_space_map.nr_blocks, superblock.time), (4000, 1));
        assert_eq!(superblock.data_space_map.nr_allocated, written.data_blocks_used);
        copied += plan.blocks_to_copy;
        filled += plan.blocks_to_fill;
        let metadata = Metadata::open(&given.thin).expect("it is whole");
        for device in metadata.devices() {
            for run in metadata.runs(&device.expect("it is whole")) {
                let run = run.expect("it is whole");
                *if run.time == 0 { &mut shared } else { &mut own } += run.length;
            }
        }
    }
    println!("{copied} blocks copied, {filled} filled; {shared} mappings shared, {own} not");
    assert!(copied > 100 && filled > 100 && shared > 100 && own > 100);
}

#[test]
fn pools_without_anything_to_fill_are_given_as_they_are() {
    let folder = TempDir::new().expect("a folder");
    let mut empty = give(new_pool(100));
    assert_given(&mut empty, &folder, "empty");
    assert_eq!(empty.exported.written.data_blocks_used, 0);
    let mut pool = new_pool(100);
    let disk = pool.create_volume(named("disk", 1), 1 << 40).expect("a volume");
    // Full to the last block.
    for block in 0..96 {
        pool.write(disk, block * 977 * BLOCK_BYTES, vec![block as u8 + 1; BLOCK_BYTES as usize])
            .expect("room");
    }
    let snapshots = 40;
    for number in 0..snapshots {
        pool.snapshot(disk, named(&format!("disk@{number}"), number + 2)).expect("a snapshot");
    }
    let written = pool.volumes().len() as u64 * 96;
    let (mut data, mut metadata) = pool.close().expect("it closes");
    let mut thin = vec![0; 2 << 20];
    let options = ExportOptions { open: options(), interrupted: None };
    let exported =
        export::<_, Failure>(&mut data, &mut metadata, &options, |_, _| Ok(&mut thin), &mut |_| {});
    let Exported { plan, written: metadata, .. } = exported.expect("it fits");
    assert_eq!((plan.blocks_to_copy, plan.blocks_to_fill, plan.mappings), (0, 0, written));
    // One tree for all, and room for the kernel where the log was.
    assert!(metadata.metadata_blocks_used < 12 && metadata.data_blocks_used == 96, "{metadata:?}");
    assert!(check(&thin).expect("memory can be read").is_clean());
}
