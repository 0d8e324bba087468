//! How a pool and its metadata are off for space, in JSON.
//!
//! Owns the words; what they stand for is the engine's.

use serde::{Deserialize, Serialize};
use vellum_engine::data_path::{
    MetadataState as EngineMetadataState, Shortage as EngineShortage, SpaceState as EngineSpaceState,
};

/// How a pool is off for space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SpaceState {
    /// There is enough.
    #[default]
    Ok,
    /// Less is free than the low-water mark, or the metadata file is nearly full and cannot grow.
    Low,
    /// Writes that need a new block wait or fail.
    OutOfSpace,
    /// The pool takes no writes at all.
    ReadOnly,
}

impl From<EngineSpaceState> for SpaceState {
    fn from(state: EngineSpaceState) -> Self {
        match state {
            EngineSpaceState::Ok => Self::Ok,
            EngineSpaceState::Low => Self::Low,
            EngineSpaceState::OutOfSpace => Self::OutOfSpace,
        }
    }
}

impl SpaceState {
    /// Its word, as in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Low => "low",
            Self::OutOfSpace => "out-of-space",
            Self::ReadOnly => "read-only",
        }
    }
}

/// What writes lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shortage {
    /// Data blocks of the pool, or room on the host for new ones.
    Blocks,
    /// Room on the host for a write into what the pool has.
    Host,
    /// Pages of the metadata file.
    Metadata,
}

impl From<EngineShortage> for Shortage {
    fn from(shortage: EngineShortage) -> Self {
        match shortage {
            EngineShortage::Blocks => Self::Blocks,
            EngineShortage::Host => Self::Host,
            EngineShortage::Metadata => Self::Metadata,
        }
    }
}

/// Whether a metadata file takes what writes need.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MetadataState {
    /// It has room, or grows when it has not.
    #[default]
    Ok,
    /// It cannot grow any more, and few of its pages are free.
    NearFull,
    /// It cannot grow any more: writes to new blocks wait or fail.
    Full,
}

impl From<EngineMetadataState> for MetadataState {
    fn from(state: EngineMetadataState) -> Self {
        match state {
            EngineMetadataState::Ok => Self::Ok,
            EngineMetadataState::NearFull => Self::NearFull,
            EngineMetadataState::Full => Self::Full,
        }
    }
}
