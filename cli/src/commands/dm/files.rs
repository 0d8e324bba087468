//! Files and devices with dm-thin's metadata: how they are opened, made and watched.
//!
//! Owns who may have them meanwhile: a device that the kernel uses is refused, unless only its metadata snapshot is read. What an earlier
//! reader has left of a device in the page cache is dropped: the kernel's pool writes past it.

use crate::error::{Error, Result};
use crate::exit::Kind;
use crate::output::Output;
use crate::size::Size;
use indicatif::{ProgressBar, ProgressStyle};
use rustix::fs::{Advice, OFlags, fadvise};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use vellum_dm_bridge::format::{BLOCK_BYTES, Block, Superblock};
use vellum_dm_bridge::live::{self, loops};
use vellum_dm_bridge::{Source, Target};
use vellum_engine::request::Uuid;

/// Others put their signatures into the first or the last MiB.
const LOOKED_AT_BYTES: u64 = 1 << 20;

/// Whether a file or device is empty as far as one can see, or holds nothing but what somebody left unfinished who needs it no
/// more. An export that was interrupted is another matter: it may be all that says where a pool is.
fn holds_nothing(file: &File) -> io::Result<bool> {
    let length = file.length_bytes()?;
    let looked_at = LOOKED_AT_BYTES.min(length);
    let mut bytes = vec![0; looked_at as usize];
    FileExt::read_exact_at(file, &mut bytes, 0)?;
    if vellum_dm_bridge::unfinished_mark(&bytes).is_some_and(|mark| mark == [0; 24]) {
        return Ok(true);
    }
    let head_is_empty = bytes.iter().all(|byte| *byte == 0);
    FileExt::read_exact_at(file, &mut bytes, length - looked_at)?;
    Ok(head_is_empty && bytes.iter().all(|byte| *byte == 0))
}

/// Refuses a file that a loop device gives to the kernel: whoever has that device may write.
pub fn refuse_looped(path: &Path) -> Result<()> {
    let Some(device) = loops::over(path).pop() else { return Ok(()) };
    let (name, device) = (device.file_name().unwrap_or_default().display(), device.display());
    Err(Error::new(Kind::InUse, format!("'{}' is under the loop device {name}", path.display()))
        .hint(format!("`vellum dm deactivate`, or end what else uses it and `losetup --detach {device}`")))
}

/// Refuses a pool that device-mapper has, whatever its files are called here. A kernel without device-mapper has none.
pub fn refuse_active(pool: &Uuid) -> Result<()> {
    let Some(name) = live::active_pool(pool) else { return Ok(()) };
    Err(Error::new(Kind::InUse, format!("the kernel has the pool active as '{name}'"))
        .hint("`vellum dm deactivate` ends that and takes the pool back"))
}

/// Opens metadata that the caller has begun to write.
pub fn open_own(path: &Path) -> Result<File> {
    open_with(path, OpenOptions::new().read(true).write(true), true)
}

/// Opens metadata for reading. Unless it `may_be_active`, a device that the kernel uses is refused.
pub fn open(path: &Path, may_be_active: bool) -> Result<File> {
    open_with(path, OpenOptions::new().read(true), !may_be_active)
}

/// Opens a file or device that is to hold metadata. With `size` the file is made.
pub fn open_target(path: &Path, size: Option<Size>, force: bool) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    if let Some(Size(bytes)) = size.filter(|_| force || path.symlink_metadata().is_err()) {
        return make(path, bytes, options.create(true));
    }
    if size.is_some() {
        return Err(Error::new(Kind::Exists, format!("'{}' is there already", path.display()))
            .hint("leave --size out to keep its size; --force takes it, and what it holds is lost"));
    }
    let file = open_with(path, &options, true).map_err(|error| match error.kind() {
        Kind::NotFound => error.hint("check the path; --size makes a new file"),
        _ => error,
    })?;
    let is_empty = holds_nothing(&file)
        .map_err(|cause| Error::io(format!("cannot read '{}'", path.display()), &cause))?;
    if !force && !is_empty {
        return Err(Error::new(Kind::Exists, format!("'{}' holds something", path.display()))
            .hint("name another; --force takes it, and what it holds is lost"));
    }
    Ok(file)
}

fn make(path: &Path, bytes: u64, options: &OpenOptions) -> Result<File> {
    let cannot = |cause: io::Error| Error::io(format!("cannot make '{}'", path.display()), &cause);
    let is_new = path.symlink_metadata().is_err();
    let file = open_with(path, options, true)?;
    file.set_len(0).and_then(|()| file.set_len(bytes)).map_err(|cause| {
        if is_new {
            // The error that led here is the one to tell.
            let _ = std::fs::remove_file(path);
        }
        cannot(cause)
    })?;
    // Its name has to be there after a power loss: others rely on what is in it.
    sync_folder(path).map_err(cannot)?;
    Ok(file)
}

/// Makes durable which names there are beside `path`.
pub fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all())
}

fn open_with(path: &Path, options: &OpenOptions, exclusive: bool) -> Result<File> {
    let mut options = options.clone();
    let is_device = path.metadata().is_ok_and(|metadata| metadata.file_type().is_block_device());
    if exclusive && is_device {
        options.custom_flags(OFlags::EXCL.bits() as i32);
    }
    let opened = options.open(path).and_then(|file| {
        if is_device {
            drop_cached(&file)?;
        }
        Ok(file)
    });
    opened.map_err(|cause| match cause.raw_os_error() {
        Some(code) if code == rustix::io::Errno::BUSY.raw_os_error() => {
            Error::new(Kind::InUse, format!("the kernel or a program uses '{}'", path.display()))
                .hint("deactivate the pool first, or read its metadata snapshot by --metadata-snapshot")
        }
        _ => match Error::io(format!("cannot open '{}'", path.display()), &cause) {
            error if error.kind() == Kind::NotFound => error.hint("check the path"),
            error => error,
        },
    })
}

