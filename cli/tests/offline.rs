//! The program on a pool that nobody serves: every command, its text and JSON, its exit codes.
//!
//! Owns no pool code. Served pools are `served.rs`'s.

#[allow(dead_code)]
mod common;

use common::{Bench, VELLUM, ran, run_on};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use vellum_cli::exit::Kind;
use vellum_cli::manage::{Files, Manage};
use vellum_cli::pool_directory::PoolDirectory;
use vellum_engine::Pool;
use vellum_engine::options::OpenOptions;
use vellum_engine::request::Request;

#[test]
fn layers_are_joined_on_request() {
    let bench = Bench::with_pool();
    bench.ok(&["volume", "create", "disk", "--size", "1G"]);
    assert_eq!(bench.json(&["volume", "collapse", "disk"])["volume"]["name"], "disk");
    bench.fails(Kind::NotFound, &["volume", "collapse", "other"]);
    bench.fails(Kind::Invalid, &["volume", "collapse", "disk@one"]);
}

#[test]
fn a_tour() {
    let bench = Bench::with_pool();
    bench.ok(&["volume", "create", "group/disk", "--size", "10G"]);
    bench.ok(&["volume", "create", "other", "--size", "1.5T"]);
    let out = bench.ok(&["snapshot", "create", "group/disk@monday", "other@monday"]);
    assert_eq!(out, "made snapshot 'group/disk@monday' of 10 GiB\nmade snapshot 'other@monday' of 1.5 TiB\n");
    bench.ok(&["clone", "create", "group/disk@monday", "group/copy"]);
    assert_eq!(bench.names("volume"), ["group/disk", "other", "group/copy"]);
    assert_eq!(bench.names("snapshot"), ["group/disk@monday", "other@monday"]);
    assert_eq!(bench.ok(&["snapshot", "list", "other"]).lines().count(), 2);
    assert_eq!(bench.json(&["volume", "show", "group/copy"])["origin"], "group/disk@monday");
    bench.ok(&["snapshot", "delete", "other@monday"]);
    assert_eq!(bench.json(&["volume", "delete", "other", "group/copy"])["deleted"][1], "group/copy");
    assert_eq!(bench.names("volume"), ["group/disk"]);
    assert_eq!(bench.names("snapshot"), ["group/disk@monday"]);
    assert!(bench.ok(&["pool", "check"]).starts_with("sound: "));
}

#[test]
fn limits_and_reservations_are_set() {
    let bench = Bench::with_pool();
    bench.ok(&["volume", "create", "disk", "--size", "1G", "--reservation", "10M"]);
    bench.fails(Kind::NoSpace, &["volume", "create", "greedy", "--size", "1G", "--reservation", "1G"]);
    bench.fails(Kind::NotFound, &["volume", "show", "greedy"]);
    assert_eq!(bench.json(&["pool", "status"])["reserved_bytes"], 10 << 20);
    let set = [
        "volume",
        "set",
        "disk",
        "iops=1000",
        "bandwidth=100M",
        "in-flight=32",
        "no-space=error",
        "label.a=b",
    ];
    bench.ok(&set);
    let shown = bench.json(&["volume", "show", "disk"])["properties"].clone();
    let expected = serde_json::json!({
        "reservation_bytes": 10 << 20, "limit_iops": 1000, "limit_bytes_per_s": 100 << 20, "limit_in_flight": 32,
        "no_space": "error", "labels": {"a": "b"},
    });
    assert_eq!(shown, expected);
    let text = bench.ok(&["volume", "set", "disk", "bandwidth=none", "reservation=none", "label.a="]);
    assert!(text.contains("1000 requests/s, 32 requests in flight") && !text.contains("a=b"), "{text}");
    assert_eq!(bench.json(&["pool", "status"])["reserved_bytes"], 0);
    bench.fails(Kind::Usage, &["volume", "set", "disk", "iops=fast"]);
    bench.fails(Kind::Usage, &["volume", "set", "disk", "iops=1", "iops=2"]);
    bench.fails(Kind::Invalid, &["volume", "set", "disk", "reservation=2G"]);
    bench.ok(&["snapshot", "create", "disk@one"]);
    bench.ok(&["clone", "create", "disk@one", "copy"]);
    assert_eq!(bench.json(&["volume", "show", "copy"])["properties"]["limit_iops"], 1000);
}

