//! Where io_uring is forbidden, as by the default profile of container engines, the server serves by threads and says
//! so once.

#[allow(dead_code)]
mod common;

use common::{Bench, VELLUM};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

/// Answers `io_uring_setup` with EPERM from here on, and becomes the program.
const FORBID: &str = r#"
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
setup, load, allow, refuse = 425, 0x20, 0x7FFF0000, 0x00050001
program = [(load, 0, 0, 0), (0x15, 0, 1, setup), (0x06, 0, 0, refuse), (0x06, 0, 0, allow)]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in program))
class Filter(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]
what = Filter(len(program), ctypes.addressof(code))
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, ctypes.byref(what), 0, 0) == 0
os.execv(sys.argv[1], sys.argv[1:])
"#;

fn serve(bench: &Bench, io: &str) -> Command {
    let mut command = Command::new("python3");
    command.args(["-c", FORBID, VELLUM, "--pool"]).arg(bench.pool());
    command.args(["serve", "--create", "64M", "--volume", "disk=16M", "--threads", "2", "--io", io]);
    command
}

#[test]
fn threads_take_over_and_that_is_said_once() {
    let bench = Bench::empty();
    let mut server =
        serve(&bench, "auto").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("python3 runs");
    let mut told = String::new();
    BufReader::new(server.stdout.as_mut().unwrap()).read_line(&mut told).unwrap();
    assert!(told.starts_with("disk"), "{told}");
    assert_eq!(bench.names("volume"), ["disk"]);
    assert!(Command::new("kill").args(["-TERM", &server.id().to_string()]).status().unwrap().success());
    let output = server.wait_with_output().unwrap();
    let warned = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), warned.matches("io_uring").count()), (Some(0), 1), "{warned}");
    assert!(warned.contains("Linux 6.1"), "{warned}");
}

#[test]
fn whoever_insists_on_io_uring_gets_an_error() {
    let bench = Bench::empty();
    let output = serve(&bench, "ring").output().expect("python3 runs");
    assert_ne!(output.status.code(), Some(0));
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.starts_with("error: ") && told.contains("--io auto"), "{told}");
}
