//! The servers that are compared, each as its users start it.
//!
//! Owns their processes and their files on the host.

use crate::host::{Host, run};
use std::path::PathBuf;
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
    /// nbdkit with a sparse file.
    NbdkitFile,
}

impl Which {
    /// All, in the order of the table.
    pub const ALL: [Self; 4] = [Self::Vellum, Self::VellumThreads, Self::Qcow2, Self::NbdkitFile];

    /// For the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vellum => "vellum",
            Self::VellumThreads => "vellum --io threads",
            Self::Qcow2 => "qemu-nbd qcow2",
            Self::NbdkitFile => "nbdkit file",
        }
    }

    /// Whether it has snapshots.
    pub fn has_snapshots(self) -> bool {
        self != Self::NbdkitFile
    }
}

/// A server that runs, with one export of 1 GiB.
pub struct Server {
    which: Which,
    folder: PathBuf,
    process: Child,
}

const SIZE: &str = "1G";
const EXPORT: &str = "disk";

impl Server {
    /// Starts it on empty storage. `vellum` is our program.
    pub fn start(which: Which, host: &Host, vellum: &str) -> Result<Self, String> {
        let folder = host.path().join(which.name().replace(' ', "-"));
        std::fs::create_dir_all(&folder).map_err(|cause| cause.to_string())?;
        match which {
            Which::Qcow2 => {
                run("qemu-img", &["create", "-q", "-f", "qcow2", &path(&folder, "image"), SIZE]).map(drop)?;
            }
            Which::NbdkitFile => {
                let file = std::fs::File::create(folder.join("image"));
                file.and_then(|file| file.set_len(1 << 30)).map_err(|cause| cause.to_string())?;
            }
            Which::Vellum | Which::VellumThreads => {}
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
            Which::Vellum | Which::VellumThreads => {
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

fn path(folder: &std::path::Path, name: &str) -> String {
    folder.join(name).to_string_lossy().into_owned()
}

fn spawn(which: Which, folder: &std::path::Path, vellum: &str) -> Result<Child, String> {
    let (image, socket) = (path(folder, "image"), path(folder, "nbd.sock"));
    let pool = folder.to_string_lossy().into_owned();
    let io = if which == Which::VellumThreads { "threads" } else { "ring" };
    let words: Vec<&str> = match which {
        Which::Vellum | Which::VellumThreads => {
            vec![vellum, "--pool", &pool, "serve", "--create", "2G", "--volume", "disk=1G", "--io", io]
        }
        Which::Qcow2 => vec![
            "qemu-nbd",
            "--persistent",
            "--shared=0",
            "--format=qcow2",
            "--cache=none",
            "--aio=io_uring",
            "--discard=unmap",
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
