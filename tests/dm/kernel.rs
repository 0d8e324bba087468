//! Linux's dm-thin on metadata that we wrote, and we on metadata that it wrote. One boot of the lab for both.

use crate::image::Image;
use crate::pools::{Pool, header, run};
use crate::round_trips::write;
use crate::tools;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::time::Duration;
use tempfile::NamedTempFile;
use vellum_dm_bridge::{Metadata, Packing, XmlWriter, check};
use vellum_tests::lab::{Lab, Script};

const SCRIPT: &str = include_str!("kernel.sh");
const DATA_BLOCKS: u64 = 1024;
const METADATA_BYTES: u64 = 4 << 20;

/// 1, 2 and 4 share 200 blocks; 2 and 4 share their whole tree, 1 has some blocks alone; 3 is empty.
fn ours() -> Pool {
    let mut pool = Pool { header: header(DATA_BLOCKS), devices: Vec::new() };
    pool.add(1, &[run(0, 0, 200, 0), run(200, 200, 100, 1)]);
    let tree = [run(0, 0, 200, 0), run(1000, 500, 1, 0)];
    pool.add(2, &tree);
    pool.add(3, &[]);
    pool.add(4, &tree);
    pool
}

fn disk(bytes: u64) -> NamedTempFile {
    let disk = NamedTempFile::new().expect("a disk");
    disk.as_file().set_len(bytes).expect("a disk");
    disk
}

/// What a virtual block of a device starts with.
fn text(pool: &Pool, data: &File, device: u32, block: u64) -> String {
    let (_, _, runs) = pool.devices.iter().find(|(id, ..)| *id == device).expect("the device is there");
    let Some(run) =
        runs.iter().find(|run| (run.virtual_begin..run.virtual_begin + run.length).contains(&block))
    else {
        return "nothing".into();
    };
    let mut bytes = [0; 64];
    let data_block = run.data_begin + block - run.virtual_begin;
    data.read_exact_at(&mut bytes, data_block * 65536).expect("the block is there");
    String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_owned()
}

#[track_caller]
fn assert_clean(path: &std::path::Path) {
    let report = check(File::open(path).expect("the disk")).expect("it can be read");
    let findings: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
    assert!(report.is_clean(), "{findings:#?}");
    tools::assert_thin_check(path);
}

#[test]
fn the_kernel_uses_what_we_write_and_we_read_what_it_makes_of_it() {
    let disks = [METADATA_BYTES, DATA_BLOCKS * 65536, METADATA_BYTES, DATA_BLOCKS * 65536].map(disk);
    let [metadata, data, their_metadata, _] = &disks;
    let (image, written) = write(&ours(), METADATA_BYTES as usize, Packing::Full);
    assert_eq!(written.shared_nodes, 1);
    fs::write(metadata.path(), image).expect("space");
    for block in (0..300).chain([500]) {
        let text = format!("data block {block}");
        data.as_file().write_all_at(text.as_bytes(), block * 65536).expect("space");
    }
    let script = Script::new("bash kernel.sh").file("kernel.sh", SCRIPT).modules(&["dm-thin-pool"]);
    let script = disks.iter().fold(script, |script, disk| script.disk(disk.path()));
    let outcome = Lab::prepare().and_then(|lab| lab.run(&script.timeout(Duration::from_secs(480))));
    let outcome = outcome.unwrap_or_else(|error| panic!("{error}")).expect_success();
    print!("{}", outcome.output);
    read_ours(metadata, data);
    find_lost_roots(metadata);
    read_theirs(their_metadata);
}

fn read_ours(metadata: &NamedTempFile, data: &NamedTempFile) {
    assert_clean(metadata.path());
    let mut pool = Pool::default();
    let opened = Metadata::open(metadata.as_file()).expect("a superblock");
    opened.copy_to(&mut pool).expect("it is whole");
    assert_eq!((pool.header.time, pool.header.transaction_id), (2, 13));
    assert_eq!(pool.devices.iter().map(|(id, ..)| *id).collect::<Vec<_>>(), [1, 2, 3, 4, 7]);
    let text = |device, block| text(&pool, data.as_file(), device, block);
    let one = [0, 10, 20, 250].map(|block| text(1, block));
    assert_eq!(one, ["data block 0", "one in the kernel", "data block 20", "one after snapshot"]);
    let two = [0, 10, 20, 30, 1000].map(|block| text(2, block));
    assert_eq!(two, ["data block 0", "data block 10", "two in the kernel", "nothing", "data block 500"]);
    let four = [0, 10, 20, 30, 1000].map(|block| text(4, block));
    assert_eq!(four, [0, 10, 20, 30, 500].map(|block| format!("data block {block}")));
    let seven = [0, 10, 250, 299].map(|block| text(7, block));
    assert_eq!(seven, ["seven alone", "one in the kernel", "one overwritten", "data block 299"]);
    assert_eq!((text(3, 5), text(3, 6)), ("three has something".into(), "nothing".into()));
}

/// A root that is lost is found again: what the kernel counts is what the search believes.
fn find_lost_roots(metadata: &NamedTempFile) {
    let image = Image { bytes: fs::read(metadata.path()).expect("the disk") };
    let read = |bytes: &Vec<u8>| {
        let mut pool = Pool::default();
        let opened = Metadata::open(bytes).expect("a superblock").lenient();
        let salvage = opened.copy_to(&mut pool).expect("memory takes it");
        (pool, salvage.found)
    };
    let (whole, found) = read(&image.bytes);
    assert_eq!(found, []);
    let devices = 0..whole.devices.len();
    let inner: Vec<_> = devices.filter(|at| image.u32(image.device_root(*at), 4) == 1).collect();
    assert!(inner.len() >= 2, "{inner:?}");
    for at in inner {
        let mut broken = image.bytes.clone();
        broken[image.device_root(at) as usize * 4096..][..4096].fill(0);
        let (pool, found) = read(&broken);
        assert!(pool == whole && !found.is_empty(), "{found:?}: {pool:?}");
    }
}

fn read_theirs(metadata: &NamedTempFile) {
    assert_clean(metadata.path());
    let dump = |metadata: Metadata<&File>| {
        let mut xml = XmlWriter::new(Vec::new());
        metadata.copy_to(&mut xml).expect("it is whole");
        String::from_utf8(xml.into_inner()).expect("text")
    };
    let live = dump(Metadata::open(metadata.as_file()).expect("a superblock"));
    let dumped = tools::thin_dump(metadata.path()).replace(" flags=\"0\"", "");
    // The tool also tells where the metadata snapshot is, which nothing that reads XML can use.
    assert_eq!(live.lines().skip(1).collect::<Vec<_>>(), dumped.trim().lines().skip(1).collect::<Vec<_>>());
    let held = dump(Metadata::open_snapshot(metadata.as_file()).expect("a metadata snapshot"));
    assert!(live.contains("origin_block=\"100\"") && !held.contains("origin_block=\"100\""), "{live}{held}");
    keep_as_fixture(metadata);
}

/// Set VELLUM_DM_FIXTURE to a file to make the fixture of the kernel's own bytes again.
fn keep_as_fixture(metadata: &NamedTempFile) {
    let Some(path) = std::env::var_os("VELLUM_DM_FIXTURE") else { return };
    let bytes = fs::read(metadata.path()).expect("the disk");
    let mut text = String::new();
    for (row, bytes) in bytes.chunks(32).enumerate().filter(|(_, bytes)| bytes.iter().any(|byte| *byte != 0))
    {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        text.push_str(&format!("{:x} {}\n", row * 32, hex.trim_end_matches("00")));
    }
    fs::write(path, text).expect("space");
}
