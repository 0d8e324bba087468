//! `vellum dm export --snapshot` and `vellum dm release`: pictures of snapshots, of pools that are served and written to, and of pools
//! that are not.

#[allow(dead_code)]
mod common;

use common::{Bench, VELLUM};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use vellum_cli::exit::Kind;
use vellum_cli::manage::{Files, Manage, Picture, Transfer};
use vellum_cli::pool_directory::PoolDirectory;
use vellum_cli::views::{FillView, FinishPictureView, NewPictureView};
use vellum_engine::Pool;
use vellum_engine::options::OpenOptions;
use vellum_engine::storage::FileDisk;
use vellum_engine::units::{BLOCK_BYTES, VolumeId};
use vellum_tests::nbd_client::NbdClient;
use vellum_tests::rng::Rng;
use vellum_tests::thin::{Content, differs};

/// Not in whole blocks.
const SIZE: u64 = 4 * 1024 * 1024 + 8192;

fn opened(directory: &Path) -> Pool<FileDisk> {
    let open = |name: &str| FileDisk::open(directory.join(name)).unwrap();
    Pool::open(open("data"), open("metadata"), &OpenOptions::default()).unwrap()
}

fn client(bench: &Bench, export: &str) -> NbdClient {
    NbdClient::open(&bench.pool().join("nbd.sock"), export).unwrap()
}

fn read(bench: &Bench, snapshot: &str, length: u64) -> Vec<u8> {
    client(bench, snapshot).read(0, 0, length as u32).unwrap().unwrap()
}

/// Writes a sector or some at random.
fn write_some(client: &mut NbdClient, rng: &mut Rng) {
    let sectors = SIZE / 4096;
    let first = rng.below(sectors);
    let count = rng.between(1, 20).min(sectors - first);
    let bytes = vec![if rng.one_in(4) { 0 } else { rng.bits() as u8 }; count as usize * 4096];
    assert_eq!(client.write(first * 4096, &bytes).unwrap(), 0);
}

/// A served pool with two snapshots of a volume, blocks with holes and of two layers, and zeros that are not stored.
fn bench() -> Bench {
    let bench = Bench::with_pool();
    bench.ok(&["pool", "set", "detect-zeros=on"]);
    bench.ok(&["volume", "create", "disk", "--size", &SIZE.to_string()]);
    bench
}

fn fill(bench: &Bench) {
    let mut rng = Rng::new(5);
    let mut disk = client(bench, "disk");
    let mut bytes: Vec<u8> = (0..SIZE / 8).flat_map(|_| rng.bits().to_le_bytes()).collect();
    bytes[40 * 4096..70 * 4096].fill(0);
    bytes[(2 << 20)..(3 << 20)].fill(0);
    assert_eq!(disk.write(0, &bytes).unwrap(), 0);
    bench.ok(&["snapshot", "create", "disk@monday"]);
    (0..20).for_each(|_| write_some(&mut disk, &mut rng));
    bench.ok(&["snapshot", "create", "disk@tuesday"]);
}

/// What the metadata shows in the data file as it is now.
fn assert_shows(bench: &Bench, thin: &str, expected: &Content) {
    // The pool has the file itself.
    let copy = bench.path("data-now");
    fs::copy(bench.pool().join("data"), &copy).unwrap();
    differs(fs::File::open(thin).unwrap(), &mut FileDisk::open(&copy).unwrap(), expected).unwrap();
}

fn content(bench: &Bench, names: &[&str]) -> Content {
    let list = bench.json(&["snapshot", "list"]);
    let number = |name: &str| {
        let snapshots = list["snapshots"].as_array().unwrap();
        snapshots.iter().find(|snapshot| snapshot["name"] == name).unwrap()["number"].as_u64().unwrap()
    };
    let one = |name: &&str| (VolumeId(number(name)), (*name).to_owned(), read(bench, name, SIZE));
    names.iter().map(one).collect()
}

