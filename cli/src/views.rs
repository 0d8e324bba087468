//! What this program tells in JSON, by `--json` and over HTTP alike: both ends use these types.
//!
//! Owns the public names. A field may be added; none changes its meaning or goes away. Sizes are in bytes, times in
//! seconds since 1970 UTC; both are integers that may need 64 bits.

mod arrivals;
mod dm;
mod dm_live;
mod picture;
mod properties;
mod space;
mod usage;

pub use arrivals::{AbortedView, ArrivalView, ArrivalsView};
pub use dm::{
    DmCheckView, DmCorrectedView, DmDumpView, DmExportView, DmFindingView, DmFoundView, DmImportView,
    DmImportedView, DmLostView, DmRestoreView, DmRevokeView, DmThinView,
};
pub use dm_live::{DmDeactivateView, DmDeviceView, DmMadeView, DmPoolView, DmStatusView};
pub use picture::{
    AskMappingsView, DmPictureView, DmPinnedView, FillView, FilledView, FinishPictureView, MappedRunView,
    MappingsView, NewPictureView,
};
pub use properties::{NoSpaceView, PropertiesView, SettingsView};
pub use space::{MetadataState, Shortage, SpaceState};
pub use usage::{AskUsageView, UsageView, VolumeUsageView};

use crate::exit::Kind;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use vellum_engine::data_path::{PoolStatus, VolumeInfo};
use vellum_engine::format::{VolumeKind as EngineKind, uuid_text};
use vellum_engine::request::{Difference, DifferenceRange, Trimmed, Uuid};
use vellum_engine::units::{BLOCK_BYTES, PAGE_BYTES};

/// The state of a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolView {
    /// The pool's uuid.
    pub uuid: String,
    /// Whether a server has the pool and has answered.
    pub served: bool,
    /// What the pool may use of its data file or device, log included.
    pub size_bytes: u64,
    /// What something maps, log included.
    pub used_bytes: u64,
    /// What nothing maps; `fresh_bytes`, `recycled_bytes`, `hole_bytes`, `waiting_bytes` and
    /// `punching_bytes` add up to it.
    pub free_bytes: u64,
    /// Free, allocated on the host, never written since.
    pub fresh_bytes: u64,
    /// Free, written before, kept for the next writes.
    pub recycled_bytes: u64,
    /// Free and not allocated on the host as far as is known.
    pub hole_bytes: u64,
    /// Free, and kept for volumes with reservations: what they may still get of what was promised to them.
    #[serde(default)]
    pub reserved_bytes: u64,
    /// Freed, but not to be used again before that is proven durable.
    pub waiting_bytes: u64,
    /// Free and about to go back to the host.
    pub punching_bytes: u64,
    /// What the log takes of `used_bytes`.
    pub log_bytes: u64,
    /// How much of the log is in use.
    pub log_used_bytes: u64,
    /// Size of the metadata file.
    pub metadata_bytes: u64,
    /// How much of it is free.
    pub metadata_free_bytes: u64,
    /// Whether the metadata file takes what writes need.
    pub metadata_state: MetadataState,
    /// How the pool is off for space; `read-only` if it takes no writes.
    pub space_state: SpaceState,
    /// Writes that wait for room.
    pub waiting_writes: u64,
    /// How long the oldest of them has waited.
    pub oldest_wait_s: u64,
    /// What is missing, if it is known that it does not come by itself.
    pub shortage: Option<Shortage>,
    /// An overwrite of data that was there needed room on the host: its file system does not write in place.
    pub overwrites_need_room: bool,
    /// The pool is low while less than this is free.
    pub low_water_bytes: u64,
    /// The number of the last event of the pool's space; 0 for none since it was opened.
    pub space_event: u64,
    /// Freed since the pool was opened by joining blocks of two layers.
    pub collapsed_bytes: u64,
    /// Volumes that are still to be looked through for such blocks.
    pub collapse_walks: u64,
    /// Written data that an opening after a crash would have to check.
    pub unproven_bytes: u64,
    /// What the data file takes on its file system; absent if that cannot be told.
    pub host_data_bytes: Option<u64>,
    /// What the metadata file takes on its file system; absent if that cannot be told.
    pub host_metadata_bytes: Option<u64>,
    /// Sum of the sizes of all volumes; may exceed `size_bytes`.
    pub volumes_bytes: u64,
    /// How many volumes there are, clones included.
    pub volumes: u64,
    /// How many snapshots there are.
    pub snapshots: u64,
    /// Deleted volumes and snapshots whose space is still coming back.
    pub deleting: u64,
    /// What all volumes and snapshots map, added up: what is shared counts for each that has it.
    #[serde(default)]
    pub mapped_bytes: u64,
    /// What volumes and snapshots map, what is shared once: `used_bytes` without the blocks of the log.
    #[serde(default)]
    pub data_bytes: u64,
    /// Blocks that got their first owner, in bytes a second: over the last minute, or since the pool was opened.
    #[serde(default)]
    pub given_bytes_per_s: u64,
    /// Blocks that lost their last owner, likewise.
    #[serde(default)]
    pub freed_bytes_per_s: u64,
    /// Seconds until nothing is free at the difference of both; absent if the pool does not fill.
    #[serde(default)]
    pub full_in_s: Option<u64>,
    /// Why the pool takes no writes; absent if it takes them.
    pub failure: Option<String>,
    /// What the pool does about space, by key; sizes in bytes, times in seconds.
    pub settings: BTreeMap<String, String>,
}

