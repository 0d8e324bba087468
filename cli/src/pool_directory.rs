//! A pool's directory: `data`, `metadata` and, while it is served, `nbd.sock` and `control.sock`.
//!
//! Owns these names, how the two disks are made and opened, and that a failed creation leaves nothing behind that it
//! made. The two have their names only when the pool is complete: until then they are `data.new` and `metadata.new`,
//! which the next creation takes if the process was killed. Knows no requests. Every disk of this program comes from
//! [`PoolDirectory::create_disks`], [`PoolDirectory::open_disks`] or [`PoolDirectory::open_disks_read_only`].

use crate::error::{Error, Result};
use crate::exit::Kind;
use crate::host;
use crate::next_step;
use std::fs::{DirBuilder, File, Permissions};
use std::io::ErrorKind as Cause;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use vellum_engine::error::{Error as EngineError, ErrorKind, Result as EngineResult};
use vellum_engine::format::{ROOT_SLOT_PAGES, SUPERBLOCK_PAGES};
use vellum_engine::inspect::{self, Inspection, Structure};
use vellum_engine::options::Owner;
use vellum_engine::request::Uuid;
use vellum_engine::storage::{CacheMode, Disk, DiskFile, FileDisk, wipe_signatures};
use vellum_engine::units::{PAGE_BYTES, PageNumber};

/// How long the kernel may take to finish writes of a process that was killed.
const PATIENCE_WITH_THE_DEAD: Duration = Duration::from_secs(20);
/// How long to wait for somebody who has the files open and does not say who it is, as readers do, and commands on a pool that the
/// kernel has.
const PATIENCE_WITH_THE_UNKNOWN: Duration = Duration::from_secs(2);
const RETRY: Duration = Duration::from_millis(10);

/// The directory of a pool, which may not be there yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolDirectory {
    path: PathBuf,
}

/// Where the disks of a new pool are.
#[derive(Clone, Debug, Default)]
pub struct NewDisks {
    /// The data file or device; `data` in the directory if none.
    pub data: Option<PathBuf>,
    /// The metadata file or device; `metadata` in the directory if none.
    pub metadata: Option<PathBuf>,
    /// Empty files that are there already, and lose what they hold.
    pub force: bool,
}

/// The two disks of a pool.
pub struct Disks {
    /// The data file or device.
    pub data: FileDisk,
    /// The metadata file or device.
    pub metadata: FileDisk,
}

impl PoolDirectory {
    /// The pool in `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The data file, or a link to it.
    pub fn data(&self) -> PathBuf {
        self.path.join("data")
    }

    /// The metadata file, or a link to it.
    pub fn metadata(&self) -> PathBuf {
        self.path.join("metadata")
    }

    /// A link to the kernel's metadata, while the kernel has the pool.
    pub fn thin_metadata(&self) -> PathBuf {
        self.path.join("thin-metadata")
    }

    /// Where NBD clients connect unless told otherwise.
    pub fn nbd_socket(&self) -> PathBuf {
        self.path.join("nbd.sock")
    }

    /// Where commands reach the server.
    pub fn control_socket(&self) -> PathBuf {
        self.path.join("control.sock")
    }

    /// Whether there is a pool, or something that takes its place. An error if nobody may look.
    pub fn has_pool(&self) -> Result<bool> {
        self.finish_creation();
        let look = |path: PathBuf| {
            look_for(&path).map_err(|cause| Error::io(format!("cannot look at '{}'", path.display()), &cause))
        };
        Ok(look(self.metadata())? || look(self.data())?)
    }

    /// A process that was killed between the two renames of [`Made::keep`] had made a whole pool.
    fn finish_creation(&self) {
        let (metadata, data) = (self.metadata(), self.data());
        let new = unfinished(&metadata);
        if !is_there(&metadata) && is_there(&data) && is_there(&new) {
            // If it fails the pool cannot be opened, which tells why.
            let _ = rename_to_absent(&new, &metadata);
        }
    }

    /// Opens both disks for writing. `InUse` with the owner if somebody has them.
    pub fn open_disks(&self) -> Result<Disks> {
        self.require_pool()?;
        self.open_both(|path| FileDisk::open(path))
    }

