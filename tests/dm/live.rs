//! `vellum dm activate` and what goes with it, in the kernel lab: a pool goes to Linux's dm-thin, is used there, and comes back.
//!
//! Owns the pool and what its volumes hold; what is done with it stands in `live.sh`, which keeps an image beside each volume and
//! compares them at each step.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use vellum_engine::Pool;
use vellum_engine::options::OpenOptions;
use vellum_engine::request::Request;
use vellum_engine::storage::FileDisk;
use vellum_engine::units::{BLOCK_BYTES, VolumeId};
use vellum_tests::lab::{Lab, Script};

const LIVE: &str = include_str!("live.sh");
const POOL: &str = include_str!("../lab/pool.sh");
const NBD: &str = include_str!("../lab/nbd.sh");
/// The program under test.
const BINARY: &str = env!("CARGO_BIN_EXE_vellum");
const SECTOR: u64 = 4096;

fn vellum(pool: &Path, arguments: &[&str]) {
    let ran = Command::new(BINARY).arg("--pool").arg(pool).args(arguments).output().expect("it runs");
    assert!(ran.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&ran.stderr));
}

fn opened(pool: &Path) -> Pool<FileDisk> {
    let open = |name: &str| FileDisk::open(pool.join(name)).expect("a disk");
    Pool::open(open("data"), open("metadata"), &OpenOptions::default()).expect("a pool")
}

/// Changes volumes through the engine.
fn change(pool: &Path, name: &str, change: impl FnOnce(&mut Pool<FileDisk>, VolumeId)) {
    let mut pool = opened(pool);
    let volume = pool.find(name).expect("the volume is there");
    change(&mut pool, volume);
    pool.close().expect("it closes");
}

fn write(pool: &mut Pool<FileDisk>, volume: VolumeId, offset: u64, length: u64, byte: u8) {
    pool.write(volume, offset, vec![byte; length as usize]).expect("space");
}

fn discard(pool: &mut Pool<FileDisk>, volume: VolumeId, offset_bytes: u64, length_bytes: u64) {
    pool.request(Request::Discard { volume, offset_bytes, length_bytes, fua: false }).expect("it can");
}

/// A pool with whole and partial blocks, sectors that were discarded in one sharer only, mappings of two layers, a snapshot, a clone, and
/// a volume whose size is no number of blocks.
fn make(pool: &Path) {
    vellum(pool, &["pool", "create", "--size", "24M", "--no-auto-extend"]);
    vellum(pool, &["volume", "create", "disk", "--size", "4100K"]);
    vellum(pool, &["volume", "create", "empty", "--size", "1M"]);
    vellum(pool, &["volume", "create", "large", "--size", "26M"]);
    change(pool, "disk", |pool, disk| {
        for block in 0..40 {
            write(pool, disk, block * BLOCK_BYTES, BLOCK_BYTES, block as u8 + 1);
        }
        // Partial blocks, one of them the last.
        write(pool, disk, 50 * BLOCK_BYTES + 3 * SECTOR, 2 * SECTOR, 0x51);
        write(pool, disk, 64 * BLOCK_BYTES, SECTOR, 0x64);
    });
    vellum(pool, &["snapshot", "create", "disk@monday"]);
    change(pool, "disk", |pool, disk| {
        for block in 0..8 {
            write(pool, disk, block * BLOCK_BYTES + SECTOR, SECTOR, 0xa0 + block as u8);
        }
        discard(pool, disk, 10 * BLOCK_BYTES, SECTOR);
        discard(pool, disk, 12 * BLOCK_BYTES, 2 * BLOCK_BYTES);
    });
    vellum(pool, &["clone", "create", "disk@monday", "group/copy=1"]);
    change(pool, "group/copy=1", |pool, copy| {
        write(pool, copy, 20 * BLOCK_BYTES, BLOCK_BYTES, 0xc0);
        discard(pool, copy, 21 * BLOCK_BYTES + SECTOR, 4 * SECTOR);
    });
}

/// What every volume and snapshot holds, as files of their names with `/` and `@` replaced, and a list of them.
fn keep_content(pool: &Path, folder: &Path) {
    let mut pool = opened(pool);
    let mut list = String::new();
    for info in pool.volumes() {
        let bytes = pool.read(info.id, 0, info.size_bytes).expect("it can be read");
        let image = info.name.replace(['/', '@'], "_");
        fs::write(folder.join(&image), bytes).expect("space");
        list += &format!("{image} {}\n", info.name);
    }
    fs::write(folder.join("list"), list).expect("space");
    pool.close().expect("it closes");
}

#[test]
fn the_kernel_gets_a_pool_uses_it_and_gives_it_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let (pool, content) = (folder.path().join("pool"), folder.path().join("content"));
    fs::create_dir(&content).expect("a folder");
    make(&pool);
    keep_content(&pool, &content);
    let disks = [512 << 20, 24 << 20, 8 << 20].map(|bytes| {
        let disk = tempfile::NamedTempFile::new().expect("a disk");
        disk.as_file().set_len(bytes).expect("a disk");
        disk
    });
    let script =
        Script::new("bash live.sh \"$(cat binary)\" \"$(cat folder)\"").timeout(Duration::from_secs(600));
    let script = script.modules(&["dm-thin-pool", "loop", "ext4"]);
    let script = script.file("live.sh", LIVE).file("pool.sh", POOL).file("nbd.sh", NBD);
    let script = script.file("binary", BINARY).host_file(BINARY);
    let script = script.file("folder", folder.path().display().to_string()).host_file(folder.path());
    let script = disks.iter().fold(script, |script, disk| script.disk(disk.path()));
    let outcome = Lab::prepare().and_then(|lab| lab.run(&script));
    let outcome = outcome.unwrap_or_else(|error| panic!("{error}")).expect_success();
    print!("{}", outcome.output);
}