#[test]
fn volumes_change() {
    let bench = Bench::with_pool();
    bench.ok(&["volume", "create", "disk", "--size", "1G"]);
    let size = |name: &str| bench.json(&["volume", "show", name])["size_bytes"].as_u64().unwrap();
    bench.ok(&["volume", "resize", "disk", "+512M"]);
    assert_eq!(size("disk"), 1536 << 20);
    let refused = bench.fails(Kind::Invalid, &["volume", "resize", "disk", "-1G"]);
    assert!(
        refused.contains("'disk' has 1.5 GiB, which is more than 512 MiB") && refused.contains("--shrink")
    );
    bench.ok(&["volume", "resize", "disk", "-1G", "--shrink"]);
    assert_eq!(size("disk"), 512 << 20);
    bench.fails(Kind::Invalid, &["volume", "resize", "disk", "-1G", "--shrink"]);
    bench.fails(Kind::Invalid, &["volume", "resize", "disk", "1000", "--shrink"]);
    bench.fails(Kind::Usage, &["volume", "resize", "disk", "--", "ten"]);
    bench.ok(&["volume", "resize", "disk", "512M"]);

    bench.ok(&["snapshot", "create", "disk@a"]);
    bench.ok(&["volume", "rename", "disk", "group/new"]);
    assert_eq!(bench.names("snapshot"), ["group/new@a"]);
    bench.ok(&["snapshot", "rename", "group/new@a", "group/new@b"]);
    bench.fails(Kind::Invalid, &["snapshot", "rename", "group/new@b", "other@b"]);
    bench.fails(Kind::NotFound, &["volume", "rename", "disk", "x"]);
    bench.ok(&["volume", "resize", "group/new", "2G"]);
    assert!(bench.ok(&["snapshot", "rollback", "group/new@b"]).contains("512 MiB"));
    bench.fails(Kind::NotFound, &["snapshot", "rollback", "group/new@a"]);
    assert!(bench.ok(&["pool", "check"]).starts_with("sound: "));
}

#[test]
fn holds_keep_and_let_go() {
    let bench = Bench::with_pool();
    bench.ok(&["volume", "create", "disk", "--size", "1G"]);
    bench.ok(&["snapshot", "create", "disk@a", "disk@b"]);
    bench.ok(&["snapshot", "hold", "disk@a", "backup"]);
    bench.fails(Kind::Exists, &["snapshot", "hold", "disk@a", "backup"]);
    bench.fails(Kind::Busy, &["snapshot", "delete", "disk@a"]);
    let told = bench.ok(&["snapshot", "delete", "disk@a", "disk@b", "--defer"]);
    assert_eq!(told, "deleted 'disk@b'\n'disk@a' is held, and goes with its last hold\n");
    assert!(bench.ok(&["snapshot", "list"]).contains("1, then deleted"));
    assert!(bench.ok(&["volume", "show", "disk@a"]).contains("backup, then deleted"));
    bench.fails(Kind::Busy, &["volume", "delete", "disk", "--snapshots"]);
    bench.fails(Kind::NotFound, &["snapshot", "release", "disk@a", "other"]);
    assert_eq!(bench.ok(&["snapshot", "release", "disk@a", "backup"]), "deleted 'disk@a'\n");
    assert!(bench.names("snapshot").is_empty());
    bench.ok(&["volume", "hold", "disk", "backup"]);
    bench.fails(Kind::Busy, &["volume", "delete", "disk"]);
    bench.ok(&["volume", "release", "disk", "backup"]);
    bench.ok(&["volume", "delete", "disk"]);
}

#[test]
fn a_pattern_freezes_what_it_matches() {
    let bench = Bench::with_pool();
    for name in ["db-1", "db-2", "web", "group/db-3"] {
        bench.ok(&["volume", "create", name, "--size", "1G"]);
    }
    let told = bench.ok(&["snapshot", "create", "db-*@nightly", "web@now"]);
    assert_eq!(told.lines().count(), 3);
    assert_eq!(bench.names("snapshot"), ["db-1@nightly", "db-2@nightly", "web@now"]);
    bench.fails(Kind::Exists, &["snapshot", "create", "**@nightly"]);
    assert_eq!(bench.names("snapshot").len(), 3, "all or none");
    assert!(bench.fails(Kind::NotFound, &["snapshot", "create", "x*@n"]).contains("no volume matches 'x*'"));
    assert_eq!(bench.ok(&["snapshot", "list", "db-1"]).lines().count(), 2);
    assert!(bench.fails(Kind::NotFound, &["snapshot", "list", "nope"]).contains("there is no volume 'nope'"));
}

