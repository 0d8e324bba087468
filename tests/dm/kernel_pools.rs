//! Pools that only the kernel or LVM has ever written become pools of Vellum, and go back. What is done in the kernel lab stands in
//! `fixtures/`; the rest happens here, by the program.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tempfile::{NamedTempFile, TempDir};
use vellum_engine::Pool;
use vellum_engine::options::OpenOptions;
use vellum_engine::storage::FileDisk;
use vellum_tests::lab::{Lab, Outcome, Script};
use vellum_tests::thin::{content_of_pool, differs};

const NBD: &str = include_str!("../lab/nbd.sh");
const POOL: &str = include_str!("../lab/pool.sh");
const THIN: &str = include_str!("fixtures/thin.sh");
const POOLS: &str = include_str!("fixtures/pools.sh");
const COST: &str = include_str!("cost.sh");
const LVM: &str = include_str!("fixtures/lvm.sh");
/// The program under test.
const BINARY: &str = env!("CARGO_BIN_EXE_vellum");

const MIB: u64 = 1 << 20;

fn disk(bytes: u64) -> NamedTempFile {
    let disk = NamedTempFile::new().expect("a disk");
    disk.as_file().set_len(bytes).expect("a disk");
    disk
}

/// Runs a script of `fixtures/` in the lab; it must succeed.
fn run(text: &str, modules: &[&str], disks: &[NamedTempFile]) -> Outcome {
    let script = Script::new("bash script.sh").file("script.sh", text).modules(modules);
    let script = script.file("binary", BINARY).host_file(BINARY).timeout(Duration::from_secs(420));
    let script = script.file("nbd.sh", NBD).file("pool.sh", POOL).file("thin.sh", THIN);
    let script = disks.iter().fold(script, |script, disk| script.disk(disk.path()));
    let outcome = Lab::prepare().and_then(|lab| lab.run(&script));
    let outcome = outcome.unwrap_or_else(|error| panic!("{error}")).expect_success();
    print!("{}", outcome.output);
    outcome
}

/// What devices of a pool held, by number, from lines as `POOL DEVICE SHA256`.
fn sums(outcome: &Outcome, pool: &str) -> BTreeMap<u32, String> {
    let text = String::from_utf8(outcome.files["sums"].clone()).expect("text");
    let words = text.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let of_pool = words.filter(|words| words[0] == pool);
    of_pool.map(|words| (words[1].parse().expect("a number"), words[2].to_owned())).collect()
}

fn sha256(bytes: &[u8]) -> String {
    let mut program =
        Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("sha256sum");
    program.stdin.take().expect("a pipe").write_all(bytes).expect("it reads");
    let output = program.wait_with_output().expect("sha256sum");
    String::from_utf8(output.stdout).expect("text").split(' ').next().expect("a word").to_owned()
}

/// Where a test has its pool.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn pool(&self) -> PathBuf {
        self.0.path().join("pool")
    }

    /// Runs the program, and gives its status, what it says, and its errors.
    fn vellum(&self, arguments: &[&str]) -> (bool, String, String) {
        let mut command = Command::new(BINARY);
        let output = command.arg("--pool").arg(self.pool()).args(arguments).output().expect("the program");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        (output.status.success(), text(output.stdout), text(output.stderr))
    }

    fn ok(&self, arguments: &[&str]) -> String {
        let (is_ok, out, error) = self.vellum(arguments);
        assert!(is_ok, "{arguments:?}: {error}");
        out
    }

    fn opened(&self) -> Pool<FileDisk> {
        let open = |name: &str| FileDisk::open(self.pool().join(name)).expect("it is there");
        Pool::open(open("data"), open("metadata"), &OpenOptions::default()).expect("it is a pool")
    }
}

/// Sound to thin_check 0.9 and to our own check.
fn assert_sound(metadata: &Path) {
    let output = Command::new("thin_check").arg(metadata).output().expect("thin_check");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report = vellum_dm_bridge::check(File::open(metadata).expect("it is there")).expect("it can be read");
    assert!(report.is_clean(), "{:#?}", report.findings);
}

/// The pool holds what the devices held, whose numbers its names end with.
fn assert_holds(place: &Place, sums: &BTreeMap<u32, String>) {
    assert!(place.ok(&["pool", "check"]).starts_with("sound"));
    let mut pool = place.opened();
    let found: BTreeMap<u32, String> = content_of_pool(&mut pool)
        .into_iter()
        .map(|(_, name, bytes)| (name.trim_start_matches("thin-").parse().expect("a number"), sha256(&bytes)))
        .collect();
    pool.close().expect("it closes");
    assert_eq!(&found, sums);
}

/// Goes to the kernel again, and each device holds what it did.
fn assert_goes_back(place: &Place) {
    let mut pool = place.opened();
    let content = content_of_pool(&mut pool);
    pool.close().expect("it closes");
    let thin = place.0.path().join("back");
    place.ok(&["dm", "export", "--metadata", &thin.display().to_string()]);
    assert_sound(&thin);
    let mut data = FileDisk::open_read_only(place.pool().join("data")).expect("it is there");
    differs(File::open(&thin).expect("it is there"), &mut data, &content)
        .unwrap_or_else(|wrong| panic!("{wrong}"));
}

