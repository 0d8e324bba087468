//! The servers that are compared, each as its users start it.
//!
//! Owns their processes and their files on the host.

use crate::host::{Host, run};
use crate::load::Client;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// One of the servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Ours, in its default mode.
    Vellum,
    /// Ours through threads instead of io_uring.
    VellumThreads,
    /// qemu-nbd with a qcow2 image, past the page cache.
    Qcow2,
    /// Ours, past the page cache.
    VellumDirect,
    /// nbdkit with a sparse file.
    NbdkitFile,
}

impl Which {
    /// Those of the comparison by operations, in the order of its table.
    pub const ALL: [Self; 4] = [Self::Vellum, Self::VellumThreads, Self::Qcow2, Self::NbdkitFile];

    /// For the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vellum => "vellum",
            Self::VellumThreads => "vellum --io threads",
            Self::VellumDirect => "vellum --cache direct",
            Self::Qcow2 => "qemu-nbd qcow2",
            Self::NbdkitFile => "nbdkit file",
        }
    }

    fn is_vellum(self) -> bool {
        matches!(self, Self::Vellum | Self::VellumThreads | Self::VellumDirect)
    }

    /// Whether it has snapshots.
    pub fn has_snapshots(self) -> bool {
        self != Self::NbdkitFile
    }
}

/// A server that runs, with one export.
pub struct Server {
    which: Which,
    folder: PathBuf,
    process: Child,
}

const EXPORT: &str = "disk";

impl Server {
    /// Starts it on empty storage, with an export of `size_bytes`. `vellum` is our program.
    pub fn start(which: Which, host: &Host, vellum: &str, size_bytes: u64) -> Result<Self, String> {
        let folder = host.path().join(which.name().replace(' ', "-"));
        std::fs::create_dir_all(&folder).map_err(|cause| cause.to_string())?;
        match which {
            Which::Qcow2 => {
                let size = size_bytes.to_string();
                run("qemu-img", &["create", "-q", "-f", "qcow2", &path(&folder, "image"), &size])?;
            }
            Which::NbdkitFile => {
                let file = std::fs::File::create(folder.join("image"));
                file.and_then(|file| file.set_len(size_bytes)).map_err(|cause| cause.to_string())?;
            }
            Which::Vellum | Which::VellumThreads | Which::VellumDirect => {
                let pool_size = (2 * size_bytes).to_string();
                run(vellum, &["--pool", &folder.to_string_lossy(), "pool", "create", "--size", &pool_size])?;
                let size = size_bytes.to_string();
                run(
                    vellum,
                    &["--pool", &folder.to_string_lossy(), "volume", "create", EXPORT, "--size", &size],
                )?;
            }
        }
        let process = spawn(which, &folder, vellum)?;
        let server = Self { which, folder, process };
        server.wait_for_socket()?;
        Ok(server)
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("nbd.sock")
    }

    /// A client of the export.
    pub fn connect(&self) -> Result<Client, String> {
        Client::connect(&self.socket(), self.export()).map_err(|cause| cause.to_string())
    }

    /// The file that holds the data.
    pub fn data_file(&self) -> PathBuf {
        self.folder.join(if self.which.is_vellum() { "data" } else { "image" })
    }

    /// The name of the export.
    pub fn export(&self) -> &'static str {
        if self.which == Which::NbdkitFile { "" } else { EXPORT }
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Takes a snapshot of the export, with the server stopped where it cannot do that itself.
    pub fn snapshot(&mut self, vellum: &str) -> Result<(), String> {
        match self.which {
            Which::Vellum | Which::VellumThreads | Which::VellumDirect => {
                let pool = self.folder.to_string_lossy().into_owned();
                run(vellum, &["--pool", &pool, "snapshot", "create", "disk@one"]).map(drop)
            }
            Which::Qcow2 => {
                self.stop();
                run("qemu-img", &["snapshot", "-c", "one", &path(&self.folder, "image")])?;
                self.process = spawn(self.which, &self.folder, vellum)?;
                self.wait_for_socket()
            }
            Which::NbdkitFile => Err("nbdkit has no snapshots".to_owned()),
        }
    }

    fn wait_for_socket(&self) -> Result<(), String> {
        let begin = Instant::now();
        while std::os::unix::net::UnixStream::connect(self.socket()).is_err() {
            if begin.elapsed() > Duration::from_secs(20) {
                return Err(format!("{} does not listen", self.which.name()));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    fn stop(&mut self) {
        let _ = run("kill", &["-TERM", &self.pid().to_string()]);
        let _ = self.process.wait();
        let _ = std::fs::remove_file(self.socket());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

fn path(folder: &Path, name: &str) -> String {
    folder.join(name).to_string_lossy().into_owned()
}

fn spawn(which: Which, folder: &Path, vellum: &str) -> Result<Child, String> {
    let (image, socket) = (path(folder, "image"), path(folder, "nbd.sock"));
    let pool = folder.to_string_lossy().into_owned();
    let io = if which == Which::VellumThreads { "threads" } else { "ring" };
    let words: Vec<&str> = match which {
        Which::VellumDirect => vec![vellum, "--pool", &pool, "serve", "--cache", "direct"],
        Which::Vellum | Which::VellumThreads => {
            vec![vellum, "--pool", &pool, "serve", "--io", io]
        }
        Which::Qcow2 => vec![
            "qemu-nbd",
            "--persistent",
            "--shared=0",
            "--format=qcow2",
            "--cache=none",
            "--aio=io_uring",
            "--discard=unmap",
            "--detect-zeroes=off",
            "--export-name",
            EXPORT,
            "--socket",
            &socket,
            &image,
        ],
        Which::NbdkitFile => vec!["nbdkit", "--foreground", "--unix", &socket, "file", &image],
    };
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::null());
    command.spawn().map_err(|cause| format!("{}: {cause}", words[0]))
}

/// What a pool says of itself.
pub struct Status(serde_json::Value);

impl Status {
    /// Asks for it. `vellum` is our program, `folder` the pool's.
    pub fn of(vellum: &str, folder: &Path) -> Result<Self, String> {
        let text = run(vellum, &["--json", "--pool", &folder.to_string_lossy(), "pool", "status"])?;
        serde_json::from_str(&text).map(Self).map_err(|cause| cause.to_string())
    }

    /// A number, by its name in the JSON.
    ///
    /// # Panics
    /// If there is no such number.
    pub fn number(&self, key: &str) -> u64 {
        self.0[key].as_u64().unwrap_or_else(|| panic!("the status has no number `{key}`"))
    }
}

/// Builds our program and gives its path.
pub fn build_vellum() -> Result<String, String> {
    run(env!("CARGO"), &["build", "--release", "--locked", "-p", "vellum-cli"])?;
    let bench = std::env::current_exe().map_err(|cause| cause.to_string())?;
    let folder = bench.ancestors().nth(2).ok_or("no target folder")?;
    Ok(folder.join("vellum").to_string_lossy().into_owned())
}
