//! `vellum dm`: arguments of everything about the kernel's dm-thin.
//!
//! Owns the words of its commands. What they do is `commands/dm/`'s.

use super::dm_live::{DmActivate, DmClone, DmDeactivate, DmExtend, DmMetadataSnapshot, DmSnapshot, DmStatus};
use crate::size::Size;
use clap::{Args, Subcommand};
use std::fmt::Display;
use std::path::PathBuf;
use std::str::FromStr;

/// What to do with the kernel's dm-thin.
#[derive(Debug, Subcommand)]
pub enum DmCommand {
    /// Check metadata of dm-thin strictly, and tell what is wrong, where, and what it costs. Writes nothing.
    ///
    /// Ends with the exit code `damaged` if it finds something. The kernel may not have the pool active.
    Check {
        /// The metadata.
        #[arg(value_name = "FILE|DEV")]
        metadata: PathBuf,
    },
    /// Give the pool to the kernel's dm-thin: write metadata of dm-thin for the same data file. The pool may not be served.
    ///
    /// Volumes and snapshots become thin devices with the numbers that they have here. What dm-thin has no word for is filled in
    /// the data file first. At the end the kernel has the pool, and nobody else may write to it. Interrupted, the pool is what it
    /// was, or the same command goes on where it stopped; `vellum pool status` says which.
    ///
    /// With --snapshot the pool stays what it is, served or not, and the metadata is a read-only picture of snapshots in its data
    /// file. Linux takes it only from a read-only device. What is not in whole blocks is written again, and what the picture
    /// shows is pinned by snapshots of its own, until `vellum dm release` deletes them.
    Export(DmExport),
    /// Let go of what a picture pinned: its metadata is of no use any more.
    Release {
        /// Snapshots that `vellum dm export --snapshot` made.
        #[arg(value_name = "VOLUME@NAME", required = true)]
        names: Vec<String>,

        /// Disconnect clients that read them.
        #[arg(long)]
        force: bool,
    },
    /// Make a pool of a thin pool of the kernel or of LVM, or take back the pool that was given away.
    ///
    /// With blocks of 64 KiB the data stays where it is, and the kernel's metadata cannot be used any more. Other pools, and with --copy or
    /// --metadata-snapshot all, are copied into a new one. The metadata does not know how large devices are: name it by --size.
    Import(DmImport),
    /// Take the pool back as it was when it was given to the kernel, without what the kernel has done since.
    ///
    /// For an export that was interrupted, so that the kernel never had the pool; and, with --force, if the kernel's metadata is lost. What
    /// the kernel has written since is LOST then, or stands MIXED into what was there before.
    Revoke(DmRevoke),
    /// Write metadata of dm-thin as XML, which thin_restore takes too.
    Dump(DmDump),
    /// Make metadata of dm-thin out of XML, as thin_dump writes it too.
    Restore(DmRestore),
    /// Make volumes and snapshots of a pool that was given to the kernel block devices, after a strict check.
    ///
    /// Files get loop devices, the pool one device, and each volume and snapshot one: below /dev/mapper, snapshots read-only. If a
    /// step fails, what was made before is taken down again. Of a pool that is active further volumes can be activated.
    Activate(DmActivate),
    /// Tell whether the kernel has the pool active, how it is off for space, and its devices.
    Status(DmStatus),
    /// Freeze a volume that the kernel has. The snapshot comes back with the pool.
    Snapshot(DmSnapshot),
    /// Make a volume that starts as another volume or snapshot that the kernel has. It comes back with the pool.
    Clone(DmClone),
    /// Let an active pool hold more, or its metadata.
    ///
    /// Files are made longer; devices are enlarged before. Nothing is made smaller. Interrupted, the pool is as large as it was, and
    /// the same command goes on.
    Extend(DmExtend),
    /// Reserve or release the metadata snapshot, from which an active pool is read (`vellum dm import --metadata-snapshot`).
    #[command(subcommand)]
    MetadataSnapshot(DmMetadataSnapshot),
    /// End the devices of an active pool, check it, and take it back.
    ///
    /// Refused while a device is open. Interrupted, the same command goes on.
    Deactivate(DmDeactivate),
}

/// What to dump, and where to.
#[derive(Debug, Args)]
pub struct DmDump {
    /// The metadata. The kernel may not have the pool active.
    #[arg(value_name = "FILE|DEV")]
    pub metadata: PathBuf,

