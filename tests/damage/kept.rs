//! A pool of format version 1, kept for good in `tests/fixtures/pool-v1/`: whatever reads version 1 reads this one.
//!
//! Owns the text form of its disks: a line a page that is not zeros, its bytes in hexadecimal, `XX*N` for N equal ones,
//! zeros at the end left out. The pool has volumes, snapshots, a clone, mappings of two layers, lost ranges, and a
//! log to be replayed. It is made anew, as long as version 1 may still change, by
//! `cargo test -p vellum-tests --test damage make_the_kept_pool -- --ignored`.

use super::content::content;
use super::lost::with_lost_window;
use super::pool::{WINDOW_BYTES, new_volume, open_options};
use super::repaired;
use std::fmt::Write;
use std::path::PathBuf;
use vellum_engine::format::FORMAT_VERSION;
use vellum_engine::request::Request;
use vellum_engine::storage::{Blocking, Disk, MemoryDisk};
use vellum_engine::units::{BLOCK_BYTES, PAGE_BYTES};
use vellum_engine::{Pool, check};

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/pool-v1").join(name)
}

fn disk_as_text(disk: &MemoryDisk) -> String {
    let mut text = format!("bytes {}\n", disk.size_bytes());
    let mut disk = disk.clone();
    for number in 0..disk.size_bytes() / PAGE_BYTES as u64 {
        let page = Blocking::metadata(&mut disk).read(number * PAGE_BYTES as u64, PAGE_BYTES).unwrap();
        let end = page.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        if end > 0 {
            let runs = page[..end].chunk_by(|a, b| a == b).map(|run| match run.len() {
                1..4 => run.iter().map(|byte| format!(" {byte:02x}")).collect(),
                length => format!(" {:02x}*{length}", run[0]),
            });
            writeln!(text, "{number}:{}", runs.collect::<String>()).unwrap();
        }
    }
    text
}

fn disk_from_text(text: &str) -> MemoryDisk {
    let mut lines = text.lines();
    let size = lines.next().and_then(|line| line.strip_prefix("bytes ")).unwrap().parse().unwrap();
    let mut disk = MemoryDisk::new(size);
    for line in lines {
        let (number, tokens) = line.split_once(':').unwrap();
        let mut page = Vec::with_capacity(PAGE_BYTES);
        for token in tokens.split_whitespace() {
            let (byte, length) = token.split_once('*').unwrap_or((token, "1"));
            let byte = u8::from_str_radix(byte, 16).unwrap();
            page.resize(page.len() + length.parse::<usize>().unwrap(), byte);
        }
        page.resize(PAGE_BYTES, 0);
        let offset = number.parse::<u64>().unwrap() * PAGE_BYTES as u64;
        Blocking::metadata(&mut disk).write(offset, page.into()).unwrap();
    }
    disk
}

fn kept(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap()
}

#[test]
fn the_kept_pool_can_be_read_checked_and_repaired() {
    assert_eq!(FORMAT_VERSION, 1, "keep a pool of the new version too");
    let (mut data, mut metadata) = (disk_from_text(&kept("data.txt")), disk_from_text(&kept("metadata.txt")));
    let report = check(&mut data, &mut metadata, &mut |_| {}).unwrap();
    assert!(report.is_clean(), "{:?}", report.findings);
    assert!(report.information.len() >= 2, "a log to replay, and lost blocks: {:?}", report.information);
    let mut pool = Pool::open(data.clone(), metadata.clone(), &open_options()).unwrap();
    assert_eq!(content(&mut pool).to_text(), kept("content.txt"));
    let (made, target) = repaired(&mut data, &mut metadata).unwrap();
    assert_eq!(made.report.problems, []);
    made.commit(&mut data).unwrap();
    let mut pool = Pool::open(data, target, &open_options()).unwrap();
    assert_eq!(content(&mut pool).to_text(), kept("content.txt"));
}

#[test]
fn disks_are_text_and_back() {
    let pool = with_lost_window();
    let disk = pool.metadata_disk();
    let again = disk_from_text(&disk_as_text(disk));
    assert_eq!(disk_as_text(&again), disk_as_text(disk));
}

#[test]
#[ignore = "writes the kept pool anew: only as long as version 1 may change"]
fn make_the_kept_pool() {
    let mut pool = with_lost_window();
    let disk = pool.find("disk").unwrap();
    pool.write(disk, 0, vec![1; 9 * 4096]).unwrap();
    let small = pool.create_volume(new_volume("group/small"), 3 * BLOCK_BYTES + 4096).unwrap();
    pool.write(small, 4096, vec![2; 2 * BLOCK_BYTES as usize]).unwrap();
    let one = pool.snapshot(disk, new_volume("disk@one")).unwrap();
    let copy = pool.clone_snapshot(one, new_volume("copy")).unwrap();
    pool.snapshot(small, new_volume("group/small@first")).unwrap();
    pool.request(Request::Hold { volume: one, tag: "kept".into() }).unwrap();
    pool.request(Request::Checkpoint).unwrap();
    pool.write(disk, 2 * 4096 + 100, vec![3; 300]).unwrap();
    pool.write(small, 8192, vec![4; 4096]).unwrap();
    pool.request(Request::Checkpoint).unwrap();
    pool.write(copy, WINDOW_BYTES + 512, vec![5; 512]).unwrap();
    let discard = Request::Discard { volume: disk, offset_bytes: 0, length_bytes: 8192, fua: true };
    pool.request(discard).unwrap();
    pool.write(disk, WINDOW_BYTES + 4096, vec![6; 4096]).unwrap();
    pool.flush().unwrap();
    pool.idle(2000);
    let write = |name: &str, text: String| std::fs::write(path(name), text).unwrap();
    write("data.txt", disk_as_text(pool.data_disk()));
    write("metadata.txt", disk_as_text(pool.metadata_disk()));
    let (data, metadata) = (pool.data_disk().clone(), pool.metadata_disk().clone());
    let mut pool = Pool::open(data, metadata, &open_options()).unwrap();
    write("content.txt", content(&mut pool).to_text());
}
