//! The control API over a pool on files, asked by the program, by our client and by curl.
//!
//! Owns no pool code. The pool is served in this process.

#[allow(dead_code)]
mod common;

use common::{Bench, ran};
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;
use std::sync::{Arc, Mutex};
use vellum_cli::control::{Control, encode_name};
use vellum_cli::error::{Error, Result};
use vellum_cli::exit::{Kind, TABLE};
use vellum_cli::manage::{Files, Manage, Picture, Progress, Remote, Transfer};
use vellum_cli::pool_directory::PoolDirectory;
use vellum_cli::views::{
    ArrivalView, AskDifferenceView, AskMappingsView, AskUsageView, ChangeView, ChangedView,
    ConfigurationView, DeletedView, DeletionView, DifferenceView, FillView, FilledView, FinishPictureView,
    MappingsView, NewPictureView, PoolView, SendView, TrimView, TrimmedView, UsageView, VolumeView,
};

struct Served {
    bench: Bench,
    directory: PoolDirectory,
    control: Control,
    pool: Arc<Mutex<Files>>,
}

impl Served {
    fn new() -> Self {
        let bench = Bench::with_pool();
        let directory = PoolDirectory::new(bench.pool());
        let pool = Arc::new(Mutex::new(Files::open(&directory).unwrap()));
        let control = Control::start(&directory.control_socket(), pool.clone()).unwrap();
        Self { bench, directory, control, pool }
    }

    fn stop(self) -> Bench {
        self.control.stop().unwrap();
        assert!(!self.directory.control_socket().exists());
        let pool = Arc::into_inner(self.pool).unwrap().into_inner().unwrap();
        Box::new(pool).close().unwrap();
        self.bench
    }
}

#[test]
fn commands_go_to_the_server() {
    let served = Served::new();
    let bench = &served.bench;
    bench.ok(&["volume", "create", "group/ü disk", "--size", "10G"]);
    bench.ok(&["volume", "create", "other", "--size", "1G"]);
    assert_eq!(bench.json(&["pool", "extend", "128M"])["size_bytes"], 128 << 20);
    bench.fails(Kind::Invalid, &["pool", "extend", "64M"]);
    bench.ok(&["volume", "set", "other", "iops=5", "reservation=1M"]);
    assert_eq!(bench.json(&["volume", "show", "other"])["properties"]["limit_iops"], 5);
    bench.fails(Kind::NoSpace, &["volume", "create", "greedy", "--size", "1G", "--reservation", "1G"]);
    bench.ok(&["snapshot", "create", "group/ü disk@1", "other@1"]);
    bench.ok(&["clone", "create", "group/ü disk@1", "copy"]);
    assert_eq!(bench.json(&["volume", "show", "group/ü disk"])["size_bytes"], 10u64 << 30);
    assert_eq!(bench.json(&["volume", "show", "group/ü disk@1"])["kind"], "snapshot");
    assert_eq!(bench.json(&["pool", "status"])["served"], true);
    bench.fails(Kind::Exists, &["volume", "create", "other", "--size", "1G"]);
    bench.fails(Kind::NotFound, &["volume", "delete", "other", "nope"]);
    bench.fails(Kind::Invalid, &["volume", "create", "odd", "--size", "1000"]);
    let busy = bench.fails(Kind::Busy, &["volume", "delete", "copy", "other"]);
    assert!(busy.contains("'other': it has snapshots: 'other@1'") && busy.contains("--snapshots"), "{busy}");
    bench.ok(&["volume", "delete", "copy", "other", "--snapshots"]);
    assert_eq!(bench.names("volume"), ["group/ü disk"]);
    assert!(bench.json(&["pool", "trim"])["punched_bytes"].is_u64());
    let owner = format!("hint: process {} on", std::process::id());
    assert!(bench.fails(Kind::InUse, &["pool", "check"]).contains(&owner));
    bench.fails(Kind::InUse, &["pool", "create", "--size", "64M", "--force"]);
    bench.fails(Kind::InUse, &["serve"]);
    let bench = served.stop();
    assert_eq!(bench.json(&["pool", "status"])["served"], false);
    assert_eq!(bench.names("snapshot"), ["group/ü disk@1"]);
    bench.ok(&["pool", "check"]);
}

#[test]
fn a_stale_socket_does_not_hide_the_files() {
    let bench = Bench::with_pool();
    let socket = PoolDirectory::new(bench.pool()).control_socket();
    drop(UnixListener::bind(&socket).unwrap());
    bench.ok(&["volume", "create", "disk", "--size", "1G"]);
    assert!(socket.exists());
}

#[test]
fn many_clients_ask_at_once() {
    let served = Served::new();
    let socket = served.directory.control_socket();
    std::thread::scope(|scope| {
        for client in 0..8 {
            let socket = &socket;
            scope.spawn(move || {
                let mut remote = Remote::connect(socket).unwrap().unwrap();
                for number in 0..4 {
                    remote.create_volume(&format!("{client}/{number}"), 1 << 30, 0).unwrap();
                }
            });
        }
    });
    assert_eq!(served.bench.names("volume").len(), 32);
    served.stop();
}