impl PoolView {
    /// The view of a pool. Who serves it and what the host holds is left to the caller.
    pub fn new(uuid: &Uuid, status: &PoolStatus, volumes: &[VolumeInfo]) -> Self {
        let (pages, used_pages) = status.log_pages;
        let page_bytes = PAGE_BYTES as u64;
        let is_volume = |info: &&VolumeInfo| info.kind == EngineKind::Volume;
        let count = volumes.iter().filter(is_volume).count() as u64;
        Self {
            uuid: uuid_text(uuid),
            size_bytes: status.data_blocks * BLOCK_BYTES,
            used_bytes: status.used_blocks * BLOCK_BYTES,
            free_bytes: (status.data_blocks - status.used_blocks) * BLOCK_BYTES,
            fresh_bytes: (status.space.fresh + status.space.write_ahead) * BLOCK_BYTES,
            recycled_bytes: status.space.recycled * BLOCK_BYTES,
            hole_bytes: status.space.holes * BLOCK_BYTES,
            reserved_bytes: status.reserved_blocks * BLOCK_BYTES,
            waiting_bytes: status.space.waiting * BLOCK_BYTES,
            punching_bytes: (status.space.queued + status.space.punching) * BLOCK_BYTES,
            log_bytes: pages * page_bytes,
            log_used_bytes: used_pages * page_bytes,
            metadata_bytes: status.metadata_pages * page_bytes,
            metadata_free_bytes: status.metadata_free_pages * page_bytes,
            metadata_state: status.metadata_state.into(),
            space_state: match status.failure {
                Some(_) => SpaceState::ReadOnly,
                None => status.space_state.into(),
            },
            waiting_writes: status.stall.writes,
            oldest_wait_s: status.stall.oldest_ms / 1000,
            shortage: status.stall.shortage.map(Shortage::from),
            overwrites_need_room: status.stall.overwrites_need_room,
            space_event: status.space_event,
            collapsed_bytes: status.collapse.freed_blocks * BLOCK_BYTES,
            collapse_walks: status.collapse.walks,
            unproven_bytes: status.unproven_bytes,
            volumes_bytes: volumes
                .iter()
                .filter(is_volume)
                .fold(0, |sum, info| sum.saturating_add(info.size_bytes)),
            volumes: count,
            snapshots: volumes.len() as u64 - count,
            deleting: status.deleting,
            mapped_bytes: volumes
                .iter()
                .fold(0, |sum, info| sum.saturating_add(info.mapped_blocks * BLOCK_BYTES)),
            data_bytes: status.used_blocks.saturating_sub((pages * page_bytes).div_ceil(BLOCK_BYTES))
                * BLOCK_BYTES,
            given_bytes_per_s: status.rates.given_bytes_per_s,
            freed_bytes_per_s: status.rates.freed_bytes_per_s,
            full_in_s: status.rates.full_in_s,
            failure: status.failure.as_ref().map(ToString::to_string),
            ..Self::default()
        }
    }
}

