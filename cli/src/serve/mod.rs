//! `vellum serve`: what must be there before it serves, and what it tells clients.
//!
//! Owns the making of what is absent, and the life of the server. Files: `listening.rs` (sockets), `exports.rs` (URIs and
//! commands for clients), `space_watch.rs` (what people learn when space runs short).

pub mod exports;
pub mod listening;
mod space_watch;

use crate::arguments::serve::{Cache, Io, NamedSize, ServeArguments};
use crate::control::Control;
use crate::error::{Error, Result};
use crate::exit::Kind;
use crate::manage::{Files, Growth, Live, Manage, Remote};
use crate::output::{Output, text};
use crate::pool_directory::{Disks, NewDisks, PoolDirectory, identity};
use crate::size::Size;
use crate::views::{ServeView, VolumeView};
use crate::{host, names};
use listening::Listening;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use space_watch::SpaceWatch;
use std::net::ToSocketAddrs;
use std::sync::{Arc, Mutex, mpsc};
use vellum_engine::SpaceEvent;
use vellum_engine::options::OpenOptions;
use vellum_engine::request::Uuid;
use vellum_engine::storage::{CacheMode, ReactorKind, reserve_buffers};
use vellum_nbd_server::{Config, Limits, Server};

/// Memory for buffers that io_uring knows beforehand.
const BUFFERS_BYTES: usize = 16 << 20;

/// Serves the pool in `directory` until it is told to stop.
pub fn run(arguments: &ServeArguments, directory: &PoolDirectory, output: Output) -> Result<()> {
    log_to_stderr();
    prepare(arguments, directory)?;
    serve(arguments, directory, Listening::new(arguments, directory)?, output)
}

/// Runs the server until a signal, then drains it and closes the pool.
fn serve(
    arguments: &ServeArguments,
    directory: &PoolDirectory,
    mut listening: Listening,
    output: Output,
) -> Result<()> {
    // From here on a signal ends the server in order.
    let mut signals =
        Signals::new([SIGTERM, SIGINT]).map_err(|cause| Error::io("cannot take signals", &cause))?;
    host::survive_file_size_limit()?;
    let (events, happened) = mpsc::channel();
    let (mut server, uuid) = start(arguments, directory, events)?;
    SpaceWatch::start(directory, server.handle(), happened)?;
    let control = match open_doors(arguments, directory, &mut server, &mut listening, uuid, output) {
        Ok(control) => control,
        Err(error) => {
            // Nobody was served: the pool is closed all the same.
            let _ = server.stop();
            return Err(error);
        }
    };
    if let Some(signal) = signals.forever().next() {
        log::info!("signal {signal}: finishing what was asked for");
    }
    // A second signal does not wait. What was acknowledged is safe either way.
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            std::process::exit(Kind::Failure.code().into());
        }
    });
    control.stop()?;
    server.stop().map_err(|error| directory.explain(error))
}

/// Lets clients and commands in, and says where.
fn open_doors(
    arguments: &ServeArguments,
    directory: &PoolDirectory,
    server: &mut Server,
    listening: &mut Listening,
    uuid: Uuid,
    output: Output,
) -> Result<Control> {
    let mut live = Live::new(server.handle(), directory, uuid);
    let volumes = live.volumes()?;
    let control = Control::start(&directory.control_socket(), Arc::new(Mutex::new(live)))?;
    listen(server, listening)?;
    announce(listening, &volumes, arguments.default.as_deref(), output)?;
    Ok(control)
}