/// Answers everything with an error of one kind.
struct Fails(Kind);

impl Fails {
    fn error<T>(&self) -> Result<T> {
        Err(Error::new(self.0, "as the test wishes").hint("none"))
    }
}

impl Transfer for Fails {
    fn difference(&mut self, _: &AskDifferenceView) -> Result<DifferenceView> {
        self.error()
    }

    fn send(&mut self, _: &SendView, _: &mut dyn Write, _: &mut Progress<'_>) -> Result<()> {
        self.error()
    }

    fn receive(&mut self, _: Option<&str>, _: &mut (dyn Read + Send)) -> Result<VolumeView> {
        self.error()
    }

    fn arrivals(&mut self) -> Result<Vec<ArrivalView>> {
        self.error()
    }

    fn abort(&mut self, _: &str) -> Result<()> {
        self.error()
    }
}

impl Picture for Fails {
    fn start_picture(&mut self, _: &NewPictureView) -> Result<ArrivalView> {
        self.error()
    }

    fn fill_picture(&mut self, _: &str, _: &FillView) -> Result<FilledView> {
        self.error()
    }

    fn finish_picture(&mut self, _: &str, _: &FinishPictureView) -> Result<VolumeView> {
        self.error()
    }

    fn mappings(&mut self, _: &AskMappingsView) -> Result<MappingsView> {
        self.error()
    }
}

impl Manage for Fails {
    fn status(&mut self) -> Result<PoolView> {
        self.error()
    }

    fn extend(&mut self, _: u64) -> Result<PoolView> {
        self.error()
    }

    fn trim(&mut self, _: &TrimView) -> Result<TrimmedView> {
        self.error()
    }

    fn configure(&mut self, _: &ConfigurationView) -> Result<PoolView> {
        self.error()
    }

    fn volumes(&mut self) -> Result<Vec<VolumeView>> {
        self.error()
    }

    fn usage(&mut self, _: &AskUsageView) -> Result<UsageView> {
        self.error()
    }

    fn create_volume(&mut self, _: &str, _: u64, _: u64) -> Result<VolumeView> {
        self.error()
    }

    fn create_snapshots(&mut self, _: &[String]) -> Result<Vec<VolumeView>> {
        self.error()
    }

    fn create_clone(&mut self, _: &str, _: &str) -> Result<VolumeView> {
        self.error()
    }

    fn delete(&mut self, _: &DeletionView) -> Result<DeletedView> {
        self.error()
    }

    fn change(&mut self, _: &str, _: &ChangeView) -> Result<ChangedView> {
        self.error()
    }
}

#[test]
fn every_kind_of_error_comes_back_as_its_exit_code() {
    for (kind, ..) in TABLE {
        let bench = Bench::empty();
        std::fs::create_dir(bench.pool()).unwrap();
        let socket = PoolDirectory::new(bench.pool()).control_socket();
        let _control = Control::start(&socket, Arc::new(Mutex::new(Fails(kind)))).unwrap();
        assert!(bench.fails(kind, &["pool", "status"]).contains("error: as the test wishes\nhint: none"));
        bench.fails(kind, &["volume", "create", "disk", "--size", "1G"]);
    }
}

#[test]
fn a_server_that_speaks_nonsense_is_a_failure() {
    let bench = Bench::with_pool();
    let listener = UnixListener::bind(PoolDirectory::new(bench.pool()).control_socket()).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.unwrap().write_all(b"nonsense\r\n\r\n");
        }
    });
    assert!(bench.fails(Kind::Failure, &["volume", "list"]).contains("does not answer well"));
}

/// One request as written by hand: the status line and the body.
fn by_hand(directory: &PoolDirectory, request: &str, body: &str) -> (u16, serde_json::Value) {
    let mut stream = UnixStream::connect(directory.control_socket()).unwrap();
    let length = body.len();
    let head = format!(
        "{request} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
    );
    stream.write_all((head + body).as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).expect(&answer))
}