    /// Opens both disks to be served in `mode`, or in the best for each.
    pub fn open_disks_in(&self, mode: Option<CacheMode>) -> Result<Disks> {
        self.require_pool()?;
        self.open_both(|path| {
            let file = match mode {
                Some(mode) => DiskFile::open(path, mode),
                None => DiskFile::open_in_best_mode(path),
            };
            file.map(|file| FileDisk::over(Arc::new(file)))
        })
    }

    /// Opens both disks for reading, beside others that only read.
    pub fn open_disks_read_only(&self) -> Result<Disks> {
        self.require_pool()?;
        self.open_both(|path| FileDisk::open_read_only(path))
    }

    /// Opens the metadata alone, for writing: as long as it is open nobody else opens the pool, nor do other commands for a pool that
    /// the kernel has.
    pub fn open_metadata(&self) -> Result<FileDisk> {
        self.require_pool()?;
        self.patiently(|| FileDisk::open(self.metadata())).map_err(|error| self.explain(error))
    }

    /// Opens the metadata alone, for reading, beside others that only read.
    pub fn open_metadata_read_only(&self) -> Result<FileDisk> {
        self.require_pool()?;
        self.patiently(|| FileDisk::open_read_only(self.metadata())).map_err(|error| self.explain(error))
    }

    fn open_both(&self, open: impl Fn(&Path) -> EngineResult<FileDisk>) -> Result<Disks> {
        let open = |path: PathBuf| self.patiently(|| open(&path)).map_err(|error| self.explain(error));
        let metadata = open(self.metadata())?;
        let data = open(self.data())?;
        Ok(Disks { data, metadata })
    }

    /// The kernel may finish writes of a process for some time after its death, and keeps its files locked until then.
    fn patiently<T>(&self, open: impl Fn() -> EngineResult<T>) -> EngineResult<T> {
        let start = Instant::now();
        loop {
            match open() {
                Err(error) if error.kind() == ErrorKind::InUse && start.elapsed() < self.patience() => {
                    std::thread::sleep(RETRY);
                }
                other => return other,
            }
        }
    }

    /// How long to wait for whoever has the pool to let go: not at all for a process that lives. If the kernel has the pool, it is
    /// another command that has the files, and not for long.
    fn patience(&self) -> Duration {
        match self.owner() {
            Some(owner) if owner.kernel => PATIENCE_WITH_THE_UNKNOWN,
            Some(owner) if host::is_alive(&owner) => Duration::ZERO,
            Some(_) => PATIENCE_WITH_THE_DEAD,
            None => PATIENCE_WITH_THE_UNKNOWN,
        }
    }

    /// Makes the directory if it is absent, and two empty disks. All that was made is gone again unless
    /// [`Made::keep`] is called.
    pub fn create_disks(&self, new: &NewDisks) -> Result<(Disks, Made)> {
        self.require_two(new)?;
        let mut made = Made::default();
        self.create_directory(&mut made)?;
        if new.force {
            self.require_free(new)?;
        } else {
            self.finish_creation();
        }
        let metadata = self.create_disk(&self.metadata(), new.metadata.as_deref(), new.force, &mut made)?;
        let data = self.create_disk(&self.data(), new.data.as_deref(), new.force, &mut made)?;
        sync_directory(&self.path)?;
        Ok((Disks { data, metadata }, made))
    }

    /// Makes the directory if it is absent, an empty disk for metadata, and a link to `data`, which stays as it is. All that was
    /// made is gone again unless [`Made::keep`] is called.
    pub fn adopt_disks(&self, data: &Path) -> Result<(Disks, Made)> {
        if self.has_pool()? {
            return Err(taken(&self.data()).hint("choose another directory, or remove that pool first"));
        }
        let target =
            std::path::absolute(data).map_err(|cause| Error::io(format!("'{}'", data.display()), &cause))?;
        let disk = FileDisk::open(&target).map_err(|error| self.explain(error))?;
        let mut made = Made::default();
        self.create_directory(&mut made)?;
        let metadata = self.create_disk(&self.metadata(), None, false, &mut made)?;
        self.link(&self.data(), &target, &mut made)?;
        sync_directory(&self.path)?;
        Ok((Disks { data: disk, metadata }, made))
    }

