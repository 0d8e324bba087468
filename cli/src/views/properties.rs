//! What is set on a volume, and what is to be set, in JSON.
//!
//! Owns the names and the translation from and to the engine's.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use vellum_engine::format::Properties;
use vellum_engine::request::{NoSpacePolicy, PropertiesChange};

/// What is set on a volume. A limit that is `null` is none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PropertiesView {
    /// Space of the pool that is kept for it; 0 for none.
    pub reservation_bytes: u64,
    /// Reads, writes, zeroings and discards a second.
    pub limit_iops: Option<u64>,
    /// Bytes read and written a second.
    pub limit_bytes_per_s: Option<u64>,
    /// Requests that are carried out at the same time.
    pub limit_in_flight: Option<u32>,
    /// What happens to a write that finds no space.
    pub no_space: NoSpaceView,
    /// Whatever the user wants to remember.
    pub labels: BTreeMap<String, String>,
}

impl From<&Properties> for PropertiesView {
    fn from(properties: &Properties) -> Self {
        Self {
            reservation_bytes: properties.reservation_bytes,
            limit_iops: Some(properties.limit_iops).filter(|limit| *limit > 0),
            limit_bytes_per_s: Some(properties.limit_bytes_per_s).filter(|limit| *limit > 0),
            limit_in_flight: Some(properties.limit_in_flight).filter(|limit| *limit > 0),
            no_space: match properties.no_space() {
                NoSpacePolicy::AsPool => NoSpaceView::Pool,
                NoSpacePolicy::Stall => NoSpaceView::Stall,
                NoSpacePolicy::Error => NoSpaceView::Error,
            },
            labels: properties.labels.iter().cloned().collect(),
        }
    }
}

/// What happens to a write that finds no space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NoSpaceView {
    /// What is set for the pool.
    #[default]
    Pool,
    /// It waits.
    Stall,
    /// It fails.
    Error,
}

/// What is to be set on a volume. What is absent stays as it is; 0 is no limit and no reservation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SettingsView {
    /// Space of the pool that is kept for it, at most its size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reservation_bytes: Option<u64>,
    /// Reads, writes, zeroings and discards a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_iops: Option<u64>,
    /// Bytes read and written a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_bytes_per_s: Option<u64>,
    /// Requests that are carried out at the same time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_in_flight: Option<u32>,
    /// What happens to a write that finds no space.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_space: Option<NoSpaceView>,
    /// Labels by name; `null` takes one away.
    pub labels: BTreeMap<String, Option<String>>,
}

impl SettingsView {
    /// As the engine takes it.
    pub fn change(&self) -> PropertiesChange {
        PropertiesChange {
            reservation_bytes: self.reservation_bytes,
            limit_iops: self.limit_iops,
            limit_bytes_per_s: self.limit_bytes_per_s,
            limit_in_flight: self.limit_in_flight,
            no_space: self.no_space.map(|policy| match policy {
                NoSpaceView::Pool => NoSpacePolicy::AsPool,
                NoSpaceView::Stall => NoSpacePolicy::Stall,
                NoSpaceView::Error => NoSpacePolicy::Error,
            }),
            labels: self.labels.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
        }
    }
}
