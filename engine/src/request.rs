//! What can be asked of a pool, and what comes back.
//!
//! Owns the vocabulary between the engine and whoever serves it. Read next: `pool.rs`, `data_path/mod.rs`.

use crate::error::Result;
use crate::settings::Settings;
use crate::units::{DataBlock, Generation, Sequence, VirtualBlock, VolumeId};
use bytes::Bytes;

/// Chosen by whoever asks; comes back with the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// The uuid of a volume or snapshot.
pub type Uuid = [u8; 16];

/// A name and uuid for something to be made. Both come from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewVolume {
    /// UTF-8, 1 to 255 bytes, no `@` in a volume's name and exactly one in a snapshot's, no control characters.
    pub name: String,
    /// Must be random.
    pub uuid: Uuid,
    /// When it is made, in seconds since 1970.
    pub created_unix_s: u64,
}

/// One request. Byte ranges may have any alignment.
#[derive(Clone, Debug)]
pub enum Request {
    /// Read a range. The reply is [`Outcome::Data`].
    Read {
        /// Of which volume or snapshot.
        volume: VolumeId,
        /// Where, in bytes.
        offset_bytes: u64,
        /// How much, in bytes.
        length_bytes: u64,
    },
    /// Write a range. Survives the death of the process once answered, and a power loss once flushed.
    Write {
        /// Into which volume.
        volume: VolumeId,
        /// Where, in bytes.
        offset_bytes: u64,
        /// What.
        bytes: Bytes,
        /// Answer only when it survives a power loss.
        fua: bool,
    },
    /// Write whole sectors as they are, zeros too: nothing of it becomes a hole, whatever the pool does about zeros. For
    /// blocks that somebody will read who knows nothing of holes.
    WriteWhole {
        /// Into which volume.
        volume: VolumeId,
        /// Where, in bytes.
        offset_bytes: u64,
        /// What.
        bytes: Bytes,
    },
    /// Say in which data blocks a snapshot, or what is being received, has its virtual blocks. The reply is
    /// [`Outcome::Mappings`]. `Damaged` if sectors are lost, which are in none.
    Mappings {
        /// Of which snapshot or partial volume.
        volume: VolumeId,
        /// From which block on.
        first: VirtualBlock,
    },
    /// Say what a range consists of, without reading it. The reply is [`Outcome::Extents`].
    Extents {
        /// Of which volume or snapshot.
        volume: VolumeId,
        /// Where, in bytes.
        offset_bytes: u64,
        /// How much, in bytes.
        length_bytes: u64,
    },
    /// Say how a volume or snapshot differs from a base, without reading it. The reply is [`Outcome::Difference`].
    Difference {
        /// What it is compared with.
        base: Base,
        /// Which volume or snapshot.
        volume: VolumeId,
        /// From where on, in bytes.
        offset_bytes: u64,
    },
    /// Say what volumes and snapshots have alone, all together: what deleting the set would free. Nothing is read but
    /// metadata that they alone hold. The reply is [`Outcome::Usage`]; `Busy` if what they share changes all the time.
    Usage {
        /// The set. What is named twice counts once. Snapshots of a volume are in it only if they are named.
        volumes: Vec<VolumeId>,
        /// Count mapped sectors too, for which all their metadata is read.
        sectors: bool,
    },
    /// Say what a stream of a snapshot has to say of it. The reply is [`Outcome::Snapshot`].
    Describe {
        /// Which snapshot.
        snapshot: VolumeId,
        /// What the stream starts from.
        base: Base,
    },
    /// List what is being received. The reply is [`Outcome::Partials`].
    Partials,
    /// Make a partial volume for a snapshot to come, or go on with the one that is there. It has no name, and can be
    /// written by its number. The reply is [`Outcome::Receiving`].
    StartReceive {
        /// What is to come.
        arrival: Box<Arrival>,
    },
    /// Note how far a partial volume has come. Answered when that survives a power loss.
    ReceiveProgress {
        /// Which partial volume.
        volume: VolumeId,
        /// Everything before this byte has been written.
        position_bytes: u64,
    },
    /// Drop a partial volume and what has arrived of it.
    AbortReceive {
        /// Which partial volume; `NotFound` if it is none, or none any more.
        volume: VolumeId,
    },
    /// Make a snapshot of a partial volume, in one step. The reply is [`Outcome::Created`].
    FinishReceive {
        /// Which partial volume.
        volume: VolumeId,
        /// The name of the snapshot.
        name: String,
        /// Its size. Nothing may be mapped behind it.
        size_bytes: u64,
    },
    /// Make a range read as zeros.
    WriteZeroes {
        /// In which volume.
        volume: VolumeId,
        /// Where, in bytes.
        offset_bytes: u64,
        /// How much, in bytes.
        length_bytes: u64,
        /// Write zeros instead of unmapping, so that later writes find their space.
        keep_allocated: bool,
        /// Answer only when it survives a power loss.
        fua: bool,
    },
    /// Give back what lies in a range. Whole sectors inside it read as zeros afterwards, the edges stay.
    Discard {
        /// In which volume.
        volume: VolumeId,
        /// Where, in bytes.
        offset_bytes: u64,
        /// How much, in bytes.
        length_bytes: u64,
        /// Answer only when it survives a power loss.
        fua: bool,
    },
    /// Answer when everything answered before survives a power loss.
    Flush,
    /// Make an empty volume. Size in bytes, a multiple of 4 KiB. The reply is [`Outcome::Created`].
    CreateVolume {
        /// Its name and uuid.
        new: NewVolume,
        /// Its size.
        size_bytes: u64,
        /// What it can always have of the pool, at most its size; 0 for nothing.
        reservation_bytes: u64,
    },
    /// Freeze volumes, all at one moment. Names are `volume@snapshot`. The reply is [`Outcome::Created`], in order.
    Snapshot {
        /// What to freeze, and what to call it.
        cuts: Vec<(VolumeId, NewVolume)>,
    },
    /// Make a writable volume that starts as `snapshot`. The reply is [`Outcome::Created`].
    Clone {
        /// What it starts from.
        snapshot: VolumeId,
        /// Its name and uuid.
        new: NewVolume,
    },
    /// Remove volumes or snapshots. Answered when they are gone for good; their space comes back in the background. A volume
    /// goes only together with all its snapshots: `Busy` if one is not named.
    Delete {
        /// Which.
        volumes: Vec<VolumeId>,
        /// A snapshot that is held goes when its last hold is released. Without it what is held is `Busy`.
        deferred: bool,
    },
    /// Give a volume another size. What lay behind a smaller end is lost, and reads as zeros should the volume grow again.
    /// A failure or crash midway leaves the size as it was, and behind the new end what was there or zeros.
    Resize {
        /// Which volume; the size of a snapshot stays.
        volume: VolumeId,
        /// Its new size, a multiple of 4 KiB.
        size_bytes: u64,
    },
    /// Give a volume another name, and its snapshots with it; or another name to a snapshot of the same volume.
    Rename {
        /// Which.
        volume: VolumeId,
        /// The new name, as in [`NewVolume`].
        name: String,
    },
    /// Make a volume what a snapshot of it is, size included. What was written since is lost; all snapshots stay.
    Rollback {
        /// Which volume.
        volume: VolumeId,
        /// A snapshot with the volume's name in front of its `@`.
        snapshot: VolumeId,
    },
    /// Keep a volume or snapshot from being deleted until the tag is released.
    Hold {
        /// Which.
        volume: VolumeId,
        /// Why, or who; at most 64 bytes.
        tag: String,
    },
    /// Take a hold away. The last one takes along what was to be deleted then.
    Release {
        /// Of which volume or snapshot.
        volume: VolumeId,
        /// The tag it was held with.
        tag: String,
    },
    /// Set limits, reservation, policy or labels of a volume. `NoSpace` if the pool or its host cannot keep the reservation.
    SetProperties {
        /// Of which volume.
        volume: VolumeId,
        /// What changes.
        change: Box<PropertiesChange>,
    },
    /// Join the two layers of every block of a volume that owns both. Needs no free block.
    Collapse {
        /// Of which volume.
        volume: VolumeId,
    },
    /// Let the pool use so many data blocks: as many as it has, or more. Answered when a power loss cannot take that
    /// back. Fails with `NoSpace` if the data file or device cannot be so long.
    Extend {
        /// Data blocks of 64 KiB, log included.
        data_blocks: u64,
    },
    /// Change what the pool does about space. Answered when a power loss cannot take that back.
    Configure {
        /// All settings, as they shall be.
        settings: Box<Settings>,
    },
    /// Give every free block of a part of the pool back to the host, whatever it is believed to hold. The reply is
    /// [`Outcome::Trimmed`]. Fails with `Unsupported` where the host cannot take space back.
    Trim {
        /// From which data block on; the answer says how to go on.
        first_block: u64,
    },
    /// Bring the trees on disk up to date, so that the log is not needed up to here.
    Checkpoint,
    /// Checkpoint and stop: takes no more requests, the log is empty, the owner is "nobody".
    Close,
}

