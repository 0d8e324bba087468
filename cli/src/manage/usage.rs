//! What volumes and snapshots have alone, of a pool that this process has open.
//!
//! Owns which set is meant by names, patterns and flags. Counting is the engine's.

use super::engine::{Engine, Opened};
use crate::error::{Error, Result};
use crate::exit::Kind;
use crate::patterns;
use crate::views::{AskUsageView, UsageView};
use vellum_engine::VolumeInfo;
use vellum_engine::format::VolumeKind;
use vellum_engine::request::{Outcome, Request};

impl<E: Engine> Opened<E> {
    pub(super) fn carry_out_usage(&mut self, what: &AskUsageView) -> Result<UsageView> {
        let all = self.engine.volumes();
        let mut set = patterns::select(&what.names, &all)?;
        if what.snapshots {
            let named = std::mem::take(&mut set);
            set = all.iter().filter(|info| is_in(info, &named)).collect();
        }
        let volumes = set.iter().map(|info| info.id).collect();
        let names = set.iter().map(|info| info.name.clone()).collect();
        let request = Request::Usage { volumes, sectors: what.sectors };
        match self.engine.request(request).map_err(|error| self.explain(error))? {
            Outcome::Usage(usage) => Ok(UsageView::new(names, &usage)),
            other => Err(Error::new(Kind::Failure, format!("the engine answered with {other:?}"))),
        }
    }
}

/// Whether it is named, or a snapshot of a volume that is.
fn is_in(info: &VolumeInfo, named: &[&VolumeInfo]) -> bool {
    let family = info.name.split('@').next().unwrap_or(&info.name);
    let takes_along = |other: &&VolumeInfo| other.kind == VolumeKind::Volume && other.name == family;
    named.iter().any(|other| other.id == info.id || takes_along(other))
}
