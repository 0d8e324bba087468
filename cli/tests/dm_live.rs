//! `vellum dm activate` and what goes with it, on a host whose kernel has no device-mapper: what is refused, and that nothing is left.
//!
//! What a kernel does that has it is in `tests/dm/live.rs`.

#[allow(dead_code)]
mod common;

use common::{Bench, VELLUM, ran};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use vellum_cli::exit::Kind;
use vellum_dm_bridge::live::loops;
use vellum_engine::storage::FileDisk;

/// A pool that the kernel has, with its metadata in `tmeta`.
fn given() -> (Bench, String) {
    let bench = Bench::with_pool();
    bench.ok(&["volume", "create", "group/disk", "--size", "1M"]);
    bench.ok(&["snapshot", "create", "group/disk@monday"]);
    let thin = bench.path("tmeta").display().to_string();
    bench.ok(&["dm", "export", "--metadata", &thin]);
    (bench, thin)
}

fn has_device_mapper() -> bool {
    fs::read_to_string("/proc/misc").is_ok_and(|misc| misc.contains("device-mapper"))
}

#[track_caller]
fn assert_no_loops(bench: &Bench) {
    for path in [bench.pool().join("data"), bench.path("tmeta")] {
        assert_eq!(loops::over(&path), Vec::<std::path::PathBuf>::new());
    }
}

#[test]
fn only_what_the_kernel_has_can_be_active() {
    let bench = Bench::with_pool();
    for command in [&["dm", "activate"][..], &["dm", "status"], &["dm", "deactivate"], &["dm", "extend"]] {
        let error = bench.fails(Kind::Invalid, command);
        assert!(error.contains("vellum dm export"), "{error}");
    }
    bench.fails(Kind::Invalid, &["dm", "snapshot", "disk"]);
    bench.fails(Kind::Invalid, &["dm", "activate", "--prefix", "a/b"]);
    bench.ok(&["volume", "create", "disk", "--size", "1M"]);
    let server = bench.serve(&["serve"]);
    bench.fails(Kind::InUse, &["dm", "activate"]);
    server.stop();
    Bench::empty().fails(Kind::NotFound, &["dm", "activate"]);
}

#[test]
fn a_kernel_without_device_mapper_is_told_and_nothing_is_left() {
    if has_device_mapper() {
        return;
    }
    let (bench, thin) = given();
    let error = bench.fails(Kind::Unsupported, &["dm", "activate"]);
    assert!(error.contains("no device-mapper") && error.contains("modprobe dm-thin-pool"), "{error}");
    assert_no_loops(&bench);
    let status = bench.json(&["dm", "status"]);
    assert_eq!((&status["active"], &status["pool"]), (&false.into(), &serde_json::Value::Null), "{status}");
    assert_eq!(status["metadata"], thin);
    for command in [&["dm", "snapshot", "group/disk@now"][..], &["dm", "metadata-snapshot", "reserve"]] {
        assert!(bench.fails(Kind::NotFound, command).contains("not active"));
    }
    // Nothing keeps it from coming back.
    let kept = bench.json(&["dm", "deactivate", "--keep"]);
    assert_eq!(kept["imported"], serde_json::Value::Null);
    let back = bench.json(&["dm", "deactivate"]);
    assert_eq!(back["imported"]["volumes"][1]["name"], "group/disk@monday", "{back}");
    assert!(bench.ok(&["pool", "check"]).starts_with("sound"));
}

#[test]
fn programs_that_are_missing_are_named() {
    let (bench, _) = given();
    let mut command = Command::new(VELLUM);
    command.arg("--pool").arg(bench.pool()).args(["dm", "status"]);
    // Where there is a dmsetup, it is one that knows nothing.
    let folder = bench.path("programs");
    fs::create_dir(&folder).unwrap();
    let dmsetup = folder.join("dmsetup");
    fs::write(&dmsetup, "#!/bin/sh\necho 'dmsetup is broken today' >&2\nexit 1\n").unwrap();
    fs::set_permissions(&dmsetup, fs::Permissions::from_mode(0o755)).unwrap();
    let ran = ran(command.env("PATH", &folder));
    assert_eq!(ran.code, i32::from(Kind::Failure.code()));
    assert!(ran.err.contains("`dmsetup info") && ran.err.contains("broken today"), "{}", ran.err);
}