    fn create_directory(&self, made: &mut Made) -> Result<()> {
        match DirBuilder::new().mode(0o700).create(&self.path) {
            Ok(()) => made.paths.push((self.path.clone(), true)),
            Err(cause) if cause.kind() == Cause::AlreadyExists && self.path.is_dir() => return Ok(()),
            Err(cause) => return Err(Error::io(format!("cannot make '{}'", self.path.display()), &cause)),
        }
        // Whatever the umask takes away, the owner needs all three.
        let set = std::fs::set_permissions(&self.path, Permissions::from_mode(0o700));
        set.map_err(|cause| Error::io(format!("cannot set the mode of '{}'", self.path.display()), &cause))?;
        let parent = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        sync_directory(parent.unwrap_or(Path::new(".")))
    }

    /// Both or none: nothing is emptied if somebody has one of the two.
    fn require_free(&self, new: &NewDisks) -> Result<()> {
        // Both at once: if they are one and the same, the second is refused.
        let mut locked = Vec::new();
        for path in self.paths_of(new).into_iter().filter(|path| path.exists()) {
            locked.push(FileDisk::open(path).map_err(|error| self.explain(error))?);
        }
        Ok(())
    }

    /// Where the data and the metadata of a new pool are to be.
    fn paths_of(&self, new: &NewDisks) -> [PathBuf; 2] {
        let (data, metadata) = (self.data(), self.metadata());
        [new.data.clone().unwrap_or(data), new.metadata.clone().unwrap_or(metadata)]
    }

    /// One file or device cannot be both.
    fn require_two(&self, new: &NewDisks) -> Result<()> {
        let identity = |path: PathBuf| {
            let metadata = path.metadata().ok()?;
            let device = if metadata.file_type().is_block_device() { metadata.rdev() } else { 0 };
            Some((metadata.dev(), if device == 0 { metadata.ino() } else { 0 }, device))
        };
        let [data, metadata] = self.paths_of(new).map(identity);
        if data.is_some() && data == metadata {
            return Err(Error::new(Kind::Invalid, "data and metadata are to be the same file or device")
                .hint("give each its own by --data and --metadata"));
        }
        Ok(())
    }

    fn create_disk(
        &self,
        name: &Path,
        elsewhere: Option<&Path>,
        force: bool,
        made: &mut Made,
    ) -> Result<FileDisk> {
        let Some(elsewhere) = elsewhere else { return self.create_named_file(name, force, made) };
        let target = std::path::absolute(elsewhere)
            .map_err(|cause| Error::io(format!("'{}'", elsewhere.display()), &cause))?;
        if target == std::path::absolute(name).unwrap_or_default() {
            return self.create_named_file(name, force, made);
        }
        if force && std::fs::read_link(name).is_ok_and(|old| old == target) {
            return self.create_file(&target, force, made);
        }
        if is_there(name) {
            return Err(taken(name).hint("choose another directory, or remove that pool first"));
        }
        let disk = self.create_file(&target, force, made)?;
        self.link(name, &target, made)?;
        Ok(disk)
    }

    /// A link to `target` that gets its name when the pool is complete.
    fn link(&self, name: &Path, target: &Path, made: &mut Made) -> Result<()> {
        let new = unfinished(name);
        if is_there(&new) {
            remove(&new)?;
        }
        std::os::unix::fs::symlink(target, &new)
            .map_err(|cause| Error::io(format!("cannot link '{}'", name.display()), &cause))?;
        made.paths.push((new, false));
        made.unfinished.push(name.to_owned());
        Ok(())
    }

    /// A file in the directory. It gets its name when the pool is complete, unless it takes one that is there.
    fn create_named_file(&self, name: &Path, force: bool, made: &mut Made) -> Result<FileDisk> {
        if is_there(name) {
            return self.create_file(name, force, made);
        }
        let new = unfinished(name);
        if new.is_symlink() {
            remove(&new)?;
        }
        if new.exists() {
            // Somebody was killed, or is at it: then it is locked.
            let lock = FileDisk::open(&new).map_err(|error| self.explain(error))?;
            if is_there(name) {
                return Err(taken(name).hint("choose another directory, or remove that pool first"));
            }
            let disk = self.empty_locked(lock, &new)?;
            made.paths.push((new, false));
            made.unfinished.push(name.to_owned());
            return Ok(disk);
        }
        let disk = self.create_file(&new, false, made)?;
        made.unfinished.push(name.to_owned());
        Ok(disk)
    }

