//! `vellum dm activate`, `status`, `snapshot`, `clone`, `extend`, `metadata-snapshot`, `deactivate`: a pool in the kernel.
//!
//! Owns what all of them need: the pool's own metadata, which is locked so that one command at a time works on the pool, what is
//! known of its thin devices, and which mapped devices belong to it. Those are found by uuid, whatever they are called. Read next:
//! `activate.rs`, `deactivate.rs`. What the kernel is asked for is the bridge's `live`.

mod activate;
mod deactivate;
mod extend;
mod snapshot;
mod status;

use super::given_files::GivenFiles;
use crate::arguments::dm_live::DmMetadataSnapshot;
use crate::error::{Error, Result};
use crate::exit::Kind;
use crate::output::{Output, dm_live as text};
use crate::pool_directory::PoolDirectory;
use crate::views::DmStatusView;
use rustix::fs::{major, minor};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};
use vellum_dm_bridge::live::{
    DeviceMapper, Error as LiveError, ErrorKind, MappedDevice, MemberUuid, PoolState, PoolTable, loops,
};
use vellum_engine::adopt::{self, Given};
use vellum_engine::format::VolumeKind as EngineKind;
use vellum_engine::storage::FileDisk;

pub use activate::run as activate;
pub use deactivate::run as deactivate;
pub use extend::run as extend;
pub use snapshot::{clone, snapshot};
pub use status::run as status;

/// How long to wait for another command on the same pool.
const PATIENCE: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_millis(20);

/// A pool that the kernel has.
struct Live<'d> {
    directory: &'d PoolDirectory,
    files: GivenFiles<'d>,
    mapper: DeviceMapper,
    given: Given,
    /// Nobody else works on the pool meanwhile.
    _metadata: FileDisk,
}

/// A volume or snapshot that the kernel has as a thin device.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    device: u32,
    name: String,
    size_bytes: u64,
    is_snapshot: bool,
    /// Made while the kernel had the pool.
    is_new: bool,
}

/// The mapped devices of a pool.
#[derive(Debug, Default)]
struct Members {
    pool: Option<MappedDevice>,
    /// By number.
    thins: Vec<(u32, MappedDevice)>,
    /// What an interrupted activation has begun: they have no table, and are of no use.
    begun: Vec<MappedDevice>,
}

impl<'d> Live<'d> {
    /// For a command that changes something. What an interrupted one has suspended goes on.
    fn open(directory: &'d PoolDirectory) -> Result<Self> {
        let live = Self::begin(directory, PoolDirectory::open_metadata)?;
        live.resume_frozen()?;
        Ok(live)
    }

    /// Its programs hold the lock as this does: none of them is at it any more.
    fn resume_frozen(&self) -> Result<()> {
        let Some(number) = self.files.frozen(&self.given)? else { return Ok(()) };
        let members = self.members()?;
        if let Some((_, device)) = members.thins.iter().find(|(other, _)| *other == number) {
            self.mapper.resume(&device.name).map_err(explained)?;
        }
        self.files.set_new_thins(&self.given, self.files.new_thins(&self.given)?, None)
    }

    /// For a command that only looks.
    fn look(directory: &'d PoolDirectory) -> Result<Self> {
        Self::begin(directory, PoolDirectory::open_metadata_read_only)
    }

    fn begin(
        directory: &'d PoolDirectory,
        open: impl Fn(&PoolDirectory) -> Result<FileDisk>,
    ) -> Result<Self> {
        super::super::pool::refuse_served(directory)?;
        let mut metadata = patiently(|| open(directory))?;
        if !directory.owner().is_some_and(|owner| owner.kernel) {
            let message = format!("the kernel does not have the pool in '{}'", directory.path().display());
            return Err(Error::new(Kind::Invalid, message)
                .hint("`vellum dm export --metadata FILE|DEV` gives it to the kernel"));
        }
        let given = adopt::given(&mut metadata).map_err(|error| directory.explain(error))?;
        let lock = metadata.file().as_fd().try_clone_to_owned();
        let lock = lock.map_err(|cause| Error::io("cannot hold the pool's lock", &cause))?;
        let (files, mapper) = (GivenFiles::of(directory), DeviceMapper::default().holding(lock));
        Ok(Self { directory, files, mapper, given, _metadata: metadata })
    }