#[test]
fn metadata_that_is_not_what_the_kernel_may_have_is_refused() {
    let (bench, thin) = given();
    let file = fs::File::options().read(true).write(true).open(&thin).unwrap();
    let mut superblock = vec![0; 4096];
    file.read_exact_at(&mut superblock, 0).unwrap();
    // The pool's own files, and nothing at all.
    let own = bench.pool().join("metadata").display().to_string();
    bench.fails(Kind::Invalid, &["dm", "activate", "--metadata", &own]);
    bench.fails(Kind::NotFound, &["dm", "activate", "--metadata", "/nowhere/at/all"]);
    bench.fails(Kind::NotFound, &["dm", "activate", "nobody"]);
    // A bit that rotted.
    file.write_all_at(&[superblock[100] ^ 1], 100).unwrap();
    for command in [["dm", "activate"], ["dm", "deactivate"]] {
        let error = bench.fails(Kind::Damaged, &command);
        assert!(error.contains("tmeta") && error.contains("vellum dm check"), "{error}");
    }
    file.write_all_at(&superblock, 0).unwrap();
    // A file that is shorter than what the metadata maps.
    let data = fs::File::options().write(true).open(bench.pool().join("data")).unwrap();
    let length = data.metadata().unwrap().len();
    data.set_len(length - 65536).unwrap();
    bench.fails(Kind::Mismatch, &["dm", "activate"]);
    data.set_len(length).unwrap();
    // An export that was interrupted.
    let mut begun = b"dm-thin metadata is being written here and is not complete\n".to_vec();
    begun.extend([1; 24]);
    begun.resize(4096, 0);
    file.write_all_at(&begun, 0).unwrap();
    let error = bench.fails(Kind::InUse, &["dm", "activate"]);
    assert!(error.contains("vellum dm export --metadata"), "{error}");
    assert_no_loops(&bench);
}

#[test]
fn loop_devices_that_are_left_over_end_with_a_deactivation() {
    let (bench, _) = given();
    let data = bench.pool().join("data");
    let device = loops::attach(&data).expect("root, and a kernel with loop devices");
    let error = bench.fails(Kind::InUse, &["dm", "activate"]);
    assert!(error.contains("vellum dm deactivate --keep"), "{error}");
    // Whoever uses it keeps it.
    let user = fs::File::options().read(true).open(&device).unwrap();
    bench.fails(Kind::InUse, &["dm", "import"]);
    drop(user);
    bench.ok(&["dm", "deactivate", "--keep"]);
    assert_no_loops(&bench);
    assert!(Path::new(&data).exists());
    bench.ok(&["dm", "deactivate"]);
}

#[test]
fn a_loop_device_is_found_when_its_file_has_another_name() {
    let (bench, thin) = given();
    for file in [bench.pool().join("data"), PathBuf::from(thin)] {
        let other = bench.path("other");
        fs::hard_link(&file, &other).unwrap();
        let device = loops::attach(&other).expect("root, and a kernel with loop devices");
        fs::remove_file(&other).unwrap();
        for command in [&["dm", "import"][..], &["dm", "activate"], &["dm", "revoke", "--force"]] {
            let error = bench.fails(Kind::InUse, command);
            assert!(error.contains("loop device"), "{error}");
        }
        loops::detach(&device).unwrap();
    }
    bench.ok(&["dm", "import"]);
}

#[test]
fn a_command_waits_for_another_that_is_soon_done() {
    let (bench, _) = given();
    let other = FileDisk::open_read_only(bench.pool().join("metadata")).unwrap();
    let other = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(500));
        drop(other);
    });
    bench.ok(&["dm", "import"]);
    other.join().unwrap();
}

/// A dmsetup that knows one pool with a volume, and tells what it was asked for.
const DMSETUP: &str = r#"#!/bin/sh
here=$(dirname "$0")
echo "$*" >>"$here/log"
case $1 in
info)
    [ ! -e "$here/vanishing" ] || { rm "$here/vanishing"; echo "Device does not exist." >&2; exit 1; }
    cat "$here/info" ;;
wait) sed -i "s/|0|1|[0-9]*|/|0|1|$(($4 + 1))|/" "$here/info" ;;
table) cat "$here/table" ;;
status)
    [ ! -e "$here/blind" ] || exit 1
    [ "$2" = --noflush ] && echo "t-disk: 0 2048 thin 0 -" || cat "$here/status" ;;
suspend) sleep 0.5; touch "$here/suspended"; sleep 0.5 ;;
resume)
    [ ! -e "$here/stays" ] || { echo "it stays so" >&2; exit 1; }
    rm -f "$here/suspended" ;;
load) echo "$4" >"$here/table.new" ;;
message)
    [ ! -e "$here/blinds" ] || touch "$here/blind"
    echo "$4" | grep -q create_snap || exit 0
    grep -qx "$4" "$here/made" 2>/dev/null && { echo "File exists" >&2; exit 1; }
    echo "$4" >>"$here/made" ;;
