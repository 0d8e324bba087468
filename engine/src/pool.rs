//! A pool on two disks, one request at a time: for tools, examples and tests.
//!
//! Owns the loop that carries operations and completions between a [`Core`] and its disks. A server runs its own loop,
//! with many requests at a time. Knows nothing of what requests do.

use crate::data_path::{self, Core, PoolStatus, Side, VolumeInfo};
use crate::error::{Error, ErrorKind, Result};
use crate::metadata;
use crate::options::{CreateOptions, OpenOptions};
use crate::request::{Base, DifferenceRange, NewVolume, Outcome, Reply, Request, RequestId, Segment};
use crate::settings::Settings;
use crate::storage::Disk;
use crate::units::VolumeId;
use bytes::Bytes;

/// An open pool. Requests wait until they are answered.
pub struct Pool<D: Disk> {
    core: Core,
    data: D,
    metadata: D,
    next_request: u64,
    now_ms: u64,
}

impl<D: Disk> Pool<D> {
    /// Makes a new pool on two empty disks, and opens it.
    ///
    /// Fails with `Exists` if `metadata` holds a pool, `Invalid` or `Limit` for impossible options.
    pub fn create(mut data: D, mut metadata: D, create: &CreateOptions, open: &OpenOptions) -> Result<Self> {
        metadata::create(&mut data, &mut metadata, create)?;
        Self::open(data, metadata, open)
    }

    /// Opens a pool: recovers what a crash left, and gives the present state or an error, never an older one.
    pub fn open(mut data: D, mut metadata: D, options: &OpenOptions) -> Result<Self> {
        let core = data_path::open(&mut data, &mut metadata, options)?;
        Ok(Self { core, data, metadata, next_request: 0, now_ms: 0 })
    }

    /// Carries out one request and waits for its answer.
    pub fn request(&mut self, request: Request) -> Reply {
        let id = RequestId(self.next_request);
        self.next_request += 1;
        self.core.submit(id, request);
        loop {
            self.core.turn(self.now_ms);
            self.tell_host_room();
            self.start_operations();
            while let Some((answered, reply)) = self.core.next_reply() {
                if answered == id {
                    return reply;
                }
            }
            if !self.complete_one() && self.core.is_idle() {
                return Err(Error::new(
                    ErrorKind::Busy,
                    "the request waits for something that does not come",
                ));
            }
        }
    }

    /// Lets `ms` milliseconds pass and finishes what is due in the background.
    pub fn idle(&mut self, ms: u64) {
        self.now_ms += ms;
        loop {
            self.core.turn(self.now_ms);
            self.start_operations();
            while self.core.next_reply().is_some() {}
            if !self.complete_one() {
                break;
            }
        }
    }

    fn tell_host_room(&mut self) {
        if self.core.wants_host_room() {
            self.core.host_has_room(self.data.host_room());
            self.core.turn(self.now_ms);
        }
    }

    fn start_operations(&mut self) {
        while let Some((side, ticket, operation)) = self.core.next_operation() {
            match side {
                Side::Data => self.data.submit(ticket, operation),
                Side::Metadata => self.metadata.submit(ticket, operation),
            }
        }
    }

    fn complete_one(&mut self) -> bool {
        let completion = self.data.next_completion().or_else(|| self.metadata.next_completion());
        let any = completion.is_some();
        completion.into_iter().for_each(|completion| self.core.complete(completion));
        any
    }

    /// Makes an empty volume of `size_bytes`, a multiple of 4 KiB.
    pub fn create_volume(&mut self, new: NewVolume, size_bytes: u64) -> Result<VolumeId> {
        self.request(Request::CreateVolume { new, size_bytes, reservation_bytes: 0 }).and_then(one)
    }

    /// Freezes a volume as a snapshot, named `volume@snapshot`.
    pub fn snapshot(&mut self, volume: VolumeId, new: NewVolume) -> Result<VolumeId> {
        self.request(Request::Snapshot { cuts: vec![(volume, new)] }).and_then(one)
    }

    /// Makes a writable volume that starts as `snapshot`.
    pub fn clone_snapshot(&mut self, snapshot: VolumeId, new: NewVolume) -> Result<VolumeId> {
        self.request(Request::Clone { snapshot, new }).and_then(one)
    }

