//! A TRIM of everything in requests of 1 MiB: until it is acknowledged, durable, and the host has the space back. Beside a
//! loop device over a sparse file and qemu-nbd with qcow2, on one file system, all in turn.
//!
//! Owns the loop device. Every measurement has a disk of its own, filled just before.

use super::{Plan, goal_bytes, host_bytes, wait_for_return};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use vellum_benches::host::{Host, run};
use vellum_benches::load::{Client, Kind};
use vellum_benches::server::{Server, Which};
use vellum_benches::stat::{milliseconds, spread};

const REQUEST_BYTES: u64 = 1 << 20;
/// Requests in flight.
const DEPTHS: [usize; 2] = [1, 32];
const NAMES: [&str; 3] = ["vellum", "loop device", "qemu-nbd qcow2"];

/// A disk that can be trimmed.
enum Disk {
    // The client goes before its server.
    Served(Client, Server),
    Loop(LoopDevice),
}

/// A loop device over a sparse file; detached when this is dropped.
struct LoopDevice {
    name: String,
    file: PathBuf,
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = run("losetup", &["--detach", &self.name]);
    }
}

/// Times from the first request on.
struct Times {
    acknowledged: Duration,
    durable: Duration,
    /// `None`: not in time.
    returned: Option<Duration>,
}

pub fn compare(plan: &Plan) -> Result<(), String> {
    let host = Host::new(2 * plan.trim_bytes + (2 << 30))?;
    let mut taken: Vec<Vec<Times>> = (0..DEPTHS.len() * NAMES.len()).map(|_| Vec::new()).collect();
    for _ in 0..plan.rounds {
        for (row, times) in taken.iter_mut().enumerate() {
            times.push(measure(plan, &host, NAMES[row % NAMES.len()], DEPTHS[row / NAMES.len()])?);
        }
    }
    println!("TRIM of {} MiB, filled in order, in requests of 1 MiB, on ext4:\n", plan.trim_bytes >> 20);
    println!("| disk | depth | acknowledged, ms | durable, ms | the host has it back, ms |");
    println!("|---|---|---|---|---|");
    for (row, times) in taken.iter().enumerate() {
        let column = |of: fn(&Times) -> Option<Duration>| {
            let values: Vec<f64> = times.iter().filter_map(of).map(milliseconds).collect();
            let late = times.len() - values.len();
            let late = if late > 0 { format!(", {late} times not in time") } else { String::new() };
            format!("{}{late}", spread(&values))
        };
        println!(
            "| {} | {} | {} | {} | {} |",
            NAMES[row % NAMES.len()],
            DEPTHS[row / NAMES.len()],
            column(|times| Some(times.acknowledged)),
            column(|times| Some(times.durable)),
            column(|times| times.returned),
        );
    }
    println!();
    Ok(())
}

fn measure(plan: &Plan, host: &Host, name: &str, depth: usize) -> Result<Times, String> {
    let folder = host.path();
    let mut disk = match name {
        "vellum" => serve(Which::Vellum, host, plan)?,
        "loop device" => Disk::Loop(attach(&folder, plan.trim_bytes)?),
        _ => serve(Which::Qcow2, host, plan)?,
    };
    let file = disk.file();
    let before = host_bytes(&file)?;
    disk.fill(plan.trim_bytes)?;
    // What the filling left to be proven, and to be written back, is not counted.
    run("sync", &["--file-system", &folder.to_string_lossy()])?;
    std::thread::sleep(Duration::from_secs(3));
    let full = host_bytes(&file)?;
    if full < before + plan.trim_bytes {
        return Err(format!("{name} took only {} MiB for what was written", (full - before) >> 20));
    }
    let begin = Instant::now();
    disk.trim(plan.trim_bytes, depth)?;
    let acknowledged = begin.elapsed();
    disk.flush()?;
    let durable = begin.elapsed();
    let returned = wait_for_return(&file, goal_bytes(before, plan.trim_bytes), begin)?;
    drop(disk);
    clear(&folder)?;
    Ok(Times { acknowledged, durable, returned })
}

