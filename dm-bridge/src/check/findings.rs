//! What a check finds: the defect, its place, and what it costs.
//!
//! Owns the words. One defect is one finding, however many devices it hurts.

use crate::error::Place;
use std::fmt;

/// Findings that are kept; further ones are only counted.
pub(super) const FINDINGS_MAX: usize = 10_000;
/// Ranges that a finding names; further ones are only counted.
pub(super) const RANGES_MAX: usize = 1_000;

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Defect {
    /// The superblock cannot be believed, or is of a version or feature that the kernel does not know.
    Superblock,
    /// The size of data blocks is none that the kernel takes.
    DataBlockSize,
    /// The metadata space map counts more blocks than the device has, or than dm-thin can use.
    MetadataSize,
    /// The metadata snapshot cannot be read.
    MetadataSnapshot,
    /// A node cannot be read, or stands where it should not.
    Node,
    /// A node below another has less than a third of its entries.
    NodeFill,
    /// The leaves of a tree are not equally deep.
    Depth,
    /// A device has a number beyond 24 bits.
    DeviceId,
    /// A device has mappings and no details, or details and no mappings.
    DeviceTrees,
    /// The details name another number of mapped blocks than there are.
    MappedBlocks,
    /// A device or a mapping has a time that the pool has not reached.
    Time,
    /// A shared block has a time by which the kernel takes it for exclusive.
    SharedTime,
    /// A mapping to a data block beyond the data device.
    DataBlock,
    /// A bitmap or an index of a space map cannot be read.
    SpaceMap,
    /// A count is below the number of owners.
    CountTooLow,
    /// A count is above the number of owners.
    CountTooHigh,
    /// A block without owners has a count.
    Leak,
    /// The tree of large counts has one that does not belong there, or lacks one.
    RefCountTree,
    /// The sum of allocated blocks is wrong.
    NrAllocated,
    /// An index entry's sum of free blocks is wrong.
    NrFree,
    /// A block that an index entry excludes is free.
    NoneFreeBefore,
    /// A bitmap counts behind the end of the device, or an index entry is used that should not be.
    BeyondEnd,
}

/// Virtual blocks of a thin device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceRange {
    /// Number of the device.
    pub device: u64,
    /// First virtual block.
    pub first: u64,
    /// Last virtual block; the largest number where the end of the device is meant.
    pub last: u64,
}

/// What a defect costs whom.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cost {
    /// Nothing yet. The kernel copes, or its other tools complain.
    Nothing,
    /// So many blocks that are not used are not free either.
    Space(u64),
    /// The kernel believes in other free space than there is.
    FreeSpace,
    /// A write may change what other devices or virtual blocks hold. The ranges are those known to be in danger.
    Overwritten(Vec<DeviceRange>),
    /// These mappings cannot be read.
    Lost(Vec<DeviceRange>),
    /// Devices of these numbers cannot be read.
    Devices(u64, u64),
    /// The kernel does not activate the pool, or stops at its first use.
    Pool,
    /// Only the metadata snapshot is hurt.
    Snapshot,
}

/// A defect of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What is wrong.
    pub defect: Defect,
    /// Where.
    pub place: Place,
    /// What it costs.
    pub cost: Cost,
    /// The defect with its numbers.
    pub text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:?}", self.defect)?;
        if self.place != Place::default() {
            write!(out, " ({})", self.place)?;
        }
        write!(out, ": {}{}", self.text, self.cost)
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cost::Nothing => Ok(()),
            Cost::Space(blocks) => write!(out, "; {blocks} blocks are not free"),
            Cost::FreeSpace => write!(out, "; the kernel's free space is wrong"),
            Cost::Overwritten(ranges) if ranges.is_empty() => {
                write!(out, "; writes may change what others hold")
            }
            Cost::Overwritten(ranges) => list(out, "; writes may change", ranges),
            Cost::Lost(ranges) => list(out, "; lost:", ranges),
            Cost::Devices(first, last) => write!(out, "; lost: devices {first} to {last}"),
            Cost::Pool => write!(out, "; the kernel does not take the pool"),
            Cost::Snapshot => write!(out, "; in the metadata snapshot"),
        }
    }
}

fn list(out: &mut fmt::Formatter<'_>, what: &str, ranges: &[DeviceRange]) -> fmt::Result {
    write!(out, "{what}")?;
    for (at, DeviceRange { device, first, last }) in ranges.iter().take(8).enumerate() {
        let separator = if at == 0 { "" } else { "," };
        match *last {
            u64::MAX => write!(out, "{separator} device {device} from block {first} on")?,
            last => write!(out, "{separator} device {device} blocks {first} to {last}")?,
        }
    }
    match ranges.len() {
        count if count > 8 => write!(out, " and {} more ranges", count - 8),
        _ => Ok(()),
    }
}

/// Everything that a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What is wrong; the first ten thousand.
    pub findings: Vec<Finding>,
    /// Findings beyond those.
    pub not_kept: u64,
    /// Whether the kernel itself asked for a check.
    pub needs_check: bool,
    /// Whether it is a picture: the data belongs to somebody else, and nobody may write by this metadata.
    pub is_picture: bool,
    /// Whether damage kept owners from being counted in full. Then counts that seem too high are not told.
    pub counts_incomplete: bool,
    /// Thin devices.
    pub devices: u64,
    /// Mappings, those of a node that devices share counted for each.
    pub mappings: u64,
    /// Data blocks with an owner.
    pub data_blocks_used: u64,
    /// Metadata blocks with an owner.
    pub metadata_blocks_used: u64,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }

    /// Keeps a finding, and returns where, so that more ranges can be added.
    pub(super) fn add(&mut self, defect: Defect, place: Place, cost: Cost, text: impl Into<String>) -> usize {
        if self.findings.len() == FINDINGS_MAX {
            self.not_kept += 1;
            return usize::MAX;
        }
        self.findings.push(Finding { defect, place, cost, text: text.into() });
        self.findings.len() - 1
    }

    /// Adds virtual blocks to what a finding costs.
    pub(super) fn hurts(&mut self, finding: usize, range: DeviceRange) {
        let Some(finding) = self.findings.get_mut(finding) else { return };
        let (Cost::Lost(ranges) | Cost::Overwritten(ranges)) = &mut finding.cost else { return };
        let room = ranges.len() < RANGES_MAX;
        match ranges.last_mut() {
            Some(last) if last.device == range.device && last.last.checked_add(1) == Some(range.first) => {
                last.last = range.last;
            }
            _ if room => ranges.push(range),
            _ => {}
        }
    }
}