/// A part of a pool of which everything free shall go back to the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrimView {
    /// From where on in the data file; the answer says how to go on.
    #[serde(default)]
    pub offset_bytes: u64,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrimmedView {
    /// Where the next part begins; absent if that was the last one.
    pub next_bytes: Option<u64>,
    /// Free space of this part that was punched. The host may have held less of it.
    pub punched_bytes: u64,
}

impl TrimmedView {
    /// The view of an answer of the engine.
    pub fn new(trimmed: &Trimmed) -> Self {
        let next_bytes = trimmed.next_block.map(|block| block * BLOCK_BYTES);
        Self { next_bytes, punched_bytes: trimmed.punched_bytes }
    }
}

/// What a trim of a whole pool came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrimReportView {
    /// Free space that was punched.
    pub punched_bytes: u64,
    /// How much less the data file takes on its file system than before; absent if that cannot be told.
    pub returned_bytes: Option<u64>,
    /// What it takes now; absent if that cannot be told.
    pub host_data_bytes: Option<u64>,
}

/// Whether something can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VolumeKind {
    /// It can.
    Volume,
    /// It cannot; its name is `volume@snapshot`.
    Snapshot,
}

/// A volume or snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeView {
    /// Its number in the pool, never used again.
    pub number: u64,
    /// Its uuid.
    pub uuid: String,
    /// Its name; `volume@snapshot` for a snapshot.
    pub name: String,
    /// Whether it can be written.
    pub kind: VolumeKind,
    /// What it was made from: the volume of a snapshot, the snapshot of a clone. Absent for a new volume, and if that
    /// is gone.
    pub origin: Option<String>,
    /// Its size.
    pub size_bytes: u64,
    /// How much of it is mapped, in blocks of 64 KiB; shared or not.
    pub mapped_bytes: u64,
    /// When it was made.
    pub created_unix_s: u64,
    /// The checkpoint of the pool that was under construction when it was made; for `--since`.
    pub generation: u64,
    /// Tags that keep it from being deleted.
    pub holds: Vec<String>,
    /// Whether it goes when the last of them is released.
    pub deletion_deferred: bool,
    /// What it has alone and shares; absent if that was not asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<VolumeUsageView>,
    /// What is set on a volume; of a snapshot what clones of it begin with.
    #[serde(default)]
    pub properties: PropertiesView,
}

impl VolumeView {
    /// The views of all volumes of a pool, in the same order.
    pub fn all(volumes: &[VolumeInfo]) -> Vec<Self> {
        volumes.iter().map(|info| Self::new(info, volumes)).collect()
    }

    fn new(info: &VolumeInfo, all: &[VolumeInfo]) -> Self {
        let is_origin = |other: &&VolumeInfo| Some(other.id) == info.origin;
        Self {
            number: info.id.0,
            uuid: uuid_text(&info.uuid),
            name: info.name.clone(),
            kind: match info.kind {
                EngineKind::Snapshot => VolumeKind::Snapshot,
                _ => VolumeKind::Volume,
            },
            origin: all.iter().find(is_origin).map(|other| other.name.clone()),
            size_bytes: info.size_bytes,
            mapped_bytes: info.mapped_blocks * BLOCK_BYTES,
            created_unix_s: info.created_unix_s,
            generation: info.generation.0,
            holds: info.holds.clone(),
            deletion_deferred: info.deletion_deferred,
            properties: (&info.properties).into(),
            usage: None,
        }
    }
}

/// A list of volumes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumesView {
    /// They, by number.
    pub volumes: Vec<VolumeView>,
}

/// A list of snapshots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotsView {
    /// They, by number.
    pub snapshots: Vec<VolumeView>,
}

/// What was deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeletedView {
    /// The names, as they were given; snapshots that went with a volume behind it.
    pub deleted: Vec<String>,
    /// Names of snapshots that are held, and go with their last hold.
    pub deferred: Vec<String>,
}

/// What a change left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedView {
    /// The volume or snapshot as it is now; absent if it went with its last hold.
    pub volume: Option<VolumeView>,
}

/// Asks for a larger pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExtensionView {
    /// What it may hold from now on, a multiple of 65536.
    pub size_bytes: u64,
}

/// Asks for other settings of the pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigurationView {
    /// What is to be changed, by key; sizes in bytes, times in seconds.
    pub settings: BTreeMap<String, String>,
}

/// Asks for a new volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewVolumeView {
    /// Its name.
    pub name: String,
    /// Its size, a multiple of 4096.
    pub size_bytes: u64,
    /// Space of the pool that is kept for it, at most its size.
    #[serde(default)]
    pub reservation_bytes: u64,
}

