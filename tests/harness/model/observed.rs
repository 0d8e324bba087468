//! What a client sees of a whole pool: every volume and snapshot, and every byte of them.
//!
//! Owns bytes as they were read. Compares nothing; that is `verdict.rs`.

use super::{Check, Violation};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use vellum_engine::units::VolumeId;

/// One volume or snapshot as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedVolume {
    /// Its number.
    pub id: VolumeId,
    /// Whether it is a snapshot.
    pub is_snapshot: bool,
    /// Tags that keep it from being deleted.
    pub holds: BTreeSet<String>,
    /// Whether it goes with its last hold.
    pub deletion_deferred: bool,
    /// What it holds, as long as it is.
    pub bytes: Vec<u8>,
    /// Byte ranges whose reading failed, and why.
    pub unreadable: Vec<(Range<u64>, String)>,
}

/// A pool as it was read, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Volumes and snapshots by name.
    pub volumes: BTreeMap<String, ObservedVolume>,
}

impl Observed {
    /// What bears one of these names.
    pub fn find<'n>(&self, names: impl IntoIterator<Item = &'n String>) -> Option<&ObservedVolume> {
        names.into_iter().find_map(|name| self.volumes.get(name))
    }

    /// An error if anything could not be read.
    ///
    /// # Errors
    /// With the first range that could not be.
    pub fn all_readable(&self) -> Check {
        for (name, volume) in &self.volumes {
            if let Some((range, error)) = volume.unreadable.first() {
                return Err(Violation(format!("{name}, bytes {range:?} cannot be read: {error}")));
            }
        }
        Ok(())
    }

    /// Where two pools differ, for people; `None` where they do not.
    pub fn difference(&self, other: &Self) -> Option<String> {
        let names: Vec<_> = self.volumes.keys().collect();
        let others: Vec<_> = other.volumes.keys().collect();
        if names != others {
            return Some(format!("volumes {names:?} became {others:?}"));
        }
        self.volumes.iter().find_map(|(name, one)| {
            let two = &other.volumes[name];
            if one == two {
                return None;
            }
            let at = one.bytes.iter().zip(&two.bytes).position(|(one, two)| one != two);
            Some(format!("{name} differs, first at byte {at:?}"))
        })
    }
}