/// What happens to a write that needs a new block when the pool has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum NoSpacePolicy {
    /// What is set for the pool.
    #[default]
    AsPool,
    /// It waits.
    Stall,
    /// It fails.
    Error,
}

/// What is to be set on a volume. What is `None` stays as it is; a limit of 0 is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PropertiesChange {
    /// Space kept for the volume, in bytes, at most its size; 0 for none.
    pub reservation_bytes: Option<u64>,
    /// Reads, writes, zeroings and discards a second, all together.
    pub limit_iops: Option<u64>,
    /// Bytes read and written a second.
    pub limit_bytes_per_s: Option<u64>,
    /// Requests that are carried out at the same time.
    pub limit_in_flight: Option<u32>,
    /// What happens to a write that finds no space.
    pub no_space: Option<NoSpacePolicy>,
    /// Labels by name; `None` takes one away.
    pub labels: Vec<(String, Option<String>)>,
}

/// A successful reply.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It is done.
    Done,
    /// What was read, in order; lengths add up to what was asked for.
    Data(Vec<Segment>),
    /// What the range consists of, from its start on. At least one extent of a range that is not empty; they may end
    /// before the range does, never behind it.
    Extents(Vec<Extent>),
    /// What differs, from the offset that was asked for on.
    Difference(Difference),
    /// Where virtual blocks are, from the block that was asked for on.
    Mappings(Mappings),
    /// What a set of volumes uses.
    Usage(Usage),
    /// What there is to say of a snapshot.
    Snapshot(Box<Arrival>),
    /// What is being received, by number.
    Partials(Vec<Partial>),
    /// A partial volume to write to.
    Receiving(Partial),
    /// The numbers of what was made.
    Created(Vec<VolumeId>),
    /// How many data blocks were freed.
    Freed(u64),
    /// Free blocks were given back to the host.
    Trimmed(Trimmed),
}