    /// Removes a snapshot, or a volume without snapshots; its space comes back in the background.
    pub fn delete(&mut self, volume: VolumeId) -> Result<()> {
        self.request(Request::Delete { volumes: vec![volume], deferred: false }).map(drop)
    }

    /// Writes `bytes` at `offset_bytes`. They survive a power loss after the next [`Pool::flush`].
    pub fn write(&mut self, volume: VolumeId, offset_bytes: u64, bytes: impl Into<Bytes>) -> Result<()> {
        self.request(Request::Write { volume, offset_bytes, bytes: bytes.into(), fua: false }).map(drop)
    }

    /// Reads a range into one piece of memory.
    pub fn read(&mut self, volume: VolumeId, offset_bytes: u64, length_bytes: u64) -> Result<Vec<u8>> {
        let outcome = self.request(Request::Read { volume, offset_bytes, length_bytes })?;
        let Outcome::Data(segments) = outcome else { return Ok(Vec::new()) };
        let mut bytes = Vec::with_capacity(length_bytes as usize);
        for segment in segments {
            match segment {
                Segment::Zeros(length) => bytes.resize(bytes.len() + length as usize, 0),
                Segment::Bytes(piece) => bytes.extend_from_slice(&piece),
            }
        }
        Ok(bytes)
    }

    /// How a volume or snapshot differs from a base, range by range, in order.
    pub fn differences(&mut self, base: Base, volume: VolumeId) -> Differences<'_, D> {
        Differences { pool: self, base, volume, ranges: Vec::new().into_iter(), next_bytes: Some(0) }
    }

    /// Makes everything written before survive a power loss.
    pub fn flush(&mut self) -> Result<()> {
        self.request(Request::Flush).map(drop)
    }

    /// Ends with an empty log and no owner, and gives the disks back. Without it the next opening recovers.
    pub fn close(mut self) -> Result<(D, D)> {
        self.request(Request::Close)?;
        while self.complete_one() {}
        Ok((self.data, self.metadata))
    }

    /// All volumes and snapshots, by number.
    pub fn volumes(&self) -> Vec<VolumeInfo> {
        self.core.volumes()
    }

    /// The volume or snapshot of this name.
    pub fn find(&self, name: &str) -> Option<VolumeId> {
        self.core.find(name)
    }

    /// What the pool does about space.
    pub fn settings(&self) -> &Settings {
        self.core.settings()
    }

    /// Changes what the pool does about space.
    pub fn configure(&mut self, settings: Settings) -> Result<()> {
        self.request(Request::Configure { settings: Box::new(settings) }).map(drop)
    }

    /// The state of the pool.
    pub fn status(&self) -> PoolStatus {
        self.core.status()
    }

    /// The data disk, to look at its counters.
    pub fn data_disk(&self) -> &D {
        &self.data
    }

    /// The metadata disk, to look at its counters.
    pub fn metadata_disk(&self) -> &D {
        &self.metadata
    }
}

/// What differs; see [`Pool::differences`]. Ends behind an error.
pub struct Differences<'a, D: Disk> {
    pool: &'a mut Pool<D>,
    base: Base,
    volume: VolumeId,
    ranges: std::vec::IntoIter<DifferenceRange>,
    next_bytes: Option<u64>,
}

impl<D: Disk> Iterator for Differences<'_, D> {
    type Item = Result<DifferenceRange>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(range) = self.ranges.next() {
                return Some(Ok(range));
            }
            let offset_bytes = self.next_bytes.take()?;
            let (base, volume) = (self.base, self.volume);
            match self.pool.request(Request::Difference { base, volume, offset_bytes }) {
                Ok(Outcome::Difference(some)) => {
                    self.ranges = some.ranges.into_iter();
                    self.next_bytes = some.next_bytes;
                }
                Ok(_) => return None,
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

fn one(outcome: Outcome) -> Result<VolumeId> {
    match outcome {
        Outcome::Created(made) if made.len() == 1 => Ok(made[0]),
        other => Err(Error::invalid(format!("a request that makes one volume was answered with {other:?}"))),
    }
}