#[test]
fn a_picture_of_a_served_pool_stays_what_the_snapshots_were() {
    let bench = bench();
    let server = bench.serve(&["serve"]);
    fill(&bench);
    let expected = content(&bench, &["disk@monday", "disk@tuesday"]);
    let thin = bench.path("tmeta").display().to_string();
    let used = |bench: &Bench| bench.json(&["pool", "status"])["used_bytes"].as_u64().unwrap();
    let (stop, written) = (AtomicBool::new(false), AtomicU64::new(0));
    let exported = std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut disk, mut rng) = (client(&bench, "disk"), Rng::new(6));
            while !stop.load(Ordering::Relaxed) {
                write_some(&mut disk, &mut rng);
                written.fetch_add(1, Ordering::Relaxed);
            }
        });
        let go_on = || {
            let until = written.load(Ordering::Relaxed) + 300;
            while written.load(Ordering::Relaxed) < until {
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        go_on();
        let arguments =
            ["dm", "export", "--metadata", &thin, "--snapshot", "disk@tuesday", "--snapshot", "disk@monday"];
        let exported = bench.json(&arguments);
        assert_shows(&bench, &thin, &expected);
        go_on();
        bench.ok(&["snapshot", "delete", "disk@tuesday"]);
        bench.ok(&["volume", "collapse", "disk"]);
        bench.ok(&["pool", "trim"]);
        go_on();
        assert_shows(&bench, &thin, &expected);
        stop.store(true, Ordering::Relaxed);
        exported
    });
    let device = |at: usize, field: &str| exported["devices"][at][field].clone();
    assert_eq!(
        (device(0, "name"), device(0, "pinned_by")),
        ("disk@monday".into(), "disk@monday.picture-1".into())
    );
    assert_eq!((device(1, "device"), device(1, "size_bytes")), (expected[1].0.0.into(), SIZE.into()));
    let hold = device(1, "hold");
    assert!(
        hold.as_str().unwrap().starts_with("dm-picture:") && hold.as_str().unwrap().ends_with("tmeta"),
        "{hold}"
    );
    assert!(exported["copied_blocks"].as_u64().unwrap() > 4, "{exported}");
    assert!(bench.ok(&["dm", "check", &thin]).starts_with("note: a picture of a pool that goes on"));
    assert_eq!(bench.json(&["dm", "check", &thin])["is_picture"], true);
    let dumped = bench.run(&["dm", "dump", &thin]);
    assert!(dumped.out.contains("snap_time=\"1\"") && dumped.err.contains("a picture"), "{}", dumped.err);
    pins_are_kept(&bench, &thin, &expected);
    let full = used(&bench);
    let released = bench.json(&["dm", "release", "disk@monday.picture-1", "disk@tuesday.picture-1"]);
    assert_eq!(released["deleted"].as_array().unwrap().len(), 2, "{released}");
    assert_eq!(bench.names("snapshot"), ["disk@monday"]);
    let copied = exported["copied_bytes"].as_u64().unwrap();
    // Space comes back in the background.
    (0..1000)
        .find(|_| {
            std::thread::sleep(Duration::from_millis(10));
            used(&bench) + copied <= full
        })
        .expect("what was written for the picture is free again");
    server.stop();
    assert!(bench.ok(&["pool", "check"]).starts_with("sound"));
}

/// What a picture needs is neither deleted nor moved nor given away.
fn pins_are_kept(bench: &Bench, thin: &str, expected: &Content) {
    let error = bench.fails(Kind::Busy, &["snapshot", "delete", "disk@monday.picture-1"]);
    assert!(error.contains("dm-picture:"), "{error}");
    bench.fails(Kind::Busy, &["volume", "delete", "disk", "--snapshots"]);
    let list = bench.json(&["snapshot", "list"]);
    let is_pin =
        |snapshot: &&Value| snapshot["holds"][0].as_str().is_some_and(|tag| tag.starts_with("dm-picture:"));
    assert_eq!(list["snapshots"].as_array().unwrap().iter().filter(is_pin).count(), 2);
    let error = bench.fails(Kind::Invalid, &["dm", "release", "disk@monday"]);
    assert!(error.contains("pins no picture"), "{error}");
    // A pool is not made of another's data; copies are.
    let data = bench.pool().join("data").display().to_string();
    let other = bench.path("other").display().to_string();
    let import = ["--pool", &other, "dm", "import", "--metadata", thin, "--data", &data];
    let ran = common::ran(Command::new(VELLUM).args(import));
    assert_eq!(ran.code, i32::from(Kind::Unsupported.code()), "{}", ran.err);
    assert!(ran.err.contains("picture") && ran.err.contains("--copy"), "{}", ran.err);
    let ran = common::ran(Command::new(VELLUM).args(import).arg("--copy"));
    assert_eq!(ran.code, 0, "{}", ran.err);
    let mut copy = opened(Path::new(&other));
    for (id, name, bytes) in expected {
        let volume = copy.find(&format!("thin-{id}")).unwrap();
        let copied = copy.read(volume, 0, SIZE).unwrap();
        assert!(copied == *bytes, "{name} was copied as something else");
    }
    copy.close().unwrap();
}