/// Opens the pool and starts its threads. Nobody can connect yet.
fn start(
    arguments: &ServeArguments,
    directory: &PoolDirectory,
    events: mpsc::Sender<SpaceEvent>,
) -> Result<(Server, Uuid)> {
    reserve_buffers(BUFFERS_BYTES);
    let Disks { mut data, mut metadata } = directory.open_disks_in(arguments.cache.map(CacheMode::from))?;
    if arguments.cache.is_none() && data.file().mode() == CacheMode::Writeback {
        log::warn!(
            "the file system of the pool cannot write past its cache: serving in mode writeback, in which a power loss \
             may mix old and new bytes inside 512 bytes that were being overwritten"
        );
    }
    let uuid = identity(&mut metadata).unwrap_or_default();
    let options = OpenOptions { enforce_limits: true, can_wait: true, ..host::open_options(&data)? };
    let core = vellum_engine::open(&mut data, &mut metadata, &options);
    let core = core.map_err(|error| directory.explain(error))?;
    let config = Config {
        threads: arguments.threads.map_or(0, usize::from),
        reactor: arguments.io.into(),
        limits: Limits { connections: arguments.connections.into(), ..Limits::default() },
        default_export: arguments.default.clone(),
        space_events: Some(events),
    };
    let server = Server::start(core, data.file().clone(), metadata.file().clone(), config);
    let server = server.map_err(|cause| {
        Error::io("cannot start serving", &cause).hint("with `--io auto` it falls back to threads")
    })?;
    Ok((server, uuid))
}

fn listen(server: &mut Server, listening: &mut Listening) -> Result<()> {
    if let Some(path) = &listening.unix {
        let failed = |cause| Error::io(format!("cannot listen on '{}'", path.display()), &cause);
        let elsewhere = "somebody listens there, or it is no socket: give another path by --unix";
        server.listen_unix(path).map_err(|cause| failed(cause).hint(elsewhere))?;
    }
    if let Some(address) = &mut listening.tcp {
        let failed = |cause| Error::io(format!("cannot listen on '{address}'"), &cause);
        let unknown =
            |cause| failed(cause).hint("give --tcp a port, or an address of this machine and a port");
        let found = (address.host.as_str(), address.port).to_socket_addrs().map_err(unknown)?.next();
        let found = found.ok_or_else(|| unknown(std::io::ErrorKind::NotFound.into()))?;
        let elsewhere = "give --tcp an address of this machine, and a port that nobody listens on";
        address.port = server.listen_tcp(found).map_err(|cause| failed(cause).hint(elsewhere))?.port();
    }
    Ok(())
}

impl From<Cache> for CacheMode {
    fn from(cache: Cache) -> Self {
        match cache {
            Cache::Direct => Self::Direct,
            Cache::Cached => Self::Cached,
            Cache::Writeback => Self::Writeback,
        }
    }
}

impl From<Io> for ReactorKind {
    fn from(io: Io) -> Self {
        match io {
            Io::Auto => Self::Auto,
            Io::Ring => Self::Ring,
            Io::Threads => Self::Threads,
        }
    }
}

/// Tells people where each export is, once the sockets listen.
pub fn announce(
    listening: &Listening,
    volumes: &[VolumeView],
    default: Option<&str>,
    output: Output,
) -> Result<()> {
    if volumes.is_empty() {
        eprintln!(
            "nothing to serve yet: `vellum volume create NAME --size SIZE` makes a volume while this runs"
        );
    }
    let view = ServeView { exports: exports::exports(listening, volumes, default) };
    output.result(&view, text::serve)
}

/// Warnings and worse go to people; `RUST_LOG` chooses otherwise.
fn log_to_stderr() {
    let environment = env_logger::Env::default().default_filter_or("warn");
    // Fails only if somebody else logs already, which is as good.
    let _ = env_logger::Builder::from_env(environment).format_timestamp(None).format_target(false).try_init();
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
        _ if directory.has_pool()? => Files::open(directory),
        Some(size) => Files::create(directory, size.0, &NewDisks::default(), Growth::default()),
        None => {
            Err(Error::new(Kind::NotFound, format!("there is no pool in '{}'", directory.path().display()))
                .hint("add `--create 10G` to make one, or name another by --pool or VELLUM_POOL"))
        }
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
        pool.create_volume(name, size.0, 0)?;
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
