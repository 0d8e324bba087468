//! A pool on its files: opened here, used, closed.
//!
//! Owns the translation of names to requests. What they do is the engine's.

use super::Manage;
use crate::error::{Error, Result};
use crate::exit::Kind;
use crate::pool_directory::{Disks, NewDisks, PoolDirectory, identity};
use crate::views::{PoolView, VolumeView};
use crate::{host, names};
use vellum_engine::Pool;
use vellum_engine::error::Error as EngineError;
use vellum_engine::options::CreateOptions;
use vellum_engine::request::{Outcome, Request, Uuid};
use vellum_engine::storage::FileDisk;
use vellum_engine::units::{BLOCK_BYTES, VolumeId};

/// Rounds of background work after a deletion, so that its space is back when the command ends.
const SETTLE_ROUNDS_MAX: usize = 10_000;
const SETTLE_STEP_MS: u64 = 1000;

/// A pool that this process has open.
pub struct Files {
    pool: Pool<FileDisk>,
    directory: PoolDirectory,
    uuid: Uuid,
}

impl Files {
    /// Opens the pool in `directory`; recovers it first if it was not closed.
    pub fn open(directory: &PoolDirectory) -> Result<Self> {
        host::survive_file_size_limit()?;
        let Disks { data, mut metadata } = directory.open_disks()?;
        let uuid = identity(&mut metadata).unwrap_or_default();
        let pool = Pool::open(data, metadata, &host::open_options()?);
        let pool = pool.map_err(|error| directory.explain(error))?;
        Ok(Self { pool, directory: directory.clone(), uuid })
    }

    /// Makes a pool of `size_bytes` in `directory`. If that fails, nothing stays behind that it made.
    pub fn create(directory: &PoolDirectory, size_bytes: u64, new: &NewDisks) -> Result<Self> {
        host::survive_file_size_limit()?;
        let options = create_options(size_bytes)?;
        let (disks, made) = directory.create_disks(new)?;
        let pool = Pool::create(disks.data, disks.metadata, &options, &host::open_options()?);
        let pool = pool.map_err(|error| directory.explain(error))?;
        made.keep();
        Ok(Self { pool, directory: directory.clone(), uuid: options.uuid })
    }

    fn find(&self, name: &str) -> Result<VolumeId> {
        names::check_any(name)?;
        self.pool.find(name).ok_or_else(|| names::not_found(name))
    }

    /// Asks for something to be made, and gives the views of it.
    fn make(&mut self, request: Request) -> Result<Vec<VolumeView>> {
        let made = match self.pool.request(request).map_err(|error| self.explain(error))? {
            Outcome::Created(made) => made,
            other => {
                return Err(Error::new(Kind::Failure, format!("the engine answered with {other:?}")));
            }
        };
        let views = VolumeView::all(&self.pool.volumes());
        let view = |id: &VolumeId| views.iter().find(|view| view.number == id.0).cloned();
        Ok(made.iter().filter_map(view).collect())
    }

    fn make_one(&mut self, request: Request) -> Result<VolumeView> {
        let made = self.make(request)?.pop();
        made.ok_or_else(|| Error::new(Kind::Failure, "what was made has gone again"))
    }

    /// The engine names volumes by number; people know names.
    fn explain(&self, error: EngineError) -> Error {
        let Some(vellum_engine::error::Place::Volume(id)) = error.place() else { return error.into() };
        let name = self.pool.volumes().into_iter().find(|info| info.id == id).map(|info| info.name);
        match name {
            Some(name) => Error::new(error.kind().into(), format!("'{name}': {}", error.message())),
            None => error.into(),
        }
    }

    /// Lets what was freed go back to the host.
    fn settle(&mut self) {
        for _ in 0..SETTLE_ROUNDS_MAX {
            self.pool.idle(SETTLE_STEP_MS);
            let status = self.pool.status();
            if status.failure.is_some() || status.deleting + status.space.waiting + status.space.punching == 0
            {
                break;
            }
        }
    }
}

impl Manage for Files {
    fn status(&mut self) -> Result<PoolView> {
        let (host_data_bytes, host_metadata_bytes) = self.directory.host_bytes();
        let view = PoolView::new(&self.uuid, &self.pool.status(), &self.pool.volumes());
        Ok(PoolView { host_data_bytes, host_metadata_bytes, ..view })
    }

    fn volumes(&mut self) -> Result<Vec<VolumeView>> {
        Ok(VolumeView::all(&self.pool.volumes()))
    }

    fn create_volume(&mut self, name: &str, size_bytes: u64) -> Result<VolumeView> {
        names::check_volume(name)?;
        self.make_one(Request::CreateVolume { new: host::new_volume(name)?, size_bytes })
    }

    fn create_snapshots(&mut self, names: &[String]) -> Result<Vec<VolumeView>> {
        let cut = |name: &String| Ok((self.find(names::volume_of(name)?)?, host::new_volume(name)?));
        let cuts = names.iter().map(cut).collect::<Result<_>>()?;
        self.make(Request::Snapshot { cuts })
    }

    fn create_clone(&mut self, snapshot: &str, name: &str) -> Result<VolumeView> {
        names::check_snapshot(snapshot)?;
        names::check_volume(name)?;
        let snapshot = self.find(snapshot)?;
        self.make_one(Request::Clone { snapshot, new: host::new_volume(name)? })
    }

    fn delete(&mut self, names: &[String]) -> Result<()> {
        let volumes = names.iter().map(|name| self.find(name)).collect::<Result<_>>()?;
        self.pool.request(Request::Delete { volumes }).map_err(|error| self.explain(error))?;
        self.settle();
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<()> {
        self.pool.close().map(drop).map_err(|error| self.directory.explain(error))
    }
}

fn create_options(size_bytes: u64) -> Result<CreateOptions> {
    if !size_bytes.is_multiple_of(BLOCK_BYTES) {
        return Err(Error::new(Kind::Invalid, "a pool's size is a multiple of 64 KiB")
            .hint("write it as 10G or 512M; these are"));
    }
    let data_blocks = size_bytes / BLOCK_BYTES;
    Ok(CreateOptions {
        data_blocks,
        log_blocks: CreateOptions::log_blocks_for(data_blocks),
        uuid: host::new_uuid()?,
        secret: host::new_secret()?,
        created_unix_s: host::now_unix_s(),
    })
}