#[test]
fn a_picture_of_a_pool_that_is_not_served() {
    let bench = bench();
    let server = bench.serve(&["serve"]);
    fill(&bench);
    let expected = content(&bench, &["disk@monday"]);
    server.stop();
    let thin = bench.path("tmeta").display().to_string();
    let export = ["dm", "export", "--metadata", &thin, "--snapshot", "disk@monday"];
    let told = bench.run(&export);
    assert!(
        told.code == 0 && told.err.contains("blocks anew") && told.out.contains("a read-only picture"),
        "{}{}",
        told.err,
        told.out
    );
    assert_shows(&bench, &thin, &expected);
    // The pool goes on, and another picture finds less to do where it shows a picture.
    let mut pool = opened(&bench.pool());
    let disk = pool.find("disk").unwrap();
    pool.write(disk, 0, vec![0xaa; 2 << 20]).unwrap();
    pool.close().unwrap();
    assert_shows(&bench, &thin, &expected);
    let again = bench.path("again").display().to_string();
    let exported = bench.json(&["dm", "export", "--metadata", &again, "--snapshot", "disk@monday.picture-1"]);
    assert_eq!(exported["copied_blocks"], 0);
    assert_eq!(exported["devices"][0]["pinned_by"], "disk@monday.picture-1.picture-1");
    for command in [
        &["pool", "shrink", "32M"][..],
        &["dm", "export", "--metadata", &bench.path("kernel").display().to_string()],
    ] {
        let error = bench.fails(Kind::Busy, command);
        assert!(error.contains("is a picture") && error.contains("vellum dm release"), "{error}");
    }
    bench.ok(&["snapshot", "hold", "disk@monday.picture-1", "mine"]);
    let released = bench.json(&["dm", "release", "disk@monday.picture-1", "disk@monday.picture-1.picture-1"]);
    assert_eq!(released["deferred"][0], "disk@monday.picture-1");
    bench.ok(&["snapshot", "release", "disk@monday.picture-1", "mine"]);
    assert_eq!(bench.names("snapshot"), ["disk@monday", "disk@tuesday"]);
    bench.ok(&["pool", "shrink", "32M"]);
    assert!(bench.ok(&["pool", "check"]).starts_with("sound"));
}

