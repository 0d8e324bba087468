//! A small pool with a few pages changed: opening, check and repair come to an end, whatever stands in it, and what repair
//! makes can be checked, opened and read.
//!
//! The first byte says whether the log is among the pages. Each change takes eight bytes of the input and what follows:
//! page, offset, length, and whether the page's checksum is put right, so that decoders go on behind it. Without that, what
//! repair makes has to be sound.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::sync::OnceLock;
use vellum_engine::error::Result;
use vellum_engine::format::{LogRecord, crc32_seeded};
use vellum_engine::options::{CreateOptions, OpenOptions};
use vellum_engine::repair::RepairOptions;
use vellum_engine::request::{NewVolume, Request};
use vellum_engine::storage::{Blocking, Disk, MemoryDisk};
use vellum_engine::units::{BLOCK_BYTES, PAGE_BYTES};
use vellum_engine::{Pool, check, repair};
use vellum_fuzz::{POOL, SECRET, fix_front_checksum};

const WINDOW_BYTES: u64 = 16384 * BLOCK_BYTES;

/// Volumes with snapshots and a clone, two checkpoints that differ, and records behind them.
fn make() -> Result<(MemoryDisk, MemoryDisk)> {
    let named = |name: &str| NewVolume { name: name.into(), uuid: [9; 16], created_unix_s: 0 };
    let options =
        CreateOptions { data_blocks: 128, log_blocks: 1, uuid: POOL, secret: SECRET, created_unix_s: 0 };
    let mut pool = Pool::create(MemoryDisk::new(0), MemoryDisk::new(0), &options, &OpenOptions::default())?;
    let disk = pool.create_volume(named("disk"), 8 * WINDOW_BYTES)?;
    for window in 0..4 {
        pool.write(disk, window * WINDOW_BYTES + window * 8192, vec![1; 3 * 65536])?;
    }
    let snapshot = pool.snapshot(disk, named("disk@one"))?;
    pool.request(Request::Checkpoint)?;
    pool.write(disk, 4096, vec![2; 8192])?;
    let copy = pool.clone_snapshot(snapshot, named("copy"))?;
    pool.request(Request::Checkpoint)?;
    pool.write(copy, WINDOW_BYTES + 12288, vec![3; 4096])?;
    pool.flush()?;
    pool.request(Request::Discard { volume: disk, offset_bytes: 0, length_bytes: 100_000, fua: true })?;
    pool.idle(2000);
    Ok((pool.data_disk().clone(), pool.metadata_disk().clone()))
}

fn fixture() -> &'static (MemoryDisk, MemoryDisk) {
    static FIXTURE: OnceLock<(MemoryDisk, MemoryDisk)> = OnceLock::new();
    FIXTURE.get_or_init(|| make().expect("the pool that is to be changed can be made"))
}

/// Changes one page. Returns the input behind what was used, and whether the page passes for a whole one.
fn change<'d>(disk: &mut MemoryDisk, pages: u64, of_log: bool, input: &'d [u8]) -> Option<(&'d [u8], bool)> {
    let (head, rest) = input.split_first_chunk::<8>()?;
    let number = |at: usize| u64::from(u16::from_le_bytes([head[at], head[at + 1]]));
    let (page, offset) = (number(0) % pages, number(2) as usize % PAGE_BYTES);
    let length = usize::from(head[4]).min(rest.len()).min(PAGE_BYTES - offset);
    let (new, rest) = rest.split_at(length);
    let mut disk = Blocking::metadata(disk);
    let mut bytes = disk.read(page * PAGE_BYTES as u64, PAGE_BYTES).ok()?.to_vec();
    bytes[offset..offset + length].copy_from_slice(new);
    let forged = head[5] & 1 != 0;
    if forged {
        match LogRecord::peek(&bytes).filter(|header| of_log && header.pages == 1) {
            Some(header) => {
                let checksum = crc32_seeded(&[SECRET, header.incarnation.0], &bytes[4..]);
                bytes[..4].copy_from_slice(&checksum.to_le_bytes());
            }
            // Root slots and superblocks have targets of their own, and sizes that would only take memory.
            None if of_log || page >= 4 => fix_front_checksum(&mut bytes),
            None => {}
        }
    }
    disk.write(page * PAGE_BYTES as u64, bytes.into()).ok()?;
    Some((rest, forged))
}

fn read_everything(pool: &mut Pool<MemoryDisk>) {
    for info in pool.volumes() {
        for window in 0..info.size_bytes.div_ceil(WINDOW_BYTES).min(8) {
            let length = (info.size_bytes - window * WINDOW_BYTES).min(4 * BLOCK_BYTES);
            drop(pool.read(info.id, window * WINDOW_BYTES, length));
        }
        drop(pool.write(info.id, 0, vec![7; 4096.min(info.size_bytes as usize)]));
    }
    drop(pool.flush());
}

fuzz_target!(|input: &[u8]| {
    let Some((mode, mut rest)) = input.split_first() else { return };
    let (mut data, mut metadata) = fixture().clone();
    let metadata_pages = metadata.size_bytes() / PAGE_BYTES as u64;
    let log_pages = BLOCK_BYTES / PAGE_BYTES as u64;
    let mut any_forged = false;
    for index in 0..8 {
        let of_log = mode >> index & 1 != 0;
        let changed = if of_log {
            change(&mut data, log_pages, true, rest)
        } else {
            change(&mut metadata, metadata_pages, false, rest)
        };
        let Some((behind, forged)) = changed else { break };
        rest = behind;
        any_forged |= forged;
    }
    drop(check(&mut data, &mut metadata, &mut |_| {}));
    if let Ok(mut pool) = Pool::open(data.clone(), metadata.clone(), &OpenOptions::default()) {
        read_everything(&mut pool);
    }
    let mut target = MemoryDisk::new(0);
    let options = RepairOptions { nonce: 1, secret: SECRET };
    if let Ok(made) = repair(&mut data, &mut metadata, &mut target, &options, &mut |_| {}) {
        made.commit(&mut data).expect("a disk in memory does not fail");
        let report = check(&mut data, &mut target, &mut |_| {}).expect("a pool was made");
        // Whoever can forge pages can make them say what is not true.
        assert!(any_forged || report.is_clean(), "{:?}", report.findings);
        match Pool::open(data, target, &OpenOptions::default()) {
            Ok(mut pool) => read_everything(&mut pool),
            Err(error) => assert!(any_forged, "{error}"),
        }
    }
});
