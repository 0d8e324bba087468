//! Pools whose host has no more room: what goes on, what fails, and what works again when there is room.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;
use vellum_engine::error::{ErrorKind, Result};
use vellum_engine::format::{SUPERBLOCK_PAGES, Superblock};
use vellum_engine::options::{CreateOptions, OpenOptions};
use vellum_engine::request::{NewVolume, Request};
use vellum_engine::storage::{Blocking, Completion, Disk, DiskError, MemoryDisk, Operation, Ticket};
use vellum_engine::units::{BLOCK_BYTES, SECTOR_BYTES, VolumeId};
use vellum_engine::{MetadataState, Pool};

/// The bytes of a volume that one mapping leaf covers.
const WINDOW_BYTES: u64 = 16 * 1024 * BLOCK_BYTES;

/// A disk whose host gives no room behind a limit, and which forgets what is written behind another one.
struct Limited {
    disk: MemoryDisk,
    limit_bytes: Rc<Cell<u64>>,
    kept_bytes: u64,
    done: VecDeque<Completion>,
}

impl Disk for Limited {
    fn size_bytes(&self) -> u64 {
        self.disk.size_bytes()
    }

    fn submit(&mut self, ticket: Ticket, operation: Operation) {
        let result = match &operation {
            Operation::Allocate { offset_bytes, length_bytes }
                if offset_bytes + length_bytes > self.limit_bytes.get() =>
            {
                Err(DiskError::NoSpace)
            }
            Operation::Write { offset_bytes, .. } if *offset_bytes >= self.kept_bytes => Ok(()),
            _ => return self.disk.submit(ticket, operation),
        };
        self.done.push_back(Completion { ticket, operation, result });
    }

    fn next_completion(&mut self) -> Option<Completion> {
        self.done.pop_front().or_else(|| self.disk.next_completion())
    }
}

/// A pool and the limits of its files, in bytes.
struct LimitedPool {
    pool: Pool<Limited>,
    data_limit: Rc<Cell<u64>>,
    metadata_limit: Rc<Cell<u64>>,
}

impl LimitedPool {
    fn new(data_blocks: u64, kept_bytes: u64, options: &OpenOptions) -> Self {
        let limits = [Rc::new(Cell::new(u64::MAX)), Rc::new(Cell::new(u64::MAX))];
        let disk = |limit: &Rc<Cell<u64>>, kept_bytes| Limited {
            disk: MemoryDisk::new(0),
            limit_bytes: limit.clone(),
            kept_bytes,
            done: VecDeque::new(),
        };
        let create =
            CreateOptions { data_blocks, log_blocks: 64, uuid: [1; 16], secret: 4, created_unix_s: 0 };
        let pool = Pool::create(disk(&limits[0], kept_bytes), disk(&limits[1], u64::MAX), &create, options);
        let [data_limit, metadata_limit] = limits;
        Self { pool: pool.unwrap(), data_limit, metadata_limit }
    }

    fn volume(&mut self, number: u8) -> VolumeId {
        let name = format!("v{number}");
        self.pool.create_volume(NewVolume { name, uuid: [number; 16], created_unix_s: 0 }, 1 << 45).unwrap()
    }

    fn write_sector(&mut self, volume: VolumeId, offset_bytes: u64) -> Result<()> {
        self.pool.write(volume, offset_bytes, vec![1; SECTOR_BYTES as usize])
    }

    /// Lets the metadata file grow no more, and writes until it is full. How many windows were written.
    fn fill_metadata(&mut self, volume: VolumeId) -> u64 {
        self.write_sector(volume, 0).unwrap();
        self.metadata_limit.set(self.pool.metadata_disk().size_bytes());
        let full = (0..).find(|window| self.write_sector(volume, window * WINDOW_BYTES).is_err());
        full.unwrap()
    }
}

#[test]
fn a_full_metadata_file_takes_writes_again_when_its_host_has_room() {
    let mut limited = LimitedPool::new(100_000, u64::MAX, &OpenOptions::default());
    let volume = limited.volume(1);
    let full = limited.fill_metadata(volume);
    let refused = limited.write_sector(volume, full * WINDOW_BYTES).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NoSpace);
    limited.write_sector(volume, 0).expect("an overwrite needs no room");
    limited.metadata_limit.set(u64::MAX);
    // The first one that fails asks the host again.
    let _ = limited.write_sector(volume, full * WINDOW_BYTES);
    limited.write_sector(volume, full * WINDOW_BYTES).unwrap();
}

#[test]
fn a_metadata_file_says_when_it_is_nearly_full_and_full() {
    let mut limited = LimitedPool::new(100_000, u64::MAX, &OpenOptions::default());
    let volume = limited.volume(1);
    limited.write_sector(volume, 0).unwrap();
    assert_eq!(limited.pool.status().metadata_state, MetadataState::Ok);
    // A little room is left: less than a step, and used all the same.
    limited.metadata_limit.set(limited.pool.metadata_disk().size_bytes() + 100 * 4096);
    let mut states = Vec::new();
    for window in 1.. {
        let written = limited.write_sector(volume, window * WINDOW_BYTES);
        let state = limited.pool.status().metadata_state;
        if states.last() != Some(&state) {
            states.push(state);
        }
        if written.is_err() {
            break;
        }
    }
    assert_eq!(states, [MetadataState::Ok, MetadataState::NearFull, MetadataState::Full]);
    let room = limited.metadata_limit.get() - limited.pool.metadata_disk().size_bytes();
    assert!(room < 32 * 4096, "{room} bytes of the host's room were not used");
    limited.metadata_limit.set(u64::MAX);
    let _ = limited.write_sector(volume, 1 << 44);
    limited.write_sector(volume, 1 << 44).unwrap();
    assert_eq!(limited.pool.status().metadata_state, MetadataState::Ok);
}