    /// The data file or device, without links.
    fn data(&self) -> Result<PathBuf> {
        resolved(&self.directory.data())
    }

    fn known(&self) -> Result<Vec<Known>> {
        let old = self.given.volumes.iter().map(|record| Known {
            device: record.id.0 as u32,
            name: record.name.clone(),
            size_bytes: record.size_bytes,
            is_snapshot: record.kind == EngineKind::Snapshot,
            is_new: false,
        });
        let new = self.files.new_thins(&self.given)?.into_iter().map(|thin| Known {
            device: thin.device,
            is_snapshot: thin.name.contains('@'),
            name: thin.name,
            size_bytes: thin.size_bytes,
            is_new: true,
        });
        Ok(old.chain(new).collect())
    }

    fn members(&self) -> Result<Members> {
        let uuid = MemberUuid::pool(&self.given.pool).pool;
        let mut members = Members::default();
        let devices = match self.mapper.devices() {
            // Then nothing is active.
            Err(error) if error.kind() == ErrorKind::NoDeviceMapper => Vec::new(),
            devices => devices.map_err(explained)?,
        };
        for device in devices {
            match device.uuid.device {
                _ if device.uuid.pool != uuid => (),
                _ if !device.has_table => members.begun.push(device),
                None => members.pool = Some(device),
                Some(number) => members.thins.push((number, device)),
            }
        }
        members.thins.sort_by_key(|(number, _)| *number);
        members.pool.iter().try_for_each(|pool| self.refuse_copy(pool))?;
        Ok(members)
    }

    /// A copy of a pool's files has the same uuid: what is active then may be another's.
    fn refuse_copy(&self, pool: &MappedDevice) -> Result<()> {
        let PoolTable { data: on, metadata: metadata_on, .. } = self.table(pool)?;
        if is_on(&self.data()?, &on) {
            return match self.files.metadata() {
                Some(link) if !is_on(&link, &metadata_on) => Err(other_metadata(pool, &link, &metadata_on)),
                _ => Ok(()),
            };
        }
        let message = format!("a copy of this pool is active: '{}', with its data on device {on}", pool.name);
        Err(Error::new(Kind::InUse, message)
            .hint("name the directory that it was activated from by --pool; copies cannot be active at once"))
    }

    fn table(&self, pool: &MappedDevice) -> Result<PoolTable> {
        self.mapper.table(&pool.name).map_err(explained)?.parse().map_err(unreadable)
    }

    /// The device of a pool that has to be active.
    fn require_active(&self, members: &Members) -> Result<MappedDevice> {
        members.pool.clone().ok_or_else(|| {
            Error::new(Kind::NotFound, "the pool is not active").hint("`vellum dm activate` makes it so")
        })
    }

    fn pool_state(&self, pool: &MappedDevice) -> Result<PoolState> {
        let line = self.mapper.status(&pool.name).map_err(explained)?;
        PoolState::parse(&line).map_err(unreadable)
    }
}

/// Whether a file or device is what a table names as `major:minor`.
fn is_on(path: &Path, number: &str) -> bool {
    let own = loops::over(path).into_iter().chain([path.to_owned()]);
    own.filter_map(|path| device_number(&path)).any(|own| own == number)
}

fn other_metadata(pool: &MappedDevice, link: &Path, on: &str) -> Error {
    let message =
        format!("'{}' is active with its metadata on device {on}, not with '{}'", pool.name, link.display());
    Error::new(Kind::Mismatch, message)
        .hint("let the link `thin-metadata` in the pool's directory lead to what it is active with, as `lsblk` shows")
}

