//! The pool that this process serves.
//!
//! Owns nothing: the server has the pool, and closes it.

use super::Manage;
use super::engine::{Engine, Opened};
use crate::pool_directory::PoolDirectory;
use vellum_engine::request::{Reply, Request, Uuid};
use vellum_engine::settings::Settings;
use vellum_engine::units::VolumeId;
use vellum_engine::{PoolStatus, VolumeInfo};
use vellum_nbd_server::Handle;

/// The pool that this process serves.
pub type Live = Opened<Handle>;

impl Engine for Handle {
    fn request(&mut self, request: Request) -> Reply {
        Handle::request(self, request)
    }

    fn force(&mut self, request: Request) -> Reply {
        self.request_forced(request)
    }

    fn volumes(&self) -> Vec<VolumeInfo> {
        Handle::volumes(self)
    }

    fn find(&self, name: &str) -> Option<VolumeId> {
        self.volume(name).map(|info| info.id)
    }

    fn status(&self) -> PoolStatus {
        Handle::status(self)
    }

    fn settings(&self) -> Settings {
        Handle::settings(self)
    }

    fn fork(&self, directory: &PoolDirectory, uuid: Uuid) -> Option<Box<dyn Manage + Send>> {
        Some(Box::new(Live::new(self.clone(), directory, uuid)))
    }

    fn close(self) -> vellum_engine::error::Result<()> {
        Ok(())
    }
}
