//! `vellum dm activate` and what goes with it: arguments of pools that the kernel has active.
//!
//! Owns the words of these commands. What they do is `commands/dm/live/`'s.

use crate::size::Size;
use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;

/// What to activate, and how.
#[derive(Debug, Default, Args)]
pub struct DmActivate {
    /// Volumes and snapshots; without any name all of them.
    pub names: Vec<String>,

    /// The kernel's metadata, if the pool's directory does not know where it is.
    #[arg(long, value_name = "FILE|DEV")]
    pub metadata: Option<PathBuf>,

    /// What the names of devices start with; without it `vellum-` and the name of the pool's directory.
    #[arg(long, value_name = "NAME")]
    pub prefix: Option<String>,

    /// Nobody may write.
    #[arg(long)]
    pub read_only: bool,

    /// The pool is low on space if less than this is free; without it what is set for the pool.
    #[arg(long, value_name = "SIZE")]
    pub low_water: Option<Size>,

    /// What happens to writes that find no space; without it what is set for the pool.
    #[arg(long, value_name = "POLICY")]
    pub no_space: Option<NoSpacePolicy>,

    /// Do not clear new blocks before a part of them is written. The rest of them shows what DELETED VOLUMES held.
    #[arg(long)]
    pub skip_block_zeroing: bool,
}

/// What happens to writes that find no space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum NoSpacePolicy {
    /// They wait until there is some, or until the kernel's time-out.
    Stall,
    /// They fail at once.
    Error,
}

/// What to look at, and whether to wait before.
#[derive(Debug, Args)]
pub struct DmStatus {
    /// Wait first until the kernel has told of an event with a higher number: low on space, out of it, or changed.
    #[arg(long, value_name = "EVENT")]
    pub after: Option<u64>,

    /// Do not wait any longer.
    #[arg(long, value_name = "SECONDS", requires = "after")]
    pub timeout: Option<u64>,
}

/// What to freeze.
#[derive(Debug, Args)]
pub struct DmSnapshot {
    /// The snapshot to be, of a volume that the kernel has.
    #[arg(value_name = "VOLUME@NAME")]
    pub name: String,

    /// Make it a device too.
    #[arg(long)]
    pub activate: bool,
}

/// What to start a volume from.
#[derive(Debug, Args)]
pub struct DmClone {
    /// A volume or snapshot that the kernel has.
    pub origin: String,

    /// The volume to be.
    #[arg(value_name = "NEWNAME")]
    pub name: String,

    /// Make it a device too.
    #[arg(long)]
    pub activate: bool,
}

/// How large the pool is to be.
#[derive(Debug, Args)]
pub struct DmExtend {
    /// What the pool may use of its data; without it all of a device, or of a file that was made longer.
    #[arg(long, value_name = "SIZE")]
    pub size: Option<Size>,

    /// How long the file with the kernel's metadata is to be; a device is enlarged before.
    #[arg(long, value_name = "SIZE")]
    pub metadata_size: Option<Size>,
}

/// What to do with the metadata snapshot.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum DmMetadataSnapshot {
    /// Keep the metadata as it is now beside that which changes, so that it can be read. There is one at a time; release it soon.
    Reserve,
    /// Let it go.
    Release,
}

/// What to end.
#[derive(Debug, Args)]
pub struct DmDeactivate {
    /// Leave the pool to the kernel: it can be activated again. Without this it is checked, and comes back.
    #[arg(long)]
    pub keep: bool,
}