fn serve(which: Which, host: &Host, plan: &Plan) -> Result<Disk, String> {
    let server = Server::start(which, host, &plan.vellum, plan.trim_bytes)?;
    Ok(Disk::Served(server.connect()?, server))
}

fn attach(folder: &Path, size_bytes: u64) -> Result<LoopDevice, String> {
    let file = folder.join("loop");
    let made = File::create(&file).and_then(|file| file.set_len(size_bytes));
    made.map_err(|cause| cause.to_string())?;
    let name = run("losetup", &["--find", "--show", &file.to_string_lossy()])?.trim().to_owned();
    Ok(LoopDevice { name, file })
}

/// Removes what a measurement left, from the disk below as well, so that all begin alike and the image stays small.
fn clear(folder: &Path) -> Result<(), String> {
    for entry in std::fs::read_dir(folder).map_err(|cause| cause.to_string())? {
        let path = entry.map_err(|cause| cause.to_string())?.path();
        let removed =
            if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        removed.map_err(|cause| format!("{}: {cause}", path.display()))?;
    }
    run("sync", &["--file-system", &folder.to_string_lossy()])?;
    run("fstrim", &[&folder.to_string_lossy()]).map(drop)
}

fn offsets(size_bytes: u64) -> Vec<u64> {
    (0..size_bytes / REQUEST_BYTES).map(|index| index * REQUEST_BYTES).collect()
}

impl Disk {
    fn file(&self) -> PathBuf {
        match self {
            Self::Served(_, server) => server.data_file(),
            Self::Loop(device) => device.file.clone(),
        }
    }

    fn fill(&mut self, size_bytes: u64) -> Result<(), String> {
        let offsets = offsets(size_bytes);
        let filled = match self {
            Self::Served(client, _) => client.run(Kind::Write, &offsets, REQUEST_BYTES as usize, 8),
            Self::Loop(device) => File::options().write(true).open(&device.name).and_then(|disk| {
                let bytes = vec![0x5a; REQUEST_BYTES as usize];
                offsets.iter().try_for_each(|offset| disk.write_all_at(&bytes, *offset))
            }),
        };
        filled.map_err(|cause| cause.to_string())?;
        self.flush()
    }

    fn trim(&mut self, size_bytes: u64, depth: usize) -> Result<(), String> {
        match self {
            Self::Served(client, _) => {
                let trimmed = client.run(Kind::Trim, &offsets(size_bytes), REQUEST_BYTES as usize, depth);
                trimmed.map_err(|cause| cause.to_string())
            }
            Self::Loop(device) => blkdiscard(&device.name, size_bytes, depth as u64),
        }
    }

    fn flush(&mut self) -> Result<(), String> {
        let flushed = match self {
            Self::Served(client, _) => client.flush(),
            Self::Loop(device) => File::open(&device.name).and_then(|disk| disk.sync_all()),
        };
        flushed.map_err(|cause| cause.to_string())
    }
}

/// One process a request in flight, because BLKDISCARD returns when it is done.
fn blkdiscard(device: &str, size_bytes: u64, depth: u64) -> Result<(), String> {
    let part_bytes = size_bytes.div_ceil(depth).next_multiple_of(REQUEST_BYTES);
    let start = |from: u64| {
        let length = part_bytes.min(size_bytes - from).to_string();
        let step = REQUEST_BYTES.to_string();
        let mut command = Command::new("blkdiscard");
        command.args([
            "--force",
            "--step",
            &step,
            "--offset",
            &from.to_string(),
            "--length",
            &length,
            device,
        ]);
        // It warns each time that it was forced.
        command.stderr(Stdio::piped()).spawn().map_err(|cause| format!("blkdiscard: {cause}"))
    };
    let running: Vec<_> =
        (0..size_bytes).step_by(part_bytes as usize).map(start).collect::<Result<_, _>>()?;
    for process in running {
        let output = process.wait_with_output().map_err(|cause| cause.to_string())?;
        if !output.status.success() {
            return Err(format!("blkdiscard: {}", String::from_utf8_lossy(&output.stderr)));
        }
    }
    Ok(())
}
