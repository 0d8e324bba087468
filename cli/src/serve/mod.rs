//! `vellum serve`: what must be there before it serves, and what it tells clients.
//!
//! Owns the making of what is absent. Files: `listening.rs` (sockets), `exports.rs` (URIs and commands for clients).

pub mod exports;
pub mod listening;

use crate::arguments::serve::{NamedSize, ServeArguments};
use crate::error::{Error, Result};
use crate::exit::Kind;
use crate::manage::{Files, Manage, Remote};
use crate::names;
use crate::output::{Output, text};
use crate::pool_directory::{NewDisks, PoolDirectory};
use crate::size::Size;
use crate::views::{ServeView, VolumeView};
use listening::Listening;

/// Serves the pool in `directory` until it is told to stop.
pub fn run(arguments: &ServeArguments, directory: &PoolDirectory, output: Output) -> Result<()> {
    let volumes = prepare(arguments, directory)?;
    let listening = Listening::new(arguments, directory)?;
    serve(arguments, directory, &listening, &volumes, output)
}

/// Runs the server. Not there yet: the server of this workspace is still a protocol without sockets.
fn serve(
    _arguments: &ServeArguments,
    _directory: &PoolDirectory,
    _listening: &Listening,
    _volumes: &[VolumeView],
    _output: Output,
) -> Result<()> {
    Err(Error::new(Kind::Unsupported, "this version cannot serve yet")
        .hint("what --create and --volume ask for was made; the other commands work on the files"))
}

/// Tells people where each export is, once the sockets listen.
pub fn announce(
    listening: &Listening,
    volumes: &[VolumeView],
    default: Option<&str>,
    output: Output,
) -> Result<()> {
    let view = ServeView { exports: exports::exports(listening, volumes, default) };
    output.result(&view, text::serve)
}

/// Makes the pool and the volumes that are asked for and absent, and gives all volumes and snapshots.
///
/// Opens the pool and closes it again, so it fails with `InUse` if it is served.
pub fn prepare(arguments: &ServeArguments, directory: &PoolDirectory) -> Result<Vec<VolumeView>> {
    check_names(&arguments.volumes)?;
    if Remote::connect(&directory.control_socket())?.is_some() {
        return Err(Error::new(Kind::InUse, format!("'{}' is being served", directory.path().display()))
            .hint("stop its server first, or use it"));
    }
    let mut pool = Box::new(open_or_create(arguments.create, directory)?);
    let prepared = prepare_volumes(arguments, pool.as_mut());
    let closed = pool.close();
    prepared.and_then(|volumes| closed.map(|()| volumes))
}

fn check_names(volumes: &[NamedSize]) -> Result<()> {
    for (index, NamedSize { name, .. }) in volumes.iter().enumerate() {
        names::check_volume(name)?;
        if volumes[..index].iter().any(|other| other.name == *name) {
            return Err(Error::new(Kind::Usage, format!("the volume '{name}' is given twice"))
                .hint("give --volume once for each name"));
        }
    }
    Ok(())
}

fn open_or_create(create: Option<Size>, directory: &PoolDirectory) -> Result<Files> {
    match create {
        Some(size) if !directory.has_pool() => Files::create(directory, size.0, &NewDisks::default()),
        _ => Files::open(directory),
    }
}

fn prepare_volumes(arguments: &ServeArguments, pool: &mut dyn Manage) -> Result<Vec<VolumeView>> {
    let there = pool.volumes()?;
    let find = |name: &str| there.iter().find(|volume| volume.name == name);
    // All are looked at before the first is made.
    for NamedSize { name, size } in &arguments.volumes {
        if let Some(other) = find(name).filter(|volume| volume.size_bytes != size.0) {
            return Err(other_size(other, *size));
        }
    }
    for NamedSize { name, size } in arguments.volumes.iter().filter(|volume| find(&volume.name).is_none()) {
        pool.create_volume(name, size.0)?;
    }
    let volumes = pool.volumes()?;
    if let Some(default) = &arguments.default
        && !volumes.iter().any(|volume| volume.name == *default)
    {
        return Err(names::not_found(default));
    }
    Ok(volumes)
}

fn other_size(there: &VolumeView, asked: Size) -> Error {
    let (name, size) = (&there.name, Size(there.size_bytes));
    Error::new(Kind::Exists, format!("the volume '{name}' is there with {size}, not {asked}"))
        .hint(format!("give --volume {name}={} or another name", there.size_bytes))
}