/// What a trim of a part of the pool has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trimmed {
    /// Where the next part begins; nothing if that was the last one.
    pub next_block: Option<u64>,
    /// Free space that was punched, in bytes. The host may have held less of it.
    pub punched_bytes: u64,
}

/// A piece of what was read.
#[derive(Clone, Debug)]
pub enum Segment {
    /// Nothing is stored here: so many zero bytes.
    Zeros(u64),
    /// These bytes.
    Bytes(Bytes),
}

/// Neighbouring sectors of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// How long it is.
    pub length_bytes: u64,
    /// Whether anything is stored here; if not, it reads as zeros.
    pub mapped: bool,
    /// Whether a snapshot or clone has it too, so that a write needs new space.
    pub shared: bool,
}

/// What a volume or snapshot is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// Nothing: all that is mapped differs.
    Nothing,
    /// Another volume or snapshot.
    Volume(VolumeId),
    /// What it was itself, or what it was made from, when this checkpoint was under construction. The answer may hold
    /// more than what differs, never less.
    Generation(Generation),
}

/// How a volume differs from a base.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Ranges of whole sectors, in order. May be empty although there are more to come.
    pub ranges: Vec<DifferenceRange>,
    /// From where on to ask for more; nothing if that was all.
    pub next_bytes: Option<u64>,
}

