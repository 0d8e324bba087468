//! Every command and flag. Help, manual and completions come from here.
//!
//! Owns the words of the command line and all checks that need no pool. Read next: `commands/mod.rs`.

pub mod dm;
pub mod dm_live;
pub mod serve;
mod setting;
pub mod settings;
pub mod transfer;

use crate::error::{Error, Result};
use crate::exit::{self, Kind};
use crate::pool_directory::PoolDirectory;
use crate::size::{NewSize, Size};
use clap::{Args, Parser, Subcommand};
pub use setting::Setting;
use std::path::PathBuf;

/// Thin pools of volumes, snapshots and clones, served over NBD.
///
/// A pool is a directory with the files `data` and `metadata`. While a server has it, commands go to the server;
/// otherwise they open the pool themselves.
#[derive(Debug, Parser)]
#[command(name = "vellum", version, after_long_help = exit::help(), disable_help_subcommand = true)]
pub struct Arguments {
    /// The pool's directory.
    #[arg(long, global = true, value_name = "DIR", env = "VELLUM_POOL", hide_env_values = true)]
    pub pool: Option<PathBuf>,

    /// Print JSON: results on standard output, an error as one object on standard error.
    #[arg(long, global = true)]
    pub json: bool,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Arguments {
    /// The directory that `--pool` or `VELLUM_POOL` names.
    pub fn directory(&self) -> Result<PoolDirectory> {
        match &self.pool {
            Some(path) if !path.as_os_str().is_empty() => Ok(PoolDirectory::new(path)),
            _ => Err(Error::new(Kind::Usage, "no pool is named")
                .hint("add `--pool DIR`, or set VELLUM_POOL to the pool's directory")),
        }
    }
}

/// A noun.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make, look at and check a pool.
    #[command(subcommand)]
    Pool(PoolCommand),
    /// Make, list and delete volumes.
    #[command(subcommand)]
    Volume(VolumeCommand),
    /// Take, list and delete snapshots.
    #[command(subcommand)]
    Snapshot(SnapshotCommand),
    /// Make volumes that start as snapshots.
    #[command(subcommand)]
    Clone(CloneCommand),
    /// Write a snapshot, or what differs from another one, to standard output as a stream.
    ///
    /// A stream proves itself; `vellum receive` makes the same snapshot of it in another pool.
    Send(transfer::SendArguments),
    /// Read a stream from standard input, and make the snapshot that it brings.
    ///
    /// Nothing of it can be seen before all of it has arrived and is proven. What was received is a snapshot, for it is
    /// what later streams start from; `vellum clone create` makes a volume of it.
    Receive(transfer::ReceiveArguments),
    /// Give the pool to the kernel's dm-thin and take thin pools; check, dump and restore its metadata.
    #[command(subcommand)]
    Dm(dm::DmCommand),
    /// Serve all volumes and snapshots over NBD.
    Serve(serve::ServeArguments),
    /// Print the completions of a shell.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write a page for every command.
    Man {
        /// Write all pages into this directory, which must be there.
        #[arg(long, value_name = "DIR")]
        directory: Option<PathBuf>,
    },
}

/// What to do with a pool.
#[derive(Debug, Subcommand)]
pub enum PoolCommand {
    /// Make a pool.
    ///
    /// Makes the directory if it is absent. If it fails, nothing stays behind that it made.
    Create(PoolCreate),
    /// Show how full the pool is, and whether it is well.
    Status,
    /// Let the pool hold more. Works while it is served; a device under it is enlarged first.
    Extend {
        /// How much it may hold from now on.
        #[command(flatten)]
        size: PoolSize,
    },
    /// Make the pool smaller, and give the space to the host. The pool may not be served meanwhile.
    ///
    /// What lies behind the new end is moved. It may be interrupted at any moment, by a power loss too: the pool is whole
    /// then and as large as it was, and the same command goes on where it stopped.
    Shrink {
        /// How much it may hold from now on.
        #[command(flatten)]
        size: PoolSize,
    },
    /// Change what the pool does about space. `vellum pool status` shows all settings.
    Set {
        /// no-space=stall|error, no-space-timeout=SECONDS (0 for ever), auto-extend=SIZE|off, low-water=SIZE|auto,
        /// on-low-water=COMMAND, discard=eager|lazy|off, detect-zeros=on|off.
        #[arg(required = true, value_name = "KEY=VALUE")]
        settings: Vec<Setting>,
    },
    /// Give everything that is free back to the host, whatever the pool believes the host to hold: after a crash, or with
    /// discard=off.
    ///
    /// Works while it is served, and goes slowly then while clients use it. It can be broken off and begun again.
    Trim,
    /// Check every structure, and tell what damage costs. Writes nothing; the pool may not be served meanwhile.
    ///
    /// Ends with the exit code `damaged` if it finds something.
    Check,
    /// Save what can be saved of a damaged pool. Without flags, only tell what that is and how much space it takes.
    ///
    /// What cannot be saved reads as an error afterwards, until it is written or discarded; the report lists it by volume.
    /// The pool may not be served meanwhile.
    Repair(PoolRepair),
    /// Show structures on disk, damaged ones too. Writes nothing; the pool may not be served meanwhile.
    #[command(subcommand)]
    Inspect(InspectCommand),
}

