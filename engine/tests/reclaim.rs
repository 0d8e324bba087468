//! What goes back to the host and when: sectors, blocks, on request, by policy; and zeros that are not written.
//!
//! Counts what the disk is asked for. That no cut and no order of completions breaks it is the crash tests' to show.

use vellum_engine::Pool;
use vellum_engine::error::{ErrorKind, Result};
use vellum_engine::options::{CreateOptions, OpenOptions};
use vellum_engine::request::{NewVolume, Outcome, PropertiesChange, Request, Trimmed};
use vellum_engine::settings::{DiscardPolicy, Settings};
use vellum_engine::storage::{Completion, Disk, DiskError, FileDisk, MemoryDisk, Operation, Ticket};
use vellum_engine::units::{BLOCK_BYTES, SECTOR_BYTES, VolumeId};

const DATA_BLOCKS: u64 = 2048;
const CREATE: CreateOptions =
    CreateOptions { data_blocks: DATA_BLOCKS, log_blocks: 64, uuid: [1; 16], secret: 42, created_unix_s: 7 };

fn new_volume(name: &str) -> NewVolume {
    NewVolume { name: name.to_owned(), uuid: [9; 16], created_unix_s: 0 }
}

fn pool_on<D: Disk>(data: D, metadata: D) -> (Pool<D>, VolumeId) {
    let mut pool = Pool::create(data, metadata, &CREATE, &OpenOptions::default()).unwrap();
    let volume = pool.create_volume(new_volume("v"), 1 << 30).unwrap();
    (pool, volume)
}

fn pool_in_memory() -> (Pool<MemoryDisk>, VolumeId) {
    pool_on(MemoryDisk::new(0), MemoryDisk::new(0))
}

/// Writes so many blocks from the start of the volume on, and lets that be proven.
fn fill<D: Disk>(pool: &mut Pool<D>, volume: VolumeId, blocks: u64) {
    for block in 0..blocks {
        pool.write(volume, block * BLOCK_BYTES, vec![block as u8 | 1; BLOCK_BYTES as usize]).unwrap();
    }
    pool.flush().unwrap();
    rest(pool);
}

fn rest<D: Disk>(pool: &mut Pool<D>) {
    (0..40).for_each(|_| pool.idle(100));
}

fn discard<D: Disk>(pool: &mut Pool<D>, volume: VolumeId, offset_bytes: u64, length_bytes: u64) {
    pool.request(Request::Discard { volume, offset_bytes, length_bytes, fua: false }).unwrap();
}

fn set<D: Disk>(pool: &mut Pool<D>, discard: DiscardPolicy, detect_zeros: bool) {
    pool.configure(Settings { discard, detect_zeros, ..Settings::default() }).unwrap();
}

/// Free space that was punched, in bytes.
fn trim<D: Disk>(pool: &mut Pool<D>) -> Result<u64> {
    let (mut next, mut punched) = (Some(0), 0);
    while let Some(first_block) = next {
        let Outcome::Trimmed(Trimmed { next_block, punched_bytes }) =
            pool.request(Request::Trim { first_block })?
        else {
            panic!("a trim has an answer of its own");
        };
        punched += punched_bytes;
        next = next_block;
    }
    Ok(punched)
}

fn free_bytes<D: Disk>(pool: &Pool<D>) -> u64 {
    let status = pool.status();
    (status.data_blocks - status.used_blocks) * BLOCK_BYTES
}

fn mapped_blocks<D: Disk>(pool: &Pool<D>) -> u64 {
    pool.volumes().iter().map(|info| info.mapped_blocks).sum()
}

#[test]
fn discarded_sectors_go_back_once_that_is_proven_and_no_others() {
    let (mut pool, volume) = pool_in_memory();
    fill(&mut pool, volume, 2);
    let before = (pool.data_disk().counters(), pool.data_disk().stored_bytes());
    discard(&mut pool, volume, 2 * SECTOR_BYTES, SECTOR_BYTES);
    discard(&mut pool, volume, 3 * SECTOR_BYTES, SECTOR_BYTES);
    discard(&mut pool, volume, 9 * SECTOR_BYTES + 1, 2 * SECTOR_BYTES);
    assert_eq!(pool.data_disk().counters().since(&before.0).punches, 0, "nothing is proven yet");
    rest(&mut pool);
    assert_eq!(pool.data_disk().counters().since(&before.0).punches, 2, "one a run of sectors");
    let log_bytes = pool.data_disk().counters().since(&before.0).bytes_written;
    assert!(pool.data_disk().stored_bytes() <= before.1 + log_bytes - 3 * SECTOR_BYTES);
    let read = pool.read(volume, 0, 2 * BLOCK_BYTES).unwrap();
    for (sector, bytes) in read.chunks(SECTOR_BYTES as usize).enumerate() {
        let gone = [2, 3, 10].contains(&sector);
        assert!(bytes.iter().all(|byte| *byte == if gone { 0 } else { 1 }), "sector {sector}");
    }
}

