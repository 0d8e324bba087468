//! `vellum dm activate`: loop devices, the pool's device, and a thin device for each volume and snapshot.
//!
//! Owns the order of it, what is looked at before, and that a failure leaves nothing behind. Loop devices are detached as soon as the pool
//! has them: they are gone when it lets go, whatever becomes of this program.

use super::{Known, Live, Members, explained, remove_begun, resolved, status, tell};
use crate::arguments::dm_live::{DmActivate, NoSpacePolicy};
use crate::commands::dm::{check, export, files};
use crate::error::{Error, Result};
use crate::exit::Kind;
use crate::names;
use crate::output::Output;
use crate::pool_directory::PoolDirectory;
use std::collections::BTreeMap;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use vellum_dm_bridge::export::stamp;
use vellum_dm_bridge::format::{DATA_BLOCK_SECTORS_MIN, DeviceDetails};
use vellum_dm_bridge::live::{
    self, DeviceMapper, ErrorKind, MappedDevice, MemberUuid, PREFIX_BYTES_MAX, PoolTable, loops,
};
use vellum_dm_bridge::{Metadata, Source};
use vellum_engine::adopt::Given;
use vellum_engine::request::Uuid;
use vellum_engine::settings::{NoSpace, Settings};
use vellum_engine::units::BLOCK_BYTES;

pub fn run(flags: &DmActivate, directory: &PoolDirectory, output: Output) -> Result<()> {
    if let Some(prefix) = flags.prefix.as_ref().filter(|prefix| !live::prefix_is_valid(prefix)) {
        return Err(Error::new(Kind::Invalid, format!("names of devices cannot start with '{prefix}'"))
            .hint(format!("letters, digits and `#+-.:=@_`, at most {PREFIX_BYTES_MAX} of them")));
    }
    let live = Live::open(directory)?;
    let mut members = live.members()?;
    remove_begun(&live, &mut members)?;
    let mut made = Made::new(live.mapper.clone());
    match &members.pool {
        Some(pool) => add(&live, flags, &members, pool, &mut made, output)?,
        None => begin(&live, flags, &mut made, output)?,
    }
    made.keep();
    tell(status::view(&live), output)
}

/// What was made so far. Dropped, it takes that down again.
pub(super) struct Made {
    mapper: DeviceMapper,
    devices: Vec<String>,
    loops: Vec<PathBuf>,
}

impl Made {
    pub(super) fn new(mapper: DeviceMapper) -> Self {
        Self { mapper, devices: Vec::new(), loops: Vec::new() }
    }

    /// It is complete. Loop devices go with the last one who uses them from now on.
    pub(super) fn keep(mut self) {
        self.devices.clear();
        self.detach();
    }

    fn detach(&mut self) {
        for device in self.loops.drain(..) {
            // What stays is found by its file, and told, by the next command.
            let _ = loops::detach(&device);
        }
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        for name in self.devices.drain(..).rev() {
            // The error that led here is the one to tell.
            let _ = self.mapper.remove(&name);
        }
        self.detach();
    }
}

/// Further volumes of a pool that is active.
fn add(
    live: &Live<'_>,
    flags: &DmActivate,
    members: &Members,
    pool: &MappedDevice,
    made: &mut Made,
    output: Output,
) -> Result<()> {
    let is_of_pool = flags.metadata.is_some() || flags.low_water.is_some() || flags.no_space.is_some();
    if is_of_pool || flags.read_only || flags.skip_block_zeroing {
        return Err(active(&members.names()).hint("`vellum dm deactivate --keep`, then activate it so"));
    }
    let is_active = |known: &Known| members.thins.iter().any(|(number, _)| *number == known.device);
    let wanted = wanted(live, &flags.names)?;
    let (there, new): (Vec<Known>, Vec<Known>) = wanted.into_iter().partition(is_active);
    if new.is_empty() || !flags.names.is_empty() && !there.is_empty() {
        return Err(active(&members.names()).hint("name volumes that are not active, or leave it as it is"));
    }
    let table = live.table(pool)?;
    for known in &new {
        let thin = Thin { known, read_only: table.has("read_only"), prefix: prefix(live, flags, Some(pool)) };
        match thin.create(live, &pool.number, made) {
            Err(error) if error.kind() == Kind::NotFound && flags.names.is_empty() => {
                output.note(&absent(known));
            }
            created => drop(created?),
        }
    }
    Ok(())
}

/// Why nothing can be made active of it.
fn absent(known: &Known) -> String {
    if known.is_new {
        return format!(
            "the kernel has no '{}': it was deleted there, or its making was interrupted",
            known.name
        );
    }
    format!("the kernel has deleted '{}'", known.name)
}