/// The file behind a pool's data cannot be so long.
#[test]
fn an_extension_beyond_the_end_of_a_device_is_refused_and_changes_nothing() {
    let mut limited = LimitedPool::new(4096, u64::MAX, &OpenOptions::default());
    let volume = limited.volume(1);
    limited.data_limit.set(5000 * BLOCK_BYTES);
    let refused = limited.pool.request(Request::Extend { data_blocks: 5001 }).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NoSpace);
    assert_eq!(limited.pool.status().data_blocks, 4096);
    limited.pool.request(Request::Extend { data_blocks: 5000 }).unwrap();
    limited.write_sector(volume, 0).unwrap();
}

/// A large extension needs pages for its counts: more than one step of growth, or it says that they are missing.
#[test]
fn an_extension_waits_for_metadata_pages_or_fails_for_want_of_them() {
    let mut limited = LimitedPool::new(4096, u64::MAX, &OpenOptions::default());
    limited.metadata_limit.set(limited.pool.metadata_disk().size_bytes() + (1 << 20));
    let refused = limited.pool.request(Request::Extend { data_blocks: 16 << 20 }).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NoSpace);
    assert_eq!(limited.pool.status().data_blocks, 4096);
    limited.metadata_limit.set(u64::MAX);
    limited.pool.request(Request::Extend { data_blocks: 16 << 20 }).unwrap();
    assert_eq!(limited.pool.status().failure, None);
}

#[test]
fn a_full_metadata_file_is_emptied_by_deleting() {
    let mut limited = LimitedPool::new(100_000, u64::MAX, &OpenOptions::default());
    let (kept, deleted) = (limited.volume(1), limited.volume(2));
    limited.write_sector(kept, 0).unwrap();
    limited.fill_metadata(deleted);
    limited.pool.delete(deleted).unwrap();
    (0..5).for_each(|_| limited.pool.idle(2000));
    for _ in 0..3 {
        limited.pool.request(Request::Checkpoint).unwrap();
    }
    assert_eq!(limited.pool.status().deleting, 0);
    (0..8).for_each(|window| limited.write_sector(kept, window * WINDOW_BYTES).unwrap());
    let (data, metadata) = limited.pool.close().unwrap();
    let mut pool = Pool::open(data, metadata, &OpenOptions::default()).unwrap();
    assert_eq!(pool.read(kept, 0, 4).unwrap(), [1; 4]);
}

/// One slice may change as many leaves of counts as there are.
#[test]
fn a_discard_that_touches_all_counts_fits_into_the_reserve() {
    const EVERY: u64 = 40;
    let options = OpenOptions { slab_blocks: 1 << 16, ..OpenOptions::default() };
    let mut limited = LimitedPool::new(1_300_000, 64 * BLOCK_BYTES, &options);
    let (thin, filler, last) = (limited.volume(1), limited.volume(2), limited.volume(3));
    let between = bytes::Bytes::from(vec![1; ((EVERY - 1) * BLOCK_BYTES) as usize]);
    for index in 0..30_000 {
        limited.write_sector(thin, index * BLOCK_BYTES).unwrap();
        limited.pool.write(filler, index * (EVERY - 1) * BLOCK_BYTES, between.clone()).unwrap();
    }
    for _ in 0..3 {
        limited.pool.request(Request::Checkpoint).unwrap();
    }
    limited.fill_metadata(last);
    let discard = Request::Discard { volume: thin, offset_bytes: 0, length_bytes: 1 << 44, fua: true };
    limited.pool.request(discard).unwrap();
    limited.pool.request(Request::Checkpoint).unwrap();
    assert_eq!(limited.pool.status().failure, None);
}

#[test]
fn a_full_host_is_waited_for_while_freed_blocks_are_on_their_way() {
    let options = OpenOptions { slab_blocks: 8, ..OpenOptions::default() };
    let mut limited = LimitedPool::new(4096, u64::MAX, &options);
    let volume = limited.volume(1);
    limited.write_sector(volume, 0).unwrap();
    limited.data_limit.set(100 * BLOCK_BYTES);
    let full = (1..).find(|block| limited.write_sector(volume, block * BLOCK_BYTES).is_err()).unwrap();
    limited.pool.flush().unwrap();
    let discard = Request::Discard { volume, offset_bytes: 0, length_bytes: 16 * BLOCK_BYTES, fua: true };
    limited.pool.request(discard).unwrap();
    limited.write_sector(volume, full * BLOCK_BYTES).unwrap();
}

#[test]
fn a_pool_of_a_newer_program_is_not_written_over() {
    let create =
        CreateOptions { data_blocks: 64, log_blocks: 2, uuid: [1; 16], secret: 4, created_unix_s: 0 };
    let (mut data, mut metadata) = (MemoryDisk::new(0), MemoryDisk::new(0));
    vellum_engine::create(&mut data, &mut metadata, &create).unwrap();
    let mut elsewhere = MemoryDisk::new(0);
    let refused = vellum_engine::create(&mut data, &mut elsewhere, &create).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Exists, "the data file of a pool");
    let mut blocking = Blocking::metadata(&mut metadata);
    for page in SUPERBLOCK_PAGES {
        let superblock = Superblock::decode(&blocking.read(page.offset_bytes(), 4096).unwrap()).unwrap();
        let newer = Superblock { incompatible: 4, ..superblock };
        blocking.write(page.offset_bytes(), newer.encode().freeze()).unwrap();
    }
    let refused = vellum_engine::create(&mut MemoryDisk::new(0), &mut metadata, &create).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Exists, "metadata with an unknown feature");
}
