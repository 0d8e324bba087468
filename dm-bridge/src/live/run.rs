//! Runs the programs that speak with the kernel.
//!
//! Owns how: an explicit list of arguments, no input, messages in English, and what they say on standard error in the error. Nothing
//! but an error's kind is read out of such messages. A program that changes something is in a process group of its own, so that a
//! signal from the terminal does not end it half-way; and it holds the lock of whoever runs it, so that nobody else goes on before
//! it is done, even if that one was killed.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io::ErrorKind as Cause;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How often a program is looked at that may run for long.
const POLL: Duration = Duration::from_millis(20);
/// How long a program that was told to end may take for it. The kernel may keep it from that.
const END: Duration = Duration::from_secs(2);
/// Users' search paths often lack the folders of administrators' programs.
const FOLDERS: &str = "/usr/sbin:/sbin:/usr/bin:/bin";

/// A program, and the package of Debian that has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Program {
    pub name: &'static str,
    pub package: &'static str,
}

/// What kind of thing went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The program is not installed.
    NotInstalled,
    /// The kernel has no device-mapper.
    NoDeviceMapper,
    /// This user may not.
    NotAllowed,
    /// Somebody uses the device.
    Busy,
    /// The name, uuid or number is taken.
    Exists,
    /// There is no such device.
    NotFound,
    /// Anything else that a program says.
    Failed,
    /// A program said something that cannot be read.
    Unreadable,
}

/// Why the kernel did not do what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    kind: ErrorKind,
    message: String,
}

impl Error {
    /// An error of this kind.
    pub(super) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// What kind of thing went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What, with the program's own words.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// What a program runs with.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct With<'w> {
    /// Variables of its environment.
    pub environment: &'w [(&'w str, &'w str)],
    /// What is locked as long as it runs.
    pub lock: Option<&'w OwnedFd>,
    /// A signal from the terminal ends it too.
    pub in_foreground: bool,
}

impl Program {
    /// Runs to its end, and gives what it printed.
    pub fn run(self, with: With<'_>, arguments: &[&str]) -> Result<String, Error> {
        let output = self.command(with, arguments)?.output().map_err(|cause| self.no_start(&cause))?;
        self.finished(arguments, &output)
    }

    /// Runs at most for some time. Whether it came to its end.
    pub fn run_for(self, with: With<'_>, arguments: &[&str], limit: Option<Duration>) -> Result<bool, Error> {
        let started = Instant::now();
        let child = self.command(with, arguments)?.stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let mut child = Killed(child.map_err(|cause| self.no_start(&cause))?);
        let failed = |cause: std::io::Error| self.no_start(&cause);
        loop {
            if let Some(status) = child.0.try_wait().map_err(failed)? {
                let mut stderr = Vec::new();
                if let Some(mut pipe) = child.0.stderr.take() {
                    // What it said may be lost; that it failed is not.
                    let _ = std::io::Read::read_to_end(&mut pipe, &mut stderr);
                }
                let output = Output { status, stdout: Vec::new(), stderr };
                return self.finished(arguments, &output).map(|_| true);
            }
            if limit.is_some_and(|limit| started.elapsed() >= limit) {
                return Ok(false);
            }
            sleep(POLL);
        }
    }

    fn command(self, with: With<'_>, arguments: &[&str]) -> Result<Command, Error> {
        let mut command = Command::new(self.name);
        command.args(arguments).env("PATH", search_path(std::env::var_os("PATH"))).env("LC_ALL", "C");
        command.envs(with.environment.iter().copied());
        // None of the programs reads anything: what it gets is there to be held.
        let input = with.lock.map(|lock| lock.try_clone().map(Stdio::from)).transpose();
        command.stdin(input.map_err(|cause| self.no_start(&cause))?.unwrap_or_else(Stdio::null));
        if !with.in_foreground {
            command.process_group(0);
        }
        Ok(command)
    }

    fn no_start(self, cause: &std::io::Error) -> Error {
        let Self { name, package } = self;
        match cause.kind() {
            Cause::NotFound => Error::new(
                ErrorKind::NotInstalled,
                format!("the program `{name}` is not there; the package `{package}` has it"),
            ),
            _ => Error::new(ErrorKind::Failed, format!("`{name}` cannot be run: {cause}")),
        }
    }

