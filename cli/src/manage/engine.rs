//! A pool that this process has open, on its files or as the server of it: names become requests of the engine.
//!
//! Owns that translation. What the requests do is the engine's; where the engine runs is [`Engine`]'s.

use super::Manage;
use crate::error::{Error, Result};
use crate::exit::Kind;
use crate::pool_directory::PoolDirectory;
use crate::size::{self, Size};
use crate::views::{
    AskUsageView, ChangeView, ChangedView, ConfigurationView, DeletedView, DeletionView, PoolView, TrimView,
    TrimmedView, UsageView, VolumeView,
};
use crate::{host, names, patterns};
use vellum_engine::error::Error as EngineError;
use vellum_engine::request::{Outcome, Reply, Request, Uuid};
use vellum_engine::settings::Settings;
use vellum_engine::units::{BLOCK_BYTES, VolumeId};
use vellum_engine::{PoolStatus, VolumeInfo};

/// An engine that can be asked.
pub trait Engine {
    /// Asks, and waits for the answer.
    fn request(&mut self, request: Request) -> Reply;

    /// As [`Engine::request`]; clients that are in the way are disconnected, where there are any.
    fn force(&mut self, request: Request) -> Reply {
        self.request(request)
    }

    /// All volumes and snapshots, by number.
    fn volumes(&self) -> Vec<VolumeInfo>;

    /// The volume or snapshot of this name.
    fn find(&self, name: &str) -> Option<VolumeId>;

    /// The state of the pool.
    fn status(&self) -> PoolStatus;

    /// What the pool does about space.
    fn settings(&self) -> Settings;

    /// Lets what was freed go back to the host, where nobody else sees to that.
    fn settle(&mut self) {}

    /// The same engine as a pool of its own, where several can ask it at once.
    fn fork(&self, _directory: &PoolDirectory, _uuid: Uuid) -> Option<Box<dyn Manage + Send>> {
        None
    }

    /// Closes the pool, if it is this one's to close.
    fn close(self) -> vellum_engine::error::Result<()>;
}

/// A pool that this process has open.
pub struct Opened<E> {
    pub(super) engine: E,
    directory: PoolDirectory,
    uuid: Uuid,
}

impl<E: Engine> Opened<E> {
    /// The pool of `directory`, with this uuid, in `engine`.
    pub fn new(engine: E, directory: &PoolDirectory, uuid: Uuid) -> Self {
        Self { engine, directory: directory.clone(), uuid }
    }

    pub(super) fn find(&self, name: &str) -> Result<VolumeId> {
        names::check_any(name)?;
        self.engine.find(name).ok_or_else(|| names::not_found(name))
    }

    /// Asks for something to be made, and gives the views of it.
    fn make(&mut self, request: Request) -> Result<Vec<VolumeView>> {
        let made = match self.engine.request(request).map_err(|error| self.explain(error))? {
            Outcome::Created(made) => made,
            other => {
                return Err(Error::new(Kind::Failure, format!("the engine answered with {other:?}")));
            }
        };
        let views = VolumeView::all(&self.engine.volumes());
        let view = |id: &VolumeId| views.iter().find(|view| view.number == id.0).cloned();
        Ok(made.iter().filter_map(view).collect())
    }

    fn make_one(&mut self, request: Request) -> Result<VolumeView> {
        let made = self.make(request)?.pop();
        made.ok_or_else(|| Error::new(Kind::Failure, "what was made has gone again"))
    }

    /// The engine names volumes by number; people know names.
    pub(super) fn explain(&self, error: EngineError) -> Error {
        let Some(vellum_engine::error::Place::Volume(id)) = error.place() else { return error.into() };
        let name = self.engine.volumes().into_iter().find(|info| info.id == id).map(|info| info.name);
        match name {
            Some(name) => Error::new(error.kind().into(), format!("'{name}': {}", error.message())),
            None => error.into(),
        }
    }
}

impl<E: Engine> Manage for Opened<E> {
    fn status(&mut self) -> Result<PoolView> {
        let (host_data_bytes, host_metadata_bytes) = self.directory.host_bytes();
        let view = PoolView::new(&self.uuid, &self.engine.status(), &self.engine.volumes());
        let settings = self.engine.settings();
        let low_water_bytes = settings.low_water_of(view.size_bytes);
        let settings = settings.to_pairs().into_iter().collect();
        Ok(PoolView { host_data_bytes, host_metadata_bytes, low_water_bytes, settings, ..view })
    }

    fn extend(&mut self, size_bytes: u64) -> Result<PoolView> {
        let data_blocks = size::pool_blocks(size_bytes)?;
        let now = self.engine.status().data_blocks;
        if data_blocks < now {
            let now = Size(now * BLOCK_BYTES);
            return Err(Error::new(
                Kind::Invalid,
                format!("the pool has {now}, and is not made smaller by this"),
            )
            .hint(format!(
                "give {now} or more; `vellum pool shrink` makes it smaller when it is not served"
            )));
        }
        self.engine.request(Request::Extend { data_blocks })?;
        self.status()
    }

    fn trim(&mut self, part: &TrimView) -> Result<TrimmedView> {
        let first_block = part.offset_bytes.div_ceil(BLOCK_BYTES);
        match self.engine.request(Request::Trim { first_block })? {
            Outcome::Trimmed(trimmed) => Ok(TrimmedView::new(&trimmed)),
            other => Err(Error::new(Kind::Failure, format!("the engine answered with {other:?}"))),
        }
    }

    fn configure(&mut self, change: &ConfigurationView) -> Result<PoolView> {
        let mut settings = self.engine.settings();
        for (key, value) in &change.settings {
            let wrong = |error: EngineError| {
                Error::from(error).hint("`vellum pool set --help` tells what can be set, and to what")
            };
            settings.set(key, value).map_err(wrong)?;
        }
        let now = self.engine.status().data_blocks * BLOCK_BYTES;
        if (1..now).contains(&settings.auto_extend_bytes) && change.settings.contains_key("auto-extend") {
            let message = format!("the pool has {} already; it cannot grow to less by itself", Size(now));
            return Err(Error::new(Kind::Invalid, message).hint("give more, or `off`"));
        }
        self.engine.request(Request::Configure { settings: Box::new(settings) })?;
        self.status()
    }

    fn volumes(&mut self) -> Result<Vec<VolumeView>> {
        Ok(VolumeView::all(&self.engine.volumes()))
    }

    fn usage(&mut self, what: &AskUsageView) -> Result<UsageView> {
        self.carry_out_usage(what)
    }

    fn create_volume(&mut self, name: &str, size_bytes: u64, reservation_bytes: u64) -> Result<VolumeView> {
        names::check_volume(name)?;
        self.make_one(Request::CreateVolume { new: host::new_volume(name)?, size_bytes, reservation_bytes })
    }

    fn create_snapshots(&mut self, names: &[String]) -> Result<Vec<VolumeView>> {
        let names = patterns::expand(names, &self.engine.volumes())?;
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

    fn delete(&mut self, deletion: &DeletionView) -> Result<DeletedView> {
        self.carry_out_deletion(deletion)
    }

    fn change(&mut self, name: &str, change: &ChangeView) -> Result<ChangedView> {
        self.carry_out_change(name, change)
    }

    fn fork(&self) -> Option<Box<dyn Manage + Send>> {
        self.engine.fork(&self.directory, self.uuid)
    }

    fn close(self: Box<Self>) -> Result<()> {
        {
            let directory = self.directory;
            self.engine.close().map_err(|error| directory.explain(error))
        }
    }
}
