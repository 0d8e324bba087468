//! What sets of volumes and snapshots have alone: compared with what their deletion really frees, and while they change.

#[allow(dead_code)]
mod common;

use common::{Busy, Random, WINDOW_BYTES, disks, empty_pool, new_volume, open_options};
use vellum_engine::error::ErrorKind;
use vellum_engine::format::VolumeKind;
use vellum_engine::options::OpenOptions;
use vellum_engine::request::{Outcome, Request, RequestId, Usage};
use vellum_engine::storage::{Disk, MemoryDisk};
use vellum_engine::units::{BLOCK_BYTES, SECTOR_BYTES, VolumeId};
use vellum_engine::{Core, Pool, Side, VolumeInfo, data_path};

/// Nothing is joined in the background: what a deletion frees is then what it frees at once.
fn options() -> OpenOptions {
    OpenOptions { collapse_bytes_per_s: 0, ..open_options() }
}

fn usage(pool: &mut Pool<MemoryDisk>, volumes: &[VolumeId], sectors: bool) -> Usage {
    match pool.request(Request::Usage { volumes: volumes.to_vec(), sectors }).unwrap() {
        Outcome::Usage(usage) => usage,
        other => panic!("{other:?}"),
    }
}

/// Lets everything that was deleted go.
fn settle(pool: &mut Pool<MemoryDisk>) {
    while pool.status().deleting > 0 || pool.status().space.waiting > 0 {
        pool.idle(1500);
    }
}

fn copy(pool: &Pool<MemoryDisk>) -> Pool<MemoryDisk> {
    let (data, metadata) = disks(pool);
    let mut pool = Pool::open(data, metadata, &options()).unwrap();
    settle(&mut pool);
    pool
}

/// Blocks that a request frees, in a copy of the pool.
fn freed_by(pool: &Pool<MemoryDisk>, request: Request) -> u64 {
    let mut pool = copy(pool);
    let before = pool.status().used_blocks;
    pool.request(request).unwrap();
    settle(&mut pool);
    before - pool.status().used_blocks
}

/// Some snapshots, and volumes with all their snapshots: what can be deleted together.
fn random_set(all: &[VolumeInfo], random: &mut Random) -> Vec<VolumeId> {
    let chances = 2 + random.below(4);
    let volumes: Vec<&str> = all
        .iter()
        .filter(|info| info.kind == VolumeKind::Volume && random.below(chances) == 0)
        .map(|info| info.name.as_str())
        .collect();
    let is_of = |info: &VolumeInfo| volumes.contains(&info.name.split('@').next().unwrap_or(""));
    let is_in =
        |info: &&VolumeInfo| is_of(info) || (info.kind == VolumeKind::Snapshot && random.below(chances) == 0);
    all.iter().filter(is_in).map(|info| info.id).collect()
}

fn mapped_sectors(pool: &mut Pool<MemoryDisk>, info: &VolumeInfo) -> u64 {
    let (volume, mut offset_bytes, mut mapped) = (info.id, 0, 0);
    while offset_bytes < info.size_bytes {
        let length_bytes = info.size_bytes - offset_bytes;
        let outcome = pool.request(Request::Extents { volume, offset_bytes, length_bytes }).unwrap();
        let Outcome::Extents(extents) = outcome else { panic!("{outcome:?}") };
        for extent in extents {
            offset_bytes += extent.length_bytes;
            mapped += if extent.mapped { extent.length_bytes / SECTOR_BYTES } else { 0 };
        }
    }
    mapped
}

#[test]
fn what_a_set_has_alone_is_what_its_deletion_frees() {
    let (mut sets, mut frees_some, mut several) = (0, 0, 0);
    for seed in 0..24 {
        let mut busy = Busy::new(seed);
        let mut random = Random::new(seed + 1000);
        for _ in 0..4 {
            (0..60).for_each(|_| busy.step());
            let mut pool = copy(&busy.pool);
            let all = pool.volumes();
            for _ in 0..6 {
                let volumes = random_set(&all, &mut random);
                if volumes.is_empty() {
                    continue;
                }
                let sectors = random.below(2) == 0;
                let found = usage(&mut pool, &volumes, sectors);
                let freed = freed_by(&pool, Request::Delete { volumes: volumes.clone(), deferred: false });
                assert_eq!(found.exclusive_blocks, freed, "seed {seed}: {volumes:?}");
                let of_set = || all.iter().filter(|info| volumes.contains(&info.id));
                assert_eq!(found.mapped_blocks, of_set().map(|info| info.mapped_blocks).sum::<u64>());
                let counted = sectors.then(|| of_set().map(|info| mapped_sectors(&mut pool, info)).sum());
                assert_eq!(found.mapped_sectors, counted, "seed {seed}: {volumes:?}");
                sets += 1;
                frees_some += u64::from(freed > 0);
                several += u64::from(volumes.len() > 1 && freed > 0);
            }
        }
    }
    assert!(sets > 300 && frees_some > 200 && several > 150, "{sets} {frees_some} {several}");
}

