//! qemu-io: single requests, with the flags that a guest's disk sends.

use crate::bench::{Bench, client, ok};
use vellum_tests::program::wait_for;

/// More than the pool keeps for the next writes goes back to the host, with nobody asking for anything meanwhile.
pub fn discarded_space_goes_back_while_idle(io: &str) {
    let bench = Bench::new(io, "512M");
    run(&bench, &["write -P 1 0 200M", "flush"]);
    let full = bench.host_bytes();
    run(&bench, &["discard 0 200M", "flush"]);
    wait_for("the host's space", || (bench.host_bytes() + (100 << 20) < full).then_some(()));
    bench.finish();
}

pub fn writes_zeroes_and_discards(io: &str) {
    let bench = Bench::new(io, "64M");
    run(
        &bench,
        &[
            "write -P 0x5a 0 1M",
            // Zeros that keep their space, and zeros that give it back.
            "write -z 128k 128k",
            "write -z -u 256k 256k",
            "discard 512k 64k",
            "write -f -P 0x5b 0 4k",
            "write -f -z 4k 4k",
            "flush",
            "read -P 0x5b 0 4k",
            "read -P 0 4k 4k",
            "read -P 0x5a 8k 120k",
            "read -P 0 128k 384k",
            "read -P 0 512k 64k",
            "read -P 0x5a 576k 448k",
            // Badly placed, across blocks.
            "write -P 0x11 65024 1024",
            "write -z 524800 512",
            "read -P 0x11 65024 1024",
            "read -P 0x5a 64000 1024",
            "read -P 0x5a 66560 512",
            "aio_write -P 1 2M 1M",
            "aio_write -P 2 3M 1M",
            "aio_write -z -u 4M 1M",
            "aio_flush",
            "aio_read -P 1 2M 1M",
            "aio_read -P 2 3M 1M",
            "aio_read -P 0 4M 1M",
            "aio_flush",
            "writev -P 3 5M 4k 8k 512 3584",
            "readv -P 3 5M 512 4k 3584 8k",
        ],
    );
    // A second client sees the same.
    run(&bench, &["read -P 0x5b 0 4k", "read -P 0x5a 576k 448k", "read -P 2 3M 1M"]);

    let end = client("qemu-io", &["-f", "raw", "-c", "write 63M 2M", &bench.uri()]);
    assert_ne!(end.code, Some(0), "a write past the end is refused");

    bench.pool.ok(&["snapshot", "create", "disk@one"]);
    run(&bench, &["write -P 4 0 64k", "discard 576k 448k", "read -P 4 0 64k", "read -P 0 576k 448k"]);
    let snapshot = bench.pool.uri("disk%40one");
    ok("qemu-io", &["-r", "-f", "raw", "-c", "read -P 0x5b 0 4k", "-c", "read -P 0x5a 576k 448k", &snapshot]);
    bench.finish();
}

/// A pattern that is not there makes qemu-io say so, and fail.
fn run(bench: &Bench, commands: &[&str]) {
    let uri = bench.uri();
    let commands = commands.iter().flat_map(|command| ["-c", command]);
    let arguments: Vec<&str> = ["-f", "raw", "-t", "writeback", "-d", "unmap"]
        .into_iter()
        .chain(commands)
        .chain([uri.as_str()])
        .collect();
    let said = ok("qemu-io", &arguments);
    assert!(!said.contains("failed") && !said.contains("rror"), "{said}");
}
