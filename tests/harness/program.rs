//! Other programs, run under a deadline: whoever hangs is killed and fails the test.
//!
//! Owns every wait for a process, and the life of a served pool. Read next: `tests/clients`, `tests/kill`.

use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// How long anything may take that is not meant to take long.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks at something that must come.
const GLANCE: Duration = Duration::from_millis(2);

/// What a run of a program came to.
#[derive(Debug)]
pub struct Ran {
    /// Its exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// What it wrote to standard output.
    pub out: String,
    /// What it wrote to standard error.
    pub err: String,
}

/// Looks until `ready` gives something.
///
/// # Panics
/// If that takes longer than [`PATIENCE`].
pub fn wait_for<T>(what: &str, ready: impl FnMut() -> Option<T>) -> T {
    wait_within(PATIENCE, what, ready)
}

/// Looks until `ready` gives something, for so long.
///
/// # Panics
/// If it takes longer.
pub fn wait_within<T>(patience: Duration, what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = ready() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} did not come in {patience:?}");
        thread::sleep(GLANCE);
    }
}

/// Runs a program to its end. `None` if it is not installed.
///
/// # Panics
/// If it takes longer than [`PATIENCE`].
pub fn run(command: &mut Command) -> Option<Ran> {
    run_within(PATIENCE, command)
}

/// Runs a program to its end, which may take so long. `None` if it is not installed.
///
/// # Panics
/// If it takes longer.
pub fn run_within(patience: Duration, command: &mut Command) -> Option<Ran> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = match command.spawn() {
        Ok(child) => Process(child),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => panic!("{command:?}: {error}"),
    };
    let (out, err) = (read_all(process.0.stdout.take()), read_all(process.0.stderr.take()));
    let ended = || process.0.try_wait().expect("a child can be waited for");
    let code = wait_within(patience, &format!("the end of {command:?}"), ended).code();
    Some(Ran { code, out: out.join().expect("the output"), err: err.join().expect("the output") })
}

fn read_all(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// A process that is killed when this is dropped.
#[derive(Debug)]
pub struct Process(Child);

impl Process {
    /// Starts a program whose output is of no interest.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start(command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().expect("the program can be started"))
    }

    /// Waits for its end and gives its exit code, `None` if a signal ended it.
    ///
    /// # Panics
    /// If it takes longer than [`PATIENCE`].
    pub fn wait(&mut self, what: &str) -> Option<i32> {
        wait_for(what, || self.0.try_wait().expect("a child can be waited for")).code()
    }

    /// Whether it has ended, by itself or not.
    pub fn has_ended(&mut self) -> bool {
        self.0.try_wait().expect("a child can be waited for").is_some()
    }

    /// Sends it a signal. Nothing, if it has ended.
    pub fn signal(&self, signal: Signal) {
        let _ = kill_process(Pid::from_child(&self.0), signal);
    }

    /// Kills it as a power switch would, and waits until it is gone.
    pub fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A pool's directory, and the program that serves it.
#[derive(Clone, Debug)]
pub struct Pool {
    program: PathBuf,
    directory: PathBuf,
}

impl Pool {
    /// The pool in `directory`, which need not be there, as the program `program` sees it.
    pub fn new(program: impl AsRef<Path>, directory: impl AsRef<Path>) -> Self {
        Self { program: program.as_ref().to_owned(), directory: directory.as_ref().to_owned() }
    }

    /// A file of the pool.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The program on this pool.
    pub fn command<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut command = Command::new(&self.program);
        command.env_remove("VELLUM_POOL").arg("--pool").arg(&self.directory).args(arguments);
        command
    }

    /// Runs the program on this pool.
    ///
    /// # Panics
    /// If it takes longer than [`PATIENCE`].
    pub fn run(&self, arguments: &[&str]) -> Ran {
        run(&mut self.command(arguments)).expect("the program is built")
    }

    /// Runs the program on this pool, and gives what it prints.
    ///
    /// # Panics
    /// If it fails.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let ran = self.run(arguments);
        assert_eq!(ran.code, Some(0), "vellum {arguments:?}: {}", ran.err);
        ran.out
    }

    /// Where NBD clients find an export, as long as the pool is served.
    pub fn uri(&self, export: &str) -> String {
        format!("nbd+unix:///{export}?socket={}", self.file("nbd.sock").display())
    }

    /// Starts a server and waits until it listens.
    ///
    /// # Panics
    /// If it does not.
    pub fn serve(&self, arguments: &[&str]) -> Served {
        let mut served = self.start_serving(arguments);
        served.wait_until_it_listens();
        served
    }

    /// Starts a server and does not wait for it.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start_serving(&self, arguments: &[&str]) -> Served {
        let mut command = self.command(["--json", "serve"]);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = Process(command.spawn().expect("the program is built"));
        let (sender, told) = mpsc::channel();
        let pipe = process.0.stdout.take().expect("standard output is a pipe");
        thread::spawn(move || {
            let mut line = String::new();
            let _ = BufReader::new(pipe).read_line(&mut line);
            let _ = sender.send(line);
        });
        Served { process, told }
    }
}

/// A server, killed when this is dropped.
#[derive(Debug)]
pub struct Served {
    process: Process,
    told: mpsc::Receiver<String>,
}

impl Served {
    /// Waits until it has told its exports.
    ///
    /// # Panics
    /// If it ends or hangs before that.
    pub fn wait_until_it_listens(&mut self) {
        let told = self.told.recv_timeout(PATIENCE).expect("the server tells its exports in time");
        assert!(told.contains("nbd+unix://"), "the server ended: {told:?}");
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.0.id()
    }

    /// Ends it as an administrator would: it must end well.
    ///
    /// # Panics
    /// If it does not.
    pub fn stop(mut self) {
        assert!(!self.process.has_ended(), "the server has ended by itself");
        self.process.signal(Signal::TERM);
        assert_eq!(self.process.wait("the end of the server"), Some(0));
    }

    /// Kills it.
    ///
    /// # Panics
    /// If it has ended by itself before.
    pub fn kill(mut self) {
        assert!(!self.process.has_ended(), "the server has ended by itself");
        self.process.kill();
    }
}
