//! A snapshot, of several volumes too, is one moment: whoever sees a write in it sees all that was answered before
//! that write was asked for.
//!
//! Owns the comparison across volumes and units; unit by unit, `verdict.rs` has done its part.

use super::history::{Bound, Moment, View};
use super::{Cut, Model, Observed, Verdict, Volume};
use crate::tag::UNIT;
use std::collections::BTreeMap;

impl Model {
    pub(super) fn judge_cuts(&self, observed: &Observed, verdict: &mut Verdict) {
        let mut groups: BTreeMap<Cut, Vec<&Volume>> = BTreeMap::new();
        for volume in self.volumes.values() {
            if let Some(cut) = volume.cut.filter(|_| observed.find(volume.names()).is_some()) {
                groups.entry(cut).or_default().push(volume);
            }
        }
        for (cut, members) in groups {
            let latest =
                members.iter().map(|member| self.newest_in(member, cut, observed)).max().unwrap_or(0);
            if latest > cut.issued {
                self.judge_cut(cut, latest, &members, observed, verdict);
            }
        }
    }

    /// When the newest write in a snapshot was asked for.
    fn newest_in(&self, member: &Volume, cut: Cut, observed: &Observed) -> Moment {
        let view = Self::view_of_cut(cut);
        let seen = observed.find(member.names()).into_iter().flat_map(|seen| seen.bytes.chunks_exact(UNIT));
        let newest = member
            .units
            .iter()
            .zip(seen)
            .map(|(history, bytes)| history.newest_seen(&self.records, &view, bytes));
        newest.max().unwrap_or(0)
    }

    fn judge_cut(
        &self,
        cut: Cut,
        latest: Moment,
        members: &[&Volume],
        observed: &Observed,
        verdict: &mut Verdict,
    ) {
        let view = View { bound: Bound::all_acked_before(latest), ..Self::view_of_cut(cut) };
        for member in members {
            let Some(volume) = observed.find(member.names()) else { continue };
            let units = member.units.iter().zip(volume.bytes.chunks_exact(UNIT)).enumerate();
            let mut readable = units.filter(|(unit, _)| !volume.is_unreadable((unit * UNIT) as u64));
            let torn = readable
                .find(|(_, (history, bytes))| !history.accepts(&self.records, &view, 0, bytes))
                .map(|(unit, _)| unit);
            if let Some(unit) = torn {
                verdict.structure.push(format!(
                    "{} is not one moment: a write asked for at {latest} is in the cut ({}..{}), but unit {unit} \
                     lacks one answered before:{}",
                    member.name,
                    cut.issued,
                    cut.acked,
                    member.units[unit].describe(&self.records)
                ));
            }
        }
    }
}
