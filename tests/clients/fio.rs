//! fio: many requests in flight, read back and verified.

use crate::bench::{Bench, ok};

pub fn mixed_sizes_on_four_connections(io: &str) {
    let bench = Bench::new(io, "256M");
    // Four jobs, each in its own quarter; blocks of any size at any sector.
    let arguments = [
        "--rw=randwrite",
        "--bsrange=512-256k",
        "--blockalign=512",
        "--numjobs=4",
        "--size=48m",
        "--offset_increment=64m",
        "--iodepth=16",
        "--verify=crc32c",
    ];
    fio(&bench, &arguments);
    // And writes, flushes and reads mixed.
    let arguments = [
        "--rw=randrw",
        "--bssplit=512/20:3584/10:4k/30:12k/20:64k/15:1m/5",
        "--blockalign=512",
        "--numjobs=4",
        "--size=24m",
        "--offset_increment=64m",
        "--iodepth=32",
        "--fsync=64",
        "--verify=crc32c",
    ];
    fio(&bench, &arguments);
    bench.finish();
}

pub fn trims_and_writes(io: &str) {
    let bench = Bench::new(io, "128M");
    // One at a time: NBD does not order a trim and a write that are in flight together.
    let arguments =
        ["--rw=randtrimwrite", "--bs=64k", "--size=96m", "--iodepth=1", "--fsync=32", "--verify=crc32c"];
    fio(&bench, &arguments);
    bench.finish();
}

fn fio(bench: &Bench, arguments: &[&str]) {
    let uri = format!("--uri={}", bench.uri());
    let common = [
        "--name=disk",
        "--ioengine=nbd",
        &uri,
        "--thread",
        "--group_reporting",
        "--randseed=42",
        "--do_verify=1",
        "--verify_fatal=1",
        "--verify_state_save=0",
    ];
    ok("fio", &[&common, arguments].concat());
}
