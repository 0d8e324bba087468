//! What was done to a simulated disk since its last sync, page by page, version by version.
//!
//! Owns which versions of a unit could survive a power loss. Every version that no successful sync has covered
//! is a candidate, whatever came later: the medium takes them in any order. Read next: `cut.rs`.

use super::image::{Image, UNIT, UNITS, units_in};
use bytes::Bytes;
use std::collections::BTreeMap;

/// Number of an operation on one disk, in order of submission.
pub type OperationNumber = u64;

/// What an operation puts into a unit.
#[derive(Clone, Debug)]
pub enum Content {
    /// Zeros.
    Zeros,
    /// A piece of the bytes that stand at `offset_bytes` of the disk.
    Bytes {
        /// Where the bytes start.
        offset_bytes: u64,
        /// The bytes of the whole operation.
        bytes: Bytes,
    },
}

impl Content {
    /// What it puts into one unit; `None` is zeros.
    pub fn unit(&self, page: u64, unit: usize) -> Option<&[u8]> {
        match self {
            Self::Zeros => None,
            Self::Bytes { offset_bytes, bytes } => {
                let at = (page * UNITS as u64 + unit as u64) * UNIT as u64 - offset_bytes;
                Some(&bytes[at as usize..at as usize + UNIT])
            }
        }
    }
}

/// One change of some units of a page.
#[derive(Clone, Debug)]
pub struct Version {
    /// The operation that made it.
    pub operation: OperationNumber,
    /// When it took effect, counted over the disk.
    pub order: u64,
    /// Which units.
    pub units: u8,
    /// No sync can make it certain any more: one that should have has failed.
    pub doomed: bool,
    /// With what.
    pub content: Content,
}

#[derive(Clone, Debug, Default)]
struct VolatilePage {
    versions: Vec<Version>,
    /// When the durable content of each unit took effect.
    durable_order: [u64; UNITS],
}

/// The versions of all pages that are not covered by a sync.
#[derive(Clone, Debug, Default)]
pub struct Volatile {
    pages: BTreeMap<u64, VolatilePage>,
}

/// What a sync covers: operations submitted before it, except those that had not completed.
#[derive(Clone, Debug)]
pub struct Cover {
    /// The sync's own number.
    pub before: OperationNumber,
    /// Operations in flight when it was submitted.
    pub incomplete: Vec<OperationNumber>,
}

impl Cover {
    /// Whether the sync covers `operation`.
    pub fn contains(&self, operation: OperationNumber) -> bool {
        operation < self.before && !self.incomplete.contains(&operation)
    }
}

impl Volatile {
    /// Notes a change.
    pub fn add(&mut self, page: u64, version: Version) {
        self.pages.entry(page).or_default().versions.push(version);
    }

    /// A sync failed: nothing it would have covered will ever be certain.
    pub fn doom_covered(&mut self, cover: &Cover) {
        for version in self.pages.values_mut().flat_map(|page| &mut page.versions) {
            version.doomed |= cover.contains(version.operation);
        }
    }

    /// A sync succeeded: the newest version that it covers is what each unit now holds for certain.
    pub fn settle(&mut self, cover: &Cover, visible: &Image, durable: &mut Image) {
        durable.grow(visible.pages());
        self.pages.retain(|&number, page| {
            let all =
                page.versions.iter().all(|version| !version.doomed && cover.contains(version.operation));
            if all {
                durable.share_page(number, visible);
            } else {
                page.settle(number, cover, durable);
            }
            !all && !page.versions.is_empty()
        });
    }

    /// Whether anything is noted of a page.
    pub fn has(&self, page: u64) -> bool {
        self.pages.contains_key(&page)
    }

    /// Pages with the versions that may survive, oldest effect first.
    pub fn pages(&self) -> impl Iterator<Item = (u64, &[Version])> {
        self.pages.iter().map(|(&number, page)| (number, page.versions.as_slice()))
    }
}

impl VolatilePage {
    fn settle(&mut self, number: u64, cover: &Cover, durable: &mut Image) {
        let covered = |version: &Version| !version.doomed && cover.contains(version.operation);
        let mut settled = [0; UNITS];
        for version in self.versions.iter().filter(|version| covered(version)) {
            for unit in units_in(version.units) {
                if version.order < self.durable_order[unit] {
                    continue;
                }
                durable.set_unit(number, unit, version.content.unit(number, unit));
                self.durable_order[unit] = version.order;
                settled[unit] = version.order;
            }
        }
        // A doomed version is not written again by anybody, so a certain one behind it puts an end to it.
        for version in &mut self.versions {
            let done = covered(version);
            for (unit, settled) in settled.iter().enumerate() {
                if done || version.doomed && version.order < *settled {
                    version.units &= !(1 << unit);
                }
            }
        }
        self.versions.retain(|version| version.units != 0);
    }
}
