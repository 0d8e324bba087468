//! Large pools, generated without writing what they map: the data file is sparse, the metadata is all there.
//!
//! Owns the three shapes of pool. Mappings are put into the trees as replaying a log would, and a checkpoint is
//! written into both root slots.

use std::path::{Path, PathBuf};
use vellum_engine::Pool;
use vellum_engine::error::Result;
use vellum_engine::format::{
    COUNTS_PER_LEAF, Delta, LogRecord, RECORD_HEADER_BYTES, RECORD_PAGES_MAX, VolumeKind, VolumeRecord,
};
use vellum_engine::metadata::files::Files;
use vellum_engine::metadata::load::load_page;
use vellum_engine::metadata::recovery::{Recovered, recover};
use vellum_engine::metadata::{Fault, SlotFacts, write_now};
use vellum_engine::options::{CreateOptions, OpenOptions, Owner};
use vellum_engine::request::NewVolume;
use vellum_engine::storage::{Disk, FileDisk};
use vellum_engine::units::{
    BLOCK_BYTES, DataBlock, PAGE_BYTES, SectorMask, Sequence, VirtualBlock, VolumeId,
};

/// The volume that is mapped.
pub const VOLUME: VolumeId = VolumeId(1);
/// Its snapshot in a pool that was broken up.
const SNAPSHOT: VolumeId = VolumeId(2);
/// Deltas that a crash leaves, in a pool of so many mappings or more.
const DELTAS: u64 = 400_000;

/// How a pool came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shape {
    /// Filled from the first block to the last.
    InOrder,
    /// The same, then a snapshot, then two blocks rewritten for every leaf of counts, the snapshot kept.
    Broken,
    /// Every block was written, in no order.
    Random,
}

impl Shape {
    /// All, in the order of the table.
    pub const ALL: [Self; 3] = [Self::InOrder, Self::Broken, Self::Random];

    /// For the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::InOrder => "in order",
            Self::Broken => "broken up",
            Self::Random => "at random",
        }
    }

    /// The shape of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|shape| shape.name() == name)
    }
}

/// A pool in a folder.
pub struct Place {
    folder: PathBuf,
    /// How many blocks are mapped.
    pub mappings: u64,
}

impl Place {
    /// The pool in `folder`, whose file `mappings` says how large it is.
    pub fn of(folder: &Path) -> std::result::Result<Self, String> {
        let text = std::fs::read_to_string(folder.join("mappings")).map_err(|cause| cause.to_string())?;
        let mappings = text.parse().map_err(|_| "a number of mappings is wanted".to_owned())?;
        Ok(Self { folder: folder.to_owned(), mappings })
    }

    /// The data file.
    pub fn data(&self) -> PathBuf {
        self.folder.join("pool.data")
    }

    /// The metadata file.
    pub fn metadata(&self) -> PathBuf {
        self.folder.join("pool.metadata")
    }

    /// The metadata file of the pool that crashed, made from the other one.
    pub fn crashed_metadata(&self) -> PathBuf {
        self.folder.join("crashed.metadata")
    }

    /// Deltas that a crash leaves.
    pub fn deltas(&self) -> u64 {
        DELTAS.min(self.mappings)
    }

    /// Data blocks of the log.
    pub fn log_blocks(&self) -> u64 {
        CreateOptions::log_blocks_for(self.mappings)
    }

    /// The first data block that nothing maps when the pool was filled.
    fn spare(&self) -> u64 {
        self.log_blocks() + self.mappings
    }

    fn data_blocks(&self) -> u64 {
        self.spare() + self.deltas() + 2 * self.mappings.div_ceil(COUNTS_PER_LEAF)
    }
}

