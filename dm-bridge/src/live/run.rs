//! Runs the programs that speak with the kernel.
//!
//! Owns how: an explicit list of arguments, no input, messages in English, and what they say on standard error in the error. Nothing
//! but an error's kind is read out of such messages.

use std::fmt;
use std::fs;
use std::io::ErrorKind as Cause;
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How often a program is looked at that may run for long.
const POLL: Duration = Duration::from_millis(50);

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

impl Program {
    /// Runs to its end, and gives what it printed.
    pub fn run(self, environment: &[(&str, &str)], arguments: &[&str]) -> Result<String, Error> {
        let output = self.command(environment, arguments).output().map_err(|cause| self.no_start(&cause))?;
        self.finished(arguments, &output)
    }

    /// Runs at most for some time. Whether it came to its end.
    pub fn run_for(
        self,
        environment: &[(&str, &str)],
        arguments: &[&str],
        limit: Option<Duration>,
    ) -> Result<bool, Error> {
        let started = Instant::now();
        let child = self.command(environment, arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
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

    fn command(self, environment: &[(&str, &str)], arguments: &[&str]) -> Command {
        let mut path = std::env::var_os("PATH").unwrap_or_default();
        // Users' search paths often lack the folders of administrators' programs.
        path.push(":/usr/sbin:/sbin:/usr/bin:/bin");
        let mut command = Command::new(self.name);
        command.args(arguments).env("PATH", path).env("LC_ALL", "C").stdin(Stdio::null());
        command.envs(environment.iter().copied());
        command
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

fn kernel_has_device_mapper() -> bool {
    fs::read_to_string("/proc/misc").is_ok_and(|misc| misc.contains("device-mapper"))
}

/// A program that does not outlive this.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHELL: Program = Program { name: "sh", package: "dash" };

    #[test]
    fn what_a_program_says_is_in_the_error() {
        assert_eq!(SHELL.run(&[("WORD", "well")], &["-c", "echo $WORD $LC_ALL"]).unwrap(), "well C\n");
        let error = SHELL.run(&[], &["-c", "echo 'x failed:\nDevice or resource busy' >&2; exit 3"]);
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy);
        assert!(error.message().ends_with("x failed: Device or resource busy"), "{error}");
        let silent = SHELL.run(&[], &["-c", "exit 3"]).unwrap_err();
        assert!(
            silent.kind() == ErrorKind::Failed && silent.message().contains("exit status: 3"),
            "{silent}"
        );
    }

    #[test]
    fn a_program_that_is_not_there_is_named_with_its_package() {
        let error =
            Program { name: "vellum-has-no-such-program", package: "none" }.run(&[], &[]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotInstalled);
        assert!(error.message().contains("package `none`"), "{error}");
    }

    #[test]
    fn waiting_has_an_end() {
        let limit = Some(Duration::from_millis(100));
        assert_eq!(SHELL.run_for(&[], &["-c", "sleep 60"], limit), Ok(false));
        assert_eq!(SHELL.run_for(&[], &["-c", "true"], None), Ok(true));
        assert!(SHELL.run_for(&[], &["-c", "false"], None).is_err());
    }
}
