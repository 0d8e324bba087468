//! Pools for the tests of check and inspect: random requests by seed, on disks in memory.
//!
//! Owns the workload. Judges nothing.

pub mod timed;

use vellum_engine::Pool;
use vellum_engine::error::{ErrorKind, Result};
use vellum_engine::options::{CreateOptions, OpenOptions};
use vellum_engine::request::{NewVolume, Request};
use vellum_engine::storage::MemoryDisk;
use vellum_engine::units::{BLOCK_BYTES, VolumeId};

/// Bytes of one window of a mapping leaf.
pub const WINDOW_BYTES: u64 = 16 * 1024 * BLOCK_BYTES;

/// A small generator of numbers, the same for the same seed.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }
}

pub fn new_volume(name: &str) -> NewVolume {
    NewVolume { name: name.to_owned(), uuid: [9; 16], created_unix_s: 0 }
}

pub fn empty_pool(data_blocks: u64, log_blocks: u64) -> Pool<MemoryDisk> {
    let options = CreateOptions { data_blocks, log_blocks, uuid: [1; 16], secret: 42, created_unix_s: 7 };
    Pool::create(MemoryDisk::new(0), MemoryDisk::new(0), &options, &open_options()).unwrap()
}

pub fn open_options() -> OpenOptions {
    OpenOptions { slab_blocks: 16, slice_mappings: 20, ..OpenOptions::default() }
}

/// Both disks as they are now.
pub fn disks(pool: &Pool<MemoryDisk>) -> (MemoryDisk, MemoryDisk) {
    (pool.data_disk().clone(), pool.metadata_disk().clone())
}

/// A pool under random requests.
pub struct Busy {
    pub pool: Pool<MemoryDisk>,
    random: Random,
    volumes: Vec<VolumeId>,
    /// Snapshots and the volumes that they are of.
    snapshots: Vec<(VolumeId, VolumeId)>,
    names: u64,
}

impl Busy {
    pub fn new(seed: u64) -> Self {
        let mut pool = empty_pool(2048, 8);
        let volume = pool.create_volume(new_volume("v0"), 40 * WINDOW_BYTES).unwrap();
        Self { pool, random: Random::new(seed), volumes: vec![volume], snapshots: Vec::new(), names: 1 }
    }

    /// The same requests on another pool that holds the same.
    pub fn with_pool(self, pool: Pool<MemoryDisk>) -> Self {
        Self { pool, ..self }
    }

    /// One random request.
    pub fn step(&mut self) {
        self.try_step().unwrap();
    }

    /// One random request, which may find the pool full.
    pub fn step_unless_full(&mut self) {
        self.try_step()
            .or_else(|error| if error.kind() == ErrorKind::NoSpace { Ok(()) } else { Err(error) })
            .unwrap();
    }

    fn try_step(&mut self) -> Result<()> {
        let volume = self.volumes[self.random.below(self.volumes.len() as u64) as usize];
        match self.random.below(27) {
            0 => self.pool.flush(),
            1 => self.pool.request(Request::Checkpoint).map(drop),
            2 => self.reopen(),
            3 | 4 => self.snapshot(volume),
            5 => self.make_clone(),
            6 => self.delete_snapshot(),
            7 => self.delete_volume(),
            8 => self.pool.request(Request::Collapse { volume }).map(drop),
            9 => self.create(),
            10..13 => self.discard(volume),
            24 => self.resize(volume),
            25 => self.roll_back(),
            26 => self.rename(volume),
            13 => {
                self.pool.idle(1500);
                Ok(())
            }
            _ => self.write(volume),
        }
    }

    fn name(&mut self) -> String {
        self.names += 1;
        format!("v{}", self.names)
    }

    /// Most requests fall near each other, some far away, so that trees get levels.
    fn range(&mut self, length_max: u64) -> (u64, u64) {
        let window = self.random.below(40) * u64::from(self.random.below(3) == 0);
        let offset = window * WINDOW_BYTES + self.random.below(60 * BLOCK_BYTES);
        (offset, 1 + self.random.below(length_max))
    }