/// Asks for snapshots, all of one moment. A volume's part may be a pattern.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamesView {
    /// The names.
    pub names: Vec<String>,
}

/// Asks for a deletion, all or nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeletionView {
    /// The names.
    pub names: Vec<String>,
    /// The snapshots of a volume go with it; without this a volume that has some is kept.
    #[serde(default)]
    pub snapshots: bool,
    /// A snapshot that is held goes with its last hold; without this it is kept.
    #[serde(default)]
    pub deferred: bool,
    /// Clients that are connected are disconnected; without this what they use is kept.
    #[serde(default)]
    pub force: bool,
}

/// Asks for one change of a volume or snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum ChangeView {
    /// Give a volume another size.
    Resize {
        /// The size, a multiple of 4096.
        size_bytes: u64,
        /// It may be smaller: what lies behind the new end is lost.
        #[serde(default)]
        shrink: bool,
        /// Clients in the way of a smaller size are disconnected.
        #[serde(default)]
        force: bool,
    },
    /// Give another name. The snapshots of a volume go along.
    Rename {
        /// The name.
        name: String,
        /// Clients in the way are disconnected.
        #[serde(default)]
        force: bool,
    },
    /// Make the volume of a snapshot what the snapshot is: what was written since is lost.
    Rollback {
        /// Clients of the volume are disconnected.
        #[serde(default)]
        force: bool,
    },
    /// Set limits, reservation, policy or labels of a volume.
    Set(SettingsView),
    /// Join the two layers of blocks that a volume has alone: each frees a block of the pool.
    Collapse {},
    /// Keep it from being deleted.
    Hold {
        /// Who, or why.
        tag: String,
    },
    /// Take a hold away. The last one takes along what was to be deleted then.
    Release {
        /// The tag of the hold.
        tag: String,
        /// Clients of what goes with its last hold are disconnected.
        #[serde(default)]
        force: bool,
    },
}

/// Asks for a clone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewCloneView {
    /// What it starts as.
    pub snapshot: String,
    /// The name of the new volume.
    pub name: String,
}

/// Asks what differs. The base is `from` or `since`, not both; without one all that is mapped differs from nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AskDifferenceView {
    /// The volume or snapshot.
    pub name: String,
    /// What it is compared with.
    #[serde(default)]
    pub from: Option<String>,
    /// The generation that it is compared with.
    #[serde(default)]
    pub since: Option<u64>,
    /// From where on.
    #[serde(default)]
    pub offset_bytes: u64,
}

/// What differs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DifferenceView {
    /// Ranges of whole sectors of 4096 bytes, in order.
    pub ranges: Vec<RangeView>,
    /// From where on to ask for more; absent if that was all.
    pub next_bytes: Option<u64>,
}

/// Neighbouring sectors that differ in the same way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangeView {
    /// Where they start.
    pub offset_bytes: u64,
    /// How long they are.
    pub length_bytes: u64,
    /// Whether they read as zeros now; otherwise they hold other data.
    pub absent: bool,
}

impl DifferenceView {
    /// The view of an answer of the engine.
    pub fn new(difference: &Difference) -> Self {
        let range = |range: &DifferenceRange| RangeView {
            offset_bytes: range.offset_bytes,
            length_bytes: range.length_bytes,
            absent: range.absent,
        };
        Self { ranges: difference.ranges.iter().map(range).collect(), next_bytes: difference.next_bytes }
    }

    /// Adds ranges that follow.
    pub fn append(&mut self, ranges: Vec<RangeView>) {
        for range in ranges {
            let joins = |last: &&mut RangeView| {
                (last.offset_bytes + last.length_bytes, last.absent) == (range.offset_bytes, range.absent)
            };
            match self.ranges.last_mut().filter(joins) {
                Some(last) => last.length_bytes += range.length_bytes,
                None => self.ranges.push(range),
            }
        }
    }
}