#[test]
fn the_routes_answer_as_documented() {
    let served = Served::new();
    let ask = |request: &str, body: &str| by_hand(&served.directory, request, body);
    let volume = r#"{"name":"group/disk","size_bytes":1073741824}"#;
    assert_eq!(ask("POST /v1/volumes", volume).0, 201);
    assert_eq!(ask("POST /v1/volumes", volume).0, 409);
    assert_eq!(ask("POST /v1/snapshots", r#"{"names":["group/disk@1"]}"#).0, 201);
    assert_eq!(ask("POST /v1/clones", r#"{"snapshot":"group/disk@1","name":"copy"}"#).1["name"], "copy");
    assert_eq!(ask("GET /v1/volumes/group%2Fdisk", "").1["name"], "group/disk");
    assert_eq!(ask("GET /v1/snapshots/group%2Fdisk%401", "").1["name"], "group/disk@1");
    assert_eq!(ask("GET /v1/volumes", "").1["volumes"].as_array().unwrap().len(), 2);
    assert_eq!(ask("GET /v1/snapshots", "").1["snapshots"].as_array().unwrap().len(), 1);
    assert_eq!(ask("DELETE /v1/snapshots/group%2Fdisk%401", "").1["deleted"][0], "group/disk@1");
    let change = |name: &str, body: &str| ask(&format!("PATCH /v1/{name}"), body);
    assert_eq!(
        change("volumes/copy", r#"{"resize":{"size_bytes":2147483648}}"#).1["volume"]["size_bytes"],
        2u64 << 30
    );
    assert_eq!(change("volumes/copy", r#"{"resize":{"size_bytes":4096}}"#).0, 400);
    let smaller = change("volumes/copy", r#"{"resize":{"size_bytes":4096,"shrink":true}}"#);
    assert_eq!(smaller.1["volume"]["size_bytes"], 4096);
    assert_eq!(change("volumes/copy", r#"{"rename":{"name":"group/disk"}}"#).0, 409);
    assert_eq!(
        ask("POST /v1/snapshots", r#"{"names":["**@2"]}"#).1["snapshots"].as_array().unwrap().len(),
        2
    );
    assert_eq!(change("snapshots/copy%402", r#"{"hold":{"tag":"t"}}"#).1["volume"]["holds"][0], "t");
    assert_eq!(change("snapshots/copy%402", r#"{"rollback":{}}"#).1["volume"]["name"], "copy");
    assert_eq!(ask("POST /v1/deletions", r#"{"names":["copy@2"]}"#).0, 409);
    let later = ask("POST /v1/deletions", r#"{"names":["copy@2","group/disk@2"],"deferred":true}"#).1;
    assert_eq!((&later["deleted"][0], &later["deferred"][0]), (&"group/disk@2".into(), &"copy@2".into()));
    assert_eq!(ask("GET /v1/snapshots/copy%402", "").1["deletion_deferred"], true);
    assert!(change("snapshots/copy%402", r#"{"release":{"tag":"t"}}"#).1["volume"].is_null());
    assert_eq!(change("volumes/copy", r#"{"explode":{}}"#).0, 400);
    let trimmed = ask("POST /v1/pool/trims", "{}");
    assert_eq!((trimmed.0, &trimmed.1["next_bytes"]), (200, &serde_json::Value::Null));
    assert_eq!(ask("POST /v1/pool/trims", r#"{"offset_bytes":1152921504606846976}"#).1["punched_bytes"], 0);
    assert_eq!(ask("DELETE /v1/volumes/nope", "").0, 404);
    assert_eq!(ask("DELETE /v1/volumes/a%401", "").0, 400);
    assert_eq!(ask("POST /v1/deletions", r#"{"names":["copy","group/disk"]}"#).0, 200);
    let wrong = [
        ("POST /v1/volumes", r#"{"name":"x"}"#, 400, "usage"),
        ("POST /v1/volumes", r#"{"name":"x","size_bytes":4096,"size":1}"#, 400, "usage"),
        ("POST /v1/volumes", r#"{"name":"x","size_bytes":1000}"#, 400, "invalid"),
        ("GET /v1/nothing", "", 404, "not-found"),
        ("POST /v1/usages", r#"{"names":["nope"]}"#, 404, "not-found"),
        ("POST /v1/usages", r#"{"names":[]}"#, 422, "limit"),
        ("PUT /v1/pool", "", 405, "usage"),
        ("GET /v1/volumes/%ff", "", 400, "invalid"),
    ];
    for (request, body, status, kind) in wrong {
        let (found, error) = ask(request, body);
        assert_eq!((found, &error["kind"]), (status, &kind.into()), "{request}");
        assert!(error["hint"].is_string());
    }
    served.stop();
}

#[test]
fn curl_can_ask() {
    if Command::new("curl").arg("--version").output().is_err() {
        println!("skipped: there is no curl");
        return;
    }
    let served = Served::new();
    served.bench.ok(&["volume", "create", "group/disk", "--size", "1G"]);
    let url = format!("http://localhost/v1/volumes/{}", encode_name("group/disk"));
    let socket = served.directory.control_socket();
    let asked = ran(Command::new("curl").args(["--silent", "--fail", "--unix-socket"]).arg(socket).arg(url));
    let view: VolumeView = serde_json::from_str(&asked.out).expect(&asked.err);
    assert_eq!((view.name.as_str(), view.size_bytes), ("group/disk", 1 << 30));
    served.stop();
}

#[test]
fn a_client_that_hangs_does_not_keep_the_server() {
    let served = Served::new();
    let mut half = UnixStream::connect(served.directory.control_socket()).unwrap();
    half.write_all(b"POST /v1/volumes HTTP/1.1\r\ncontent-length: 100\r\n\r\n{").unwrap();
    served.control.stop().unwrap();
}