/// A volume cannot be deleted without its snapshots, but everything in it can be discarded.
#[test]
fn what_a_volume_has_alone_is_what_discarding_all_of_it_frees() {
    for seed in 100..112 {
        let mut busy = Busy::new(seed);
        (0..150).for_each(|_| busy.step());
        let mut pool = copy(&busy.pool);
        for info in pool.volumes().iter().filter(|info| info.kind == VolumeKind::Volume) {
            let found = usage(&mut pool, &[info.id], false);
            let (volume, length_bytes) = (info.id, info.size_bytes);
            let discard = Request::Discard { volume, offset_bytes: 0, length_bytes, fua: false };
            assert_eq!(found.exclusive_blocks, freed_by(&pool, discard), "seed {seed}: '{}'", info.name);
        }
    }
}

fn write_blocks(pool: &mut Pool<MemoryDisk>, volume: VolumeId, blocks: std::ops::Range<u64>, byte: u8) {
    for block in blocks {
        pool.write(volume, block * BLOCK_BYTES, vec![byte; BLOCK_BYTES as usize]).unwrap();
    }
}

fn blocks(usage: &Usage) -> (u64, u64, u64) {
    (usage.mapped_blocks, usage.exclusive_blocks, usage.shared_blocks)
}

#[test]
fn exclusive_and_shared_are_told_apart() {
    let mut pool = empty_pool(1024, 4);
    let disk = pool.create_volume(new_volume("disk"), 1 << 30).unwrap();
    write_blocks(&mut pool, disk, 0..100, 1);
    assert_eq!(blocks(&usage(&mut pool, &[disk], false)), (100, 100, 0));
    let one = pool.snapshot(disk, new_volume("disk@one")).unwrap();
    assert_eq!(blocks(&usage(&mut pool, &[disk], false)), (100, 0, 100));
    assert_eq!(blocks(&usage(&mut pool, &[one, disk, one], false)), (200, 100, 0), "named twice counts once");
    write_blocks(&mut pool, disk, 0..10, 2);
    let two = pool.snapshot(disk, new_volume("disk@two")).unwrap();
    write_blocks(&mut pool, disk, 5..20, 3);
    assert_eq!(blocks(&usage(&mut pool, &[disk], false)), (100, 15, 85));
    assert_eq!(blocks(&usage(&mut pool, &[one], false)), (100, 10, 90));
    assert_eq!(blocks(&usage(&mut pool, &[two], false)), (100, 5, 95));
    // Together they have what each has, and the blocks 10..20 that only they share.
    assert_eq!(usage(&mut pool, &[one, two], false).exclusive_blocks, 25);
    // One sector into a shared block: a second layer. The volume alone names the new block, and both the old one.
    pool.write(disk, 50 * BLOCK_BYTES, vec![4; SECTOR_BYTES as usize]).unwrap();
    assert_eq!(blocks(&usage(&mut pool, &[disk], true)), (100, 16, 85));
    assert_eq!(usage(&mut pool, &[disk], true).mapped_sectors, Some(1600));
    pool.request(Request::Discard { volume: disk, offset_bytes: 0, length_bytes: SECTOR_BYTES, fua: false })
        .unwrap();
    assert_eq!(usage(&mut pool, &[disk], true).mapped_sectors, Some(1599));
    pool.delete(one).unwrap();
    settle(&mut pool);
    assert_eq!(usage(&mut pool, &[two], false).exclusive_blocks, 15, "nobody else has them any more");
}