/// Asks for a stream. The base is `from` or `since`, not both; without one all of the snapshot is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SendView {
    /// The snapshot.
    pub snapshot: String,
    /// The snapshot that the other pool has.
    #[serde(default)]
    pub from: Option<String>,
    /// The generation of a snapshot of the same volume that the other pool has.
    #[serde(default)]
    pub since: Option<u64>,
    /// The token of a transfer that broke off.
    #[serde(default)]
    pub resume: Option<String>,
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorView {
    /// Its name in the table of exit codes.
    pub kind: Kind,
    /// Its number in that table.
    pub exit_code: u8,
    /// What went wrong, for people.
    pub message: String,
    /// What to do about it, for people.
    pub hint: String,
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckView {
    /// Whether nothing is wrong.
    pub clean: bool,
    /// What is wrong.
    pub findings: Vec<FindingView>,
    /// How much more is wrong that is not listed.
    pub unlisted_findings: u64,
    /// What is not wrong and yet worth knowing.
    pub information: Vec<String>,
    /// Pages of metadata that were read.
    pub pages: u64,
    /// Mapped blocks of 64 KiB, those in a page that several volumes share counted once.
    pub mappings: u64,
    /// Volumes and snapshots, those being deleted and the hidden one of the log included.
    pub volumes: u64,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FindingView {
    /// Its name in the table of exit codes.
    pub kind: Kind,
    /// Where; absent if it has no one place.
    pub place: Option<String>,
    /// What.
    pub message: String,
    /// What cannot be read for it.
    pub affected: Vec<AffectedView>,
}

/// A range of a volume that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AffectedView {
    /// The volume or snapshot.
    pub name: String,
    /// Where the range starts.
    pub offset_bytes: u64,
    /// How long it is.
    pub length_bytes: u64,
}

/// What making a pool smaller came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShrinkView {
    /// What the pool may use of its data file or device now, log included.
    pub size_bytes: u64,
    /// What it could use before.
    pub size_before_bytes: u64,
    /// What something maps, log included.
    pub used_bytes: u64,
    /// What was moved from behind the new end.
    pub moved_bytes: u64,
    /// What the host got back of the data file; absent if that cannot be told.
    pub returned_bytes: Option<u64>,
    /// Whether the data file ends where the pool does. A device stays as long as it is.
    pub truncated: bool,
}

/// What a repair found, saved and lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairView {
    /// What could not be used.
    pub problems: Vec<FindingView>,
    /// Pages that nothing led to any more, put back by their counts.
    pub reattached_pages: u64,
    /// Whether records of volumes could not be read: volumes may be missing.
    pub records_lost: bool,
    /// Volumes that came back under new names, because their records are lost.
    pub recovered_volumes: Vec<String>,
    /// Changes in the log that could not be made, because the record of their volume is lost.
    pub skipped_changes: u64,
    /// Log records that the new metadata holds and the old did not.
    pub log_records: u64,
    /// Volumes and snapshots in the new metadata, those being deleted included.
    pub volumes: u64,
    /// What reads as an error from then on; also what an earlier repair had lost.
    pub losses: Vec<AffectedView>,
    /// How much that is, all together.
    pub lost_bytes: u64,
    /// What the new metadata takes.
    pub metadata_bytes: u64,
    /// Where the new metadata is; absent if it was not written.
    pub output: Option<String>,
    /// Whether it is the pool's now.
    pub committed: bool,
    /// Where the old metadata is kept; absent if it is the pool's still.
    pub kept: Option<String>,
}

/// Structures on disk, as they were recognised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InspectView {
    /// They, in the order in which they were asked for or found.
    pub structures: Vec<StructureView>,
}

/// One structure on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StructureView {
    /// The file that it is in: `data` or `metadata`.
    pub file: String,
    /// Where in it; absent where it has no one place.
    pub offset_bytes: Option<u64>,
    /// Whether it is as it was written: `right`, `wrong`, `needs-secret` or `none`. Absent if it could not be read.
    pub checksum: Option<String>,
    /// What could not be decoded.
    pub problems: Vec<String>,
    /// All its fields, for people.
    pub text: String,
}

/// Where a server can be reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServeView {
    /// What clients can ask for, once for each socket.
    pub exports: Vec<ExportView>,
}

/// One export on one socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportView {
    /// The volume or snapshot.
    pub name: String,
    /// Whether clients that name no export get this one.
    pub default: bool,
    /// Whether it can only be read.
    pub read_only: bool,
    /// Its size.
    pub size_bytes: u64,
    /// What clients connect to.
    pub uri: String,
    /// Commands of common clients for it, for a shell.
    pub commands: Vec<String>,
}