/// Makes the pool of a shape.
pub fn generate(place: &Place, shape: Shape) -> Result<()> {
    let options = CreateOptions {
        data_blocks: place.data_blocks(),
        log_blocks: place.log_blocks(),
        uuid: [7; 16],
        secret: 77,
        created_unix_s: 0,
    };
    let data = FileDisk::create(place.data(), place.data_blocks() * BLOCK_BYTES)?;
    let metadata = FileDisk::create(place.metadata(), 0)?;
    let mut pool = Pool::create(data, metadata, &options, &OpenOptions::default())?;
    let new = NewVolume { name: "disk".to_owned(), uuid: [1; 16], created_unix_s: 0 };
    pool.create_volume(new, place.mappings * BLOCK_BYTES)?;
    let (mut data, mut metadata) = pool.close()?;
    let mut generator = Generator::new(&mut data, &mut metadata)?;
    // Pages: two for 250 mappings at worst, and what checkpoints take.
    generator.grow(place.mappings / 125 + 4 * place.mappings.div_ceil(COUNTS_PER_LEAF) + 8192)?;
    let mut order = Shuffle::new(place.mappings);
    for index in 0..place.mappings {
        let at = if shape == Shape::Random { order.draw() } else { index };
        generator.publish(at, place.log_blocks() + index)?;
    }
    if shape == Shape::Broken {
        generator.checkpoint(false)?;
        generator.snapshot()?;
        let step = COUNTS_PER_LEAF / 2;
        for (index, at) in (0..place.mappings).step_by(step as usize).enumerate() {
            generator.publish(at, place.spare() + place.deltas() + index as u64)?;
        }
    }
    generator.checkpoint(true)?;
    generator.checkpoint(true)
}

/// Leaves a log that a crash might have left, all of it proven, behind a copy of the metadata.
pub fn spoil(place: &Place, shape: Shape) -> Result<()> {
    let copied = std::fs::copy(place.metadata(), place.crashed_metadata());
    copied.map_err(|cause| vellum_engine::error::Error::invalid(cause.to_string()))?;
    let mut data = FileDisk::open(place.data())?;
    let mut metadata = FileDisk::open(place.crashed_metadata())?;
    let mut generator = Generator::new(&mut data, &mut metadata)?;
    generator.checkpoint(false)?;
    generator.checkpoint(false)?;
    let mut order = Shuffle::new(place.mappings);
    let deltas = (0..place.deltas()).map(|index| {
        let at = if shape == Shape::Random { order.draw() } else { index };
        full_publish(at, place.spare() + index)
    });
    generator.write_log(deltas)
}

/// Runs a step on the log head of the data file as it was before, so that it can be run again.
pub fn keep_log_head<T>(place: &Place, step: impl FnOnce() -> Result<T>) -> Result<T> {
    let head = 2 * PAGE_BYTES;
    let mut disk = FileDisk::open(place.data())?;
    let kept = vellum_engine::storage::Blocking::data(&mut disk).read(0, head)?;
    drop(disk);
    let result = step()?;
    let mut disk = FileDisk::open(place.data())?;
    vellum_engine::storage::Blocking::data(&mut disk).write(0, kept.freeze())?;
    Ok(result)
}

struct Generator<'a> {
    files: Files<'a>,
    found: Recovered,
}

impl<'a> Generator<'a> {
    fn new(data: &'a mut dyn Disk, metadata: &'a mut dyn Disk) -> Result<Self> {
        let mut files = Files::new(data, metadata);
        let found = recover(&mut files)?;
        Ok(Self { files, found })
    }

    fn grow(&mut self, pages: u64) -> Result<()> {
        let now = self.found.metadata.forest.page_counts.len();
        let page_bytes = PAGE_BYTES as u64;
        self.files.metadata.allocate(now * page_bytes, pages * page_bytes)?;
        self.found.metadata.forest.grow_pages(now + pages);
        Ok(())
    }

    fn apply(&mut self, delta: &Delta) -> Result<()> {
        let metadata = &mut self.found.metadata;
        loop {
            match metadata.apply(delta) {
                Ok(()) => break,
                Err(Fault::Missing(pointer)) => load_page(&mut self.files, metadata, &pointer)?,
                Err(Fault::Failed(error)) => return Err(error),
            }
        }
        metadata.forest.events.clear();
        Ok(())
    }

