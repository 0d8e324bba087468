//! What can be asked of a pool, and what comes back.
//!
//! Owns the vocabulary between the engine and whoever serves it. Read next: `pool.rs`, `data_path/mod.rs`.

use crate::error::Result;
use crate::units::VolumeId;
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
    /// Say what a range consists of, without reading it. The reply is [`Outcome::Extents`].
    Extents {
        /// Of which volume or snapshot.
        volume: VolumeId,
        /// Where, in bytes.
        offset_bytes: u64,
        /// How much, in bytes.
        length_bytes: u64,
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
    /// Bring the trees on disk up to date, so that the log is not needed up to here.
    Checkpoint,
    /// Checkpoint and stop: takes no more requests, the log is empty, the owner is "nobody".
    Close,
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
    /// The numbers of what was made.
    Created(Vec<VolumeId>),
    /// How many data blocks were freed.
    Freed(u64),
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

/// What a request came to.
pub type Reply = Result<Outcome>;