fn import(place: &Place, disks: &[NamedTempFile], more: &[&str]) -> (bool, String, String) {
    let [metadata, data] = [&disks[0], &disks[1]].map(|disk| disk.path().display().to_string());
    let sizes = ["0", "5", "9"].map(|device| format!("--size={device}=16M"));
    let mut arguments = vec!["dm", "import", "--metadata", &metadata, "--data", &data];
    arguments.extend(sizes.iter().map(String::as_str).chain(more.iter().copied()));
    place.vellum(&arguments)
}

#[test]
fn pools_that_only_the_kernel_wrote_are_taken() {
    let sizes = [4, 16, 4, 64, 4, 64, 4, 64, 64, 64, 64, 64];
    let disks = sizes.map(|mib| disk(mib * MIB));
    let outcome = run(POOLS, &["dm-thin-pool"], &disks);
    let [full, larger, largest, held] = [0, 2, 4, 6].map(|at| &disks[at..at + 2]);
    for pool in [full, larger, largest, held] {
        assert_sound(pool[0].path());
    }

    // Full: there is no place for a log, and it is told what to do.
    let place = Place::new();
    let (is_ok, _, error) = import(&place, full, &[]);
    assert!(!is_ok && error.contains("1048576 bytes larger"), "{error}");
    assert_sound(full[0].path());
    full[1].as_file().set_len(20 * MIB).expect("space");
    let before = fs::read(full[1].path()).expect("the data");
    let (is_ok, out, error) = import(&place, full, &[]);
    assert!(is_ok && out.contains("on the data as it is"), "{out}{error}");
    let after = fs::read(full[1].path()).expect("the data");
    assert!(before[..16 << 20] == after[..16 << 20], "what was there stays");
    assert_holds(&place, &sums(&outcome, "full"));
    assert_goes_back(&place);

    for (pool, name) in [(larger, "larger"), (largest, "largest")] {
        let place = Place::new();
        let metadata = fs::read(pool[0].path()).expect("the metadata");
        let (is_ok, _, error) = import(&place, pool, &["--pool-size=8T"]);
        assert!(is_ok, "{name}: {error}");
        assert_holds(&place, &sums(&outcome, name));
        assert_eq!(fs::read(pool[0].path()).expect("the metadata"), metadata, "{name} stays as it was");
        assert_goes_back(&place);
    }

    // What the metadata snapshot said while the pool was active, and what the pool was at its end.
    for (taken, name) in [(&disks[8..10], "held"), (&disks[10..12], "again")] {
        let place = Place::new();
        fs::create_dir(place.pool()).expect("a folder");
        for (disk, name) in taken.iter().zip(["data", "metadata"]) {
            fs::copy(disk.path(), place.pool().join(name)).expect("space");
        }
        assert_holds(&place, &sums(&outcome, name));
    }
    let place = Place::new();
    let (is_ok, _, error) = import(&place, held, &[]);
    assert!(is_ok, "{error}");
    assert_holds(&place, &sums(&outcome, "again"));
    assert_goes_back(&place);
}

#[test]
fn a_pool_of_lvm_comes_and_goes() {
    run(LVM, &["dm-thin-pool", "nbd"], &[disk(128 * MIB)]);
}

/// What a synced write of 4 KiB costs, for one of them.
struct Cost {
    flushes: f64,
    written_bytes: f64,
    read_bytes: f64,
}

#[test]
fn synced_writes_cost_less_than_with_the_kernel() {
    let disks = [16, 1024, 64, 1024, 2048].map(|mib| disk(mib * MIB));
    let outcome = run(COST, &["dm-thin-pool", "nbd", "ext4"], &disks);
    let text = String::from_utf8(outcome.files["cost"].clone()).expect("text");
    let cost = |what: &str, who: &str| {
        let line = text.lines().find(|line| line.starts_with(&format!("{what} {who} ")));
        let numbers = line.expect("it was measured").split(' ').skip(2);
        let numbers: Vec<f64> = numbers.map(|number| number.parse().expect("a number")).collect();
        Cost { flushes: numbers[0], written_bytes: numbers[2], read_bytes: numbers[3] }
    };
    println!("flushes, bytes written, bytes read for one synced write of 4 KiB\n");
    println!("| | dm-thin | vellum on devices | vellum on ext4 |\n|---|---|---|---|");
    for what in ["overwrite", "new", "shared"] {
        let all = ["dm-thin", "vellum", "vellum-on-ext4"].map(|who| cost(what, who));
        let told = all
            .each_ref()
            .map(|cost| format!("{:.2}, {:.0}, {:.0}", cost.flushes, cost.written_bytes, cost.read_bytes));
        println!("| {what} | {} |", told.join(" | "));
        let [theirs, ours, on_ext4] = all;
        assert!(ours.flushes <= theirs.flushes + 0.1, "{what}");
        assert!(on_ext4.flushes <= theirs.flushes + 0.3, "{what}, ext4");
        assert!(what == "overwrite" || ours.written_bytes < theirs.written_bytes / 2.0, "{what}");
    }
}