#[test]
fn what_was_written_again_or_is_shared_is_not_punched() {
    let (mut pool, volume) = pool_in_memory();
    fill(&mut pool, volume, 1);
    let before = pool.data_disk().counters();
    discard(&mut pool, volume, 0, SECTOR_BYTES);
    pool.write(volume, 0, vec![7; SECTOR_BYTES as usize]).unwrap();
    rest(&mut pool);
    assert_eq!(pool.data_disk().counters().since(&before).punches, 0);

    let snapshot = pool.snapshot(volume, new_volume("v@s")).unwrap();
    discard(&mut pool, volume, 0, SECTOR_BYTES);
    rest(&mut pool);
    assert_eq!(pool.data_disk().counters().since(&before).punches, 0);
    assert_eq!(pool.read(snapshot, 0, SECTOR_BYTES).unwrap(), [7; SECTOR_BYTES as usize]);
    assert_eq!(pool.read(volume, 0, SECTOR_BYTES).unwrap(), [0; SECTOR_BYTES as usize]);
}

#[test]
fn a_volume_with_a_reservation_keeps_its_discarded_sectors() {
    let (mut pool, volume) = pool_in_memory();
    fill(&mut pool, volume, 2);
    let change = PropertiesChange { reservation_bytes: Some(4 * BLOCK_BYTES), ..PropertiesChange::default() };
    pool.request(Request::SetProperties { volume, change: Box::new(change) }).unwrap();
    rest(&mut pool);
    let before = pool.data_disk().counters();
    discard(&mut pool, volume, 0, SECTOR_BYTES);
    rest(&mut pool);
    assert_eq!(pool.data_disk().counters().since(&before).punches, 0);
}

#[test]
fn an_idle_pool_keeps_a_few_blocks_and_then_rests() {
    let (mut pool, volume) = pool_in_memory();
    fill(&mut pool, volume, 600);
    discard(&mut pool, volume, 0, 500 * BLOCK_BYTES);
    rest(&mut pool);
    let space = pool.status().space;
    assert!(space.recycled + space.fresh <= 12, "{space:?}");
    assert_eq!((space.waiting, space.queued, space.punching), (0, 0, 0));
    let before = pool.data_disk().counters();
    rest(&mut pool);
    assert_eq!(pool.data_disk().counters(), before, "what is done is not done again");

    // A write now and then takes from what was kept: nothing is allocated and punched over and over.
    for block in 0..10 {
        pool.write(volume, block * BLOCK_BYTES, vec![1; BLOCK_BYTES as usize]).unwrap();
        rest(&mut pool);
    }
    let since = pool.data_disk().counters().since(&before);
    assert!(since.allocations <= 3 && since.punches == 0, "{since:?}");
}

#[test]
fn what_is_freed_is_written_again_before_anything_new_is_allocated() {
    let options = OpenOptions { recycle_blocks: 0, ..OpenOptions::default() };
    let mut pool = Pool::create(MemoryDisk::new(0), MemoryDisk::new(0), &CREATE, &options).unwrap();
    let volume = pool.create_volume(new_volume("v"), 1 << 30).unwrap();
    fill(&mut pool, volume, 64);
    let before = pool.data_disk().counters();
    discard(&mut pool, volume, 0, 64 * BLOCK_BYTES);
    rest(&mut pool);
    assert!(pool.data_disk().counters().since(&before).punches <= 2, "merged to large ranges");
}