#[test]
fn what_nobody_may_look_at_is_not_absent() {
    let bench = Bench::empty();
    // Root may look everywhere; a name that leads nowhere for ever cannot be looked at by anybody.
    std::os::unix::fs::symlink("pool", bench.pool()).unwrap();
    for arguments in [["pool", "check"], ["volume", "list"]] {
        let told = bench.run(&arguments);
        assert!(told.code != 0 && !told.err.contains("there is no pool"), "{}", told.err);
    }
}

#[test]
fn tables_are_aligned_and_an_empty_one_is_told_beside() {
    let bench = Bench::with_pool();
    let ran = bench.run(&["volume", "list"]);
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (0, "", "no volumes\n"));
    let ran = bench.run(&["volume", "list", "--json"]);
    assert_eq!((ran.out.as_str(), ran.err.as_str()), ("{\"volumes\":[]}\n", ""));
    bench.ok(&["volume", "create", "a", "--size", "4096"]);
    bench.ok(&["volume", "create", "long/name", "--size", "512M"]);
    let out = bench.ok(&["volume", "list"]);
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines[0].starts_with("NAME          SIZE  MAPPED  ORIGIN  CREATED               HOLDS"), "{out}");
    assert!(lines[1].starts_with("a            4 KiB     0 B  -       20"), "{out}");
    assert!(lines[2].starts_with("long/name  512 MiB     0 B  -       20"), "{out}");
}

