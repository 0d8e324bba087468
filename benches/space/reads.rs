//! How long reads take while freed space goes back to the host, beside reads when nothing else goes on.
//!
//! Owns the two regions of the volume: one is read, the other filled and trimmed again and again.

use super::{PATIENCE, Plan, goal_bytes, host_bytes};
use std::time::{Duration, Instant};
use vellum_benches::host::Host;
use vellum_benches::load::{Client, Kind};
use vellum_benches::server::{Server, Which};
use vellum_benches::stat::{percentile, spread};

const READ_REGION_BYTES: u64 = 1 << 30;
const IO_BYTES: u64 = 4096;
/// Reads between two looks at the clock and the host's space.
const BATCH: u64 = 256;
const IDLE: Duration = Duration::from_secs(3);
const DEPTHS: [usize; 2] = [1, 16];
const SERVERS: [Which; 2] = [Which::Vellum, Which::VellumDirect];

/// Latencies of a set of reads, in microseconds, for each round.
#[derive(Default)]
struct Latencies {
    median: Vec<f64>,
    p99: Vec<f64>,
    longest: Vec<f64>,
    reads: Vec<f64>,
}

impl Latencies {
    fn add(&mut self, times: &[Duration]) {
        let mut values: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1e6).collect();
        self.median.push(percentile(&mut values, 50.0));
        self.p99.push(percentile(&mut values, 99.0));
        self.longest.push(percentile(&mut values, 100.0));
        self.reads.push(values.len() as f64);
    }

    fn cells(&self) -> String {
        [&self.median, &self.p99, &self.longest, &self.reads].map(|values| spread(values)).join(" | ")
    }
}

pub fn compare(plan: &Plan) -> Result<(), String> {
    println!("Reads of 4 KiB while {} MiB go back to the host, on ext4:\n", plan.trim_bytes >> 20);
    println!("| server | depth | meanwhile | median, µs | p99, µs | longest, µs | reads | p99 to idle |");
    println!("|---|---|---|---|---|---|---|---|");
    for which in SERVERS {
        let host = Host::new(2 * plan.trim_bytes + READ_REGION_BYTES + (2 << 30))?;
        let server = Server::start(which, &host, &plan.vellum, READ_REGION_BYTES + plan.trim_bytes)?;
        let mut bench = Bench { client: server.connect()?, server, plan, random: 0x9e37_79b9_7f4a_7c15 };
        bench.write(0, READ_REGION_BYTES)?;
        for depth in DEPTHS {
            bench.compare(which, depth)?;
        }
    }
    println!();
    Ok(())
}

struct Bench<'p> {
    client: Client,
    server: Server,
    plan: &'p Plan,
    random: u64,
}

impl Bench<'_> {
    fn compare(&mut self, which: Which, depth: usize) -> Result<(), String> {
        let (mut idle, mut reclaim) = (Latencies::default(), Latencies::default());
        let (mut ratios, mut late) = (Vec::new(), 0);
        for _ in 0..self.plan.rounds {
            let file = self.server.data_file();
            let before = host_bytes(&file)?;
            self.write(READ_REGION_BYTES, self.plan.trim_bytes)?;
            let begin = Instant::now();
            idle.add(&self.read_while(depth, || Ok(begin.elapsed() < IDLE))?);
            let goal = goal_bytes(before, self.plan.trim_bytes);
            self.trim()?;
            let begin = Instant::now();
            let goes_on = || Ok(host_bytes(&file)? > goal && begin.elapsed() < PATIENCE);
            reclaim.add(&self.read_while(depth, goes_on)?);
            late += u32::from(begin.elapsed() >= PATIENCE);
            ratios.push(reclaim.p99[reclaim.p99.len() - 1] / idle.p99[idle.p99.len() - 1]);
        }
        println!("| {} | {depth} | nothing | {} | |", which.name(), idle.cells());
        println!("| {} | {depth} | reclaim | {} | {} |", which.name(), reclaim.cells(), spread(&ratios));
        if late > 0 {
            eprintln!("{late} times the host did not have all of it back after {PATIENCE:?}");
        }
        Ok(())
    }

    /// Fills a range, and waits until what that left to be proven is done.
    fn write(&mut self, offset_bytes: u64, length_bytes: u64) -> Result<(), String> {
        let offsets: Vec<u64> = (0..length_bytes >> 20).map(|index| offset_bytes + (index << 20)).collect();
        let written = self.client.run(Kind::Write, &offsets, 1 << 20, 8).and_then(|()| self.client.flush());
        written.map_err(|cause| cause.to_string())?;
        std::thread::sleep(Duration::from_secs(3));
        Ok(())
    }

    fn trim(&mut self) -> Result<(), String> {
        let offsets: Vec<u64> =
            (0..self.plan.trim_bytes >> 20).map(|index| READ_REGION_BYTES + (index << 20)).collect();
        self.client.run(Kind::Trim, &offsets, 1 << 20, 32).map_err(|cause| cause.to_string())
    }

    fn read_while(
        &mut self,
        depth: usize,
        mut goes_on: impl FnMut() -> Result<bool, String>,
    ) -> Result<Vec<Duration>, String> {
        let mut times = Vec::new();
        while goes_on()? {
            let offsets: Vec<u64> = (0..BATCH).map(|_| self.place()).collect();
            let batch = self.client.run_timed(Kind::Read, &offsets, IO_BYTES as usize, depth);
            times.extend(batch.map_err(|cause| cause.to_string())?);
        }
        Ok(times)
    }

    /// Anywhere in the region that is read.
    fn place(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) % (READ_REGION_BYTES / IO_BYTES) * IO_BYTES
    }
}
