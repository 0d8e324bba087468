//! What is said to differ, against stamps of every write: between volumes, and since states whose snapshots are gone.
//! Pools are killed and opened again meanwhile.

#[allow(dead_code)]
mod common;

use common::{Random, WINDOW_BYTES, disks, empty_pool, open_options};
use std::collections::BTreeMap;
use vellum_engine::data_path::Side;
use vellum_engine::error::ErrorKind;
use vellum_engine::options::OpenOptions;
use vellum_engine::request::{Base, DifferenceRange, NewVolume, Outcome, Reply, Request, RequestId};
use vellum_engine::storage::{Disk, MemoryDisk};
use vellum_engine::units::{BLOCK_BYTES, Generation, SECTOR_BYTES, VolumeId};
use vellum_engine::{Core, Pool};

const SIZE: u64 = 40 * WINDOW_BYTES;

/// The write that every sector shows; sectors that read as zeros are not in it.
type Stamps = BTreeMap<u64, u64>;

#[derive(Clone)]
struct State {
    snapshot: VolumeId,
    generation: Generation,
    stamps: Stamps,
}

#[derive(Clone)]
struct Known {
    id: VolumeId,
    is_snapshot: bool,
    stamps: Stamps,
    /// States of its own past.
    past: Vec<State>,
}

fn named(number: u64) -> NewVolume {
    let mut uuid = [0; 16];
    uuid[..8].copy_from_slice(&number.to_le_bytes());
    NewVolume { name: format!("v{number}"), uuid, created_unix_s: 0 }
}

struct World {
    pool: Pool<MemoryDisk>,
    random: Random,
    known: Vec<Known>,
    /// All snapshots that ever were, gone or not.
    next: u64,
    told: usize,
    refused: usize,
    told_of_the_dead: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut world = Self {
            pool: empty_pool(2048, 8),
            random: Random::new(seed),
            known: Vec::new(),
            next: 0,
            told: 0,
            refused: 0,
            told_of_the_dead: 0,
        };
        world.create();
        world
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn create(&mut self) {
        let new = named(self.number());
        let id = self.pool.create_volume(new, SIZE).unwrap();
        self.known.push(Known { id, is_snapshot: false, stamps: Stamps::new(), past: Vec::new() });
    }

    fn pick(&mut self, snapshots: bool) -> Option<usize> {
        let fitting: Vec<usize> =
            (0..self.known.len()).filter(|at| self.known[*at].is_snapshot == snapshots).collect();
        (!fitting.is_empty()).then(|| fitting[self.random.below(fitting.len() as u64) as usize])
    }

    /// Most ranges fall near each other, some far away, so that trees get levels.
    fn range(&mut self, sectors_max: u64) -> (u64, u64) {
        let window = self.random.below(40) * u64::from(self.random.below(2) == 0);
        let first = (window * WINDOW_BYTES) / SECTOR_BYTES + self.random.below(60 * 16);
        (first, 1 + self.random.below(sectors_max))
    }

    fn write(&mut self) {
        let Some(at) = self.pick(false) else { return };
        let ((first, count), stamp) = (self.range(40), self.number());
        let bytes = vec![stamp as u8 | 1; (count * SECTOR_BYTES) as usize];
        self.pool.write(self.known[at].id, first * SECTOR_BYTES, bytes).unwrap();
        self.known[at].stamps.extend((first..first + count).map(|sector| (sector, stamp)));
    }

    /// Writes over one sector that was written before: in place, if nobody else has it.
    fn rewrite(&mut self) {
        let Some(at) = self.pick(false) else { return };
        let written: Vec<u64> = self.known[at].stamps.keys().copied().collect();
        if written.is_empty() {
            return;
        }
        let sector = written[self.random.below(written.len() as u64) as usize];
        let stamp = self.number();
        let bytes = vec![stamp as u8 | 1; SECTOR_BYTES as usize];
        self.pool.write(self.known[at].id, sector * SECTOR_BYTES, bytes).unwrap();
        self.known[at].stamps.insert(sector, stamp);
    }

