//! Pools on counting disks, and a table of what was counted.

use super::{DISK, volume_name};
use vellum_engine::Pool;
use vellum_engine::options::{CreateOptions, OpenOptions};
use vellum_engine::request::NewVolume;
use vellum_engine::storage::{Buffer, DiskCounters, MemoryDisk};
use vellum_engine::units::{BLOCK_BYTES, SECTOR_BYTES, VolumeId};

/// A pool whose disks count.
pub struct CountedPool {
    pub pool: Pool<MemoryDisk>,
    snapshots: u32,
}

/// A pool of 4096 data blocks, 64 of them log.
pub fn pool() -> CountedPool {
    pool_of(4096)
}

/// A pool of so many data blocks.
pub fn pool_of(data_blocks: u64) -> CountedPool {
    let options = CreateOptions { data_blocks, log_blocks: 64, uuid: [7; 16], secret: 7, created_unix_s: 0 };
    let pool =
        Pool::create(MemoryDisk::new(0), MemoryDisk::new(0), &options, &OpenOptions::default()).unwrap();
    CountedPool { pool, snapshots: 0 }
}

pub fn named(name: &str, uuid: u8) -> NewVolume {
    NewVolume { name: name.to_owned(), uuid: [uuid; 16], created_unix_s: 0 }
}

impl CountedPool {
    pub fn volume(&mut self, number: u8) -> VolumeId {
        let volume = self.pool.create_volume(volume_name(number), 1 << 40).unwrap();
        assert_eq!(volume, DISK);
        volume
    }

    /// One write and flush, so that the first slab is ready.
    pub fn warm_up(&mut self, volume: VolumeId) {
        self.write(volume, 0, 0);
        self.prove();
    }

    /// Lets everything become proven.
    pub fn prove(&mut self) {
        self.pool.flush().unwrap();
        (0..4).for_each(|_| self.pool.idle(2000));
        self.pool.flush().unwrap();
    }

    pub fn write(&mut self, volume: VolumeId, offset_bytes: u64, content: u64) {
        let mut buffer = Buffer::zeroed(SECTOR_BYTES as usize);
        buffer[..8].copy_from_slice(&content.to_le_bytes());
        self.pool.write(volume, offset_bytes, buffer.freeze()).unwrap();
    }

    /// Fills the first `blocks` blocks of a volume.
    pub fn fill(&mut self, volume: VolumeId, blocks: u64) {
        for block in 0..blocks {
            let buffer = Buffer::zeroed(BLOCK_BYTES as usize);
            self.pool.write(volume, block * BLOCK_BYTES, buffer.freeze()).unwrap();
        }
        self.prove();
    }

    /// Maps the first `blocks` blocks of a volume, a sector each.
    pub fn map_blocks(&mut self, volume: VolumeId, blocks: u64) {
        (0..blocks).for_each(|block| self.write(volume, block * BLOCK_BYTES, block));
        self.prove();
    }

    pub fn snapshot(&mut self, volume: VolumeId, uuid: u8) -> VolumeId {
        self.snapshots += 1;
        let name = format!("disk1@{}", self.snapshots);
        self.pool.snapshot(volume, named(&name, uuid)).unwrap()
    }

    /// What the data disk did while `work` ran.
    pub fn counted(&mut self, work: impl FnOnce(&mut Self)) -> DiskCounters {
        let before = self.pool.data_disk().counters();
        work(self);
        self.pool.data_disk().counters().since(&before)
    }

    /// What the data disk did for one 4 KiB write and a flush. The metadata disk must do nothing for it.
    pub fn synced_write(&mut self, volume: VolumeId, offset_bytes: u64) -> DiskCounters {
        let before = self.metadata_counters();
        let counted = self.counted(|pool| {
            pool.write(volume, offset_bytes, offset_bytes);
            pool.pool.flush().unwrap();
        });
        let metadata = self.metadata_counters().since(&before);
        assert_eq!((metadata.syncs, metadata.writes), (0, 0), "the metadata file is off the path of a flush");
        counted
    }

    pub fn metadata_counters(&self) -> DiskCounters {
        self.pool.metadata_disk().counters()
    }

    /// The same pool with nothing in memory.
    pub fn reopened(self) -> Self {
        let (data, metadata) = self.pool.close().unwrap();
        let pool = Pool::open(data, metadata, &OpenOptions::default()).unwrap();
        Self { pool, snapshots: self.snapshots }
    }
}

/// A counted row and its promise.
pub struct Row {
    what: &'static str,
    counted: DiskCounters,
    flushes_max: u64,
    kib_max: u64,
}

impl Row {
    pub fn new(what: &'static str, counted: DiskCounters, flushes_max: u64, kib_max: u64) -> Self {
        Self { what, counted, flushes_max, kib_max }
    }
}

/// A table that is printed whether its promises hold or not.
pub struct Figures {
    lines: Vec<String>,
    broken: Vec<String>,
}

impl Figures {
    pub fn new(title: &str) -> Self {
        Self { lines: vec![title.to_owned()], broken: Vec::new() }
    }

    pub fn add(&mut self, row: Row) {
        let kib = row.counted.bytes_written / 1024;
        let line = format!(
            "  {:<44} {} of {} flushes, {kib:>3} of {} KiB",
            row.what, row.counted.syncs, row.flushes_max, row.kib_max
        );
        if row.counted.syncs > row.flushes_max || kib > row.kib_max {
            self.broken.push(line.clone());
        }
        self.lines.push(line);
    }

    pub fn note(&mut self, line: String) {
        self.lines.push(format!("  {line}"));
    }

    pub fn print(self) {
        println!("{}", self.lines.join("\n"));
        assert!(self.broken.is_empty(), "promises broken:\n{}", self.broken.join("\n"));
    }
}
