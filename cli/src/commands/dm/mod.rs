//! `vellum dm`: metadata of the kernel's dm-thin.
//!
//! Owns the way from the bridge's errors to the program's. Read next: `files.rs` (what is opened how), `check.rs`, `dump.rs`,
//! `restore.rs`, `export.rs`, `import.rs`, `revoke.rs`, `picture.rs`, `release.rs`, `given_files.rs` (what a pool's directory
//! knows while the kernel has the pool), `live/` (pools that are active there).

mod check;
mod dump;
mod export;
mod files;
mod given_files;
mod import;
mod live;
mod picture;
mod pins;
mod release;
mod restore;
mod revoke;

use crate::arguments::Arguments;
use crate::arguments::dm::DmCommand;
use crate::error::{Error, Result};
use crate::exit::Kind;
use crate::output::Output;
use std::path::Path;
use vellum_dm_bridge::{Error as BridgeError, ErrorKind};

pub fn run(command: &DmCommand, arguments: &Arguments, output: Output) -> Result<()> {
    match command {
        DmCommand::Check { metadata } => check::run(metadata, output),
        DmCommand::Dump(flags) => dump::run(flags, output),
        DmCommand::Export(flags) if !flags.snapshot.is_empty() => {
            picture::run(flags, &arguments.directory()?, output)
        }
        DmCommand::Export(flags) => export::run(flags, &arguments.directory()?, output),
        DmCommand::Import(flags) => import::run(flags, &arguments.directory()?, output),
        DmCommand::Release { names, force } => release::run(names, *force, &arguments.directory()?, output),
        DmCommand::Restore(flags) => restore::run(flags, output),
        DmCommand::Revoke(flags) => revoke::run(flags, &arguments.directory()?, output),
        DmCommand::Activate(flags) => live::activate(flags, &arguments.directory()?, output),
        DmCommand::Status(flags) => live::status(flags, &arguments.directory()?, output),
        DmCommand::Snapshot(flags) => live::snapshot(flags, &arguments.directory()?, output),
        DmCommand::Clone(flags) => live::clone(flags, &arguments.directory()?, output),
        DmCommand::Extend(flags) => live::extend(flags, &arguments.directory()?, output),
        DmCommand::MetadataSnapshot(what) => live::metadata_snapshot(*what, &arguments.directory()?, output),
        DmCommand::Deactivate(flags) => live::deactivate(flags, &arguments.directory()?, output),
    }
}

/// The bridge's error, with the file it is about.
fn explained(path: &Path, error: &BridgeError) -> Error {
    let kind = match error.kind() {
        ErrorKind::Io => Kind::Io,
        ErrorKind::Damaged => Kind::Damaged,
        ErrorKind::Unsupported => Kind::Unsupported,
        ErrorKind::Invalid | ErrorKind::Xml => Kind::Invalid,
        ErrorKind::Limit => Kind::Limit,
        ErrorKind::NoSpace => Kind::NoSpace,
        _ => Kind::Failure,
    };
    let place = error.place().to_string();
    let place = if place.is_empty() { place } else { format!(" ({place})") };
    Error::new(kind, format!("'{}'{place}: {}", path.display(), error.message())).hint(hint_of(error.kind()))
}

fn hint_of(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Damaged => "`vellum dm check` tells what is affected; `--lenient` reads what is left",
        ErrorKind::Unsupported => "name the metadata device or file of a thin pool",
        ErrorKind::Invalid | ErrorKind::Xml => "correct it at the place that is named",
        ErrorKind::NoSpace => "name a larger device or file for the metadata",
        ErrorKind::Limit => "dm-thin cannot hold this; nothing but less of it helps",
        _ => Kind::Io.hint(),
    }
}