    fn discard(&mut self) {
        let Some(at) = self.pick(false) else { return };
        let (first, count) = self.range(400);
        let (offset_bytes, length_bytes) = (first * SECTOR_BYTES, count * SECTOR_BYTES);
        let volume = self.known[at].id;
        self.pool.request(Request::Discard { volume, offset_bytes, length_bytes, fua: false }).unwrap();
        self.known[at].stamps.retain(|sector, _| !(first..first + count).contains(sector));
    }

    fn snapshot(&mut self) {
        let Some(at) = self.pick(false) else { return };
        let number = self.number();
        let name = format!("{}@{number}", self.name_of(self.known[at].id));
        let id = self.pool.snapshot(self.known[at].id, NewVolume { name, ..named(number) }).unwrap();
        let generation = self.pool.volumes().into_iter().find(|info| info.id == id).unwrap().generation;
        let stamps = self.known[at].stamps.clone();
        let past = self.known[at].past.clone();
        self.known[at].past.push(State { snapshot: id, generation, stamps: stamps.clone() });
        self.known.push(Known { id, is_snapshot: true, stamps, past });
    }

    fn make_clone(&mut self) {
        let Some(at) = self.pick(true) else { return };
        let new = named(self.number());
        let id = self.pool.clone_snapshot(self.known[at].id, new).unwrap();
        let known = self.known[at].clone();
        self.known.push(Known { id, is_snapshot: false, ..known });
    }

    fn name_of(&self, id: VolumeId) -> String {
        self.pool.volumes().into_iter().find(|info| info.id == id).unwrap().name
    }

    /// A snapshot, or a volume with all its snapshots.
    fn delete(&mut self, snapshots: bool) {
        let Some(at) = self.pick(snapshots) else { return };
        if !snapshots && self.known.iter().filter(|known| !known.is_snapshot).count() < 2 {
            return;
        }
        let name = self.name_of(self.known[at].id);
        let family = format!("{name}@");
        let goes = self.pool.volumes().into_iter().filter(|i| i.name == name || i.name.starts_with(&family));
        let volumes: Vec<VolumeId> = goes.map(|info| info.id).collect();
        self.known.retain(|known| !volumes.contains(&known.id));
        self.pool.request(Request::Delete { volumes, deferred: false }).unwrap();
    }

    /// A volume becomes one of its snapshots: nobody can be told any more what changed since earlier states of it.
    fn roll_back(&mut self) {
        let Some(at) = self.pick(false) else { return };
        let family = format!("{}@", self.name_of(self.known[at].id));
        let own = self.pool.volumes().into_iter().filter(|info| info.name.starts_with(&family));
        let own: Vec<VolumeId> = own.map(|info| info.id).collect();
        if own.is_empty() {
            return;
        }
        let snapshot = own[self.random.below(own.len() as u64) as usize];
        self.pool.request(Request::Rollback { volume: self.known[at].id, snapshot }).unwrap();
        let to = self.known.iter().find(|known| known.id == snapshot).unwrap();
        self.known[at].stamps = to.stamps.clone();
    }

    fn kill(&mut self) {
        let (data, metadata) = disks(&self.pool);
        self.pool = Pool::open(data, metadata, &open_options()).unwrap();
    }

    fn step(&mut self) {
        match self.random.below(40) {
            0 => self.kill(),
            1 | 2 => drop(self.pool.request(Request::Checkpoint).unwrap()),
            3..7 => self.snapshot(),
            7 => self.make_clone(),
            8..11 => self.delete(true),
            11 if self.random.below(3) == 0 => self.roll_back(),
            11 => self.delete(false),
            12..14 => self.discard(),
            14..16 => self.pool.idle(1500),
            16 if self.known.len() < 6 => self.create(),
            17..30 => self.rewrite(),
            _ => self.write(),
        }
    }

