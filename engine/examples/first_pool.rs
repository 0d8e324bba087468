//! Makes a pool in two files, writes, takes a snapshot, is killed without closing, and reads both states back.
//!
//! Run it with `cargo run --release --example first_pool -p vellum-engine`; it leaves nothing behind.

use std::error::Error;
use vellum_engine::Pool;
use vellum_engine::options::{CreateOptions, OpenOptions};
use vellum_engine::request::NewVolume;
use vellum_engine::storage::FileDisk;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::temp_dir().join(format!("vellum-first-pool-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let result = tour(&folder);
    std::fs::remove_dir_all(&folder)?;
    result
}

fn tour(folder: &std::path::Path) -> Result<(), Box<dyn Error>> {
    let (data, metadata) = (folder.join("data"), folder.join("metadata"));
    let data_blocks = (1 << 30) / (64 * 1024);
    let options = CreateOptions {
        data_blocks,
        log_blocks: CreateOptions::log_blocks_for(data_blocks),
        // A program for people takes these from a source of randomness, and the time from a clock.
        uuid: [1; 16],
        secret: 0x5eed,
        created_unix_s: 0,
    };
    let open = OpenOptions::default();
    let disks = (FileDisk::create(&data, 0)?, FileDisk::create(&metadata, 0)?);
    let mut pool = Pool::create(disks.0, disks.1, &options, &open)?;
    println!("made a pool of 1 GiB in {} data blocks of 64 KiB", data_blocks);

    let disk = pool.create_volume(named("disk", 2), 1 << 40)?;
    pool.write(disk, 4096, &b"before the snapshot"[..])?;
    let snapshot = pool.snapshot(disk, named("disk@first", 3))?;
    pool.write(disk, 4096, &b"after the snapshot!"[..])?;
    pool.flush()?;
    let status = pool.status();
    println!("a volume of 1 TiB and its snapshot use {} data blocks, log included", status.used_blocks);
    // Not closed: the next opening finds its way from the log.
    drop(pool);

    let mut pool = Pool::open(FileDisk::open(&data)?, FileDisk::open(&metadata)?, &open)?;
    for (name, volume) in [("disk", disk), ("disk@first", snapshot)] {
        let bytes = pool.read(volume, 4096, 19)?;
        println!("{name}: {}", String::from_utf8_lossy(&bytes));
    }
    pool.close()?;
    Ok(())
}

fn named(name: &str, uuid: u8) -> NewVolume {
    NewVolume { name: name.to_owned(), uuid: [uuid; 16], created_unix_s: 0 }
}
