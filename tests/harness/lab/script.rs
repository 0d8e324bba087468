//! Owns what a script asks for, and what comes back from it.

use super::error::Error;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Folders of the host that are not seen inside, because the machine has its own there.
const HIDDEN: [&str; 6] = ["/dev", "/proc", "/sys", "/run", "/lab", "/out"];

/// A bash script, and the machine that it wants.
#[derive(Clone, Debug)]
pub struct Script {
    /// Run by bash as root, in the folder `/lab`, with no input.
    pub text: String,
    /// Kernel modules to load before; what the kernel asks for by itself is loaded without.
    pub modules: Vec<String>,
    /// Paths of the host that the script uses, by the same paths. All of the host is seen inside; what is named here
    /// is looked for before the machine starts.
    pub host_files: Vec<PathBuf>,
    /// Small files that are laid into `/lab`, by name.
    pub files: BTreeMap<String, Vec<u8>>,
    /// Raw images of the host that become `/dev/vda`, `/dev/vdb` and so on, writable. What the script did not sync or
    /// unmount may be missing in them.
    pub disks: Vec<PathBuf>,
    /// Memory of the machine.
    pub memory_mib: u32,
    /// From the start of the machine, so it includes about ten seconds until the script runs.
    pub timeout: Duration,
}

impl Script {
    /// `text` with nothing else, 2 GiB and three minutes.
    pub fn new(text: impl Into<String>) -> Script {
        Script {
            text: text.into(),
            modules: Vec::new(),
            host_files: Vec::new(),
            files: BTreeMap::new(),
            disks: Vec::new(),
            memory_mib: 2048,
            timeout: Duration::from_secs(180),
        }
    }

    /// Loads `names` before the script starts.
    pub fn modules(mut self, names: &[&str]) -> Script {
        self.modules.extend(names.iter().map(|&name| name.to_owned()));
        self
    }

    /// Lays a file `name` into `/lab`.
    pub fn file(mut self, name: &str, content: impl Into<Vec<u8>>) -> Script {
        self.files.insert(name.to_owned(), content.into());
        self
    }

    /// Requires `path` of the host.
    pub fn host_file(mut self, path: impl Into<PathBuf>) -> Script {
        self.host_files.push(path.into());
        self
    }

    /// Attaches the image at `path` of the host.
    pub fn disk(mut self, path: impl Into<PathBuf>) -> Script {
        self.disks.push(path.into());
        self
    }

    /// Sets the time limit.
    pub fn timeout(mut self, timeout: Duration) -> Script {
        self.timeout = timeout;
        self
    }

    /// Whether the host can give what is asked for.
    pub(super) fn check(&self) -> Result<(), Error> {
        let wrong = |what: String| Err(Error::Script(what));
        for path in &self.host_files {
            if !path.exists() {
                return wrong(format!("{} does not exist", path.display()));
            }
            if !path.is_absolute() || HIDDEN.iter().any(|hidden| path.starts_with(hidden)) {
                return wrong(format!("{} is not seen inside", path.display()));
            }
        }
        if let Some(path) = self.disks.iter().find(|path| !path.is_file()) {
            return wrong(format!("{} is no image", path.display()));
        }
        match self.files.keys().find(|name| !is_plain(name)) {
            Some(name) => wrong(format!("`{name}` is no name of a file")),
            None => Ok(()),
        }
    }
}

/// A name without folders, and not one that the lab uses itself.
fn is_plain(name: &str) -> bool {
    Path::new(name).file_name().is_some_and(|last| last == name) && !name.starts_with('.')
}

/// What came back from a script that ran to its end.
#[derive(Debug)]
pub struct Outcome {
    /// The script's exit status; 128 and the signal's number if one ended it.
    pub status: i32,
    /// What the script and its children printed, in order.
    pub output: String,
    /// What the kernel printed.
    pub console: String,
    /// The files that the script left in `/out`, by their path below it.
    pub files: BTreeMap<String, Vec<u8>>,
}

impl Outcome {
    /// Panics with everything that was printed unless the script succeeded.
    pub fn expect_success(self) -> Outcome {
        assert_eq!(
            self.status, 0,
            "the script failed\n== output\n{}\n== console\n{}",
            self.output, self.console
        );
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_host_cannot_give_is_refused() {
        let check = |script: Script| script.check().is_ok();
        assert!(check(Script::new("true").file("a", "b").host_file("/usr")));
        assert!(!check(Script::new("true").host_file("/usr/not/there")));
        assert!(!check(Script::new("true").host_file("/proc/self")));
        assert!(!check(Script::new("true").disk("/usr")));
        for name in ["", "..", "a/b", "/a", ".run"] {
            assert!(!check(Script::new("true").file(name, "")), "{name}");
        }
    }
}
