//! What writing, reading, checking and dumping metadata costs, beside thin-provisioning-tools in the same run; and what it costs to
//! take the pool and to give it away again, beside the tool that reads or writes as much.
//!
//! `cargo bench -p vellum-dm-bridge`. One device, runs of four blocks, 1 Mi and 4 Mi mappings. The data is a sparse file. Every operation is a process of
//! its own, so that its memory is its own too; the shortest of three turns counts, ours and theirs in turns. Files are in the
//! page cache: this compares work, not disks.

use std::env;
use std::fs::{self, File};
use std::io::{BufReader, BufWriter};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use vellum_dm_bridge::export::{self, ExportOptions, Failure};
use vellum_dm_bridge::format::DeviceDetails;
use vellum_dm_bridge::import::{ImportOptions, adopt};
use vellum_dm_bridge::{
    Metadata, MetadataWriter, Packing, PoolHeader, Result, Run, Sink, XmlWriter, check, read_xml,
};
use vellum_engine::storage::FileDisk;
use vellum_engine::units::BLOCK_BYTES;

const TURNS: usize = 3;
const METADATA_BYTES: u64 = 512 << 20;
/// Data blocks beside those that are mapped: room for a log.
const FREE_BLOCKS: u64 = 8192;

fn main() {
    let arguments: Vec<String> = env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [operation, metadata, xml] => child(operation, Path::new(metadata), Path::new(xml)),
        _ => parent(),
    }
}

fn parent() {
    let folder = env::temp_dir().join(format!("vellum-dm-bench-{}", std::process::id()));
    fs::create_dir(&folder).expect("a folder");
    println!("| mappings | operation | ours | memory | 0.9.0 | times faster |\n|---|---|---|---|---|---|");
    for mebi in [1, 4] {
        let [metadata, xml] = ["metadata", "xml"].map(|name| folder.join(name));
        make_xml(mebi << 20, &xml).expect("space");
        fs::write(folder.join("theirs"), b"").expect("space");
        let data = File::create(folder.join("data")).expect("space");
        data.set_len(((mebi << 20) + FREE_BLOCKS) * BLOCK_BYTES).expect("a sparse file");
        for operation in ["restore", "read", "check", "dump", "import", "export"] {
            compare(mebi, operation, &metadata, &xml, &folder.join("theirs"));
        }
        println!("| {mebi} Mi | metadata used | {} KiB | | |", used_kib(&metadata));
    }
    fs::remove_dir_all(&folder).expect("it is ours");
}

fn compare(mebi: u64, operation: &str, metadata: &Path, xml: &Path, theirs: &Path) {
    let (mut ours_best, mut theirs_best) = (Duration::MAX, Duration::MAX);
    let mut memory = String::new();
    for _ in 0..TURNS {
        if operation == "restore" {
            for path in [metadata, theirs] {
                File::create(path).and_then(|file| file.set_len(METADATA_BYTES)).expect("space");
            }
        }
        if operation == "export" {
            // A pool goes away once.
            our_own("import", metadata, xml);
        }
        let start = Instant::now();
        memory = our_own(operation, metadata, xml);
        ours_best = ours_best.min(start.elapsed());
        theirs_best = theirs_best.min(tool(operation, theirs, xml).unwrap_or(Duration::MAX));
    }
    let ours = ours_best.as_secs_f64();
    let compared = match theirs_best {
        Duration::MAX => "| - | - |".to_owned(),
        theirs => format!("| {:.2} s | {:.1} |", theirs.as_secs_f64(), theirs.as_secs_f64() / ours),
    };
    println!("| {mebi} Mi | {operation} | {ours:.2} s | {memory} {compared}");
}