#[test]
fn the_policy_decides_what_goes_back() {
    let (mut pool, volume) = pool_in_memory();
    set(&mut pool, DiscardPolicy::Off, false);
    fill(&mut pool, volume, 100);
    let before = pool.data_disk().counters();
    discard(&mut pool, volume, 0, 50 * BLOCK_BYTES + SECTOR_BYTES);
    pool.idle(100_000);
    rest(&mut pool);
    assert_eq!(pool.data_disk().counters().since(&before).punches, 0);
    assert!(pool.status().space.recycled >= 50);

    pool.write(volume, 0, vec![1; BLOCK_BYTES as usize]).unwrap();
    set(&mut pool, DiscardPolicy::Lazy, false);
    rest(&mut pool);
    assert_eq!(pool.data_disk().counters().since(&before).punches, 0);
    pool.idle(60_000);
    assert!(pool.data_disk().counters().since(&before).punches > 0);
    assert!(pool.status().space.recycled <= 12);

    discard(&mut pool, volume, 60 * BLOCK_BYTES, 30 * BLOCK_BYTES);
    set(&mut pool, DiscardPolicy::Eager, false);
    rest(&mut pool);
    assert!(pool.status().space.recycled <= 12);
}

#[test]
fn a_trim_gives_back_what_a_crash_made_forgotten() {
    let (mut pool, volume) = pool_in_memory();
    set(&mut pool, DiscardPolicy::Off, false);
    fill(&mut pool, volume, 500);
    discard(&mut pool, volume, 0, 400 * BLOCK_BYTES);
    pool.flush().unwrap();
    rest(&mut pool);
    let (data, metadata) = (pool.data_disk().clone(), pool.metadata_disk().clone());
    let stored = data.stored_bytes();
    let mut pool = Pool::open(data, metadata, &OpenOptions::default()).unwrap();
    assert_eq!(pool.status().space.recycled, 0, "nobody knows that the host has it");
    assert!((392 * BLOCK_BYTES..=free_bytes(&pool)).contains(&trim(&mut pool).unwrap()));
    assert!(pool.data_disk().stored_bytes() + 399 * BLOCK_BYTES < stored);
    assert_eq!(pool.read(volume, 499 * BLOCK_BYTES, 1).unwrap(), [499_u64 as u8 | 1]);
    pool.write(volume, 0, vec![3; BLOCK_BYTES as usize]).unwrap();
    assert_eq!(pool.read(volume, 0, 1).unwrap(), [3]);
    let beyond = pool.request(Request::Trim { first_block: u64::MAX }).unwrap();
    assert!(matches!(beyond, Outcome::Trimmed(Trimmed { next_block: None, punched_bytes: 0 })));
}

#[test]
fn a_trim_takes_also_what_was_freed_just_before() {
    let (mut pool, volume) = pool_in_memory();
    fill(&mut pool, volume, 100);
    let before = pool.data_disk().stored_bytes();
    discard(&mut pool, volume, 0, 100 * BLOCK_BYTES);
    trim(&mut pool).unwrap();
    assert!(pool.data_disk().stored_bytes() + 99 * BLOCK_BYTES < before);
}

/// A disk that cannot give space back.
struct Keeps(MemoryDisk, u64);

impl Disk for Keeps {
    fn size_bytes(&self) -> u64 {
        self.0.size_bytes()
    }

    fn submit(&mut self, ticket: Ticket, operation: Operation) {
        self.1 += u64::from(matches!(operation, Operation::Punch { .. }));
        self.0.submit(ticket, operation);
    }

    fn next_completion(&mut self) -> Option<Completion> {
        let mut completion = self.0.next_completion()?;
        if matches!(completion.operation, Operation::Punch { .. }) {
            completion.result = Err(DiskError::Unsupported);
        }
        Some(completion)
    }
}

#[test]
fn a_host_that_cannot_take_space_back_is_asked_once() {
    let keeps = || Keeps(MemoryDisk::new(0), 0);
    let (mut pool, volume) = pool_on(keeps(), keeps());
    fill(&mut pool, volume, 600);
    discard(&mut pool, volume, 0, 500 * BLOCK_BYTES);
    rest(&mut pool);
    discard(&mut pool, volume, 550 * BLOCK_BYTES, SECTOR_BYTES);
    rest(&mut pool);
    assert_eq!(pool.data_disk().1, 1);
    assert_eq!(trim(&mut pool).unwrap_err().kind(), ErrorKind::Unsupported);
    let space = pool.status().space;
    let total = space.recycled + space.fresh + space.holes + space.waiting + space.queued + space.punching;
    assert_eq!(total * BLOCK_BYTES, free_bytes(&pool), "{space:?}");
    fill(&mut pool, volume, 600);
    assert_eq!(pool.data_disk().1, 1);
}

