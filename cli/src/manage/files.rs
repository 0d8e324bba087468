//! A pool on its files: opened here, used, closed.
//!
//! Owns opening and making it. What is asked of it is `engine.rs`'s.

use super::engine::{Engine, Opened};
use crate::error::{Error, Result};
use crate::exit::Kind;
use crate::host;
use crate::pool_directory::{Disks, NewDisks, PoolDirectory, identity};
use crate::size::{self, Size};
use vellum_engine::options::CreateOptions;
use vellum_engine::request::{Reply, Request};
use vellum_engine::settings::Settings;
use vellum_engine::storage::{Disk, FileDisk};
use vellum_engine::units::{BLOCK_BYTES, VolumeId};
use vellum_engine::{Pool, PoolStatus, VolumeInfo};

/// Rounds of background work after a deletion, so that its space is back when the command ends.
const SETTLE_ROUNDS_MAX: usize = 10_000;
const SETTLE_STEP_MS: u64 = 1000;

/// A pool that grows by itself grows to so many times its first size, unless somebody says how far.
const GROWTH_FACTOR: u64 = 4;

/// How far a new pool grows by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Growth {
    /// On files to four times its size, on devices not at all.
    #[default]
    Default,
    /// Not at all.
    Never,
    /// To this size, in bytes.
    To(u64),
}

impl Growth {
    fn up_to_bytes(self, size_bytes: u64, is_device: bool) -> u64 {
        match self {
            Self::Default if !is_device => size_bytes.saturating_mul(GROWTH_FACTOR),
            Self::Default | Self::Never => 0,
            Self::To(bytes) => bytes,
        }
    }
}

/// A pool on its files.
pub type Files = Opened<Pool<FileDisk>>;

impl Files {
    /// Opens the pool in `directory`; recovers it first if it was not closed.
    pub fn open(directory: &PoolDirectory) -> Result<Self> {
        host::survive_file_size_limit()?;
        let Disks { data, mut metadata } = directory.open_disks()?;
        let uuid = identity(&mut metadata).unwrap_or_default();
        let options = host::open_options(&data)?;
        let pool = Pool::open(data, metadata, &options);
        let pool = pool.map_err(|error| directory.explain(error))?;
        Ok(Self::new(pool, directory, uuid))
    }

    /// Makes a pool of `size_bytes` in `directory`. If that fails, nothing stays behind that it made.
    pub fn create(
        directory: &PoolDirectory,
        size_bytes: u64,
        new: &NewDisks,
        growth: Growth,
    ) -> Result<Self> {
        host::survive_file_size_limit()?;
        let options = create_options(size_bytes)?;
        let (disks, made) = directory.create_disks(new)?;
        check_fits(&disks.data, size_bytes)?;
        let auto_extend_bytes = growth.up_to_bytes(size_bytes, disks.data.file().is_device());
        let opening = host::open_options(&disks.data)?;
        let pool = Pool::create(disks.data, disks.metadata, &options, &opening);
        let mut pool = pool.map_err(|error| directory.explain(error))?;
        pool.configure(Settings { auto_extend_bytes, ..Settings::default() })?;
        made.keep()?;
        Ok(Self::new(pool, directory, options.uuid))
    }
}

/// A device cannot grow into a pool that is larger.
fn check_fits(data: &FileDisk, size_bytes: u64) -> Result<()> {
    let room_bytes = data.size_bytes() / BLOCK_BYTES * BLOCK_BYTES;
    if data.file().is_device() && size_bytes > room_bytes {
        let message = format!("the device has {}, less than the pool", Size(data.size_bytes()));
        return Err(Error::new(Kind::Invalid, message).hint(format!("give --size {room_bytes} or less")));
    }
    Ok(())
}

impl Engine for Pool<FileDisk> {
    fn request(&mut self, request: Request) -> Reply {
        Pool::request(self, request)
    }

    fn volumes(&self) -> Vec<VolumeInfo> {
        Pool::volumes(self)
    }

    fn find(&self, name: &str) -> Option<VolumeId> {
        Pool::find(self, name)
    }

    fn status(&self) -> PoolStatus {
        Pool::status(self)
    }

    fn settings(&self) -> Settings {
        Pool::settings(self).clone()
    }

    fn settle(&mut self) {
        for _ in 0..SETTLE_ROUNDS_MAX {
            self.idle(SETTLE_STEP_MS);
            let status = Pool::status(self);
            if status.failure.is_some() || is_settled(&status) {
                break;
            }
        }
    }

    fn close(self) -> vellum_engine::error::Result<()> {
        Pool::close(self).map(drop)
    }
}

/// Whether everything that was freed is free, and given back as far as it goes back.
fn is_settled(status: &PoolStatus) -> bool {
    let space = status.space;
    status.deleting + space.waiting + space.queued + space.punching == 0
}

fn create_options(size_bytes: u64) -> Result<CreateOptions> {
    let data_blocks = size::pool_blocks(size_bytes)?;
    Ok(CreateOptions {
        data_blocks,
        log_blocks: CreateOptions::log_blocks_for(data_blocks),
        uuid: host::new_uuid()?,
        secret: host::new_secret()?,
        created_unix_s: host::now_unix_s(),
    })
}