    fn publish(&mut self, at: u64, block: u64) -> Result<()> {
        self.apply(&full_publish(at, block))
    }

    fn snapshot(&mut self) -> Result<()> {
        let record = self.found.metadata.volumes.active(VOLUME)?.clone();
        let snapshot = VolumeRecord {
            id: SNAPSHOT,
            uuid: [2; 16],
            name: "disk@before".to_owned(),
            kind: VolumeKind::Snapshot,
            origin: Some(VOLUME),
            ..record
        };
        self.apply(&Delta::Snapshot { cuts: vec![(VOLUME, snapshot)] })
    }

    fn checkpoint(&mut self, clean: bool) -> Result<()> {
        let state = &mut self.found.metadata;
        let facts = SlotFacts {
            incarnation: self.found.incarnation,
            sequence: self.found.sequence,
            log_position: self.found.ring.head,
            clean,
            owner: Owner::default(),
        };
        let generation = write_now(&mut self.files, state, facts)?;
        state.forest.pages.release(generation);
        Ok(())
    }

    fn write_log(&mut self, deltas: impl Iterator<Item = Delta>) -> Result<()> {
        let mut deltas = deltas.peekable();
        while deltas.peek().is_some() {
            let pages = self.found.ring.contiguous_pages(self.found.ring.head) as usize;
            let room = pages.min(RECORD_PAGES_MAX) * PAGE_BYTES - RECORD_HEADER_BYTES;
            let mut bytes = 0;
            let mut taken = Vec::new();
            while let Some(delta) = deltas.next_if(|delta| bytes + delta.encoded_bytes() <= room) {
                bytes += delta.encoded_bytes();
                taken.push(delta);
            }
            self.write_record(taken)?;
        }
        // Two records more, so that everything before is proven.
        self.write_record(Vec::new())?;
        self.write_record(Vec::new())?;
        self.files.data.sync()
    }

    fn write_record(&mut self, deltas: Vec<Delta>) -> Result<()> {
        let sequence = self.found.sequence.next();
        let record = LogRecord {
            sequence,
            incarnation: self.found.incarnation,
            synced: Sequence(sequence.0 - 1),
            pages: 0,
            deltas,
        };
        let pages = LogRecord::pages_for(record.delta_bytes());
        let bytes = record.encode(self.found.metadata.superblock.secret, pages);
        self.files.data.write(self.found.ring.offset_bytes(self.found.ring.head), bytes.freeze())?;
        self.found.ring.head += pages as u64;
        self.found.sequence = sequence;
        Ok(())
    }
}

fn full_publish(at: u64, block: u64) -> Delta {
    Delta::Publish {
        volume: VOLUME,
        virtual_block: VirtualBlock(at),
        data_block: DataBlock(block),
        sectors: SectorMask::FULL,
        crc: 0,
    }
}

/// Every number below a limit once, in an order without a pattern: a permutation of the next power of four.
pub struct Shuffle {
    limit: u64,
    half_bits: u32,
    next: u64,
}

impl Shuffle {
    /// The numbers below `limit`.
    pub fn new(limit: u64) -> Self {
        let bits = 64 - (limit.max(4) - 1).leading_zeros();
        Self { limit, half_bits: bits.div_ceil(2), next: 0 }
    }

    /// The next number. There are `limit` of them.
    pub fn draw(&mut self) -> u64 {
        loop {
            let mixed = self.mix(self.next);
            self.next += 1;
            if mixed < self.limit {
                return mixed;
            }
        }
    }

    /// A Feistel network: four rounds over the halves of a number.
    fn mix(&self, number: u64) -> u64 {
        let mask = (1 << self.half_bits) - 1;
        let (mut left, mut right) = (number >> self.half_bits & mask, number & mask);
        for round in 1..=4u64 {
            let hashed = (right + round).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
            (left, right) = (right, left ^ (hashed & mask));
        }
        left << self.half_bits | right
    }
}