#[test]
fn wrong_sets_are_refused() {
    let mut pool = empty_pool(64, 4);
    let disk = pool.create_volume(new_volume("disk"), 1 << 20).unwrap();
    let mut refused =
        |volumes: Vec<VolumeId>| pool.request(Request::Usage { volumes, sectors: false }).unwrap_err().kind();
    assert_eq!(refused(vec![]), ErrorKind::Limit);
    assert_eq!(refused((1..5000).map(VolumeId).collect()), ErrorKind::Limit);
    assert_eq!(refused(vec![disk, VolumeId(99)]), ErrorKind::NotFound);
    assert_eq!(refused(vec![VolumeId(0)]), ErrorKind::NotFound, "the log is nobody's");
    assert_eq!(blocks(&usage(&mut pool, &[disk], true)), (0, 0, 0));
}

/// A core whose disks complete only when they are told to.
struct Machine {
    core: Core,
    data: MemoryDisk,
    metadata: MemoryDisk,
    next: u64,
    /// Page reads, by their tickets' order.
    page_reads: u64,
}

impl Machine {
    fn new(pool: Pool<MemoryDisk>, options: &OpenOptions) -> Self {
        let (mut data, mut metadata) = pool.close().unwrap();
        let core = data_path::open(&mut data, &mut metadata, options).unwrap();
        Self { core, data, metadata, next: 0, page_reads: 0 }
    }

    fn submit(&mut self, request: Request) -> RequestId {
        let id = RequestId(self.next);
        self.next += 1;
        self.core.submit(id, request);
        id
    }

    /// One turn, and what it starts.
    fn turn(&mut self) {
        self.core.turn(0);
        while let Some((side, ticket, operation)) = self.core.next_operation() {
            match side {
                Side::Data => self.data.submit(ticket, operation),
                Side::Metadata => {
                    let is_read = matches!(operation, vellum_engine::storage::Operation::Read { .. });
                    self.page_reads += u64::from(is_read);
                    self.metadata.submit(ticket, operation);
                }
            }
        }
    }

    fn complete(&mut self) {
        while let Some(done) = self.data.next_completion().or_else(|| self.metadata.next_completion()) {
            self.core.complete(done);
        }
    }

    fn answer_to(&mut self, id: RequestId) -> Option<Usage> {
        while let Some((answered, reply)) = self.core.next_reply() {
            if answered == id {
                match reply.unwrap() {
                    Outcome::Usage(usage) => return Some(usage),
                    other => panic!("{other:?}"),
                }
            }
        }
        None
    }

    /// The answer, and how many turns it took. `between` happens before each of them.
    fn usage(&mut self, request: Request, mut between: impl FnMut(&mut Self)) -> (Usage, u64) {
        let id = self.submit(request);
        for turns in 1..5000 {
            between(self);
            self.turn();
            if let Some(usage) = self.answer_to(id) {
                return (usage, turns);
            }
        }
        panic!("no answer in 5000 turns");
    }
}

/// A volume of many leaves of small entries, and a snapshot of it.
fn large() -> (Pool<MemoryDisk>, VolumeId, VolumeId) {
    let mut pool = empty_pool(20_000, 16);
    let disk = pool.create_volume(new_volume("disk"), 100 * WINDOW_BYTES).unwrap();
    // Nothing follows its neighbour, so every block is an entry of its own.
    for block in 0..16_000 {
        let at = (block % 50) * WINDOW_BYTES + block / 50 * 2 * BLOCK_BYTES;
        pool.write(disk, at, vec![1; SECTOR_BYTES as usize]).unwrap();
    }
    let snapshot = pool.snapshot(disk, new_volume("disk@one")).unwrap();
    pool.flush().unwrap();
    (pool, disk, snapshot)
}

/// Every write makes a block of the snapshot exclusive that was shared, also where the count was already.
#[test]
fn an_answer_is_of_one_moment_whatever_is_written_meanwhile() {
    let (pool, disk, snapshot) = large();
    let mut machine = Machine::new(pool, &open_options());
    for (round, set) in [vec![disk, snapshot], vec![snapshot], vec![disk]].into_iter().enumerate() {
        let mut random = Random::new(round as u64);
        let mut overwrite = |machine: &mut Machine| {
            machine.complete();
            let block = random.below(16_000);
            let offset_bytes = (block % 50) * WINDOW_BYTES + block / 50 * 2 * BLOCK_BYTES;
            let bytes = vec![2; BLOCK_BYTES as usize].into();
            machine.submit(Request::Write { volume: disk, offset_bytes, bytes, fua: false });
        };
        let ask = |sectors| Request::Usage { volumes: set.clone(), sectors };
        let (found, turns) = machine.usage(ask(false), &mut overwrite);
        assert!(turns > 1, "it took {turns} turn, so nothing has changed meanwhile");
        // No operation completes from here on, so nothing changes, and the sectors need a count of their own.
        let (again, _) = machine.usage(ask(true), |_| ());
        assert_eq!(blocks(&found), blocks(&again), "{set:?}");
        assert_eq!(found.metadata_pages, again.metadata_pages);
        assert!(again.sequence >= found.sequence && found.generation == again.generation);
        (0..300).for_each(|_| {
            overwrite(&mut machine);
            machine.turn();
        });
    }
}

