//! nbdinfo: what it says of exports, their contexts and their abilities.

use crate::bench::{Bench, client, ok};
use serde_json::{Value, from_str};

const ABILITIES: [&str; 11] = [
    "connect",
    "multi-conn",
    "read",
    "zero",
    "trim",
    "flush",
    "fua",
    "cache",
    "df",
    "fast-zero",
    "structured-reply",
];

pub fn exports_are_described(io: &str) {
    let bench = Bench::new(io, "1G");
    bench.pool.ok(&["volume", "create", "group/other", "--size", "64M"]);
    bench.pool.ok(&["snapshot", "create", "disk@one"]);
    let plain = ok("nbdinfo", &[&bench.uri()]);
    for line in ["export=\"disk\"", "export-size: 1073741824", "is_read_only: false", "x-vellum:shared"] {
        assert!(plain.contains(line), "{line}: {plain}");
    }
    let json: Value = from_str(&ok("nbdinfo", &["--json", &bench.uri()])).unwrap();
    let export = &json["exports"][0];
    assert_eq!((&json["protocol"], &json["structured"]), (&"newstyle-fixed".into(), &true.into()));
    assert_eq!((&export["export-name"], &export["export-size"]), (&"disk".into(), &(1u64 << 30).into()));
    assert_eq!(export["contexts"], Value::from(vec!["base:allocation", "x-vellum:shared"]));
    assert_eq!((&export["block_size_minimum"], &export["block_size_preferred"]), (&1.into(), &4096.into()));
    assert_eq!(export["block_size_maximum"], 32 << 20);

    let list: Value = from_str(&ok("nbdinfo", &["--json", "--list", &bench.uri()])).unwrap();
    let exports = list["exports"].as_array().unwrap();
    let told = |key: &str| exports.iter().map(|export| export[key].as_str().unwrap()).collect::<Vec<_>>();
    assert_eq!(told("export-name"), ["disk", "disk@one", "group/other"]);
    assert_eq!(told("description"), ["volume", "snapshot, read-only", "volume"]);
    let sizes: Vec<_> = exports.iter().map(|export| export["export-size"].as_u64().unwrap()).collect();
    assert_eq!(sizes, [1 << 30, 1 << 30, 64 << 20]);

    assert_eq!(ok("nbdinfo", &["--size", &bench.pool.uri("disk%40one")]).trim(), "1073741824");
    assert_ne!(client("nbdinfo", &[&bench.pool.uri("gone")]).code, Some(0));
    assert_ne!(client("nbdinfo", &[&bench.pool.uri("")]).code, Some(0), "there is no default export");
    bench.finish();
}

pub fn an_export_can_what_it_says(io: &str) {
    let bench = Bench::new(io, "1G");
    for ability in ABILITIES.into_iter().chain(["write"]) {
        let ran = client("nbdinfo", &["--can", ability, &bench.uri()]);
        assert_eq!(ran.code, Some(0), "--can {ability}: {}", ran.err);
    }
    for inability in ["rotational", "read-only"] {
        let ran = client("nbdinfo", &["--is", inability, &bench.uri()]);
        assert_eq!(ran.code, Some(2), "--is {inability}: {}", ran.err);
    }
    bench.finish();
}

pub fn a_snapshot_cannot_be_written(io: &str) {
    let bench = Bench::new(io, "1G");
    bench.pool.ok(&["snapshot", "create", "disk@one"]);
    let snapshot = bench.pool.uri("disk@one");
    ok("nbdinfo", &["--is", "read-only", &snapshot]);
    for (ability, code) in [("write", 2), ("zero", 2), ("trim", 2), ("read", 0), ("multi-conn", 0)] {
        let ran = client("nbdinfo", &["--can", ability, &snapshot]);
        assert_eq!(ran.code, Some(code), "--can {ability}: {}", ran.err);
    }
    assert_ne!(client("nbdcopy", &["/dev/zero", &snapshot]).code, Some(0));
    bench.finish();
}

pub fn maps_show_holes_and_sharing(io: &str) {
    const MIB: u64 = 1 << 20;
    let bench = Bench::new(io, "1G");
    let image = bench.disk_image("image", 4);
    ok("nbdcopy", &["--flush", crate::bench::text(&image), &bench.uri()]);
    let gib = 1 << 30;
    let expected = [(0, MIB, 0), (MIB, MIB, 3), (2 * MIB, MIB, 0), (3 * MIB, gib - 3 * MIB, 3)];
    assert_eq!(map(&bench, "disk", "base:allocation"), expected);
    let totals: Value = from_str(&ok("nbdinfo", &["--map", "--totals", "--json", &bench.uri()])).unwrap();
    let of_type = |kind: u64| totals.as_array().unwrap().iter().find(|total| total["type"] == kind).unwrap();
    assert_eq!((&of_type(0)["size"], &of_type(3)["size"]), (&(2 * MIB).into(), &(gib - 2 * MIB).into()));

    assert_eq!(map(&bench, "disk", "x-vellum:shared"), [(0, gib, 0)]);
    bench.pool.ok(&["snapshot", "create", "disk@one"]);
    let mut arguments = vec!["-f", "raw", "-c", "write -P 1 0 64k"];
    let uri = bench.uri();
    arguments.push(&uri);
    ok("qemu-io", &arguments);
    let unshared = 64 << 10;
    let expected = [
        (0, unshared, 0),
        (unshared, MIB - unshared, 1),
        (MIB, MIB, 0),
        (2 * MIB, MIB, 1),
        (3 * MIB, gib - 3 * MIB, 0),
    ];
    assert_eq!(map(&bench, "disk", "x-vellum:shared"), expected);
    bench.finish();
}

/// Offset, length and type of every extent, neighbours of one type joined.
fn map(bench: &Bench, export: &str, context: &str) -> Vec<(u64, u64, u64)> {
    let map = ok("nbdinfo", &[&format!("--map={context}"), "--json", &bench.pool.uri(export)]);
    let map: Value = from_str(&map).unwrap();
    let mut joined: Vec<(u64, u64, u64)> = Vec::new();
    for extent in map.as_array().unwrap() {
        let [offset, length, kind] = ["offset", "length", "type"].map(|key| extent[key].as_u64().unwrap());
        match joined.last_mut() {
            Some(last) if last.2 == kind && last.0 + last.1 == offset => last.1 += length,
            _ => joined.push((offset, length, kind)),
        }
    }
    joined
}
