//! The deletion of a snapshot that has a million blocks alone: how long the command takes, and how long until the space is
//! free.
//!
//! Owns the pool: generated on a sparse file, so that nothing is written that is then only freed.

use super::{PATIENCE, Plan};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use vellum_benches::host::run;
use vellum_benches::load::{Client, Kind};
use vellum_benches::pools::{self, Place, Shape};
use vellum_benches::server::Status;
use vellum_benches::stat::{milliseconds, spread};

const BLOCKS: u64 = 1 << 20;
const BLOCK_BYTES: u64 = 64 << 10;
const SHAPES: [Shape; 2] = [Shape::InOrder, Shape::Random];

/// Times from the start of the command on.
struct Times {
    command: Duration,
    unmapped: Duration,
    free: Duration,
}

pub fn measure(plan: &Plan) -> Result<(), String> {
    println!("Deletion of a snapshot with {BLOCKS} blocks that nobody shares:\n");
    println!("| blocks | the command, ms | unmapped, ms | free to use and given back, ms |");
    println!("|---|---|---|---|");
    for shape in SHAPES {
        let mut taken = Vec::new();
        for _ in 0..plan.rounds {
            taken.push(measure_one(&plan.vellum, shape)?);
        }
        let column = |of: fn(&Times) -> Duration| {
            spread(&taken.iter().map(|times| milliseconds(of(times))).collect::<Vec<_>>())
        };
        println!(
            "| {} | {} | {} | {} |",
            shape.name(),
            column(|times| times.command),
            column(|times| times.unmapped),
            column(|times| times.free)
        );
    }
    println!();
    Ok(())
}

/// The server of the generated pool, ended when this is dropped.
struct Served(Child);

impl Drop for Served {
    fn drop(&mut self) {
        let _ = run("kill", &["-TERM", &self.0.id().to_string()]);
        let _ = self.0.wait();
    }
}

fn measure_one(vellum: &str, shape: Shape) -> Result<Times, String> {
    let folder = tempfile::tempdir().map_err(|cause| cause.to_string())?;
    let folder = folder.path();
    generate(folder, shape)?;
    let _served = serve(vellum, folder)?;
    let pool = folder.to_string_lossy();
    run(vellum, &["--pool", &pool, "snapshot", "create", "disk@all"])?;
    trim_all(folder)?;
    let kept = Status::of(vellum, folder)?.number("used_bytes");
    if kept < BLOCKS * BLOCK_BYTES {
        return Err(format!("the snapshot keeps only {} MiB", kept >> 20));
    }
    let begin = Instant::now();
    run(vellum, &["--pool", &pool, "snapshot", "delete", "disk@all"])?;
    let command = begin.elapsed();
    let wait = |what: &str, done: fn(&Status) -> bool| {
        while !done(&Status::of(vellum, folder)?) {
            if begin.elapsed() > PATIENCE {
                return Err(format!("the snapshot's blocks are not {what} after {PATIENCE:?}"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(begin.elapsed())
    };
    // The log is all that is left, and its blocks are whole.
    let unmapped = wait("unmapped", |of| {
        let log_bytes = of.number("log_bytes").next_multiple_of(BLOCK_BYTES);
        of.number("deleting") == 0 && of.number("used_bytes") <= log_bytes
    })?;
    let free = wait("free", |of| of.number("waiting_bytes") + of.number("punching_bytes") == 0)?;
    Ok(Times { command, unmapped, free })
}

fn generate(folder: &Path, shape: Shape) -> Result<(), String> {
    std::fs::write(folder.join("mappings"), BLOCKS.to_string()).map_err(|cause| cause.to_string())?;
    let place = Place::of(folder)?;
    pools::generate(&place, shape).map_err(|cause| cause.to_string())?;
    for (name, file) in [("data", place.data()), ("metadata", place.metadata())] {
        std::os::unix::fs::symlink(file, folder.join(name)).map_err(|cause| cause.to_string())?;
    }
    Ok(())
}

fn serve(vellum: &str, folder: &Path) -> Result<Served, String> {
    let mut command = Command::new(vellum);
    command.arg("--pool").arg(folder).arg("serve").stdin(Stdio::null()).stdout(Stdio::null());
    let served = Served(command.spawn().map_err(|cause| format!("{vellum}: {cause}"))?);
    let begin = Instant::now();
    while std::os::unix::net::UnixStream::connect(folder.join("nbd.sock")).is_err() {
        if begin.elapsed() > Duration::from_secs(20) {
            return Err("the pool is not served".to_owned());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(served)
}

/// The snapshot has all blocks alone from then on.
fn trim_all(folder: &Path) -> Result<(), String> {
    let mut client = Client::connect(&folder.join("nbd.sock"), "disk").map_err(|cause| cause.to_string())?;
    let offsets: Vec<u64> = (0..(BLOCKS * BLOCK_BYTES) >> 30).map(|index| index << 30).collect();
    let trimmed = client.run(Kind::Trim, &offsets, 1 << 30, 4).and_then(|()| client.flush());
    trimmed.map_err(|cause| cause.to_string())?;
    // What that left to be proven is not counted.
    std::thread::sleep(Duration::from_secs(3));
    Ok(())
}