    /// An empty disk at `path`: a new file, or a block device that is there.
    fn create_file(&self, path: &Path, force: bool, made: &mut Made) -> Result<FileDisk> {
        if path.metadata().is_ok_and(|metadata| metadata.file_type().is_block_device()) {
            return self.take_device(path, force);
        }
        if force && path.exists() {
            return self.empty_file(path);
        }
        let disk = FileDisk::create(path, 0).map_err(|error| {
            let error = self.explain(error);
            match error.kind() {
                Kind::Exists => {
                    taken(path).hint("choose another place; --force takes it, and what it holds is lost")
                }
                _ => error,
            }
        })?;
        made.paths.push((path.to_owned(), false));
        Ok(disk)
    }

    /// A block device that carries nothing, or whose signatures are to be wiped.
    fn take_device(&self, path: &Path, force: bool) -> Result<FileDisk> {
        let taken = DiskFile::take_over(path, CacheMode::Writeback, force).and_then(|device| {
            let device = Arc::new(device);
            wipe_signatures(&device)?;
            Ok(FileDisk::over(device))
        });
        taken.map_err(|error| match error.kind() {
            ErrorKind::Exists => {
                Error::from(error).hint("--force takes the device, and what it holds is lost")
            }
            _ => self.explain(error),
        })
    }

    /// What is there already loses its contents, but only if nobody has it open.
    fn empty_file(&self, path: &Path) -> Result<FileDisk> {
        let lock = FileDisk::open(path).map_err(|error| self.explain(error))?;
        self.empty_locked(lock, path)
    }

    fn empty_locked(&self, lock: FileDisk, path: &Path) -> Result<FileDisk> {
        let emptied = File::options().write(true).open(path).and_then(|file| file.set_len(0));
        emptied.map_err(|cause| Error::io(format!("cannot empty '{}'", path.display()), &cause))?;
        drop(lock);
        FileDisk::open(path).map_err(|error| self.explain(error))
    }

    fn require_pool(&self) -> Result<()> {
        if self.has_pool()? {
            return Ok(());
        }
        let path = self.path.display();
        Err(Error::new(Kind::NotFound, format!("there is no pool in '{path}'")).hint(format!(
            "make one with `vellum --pool {path} pool create --size 10G`, or name another by --pool or VELLUM_POOL"
        )))
    }

    /// The engine's error with a hint that fits files.
    pub fn explain(&self, error: EngineError) -> Error {
        let error = Error::from(error);
        match error.kind() {
            Kind::InUse => error.hint(self.in_use_hint()),
            Kind::NotFound => error.hint("check the path; a pool needs both `data` and `metadata`"),
            Kind::Busy if error.message().contains("is a picture") => {
                error.hint("deactivate what shows it, then `vellum dm release` lets go of it")
            }
            _ => error,
        }
    }

    fn in_use_hint(&self) -> String {
        match self.owner() {
            Some(owner) if owner.kernel => next_step::of(&self.path, &self.thin_metadata()),
            Some(owner) => format!(
                "process {} on '{}' has the pool: stop it, or wait until it is done",
                owner.pid, owner.host
            ),
            None => Kind::InUse.hint().to_owned(),
        }
    }

    /// Who says to have the pool. Read beside the lock, so only good for a hint.
    pub fn owner(&self) -> Option<Owner> {
        self.slot_owner().filter(|owner| owner.pid != 0 || owner.kernel)
    }

    /// What the newest root slot says about who has the pool; none if no slot can be read.
    pub fn slot_owner(&self) -> Option<Owner> {
        let file = File::open(self.metadata()).ok()?;
        let slots = ROOT_SLOT_PAGES.into_iter().filter_map(|page| root_slot_owner(&file, page));
        slots.max_by_key(|(generation, _)| *generation).map(|(_, owner)| owner)
    }

    /// Bytes that the data and the metadata file take on their file systems; none for devices.
    pub fn host_bytes(&self) -> (Option<u64>, Option<u64>) {
        (allocated_bytes(&self.data()), allocated_bytes(&self.metadata()))
    }
}

