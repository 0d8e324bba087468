//! The pool that this process serves.
//!
//! Owns nothing: the server has the pool, and closes it.

use super::engine::{Engine, Opened};
use vellum_engine::request::{Reply, Request};
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

    fn close(self) -> vellum_engine::error::Result<()> {
        Ok(())
    }
}