/// Somebody else's own blocks do not matter, so nothing is read or counted again; a new snapshot does.
#[test]
fn an_answer_is_kept_until_something_changes_that_matters() {
    let (mut pool, disk, snapshot) = large();
    let other = pool.create_volume(new_volume("other"), 1 << 30).unwrap();
    let mut machine = Machine::new(pool, &open_options());
    let ask = || Request::Usage { volumes: vec![snapshot, disk], sectors: false };
    let (first, turns) = machine.usage(ask(), Machine::complete);
    assert!(turns > 2 && machine.page_reads > 40, "{turns} turns, {} pages", machine.page_reads);
    let write = |machine: &mut Machine, volume, offset_bytes| {
        let bytes = vec![2; BLOCK_BYTES as usize].into();
        machine.submit(Request::Write { volume, offset_bytes, bytes, fua: false });
        (0..10).for_each(|_| {
            machine.turn();
            machine.complete();
        });
    };
    write(&mut machine, other, 0);
    let (kept, turns) = machine.usage(ask(), |_| ());
    assert_eq!((blocks(&kept), turns), (blocks(&first), 1));
    assert!(kept.sequence > first.sequence, "it is exact now");
    write(&mut machine, disk, 0);
    let (changed, _) = machine.usage(ask(), |_| ());
    assert_eq!(changed.exclusive_blocks, first.exclusive_blocks + 1);
    let new = new_volume("copy");
    machine.submit(Request::Clone { snapshot, new });
    (0..20).for_each(|_| {
        machine.turn();
        machine.complete();
    });
    let (shared, _) = machine.usage(ask(), |_| ());
    assert_eq!((shared.mapped_blocks, shared.exclusive_blocks), (32_000, 1), "all else has another owner");
    assert!((15_999..32_000).contains(&shared.shared_blocks), "the volume's other leaves may count twice");
}

/// Fewer pages fit into memory than are looked at.
#[test]
fn memory_may_be_small() {
    let (pool, disk, snapshot) = large();
    let options = OpenOptions { cache_bytes: 64 << 10, ..open_options() };
    let mut machine = Machine::new(pool, &options);
    let ask = || Request::Usage { volumes: vec![disk, snapshot], sectors: true };
    let (usage, _) = machine.usage(ask(), Machine::complete);
    assert_eq!((blocks(&usage), usage.mapped_sectors), ((32_000, 16_000, 0), Some(32_000)));
    assert!(machine.core.status().cached_bytes < 1 << 20);
}

/// Pages that were in memory only when they were met are on disk when they are looked into.
#[test]
fn a_checkpoint_may_come_in_between() {
    let (pool, disk, snapshot) = large();
    let options = OpenOptions { cache_bytes: 64 << 10, ..open_options() };
    let mut machine = Machine::new(pool, &options);
    for leaf in 0..50 {
        let (offset_bytes, bytes) = (leaf * WINDOW_BYTES, vec![2; BLOCK_BYTES as usize].into());
        machine.submit(Request::Write { volume: disk, offset_bytes, bytes, fua: true });
    }
    (0..200).for_each(|_| {
        machine.turn();
        machine.complete();
    });
    let before = machine.core.status().cached_bytes;
    let mut turns = 0;
    let ask = Request::Usage { volumes: vec![disk, snapshot], sectors: true };
    let (usage, _) = machine.usage(ask, |machine| {
        turns += 1;
        if turns == 2 {
            machine.submit(Request::Checkpoint);
        }
        machine.complete();
    });
    assert!(machine.core.status().cached_bytes < before, "nothing has left the memory");
    assert_eq!((blocks(&usage), usage.mapped_sectors), ((32_000, 16_050, 0), Some(32_000 + 50 * 15)));
}
