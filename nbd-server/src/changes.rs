//! Requests that change volumes under their clients: deletion, rollback, renaming, a smaller size.
//!
//! Owns the rule. Such a request is refused while clients are connected to what it changes. A forced one waits until they
//! are gone and all they asked for is answered, so nothing of theirs is carried out behind it. Until it is answered itself
//! nobody can connect to these volumes.

use crate::shared::Engine;
use rustc_hash::FxHashMap;
use vellum_engine::Core;
use vellum_engine::error::{Error, ErrorKind};
use vellum_engine::request::{Request, RequestId};
use vellum_engine::units::VolumeId;

/// Changes that are under way.
#[derive(Default)]
pub struct Changes {
    /// What each changes, from its arrival to its answer.
    changing: FxHashMap<RequestId, Vec<VolumeId>>,
    /// Those that wait for clients to go, in order.
    waiting: Vec<(RequestId, Request)>,
}

/// What became of a request.
pub enum Submitted {
    /// The core has it.
    Asked,
    /// Clients are in its way.
    Refused(Error),
    /// It waits until these volumes have no clients any more: they are to be disconnected.
    Waits(Vec<VolumeId>),
}

impl Changes {
    /// Whether `volume` may not be connected to for now.
    pub fn is_changing(&self, volume: VolumeId) -> bool {
        self.changing.values().any(|volumes| volumes.contains(&volume))
    }

    /// A request was answered.
    pub fn answered(&mut self, id: RequestId) {
        self.changing.remove(&id);
    }
}

impl Engine {
    /// Hands a request to the core, unless clients are in its way.
    pub fn submit(&mut self, id: RequestId, request: Request, forced: bool) -> Submitted {
        let volumes = changed_by(&self.core, &request);
        if let Some(used) = volumes.iter().find(|volume| self.connected.contains_key(volume)) {
            if !forced {
                return Submitted::Refused(self.in_use(*used));
            }
            self.changes.changing.insert(id, volumes.clone());
            self.changes.waiting.push((id, request));
            return Submitted::Waits(volumes);
        }
        if !volumes.is_empty() {
            self.changes.changing.insert(id, volumes);
        }
        self.core.submit(id, request);
        Submitted::Asked
    }

    /// One connection to `volume` less. The changes that waited for it come back, to be submitted.
    pub fn disconnected(&mut self, volume: VolumeId) -> Vec<(RequestId, Request)> {
        match self.connected.get_mut(&volume) {
            Some(count) if *count > 1 => {
                *count -= 1;
                return Vec::new();
            }
            _ => self.connected.remove(&volume),
        };
        let Self { connected, changes: Changes { changing, waiting }, .. } = self;
        let is_alone = |id: &RequestId| {
            changing.get(id).is_none_or(|volumes| volumes.iter().all(|v| !connected.contains_key(v)))
        };
        waiting.extract_if(.., |(id, _)| is_alone(id)).collect()
    }

    fn in_use(&self, volume: VolumeId) -> Error {
        let name = self.core.volume_of(volume).map_or_else(|| format!("volume {volume}"), |info| info.name);
        let clients = match self.connected.get(&volume) {
            Some(count) if *count > 1 => format!("{count} connections"),
            _ => "a connection".to_owned(),
        };
        let message = format!("'{name}' is in use by {clients}; disconnect its clients first, or force it");
        Error::new(ErrorKind::Busy, message)
    }
}

/// The volumes that `request` takes from their clients, or that are something else afterwards.
fn changed_by(core: &Core, request: &Request) -> Vec<VolumeId> {
    match request {
        Request::Delete { volumes, .. } => volumes.clone(),
        Request::Rollback { volume, .. } => vec![*volume],
        Request::Resize { volume, size_bytes } => {
            let shrinks = core.volume_of(*volume).is_some_and(|info| *size_bytes < info.size_bytes);
            if shrinks { vec![*volume] } else { Vec::new() }
        }
        Request::Rename { volume, .. } => {
            let Some(info) = core.volume_of(*volume) else { return Vec::new() };
            let prefix = format!("{}@", info.name);
            let snapshots = core.volumes().into_iter().filter(|other| other.name.starts_with(&prefix));
            std::iter::once(*volume).chain(snapshots.map(|snapshot| snapshot.id)).collect()
        }
        Request::Release { volume, tag } => {
            let goes =
                core.volume_of(*volume).is_some_and(|i| i.deletion_deferred && i.holds == [tag.as_str()]);
            if goes { vec![*volume] } else { Vec::new() }
        }
        _ => Vec::new(),
    }
}