/// Runs an operation of ours, and gives what memory it took.
fn our_own(operation: &str, metadata: &Path, xml: &Path) -> String {
    let mut command = Command::new(env::current_exe().expect("a program"));
    let output = command.arg(operation).arg(metadata).arg(xml).stderr(Stdio::inherit()).output();
    let output = output.expect("it runs");
    assert!(output.status.success(), "{operation} failed");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// How long Debian's tool takes; `None` if there is none for this.
fn tool(operation: &str, metadata: &Path, xml: &Path) -> Option<Duration> {
    let mut command = match operation {
        "restore" | "export" => Command::new("/usr/sbin/thin_restore"),
        "check" => Command::new("/usr/sbin/thin_check"),
        "dump" | "import" => Command::new("/usr/sbin/thin_dump"),
        _ => return None,
    };
    match operation {
        "restore" | "export" => command.arg("-i").arg(xml).arg("-o").arg(metadata),
        "dump" | "import" => command.arg("-o").arg(xml.with_extension("dumped")).arg(metadata),
        _ => command.arg(metadata),
    };
    let start = Instant::now();
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status().expect("the tool is installed");
    assert!(status.success(), "{operation} by the tool failed");
    Some(start.elapsed())
}

fn child(operation: &str, metadata: &Path, xml: &Path) {
    let open = || File::open(metadata).expect("metadata");
    match operation {
        "restore" => {
            let target = File::options().read(true).write(true).open(metadata).expect("metadata");
            let mut writer = MetadataWriter::new(target, Packing::Full).expect("a size");
            read_xml(BufReader::with_capacity(1 << 16, File::open(xml).expect("XML")), &mut writer)
                .expect("a pool");
        }
        "read" => {
            Metadata::open(open()).and_then(|metadata| metadata.copy_to(&mut Nothing)).expect("it is whole");
        }
        "check" => assert!(check(open()).expect("it can be read").is_clean()),
        "dump" => {
            let output = File::create(xml.with_extension("dumped")).expect("space");
            let mut writer = XmlWriter::new(BufWriter::with_capacity(1 << 16, output));
            Metadata::open(open()).and_then(|metadata| metadata.copy_to(&mut writer)).expect("it is whole");
        }
        "import" => import(metadata),
        "export" => export(metadata),
        _ => panic!("no operation {operation}"),
    }
    let status = fs::read_to_string("/proc/self/status").expect("Linux");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    println!("{}", peak.trim());
}

/// The pool's files beside the metadata of dm-thin.
fn pool_files(metadata: &Path) -> [std::path::PathBuf; 3] {
    ["data", "pool", "given"].map(|name| metadata.with_file_name(name))
}

fn import(metadata: &Path) {
    let [data, pool, _] = pool_files(metadata);
    let _ = fs::remove_file(&pool);
    let mut data = FileDisk::open(data).expect("the data");
    let mut target = FileDisk::create(pool, 0).expect("space");
    let thin = Metadata::open(File::open(metadata).expect("metadata")).expect("a superblock");
    let options = ImportOptions { uuid: [1; 16], secret: 2, nonce: 3, ..ImportOptions::default() };
    let imported = adopt(&thin, &mut data, &mut target, None, &options, &mut |_| {}).expect("room");
    assert_eq!(imported.volumes.len(), 1);
}

fn export(metadata: &Path) {
    let [data, pool, given] = pool_files(metadata);
    let mut data = FileDisk::open(data).expect("the data");
    let mut pool = FileDisk::open(pool).expect("a pool");
    let target =
        File::options().read(true).write(true).create(true).truncate(true).open(given).expect("space");
    target.set_len(METADATA_BYTES).expect("space");
    let options = ExportOptions::default();
    let exported =
        export::export::<_, Failure>(&mut data, &mut pool, &options, |_, _| Ok(target), &mut |_| {});
    assert!(exported.expect("it fits").plan.mappings > 0);
}

fn used_kib(metadata: &Path) -> u64 {
    let metadata = Metadata::open(File::open(metadata).expect("metadata")).expect("a superblock");
    metadata.superblock().metadata_space_map.nr_allocated * 4
}

fn make_xml(mappings: u64, path: &Path) -> Result<()> {
    let mut xml = XmlWriter::new(BufWriter::new(File::create(path).expect("space")));
    let nr_data_blocks = mappings + FREE_BLOCKS;
    xml.begin(&PoolHeader { time: 1, data_block_sectors: 128, nr_data_blocks, ..PoolHeader::default() })?;
    let mapped_blocks = mappings;
    xml.device(1, &DeviceDetails { mapped_blocks, snapshotted_time: 1, ..DeviceDetails::default() })?;
    for at in (0..mappings).step_by(4) {
        // Neighbours of virtual blocks are far apart on the data device, so that every run is an element.
        let data_begin = (at * 5) % mappings / 4 * 4;
        xml.run(&Run { virtual_begin: at + at / 4, data_begin, length: 4, time: 1 })?;
    }
    xml.device_end()?;
    xml.end()
}

struct Nothing;

impl Sink for Nothing {
    fn begin(&mut self, _: &PoolHeader) -> Result<()> {
        Ok(())
    }
    fn device(&mut self, _: u32, _: &DeviceDetails) -> Result<()> {
        Ok(())
    }
    fn run(&mut self, _: &Run) -> Result<()> {
        Ok(())
    }
    fn device_end(&mut self) -> Result<()> {
        Ok(())
    }
    fn end(&mut self) -> Result<()> {
        Ok(())
    }
}