fn active(devices: &str) -> Error {
    Error::new(Kind::Exists, format!("the pool is active already: {devices}"))
}

impl Members {
    /// What all of them are called.
    fn names(&self) -> String {
        let thins = self.thins.iter().map(|(_, device)| device);
        self.pool.iter().chain(thins).map(|device| device.name.as_str()).collect::<Vec<_>>().join(", ")
    }
}

/// A pool that is not active.
fn begin(live: &Live<'_>, flags: &DmActivate, made: &mut Made, output: Output) -> Result<()> {
    let named = live.files.require_metadata(flags.metadata.as_deref())?;
    export::refuse_own(&named, live.directory)?;
    let (metadata, data) = (resolved(&named)?, live.data()?);
    refuse_looped(&data)?;
    refuse_looped(&metadata)?;
    let thin = ThinMetadata::read(&metadata, output)?;
    require_given(&live.given, &thin, &metadata)?;
    require_length(&data, thin.data_blocks)?;
    let there = chosen(live, flags, &thin, output)?;
    let table = PoolTable {
        sectors: thin.data_blocks * u64::from(DATA_BLOCK_SECTORS_MIN),
        metadata: device_of(&metadata, made)?,
        data: device_of(&data, made)?,
        block_sectors: u64::from(DATA_BLOCK_SECTORS_MIN),
        low_water_blocks: low_water_bytes(live, flags, thin.data_blocks) / BLOCK_BYTES,
        features: features(live, flags),
    };
    // Before the kernel has it: so the next command finds it, whatever becomes of this one.
    live.files.set_metadata(&named)?;
    let prefix = prefix(live, flags, None);
    let (name, uuid) = (live::pool_name(&prefix), MemberUuid::pool(&live.given.pool));
    live.mapper.create(&name, &uuid, &table.to_string(), false).map_err(explained)?;
    made.devices.push(name);
    let pool = live.require_active(&live.members()?)?;
    for known in &there {
        let thin = Thin { known, read_only: flags.read_only, prefix: prefix.clone() };
        thin.create(live, &pool.number, made)?;
    }
    Ok(())
}

/// Any other metadata would make devices of blocks that are others'.
fn require_given(given: &Given, thin: &ThinMetadata, path: &Path) -> Result<()> {
    if thin.uuid == stamp(&given.mark()) {
        return Ok(());
    }
    let message = format!("'{}' does not say that it is what the pool was given away with", path.display());
    Err(Error::new(Kind::Mismatch, message)
        .hint("name that; what a tool made of it can only be taken back, by `vellum dm import --force`"))
}

fn require_length(data: &Path, data_blocks: u64) -> Result<()> {
    let length = files::open(data, false)?.length_bytes();
    let length = length.map_err(|cause| Error::io(format!("cannot look at '{}'", data.display()), &cause))?;
    if length / BLOCK_BYTES >= data_blocks {
        return Ok(());
    }
    let (data, there) = (data.display(), length / BLOCK_BYTES);
    let message = format!("the metadata is of {data_blocks} data blocks, and '{data}' has only {there}");
    Err(Error::new(Kind::Mismatch, message).hint("name the metadata of this pool by --metadata"))
}

fn refuse_looped(path: &Path) -> Result<()> {
    files::refuse_looped(path).map_err(|error| {
        error.hint("if an activation was interrupted, `vellum dm deactivate --keep` ends what is left of it")
    })
}

/// What is asked for, or else all that the kernel still has.
fn chosen(live: &Live<'_>, flags: &DmActivate, thin: &ThinMetadata, output: Output) -> Result<Vec<Known>> {
    let wanted = wanted(live, &flags.names)?;
    let (there, gone): (Vec<Known>, Vec<Known>) = wanted.into_iter().partition(|known| thin.has(known));
    for known in &gone {
        if !flags.names.is_empty() {
            let error = Error::new(Kind::NotFound, absent(known));
            return Err(match known.is_new {
                true => error.hint("make it by `vellum dm snapshot` or `clone`, or leave the name out"),
                false => error.hint("leave the name out"),
            });
        }
        output.note(&absent(known));
    }
    let is_known = |number: &&u32| there.iter().any(|known| known.device == **number);
    for number in thin.devices.keys().filter(|number| flags.names.is_empty() && !is_known(number)) {
        output.note(&format!(
            "thin device {number} was made by somebody else, and its size is not known: left alone"
        ));
    }
    Ok(there)
}

/// The volumes and snapshots of these names, or all.
fn wanted(live: &Live<'_>, names: &[String]) -> Result<Vec<Known>> {
    let known = live.known()?;
    if names.is_empty() {
        return Ok(known);
    }
    let mut wanted: Vec<Known> = Vec::new();
    for name in names {
        let found = known.iter().find(|known| known.name == *name).ok_or_else(|| {
            names::not_found(name)
                .hint("`vellum dm check` and the export told what there is; names are those of volumes")
        })?;
        if !wanted.contains(found) {
            wanted.push(found.clone());
        }
    }
    Ok(wanted)
}

