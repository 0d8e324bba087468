//! The pool that is damaged: volumes, snapshots and clones, deep trees, mappings of two layers, counts beyond a byte, a
//! log that was not replayed; and what every page held at earlier times.
//!
//! Owns the making. Judges nothing.

use vellum_engine::Pool;
use vellum_engine::options::{CreateOptions, OpenOptions};
use vellum_engine::request::{NewVolume, Request};
use vellum_engine::storage::{Blocking, Disk, MemoryDisk};
use vellum_engine::units::{BLOCK_BYTES, PAGE_BYTES, VolumeId};

/// Bytes of one window of a mapping leaf.
pub const WINDOW_BYTES: u64 = 16 * 1024 * BLOCK_BYTES;

/// A pool at rest, and older states of its disks.
#[derive(Clone)]
pub struct Disks {
    pub data: MemoryDisk,
    pub metadata: MemoryDisk,
    pub older: Vec<(MemoryDisk, MemoryDisk)>,
}

pub fn new_volume(name: &str) -> NewVolume {
    NewVolume { name: name.to_owned(), uuid: [9; 16], created_unix_s: 0 }
}

pub fn open_options() -> OpenOptions {
    OpenOptions { slab_blocks: 16, slice_mappings: 20, ..OpenOptions::default() }
}

pub fn empty_pool(data_blocks: u64, log_blocks: u64) -> Pool<MemoryDisk> {
    let options = CreateOptions { data_blocks, log_blocks, uuid: [1; 16], secret: 42, created_unix_s: 7 };
    Pool::create(MemoryDisk::new(0), MemoryDisk::new(0), &options, &open_options()).unwrap()
}

/// The pool while it is made.
struct Maker {
    pool: Pool<MemoryDisk>,
    older: Vec<(MemoryDisk, MemoryDisk)>,
    byte: u8,
}

impl Maker {
    fn volume(&mut self, name: &str, windows: u64) -> VolumeId {
        self.pool.create_volume(new_volume(name), windows * WINDOW_BYTES).unwrap()
    }

    fn write(&mut self, volume: VolumeId, offset: u64, length: u64) {
        self.byte = self.byte.wrapping_mul(5).wrapping_add(17) | 1;
        self.pool.write(volume, offset, vec![self.byte; length as usize]).unwrap();
    }

    /// Keeps the disks as they are.
    fn remember(&mut self) {
        self.older.push((self.pool.data_disk().clone(), self.pool.metadata_disk().clone()));
    }

    fn checkpoint(&mut self) {
        self.pool.request(Request::Checkpoint).unwrap();
        self.remember();
    }

    fn done(self) -> Disks {
        let (data, metadata) = (self.pool.data_disk().clone(), self.pool.metadata_disk().clone());
        Disks { data, metadata, older: self.older }
    }
}

/// A pool with every kind of page in it. `windows` makes the largest tree: more than 117 give it three levels. The log
/// behind the last checkpoint holds records that are proven, unless the pool is closed.
pub fn make(windows: u64, closed: bool) -> Disks {
    let mut maker = Maker { pool: empty_pool(8192, 8), older: Vec::new(), byte: 3 };
    let deep = maker.volume("deep", windows + 20);
    let many = maker.volume("many", 1);
    let disk = maker.volume("disk", 9);
    for window in 0..windows {
        maker.write(deep, window * WINDOW_BYTES, 4096 * (1 + window % 3));
    }
    for window in 0..6 {
        for block in [0, 1, 2, 7, 9] {
            maker.write(disk, window * WINDOW_BYTES + block * BLOCK_BYTES, BLOCK_BYTES);
        }
    }
    maker.write(many, 8192, 4096);
    maker.checkpoint();
    for index in 0..260 {
        maker.pool.snapshot(many, new_volume(&format!("many@{index}"))).unwrap();
    }
    maker.checkpoint();
    let first = maker.pool.snapshot(disk, new_volume("disk@first")).unwrap();
    maker.pool.snapshot(deep, new_volume("deep@first")).unwrap();
    maker.write(disk, BLOCK_BYTES + 4096, 8192);
    maker.write(disk, 3 * WINDOW_BYTES, 4096);
    maker.write(deep, 5 * WINDOW_BYTES + 4096, 4096);
    maker.checkpoint();
    // Leaves come to stand where others stood.
    for round in 0..4 {
        maker.write(deep, (round * 11 % windows) * WINDOW_BYTES, 4096);
        maker.write(disk, 2 * WINDOW_BYTES + round * 4096, 4096);
        maker.checkpoint();
    }
    let copy = maker.pool.clone_snapshot(first, new_volume("copy")).unwrap();
    maker.write(copy, 2 * BLOCK_BYTES + 12288, 20000);
    maker.write(copy, 8 * WINDOW_BYTES, 3 * BLOCK_BYTES);
    maker.checkpoint();
    for window in [1, windows / 2, windows - 1] {
        maker.write(deep, window * WINDOW_BYTES + 2 * BLOCK_BYTES, 8192);
    }
    let discard = Request::Discard {
        volume: disk,
        offset_bytes: WINDOW_BYTES,
        length_bytes: 3 * BLOCK_BYTES,
        fua: false,
    };
    maker.pool.request(discard).unwrap();
    maker.pool.snapshot(disk, new_volume("disk@second")).unwrap();
    maker.checkpoint();
    maker.write(disk, 4 * WINDOW_BYTES + 4096, 4096);
    maker.checkpoint();
    maker.write(copy, BLOCK_BYTES, 4096);
    maker.write(disk, 7 * BLOCK_BYTES, 12288);
    maker.pool.flush().unwrap();
    maker.remember();
    maker.write(disk, 9 * BLOCK_BYTES, 4096);
    maker.pool.flush().unwrap();
    // Two proofs: everything before is proven.
    maker.pool.idle(1500);
    maker.pool.idle(1500);
    if closed {
        let Maker { pool, older, .. } = maker;
        let (data, metadata) = pool.close().unwrap();
        return Disks { data, metadata, older };
    }
    maker.done()
}

pub fn page(disk: &mut MemoryDisk, number: u64) -> Vec<u8> {
    Blocking::metadata(disk).read(number * PAGE_BYTES as u64, PAGE_BYTES).unwrap().to_vec()
}

pub fn put_page(disk: &mut MemoryDisk, number: u64, bytes: Vec<u8>) {
    Blocking::metadata(disk).write(number * PAGE_BYTES as u64, bytes.into()).unwrap();
}

pub fn page_count(disk: &MemoryDisk) -> u64 {
    disk.size_bytes() / PAGE_BYTES as u64
}