    /// Read the metadata snapshot; the pool may be active then.
    #[arg(long)]
    pub metadata_snapshot: bool,

    /// Read past damage. What is lost is told by device.
    #[arg(long)]
    pub lenient: bool,

    /// Write to this file, which must not be there; without it to standard output.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// Where the kernel will find its metadata.
#[derive(Debug, Args)]
pub struct DmExport {
    /// Where the metadata goes: a device, or a file, which is made if it is absent.
    #[arg(long, value_name = "FILE|DEV")]
    pub metadata: PathBuf,

    /// Show this snapshot, and keep the pool. May be given several times.
    #[arg(long, value_name = "VOLUME@NAME")]
    pub snapshot: Vec<String>,

    /// Make the file of this size, and not of that which fits the pool.
    #[arg(long, value_name = "SIZE")]
    pub size: Option<Size>,

    /// Take a file or device that holds something. What it holds is LOST.
    #[arg(long)]
    pub force: bool,
}

/// What to import, and as what.
#[derive(Debug, Default, Args)]
pub struct DmImport {
    /// The kernel's metadata. A pool that was given away knows where it is.
    #[arg(long, value_name = "FILE|DEV")]
    pub metadata: Option<PathBuf>,

    /// The data of the thin pool. A pool that was given away knows it.
    #[arg(long, value_name = "FILE|DEV")]
    pub data: Option<PathBuf>,

    /// Copy what is mapped into a new pool; the thin pool stays as it is.
    #[arg(long)]
    pub copy: bool,

    /// Read the metadata snapshot, and copy: the pool may be active then. What is written to meanwhile may be copied in part.
    #[arg(long)]
    pub metadata_snapshot: bool,

    /// Read past damage. Blocks that are lost read as errors until they are written or discarded.
    #[arg(long)]
    pub lenient: bool,

    /// Take a pool back by metadata that does not say that it is of this pool, as what thin_repair made does not. A wrong one makes volumes
    /// of blocks that are others'.
    #[arg(long)]
    pub force: bool,

    /// Call a device so; thin-DEVICE if it has no name yet. May be given several times.
    #[arg(long, value_name = "DEVICE=NAME")]
    pub name: Vec<OfDevice<String>>,

    /// Give a device this size; without it what it had, or up to its last mapped block. May be given several times.
    #[arg(long, value_name = "DEVICE=SIZE")]
    pub size: Vec<OfDevice<Size>>,

    /// How much the new pool may hold if it gets copies; without it a quarter more than is copied.
    #[arg(long, value_name = "SIZE")]
    pub pool_size: Option<Size>,
}

/// What is known of the hand-over.
#[derive(Debug, Args)]
pub struct DmRevoke {
    /// Where the kernel's metadata was to go, or is. It cannot be used any more afterwards.
    #[arg(long, value_name = "FILE|DEV")]
    pub metadata: Option<PathBuf>,

    /// The kernel may have had the pool; whatever it has written since may be lost or mixed into the volumes.
    #[arg(long)]
    pub force: bool,
}

/// Something of a thin device, as DEVICE=VALUE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfDevice<T> {
    /// Number of the device.
    pub device: u32,
    /// What it is to have.
    pub value: T,
}

impl<T: FromStr<Err: Display>> FromStr for OfDevice<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (device, value) = text.split_once('=').ok_or("it has no '=': give DEVICE=VALUE")?;
        let device = device.parse().map_err(|_| format!("'{device}' is no number of a device"))?;
        Ok(Self { device, value: value.parse().map_err(|error: T::Err| error.to_string())? })
    }
}

/// What to restore, and where to.
#[derive(Debug, Args)]
pub struct DmRestore {
    /// The XML; `-` is standard input.
    #[arg(short, long, value_name = "XML")]
    pub input: PathBuf,

    /// Where the metadata goes: a device, or a file that has its size.
    #[arg(short, long, value_name = "FILE|DEV")]
    pub output: PathBuf,

    /// Make the file, of this size.
    #[arg(long, value_name = "SIZE")]
    pub size: Option<Size>,

    /// Take a file or device that holds something. What it holds is LOST.
    #[arg(long)]
    pub force: bool,
}