    fn ask(&mut self, base: Base, volume: VolumeId) -> Option<Vec<DifferenceRange>> {
        match self.pool.differences(base, volume).collect::<Result<_, _>>() {
            Ok(ranges) => Some(ranges),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
                None
            }
        }
    }

    fn check_since(&mut self, new: &Known, state: &State) {
        let Some(ranges) = self.ask(Base::Generation(state.generation), new.id) else {
            self.refused += 1;
            return;
        };
        self.told += 1;
        let is_dead = self.known.iter().all(|known| known.id != state.snapshot);
        self.told_of_the_dead += usize::from(is_dead);
        check(&ranges, &state.stamps, &new.stamps);
    }

    fn check_some(&mut self) {
        for new in self.known.clone() {
            let dead_or_alive = new.past.len() as u64;
            if dead_or_alive > 0 {
                let state = new.past[self.random.below(dead_or_alive) as usize].clone();
                self.check_since(&new, &state);
            }
        }
        let old = self.known[self.random.below(self.known.len() as u64) as usize].clone();
        let new = self.known[self.random.below(self.known.len() as u64) as usize].clone();
        let ranges = self.ask(Base::Volume(old.id), new.id).unwrap();
        check(&ranges, &old.stamps, &new.stamps);
        let all = self.ask(Base::Nothing, new.id).unwrap();
        check(&all, &Stamps::new(), &new.stamps);
    }
}

/// All that differs is told, and all that is told can be applied.
fn check(ranges: &[DifferenceRange], old: &Stamps, new: &Stamps) {
    let mut end = 0;
    for range in ranges {
        assert!(range.offset_bytes >= end && range.length_bytes > 0);
        end = range.offset_bytes + range.length_bytes;
        let (first, last) = (range.offset_bytes / SECTOR_BYTES, end / SECTOR_BYTES);
        let stored = new.range(first..last).count() as u64;
        assert_eq!(stored, if range.absent { 0 } else { last - first }, "{range:?}");
    }
    assert!(end <= SIZE);
    let told = |sector: u64| {
        let at = ranges.partition_point(|range| range.offset_bytes <= sector * SECTOR_BYTES);
        let range = at.checked_sub(1).map(|at| ranges[at])?;
        (sector * SECTOR_BYTES < range.offset_bytes + range.length_bytes).then_some(range.absent)
    };
    for sector in old.keys().chain(new.keys()) {
        if old.get(sector) != new.get(sector) {
            assert_eq!(told(*sector), Some(!new.contains_key(sector)), "sector {sector} differs");
        }
    }
}

#[test]
fn no_change_is_ever_missed() {
    let (mut told, mut refused, mut dead) = (0, 0, 0);
    for seed in 0..60 {
        println!("seed {seed}");
        let mut world = World::new(seed);
        for at in 0..250 {
            world.step();
            if at % 6 == 0 {
                world.check_some();
            }
        }
        (told, refused, dead) = (told + world.told, refused + world.refused, dead + world.told_of_the_dead);
    }
    println!("told {told}, of them {dead} with the base gone; refused {refused}");
    assert!(told > 1000 && refused > 500 && dead > 200);
}

/// A core whose metadata file takes nothing from some moment on.
struct Stuck {
    core: Core,
    data: MemoryDisk,
    metadata: MemoryDisk,
    is_stuck: bool,
    next: u64,
}

impl Stuck {
    fn request(&mut self, request: Request) -> Option<Reply> {
        let id = RequestId(self.next);
        self.next += 1;
        self.core.submit(id, request);
        loop {
            self.core.turn(0);
            while let Some((side, ticket, operation)) = self.core.next_operation() {
                match side {
                    Side::Data => self.data.submit(ticket, operation),
                    Side::Metadata if self.is_stuck => {}
                    Side::Metadata => self.metadata.submit(ticket, operation),
                }
            }
            if let Some((answered, reply)) = self.core.next_reply() {
                assert_eq!(answered, id);
                return Some(reply);
            }
            let completion = self.data.next_completion().or_else(|| self.metadata.next_completion());
            self.core.complete(completion?);
        }
    }
}