    fn finished(self, arguments: &[&str], output: &Output) -> Result<String, Error> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() {
            return Ok(text(&output.stdout));
        }
        let said = text(&output.stderr).split_whitespace().collect::<Vec<_>>().join(" ");
        let said = if said.is_empty() { output.status.to_string() } else { said };
        let kind = kind_of(&said);
        if kind == ErrorKind::Failed && said.contains("device-mapper") && !kernel_has_device_mapper() {
            let message = format!("the kernel has no device-mapper: {said}");
            return Err(Error::new(ErrorKind::NoDeviceMapper, message));
        }
        Err(Error::new(kind, format!("`{} {}`: {said}", self.name, arguments.join(" "))))
    }
}

/// What the system's words for errors mean, which are the same in every program.
fn kind_of(said: &str) -> ErrorKind {
    let kinds = [
        ("Permission denied", ErrorKind::NotAllowed),
        ("Operation not permitted", ErrorKind::NotAllowed),
        ("Device or resource busy", ErrorKind::Busy),
        ("File exists", ErrorKind::Exists),
        ("already exists", ErrorKind::Exists),
        ("No such device or address", ErrorKind::NotFound),
        ("No data available", ErrorKind::NotFound),
    ];
    kinds.into_iter().find(|(words, _)| said.contains(words)).map_or(ErrorKind::Failed, |(_, kind)| kind)
}

/// The user's search path, and the administrators' folders. An empty entry would be the present folder.
fn search_path(path: Option<OsString>) -> OsString {
    let Some(mut path) = path.filter(|path| !path.is_empty()) else { return FOLDERS.into() };
    path.push(":");
    path.push(FOLDERS);
    path
}

fn kernel_has_device_mapper() -> bool {
    fs::read_to_string("/proc/misc").is_ok_and(|misc| misc.contains("device-mapper"))
}

/// A program that does not outlive this, unless the kernel does not let it end.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let started = Instant::now();
        while matches!(self.0.try_wait(), Ok(None)) && started.elapsed() < END {
            sleep(POLL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHELL: Program = Program { name: "sh", package: "dash" };

    #[test]
    fn what_a_program_says_is_in_the_error() {
        let well = With { environment: &[("WORD", "well")], ..With::default() };
        assert_eq!(SHELL.run(well, &["-c", "echo $WORD $LC_ALL"]).unwrap(), "well C\n");
        let error =
            SHELL.run(With::default(), &["-c", "echo 'x failed:\nDevice or resource busy' >&2; exit 3"]);
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy);
        assert!(error.message().ends_with("x failed: Device or resource busy"), "{error}");
        let silent = SHELL.run(With::default(), &["-c", "exit 3"]).unwrap_err();
        assert!(
            silent.kind() == ErrorKind::Failed && silent.message().contains("exit status: 3"),
            "{silent}"
        );
    }

    #[test]
    fn a_program_that_is_not_there_is_named_with_its_package() {
        let error = Program { name: "vellum-has-no-such-program", package: "none" }
            .run(With::default(), &[])
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotInstalled);
        assert!(error.message().contains("package `none`"), "{error}");
    }

    #[test]
    fn waiting_has_an_end() {
        let limit = Some(Duration::from_millis(100));
        assert_eq!(SHELL.run_for(With::default(), &["-c", "sleep 60"], limit), Ok(false));
        assert_eq!(SHELL.run_for(With::default(), &["-c", "true"], None), Ok(true));
        assert!(SHELL.run_for(With::default(), &["-c", "false"], None).is_err());
    }

    #[test]
    fn search_paths_have_no_empty_entry() {
        assert_eq!(search_path(Some("/a:/b".into())), OsString::from(format!("/a:/b:{FOLDERS}")));
        for none in [None, Some(OsString::new())] {
            assert_eq!(search_path(none), FOLDERS);
        }
    }

    #[test]
    fn a_program_holds_the_lock_in_a_group_of_its_own() {
        let lock = OwnedFd::from(fs::File::open("Cargo.toml").unwrap());
        let with = With { lock: Some(&lock), ..With::default() };
        let seen = SHELL.run(with, &["-c", "readlink /proc/$$/fd/0; cut -d' ' -f5 /proc/$$/stat; echo $$"]);
        let seen = seen.unwrap();
        let lines: Vec<&str> = seen.lines().map(str::trim).collect();
        assert!(lines[0].ends_with("Cargo.toml") && lines[1] == lines[2], "{seen}");
    }
}
