//! nbdcopy: whole disks in and out, on many connections, by what is data and what is hole.

use crate::bench::{Bench, assert_same, ok, text};
use vellum_tests::program::wait_for;

pub fn a_disk_goes_in_and_out(io: &str) {
    let bench = Bench::new(io, "128M");
    let (image, copy) = (bench.disk_image("image", 128), bench.path("copy"));
    ok("nbdcopy", &["--connections=4", "--flush", text(&image), &bench.uri()]);
    ok("nbdcopy", &["--connections=4", "--flush", &bench.uri(), text(&copy)]);
    assert_same(&image, &copy);
    // Once more over what is there, requests small and badly placed, and with zeros instead of holes.
    let arguments = ["--connections=4", "--requests=64", "--request-size=4096", "--allocated", "--flush"];
    let disk = bench.uri();
    ok("nbdcopy", &[&arguments[..], &[text(&image), &disk]].concat());
    ok("nbdcopy", &["--connections=4", "--request-size=65536", &disk, text(&copy)]);
    assert_same(&image, &copy);
    bench.finish();
}

/// Data of the sparse disk, at most: 0.01 % of a TiB, in blocks of 4 KiB or more, each of which may take a block of
/// the pool.
pub fn a_sparse_terabyte_goes_in_and_out(io: &str) {
    let bench = Bench::new(io, "1T");
    let before = bench.host_bytes();
    let disk = ["sparse-random", "size=1T", "seed=42", "percent=0.01"];
    let uri = bench.uri();
    let copy_in = format!("nbdcopy --connections=4 --flush \"$uri\" '{uri}'");
    ok("nbdkit", &[&["-U", "-"], &disk[..], &["--run", &copy_in]].concat());
    let copied = 110 << 20;
    // What was made ready ahead goes back when nobody asks for more.
    let taken = || bench.host_bytes() - before;
    wait_for("the host's space", || (taken() < copied * 21 / 20).then_some(()));
    let copy_out = format!("nbdcopy --connections=4 '{uri}' \"$uri\"");
    ok("nbdkit", &[&["-U", "-", "--filter=checkwrite"], &disk[..], &["--run", &copy_out]].concat());
    bench.finish();
}