/// Neighbouring sectors that differ in the same way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DifferenceRange {
    /// Where they start.
    pub offset_bytes: u64,
    /// How long they are.
    pub length_bytes: u64,
    /// They read as zeros now. Otherwise other data is stored there.
    pub absent: bool,
}

/// In which data blocks a snapshot has its virtual blocks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mappings {
    /// Runs of mapped blocks, in order. May be empty although there are more to come.
    pub runs: Vec<MappedRun>,
    /// From where on to ask for more; nothing if that was all.
    pub next: Option<VirtualBlock>,
}

/// Neighbouring virtual blocks in neighbouring data blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MappedRun {
    /// The first virtual block.
    pub virtual_block: VirtualBlock,
    /// The data block of its upper layer.
    pub data_block: DataBlock,
    /// How many blocks.
    pub blocks: u64,
    /// Whether all of each stands in its data block: one layer without holes.
    pub is_whole: bool,
}

/// What a set of volumes and snapshots uses. All numbers are of one moment. What is deleted but not yet taken down is
/// outside of the set: what it shares becomes exclusive when it is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Virtual blocks that they map, added up.
    pub mapped_blocks: u64,
    /// Sectors that they map, added up, if they were to be counted.
    pub mapped_sectors: Option<u64>,
    /// Data blocks that nothing outside of the set names: what deleting all of it frees.
    pub exclusive_blocks: u64,
    /// Data blocks that something outside names too. Below pages of metadata that others share as a whole, every mapped
    /// virtual block counts as one; its second layer does not. What several of the set reach by different pages may count
    /// for each of them.
    pub shared_blocks: u64,
    /// Pages of mappings that nothing outside of the set leads to: what deleting all of it frees of the metadata file.
    pub metadata_pages: u64,
    /// The checkpoint that was under construction at that moment.
    pub generation: Generation,
    /// The last record composed until then. What was applied behind it counts too.
    pub sequence: Sequence,
}

/// What a stream starts from, in words that another pool understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub enum StreamBase {
    /// From nothing.
    Whole,
    /// From the snapshot with this uuid.
    Snapshot(Uuid),
    /// From any snapshot of the same volume that was made in this checkpoint of the sender's pool.
    Since(Generation),
}

/// Where a snapshot comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct Source {
    /// The pool that sent it.
    pub pool: Uuid,
    /// The number there of what it is a snapshot of.
    pub volume: VolumeId,
    /// The checkpoint there that was under construction when it was made.
    pub generation: Generation,
}

/// Stands for the checkpoint in the source of a picture. No snapshot is made in this one, so none is taken for it.
pub const PICTURE_GENERATION: Generation = Generation(0);

/// A snapshot on its way from one pool to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Its name, its uuid, which stays the same in every pool, and when it was made.
    pub new: NewVolume,
    /// Its size.
    pub size_bytes: u64,
    /// Where it comes from.
    pub source: Source,
    /// What the stream starts from.
    pub base: StreamBase,
    /// The stream brings what differs from this byte on; what is before it has arrived already.
    pub position_bytes: u64,
    /// What was set on it, encoded as in its record.
    pub properties: Bytes,
}

/// A snapshot that has arrived in part. It has no name yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partial {
    /// The number of the volume that it is written to.
    pub volume: VolumeId,
    /// The name it shall get.
    pub name: String,
    /// The uuid it shall get.
    pub uuid: Uuid,
    /// What its stream starts from.
    pub base: StreamBase,
    /// What is before this byte has arrived and survives a power loss.
    pub position_bytes: u64,
    /// How large the volume is that it is written to.
    pub size_bytes: u64,
    /// Whether it was there before this request.
    pub is_resumed: bool,
    /// Whether it becomes a picture of a snapshot of this pool, and comes from nowhere: see [`crate::picture`].
    pub is_picture: bool,
}

/// What a request came to.
pub type Reply = Result<Outcome>;