/// `major:minor` of a block device.
fn device_number(path: &Path) -> Option<String> {
    let metadata = path.metadata().ok().filter(|metadata| metadata.file_type().is_block_device())?;
    Some(format!("{}:{}", major(metadata.rdev()), minor(metadata.rdev())))
}

/// Whoever only looks is done soon.
fn patiently(open: impl Fn() -> Result<FileDisk>) -> Result<FileDisk> {
    let start = Instant::now();
    loop {
        match open() {
            Err(error) if error.kind() == Kind::InUse && start.elapsed() < PATIENCE => sleep(RETRY),
            Err(error) if error.kind() == Kind::InUse => {
                return Err(error.hint("another command works on the pool: wait until it is done"));
            }
            opened => return opened,
        }
    }
}

/// `vellum dm metadata-snapshot`.
pub fn metadata_snapshot(what: DmMetadataSnapshot, directory: &PoolDirectory, output: Output) -> Result<()> {
    let live = Live::open(directory)?;
    let pool = live.require_active(&live.members()?)?;
    let is_held = match live.pool_state(&pool)? {
        PoolState::Working(status) => status.held_root.is_some(),
        PoolState::Failed(_) => false,
    };
    let message = match what {
        DmMetadataSnapshot::Reserve if is_held => {
            return Err(Error::new(Kind::Exists, "the pool has a metadata snapshot already")
                .hint("`vellum dm metadata-snapshot release` lets it go"));
        }
        DmMetadataSnapshot::Release if !is_held => {
            return Err(Error::new(Kind::NotFound, "the pool has no metadata snapshot")
                .hint("`vellum dm metadata-snapshot reserve` makes one"));
        }
        DmMetadataSnapshot::Reserve => "reserve_metadata_snap",
        DmMetadataSnapshot::Release => "release_metadata_snap",
    };
    live.mapper.message(&pool.name, message).map_err(explained)?;
    tell(status::view(&live), output)
}

/// How the pool is, behind a change. That this cannot be told does not undo the change.
fn tell(view: Result<DmStatusView>, output: Output) -> Result<()> {
    match view {
        Ok(view) => output.result(&view, text::status),
        Err(error) => {
            output.note(&format!("it is done, but how the pool is cannot be told: {}", error.message()));
            Ok(())
        }
    }
}

/// Removes what an interrupted activation has begun, and gives the names.
fn remove_begun(live: &Live<'_>, members: &mut Members) -> Result<Vec<String>> {
    let begun = std::mem::take(&mut members.begun);
    begun.iter().try_for_each(|device| live.mapper.remove(&device.name)).map_err(explained)?;
    Ok(begun.into_iter().map(|device| device.name).collect())
}

fn resolved(path: &Path) -> Result<PathBuf> {
    path.canonicalize().map_err(|cause| Error::io(format!("cannot find '{}'", path.display()), &cause))
}

/// What the kernel did not do, with what to do about it.
fn explained(error: LiveError) -> Error {
    let (kind, hint) = match error.kind() {
        ErrorKind::NotInstalled => (Kind::Unsupported, "install it, as by `apt-get install dmsetup mount`"),
        ErrorKind::NoDeviceMapper => (
            Kind::Unsupported,
            "`modprobe dm-thin-pool`, or a kernel that has it; `vellum dm import` takes the pool back without",
        ),
        ErrorKind::NotAllowed => (Kind::Failure, "only root may do this"),
        ErrorKind::Busy => (Kind::Busy, "unmount or close what uses it, then try again"),
        ErrorKind::Exists => {
            (Kind::Exists, "`dmsetup info` shows who has the name; --prefix chooses other names")
        }
        ErrorKind::NotFound => (Kind::NotFound, "`vellum dm status` shows what is active"),
        _ => (Kind::Failure, "the kernel's log (`dmesg`) tells more"),
    };
    Error::new(kind, error.message().to_owned()).hint(hint)
}

fn unreadable(message: String) -> Error {
    Error::new(Kind::Unsupported, message)
        .hint("this kernel or dmsetup speaks differently than those that are known")
}