#[test]
fn what_cannot_be_shown_leaves_nothing() {
    let bench = bench();
    let server = bench.serve(&["serve"]);
    fill(&bench);
    let thin = bench.path("tmeta").display().to_string();
    let export = |flags: &[&'static str]| [&["dm", "export", "--metadata", &thin], flags].concat();
    for (kind, flags) in [
        (Kind::NotFound, &["--snapshot", "disk@never"][..]),
        (Kind::Invalid, &["--snapshot", "disk"]),
        (Kind::Usage, &["--snapshot", "disk@monday", "--snapshot", "disk@monday"]),
    ] {
        bench.fails(kind, &export(flags));
    }
    let error = bench.fails(Kind::InUse, &export(&[]));
    assert!(error.contains("--snapshot"), "{error}");
    // There is no room for the metadata, which turns out at the end.
    let ran = bench.run(&export(&["--snapshot", "disk@monday", "--size", "32K"]));
    assert_eq!(ran.code, i32::from(Kind::NoSpace.code()), "{}", ran.err);
    assert!(!fs::exists(&thin).unwrap());
    // No file can be as large.
    bench.fails(Kind::Io, &export(&["--snapshot", "disk@monday", "--size", "9223372036854775808"]));
    assert!(!fs::exists(&thin).unwrap());
    fs::write(&thin, "somebody's").unwrap();
    bench.fails(Kind::Exists, &export(&["--snapshot", "disk@monday"]));
    let own = bench.pool().join("metadata").display().to_string();
    bench.fails(Kind::Invalid, &["dm", "export", "--metadata", &own, "--snapshot", "disk@monday", "--force"]);
    // There is no room for the blocks, and the pool is not filled up to find that out.
    bench.ok(&["pool", "set", "auto-extend=off"]);
    let free = bench.json(&["pool", "status"])["free_bytes"].as_u64().unwrap();
    let reserved = (free - 2 * BLOCK_BYTES).to_string();
    bench.ok(&["volume", "create", "big", "--size", "64M", "--reservation", &reserved]);
    let error = bench.fails(Kind::NoSpace, &export(&["--snapshot", "disk@monday", "--force"]));
    assert!(error.contains("written anew"), "{error}");
    assert_eq!(bench.names("snapshot"), ["disk@monday", "disk@tuesday"]);
    assert_eq!(bench.ok(&["receive", "--resume"]), "");
    server.stop();
    assert!(bench.ok(&["pool", "check"]).starts_with("sound"));
}

#[test]
fn a_killed_export_leaves_only_what_is_listed() {
    let bench = bench();
    let server = bench.serve(&["serve"]);
    fill(&bench);
    let expected = content(&bench, &["disk@monday", "disk@tuesday"]);
    server.stop();
    let (mut whole, mut cut) = (0, 0);
    // The last one may go on to its end.
    for (round, delay_ms) in [3, 6, 10, 15, 20, 30, 40, 60, 90, 140, u64::MAX].into_iter().enumerate() {
        let server = (round % 2 == 0).then(|| bench.serve(&["serve"]));
        let thin = bench.path(&format!("tmeta-{round}")).display().to_string();
        let mut export = Command::new(VELLUM);
        export.arg("--pool").arg(bench.pool()).args(["dm", "export", "--metadata", &thin]);
        export.args(["--snapshot", "disk@monday", "--snapshot", "disk@tuesday"]);
        let mut export = export.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        if delay_ms < u64::MAX {
            std::thread::sleep(Duration::from_millis(delay_ms));
            let _ = export.kill();
        }
        export.wait().unwrap();
        if let Some(server) = server {
            server.stop();
        }
        // Metadata that is there is whole, and its blocks are pinned.
        if bench.run(&["dm", "dump", &thin]).code == 0 {
            whole += 1;
            assert_eq!(bench.json(&["dm", "check", &thin])["clean"], true);
            assert_shows(&bench, &thin, &expected);
        } else {
            cut += 1;
        }
        clean_up(&bench);
        assert!(bench.ok(&["pool", "check"]).starts_with("sound"), "after {delay_ms} ms");
    }
    println!("{cut} cut off, {whole} whole");
    assert!(whole > 0 && cut > 0);
}

/// Everything that is left is listed, and goes.
fn clean_up(bench: &Bench) {
    if !bench.ok(&["receive", "--resume"]).is_empty() {
        bench.ok(&["receive", "--abort"]);
    }
    let pins: Vec<String> =
        bench.names("snapshot").into_iter().filter(|name| name.contains(".picture-")).collect();
    for pin in pins {
        // It may have been killed before the hold.
        if bench.run(&["dm", "release", &pin]).code != 0 {
            bench.ok(&["snapshot", "delete", &pin]);
        }
    }
    assert_eq!(bench.names("snapshot"), ["disk@monday", "disk@tuesday"]);
}

#[test]
fn what_arrives_from_another_pool_is_no_picture() {
    let from = bench();
    let server = from.serve(&["serve"]);
    fill(&from);
    server.stop();
    let sent =
        Command::new(VELLUM).arg("--pool").arg(from.pool()).args(["send", "disk@monday"]).output().unwrap();
    let to = Bench::with_pool();
    let stream = to.path("stream");
    fs::write(&stream, &sent.stdout[..sent.stdout.len() / 2]).unwrap();
    let mut receive = Command::new(VELLUM);
    receive.arg("--pool").arg(to.pool()).arg("receive").stdin(fs::File::open(&stream).unwrap());
    assert_eq!(common::ran(&mut receive).code, i32::from(Kind::Io.code()));
    let mut pool = Files::open(&PoolDirectory::new(to.pool())).unwrap();
    let arrival = pool.arrivals().unwrap().pop().unwrap();
    assert!(!arrival.picture);
    let finish = FinishPictureView { name: "disk@half".into(), tag: "test".into() };
    for refused in [
        pool.finish_picture(&arrival.uuid, &finish).map(drop),
        pool.fill_picture(&arrival.uuid, &FillView::default()).map(drop),
    ] {
        assert_eq!(refused.unwrap_err().kind(), Kind::NotFound);
    }
    // A picture that is under way is told apart, and has a name of its own.
    let mut pool = Files::open(&PoolDirectory::new(from.pool())).unwrap();
    let new =
        NewPictureView { snapshot: "disk@monday".into(), name: "disk@monday.picture-1".into(), uuid: None };
    assert!(pool.start_picture(&new).unwrap().picture);
    Box::new(pool).close().unwrap();
    assert!(from.ok(&["receive", "--resume"]).contains("none: a picture"));
    let thin = from.path("tmeta").display().to_string();
    let exported = from.json(&["dm", "export", "--metadata", &thin, "--snapshot", "disk@monday"]);
    assert_eq!(exported["devices"][0]["pinned_by"], "disk@monday.picture-2");
    clean_up(&from);
}