/// The uuid of the pool that a metadata disk says it is; none if it says nothing that can be read.
pub fn identity(metadata: &mut dyn Disk) -> Option<Uuid> {
    SUPERBLOCK_PAGES.into_iter().find_map(|page| match inspect::metadata_page(metadata, page) {
        Ok(Inspection { structure: Structure::Superblock(Some(superblock)), .. }) => Some(superblock.pool),
        _ => None,
    })
}

fn root_slot_owner(file: &File, page: PageNumber) -> Option<(u64, Owner)> {
    use std::os::unix::fs::FileExt;
    let mut bytes = vec![0; PAGE_BYTES];
    file.read_exact_at(&mut bytes, page.offset_bytes()).ok()?;
    match inspect::page(&bytes).structure {
        Structure::RootSlot(Some(slot), _) => Some((slot.generation.0, slot.owner)),
        _ => None,
    }
}

fn allocated_bytes(path: &Path) -> Option<u64> {
    let metadata = path.metadata().ok()?;
    (!metadata.file_type().is_block_device()).then(|| metadata.blocks() * 512)
}

fn taken(path: &Path) -> Error {
    Error::new(Kind::Exists, format!("'{}' is there already", path.display()))
}

fn sync_directory(path: &Path) -> Result<()> {
    let synced = File::open(path).and_then(|directory| directory.sync_all());
    synced.map_err(|cause| Error::io(format!("cannot sync '{}'", path.display()), &cause))
}

/// What a disk is called until its pool is complete.
fn unfinished(name: &Path) -> PathBuf {
    let mut new = name.as_os_str().to_owned();
    new.push(".new");
    new.into()
}

fn remove(path: &Path) -> Result<()> {
    std::fs::remove_file(path)
        .map_err(|cause| Error::io(format!("cannot remove '{}'", path.display()), &cause))
}

fn is_there(path: &Path) -> bool {
    look_for(path).unwrap_or(false)
}

/// Whether something is at `path`, as far as that can be told.
fn look_for(path: &Path) -> std::io::Result<bool> {
    match path.symlink_metadata() {
        Ok(_) => Ok(true),
        Err(cause) if matches!(cause.kind(), Cause::NotFound | Cause::NotADirectory) => Ok(false),
        Err(cause) => Err(cause),
    }
}

/// Never takes the place of something.
fn rename_to_absent(from: &Path, to: &Path) -> Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    let renamed =
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE).map_err(std::io::Error::from) {
            // Not every file system can.
            Err(cause) if cause.kind() == Cause::InvalidInput && !is_there(to) => std::fs::rename(from, to),
            other => other,
        };
    renamed.map_err(|cause| match cause.kind() {
        Cause::AlreadyExists => taken(to).hint("choose another directory, or remove that pool first"),
        _ => Error::io(format!("cannot name '{}'", to.display()), &cause),
    })
}

/// What a creation has made so far. Dropped, it removes that again.
#[derive(Debug, Default)]
pub struct Made {
    /// Paths in the order in which they were made, and whether they are directories.
    paths: Vec<(PathBuf, bool)>,
    /// Names of disks that are not called so yet, metadata first.
    unfinished: Vec<PathBuf>,
}

impl Made {
    /// The pool is complete: gives both disks their names, and removes nothing.
    pub fn keep(mut self) -> Result<()> {
        // In this order a pool is there as soon as `data` is; see `PoolDirectory::finish_creation`.
        while let Some(name) = self.unfinished.pop() {
            let new = unfinished(&name);
            // Another process may have finished it, as if this one had been killed.
            rename_to_absent(&new, &name)
                .or_else(|error| if is_there(&new) { Err(error) } else { Ok(()) })?;
            self.paths.clear();
            sync_directory(name.parent().unwrap_or(Path::new(".")))?;
        }
        self.paths.clear();
        Ok(())
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        for (path, is_directory) in self.paths.drain(..).rev() {
            // The error that led here is the one to tell; what stays behind is visible enough.
            let _ = if is_directory { std::fs::remove_dir(&path) } else { std::fs::remove_file(&path) };
        }
    }
}