esac
"#;

/// A pool that is active as far as [`DMSETUP`] tells, on real loop devices.
struct Faked {
    bench: Bench,
    folder: PathBuf,
    loops: Vec<PathBuf>,
    uuid: String,
}

impl Faked {
    fn new() -> Self {
        let (bench, thin) = given();
        let folder = bench.path("programs");
        fs::create_dir(&folder).unwrap();
        let dmsetup = folder.join("dmsetup");
        fs::write(&dmsetup, DMSETUP).unwrap();
        fs::set_permissions(&dmsetup, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(folder.join("info"), "").unwrap();
        let loops: Vec<PathBuf> = [bench.pool().join("data"), thin.into()]
            .iter()
            .map(|file| loops::attach(file).expect("root, and a kernel with loop devices"))
            .collect();
        let mut faked = Self { bench, folder, loops, uuid: String::new() };
        let status: serde_json::Value = serde_json::from_str(&faked.ok(&["--json", "dm", "status"])).unwrap();
        faked.uuid = status["uuid"].as_str().unwrap().to_owned();
        let [data, metadata] = [0, 1].map(|at| number_of(&faked.loops[at]));
        faked.put("table", &format!("0 131072 thin-pool {metadata} {data} 128 0 0\n"));
        faked.put("status", "0 131072 thin-pool 0 10/1024 10/1024 - rw x queue_if_no_space - 256\n");
        faked.list("L--w");
        faked
    }

    fn put(&self, name: &str, text: &str) {
        fs::write(self.folder.join(name), text).unwrap();
    }

    /// The pool has these attributes; its volume is active.
    fn list(&self, attributes: &str) {
        let uuid = &self.uuid;
        let pool = format!("VELLUM-{uuid}-pool|254|0|1|0|{attributes}|t-pool\n");
        self.put("info", &format!("{pool}VELLUM-{uuid}-1|254|1|0|0|L--w|t-disk\n"));
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(VELLUM);
        command.arg("--pool").arg(self.bench.pool()).args(arguments).env("PATH", &self.folder);
        command
    }

    #[track_caller]
    fn ok(&self, arguments: &[&str]) -> String {
        let ran = ran(&mut self.command(arguments));
        assert_eq!(ran.code, 0, "{}", ran.err);
        ran.out
    }

    #[track_caller]
    fn fails(&self, kind: Kind, arguments: &[&str]) -> String {
        let ran = ran(&mut self.command(arguments));
        assert_eq!(ran.code, i32::from(kind.code()), "{}", ran.err);
        ran.err
    }

    /// Begins a snapshot, and returns while the origin is being suspended.
    fn begin_snapshot(&self) -> Child {
        let mut command = self.command(&["dm", "snapshot", "group/disk@now"]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        self.wait_for("suspend t-disk");
        child
    }

    #[track_caller]
    fn wait_for(&self, words: &str) {
        let started = Instant::now();
        while !self.log().contains(words) {
            assert!(started.elapsed() < Duration::from_secs(20), "no '{words}' in {}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    fn is_suspended(&self) -> bool {
        self.folder.join("suspended").exists()
    }

    fn noted(&self) -> String {
        fs::read_to_string(self.bench.pool().join("thin-devices.json")).unwrap_or_default()
    }
}

impl Drop for Faked {
    fn drop(&mut self) {
        for device in &self.loops {
            let _ = loops::detach(device);
        }
    }
}

fn number_of(device: &Path) -> String {
    let number = device.metadata().unwrap().rdev();
    format!("{}:{}", rustix::fs::major(number), rustix::fs::minor(number))
}

fn send(child: &Child, signal: rustix::process::Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_child(child), signal).unwrap();
}

#[test]
fn a_signal_waits_until_the_origin_goes_on() {
    use rustix::process::Signal;
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let faked = Faked::new();
        let mut child = faked.begin_snapshot();
        send(&child, signal);
        let status = child.wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(signal.as_raw()), "{status}");
        assert!(!faked.is_suspended() && faked.log().contains("resume t-disk"), "{}", faked.log());
        assert!(faked.noted().contains("group/disk@now") && !faked.noted().contains("frozen"));
    }
}

#[test]
fn what_a_killed_command_has_suspended_goes_on_with_the_next() {
    let faked = Faked::new();
    let mut child = faked.begin_snapshot();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(faked.noted().contains("\"frozen\":1"), "{}", faked.noted());
    let told = faked.ok(&["dm", "status"]);
    assert!(told.contains("thin device 1 was suspended"), "{told}");
    // The program that suspends lives on, and the next command does not begin before it is done.
    faked.fails(Kind::Exists, &["dm", "activate", "group/disk"]);
    assert!(!faked.is_suspended() && !faked.noted().contains("frozen"), "{}", faked.log());
    // The name was kept, and the kernel has not got the message: it gets the same number.
    let made: serde_json::Value =
        serde_json::from_str(&faked.ok(&["--json", "dm", "snapshot", "group/disk@now"])).unwrap();
    assert!(faked.noted().contains(&format!("\"device\":{},", made["device"])), "{}", faked.noted());
    assert_eq!(faked.noted().matches("group/disk@now").count(), 1);
    faked.fails(Kind::Exists, &["dm", "snapshot", "group/disk@now"]);
    assert_eq!(faked.noted().matches("group/disk@now").count(), 1);
}

#[test]
fn a_snapshot_keeps_its_name_if_its_origin_stays_suspended() {
    let faked = Faked::new();
    faked.put("stays", "");
    let error = faked.fails(Kind::Failure, &["dm", "snapshot", "group/disk@now"]);
    assert!(error.contains("has made it") && error.contains("dmsetup resume t-disk"), "{error}");
    assert!(faked.noted().contains("group/disk@now") && faked.noted().contains("frozen"));
    fs::remove_file(faked.folder.join("stays")).unwrap();
    faked.fails(Kind::Exists, &["dm", "snapshot", "group/disk@now"]);
    assert!(!faked.is_suspended() && !faked.noted().contains("frozen"));
}

#[test]
fn what_an_activation_has_begun_is_told_and_removed() {
    let faked = Faked::new();
    faked.list("---w");
    let told = faked.ok(&["dm", "status"]);
    assert!(told.contains("t-pool: begun by an interrupted activation"), "{told}");
    // The volume is on a pool that is none: the order is that of the kernel's own.
    let _ = ran(&mut faked.command(&["dm", "deactivate", "--keep"]));
    assert!(faked.log().contains("remove --retry t-pool"), "{}", faked.log());
}

#[test]
fn an_active_pool_with_other_metadata_is_refused() {
    let faked = Faked::new();
    let data = number_of(&faked.loops[0]);
    faked.put("table", &format!("0 131072 thin-pool 1:1 {data} 128 0 0\n"));
    for command in [&["dm", "status"][..], &["dm", "extend"], &["dm", "deactivate"]] {
        let error = faked.fails(Kind::Mismatch, command);
        assert!(error.contains("thin-metadata"), "{error}");
    }
}

#[test]
fn a_table_that_the_kernel_does_not_take_is_taken_back() {
    let faked = Faked::new();
    faked.put("stays", "");
    let table = fs::read_to_string(faked.folder.join("table")).unwrap();
    let error = faked.fails(Kind::Failure, &["dm", "extend", "--size", "65M"]);
    assert!(error.contains("may be suspended"), "{error}");
    assert_eq!(faked.log().matches("load t-pool").count(), 2, "{}", faked.log());
    assert_eq!(fs::read_to_string(faked.folder.join("table.new")).unwrap(), table);
    assert_eq!(faked.log().matches("resume --noflush").count(), 3, "{}", faked.log());
}

#[test]
fn a_device_of_others_may_vanish_while_all_are_listed() {
    let faked = Faked::new();
    faked.put("vanishing", "");
    faked.ok(&["dm", "status"]);
    assert!(!faked.folder.join("vanishing").exists());
}

#[test]
fn whoever_waits_for_a_later_event_waits_for_each_before() {
    let faked = Faked::new();
    let told = faked.ok(&["--json", "dm", "status", "--after", "3", "--timeout", "60"]);
    let status: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!(status["pool"]["event"], 4, "{status}");
    assert_eq!(faked.log().matches("wait --noflush t-pool").count(), 4, "{}", faked.log());
}

#[test]
fn what_is_done_is_done_even_if_nobody_can_look() {
    let faked = Faked::new();
    faked.put("blinds", "");
    let ran = ran(&mut faked.command(&["dm", "metadata-snapshot", "reserve"]));
    assert!(ran.code == 0 && ran.err.contains("it is done"), "{}", ran.err);
    assert!(faked.log().contains("reserve_metadata_snap"));
}

#[test]
fn what_an_earlier_import_has_left_goes_with_the_next_export() {
    let bench = Bench::with_pool();
    let left = bench.pool().join("superblock.imported");
    fs::write(&left, [0; 4112]).unwrap();
    bench.ok(&["dm", "export", "--metadata", &bench.path("tmeta").display().to_string()]);
    assert!(!left.exists());
}