/// How to make a pool.
#[derive(Debug, Args)]
pub struct PoolCreate {
    /// How much the pool may hold, as in 10G, 512M or 1.5TiB: a multiple of 64 KiB.
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub size: Size,

    /// Keep the data there; `data` in the directory becomes a link.
    #[arg(long, value_name = "FILE|DEV")]
    pub data: Option<PathBuf>,

    /// Keep the metadata there; `metadata` in the directory becomes a link.
    #[arg(long, value_name = "FILE|DEV")]
    pub metadata: Option<PathBuf>,

    /// Let the pool grow by itself up to this size while it is served; without it to four times its size. A pool on a
    /// device does so only if this is given.
    #[arg(long, value_name = "SIZE", conflicts_with = "no_auto_extend")]
    pub max_size: Option<Size>,

    /// Let the pool never grow by itself.
    #[arg(long)]
    pub no_auto_extend: bool,

    /// Take files that are there already. What they hold is LOST.
    #[arg(long)]
    pub force: bool,
}

/// How much a pool may hold from now on.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct PoolSize {
    /// How much it may hold from now on, as in 20G: a multiple of 64 KiB.
    #[arg(value_name = "SIZE")]
    given: Option<Size>,

    /// The same.
    #[arg(long = "size", value_name = "SIZE", allow_hyphen_values = true)]
    named: Option<Size>,
}

impl PoolSize {
    /// The size, in bytes.
    pub fn bytes(&self) -> u64 {
        self.given.or(self.named).map_or(0, |size| size.0)
    }
}

/// How to repair a pool.
#[derive(Debug, Args)]
pub struct PoolRepair {
    /// Write the new metadata to this file, which must not be there. The pool stays as it is.
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// Make the new metadata the pool's. The old one is kept as `metadata.before-repair` in the pool's directory.
    #[arg(long)]
    pub commit: bool,
}

/// What to show.
#[derive(Debug, Subcommand)]
pub enum InspectCommand {
    /// Superblocks and root slots.
    Slots,
    /// Every record of the log, valid or not.
    Log,
    /// Pages of the metadata file.
    Page {
        /// Their numbers.
        #[arg(required = true, value_name = "N")]
        numbers: Vec<u64>,
    },
}

/// What to do with volumes.
#[derive(Debug, Subcommand)]
pub enum VolumeCommand {
    /// Make an empty volume.
    Create {
        /// Its name: 1 to 255 bytes without `@`; `/` makes groups.
        name: String,
        /// Its size, as in 10G, 512M or 1.5TiB: a multiple of 4 KiB, larger than the pool if you like.
        #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
        size: Size,
        /// Keep so much of the pool's space for it, at most its size.
        #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
        reservation: Option<Size>,
    },
    /// Set limits, a reservation, or what happens without space. What is not named stays as it is.
    ///
    /// iops=1000, bandwidth=100M (bytes a second) and in-flight=32 limit reads and writes of a served volume together;
    /// reservation=10G keeps space of the pool for it; no-space=stall|error|pool says what becomes of a write that finds
    /// none; label.NAME=TEXT remembers something. `none` takes a limit or reservation away, and no text a label.
    Set {
        /// Its name.
        name: String,
        /// What to set.
        #[arg(required = true, value_name = "KEY=VALUE")]
        settings: Vec<settings::Setting>,
    },
    /// List all volumes.
    List {
        /// Count what each has alone, what it shares, and what deleting it with its snapshots frees.
        #[arg(long)]
        usage: bool,
    },
    /// Show a volume or snapshot.
    Show {
        /// Its name.
        name: String,
        /// Count what it has alone, what it shares, and what deleting it (a volume with its snapshots) frees.
        #[arg(long)]
        usage: bool,
    },
    /// Tell what deleting volumes and snapshots frees, all together. Deletes nothing.
    Usage {
        /// Their names, or patterns, quoted from the shell: 'db-*' for volumes, 'db-*@auto-*' for snapshots.
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        /// The snapshots of the volumes go too.
        #[arg(long)]
        snapshots: bool,
        /// Count what is mapped in sectors of 4 KiB too. Reads all their metadata.
        #[arg(long)]
        sectors: bool,
    },
    /// Give a volume another size. Clients see a larger one when they connect the next time.
    Resize {
        /// Its name.
        name: String,
        /// The size, or how much more or less: 20G, +5G, -5G.
        #[arg(value_name = "SIZE|+SIZE|-SIZE", allow_hyphen_values = true)]
        size: NewSize,
        /// Allow a smaller size. What lies behind the new end is LOST.
        #[arg(long)]
        shrink: bool,
        /// Disconnect the clients that are in the way of a smaller size.
        #[arg(long)]
        force: bool,
    },
    /// Give a volume another name. Its snapshots go along.
    Rename {
        /// Its name.
        old: String,
        /// The new name.
        new: String,
        /// Disconnect the clients of the volume and its snapshots.
        #[arg(long)]
        force: bool,
    },
    /// Join the two layers of blocks that no snapshot shares any more: each frees 64 KiB. The pool does so by itself, too.
    Collapse {
        /// Its name.
        name: String,
    },
    /// Keep a volume from being deleted until the tag is released.
    Hold(HoldArguments),
    /// Take a hold away.
    Release(HoldArguments),
    /// Delete volumes, all or none.
    Delete {
        /// Their names.
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        /// Delete their snapshots too. Without it a volume that has snapshots is kept.
        #[arg(long)]
        snapshots: bool,
        /// Disconnect their clients.
        #[arg(long)]
        force: bool,
    },
}

