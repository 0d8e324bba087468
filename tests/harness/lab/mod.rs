//! The kernel lab: runs a script in a virtual machine whose kernel has what the host's may lack (nbd, device-mapper).
//!
//! The machine sees the host's root read-only under a layer of memory that takes all changes, so the host's tools and
//! this repository's binaries run inside by their own paths, and nothing that a script does outlasts it except what
//! it writes to `/out` and to its disks. Owns the prepared kernel in the target directory and the folder of each run.
//! Read `script.rs` for what a script can ask for, `init.sh` for what happens inside, `prepare.sh` for the kernel.

mod error;
mod machine;
mod script;

pub use error::{Error, Remains};
pub use script::{Outcome, Script};

use machine::Machine;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, io};
use tempfile::TempDir;

const INIT: &str = include_str!("init.sh");
const PREPARE: &str = include_str!("prepare.sh");

/// `prepare.sh` exits with it when the host lacks something.
const STATUS_MISSING: i32 = 3;

/// A prepared kernel. Every run of a script boots it anew, and several may run at once.
#[derive(Debug)]
pub struct Lab {
    cache: PathBuf,
    boot: PathBuf,
}

impl Lab {
    /// Fetches and unpacks the kernel unless that was done before. Tests that run at once wait for each other here.
    pub fn prepare() -> Result<Lab, Error> {
        let cache = cache_folder()?;
        let _lock = lock(&cache)?;
        remove_abandoned_runs(&cache);
        let mut recipe = DefaultHasher::new();
        (INIT, PREPARE).hash(&mut recipe);
        let recipe = format!("{:016x}", recipe.finish());
        let mut prepare = Command::new("bash");
        prepare.args(["-c", PREPARE, "prepare"]).arg(&cache).args([&recipe, INIT]);
        let made = prepare.env("PATH", search_path()).output().map_err(|error| host("bash", error))?;
        let said = String::from_utf8_lossy(&made.stderr).trim().to_owned();
        match (made.status.code(), String::from_utf8_lossy(&made.stdout).lines().last()) {
            (Some(0), Some(boot)) => Ok(Lab { cache, boot: PathBuf::from(boot) }),
            (Some(STATUS_MISSING), _) => Err(Error::Missing(said)),
            _ => Err(Error::Host(format!("the kernel could not be prepared: {said}"))),
        }
    }

    /// Boots a machine, runs `script` in it, and ends it. Returns an outcome whatever the script's status is.
    pub fn run(&self, script: &Script) -> Result<Outcome, Error> {
        script.check()?;
        let run = Run::new(&self.cache)?;
        run.fill(script, &self.boot.join("modules"))?;
        let mut machine = Machine::start(&self.boot, run.path(), &script.disks, script.memory_mib)?;
        let ended = machine.wait(script.timeout)?;
        drop(machine);
        run.outcome(ended)
    }
}

/// The folder through which one machine talks with the host; removed when dropped.
struct Run {
    folder: TempDir,
    /// Held as long as the folder is in use.
    _lock: File,
}

impl Run {
    fn new(cache: &Path) -> Result<Run, Error> {
        let _lock = lock(cache)?;
        let folder = tempfile::Builder::new().prefix("run-").tempdir_in(cache);
        let folder = folder.map_err(|error| host("a folder for the run", error))?;
        let _lock = lock(folder.path())?;
        Ok(Run { folder, _lock })
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Writes what `init.sh` reads.
    fn fill(&self, script: &Script, modules: &Path) -> Result<(), Error> {
        let run = format!("{}cd /lab; {}", modules_loaded(&script.modules), script.text);
        // The kernel's own news of what hangs should come before the end, but not long before.
        let warning = (script.timeout * 9 / 10).as_secs().max(1).to_string();
        let modules = modules.display().to_string();
        self.write("files/.run", run.as_bytes())?;
        self.write("modules-folder", modules.as_bytes())?;
        self.write("warning", warning.as_bytes())?;
        for (name, content) in &script.files {
            self.write(&format!("files/{name}"), content)?;
        }
        fs::create_dir(self.path().join("out")).map_err(|error| host("out", error))
    }

    fn write(&self, name: &str, content: &[u8]) -> Result<(), Error> {
        let path = self.path().join(name);
        let folder = path.parent().unwrap_or(self.path());
        fs::create_dir_all(folder).and_then(|()| fs::write(&path, content)).map_err(|error| host(name, error))
    }

    /// What the machine left, after it `ended` or was killed.
    fn outcome(&self, ended: bool) -> Result<Outcome, Error> {
        let output = self.read("output");
        let console = self.read("console") + &self.read("emulator");
        let status = self.read("status");
        if let Some(status) = status.strip_suffix('\n').and_then(|status| status.parse().ok()) {
            let files = files_below(&self.path().join("out")).map_err(|error| host("out", error))?;
            return Ok(Outcome { status, output, console, files });
        }
        let panicked = console.contains("Kernel panic - not syncing");
        let remains = Remains { output, console };
        Err(match ended {
            _ if panicked => Error::Panic(remains),
            false => Error::Hang(remains),
            true => Error::Lost(remains),
        })
    }

    /// The text of a file, empty if there is none.
    fn read(&self, name: &str) -> String {
        fs::read(self.path().join(name))
            .map(|text| String::from_utf8_lossy(&text).into_owned())
            .unwrap_or_default()
    }
}

/// The lines before a script that load `modules`.
fn modules_loaded(modules: &[String]) -> String {
    let load = |module: &String| format!("modprobe {module} || exit 125; ");
    modules.iter().map(load).collect()
}

/// Plain files below `folder`, by their path in it. Whatever else a script made there is passed over.
fn files_below(folder: &Path) -> io::Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let kind = entry.file_type()?;
        if kind.is_file() {
            files.insert(name, fs::read(entry.path())?);
        } else if kind.is_dir() {
            let inner = files_below(&entry.path())?;
            files.extend(inner.into_iter().map(|(path, content)| (format!("{name}/{path}"), content)));
        }
    }
    Ok(files)
}

/// `lab` in the target directory that this program was built in, or among temporary files if it was moved.
fn cache_folder() -> Result<PathBuf, Error> {
    let program =
        env::current_exe().and_then(fs::canonicalize).map_err(|error| host("this program", error))?;
    let target = program.ancestors().find(|folder| folder.join("CACHEDIR.TAG").is_file());
    let cache = target.map_or_else(|| env::temp_dir().join("vellum-lab"), |target| target.join("lab"));
    fs::create_dir_all(&cache).map_err(|error| host("the cache", error))?;
    fs::canonicalize(&cache).map_err(|error| host("the cache", error))
}

/// Locks `folder` until the file is dropped.
fn lock(folder: &Path) -> Result<File, Error> {
    let file = File::create(folder.join("lock")).map_err(|error| host("lock", error))?;
    file.lock().map_err(|error| host("lock", error))?;
    Ok(file)
}

/// Removes the folders of runs whose process was killed. The caller holds the cache's lock.
fn remove_abandoned_runs(cache: &Path) {
    let entries = fs::read_dir(cache).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("run-")) {
        let lock = File::open(entry.path().join("lock"));
        if lock.is_ok_and(|lock| lock.try_lock().is_ok()) {
            // Somebody else's leftovers: if they stay, they harm nobody.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Where programs are looked for: users' search paths often lack the folders of administrators' tools.
fn search_path() -> OsString {
    let mut path = env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/sbin:/usr/bin:/bin");
    path
}

fn host(what: &str, error: impl std::fmt::Display) -> Error {
    Error::Host(format!("{what}: {error}"))
}