/// A checkpoint is frozen and never becomes durable. What is replayed has to be newer than the snapshot that was taken
/// after it, or what changed since that would be missed.
#[test]
fn what_is_replayed_is_newer_than_any_snapshot() {
    let mut pool = empty_pool(256, 4);
    let disk = pool.create_volume(named(1), 1 << 30).unwrap();
    pool.write(disk, 0, vec![1; 4096]).unwrap();
    let (mut data, mut metadata) = pool.close().unwrap();
    let core = vellum_engine::open(&mut data, &mut metadata, &OpenOptions::default()).unwrap();
    let mut stuck = Stuck { core, data, metadata, is_stuck: false, next: 0 };
    let write = |at: u64| Request::Write {
        volume: disk,
        offset_bytes: at * BLOCK_BYTES,
        bytes: vec![2; 4096].into(),
        fua: true,
    };
    stuck.request(write(1)).unwrap().unwrap();
    stuck.is_stuck = true;
    assert!(stuck.request(Request::Checkpoint).is_none());
    stuck.next += 1;
    let new = NewVolume { name: "v1@a".into(), ..named(2) };
    let Some(Ok(Outcome::Created(made))) = stuck.request(Request::Snapshot { cuts: vec![(disk, new)] })
    else {
        panic!()
    };
    stuck.request(write(2)).unwrap().unwrap();
    let born = stuck.core.volumes().into_iter().find(|info| info.id == made[0]).unwrap().generation;

    let Stuck { data, metadata, .. } = stuck;
    let mut pool = Pool::open(data, metadata, &OpenOptions::default()).unwrap();
    let ranges: Vec<DifferenceRange> =
        pool.differences(Base::Generation(born), disk).collect::<Result<_, _>>().unwrap();
    let tells = |range: &&DifferenceRange| range.offset_bytes <= 2 * BLOCK_BYTES && !range.absent;
    let told = ranges.iter().rfind(tells).expect("what was written after the snapshot has changed since");
    assert!(told.offset_bytes + told.length_bytes >= 2 * BLOCK_BYTES + 4096, "{ranges:?}");
}

#[test]
fn what_cannot_be_told_is_refused() {
    let mut pool = empty_pool(256, 4);
    let disk = pool.create_volume(named(1), 1 << 30).unwrap();
    pool.write(disk, 0, vec![1; 4096]).unwrap();
    let first = pool.snapshot(disk, NewVolume { name: "v1@a".into(), ..named(2) }).unwrap();
    let born = |pool: &Pool<MemoryDisk>, id| {
        pool.volumes().into_iter().find(|info| info.id == id).unwrap().generation
    };
    let since = born(&pool, first);
    let second = pool.snapshot(disk, NewVolume { name: "v1@b".into(), ..named(3) }).unwrap();
    pool.delete(first).unwrap();
    pool.idle(5000);
    pool.idle(5000);
    // The volume alone has the block now, and overwrites it in place once the other snapshot is gone too.
    let mut ask = |base, volume| pool.differences(base, volume).collect::<Result<Vec<_>, _>>();
    assert_eq!(ask(Base::Generation(since), disk).unwrap_err().kind(), ErrorKind::Invalid);
    assert!(ask(Base::Generation(since), second).is_ok(), "a snapshot from before the deletion can tell");
    assert_eq!(ask(Base::Generation(Generation(1 << 40)), disk).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(ask(Base::Volume(first), disk).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(ask(Base::Volume(second), second), Ok(Vec::new()));
    // A clone of the older snapshot never was what the volume was at the newer one.
    let third = pool.snapshot(disk, NewVolume { name: "v1@c".into(), ..named(4) }).unwrap();
    let clone = pool.clone_snapshot(second, named(5)).unwrap();
    let asked = pool.differences(Base::Generation(born(&pool, third)), clone).collect::<Result<Vec<_>, _>>();
    assert_eq!(asked.unwrap_err().kind(), ErrorKind::Invalid);
}