#[test]
fn written_zeros_become_holes_if_so_set() {
    let (mut pool, volume) = pool_in_memory();
    let zeros = vec![0; 4 * BLOCK_BYTES as usize];
    pool.write(volume, 0, zeros.clone()).unwrap();
    assert_eq!(mapped_blocks(&pool), 4, "off by default");

    set(&mut pool, DiscardPolicy::Eager, true);
    pool.write(volume, 0, zeros.clone()).unwrap();
    assert_eq!(mapped_blocks(&pool), 0);
    let mut mixed = zeros.clone();
    mixed[SECTOR_BYTES as usize] = 5;
    mixed[3 * BLOCK_BYTES as usize - 1] = 6;
    let before = pool.data_disk().counters();
    pool.write(volume, 0, mixed.clone()).unwrap();
    assert_eq!(mapped_blocks(&pool), 2);
    assert_eq!(pool.read(volume, 0, 4 * BLOCK_BYTES).unwrap(), mixed);
    let written = pool.data_disk().counters().since(&before).bytes_written;
    assert!(written <= 2 * SECTOR_BYTES + 2 * SECTOR_BYTES, "two sectors and the log: {written}");

    // Over data, at odd places: what was there is gone, what is beside stays.
    pool.write(volume, 0, vec![9; 2 * BLOCK_BYTES as usize]).unwrap();
    pool.write(volume, 100, vec![0; BLOCK_BYTES as usize]).unwrap();
    let read = pool.read(volume, 0, 2 * BLOCK_BYTES).unwrap();
    let zeroed = 100..100 + BLOCK_BYTES as usize;
    assert!(read.iter().enumerate().all(|(at, byte)| *byte == if zeroed.contains(&at) { 0 } else { 9 }));

    let (offset_bytes, length_bytes) = (10 * BLOCK_BYTES, BLOCK_BYTES);
    let keep = Request::WriteZeroes { volume, offset_bytes, length_bytes, keep_allocated: true, fua: false };
    let mapped = mapped_blocks(&pool);
    pool.request(keep).unwrap();
    assert_eq!(mapped_blocks(&pool), mapped + 1, "who asks for allocated zeros gets them");
}

#[test]
fn zeroing_a_huge_unmapped_range_costs_no_more_than_a_small_one() {
    let (mut pool, volume) = pool_in_memory();
    rest(&mut pool);
    let before = pool.data_disk().counters();
    let whole = Request::WriteZeroes {
        volume,
        offset_bytes: 0,
        length_bytes: 1 << 30,
        keep_allocated: false,
        fua: false,
    };
    pool.request(whole).unwrap();
    discard(&mut pool, volume, 0, 1 << 30);
    let since = pool.data_disk().counters().since(&before);
    assert_eq!((since.writes, since.syncs, since.punches, since.reads), (0, 0, 0, 0));

    pool.write(volume, 1 << 29, vec![1; BLOCK_BYTES as usize]).unwrap();
    let before = pool.data_disk().counters();
    discard(&mut pool, volume, 0, 1 << 30);
    let since = pool.data_disk().counters().since(&before);
    assert_eq!((since.writes, since.bytes_written), (1, SECTOR_BYTES), "one page of the log");
}

#[test]
fn the_file_takes_what_is_mapped_and_little_more() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| FileDisk::create(directory.path().join(name), 0).unwrap();
    let (mut pool, volume) = pool_on(file("data"), file("metadata"));
    let check = |pool: &Pool<FileDisk>, when: &str| {
        let host = pool.data_disk().file().host_bytes().unwrap();
        let mapped = pool.status().used_blocks * BLOCK_BYTES;
        assert!(host.abs_diff(mapped) <= mapped / 100 + (1 << 20), "{when}: {host} for {mapped}");
    };
    fill(&mut pool, volume, 600);
    check(&pool, "after a fill");
    let snapshot = pool.snapshot(volume, new_volume("v@s")).unwrap();
    fill(&mut pool, volume, 300);
    check(&pool, "after overwriting what a snapshot has");
    pool.delete(snapshot).unwrap();
    rest(&mut pool);
    discard(&mut pool, volume, 100 * BLOCK_BYTES, 400 * BLOCK_BYTES);
    rest(&mut pool);
    check(&pool, "after a deletion and a discard");
    let host = pool.data_disk().file().host_bytes().unwrap();
    let (data, metadata) = pool.close().unwrap();
    assert!(data.file().host_bytes().unwrap() <= host, "closing leaves nothing ready");
    check(&Pool::open(data, metadata, &OpenOptions::default()).unwrap(), "after closing and opening");
}