/// What is read next comes from the device.
fn drop_cached(device: &File) -> io::Result<()> {
    Ok(fadvise(device, 0, None, Advice::DontNeed)?)
}

/// The metadata snapshot of a pool that may be active.
pub struct Held {
    /// Where its superblock is.
    root: u64,
    /// That superblock.
    block: Box<Block>,
}

impl Held {
    /// What it is now.
    pub fn look(path: &Path) -> Result<Self> {
        let explained = |error: vellum_dm_bridge::Error| super::explained(path, &error);
        let file = open(path, true)?;
        let read = |number: u64| {
            let mut block: Box<Block> = Box::new([0; BLOCK_BYTES]);
            let offset = number.saturating_mul(BLOCK_BYTES as u64);
            FileExt::read_exact_at(&file, &mut block[..], offset)
                .map_err(|cause| Error::io(format!("cannot read '{}'", path.display()), &cause))?;
            Ok::<_, Error>(block)
        };
        let live = Superblock::decode(&*read(0)?, 0).map_err(explained)?;
        let root = live.held_root.ok_or_else(|| {
            Error::new(Kind::Invalid, format!("'{}' has no metadata snapshot", path.display()))
                .hint("`vellum dm metadata-snapshot reserve` makes one")
        })?;
        Ok(Self { root, block: read(root)? })
    }

    /// Fails if it is another by now, or none: then what was read since may be of both.
    pub fn require_same(&self, path: &Path) -> Result<()> {
        match Self::look(path) {
            Ok(now) if now.root == self.root && now.block == self.block => return Ok(()),
            Err(error) if error.kind() == Kind::Io => return Err(error),
            _ => (),
        }
        Err(Error::new(
            Kind::Mismatch,
            "the metadata snapshot was released meanwhile: what was copied may be mixed",
        )
        .hint("reserve it, and do it again; release it only behind that"))
    }
}

/// Whether two paths lead to one file or device.
pub fn are_same(one: &Path, other: &Path) -> Result<bool> {
    let identity = |path: &Path| {
        let metadata = path.metadata();
        metadata.map_err(|cause| Error::io(format!("cannot look at '{}'", path.display()), &cause))
    };
    let (one, other) = (identity(one)?, identity(other)?);
    let is_device = one.file_type().is_block_device() && other.file_type().is_block_device();
    let is_file = one.dev() == other.dev() && one.ino() == other.ino();
    Ok(is_file || is_device && one.rdev() == other.rdev())
}

/// A file whose reads and writes a progress bar counts.
pub struct Watched {
    file: File,
    bar: ProgressBar,
}

impl Watched {
    /// `what` is being done to the file.
    pub fn new(file: File, what: &str, output: Output) -> Self {
        let bar = if output.shows_progress() { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        let style = ProgressStyle::with_template(&format!("{{spinner}} {what}, {{binary_bytes}} so far"));
        Self { file, bar: bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner())) }
    }

    /// Not watched, where something else tells how far it is.
    pub fn quiet(file: File) -> Self {
        Self { file, bar: ProgressBar::hidden() }
    }

    /// Where it is drawn.
    pub fn bar(&self) -> ProgressBar {
        self.bar.clone()
    }
}

impl Source for Watched {
    fn length_bytes(&self) -> io::Result<u64> {
        self.file.length_bytes()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.bar.inc(buffer.len() as u64);
        Source::read_at(&self.file, offset, buffer)
    }
}

impl Target for Watched {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.bar.inc(bytes.len() as u64);
        Target::write_at(&mut self.file, offset, bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vellum_dm_bridge::format::SpaceMapRoot;

    fn superblock(transaction_id: u64, held_root: Option<u64>) -> Superblock {
        Superblock {
            needs_check: false,
            unknown_flags: 0,
            is_picture: false,
            uuid: [0; 16],
            time: 0,
            transaction_id,
            held_root,
            data_space_map: SpaceMapRoot::default(),
            metadata_space_map: SpaceMapRoot::default(),
            mapping_root: 1,
            details_root: 2,
            data_block_sectors: 128,
            metadata_blocks_at_format: 8,
        }
    }

    #[test]
    fn a_metadata_snapshot_that_went_meanwhile_is_told() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let put = |number: u64, superblock: &Superblock| {
            let block = superblock.encode(number);
            file.as_file().write_all_at(&block[..], number * BLOCK_BYTES as u64).unwrap();
        };
        put(0, &superblock(1, Some(3)));
        put(3, &superblock(1, None));
        put(5, &superblock(1, None));
        let held = Held::look(file.path()).unwrap();
        // The pool goes on.
        put(0, &superblock(2, Some(3)));
        held.require_same(file.path()).unwrap();
        for (live, again) in [(None, 1), (Some(5), 1), (Some(3), 2)] {
            put(0, &superblock(2, live));
            put(3, &superblock(again, None));
            let error = held.require_same(file.path()).unwrap_err();
            assert!(error.kind() == Kind::Mismatch && error.message().contains("released meanwhile"));
        }
        put(0, &superblock(2, None));
        assert_eq!(Held::look(file.path()).err().unwrap().kind(), Kind::Invalid);
    }
}