    fn write(&mut self, volume: VolumeId) -> Result<()> {
        let (offset, length) = self.range(3 * BLOCK_BYTES);
        self.pool.write(volume, offset, vec![self.names as u8; length as usize])
    }

    fn discard(&mut self, volume: VolumeId) -> Result<()> {
        let (offset_bytes, length_bytes) = self.range(20 * BLOCK_BYTES);
        self.pool.request(Request::Discard { volume, offset_bytes, length_bytes, fua: false }).map(drop)
    }

    fn create(&mut self) -> Result<()> {
        let name = self.name();
        let volume = self.pool.create_volume(new_volume(&name), 40 * WINDOW_BYTES)?;
        self.volumes.push(volume);
        Ok(())
    }

    fn snapshot(&mut self, volume: VolumeId) -> Result<()> {
        let name = format!("{}@{}", self.name_of(volume), self.name());
        let snapshot = self.pool.snapshot(volume, new_volume(&name))?;
        self.snapshots.push((snapshot, volume));
        Ok(())
    }

    fn make_clone(&mut self) -> Result<()> {
        let Some((snapshot, _)) = self.snapshots.last().copied() else { return Ok(()) };
        let name = self.name();
        let volume = self.pool.clone_snapshot(snapshot, new_volume(&name))?;
        self.volumes.push(volume);
        Ok(())
    }

    fn delete_snapshot(&mut self) -> Result<()> {
        if self.snapshots.is_empty() {
            return Ok(());
        }
        let index = self.random.below(self.snapshots.len() as u64) as usize;
        let (snapshot, _) = self.snapshots.swap_remove(index);
        self.pool.delete(snapshot)
    }

    fn delete_volume(&mut self) -> Result<()> {
        if self.volumes.len() < 2 {
            return Ok(());
        }
        let index = self.random.below(self.volumes.len() as u64) as usize;
        let volume = self.volumes.swap_remove(index);
        let (own, others) = self.snapshots.iter().partition(|(_, of)| *of == volume);
        self.snapshots = others;
        let own: Vec<(VolumeId, VolumeId)> = own;
        let mut volumes: Vec<VolumeId> = own.into_iter().map(|(snapshot, _)| snapshot).collect();
        volumes.push(volume);
        for some in volumes.chunks(64) {
            self.pool.request(Request::Delete { volumes: some.to_vec(), deferred: false })?;
        }
        Ok(())
    }

    fn name_of(&self, volume: VolumeId) -> String {
        self.pool.volumes().into_iter().find(|info| info.id == volume).unwrap().name
    }

    /// Mostly the whole again, so that most writes find their range.
    fn resize(&mut self, volume: VolumeId) -> Result<()> {
        let whole = 40 * WINDOW_BYTES;
        let smaller = self.range(whole).0 / 4096 * 4096 + 4096;
        self.pool.request(Request::Resize { volume, size_bytes: smaller })?;
        self.pool.request(Request::Resize { volume, size_bytes: whole }).map(drop)
    }

    fn roll_back(&mut self) -> Result<()> {
        let Some((snapshot, volume)) = self.snapshots.last().copied() else { return Ok(()) };
        self.pool.request(Request::Rollback { volume, snapshot }).map(drop)
    }

    fn rename(&mut self, volume: VolumeId) -> Result<()> {
        let name = self.name();
        self.pool.request(Request::Rename { volume, name }).map(drop)
    }

    /// Half of the time without closing.
    fn reopen(&mut self) -> Result<()> {
        let (mut data, mut metadata) = disks(&self.pool);
        if self.random.below(2) == 0 {
            let old = std::mem::replace(&mut self.pool, empty_pool(64, 1));
            (data, metadata) = old.close()?;
        }
        self.pool = Pool::open(data, metadata, &open_options())?;
        Ok(())
    }
}
