//! What has arrived in part from other pools, in JSON.
//!
//! Owns the names and the translation from the engine's.

use serde::{Deserialize, Serialize};
use vellum_engine::format::uuid_text;
use vellum_engine::request::{Partial, StreamBase};
use vellum_engine::transfer::ResumeToken;

/// A snapshot that has arrived in part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArrivalView {
    /// The name it shall get.
    pub name: String,
    /// Its uuid.
    pub uuid: String,
    /// How far it has come: what is before this byte has arrived.
    pub position_bytes: u64,
    /// Its size, or that of its base if that is larger.
    pub size_bytes: u64,
    /// The uuid of the snapshot that it starts from, if there is one and it is known.
    #[serde(default)]
    pub base_uuid: Option<String>,
    /// What `vellum send --resume` takes to go on; absent for a picture.
    #[serde(default)]
    pub token: Option<String>,
    /// Whether it becomes a picture, and nobody sends it.
    #[serde(default)]
    pub picture: bool,
}

impl ArrivalView {
    /// The view of what the engine says.
    pub fn new(partial: &Partial) -> Self {
        let base_uuid = match partial.base {
            StreamBase::Snapshot(uuid) => Some(uuid_text(&uuid)),
            StreamBase::Whole | StreamBase::Since(_) => None,
        };
        Self {
            name: partial.name.clone(),
            uuid: uuid_text(&partial.uuid),
            position_bytes: partial.position_bytes,
            size_bytes: partial.size_bytes,
            base_uuid,
            token: (!partial.is_picture).then(|| ResumeToken::from(partial).to_string()),
            picture: partial.is_picture,
        }
    }
}

/// What has arrived in part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArrivalsView {
    /// They, by number.
    pub arrivals: Vec<ArrivalView>,
}

/// What was dropped of what had arrived in part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AbortedView {
    /// Their uuids.
    pub aborted: Vec<String>,
}
