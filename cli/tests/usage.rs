//! What `vellum` says of space: of volumes, snapshots and sets of them, with a server and without.

#[allow(dead_code)]
mod common;

use common::Bench;
use serde_json::Value;
use vellum_cli::exit::Kind;
use vellum_cli::pool_directory::PoolDirectory;
use vellum_engine::Pool;
use vellum_engine::options::OpenOptions;

const MIB: u64 = 1 << 20;

fn write(bench: &Bench, volume: &str, offset_bytes: u64, length_bytes: u64) {
    let disks = PoolDirectory::new(bench.pool()).open_disks().unwrap();
    let mut pool = Pool::open(disks.data, disks.metadata, &OpenOptions::default()).unwrap();
    let volume = pool.find(volume).unwrap();
    pool.write(volume, offset_bytes, vec![7; length_bytes as usize]).unwrap();
    pool.close().unwrap();
}

/// `disk` with 8 MiB, of which 2 MiB were overwritten after `disk@a` and 4 MiB after `disk@b`, and an empty one.
fn with_data() -> Bench {
    let bench = Bench::with_pool();
    bench.ok(&["volume", "create", "disk", "--size", "1G"]);
    bench.ok(&["volume", "create", "empty", "--size", "1G"]);
    write(&bench, "disk", 0, 8 * MIB);
    bench.ok(&["snapshot", "create", "disk@a"]);
    write(&bench, "disk", 0, 2 * MIB);
    bench.ok(&["snapshot", "create", "disk@b"]);
    write(&bench, "disk", 0, 4 * MIB);
    bench
}

fn figures(usage: &Value) -> [u64; 3] {
    ["mapped_bytes", "freed_if_deleted_bytes", "shared_bytes"].map(|name| usage[name].as_u64().unwrap() / MIB)
}

fn of_each(list: &Value) -> Vec<[u64; 3]> {
    let figures = |volume: &Value| {
        ["exclusive_bytes", "shared_bytes", "freed_if_deleted_bytes"]
            .map(|name| volume["usage"][name].as_u64().unwrap() / MIB)
    };
    list.as_array().unwrap().iter().map(figures).collect()
}

fn check_figures(bench: &Bench) {
    let usage = |arguments: &[&str]| bench.json(&[&["volume", "usage"], arguments].concat());
    assert_eq!(figures(&usage(&["disk"])), [8, 4, 4]);
    assert_eq!(figures(&usage(&["disk@a"])), [8, 2, 6]);
    assert_eq!(figures(&usage(&["disk@b"])), [8, 2, 6]);
    let both = usage(&["disk@*"]);
    assert_eq!(figures(&both)[1], 6, "2 MiB are theirs together");
    assert_eq!(both["names"], serde_json::json!(["disk@a", "disk@b"]));
    assert!(both["freed_metadata_bytes"].as_u64().unwrap() > 0 && both["generation"].as_u64().unwrap() > 0);
    assert_eq!(both.get("mapped_sectors_bytes"), None);
    let all = usage(&["*", "--snapshots", "--sectors"]);
    assert_eq!((figures(&all), all["mapped_sectors_bytes"].as_u64()), ([24, 14, 0], Some(24 * MIB)));
    bench.fails(Kind::NotFound, &["volume", "usage", "disk", "nope"]);
    bench.fails(Kind::NotFound, &["volume", "usage", "nope@*"]);
    bench.fails(Kind::Usage, &["volume", "usage"]);

    assert_eq!(bench.json(&["volume", "list"])["volumes"][0].get("usage"), None);
    assert_eq!(of_each(&bench.json(&["volume", "list", "--usage"])["volumes"]), [[4, 4, 14], [0, 0, 0]]);
    let snapshots = &bench.json(&["snapshot", "list", "disk", "--usage"])["snapshots"];
    assert_eq!(of_each(snapshots), [[2, 6, 2], [2, 6, 2]]);
    let shown = bench.json(&["volume", "show", "disk@a", "--usage"]);
    assert_eq!(of_each(&serde_json::json!([shown])), [[2, 6, 2]]);

    let status = bench.json(&["pool", "status"]);
    assert_eq!(status["data_bytes"].as_u64().unwrap(), 14 * MIB);
    assert_eq!(status["mapped_bytes"].as_u64().unwrap(), 24 * MIB);
    assert!(status["host_data_bytes"].as_u64().unwrap() > 0 && status["full_in_s"].is_null());
}

#[test]
fn usage_is_told_without_a_server_and_with_one() {
    let bench = with_data();
    check_figures(&bench);
    let server = bench.serve(&["serve"]);
    check_figures(&bench);
    assert!(bench.ok(&["pool", "status"]).contains("0 B/s given out, 0 B/s freed\n"));
    bench.ok(&["snapshot", "delete", "disk@a"]);
    while bench.json(&["pool", "status"])["deleting"] != 0 {}
    assert_eq!(figures(&bench.json(&["volume", "usage", "disk@b"]))[1], 4, "nobody else has them any more");
    server.stop();
}

#[test]
fn usage_as_text_is_a_table() {
    let bench = with_data();
    let out = bench.ok(&["volume", "list", "--usage"]);
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[0], "NAME    SIZE  MAPPED  EXCLUSIVE  SHARED  FREED IF DELETED");
    assert_eq!(lines[1], "disk   1 GiB   8 MiB      4 MiB   4 MiB            14 MiB");
    let out = bench.ok(&["volume", "usage", "disk@a", "disk@b"]);
    let told =
        ["names             disk@a, disk@b\n", "freed if deleted  6 MiB\n", "shared            at most "];
    assert!(told.iter().all(|line| out.contains(line)), "{out}");
    assert!(bench.ok(&["volume", "show", "disk", "--usage"]).contains("exclusive         4 MiB\n"));
}
