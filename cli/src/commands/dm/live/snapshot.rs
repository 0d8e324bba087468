//! `vellum dm snapshot` and `vellum dm clone`: thin devices that start as others, made by the kernel.
//!
//! Owns their numbers and names. A number is none that the pool has used, so nobody takes the device for a volume that was there; its name
//! is kept before the kernel makes it, so it is never without. What was kept and never made gets its number when it is asked for again.

use super::activate::{Made, Thin, prefix};
use super::{Known, Live, Members, explained, status};
use crate::arguments::dm_live::{DmActivate, DmClone, DmSnapshot};
use crate::commands::dm::given_files::NewThin;
use crate::error::{Error, Result};
use crate::exit::Kind;
use crate::host;
use crate::names;
use crate::output::{Output, dm_live as text};
use crate::pool_directory::PoolDirectory;
use crate::views::{DmMadeView, SpaceState, VolumeKind};
use std::ops::Range;
use vellum_dm_bridge::format::DEVICE_ID_LIMIT;
use vellum_dm_bridge::live::{DeviceMapper, Error as LiveError, ErrorKind, MappedDevice};

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
    let numbers = match known.iter().find(|known| known.name == name) {
        None => numbers(&live, &members, &known),
        // Whether the kernel has it, it says itself.
        Some(kept) if kept.is_new => u64::from(kept.device)..u64::from(kept.device) + 1,
        Some(_) => return Err(taken(name)),
    };
    let origin = known.iter().find(|known| known.name == origin).ok_or_else(|| names::not_found(origin))?;
    refuse_full(&live)?;
    let made = create(&live, &members, &pool, origin, name, numbers)?;
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

fn taken(name: &str) -> Error {
    Error::new(Kind::Exists, format!("'{name}' is there already")).hint("choose another name")
}

/// Above all numbers that are known; the kernel may have more.
fn numbers(live: &Live<'_>, members: &Members, known: &[Known]) -> Range<u64> {
    let known = known.iter().map(|known| u64::from(known.device) + 1);
    let active = members.thins.iter().map(|(number, _)| u64::from(*number) + 1);
    let first = known.chain(active).max().unwrap_or(0).max(live.given.next_volume.0);
    first..DEVICE_ID_LIMIT.min(first + TRIES)
}

fn create(
    live: &Live<'_>,
    members: &Members,
    pool: &MappedDevice,
    origin: &Known,
    name: &str,
    numbers: Range<u64>,
) -> Result<Known> {
    let before = live.files.new_thins(&live.given)?;
    let is_kept = before.iter().any(|thin| thin.name == name);
    let active = members.thins.iter().find(|(number, _)| *number == origin.device);
    // What somebody else has suspended is not ours to resume.
    let active = active.map(|(_, device)| device).filter(|device| !device.suspended);
    // A signal is no reason to leave the origin suspended, and whoever is killed has noted it.
    let _held = host::HeldSignals::hold()?;
    for number in numbers {
        let thin = NewThin { device: number as u32, name: name.to_owned(), size_bytes: origin.size_bytes };
        let others = before.iter().filter(|other| other.name != name).cloned();
        let all: Vec<NewThin> = others.chain([thin]).collect();
        let frozen = active.map(|_| origin.device);
        live.files.set_new_thins(&live.given, all.clone(), frozen)?;
        let Sent { sent, resumed } =
            send_frozen(&live.mapper, active, &pool.name, &format!("create_snap {number} {}", origin.device));
        let kept = if sent.is_ok() { all } else { before.clone() };
        live.files.set_new_thins(&live.given, kept, frozen.filter(|_| resumed.is_err()))?;
        resumed?;
        match sent {
            Ok(()) => return Ok(made(number as u32, name, origin.size_bytes)),
            Err(error) if error.kind() == ErrorKind::Exists => (),
            Err(error) => return Err(explained(error)),
        }
    }
    if is_kept {
        return Err(taken(name));
    }
    Err(Error::new(Kind::Limit, "no number of a thin device is free")
        .hint("take the pool back and export it again"))
}

fn made(device: u32, name: &str, size_bytes: u64) -> Known {
    Known { device, name: name.to_owned(), size_bytes, is_snapshot: names::is_snapshot(name), is_new: true }
}

/// What became of a message, and of the device that was suspended for it.
struct Sent {
    sent: std::result::Result<(), LiveError>,
    resumed: Result<()>,
}

/// Sends a message while nothing is on the way to the origin, which goes on in any case.
fn send_frozen(mapper: &DeviceMapper, origin: Option<&MappedDevice>, pool: &str, message: &str) -> Sent {
    let Some(origin) = origin else { return Sent { sent: mapper.message(pool, message), resumed: Ok(()) } };
    let sent = mapper.suspend(&origin.name).and_then(|()| mapper.message(pool, message));
    let what = if sent.is_ok() { "the kernel has made it, but " } else { "" };
    let resumed = mapper.resume(&origin.name).map_err(|error| {
        let message = format!("{what}'{}' is suspended: {}", origin.name, error.message());
        Error::new(Kind::Failure, message).hint(format!(
            "`dmsetup resume {}` lets its requests go on; so does the next command",
            origin.name
        ))
    });
    Sent { sent, resumed }
}

fn activated(live: &Live<'_>, pool: &MappedDevice, known: &Known) -> Result<String> {
    let mut made = Made::new(live.mapper.clone());
    let prefix = prefix(live, &DmActivate::default(), Some(pool));
    let path = Thin { known, read_only: false, prefix }.create(live, &pool.number, &mut made);
    let path =
        path.map_err(|error| error.hint(format!("it was made; `vellum dm activate {}`", known.name)))?;
    made.keep();
    Ok(path.display().to_string())
}
