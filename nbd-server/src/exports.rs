//! What clients can ask for by name: volumes, and snapshots as `volume@snapshot`.
//!
//! Owns the look-up for the handshake. A default export is there only if the server was told so: a client that comes
//! back must never get another disk.

use crate::protocol::{Export, Exports};
use crate::shared::Shared;
use vellum_engine::VolumeInfo;
use vellum_engine::format::VolumeKind;
use vellum_engine::units::SECTOR_BYTES;

/// Exports of the pool as it is at the moment of asking.
pub struct PoolExports<'a>(pub &'a Shared);

impl PoolExports<'_> {
    /// The name of the volume that a client means by `name`.
    pub fn resolve<'n>(&'n self, name: &'n str) -> Option<&'n str> {
        if name.is_empty() { self.0.default_export.as_deref() } else { Some(name) }
    }
}

impl Exports for PoolExports<'_> {
    fn find(&self, name: &str) -> Option<Export> {
        let engine = self.0.lock();
        let info = engine.core.volume(self.resolve(name)?)?;
        (!engine.changes.is_changing(info.id)).then(|| export(&info))
    }

    fn list(&self) -> Vec<(String, String)> {
        let mut volumes = self.0.lock().core.volumes();
        volumes.sort_by(|one, other| one.name.cmp(&other.name));
        volumes.into_iter().map(|info| (info.name.clone(), description(&info))).collect()
    }
}

fn export(info: &VolumeInfo) -> Export {
    Export {
        name: info.name.clone(),
        description: description(info),
        size_bytes: info.size_bytes,
        read_only: info.kind != VolumeKind::Volume,
        preferred_block_bytes: SECTOR_BYTES as u32,
    }
}

fn description(info: &VolumeInfo) -> String {
    match (info.kind, info.origin) {
        (VolumeKind::Snapshot, _) => "snapshot, read-only".to_owned(),
        (_, Some(_)) => "clone".to_owned(),
        _ => "volume".to_owned(),
    }
}
