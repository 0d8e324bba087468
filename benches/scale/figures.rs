//! The figures of one pool, each step in a process of its own: prints a key and a number a line.
//!
//! Owns how each figure is taken. Memory is the highest resident size of the process so far, as the kernel counts it.

use std::hint::black_box;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;
use vellum_benches::pools::{self, Place, Shape, Shuffle, VOLUME};
use vellum_engine::Pool;
use vellum_engine::error::{Error, Result};
use vellum_engine::format::FIRST_FREE_PAGE;
use vellum_engine::metadata::files::Files;
use vellum_engine::metadata::load::load_page;
use vellum_engine::metadata::recovery::recover;
use vellum_engine::metadata::tree::Root;
use vellum_engine::metadata::{Fault, IndexTree, Metadata};
use vellum_engine::options::OpenOptions;
use vellum_engine::request::{Base, NewVolume, Outcome, Request};
use vellum_engine::storage::{Completion, Disk, FileDisk, Operation, Ticket};
use vellum_engine::units::{BLOCK_BYTES, PAGE_BYTES, SECTOR_BYTES, VirtualBlock};

const MIB: f64 = (1 << 20) as f64;
const LOOKUPS: u64 = 2_000_000;

/// Takes the figures of one step.
pub fn run(step: &str, shape: &str, folder: &Path) -> std::result::Result<(), String> {
    let shape = Shape::named(shape).ok_or("an unknown shape of pool")?;
    let place = Place::of(folder)?;
    let done = match step {
        "generate" => pools::generate(&place, shape),
        "spoil" => pools::spoil(&place, shape),
        "size" => size(&place),
        "open" => open(&place),
        "snapshot" => snapshot(&place),
        "lookup" => lookup(&place),
        "scan" => scan(&place),
        "check" => check(&place),
        "crash" => pools::keep_log_head(&place, || crash(&place)),
        "difference" => difference(&place),
        _ => return Err(format!("there is no step {step}")),
    };
    done.map_err(|error| error.to_string())
}

fn print(key: &str, value: f64) {
    println!("{key} {value}");
}

/// The highest resident memory of this process so far, in MiB.
fn memory_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").trim().parse::<f64>().ok());
    kib.unwrap_or(f64::NAN) / 1024.0
}

/// Time that this process has spent on a processor, in seconds: what others do on this machine is left out.
fn processor_s() -> f64 {
    let text = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|word| word.parse::<f64>().ok()).unwrap_or(f64::NAN) / 1e9
}

fn pages_of<'t>(trees: impl Iterator<Item = &'t IndexTree>) -> f64 {
    let pages = trees.flat_map(IndexTree::pages).map(|pointer| 1 + usize::from(pointer.copy.is_some()));
    pages.sum::<usize>() as f64
}

fn size(place: &Place) -> Result<()> {
    let (mut data, mut metadata) = (FileDisk::open(place.data())?, FileDisk::open(place.metadata())?);
    let file_bytes = metadata.size_bytes() as f64;
    let mut files = Files::new(&mut data, &mut metadata);
    let state = recover(&mut files)?.metadata;
    let page = PAGE_BYTES as f64;
    let counts = pages_of(state.index_trees().skip(1)) * page;
    let all = (state.forest.page_counts.in_use() - FIRST_FREE_PAGE.0) as f64 * page;
    print("counts_mib", counts / MIB);
    print("mapping_mib", (all - counts) / MIB);
    print("all_mib", all / MIB);
    print("mapping_bytes_a_block", (all - counts) / place.mappings as f64);
    print("file_mib", file_bytes / MIB);
    Ok(())
}

fn open(place: &Place) -> Result<()> {
    let options = OpenOptions::default();
    let data = Probe::open(place.data(), true)?;
    let metadata = Probe::open(place.metadata(), true)?;
    let (begin, processor) = (Instant::now(), processor_s());
    let pool = Pool::open(data, metadata, &options)?;
    print("open_ms", begin.elapsed().as_secs_f64() * 1e3);
    print("open_processor_ms", (processor_s() - processor) * 1e3);
    print("open_mib", memory_mib());
    let (_, metadata) = pool.close()?;
    print("open_written_kib", metadata.written_bytes as f64 / 1024.0);
    Ok(())
}