#[test]
fn json_has_the_documented_fields() {
    const DOCUMENT: &str = include_str!("../../docs/cli.md");
    let bench = Bench::with_pool();
    let examples = DOCUMENT.split("```json\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let examples: Vec<serde_json::Value> =
        examples.map(|example| serde_json::from_str(example).expect(example)).collect();
    let keys =
        |value: &serde_json::Value| -> Vec<String> { value.as_object().unwrap().keys().cloned().collect() };
    bench.ok(&["volume", "create", "disk", "--size", "10G"]);
    let snapshot = bench.json(&["snapshot", "create", "disk@monday"]);
    assert_eq!(keys(&examples[1]), keys(&snapshot["snapshots"][0]));
    assert_eq!(snapshot["snapshots"][0]["size_bytes"], 10u64 << 30);
    let pool = bench.json(&["pool", "status"]);
    assert_eq!(keys(&examples[2]), keys(&pool));
    assert_eq!(pool["used_bytes"].as_u64().unwrap() + pool["free_bytes"].as_u64().unwrap(), 64 << 20);
    let free = ["fresh_bytes", "recycled_bytes", "hole_bytes", "waiting_bytes", "punching_bytes"];
    assert_eq!(free.iter().map(|field| pool[field].as_u64().unwrap()).sum::<u64>(), pool["free_bytes"]);
    let check = bench.json(&["pool", "check"]);
    assert_eq!((&check["clean"], &check["findings"]), (&true.into(), &serde_json::json!([])));
    let error = bench.run(&["--json", "volume", "show", "nope"]).err;
    assert_eq!(keys(&examples[0]), keys(&serde_json::from_str(&error).unwrap()));
}

#[test]
fn inspect_shows_structures() {
    let bench = Bench::with_pool();
    bench.ok(&["volume", "create", "disk", "--size", "10G"]);
    assert_eq!(bench.ok(&["pool", "inspect", "slots"]).matches("root slot, checksum right").count(), 2);
    assert!(bench.ok(&["pool", "inspect", "log"]).contains("create 1 'disk'"));
    let pages = bench.json(&["pool", "inspect", "page", "0", "3"]);
    assert_eq!(pages["structures"][1]["offset_bytes"], 3 * 4096);
    assert_eq!(pages["structures"][1]["checksum"], "right");
    assert!(bench.fails(Kind::Invalid, &["pool", "inspect", "page", "0", "99999"]).contains("page 99999"));
}

#[test]
fn a_wrong_command_line_is_told_in_two_lines() {
    let bench = Bench::with_pool();
    let wrong: [&[&str]; 9] = [
        &[],
        &["volume"],
        &["volume", "delte", "disk"],
        &["volume", "create", "disk"],
        &["volume", "create", "disk", "--size", "ten"],
        &["volume", "create", "disk", "--size", "10GB"],
        &["pool", "create", "--size", "-5"],
        &["serve", "--tcp", "::1"],
        &["serve", "--volume", "disk"],
    ];
    for arguments in wrong {
        bench.fails(Kind::Usage, arguments);
    }
    assert!(bench.fails(Kind::Usage, &["volume", "create", "disk", "--size", "10GB"]).contains("as 10G"));
    let none = ran(Command::new(VELLUM).env_remove("VELLUM_POOL").args(["volume", "list"]));
    assert_eq!(none.code, 2);
    assert!(none.err.contains("hint: add `--pool DIR`"));
    let from_environment =
        ran(Command::new(VELLUM).env("VELLUM_POOL", bench.pool()).args(["volume", "list"]));
    assert_eq!(from_environment.code, 0);
}

#[test]
fn what_is_absent_taken_or_impossible_has_its_code() {
    let bench = Bench::empty();
    assert!(bench.fails(Kind::NotFound, &["volume", "list"]).contains("there is no pool in"));
    bench.fails(Kind::NotFound, &["pool", "check"]);
    bench.ok(&["pool", "create", "--size", "64M"]);
    bench.fails(Kind::Exists, &["pool", "create", "--size", "64M"]);
    bench.ok(&["volume", "create", "disk", "--size", "1G"]);
    bench.fails(Kind::Exists, &["volume", "create", "disk", "--size", "1G"]);
    bench.fails(Kind::NotFound, &["volume", "show", "nope"]);
    bench.fails(Kind::NotFound, &["volume", "delete", "disk", "nope"]);
    bench.fails(Kind::NotFound, &["snapshot", "create", "disk@1", "nope@1"]);
    bench.fails(Kind::NotFound, &["clone", "create", "disk@1", "copy"]);
    assert_eq!((bench.names("volume").len(), bench.names("snapshot").len()), (1, 0));
    for size in ["0", "1000"] {
        bench.fails(Kind::Invalid, &["volume", "create", "odd", "--size", size]);
    }
    for name in ["a@b", "", "a//b", "a\nb"] {
        bench.fails(Kind::Invalid, &["volume", "create", name, "--size", "1G"]);
    }
    bench.fails(Kind::Invalid, &["snapshot", "create", "disk"]);
    bench.fails(Kind::Invalid, &["snapshot", "delete", "disk"]);
    bench.fails(Kind::Invalid, &["volume", "delete", "disk@1"]);
    let other = bench.path("other");
    for (size, kind) in [("100000", Kind::Invalid), ("64K", Kind::Invalid), ("1P", Kind::Limit)] {
        assert_eq!(run_on(&other, &["pool", "create", "--size", size]).code, i32::from(kind.code()));
        assert!(!other.exists());
    }
}

#[test]
fn a_pool_that_is_open_names_its_owner() {
    let bench = Bench::with_pool();
    let open = Files::open(&PoolDirectory::new(bench.pool())).unwrap();
    let owner = format!("hint: process {} on", std::process::id());
    assert!(bench.fails(Kind::InUse, &["volume", "list"]).contains(&owner));
    assert!(bench.fails(Kind::InUse, &["pool", "check"]).contains(&owner));
    bench.fails(Kind::InUse, &["pool", "create", "--size", "64M", "--force"]);
    Box::new(open).close().unwrap();
    bench.ok(&["pool", "check"]);
}

#[test]
fn a_hold_keeps_a_volume() {
    let bench = Bench::with_pool();
    bench.ok(&["volume", "create", "disk", "--size", "1G"]);
    let disks = PoolDirectory::new(bench.pool()).open_disks().unwrap();
    let mut pool = Pool::open(disks.data, disks.metadata, &OpenOptions::default()).unwrap();
    let volume = pool.find("disk").unwrap();
    pool.request(Request::Hold { volume, tag: "backup".into() }).unwrap();
    pool.close().unwrap();
    assert!(
        bench.fails(Kind::Busy, &["volume", "delete", "disk"]).contains("'disk': it is held by 'backup'")
    );
    assert_eq!(bench.json(&["volume", "show", "disk"])["holds"][0], "backup");
}

#[test]
fn a_deletion_has_given_its_space_back_when_it_ends() {
    let bench = Bench::with_pool();
    bench.ok(&["volume", "create", "disk", "--size", "1G"]);
    let used = || bench.json(&["pool", "status"])["used_bytes"].as_u64().unwrap();
    let before = used();
    let disks = PoolDirectory::new(bench.pool()).open_disks().unwrap();
    let mut pool = Pool::open(disks.data, disks.metadata, &OpenOptions::default()).unwrap();
    let volume = pool.find("disk").unwrap();
    pool.write(volume, 0, vec![7; 8 << 20]).unwrap();
    pool.close().unwrap();
    assert_eq!(used(), before + (8 << 20));
    assert_eq!(bench.json(&["volume", "show", "disk"])["mapped_bytes"], 8 << 20);
    bench.ok(&["volume", "delete", "disk"]);
    assert_eq!(used(), before);
    let status = bench.json(&["pool", "status"]);
    assert_eq!((&status["deleting"], &status["waiting_bytes"]), (&0.into(), &0.into()));
}

#[test]
fn a_trim_gives_back_what_nothing_else_does() {
    let bench = Bench::with_pool();
    bench.ok(&["volume", "create", "disk", "--size", "1G"]);
    bench.ok(&["pool", "set", "discard=off"]);
    let disks = PoolDirectory::new(bench.pool()).open_disks().unwrap();
    let mut pool = Pool::open(disks.data, disks.metadata, &OpenOptions::default()).unwrap();
    let volume = pool.find("disk").unwrap();
    pool.write(volume, 0, vec![7; 8 << 20]).unwrap();
    pool.close().unwrap();
    bench.ok(&["volume", "delete", "disk"]);
    let host_bytes = || bench.json(&["pool", "status"])["host_data_bytes"].as_u64().unwrap();
    let before = host_bytes();
    assert!(before >= 8 << 20, "with discard=off it stays on the host");
    let trimmed = bench.json(&["pool", "trim"]);
    assert_eq!(trimmed["host_data_bytes"], host_bytes());
    assert_eq!(trimmed["returned_bytes"], before - host_bytes());
    assert!(trimmed["returned_bytes"].as_u64().unwrap() >= 7 << 20, "{trimmed}");
    assert!(trimmed["punched_bytes"].as_u64().unwrap() >= 8 << 20, "{trimmed}");
    let told = bench.ok(&["pool", "trim"]);
    assert!(told.starts_with("free and punched") && told.contains("came back to the host"), "{told}");
    bench.ok(&["pool", "check"]);
}

#[test]
fn damage_is_found_and_has_its_code() {
    let bench = Bench::with_pool();
    bench.ok(&["volume", "create", "disk", "--size", "1G"]);
    let path = bench.pool().join("metadata");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[4 * 4096..].fill(0xa5);
    std::fs::write(&path, bytes).unwrap();
    let error = bench.fails(Kind::Damaged, &["pool", "check"]);
    assert!(error.contains("is damaged: "), "{error}");
    let ran = bench.run(&["--json", "pool", "check"]);
    let report: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((&report["clean"], &report["findings"][0]["kind"]), (&false.into(), &"damaged".into()));
    bench.fails(Kind::Damaged, &["volume", "list"]);
}

#[test]
fn files_that_are_no_pool_or_not_of_one_pool_have_their_codes() {
    let bench = Bench::with_pool();
    assert_eq!(run_on(&bench.path("other"), &["pool", "create", "--size", "64M"]).code, 0);
    std::fs::rename(bench.path("other").join("data"), bench.pool().join("data")).unwrap();
    bench.fails(Kind::Mismatch, &["volume", "list"]);
    for name in ["data", "metadata"] {
        std::fs::write(bench.pool().join(name), vec![0; 1 << 20]).unwrap();
    }
    bench.fails(Kind::Unsupported, &["volume", "list"]);
    bench.fails(Kind::Unsupported, &["pool", "check"]);
    std::fs::remove_file(bench.pool().join("metadata")).unwrap();
    std::os::unix::fs::symlink("metadata", bench.pool().join("metadata")).unwrap();
    bench.fails(Kind::Io, &["volume", "list"]);
}

#[test]
fn a_failed_create_leaves_nothing_behind() {
    let bench = Bench::empty();
    let create =
        format!("ulimit -f 100; exec '{VELLUM}' --pool '{}' pool create --size 1G", bench.pool().display());
    let limited = ran(Command::new("sh").args(["-c", &create]));
    assert_eq!(limited.code, i32::from(Kind::NoSpace.code()), "{}", limited.err);
    assert!(!bench.pool().exists());
    let data = bench.path("big");
    std::fs::write(&data, "precious").unwrap();
    let arguments = ["pool", "create", "--size", "64M", "--data", data.to_str().unwrap()];
    bench.fails(Kind::Exists, &arguments);
    assert!(!bench.pool().exists());
    assert_eq!(std::fs::read(&data).unwrap(), b"precious");
    let deep = bench.path("no/such/pool");
    assert_eq!(run_on(&deep, &["pool", "create", "--size", "64M"]).code, i32::from(Kind::NotFound.code()));
}

#[test]
fn a_pool_is_private_and_its_files_may_be_elsewhere() {
    let bench = Bench::empty();
    let (data, metadata) = (bench.path("big"), bench.path("fast"));
    let arguments = [
        "pool",
        "create",
        "--size",
        "64M",
        "--data",
        data.to_str().unwrap(),
        "--metadata",
        metadata.to_str().unwrap(),
    ];
    bench.ok(&arguments);
    assert_eq!(bench.pool().metadata().unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(std::fs::read_link(bench.pool().join("data")).unwrap(), data);
    assert_eq!(std::fs::read_link(bench.pool().join("metadata")).unwrap(), metadata);
    bench.ok(&["volume", "create", "disk", "--size", "1G"]);
    bench.fails(Kind::Exists, &arguments);
    bench.ok(&[&arguments[..], &["--force"]].concat());
    assert!(bench.names("volume").is_empty());
}

#[test]
fn force_takes_what_is_there() {
    let bench = Bench::with_pool();
    bench.ok(&["volume", "create", "disk", "--size", "1G"]);
    bench.ok(&["pool", "create", "--size", "128M", "--force"]);
    assert!(bench.names("volume").is_empty());
    assert_eq!(bench.json(&["pool", "status"])["size_bytes"], 128 << 20);
}

#[test]
fn serve_makes_what_is_absent() {
    let bench = Bench::empty();
    assert!(bench.fails(Kind::NotFound, &["serve"]).contains("--create"));
    let arguments =
        ["serve", "--create", "64M", "--volume", "a=1G", "--volume", "group/b=2G", "--default", "a"];
    let served = bench.serve(&arguments);
    assert_eq!(bench.names("volume"), ["a", "group/b"]);
    assert!(bench.ok(&["pool", "status"]).contains("served"));
    bench.fails(Kind::InUse, &["serve"]);
    served.stop();
    assert!(!bench.pool().join("nbd.sock").exists() && !bench.pool().join("control.sock").exists());
    assert_eq!(bench.names("volume"), ["a", "group/b"]);
    bench.fails(Kind::Exists, &["serve", "--volume", "c=1G", "--volume", "a=2G"]);
    bench.fails(Kind::NotFound, &["serve", "--default", "c"]);
    bench.fails(Kind::Usage, &["serve", "--volume", "c=1G", "--volume", "c=2G"]);
    let long = format!("{}/nbd.sock", "long".repeat(30));
    bench.fails(Kind::Invalid, &["serve", "--unix", &long]);
    assert_eq!(bench.names("volume"), ["a", "group/b"]);
}

#[test]
fn help_manual_and_completions_come_from_one_definition() {
    let bench = Bench::empty();
    assert!(bench.ok(&["--help"]).contains("   7  damaged      what is on disk"));
    assert!(bench.ok(&["--version"]).starts_with("vellum 0."));
    assert!(bench.ok(&["man"]).contains("damaged"));
    for shell in ["bash", "zsh", "fish"] {
        assert!(bench.ok(&["completions", shell]).contains("snapshot"));
    }
    let folder = bench.path("man");
    std::fs::create_dir(&folder).unwrap();
    bench.ok(&["man", "--directory", folder.to_str().unwrap()]);
    assert!(folder.join("vellum-snapshot-create.1").exists());
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let bench = Bench::empty();
    let piped = format!(
        "'{VELLUM}' completions bash | head -c 10 >/dev/null; '{VELLUM}' --help | head -c 1 >/dev/null"
    );
    let ran = ran(Command::new("sh").args(["-c", &piped]));
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    drop(bench);
}

/// A leaf of a volume is zeroed, in a closed pool: both root slots have it.
fn damage_a_leaf(bench: &Bench) {
    use vellum_engine::format::{PageKind, inspect};
    let disks = PoolDirectory::new(bench.pool()).open_disks().unwrap();
    let mut pool = Pool::open(disks.data, disks.metadata, &OpenOptions::default()).unwrap();
    let volume = pool.find("disk").unwrap();
    pool.write(volume, 0, vec![7; 1 << 20]).unwrap();
    let other = pool.find("other").unwrap();
    pool.write(other, 0, vec![8; 1 << 20]).unwrap();
    pool.close().unwrap();
    let path = bench.pool().join("metadata");
    let mut bytes = std::fs::read(&path).unwrap();
    for page in bytes.chunks_mut(4096).skip(4) {
        let is_leaf = inspect(page)
            .is_ok_and(|page| page.header.kind == PageKind::MapLeaf && page.header.volume_of_birth == volume);
        if is_leaf {
            page.fill(0);
        }
    }
    std::fs::write(&path, bytes).unwrap();
}

#[test]
fn a_damaged_pool_is_repaired_and_its_old_metadata_kept() {
    let bench = Bench::with_pool();
    bench.ok(&["volume", "create", "disk", "--size", "3M"]);
    bench.ok(&["volume", "create", "other", "--size", "1G"]);
    let sound = bench.json(&["pool", "repair"]);
    assert_eq!((&sound["lost_bytes"], &sound["problems"]), (&0.into(), &serde_json::json!([])));
    damage_a_leaf(&bench);
    bench.fails(Kind::Damaged, &["pool", "check"]);
    let before = std::fs::read(bench.pool().join("metadata")).unwrap();
    let trial = bench.json(&["pool", "repair"]);
    assert_eq!((&trial["output"], &trial["committed"]), (&serde_json::Value::Null, &false.into()));
    let loss = serde_json::json!([{"name": "disk", "offset_bytes": 0, "length_bytes": 3 << 20}]);
    assert_eq!(trial["losses"], loss);
    let output = bench.path("new");
    bench.ok(&["pool", "repair", "--output", output.to_str().unwrap()]);
    assert_eq!(std::fs::metadata(&output).unwrap().len(), trial["metadata_bytes"].as_u64().unwrap());
    bench.fails(Kind::Exists, &["pool", "repair", "--output", output.to_str().unwrap()]);
    assert_eq!(std::fs::read(bench.pool().join("metadata")).unwrap(), before);
    let text = bench.ok(&["pool", "repair", "--commit"]);
    assert!(text.contains("lost: 3 MiB of 'disk' from byte 0 on"), "{text}");
    assert_eq!(std::fs::read(bench.pool().join("metadata.before-repair")).unwrap(), before);
    assert!(!bench.pool().join("metadata.repaired").exists());
    assert!(bench.ok(&["pool", "check"]).contains("an earlier repair could not save"));
    bench.fails(Kind::Exists, &["pool", "repair", "--commit"]);
    let disks = PoolDirectory::new(bench.pool()).open_disks().unwrap();
    let mut pool = Pool::open(disks.data, disks.metadata, &OpenOptions::default()).unwrap();
    let (disk, other) = (pool.find("disk").unwrap(), pool.find("other").unwrap());
    assert!(pool.read(disk, 0, 4096).is_err());
    assert_eq!(pool.read(other, 0, 1 << 20), Ok(vec![8; 1 << 20]));
    pool.close().unwrap();
    // The old metadata does not belong to the data any more.
    std::fs::rename(bench.pool().join("metadata.before-repair"), bench.pool().join("metadata")).unwrap();
    bench.fails(Kind::Mismatch, &["pool", "status"]);
}