/// What is held, and by whom.
#[derive(Debug, Args)]
pub struct HoldArguments {
    /// Its name.
    pub name: String,
    /// Who holds it, or why: 1 to 64 bytes.
    pub tag: String,
}

/// What to do with snapshots.
#[derive(Debug, Subcommand)]
pub enum SnapshotCommand {
    /// Take snapshots; several are of one moment.
    Create {
        /// Their names. The volume may be a pattern, quoted from the shell: 'db-*@nightly'. `*` and `?` stay inside a
        /// group, `**/` is any number of groups; `[ab]` and `{a,b}` choose.
        #[arg(required = true, value_name = "VOLUME@NAME")]
        names: Vec<String>,
    },
    /// List all snapshots, or those of a volume.
    List {
        /// Which volume's.
        volume: Option<String>,
        /// Count what each has alone, which is what deleting it frees, and what it shares.
        #[arg(long)]
        usage: bool,
    },
    /// Give a snapshot another name, with the same volume.
    Rename {
        /// Its name.
        #[arg(value_name = "VOLUME@OLD")]
        old: String,
        /// The new name.
        #[arg(value_name = "VOLUME@NEW")]
        new: String,
        /// Disconnect its clients.
        #[arg(long)]
        force: bool,
    },
    /// Make a volume what its snapshot is. What was written since is LOST; all snapshots stay.
    Rollback {
        /// The snapshot.
        #[arg(value_name = "VOLUME@NAME")]
        name: String,
        /// Disconnect the clients of the volume.
        #[arg(long)]
        force: bool,
    },
    /// Keep a snapshot from being deleted until the tag is released.
    Hold(HoldArguments),
    /// Take a hold away. The last one takes along what was to be deleted then.
    Release {
        /// What is held, and by whom.
        #[command(flatten)]
        hold: HoldArguments,
        /// Disconnect the clients of what is deleted by this.
        #[arg(long)]
        force: bool,
    },
    /// Tell what differs between two snapshots or volumes: ranges that changed, and ranges that read as zeros now.
    Diff(transfer::DiffArguments),
    /// Delete snapshots, all or none.
    Delete {
        /// Their names.
        #[arg(required = true, value_name = "VOLUME@NAME")]
        names: Vec<String>,
        /// Delete what is held when its last hold is released. Without it that is kept.
        #[arg(long)]
        defer: bool,
        /// Disconnect their clients.
        #[arg(long)]
        force: bool,
    },
}

/// What to do with clones.
#[derive(Debug, Subcommand)]
pub enum CloneCommand {
    /// Make a volume that starts as a snapshot. It does not need the snapshot to stay.
    Create {
        /// What it starts as.
        #[arg(value_name = "VOLUME@NAME")]
        snapshot: String,
        /// The name of the new volume.
        #[arg(value_name = "NEWNAME")]
        name: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn flags_may_stand_anywhere() {
        let parsed =
            Arguments::try_parse_from(["vellum", "volume", "list", "--json", "--pool", "p"]).unwrap();
        assert!(parsed.json);
        assert_eq!(parsed.directory().unwrap(), PoolDirectory::new("p"));
    }
}