fn crash(place: &Place) -> Result<()> {
    let (data, metadata) = (FileDisk::open(place.data())?, FileDisk::open(place.crashed_metadata())?);
    let options = OpenOptions::default();
    let (begin, processor) = (Instant::now(), processor_s());
    let pool = Pool::open(data, metadata, &options)?;
    let each = 400_000.0 / place.deltas() as f64;
    print("crash_s", begin.elapsed().as_secs_f64() * each);
    print("crash_processor_s", (processor_s() - processor) * each);
    print("crash_mib", memory_mib());
    // Not closed: it may be recovered again.
    drop(pool);
    Ok(())
}

fn snapshot(place: &Place) -> Result<()> {
    for syncs in [false, true] {
        let data = Probe::open(place.data(), syncs)?;
        let mut pool = Pool::open(data, Probe::open(place.metadata(), syncs)?, &OpenOptions::default())?;
        let (mut made, mut deleted) = (Vec::new(), Vec::new());
        for round in 0..20u8 {
            let new = NewVolume { name: format!("disk@{round}"), uuid: [9 + round; 16], created_unix_s: 0 };
            let begin = Instant::now();
            let snapshot = pool.snapshot(VOLUME, new)?;
            made.push(begin.elapsed().as_secs_f64() * 1e6);
            let begin = Instant::now();
            pool.delete(snapshot)?;
            deleted.push(begin.elapsed().as_secs_f64() * 1e6);
            pool.idle(10);
        }
        let suffix = if syncs { "_synced_us" } else { "_us" };
        print(&format!("snapshot{suffix}"), median(&mut made));
        print(&format!("delete{suffix}"), median(&mut deleted));
        pool.close()?;
    }
    Ok(())
}

