//! libnbd from Python: what no tool sends, and what tools send only when they feel like it.
//!
//! The scripts lie beside this file. Each gets URIs as arguments and fails by an assertion.

use crate::bench::{Bench, ok};

/// Debian's interpreter: libnbd's module is installed for no other.
const PYTHON: &str = "/usr/bin/python3";

pub fn corners_are_answered(io: &str) {
    let bench = Bench::new(io, "8G");
    bench.pool.ok(&["snapshot", "create", "disk@empty"]);
    ok(PYTHON, &["-c", include_str!("corners.py"), &bench.uri(), &bench.pool.uri("disk%40empty")]);
    bench.finish();
}

pub fn contexts_tell_holes_and_sharing(io: &str) {
    let bench = Bench::new(io, "1G");
    ok(PYTHON, &["-c", include_str!("fill.py"), &bench.uri()]);
    bench.pool.ok(&["snapshot", "create", "disk@one"]);
    ok(PYTHON, &["-c", include_str!("contexts.py"), &bench.uri(), &bench.pool.uri("disk%40one")]);
    bench.finish();
}

pub fn four_handles_with_64_requests_each(io: &str) {
    let bench = Bench::new(io, "64M");
    ok(PYTHON, &["-c", include_str!("in_flight.py"), &bench.uri()]);
    bench.finish();
}
