//! What an operation over NBD costs, counted: flushes and bytes of the disk, system calls of the server; and how many a
//! second that makes. Beside two peers, on the same work and the same file system, one after the other.
//!
//! Needs root, `perf`, `qemu-nbd`, `nbdkit` and e2fsprogs. Run it alone: `cargo bench -p vellum-benches --bench nbd`.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use vellum_benches::host::{Host, run};
use vellum_benches::load::{Client, Kind};
use vellum_benches::server::{self, Server, Which};

/// Written before anything is measured, in bytes from the start of the export.
const FILLED_BYTES: u64 = 256 << 20;
/// Size of the export.
const EXPORT_BYTES: u64 = 1 << 30;
const BLOCK_BYTES: u64 = 64 << 10;
const IO_BYTES: usize = 4096;

/// One line of the table.
struct Work {
    name: &'static str,
    kind: Kind,
    depth: usize,
    place: Place,
    operations: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Anywhere in what was filled.
    Filled,
    /// One a block, where nothing has been.
    NewBlocks,
    /// One a block of what was filled, just after a snapshot.
    AfterSnapshot,
}

const fn work(name: &'static str, kind: Kind, depth: usize, place: Place, operations: usize) -> Work {
    Work { name, kind, depth, place, operations }
}

const WORKS: [Work; 14] = [
    work("read", Kind::Read, 1, Place::Filled, 4000),
    work("read", Kind::Read, 32, Place::Filled, 40_000),
    work("overwrite", Kind::Write, 1, Place::Filled, 4000),
    work("overwrite", Kind::Write, 32, Place::Filled, 20_000),
    work("overwrite, durable", Kind::WriteDurable, 1, Place::Filled, 500),
    work("overwrite, durable", Kind::WriteDurable, 32, Place::Filled, 4000),
    work("new block", Kind::Write, 1, Place::NewBlocks, 1000),
    work("new block", Kind::Write, 32, Place::NewBlocks, 3000),
    work("new block, durable", Kind::WriteDurable, 1, Place::NewBlocks, 300),
    work("new block, durable", Kind::WriteDurable, 32, Place::NewBlocks, 1500),
    work("after a snapshot", Kind::Write, 1, Place::AfterSnapshot, 500),
    work("after a snapshot", Kind::Write, 32, Place::AfterSnapshot, 1500),
    work("after a snapshot, durable", Kind::WriteDurable, 1, Place::AfterSnapshot, 300),
    work("after a snapshot, durable", Kind::WriteDurable, 32, Place::AfterSnapshot, 1500),
];

fn main() {
    if std::env::args().any(|argument| argument == "--test" || argument == "--list") {
        return;
    }
    if let Err(cause) = compare() {
        eprintln!("bench nbd: {cause}");
        std::process::exit(1);
    }
}

fn compare() -> Result<(), String> {
    let vellum = server::build_vellum()?;
    println!(
        "| operation (4 KiB) | depth | server | flushes | KiB written | system calls | thousand a second |"
    );
    println!("|---|---|---|---|---|---|---|");
    let mut lines: Vec<(usize, String)> = Vec::new();
    for which in Which::ALL {
        measure(which, &vellum, &mut lines)?;
    }
    lines.sort_by_key(|(work, _)| *work);
    lines.iter().for_each(|(_, line)| println!("{line}"));
    Ok(())
}

/// All works on one server; each that changes what is mapped takes blocks that no other has used.
fn measure(which: Which, vellum: &str, lines: &mut Vec<(usize, String)>) -> Result<(), String> {
    let host = Host::new(6 << 30)?;
    let mut server = Server::start(which, &host, vellum, EXPORT_BYTES)?;
    let mut client = server.connect()?;
    let whole: Vec<u64> = (0..FILLED_BYTES >> 20).map(|index| index << 20).collect();
    client.run(Kind::Write, &whole, 1 << 20, 8).and_then(|()| client.flush()).map_err(|e| e.to_string())?;
    // What the filling left to be proven is not counted with the first work.
    std::thread::sleep(Duration::from_secs(3));
    let (mut fresh, mut snapshot_taken, mut shared) = (FILLED_BYTES, false, 0);
    for (index, work) in WORKS.iter().enumerate() {
        if work.place == Place::AfterSnapshot {
            if !which.has_snapshots() {
                continue;
            }
            if !std::mem::replace(&mut snapshot_taken, true) {
                drop(client);
                server.snapshot(vellum)?;
                client = server.connect()?;
            }
        }
        let offsets = offsets(work, &mut fresh, &mut shared);
        let line = measure_one(which, work, &offsets, &host, &server, &mut client)?;
        lines.push((index, line));
    }
    Ok(())
}

fn offsets(work: &Work, fresh: &mut u64, shared: &mut u64) -> Vec<u64> {
    let mut random = 0x9e37_79b9_7f4a_7c15u64 ^ work.operations as u64;
    let mut next = |limit: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random >> 11) % limit
    };
    let one = |_| match work.place {
        Place::Filled => next(FILLED_BYTES / IO_BYTES as u64) * IO_BYTES as u64,
        Place::NewBlocks => {
            *fresh += BLOCK_BYTES;
            *fresh - BLOCK_BYTES
        }
        Place::AfterSnapshot => {
            *shared += BLOCK_BYTES;
            *shared - BLOCK_BYTES
        }
    };
    (0..work.operations).map(one).collect()
}

fn measure_one(
    which: Which,
    work: &Work,
    offsets: &[u64],
    host: &Host,
    server: &Server,
    client: &mut Client,
) -> Result<String, String> {
    let calls = CallCounter::start(server.pid())?;
    let before = host.counts();
    let begin = Instant::now();
    client.run(work.kind, offsets, IO_BYTES, work.depth).map_err(|cause| cause.to_string())?;
    let seconds = begin.elapsed().as_secs_f64();
    let calls = calls.stop()?;
    // What was not made durable by the operations is written now, and counts as bytes.
    let during = host.counts();
    client.flush().map_err(|cause| cause.to_string())?;
    let after = host.counts();
    let each = |total: u64| total as f64 / offsets.len() as f64;
    Ok(format!(
        "| {} | {} | {} | {:.2} | {:.1} | {:.2} | {:.1} |",
        work.name,
        work.depth,
        which.name(),
        each(during.flushes - before.flushes),
        each(after.written_bytes - before.written_bytes) / 1024.0,
        each(calls),
        offsets.len() as f64 / seconds / 1000.0,
    ))
}

/// Counts the system calls of a process, by the kernel's own count.
struct CallCounter {
    perf: Child,
}

impl CallCounter {
    fn start(pid: u32) -> Result<Self, String> {
        let mut command = Command::new("perf");
        command.args(["stat", "-x", ",", "-e", "raw_syscalls:sys_enter", "-p", &pid.to_string()]);
        let perf = command.stderr(Stdio::piped()).spawn().map_err(|cause| format!("perf: {cause}"))?;
        // It says nothing when it is ready.
        std::thread::sleep(Duration::from_millis(300));
        Ok(Self { perf })
    }

    fn stop(self) -> Result<u64, String> {
        run("kill", &["-INT", &self.perf.id().to_string()])?;
        let output = self.perf.wait_with_output().map_err(|cause| cause.to_string())?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let count = text.lines().find_map(|line| line.split(',').next().and_then(|word| word.parse().ok()));
        count.ok_or_else(|| format!("perf counts no system calls here: {text}"))
    }
}