/// Two snapshots, ten blocks written between them, compared by a pool that was opened just before and again when all is in
/// memory.
fn difference(place: &Place) -> Result<()> {
    const BLOCKS: u64 = 10;
    let mut pool = Pool::open(
        FileDisk::open(place.data())?,
        FileDisk::open(place.metadata())?,
        &OpenOptions::default(),
    )?;
    let named = |name: &str, uuid| NewVolume { name: name.to_owned(), uuid: [uuid; 16], created_unix_s: 0 };
    let before = pool.snapshot(VOLUME, named("disk@first", 101))?;
    for index in 0..BLOCKS {
        let at = place.mappings / BLOCKS * index * BLOCK_BYTES;
        pool.write(VOLUME, at, vec![1; SECTOR_BYTES as usize])?;
    }
    let after = pool.snapshot(VOLUME, named("disk@second", 102))?;
    let (data, metadata) = pool.close()?;
    let mut pool = Pool::open(data, metadata, &OpenOptions::default())?;
    let mut times = Vec::new();
    for _ in 0..21 {
        let begin = Instant::now();
        let ranges = pool.differences(Base::Volume(before), after).collect::<Result<Vec<_>>>()?;
        times.push(begin.elapsed().as_secs_f64() * 1e3);
        if ranges.len() as u64 != BLOCKS {
            return Err(Error::invalid(format!("{} ranges differ, not {BLOCKS}", ranges.len())));
        }
    }
    print("difference_first_ms", times.remove(0));
    print("difference_ms", median(&mut times));
    pool.delete(before)?;
    pool.delete(after)?;
    (0..20).for_each(|_| pool.idle(1000));
    pool.close().map(drop)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn lookup(place: &Place) -> Result<()> {
    let (mut data, mut metadata) = (FileDisk::open(place.data())?, FileDisk::open(place.metadata())?);
    let mut files = Files::new(&mut data, &mut metadata);
    let mut state = recover(&mut files)?.metadata;
    let root = state.volumes.active(VOLUME)?.root;
    let before = memory_mib();
    load_all(&mut files, &mut state, &root)?;
    print("resident_page_bytes", (memory_mib() - before) * MIB / state.forest.cache.len() as f64);
    let mut order = Shuffle::new(place.mappings);
    let anywhere: Vec<u64> = (0..LOOKUPS.min(place.mappings)).map(|_| order.draw()).collect();
    // Blocks of one leaf: the smallest has 200 of them.
    let near = place.mappings / 2 / 16384 * 16384;
    let in_leaf: Vec<u64> = anywhere.iter().map(|at| near + at % 128).collect();
    print("lookup_random_ns", time_lookups(&state, &root, &anywhere)?);
    print("lookup_leaf_ns", time_lookups(&state, &root, &in_leaf)?);
    Ok(())
}

fn load_all(files: &mut Files<'_>, state: &mut Metadata, root: &Root) -> Result<()> {
    let mut next = VirtualBlock(0);
    loop {
        let looked = state.forest.mappings(root, next, VirtualBlock(1 << 40), |block, _| {
            next = block;
            ControlFlow::Continue(())
        });
        match looked {
            Ok(()) => return Ok(()),
            Err(Fault::Missing(pointer)) => load_page(files, state, &pointer)?,
            Err(Fault::Failed(error)) => return Err(error),
        }
    }
}

/// Nanoseconds a lookup: the median of short batches, so that who else runs on this machine is left out.
fn time_lookups(state: &Metadata, root: &Root, blocks: &[u64]) -> Result<f64> {
    let mut batches = Vec::new();
    for batch in blocks.chunks(1000) {
        let begin = Instant::now();
        for block in batch {
            let found = state.forest.lookup(root, VirtualBlock(*block));
            black_box(found.map_err(|_| Error::invalid("a page is missing"))?.mapping);
        }
        batches.push(begin.elapsed().as_secs_f64() * 1e9 / batch.len() as f64);
    }
    Ok(median(&mut batches))
}

/// Looks at every mapping of the volume through a served pool, whose cache has a bound.
fn scan(place: &Place) -> Result<()> {
    let (data, metadata) = (FileDisk::open(place.data())?, FileDisk::open(place.metadata())?);
    let mut pool = Pool::open(data, metadata, &OpenOptions::default())?;
    let before = memory_mib();
    let end = place.mappings * BLOCK_BYTES;
    let mut offset_bytes = 0;
    while offset_bytes < end {
        let length_bytes = end - offset_bytes;
        let request = Request::Extents { volume: VOLUME, offset_bytes, length_bytes };
        let Outcome::Extents(extents) = pool.request(request)? else {
            return Err(Error::invalid("extents were asked for"));
        };
        offset_bytes += extents.iter().map(|extent| extent.length_bytes).sum::<u64>();
    }
    print("scan_grew_mib", memory_mib() - before);
    pool.close().map(drop)
}

fn check(place: &Place) -> Result<()> {
    let mut data = FileDisk::open_read_only(place.data())?;
    let mut metadata = FileDisk::open_read_only(place.metadata())?;
    let before = processor_s();
    let report = vellum_engine::check(&mut data, &mut metadata, &mut |_| {})?;
    let seconds = processor_s() - before;
    if let Some(finding) = report.findings.first() {
        return Err(Error::invalid(format!("the pool is not sound: {}", finding.error)));
    }
    print("check_m_s", report.mappings as f64 / seconds / 1e6);
    print("check_mib", memory_mib());
    Ok(())
}

/// A file that counts what is written, and whose syncs can be left out.
struct Probe {
    disk: FileDisk,
    syncs: bool,
    written_bytes: u64,
    skipped: Option<Completion>,
}

impl Probe {
    fn open(path: std::path::PathBuf, syncs: bool) -> Result<Self> {
        Ok(Self { disk: FileDisk::open(path)?, syncs, written_bytes: 0, skipped: None })
    }
}

impl Disk for Probe {
    fn size_bytes(&self) -> u64 {
        self.disk.size_bytes()
    }

    fn submit(&mut self, ticket: Ticket, operation: Operation) {
        match operation {
            Operation::Sync if !self.syncs => {
                self.skipped = Some(Completion { ticket, operation, result: Ok(()) });
            }
            operation => {
                if let Operation::Write { bytes, .. } = &operation {
                    self.written_bytes += bytes.len() as u64;
                }
                self.disk.submit(ticket, operation);
            }
        }
    }

    fn next_completion(&mut self) -> Option<Completion> {
        self.skipped.take().or_else(|| self.disk.next_completion())
    }
}
