//! `vellum pool shrink`: what it tells and refuses, what the host gets back, and kills in the middle of it.

#[allow(dead_code)]
mod common;

use common::{Bench, VELLUM};
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use vellum_cli::exit::Kind;
use vellum_engine::Pool;
use vellum_engine::options::OpenOptions;
use vellum_engine::request::NewVolume;
use vellum_engine::storage::FileDisk;
use vellum_engine::units::BLOCK_BYTES;

const MIB: u64 = 1 << 20;

fn opened(bench: &Bench) -> Pool<FileDisk> {
    let open = |name: &str| FileDisk::open(bench.pool().join(name)).unwrap();
    Pool::open(open("data"), open("metadata"), &OpenOptions::default()).unwrap()
}

fn byte(block: u64) -> u8 {
    (block % 251) as u8 + 1
}

/// A pool in which `filled` MiB lie behind as much that was deleted.
fn pool_with_its_end_in_use(size: &str, filled: u64) -> Bench {
    let bench = Bench::empty();
    bench.ok(&["pool", "create", "--size", size]);
    let mut pool = opened(&bench);
    let mut fill = |name: &str, uuid: u8| {
        let new = NewVolume { name: name.into(), uuid: [uuid; 16], created_unix_s: 0 };
        let volume = pool.create_volume(new, 1 << 40).unwrap();
        for block in 0..filled * MIB / BLOCK_BYTES {
            pool.write(volume, block * BLOCK_BYTES, vec![byte(block); BLOCK_BYTES as usize]).unwrap();
        }
        volume
    };
    let ballast = fill("ballast", 2);
    fill("disk", 3);
    pool.delete(ballast).unwrap();
    pool.close().unwrap();
    bench
}

fn assert_filled(bench: &Bench, filled: u64) {
    let mut pool = opened(bench);
    let disk = pool.find("disk").unwrap();
    for block in 0..filled * MIB / BLOCK_BYTES {
        let read = pool.read(disk, block * BLOCK_BYTES, BLOCK_BYTES).unwrap();
        assert!(read.iter().all(|found| *found == byte(block)), "block {block}");
    }
    pool.close().unwrap();
}

#[test]
fn a_pool_becomes_smaller_and_the_host_gets_the_rest() {
    let bench = pool_with_its_end_in_use("256M", 40);
    let shrunk = bench.json(&["pool", "shrink", "--size", "64M"]);
    let number = |name: &str| shrunk[name].as_u64().unwrap();
    assert_eq!((number("size_bytes"), number("size_before_bytes")), (64 * MIB, 256 * MIB));
    assert!((15 * MIB..=40 * MIB).contains(&number("moved_bytes")), "{shrunk}");
    assert!(number("returned_bytes") >= 15 * MIB && shrunk["truncated"] == true, "{shrunk}");
    let file = std::fs::metadata(bench.pool().join("data")).unwrap();
    assert!(file.len() <= 64 * MIB && file.blocks() * 512 <= 65 * MIB);
    assert!(bench.ok(&["pool", "check"]).starts_with("sound: "));
    assert_filled(&bench, 40);
    assert_eq!(bench.json(&["pool", "status"])["size_bytes"], 64 * MIB);
    // Again is nothing, and so is back.
    assert!(bench.ok(&["pool", "shrink", "64M"]).contains("64 MiB, 64 MiB before"));
    assert_eq!(bench.json(&["pool", "extend", "--size", "128M"])["size_bytes"], 128 * MIB);
    assert_filled(&bench, 40);
}

#[test]
fn what_cannot_be_is_refused() {
    let bench = pool_with_its_end_in_use("128M", 20);
    let refused = bench.fails(Kind::NoSpace, &["pool", "shrink", "16M"]);
    let (_, rest) = refused.split_once("the least size is ").unwrap();
    let least = rest.lines().next().unwrap();
    assert!(bench.fails(Kind::Invalid, &["pool", "shrink", "256M"]).contains("`vellum pool extend`"));
    assert!(bench.fails(Kind::Invalid, &["pool", "extend", "64M"]).contains("`vellum pool shrink`"));
    bench.fails(Kind::Invalid, &["pool", "shrink", "100000"]);
    bench.fails(Kind::Usage, &["pool", "shrink"]);
    bench.fails(Kind::Usage, &["pool", "shrink", "64M", "--size", "64M"]);
    bench.fails(Kind::Usage, &["pool", "shrink", "much"]);
    let served = bench.serve(&["serve"]);
    assert!(bench.fails(Kind::InUse, &["pool", "shrink", "64M"]).contains("stop its server first"));
    served.stop();
    assert_eq!(bench.json(&["pool", "status"])["size_bytes"], 128 * MIB);
    // What it says is what it takes.
    let told = bench.run(&["pool", "shrink", least]);
    assert_eq!(told.code, 0, "{}", told.err);
    assert!(
        told.err.starts_with("moving ") && told.out.contains("back to the host"),
        "{}{}",
        told.err,
        told.out
    );
    assert_filled(&bench, 20);
}

/// Kills at moments all over it: the pool is whole, and the same command comes to the end.
#[test]
fn a_kill_in_the_middle_harms_nothing() {
    const KILLS: u32 = 8;
    const FILLED: u64 = 96;
    let shrink = |bench: &Bench| {
        let mut command = Command::new(VELLUM);
        command.env_remove("VELLUM_POOL").arg("--pool").arg(bench.pool()).args(["pool", "shrink", "112M"]);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let bench = pool_with_its_end_in_use("512M", FILLED);
    let start = Instant::now();
    assert!(shrink(&bench).wait().unwrap().success());
    let takes = start.elapsed();
    let mut unfinished = 0;
    for kill in 0..KILLS {
        let bench = pool_with_its_end_in_use("512M", FILLED);
        let mut process = shrink(&bench);
        std::thread::sleep(takes * kill / KILLS + Duration::from_millis(2));
        process.kill().unwrap();
        process.wait().unwrap();
        assert!(bench.ok(&["pool", "check"]).starts_with("sound: "));
        let size = bench.json(&["pool", "status"])["size_bytes"].as_u64().unwrap();
        assert!(size == 512 * MIB || size == 112 * MIB, "{size}");
        unfinished += u32::from(size == 512 * MIB);
        assert_filled(&bench, FILLED);
        assert_eq!(bench.json(&["pool", "shrink", "112M"])["size_bytes"], 112 * MIB);
        assert_filled(&bench, FILLED);
    }
    assert!(unfinished > 0, "every kill came too late; one takes {takes:?}");
}
