//! `vellum dm snapshot` and `vellum dm clone`: thin devices that start as others, made by the kernel.
//!
//! Owns their numbers and names. A number is none that the pool has used, so nobody takes the device for a volume that was there; its name
//! is kept before the kernel makes it, so it is never without.

use super::activate::{Made, Thin, prefix};
use super::{Known, Live, Members, explained, status};
use crate::arguments::dm_live::{DmActivate, DmClone, DmSnapshot};
use crate::commands::dm::given_files::NewThin;
use crate::error::{Error, Result};
use crate::exit::Kind;
use crate::names;
use crate::output::{Output, dm_live as text};
use crate::pool_directory::PoolDirectory;
use crate::views::{DmMadeView, SpaceState, VolumeKind};
use vellum_dm_bridge::format::DEVICE_ID_LIMIT;
use vellum_dm_bridge::live::{DeviceMapper, ErrorKind, MappedDevice};

/// How many numbers are tried that others have taken.
const TRIES: u64 = 4096;

pub fn snapshot(flags: &DmSnapshot, directory: &PoolDirectory, output: Output) -> Result<()> {
    let origin = names::volume_of(&flags.name)?;
    let made = make(origin, &flags.name, flags.activate, directory)?;
    output.result(&made, |view| text::made("snapshot", view))
}

pub fn clone(flags: &DmClone, directory: &PoolDirectory, output: Output) -> Result<()> {
    names::check_any(&flags.origin)?;
    names::check_volume(&flags.name)?;
    let made = make(&flags.origin, &flags.name, flags.activate, directory)?;
    output.result(&made, |view| text::made("volume", view))
}

fn make(origin: &str, name: &str, activate: bool, directory: &PoolDirectory) -> Result<DmMadeView> {
    let live = Live::open(directory)?;
    let members = live.members()?;
    let pool = live.require_active(&members)?;
    let known = live.known()?;
    if known.iter().any(|known| known.name == name) {
        return Err(
            Error::new(Kind::Exists, format!("'{name}' is there already")).hint("choose another name")
        );
    }
    let origin = known.iter().find(|known| known.name == origin).ok_or_else(|| names::not_found(origin))?;
    refuse_full(&live)?;
    let made = create(&live, &members, &pool, origin, name, first_number(&live, &members, &known))?;
    let path = if activate { Some(activated(&live, &pool, &made)?) } else { None };
    Ok(DmMadeView {
        device: made.device,
        name: made.name,
        kind: if made.is_snapshot { VolumeKind::Snapshot } else { VolumeKind::Volume },
        size_bytes: made.size_bytes,
        path,
    })
}

/// Writes that wait for room would keep the origin from being suspended.
fn refuse_full(live: &Live<'_>) -> Result<()> {
    let pool = status::view(live)?.pool;
    match pool.map(|pool| pool.space_state) {
        Some(SpaceState::OutOfSpace) => {
            Err(Error::new(Kind::NoSpace, "the pool is out of space").hint("`vellum dm extend` makes room"))
        }
        Some(SpaceState::ReadOnly) => {
            Err(Error::new(Kind::ReadOnly, "the pool takes no changes").hint("`vellum dm status` tells why"))
        }
        _ => Ok(()),
    }
}

/// Above all numbers that are known; the kernel may have more.
fn first_number(live: &Live<'_>, members: &Members, known: &[Known]) -> u64 {
    let known = known.iter().map(|known| u64::from(known.device) + 1);
    let active = members.thins.iter().map(|(number, _)| u64::from(*number) + 1);
    known.chain(active).max().unwrap_or(0).max(live.given.next_volume.0)
}

fn create(
    live: &Live<'_>,
    members: &Members,
    pool: &MappedDevice,
    origin: &Known,
    name: &str,
    first: u64,
) -> Result<Known> {
    let before = live.files.new_thins(&live.given)?;
    let active = members.thins.iter().find(|(number, _)| *number == origin.device);
    for number in first..DEVICE_ID_LIMIT.min(first + TRIES) {
        let thin = NewThin { device: number as u32, name: name.to_owned(), size_bytes: origin.size_bytes };
        let all = before.iter().cloned().chain([thin.clone()]).collect();
        live.files.set_new_thins(&live.given, all)?;
        let message = format!("create_snap {number} {}", origin.device);
        match frozen(live.mapper, active.map(|(_, device)| device), &pool.name, &message) {
            Ok(()) => {
                let NewThin { device, name, size_bytes } = thin;
                let is_snapshot = names::is_snapshot(&name);
                return Ok(Known { device, name, size_bytes, is_snapshot, is_new: true });
            }
            Err((ErrorKind::Exists, _)) => (),
            Err((_, error)) => {
                live.files.set_new_thins(&live.given, before)?;
                return Err(error);
            }
        }
    }
    live.files.set_new_thins(&live.given, before)?;
    Err(Error::new(Kind::Limit, "no number of a thin device is free")
        .hint("take the pool back and export it again"))
}

/// Sends a message while nothing is on the way to the origin, which goes on in any case.
fn frozen(
    mapper: DeviceMapper,
    origin: Option<&MappedDevice>,
    pool: &str,
    message: &str,
) -> std::result::Result<(), (ErrorKind, Error)> {
    let told = |error: vellum_dm_bridge::live::Error| (error.kind(), explained(error));
    // What somebody else has suspended is not ours to resume.
    let origin = origin.filter(|origin| !origin.suspended);
    if let Some(origin) = origin {
        // It may be suspended although this failed.
        mapper.suspend(&origin.name).inspect_err(|_| drop(mapper.resume(&origin.name))).map_err(told)?;
    }
    let sent = mapper.message(pool, message).map_err(told);
    if let Some(origin) = origin {
        mapper.resume(&origin.name).map_err(|error| {
            let hint = format!("`dmsetup resume {}` lets its requests go on", origin.name);
            (ErrorKind::Failed, explained(error).hint(hint))
        })?;
    }
    sent
}

fn activated(live: &Live<'_>, pool: &MappedDevice, known: &Known) -> Result<String> {
    let mut made = Made::new(live.mapper);
    let prefix = prefix(live, &DmActivate::default(), Some(pool));
    let path = Thin { known, read_only: false, prefix }.create(live, &pool.number, &mut made);
    let path =
        path.map_err(|error| error.hint(format!("it was made; `vellum dm activate {}`", known.name)))?;
    made.keep();
    Ok(path.display().to_string())
}
