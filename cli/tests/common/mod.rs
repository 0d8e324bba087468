//! A pool in a temporary directory and the program `vellum` run on it.
//!
//! Owns what every test of the program does first.

use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use vellum_cli::exit::Kind;

/// The program under test.
pub const VELLUM: &str = env!("CARGO_BIN_EXE_vellum");

/// A temporary directory, and a pool's directory in it that is not made yet.
pub struct Bench {
    folder: tempfile::TempDir,
}

/// What a run of the program came to.
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Bench {
    /// Without a pool.
    pub fn empty() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    /// With a pool of 64 MiB.
    pub fn with_pool() -> Self {
        let bench = Self::empty();
        bench.ok(&["pool", "create", "--size", "64M"]);
        bench
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn pool(&self) -> PathBuf {
        self.path("pool")
    }

    pub fn run(&self, arguments: &[&str]) -> Ran {
        run_on(&self.pool(), arguments)
    }

    /// Runs a command that must succeed, and gives its standard output.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let ran = self.run(arguments);
        assert_eq!(ran.code, 0, "{arguments:?}: {}", ran.err);
        ran.out
    }

    /// Runs a command that must succeed with `--json`.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let out = self.ok(&[arguments, &["--json"]].concat());
        assert_eq!(out.lines().count(), 1);
        serde_json::from_str(&out).unwrap()
    }

    /// Runs a command that must fail with `kind`, as text and as JSON, and gives what it says.
    pub fn fails(&self, kind: Kind, arguments: &[&str]) -> String {
        let ran = self.run(arguments);
        assert_eq!(ran.code, i32::from(kind.code()), "{arguments:?}: {}", ran.err);
        let lines: Vec<&str> = ran.err.lines().collect();
        assert!(
            lines.len() == 2 && lines[0].starts_with("error: ") && lines[1].starts_with("hint: "),
            "{lines:?}"
        );
        let json = self.run(&[&["--json"], arguments].concat());
        let error: Value = serde_json::from_str(&json.err).expect(&json.err);
        assert_eq!((json.code, json.err.lines().count()), (i32::from(kind.code()), 1));
        assert_eq!((&error["kind"], &error["exit_code"]), (&kind.name().into(), &kind.code().into()));
        assert!(error["message"].is_string() && error["hint"].is_string());
        ran.err
    }

    /// Starts a server, once it has told where its exports are.
    pub fn serve(&self, arguments: &[&str]) -> Served {
        let mut command = Command::new(VELLUM);
        command.env_remove("VELLUM_POOL").arg("--pool").arg(self.pool()).arg("--json").args(arguments);
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut told = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut told).unwrap();
        assert!(told.contains("nbd+unix://"), "{told}");
        Served { process }
    }

    /// Names of a list in JSON.
    pub fn names(&self, noun: &str) -> Vec<String> {
        let list = self.json(&[noun, "list"]);
        let list = list[format!("{noun}s")].as_array().unwrap().clone();
        list.iter().map(|item| item["name"].as_str().unwrap().to_owned()).collect()
    }
}

pub fn run_on(pool: &Path, arguments: &[&str]) -> Ran {
    ran(Command::new(VELLUM).env_remove("VELLUM_POOL").arg("--pool").arg(pool).args(arguments))
}

pub fn ran(command: &mut Command) -> Ran {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: status.code().unwrap(), out: text(stdout), err: text(stderr) }
}

/// A server that runs until it is stopped, or killed when this is dropped.
pub struct Served {
    process: Child,
}

impl Served {
    /// Ends it as an administrator would. It must end well.
    pub fn stop(mut self) {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        assert_eq!(self.process.wait().unwrap().code(), Some(0));
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
