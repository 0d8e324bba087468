//! `vellum dm export --snapshot` while somebody else changes what it works on, or answers of the server are lost: what is behind the
//! server's socket here hands requests on, and does something at some of them.

#[allow(dead_code)]
mod common;

use common::{Bench, Ran, run_on};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use vellum_cli::exit::Kind;

const START: &str = "POST /v1/pictures HTTP";
const FINISH: &str = "/snapshot HTTP";
const MAPPINGS: &str = "POST /v1/mappings";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Moment {
    Before,
    After,
}

/// A message of HTTP with its body; empty if nobody says anything.
fn message(stream: &mut UnixStream) -> Vec<u8> {
    let (mut bytes, mut byte) = (Vec::new(), [0]);
    while !bytes.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).unwrap_or(0) == 0 {
            return Vec::new();
        }
        bytes.push(byte[0]);
    }
    let head = String::from_utf8(bytes.clone()).unwrap().to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut body).unwrap();
    [bytes, body].concat()
}

/// Hands one request on. `act` is told its first line before and after, and says then whether the answer arrives.
fn hand_on(mut client: UnixStream, server: &Path, act: &mut dyn FnMut(Moment, &str) -> bool) {
    let request = message(&mut client);
    let Some(line) = request.split(|byte| *byte == b'\r').next().filter(|line| !line.is_empty()) else {
        return;
    };
    let line = String::from_utf8(line.to_vec()).unwrap();
    act(Moment::Before, &line);
    let mut server = UnixStream::connect(server).unwrap();
    server.write_all(&request).unwrap();
    let answer = message(&mut server);
    if act(Moment::After, &line) {
        client.write_all(&answer).unwrap();
    }
}

/// Exports `disk@monday` of a served pool through a socket behind which `act` is told of everything.
fn export(bench: &Bench, mut act: impl FnMut(Moment, &str) -> bool + Send) -> Ran {
    let folder = bench.path("behind");
    fs::create_dir(&folder).unwrap();
    for name in ["data", "metadata"] {
        symlink(bench.pool().join(name), folder.join(name)).unwrap();
    }
    let (socket, server) = (folder.join("control.sock"), bench.pool().join("control.sock"));
    let listener = UnixListener::bind(&socket).unwrap();
    let is_over = AtomicBool::new(false);
    let thin = bench.path("tmeta").display().to_string();
    let ran = std::thread::scope(|scope| {
        scope.spawn(|| {
            for client in listener.incoming() {
                if is_over.load(Ordering::Relaxed) {
                    return;
                }
                hand_on(client.unwrap(), &server, &mut act);
            }
        });
        let ran = run_on(&folder, &["dm", "export", "--metadata", &thin, "--snapshot", "disk@monday"]);
        is_over.store(true, Ordering::Relaxed);
        UnixStream::connect(&socket).unwrap();
        ran
    });
    fs::remove_dir_all(&folder).unwrap();
    ran
}

fn bench() -> Bench {
    let bench = Bench::with_pool();
    bench.ok(&["volume", "create", "disk", "--size", "4M"]);
    bench.ok(&["snapshot", "create", "disk@monday"]);
    bench
}

/// It failed, and left nothing.
fn assert_undone(bench: &Bench, ran: &Ran, kind: Kind, what: &str) {
    assert_eq!(ran.code, i32::from(kind.code()), "{what}: {}", ran.err);
    assert!(ran.err.contains(what), "{what}: {}", ran.err);
    assert_eq!(bench.names("snapshot"), ["disk@monday"], "{what}: {}", ran.err);
    assert_eq!(bench.ok(&["receive", "--resume"]), "", "{what}");
    assert!(!bench.path("tmeta").exists(), "{what}");
}

#[test]
fn what_was_made_is_found_though_the_answer_was_lost() {
    let bench = bench();
    let _server = bench.serve(&["serve"]);
    for lost in [START, FINISH] {
        let ran = export(&bench, |moment, line| moment == Moment::Before || !line.contains(lost));
        assert_undone(&bench, &ran, Kind::Failure, "does not answer well");
    }
    // Behind that nothing is answered any more: what may be there is named.
    let mut is_lost = false;
    let ran = export(&bench, |_, line| {
        is_lost |= line.contains(FINISH);
        !is_lost
    });
    let commands =
        ["vellum receive --abort disk@monday.picture-1", "vellum dm release disk@monday.picture-1"];
    assert!(ran.code != 0 && commands.iter().all(|command| ran.err.contains(command)), "{}", ran.err);
    bench.ok(&["dm", "release", "disk@monday.picture-1"]);
    assert_eq!(bench.names("snapshot"), ["disk@monday"]);
}

#[test]
fn what_somebody_changes_meanwhile_is_noticed() {
    let bench = bench();
    let _server = bench.serve(&["serve"]);
    let ran = export(&bench, |moment, line| {
        if moment == Moment::Before && line.contains(START) {
            bench.ok(&["snapshot", "delete", "disk@monday"]);
            bench.ok(&["snapshot", "create", "disk@monday"]);
        }
        true
    });
    assert_undone(&bench, &ran, Kind::Busy, "is another snapshot than");
    let mut is_pinned = false;
    let ran = export(&bench, |moment, line| {
        if moment == Moment::After && is_pinned && line.contains(MAPPINGS) {
            bench.ok(&["dm", "release", "disk@monday.picture-1"]);
            is_pinned = false;
        }
        is_pinned |= line.contains(FINISH);
        true
    });
    assert_undone(&bench, &ran, Kind::NotFound, "was released meanwhile");
}

#[test]
fn pins_are_followed_by_more_than_their_names() {
    let bench = bench();
    let _server = bench.serve(&["serve"]);
    let ran = export(&bench, |moment, line| {
        if moment == Moment::After && line.contains(FINISH) {
            bench.ok(&["volume", "rename", "disk", "drive"]);
        }
        true
    });
    assert!(ran.code == 0 && ran.out.contains("drive@monday.picture-1"), "{}{}", ran.err, ran.out);
    assert_eq!(bench.names("snapshot"), ["drive@monday", "drive@monday.picture-1"]);
    bench.ok(&["dm", "release", "drive@monday.picture-1"]);
    bench.ok(&["volume", "rename", "drive", "disk"]);
    fs::remove_file(bench.path("tmeta")).unwrap();
    // Somebody takes the name that was free.
    let mut is_taken = false;
    let ran = export(&bench, |moment, line| {
        if moment == Moment::Before && line.contains(FINISH) && !is_taken {
            bench.ok(&["snapshot", "create", "disk@monday.picture-1"]);
            is_taken = true;
        }
        true
    });
    assert!(ran.code == 0 && ran.out.contains("disk@monday.picture-2"), "{}{}", ran.err, ran.out);
}