pub(super) fn prefix(live: &Live<'_>, flags: &DmActivate, pool: Option<&MappedDevice>) -> String {
    let of_pool = || Some(live::prefix_of_pool(&pool?.name)?.to_owned());
    let of_directory = || {
        let path = resolved(live.directory.path()).unwrap_or_default();
        live::prefix_of_directory(&path.file_name().unwrap_or_default().to_string_lossy())
    };
    flags.prefix.clone().or_else(of_pool).unwrap_or_else(of_directory)
}

fn settings(live: &Live<'_>) -> Settings {
    Settings::from_pairs(&live.given.settings.labels)
}

fn low_water_bytes(live: &Live<'_>, flags: &DmActivate, data_blocks: u64) -> u64 {
    flags.low_water.map_or_else(|| settings(live).low_water_of(data_blocks * BLOCK_BYTES), |size| size.0)
}

fn features(live: &Live<'_>, flags: &DmActivate) -> Vec<String> {
    let fails = match flags.no_space {
        Some(policy) => policy == NoSpacePolicy::Error,
        None => settings(live).no_space == NoSpace::Error,
    };
    let features = [
        ("skip_block_zeroing", flags.skip_block_zeroing),
        ("error_if_no_space", fails),
        ("read_only", flags.read_only),
    ];
    features.into_iter().filter(|(_, is_on)| *is_on).map(|(word, _)| word.to_owned()).collect()
}

/// The device itself, or a loop device over the file.
fn device_of(path: &Path, made: &mut Made) -> Result<String> {
    if path.metadata().is_ok_and(|metadata| metadata.file_type().is_block_device()) {
        return Ok(path.display().to_string());
    }
    let device = loops::attach(path).map_err(explained)?;
    made.loops.push(device.clone());
    Ok(device.display().to_string())
}

/// The kernel's metadata, which is sound and in nobody's use.
struct ThinMetadata {
    uuid: Uuid,
    data_blocks: u64,
    devices: BTreeMap<u32, DeviceDetails>,
}

impl ThinMetadata {
    fn read(path: &Path, output: Output) -> Result<Self> {
        check::require_sound(path, output)?;
        let explained = |error: vellum_dm_bridge::Error| super::super::explained(path, &error);
        let metadata = Metadata::open(files::open(path, false)?).map_err(explained)?;
        let header = metadata.header().map_err(explained)?;
        if header.data_block_sectors != DATA_BLOCK_SECTORS_MIN {
            let message = format!("'{}' is not this pool's metadata: its blocks are larger", path.display());
            return Err(
                Error::new(Kind::Mismatch, message).hint("name the metadata that `vellum dm export` wrote")
            );
        }
        if header.needs_check {
            output.note("the kernel asks for a check before it writes again: the pool will be read-only");
        }
        let devices = metadata.devices().map(|device| device.map(|device| (device.id, device.details)));
        let devices = devices.collect::<std::result::Result<_, _>>().map_err(explained)?;
        Ok(Self { uuid: header.uuid, data_blocks: header.nr_data_blocks, devices })
    }

    /// Whether the kernel still has it. What was given away was made at time 0; a later one under its number is another.
    fn has(&self, known: &Known) -> bool {
        self.devices.get(&known.device).is_some_and(|details| known.is_new || details.creation_time == 0)
    }
}

/// A thin device that is to be.
pub(super) struct Thin<'k> {
    pub known: &'k Known,
    pub read_only: bool,
    pub prefix: String,
}

impl Thin<'_> {
    /// Makes it, in the pool whose device has this number, and gives its node.
    pub(super) fn create(&self, live: &Live<'_>, pool: &str, made: &mut Made) -> Result<PathBuf> {
        let Known { device, name, size_bytes, is_snapshot, .. } = self.known;
        let table = live::thin_table(pool, *device, *size_bytes);
        let uuid = MemberUuid::thin(&live.given.pool, *device);
        let mapped = live::thin_name(&self.prefix, name, *device);
        let created = live.mapper.create(&mapped, &uuid, &table, self.read_only || *is_snapshot);
        let path = created.map_err(|error| match error.kind() {
            ErrorKind::NotFound => {
                Error::new(Kind::NotFound, format!("the kernel has no thin device {device} for '{name}'"))
                    .hint("it was deleted there, or never made: leave the name out")
            }
            _ => explained(error),
        })?;
        made.devices.push(mapped);
        Ok(path)
    }
}
