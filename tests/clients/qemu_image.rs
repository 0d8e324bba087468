//! qemu-img: disks in and out of an export, formats on top of it, and its speed test as load.

use crate::bench::{Bench, ok, text};
use serde_json::Value;

pub fn a_disk_is_converted(io: &str) {
    let bench = Bench::new(io, "64M");
    let image = bench.disk_image("image", 64);
    let (image, uri) = (text(&image), &bench.uri());
    ok("qemu-img", &["convert", "-n", "-f", "raw", "-O", "raw", image, uri]);
    ok("qemu-img", &["compare", "-f", "raw", "-F", "raw", image, uri]);

    let map: Value =
        serde_json::from_str(&ok("qemu-img", &["map", "-f", "raw", "--output=json", uri])).unwrap();
    let data = |extent: &&Value| extent["data"] == true;
    let length = |extent: &Value| extent["length"].as_u64().unwrap();
    assert_eq!(map.as_array().unwrap().iter().filter(data).map(length).sum::<u64>(), 32 << 20, "{map}");

    let compressed = bench.path("copy.qcow2");
    let compressed = text(&compressed);
    ok("qemu-img", &["convert", "-c", "-f", "raw", "-O", "qcow2", uri, compressed]);
    ok("qemu-img", &["compare", "-f", "qcow2", "-F", "raw", compressed, uri]);
    bench.pool.ok(&["volume", "create", "back", "--size", "64M"]);
    let back = &bench.pool.uri("back");
    ok("qemu-img", &["convert", "-n", "-f", "qcow2", "-O", "raw", compressed, back]);
    ok("qemu-img", &["compare", "-f", "raw", "-F", "raw", back, image]);
    bench.finish();
}

pub fn an_image_lies_on_an_export(io: &str) {
    let bench = Bench::new(io, "1G");
    let uri = &bench.uri();
    ok("qemu-img", &["create", "-f", "qcow2", uri, "512M"]);
    let written =
        ["write -P 7 0 64M", "write -P 8 70000512 1536", "write -z 1M 1M", "discard 2M 2M", "flush"];
    qemu_io(uri, &written);
    ok("qemu-img", &["check", "-f", "qcow2", uri]);
    qemu_io(uri, &["read -P 7 0 1M", "read -P 0 1M 3M", "read -P 7 4M 60M", "read -P 8 70000512 1536"]);
    ok("qemu-img", &["snapshot", "-c", "inside", uri]);
    qemu_io(uri, &["write -P 9 0 4M", "flush"]);
    ok("qemu-img", &["snapshot", "-a", "inside", uri]);
    ok("qemu-img", &["check", "-f", "qcow2", uri]);
    qemu_io(uri, &["read -P 7 0 1M", "read -P 0 1M 3M"]);
    bench.finish();
}

pub fn reads_and_writes_are_measured(io: &str) {
    let bench = Bench::new(io, "1G");
    let bench_of = |arguments: &[&str]| {
        let common = ["bench", "-f", "raw", "-t", "none", "-d", "32"];
        ok("qemu-img", &[&common, arguments, &[&bench.uri()]].concat());
    };
    bench_of(&["-c", "8000", "-s", "4096", "-w", "--flush-interval=64"]);
    bench_of(&["-c", "8000", "-s", "4096"]);
    bench_of(&[
        "-c",
        "2000",
        "-s",
        "12800",
        "-o",
        "512",
        "-S",
        "25600",
        "-w",
        "--flush-interval=32",
        "--no-drain",
    ]);
    bench_of(&["-c", "500", "-s", "1M"]);
    bench.finish();
}

fn qemu_io(uri: &str, commands: &[&str]) {
    let commands = commands.iter().flat_map(|command| ["-c", command]);
    let arguments: Vec<&str> = ["-f", "qcow2"].into_iter().chain(commands).chain([uri]).collect();
    ok("qemu-io", &arguments);
}
