//! Pictures of snapshots, made by a pool that this process has open or by its server.
//!
//! Owns how names become the engine's words. What a picture is, and the order of making one, is the engine's; what
//! dm-thin's metadata says of it is `commands/dm/picture.rs`'s.

use super::engine::{Engine, Opened};
use super::remote::Remote;
use crate::control::encode_name;
use crate::error::{Error, Result};
use crate::exit::Kind;
use crate::views::{
    ArrivalView, AskMappingsView, FillView, FilledView, FinishPictureView, MappingsView, NewPictureView,
    VolumeView,
};
use crate::{host, names};
use vellum_engine::picture;
use vellum_engine::request::{Partial, Uuid};
use vellum_engine::transfer::Ask;
use vellum_engine::units::{VirtualBlock, VolumeId};

/// What can be asked about pictures, wherever the pool runs. Blocking calls.
///
/// One is begun, filled part by part, and finished. Until then it is what has arrived in part, and
/// [`abort`](super::Transfer::abort) drops it.
pub trait Picture {
    /// Begins a picture, and gives what its uuid is.
    fn start_picture(&mut self, new: &NewPictureView) -> Result<ArrivalView>;

    /// Makes some blocks of it whole.
    fn fill_picture(&mut self, uuid: &str, part: &FillView) -> Result<FilledView>;

    /// Makes it a snapshot that is held.
    fn finish_picture(&mut self, uuid: &str, what: &FinishPictureView) -> Result<VolumeView>;

    /// Where a snapshot has its blocks.
    fn mappings(&mut self, what: &AskMappingsView) -> Result<MappingsView>;
}

fn parse_uuid(text: &str) -> Result<Uuid> {
    let uuid = uuid::Uuid::parse_str(text).map(uuid::Uuid::into_bytes);
    uuid.map_err(|_| Error::new(Kind::Invalid, format!("'{}' is no uuid", text.escape_debug())))
}

impl<E: Engine> Opened<E> {
    fn picture(&mut self, uuid: &str) -> Result<Partial> {
        let is_it = |partial: &Partial| partial.is_picture && ArrivalView::new(partial).uuid == uuid;
        let found = self.partials()?.into_iter().find(is_it);
        found.ok_or_else(|| Error::new(Kind::NotFound, format!("no picture is made with the uuid {uuid}")))
    }

    fn draw<T>(&mut self, act: impl FnOnce(&mut dyn Ask) -> vellum_engine::error::Result<T>) -> Result<T> {
        let drawn = act(&mut |request| self.engine.request(request));
        drawn.map_err(|error| self.explain(error))
    }
}

impl<E: Engine> Picture for Opened<E> {
    fn start_picture(&mut self, new: &NewPictureView) -> Result<ArrivalView> {
        names::check_snapshot(&new.snapshot)?;
        names::check_snapshot(&new.name)?;
        let snapshot = self.find(&new.snapshot)?;
        let mut volume = host::new_volume(&new.name)?;
        if let Some(uuid) = &new.uuid {
            volume.uuid = parse_uuid(uuid)?;
        }
        Ok(ArrivalView::new(&self.draw(|ask| picture::start(ask, snapshot, volume))?))
    }

    fn fill_picture(&mut self, uuid: &str, part: &FillView) -> Result<FilledView> {
        let volume = self.picture(uuid)?.volume;
        let first = VirtualBlock::containing(part.offset_bytes);
        Ok(FilledView::new(&self.draw(|ask| picture::fill(ask, volume, first))?))
    }

    fn finish_picture(&mut self, uuid: &str, what: &FinishPictureView) -> Result<VolumeView> {
        names::check_snapshot(&what.name)?;
        let partial = self.picture(uuid)?;
        self.draw(|ask| picture::finish(ask, &partial, &what.name, &what.tag))?;
        let views = VolumeView::all(&self.engine.volumes());
        let view = views.into_iter().find(|view| view.number == partial.volume.0);
        view.ok_or_else(|| Error::new(Kind::Failure, "what was made has gone again"))
    }

    fn mappings(&mut self, what: &AskMappingsView) -> Result<MappingsView> {
        let views = VolumeView::all(&self.engine.volumes());
        let snapshot = views.into_iter().find(|view| view.uuid == what.uuid);
        let snapshot = snapshot.ok_or_else(|| {
            Error::new(Kind::NotFound, format!("there is no snapshot with the uuid {}", what.uuid))
        })?;
        let volume = VolumeId(snapshot.number);
        let first = VirtualBlock::containing(what.offset_bytes);
        Ok(MappingsView::new(&self.draw(|ask| picture::mappings(ask, volume, first))?))
    }
}

impl Picture for Remote {
    fn start_picture(&mut self, new: &NewPictureView) -> Result<ArrivalView> {
        self.post("/v1/pictures", new)
    }

    fn fill_picture(&mut self, uuid: &str, part: &FillView) -> Result<FilledView> {
        self.post(&format!("/v1/pictures/{}/fills", encode_name(uuid)), part)
    }

    fn finish_picture(&mut self, uuid: &str, what: &FinishPictureView) -> Result<VolumeView> {
        self.post(&format!("/v1/pictures/{}/snapshot", encode_name(uuid)), what)
    }

    fn mappings(&mut self, what: &AskMappingsView) -> Result<MappingsView> {
        self.post("/v1/mappings", what)
    }
}
