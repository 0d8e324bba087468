//! `vellum dm extend`: an active pool holds more.
//!
//! Owns the order of it: the file first, then its loop device, then the pool's table, by which the kernel enlarges its maps. Up to the last
//! step nobody uses the new space, so a crash leaves the pool as large as it was, and the same command goes on.

use super::{Live, explained, resolved, status, tell};
use crate::arguments::dm_live::DmExtend;
use crate::error::{Error, Result};
use crate::exit::Kind;
use crate::output::Output;
use crate::pool_directory::PoolDirectory;
use crate::size::{Size, pool_blocks};
use crate::views::DmStatusView;
use std::fs::File;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use vellum_dm_bridge::Source;
use vellum_dm_bridge::format::{BLOCK_BYTES as THIN_BLOCK_BYTES, MAX_METADATA_BLOCKS};
use vellum_dm_bridge::live::{PoolTable, loops};
use vellum_engine::units::BLOCK_BYTES;

/// Bytes of a sector in tables.
const SECTOR_BYTES: u64 = 512;

pub fn run(flags: &DmExtend, directory: &PoolDirectory, output: Output) -> Result<()> {
    check(flags)?;
    let live = Live::open(directory)?;
    let pool = live.require_active(&live.members()?)?;
    let mut table = live.table(&pool)?;
    if table.has("read_only") {
        return Err(Error::new(Kind::ReadOnly, "the pool was activated read-only")
            .hint("`vellum dm deactivate --keep`, and activate it so that it can be written"));
    }
    let metadata = resolved(&live.files.require_metadata(None)?)?;
    // Before anything is changed.
    let data = live.data()?;
    let [data, metadata] = [
        wants_data(flags).then(|| Growth::plan(&data, flags.size, table.size_bytes())).transpose()?,
        wants_metadata(flags)
            .then(|| Growth::plan(&metadata, flags.metadata_size, metadata_bytes(&live)?))
            .transpose()?,
    ];
    let reload = |table: &PoolTable| live.mapper.reload(&pool.name, &table.to_string()).map_err(explained);
    // More data needs room in the metadata for its counts, so that comes first.
    let mut metadata_bytes = 0;
    if let Some(metadata) = metadata {
        metadata_bytes = metadata.grow()?;
        reload(&table)?;
    }
    if let Some(data) = data {
        table.sectors = data.grow()? / BLOCK_BYTES * (BLOCK_BYTES / SECTOR_BYTES);
        reload(&table)?;
    }
    let view = status::view(&live);
    view.as_ref().map_or(Ok(()), |view| require_grown(view, table.size_bytes(), metadata_bytes))?;
    tell(view, output)
}

/// Without a flag both become as long as they can be.
fn wants_data(flags: &DmExtend) -> bool {
    flags.size.is_some() || flags.metadata_size.is_none()
}

fn wants_metadata(flags: &DmExtend) -> bool {
    flags.metadata_size.is_some() || flags.size.is_none()
}

/// A kernel that wants a check first takes the table and leaves the maps as they are.
fn require_grown(view: &DmStatusView, data_bytes: u64, metadata_bytes: u64) -> Result<()> {
    let usable = MAX_METADATA_BLOCKS * THIN_BLOCK_BYTES as u64;
    let metadata_bytes = metadata_bytes.min(usable) / THIN_BLOCK_BYTES as u64 * THIN_BLOCK_BYTES as u64;
    match &view.pool {
        Some(pool) if pool.size_bytes < data_bytes || pool.metadata_bytes < metadata_bytes => {
            let message = format!(
                "the kernel did not enlarge its maps: they have {} of data and {} of metadata",
                Size(pool.size_bytes),
                Size(pool.metadata_bytes)
            );
            Err(Error::new(Kind::Failure, message)
                .hint("`vellum dm status` tells whether it wants a check; `vellum dm deactivate` makes one"))
        }
        _ => Ok(()),
    }
}

fn check(flags: &DmExtend) -> Result<()> {
    flags.size.map_or(Ok(0), |size| pool_blocks(size.0))?;
    let most = MAX_METADATA_BLOCKS * THIN_BLOCK_BYTES as u64;
    match flags.metadata_size {
        Some(Size(bytes)) if bytes > most => {
            Err(Error::new(Kind::Limit, format!("dm-thin uses at most {most} bytes of metadata")))
        }
        Some(Size(bytes)) if !bytes.is_multiple_of(THIN_BLOCK_BYTES as u64) => {
            Err(Error::new(Kind::Invalid, "the size of metadata is a multiple of 4 KiB"))
        }
        _ => Ok(()),
    }
}

fn metadata_bytes(live: &Live<'_>) -> Result<u64> {
    Ok(status::view(live)?.pool.map_or(0, |pool| pool.metadata_bytes))
}

/// A file or device that is to be longer.
struct Growth<'p> {
    path: &'p Path,
    is_device: bool,
    length_bytes: u64,
    wanted_bytes: u64,
}

impl<'p> Growth<'p> {
    /// `used_bytes` is what the kernel uses of it by now.
    fn plan(path: &'p Path, wanted: Option<Size>, used_bytes: u64) -> Result<Self> {
        let cannot = |cause| Error::io(format!("cannot look at '{}'", path.display()), &cause);
        let is_device = path.metadata().map_err(cannot)?.file_type().is_block_device();
        let length_bytes = File::open(path).and_then(|file| file.length_bytes()).map_err(cannot)?;
        let wanted_bytes = wanted.map_or(length_bytes, |size| size.0);
        let sizes = |what: &str| format!("'{}' {what} {}", path.display(), Size(wanted_bytes));
        if wanted_bytes < used_bytes {
            let message = format!("{}, and the kernel uses {}", sizes("would have"), Size(used_bytes));
            return Err(Error::new(Kind::Invalid, message)
                .hint("an active pool cannot be made smaller; take it back, then `vellum pool shrink`"));
        }
        if is_device && wanted_bytes > length_bytes {
            let message = format!("{}: the device has {}", sizes("cannot give"), Size(length_bytes));
            return Err(Error::new(Kind::NoSpace, message).hint("enlarge the device first, as by `lvextend`"));
        }
        Ok(Self { path, is_device, length_bytes, wanted_bytes })
    }

    /// Makes it as long as it is to be, and gives its length.
    fn grow(&self) -> Result<u64> {
        if self.is_device {
            return Ok(self.wanted_bytes);
        }
        if self.wanted_bytes > self.length_bytes {
            let file = File::options().write(true).open(self.path);
            let grown = file.and_then(|file| {
                file.set_len(self.wanted_bytes)?;
                file.sync_all()
            });
            grown.map_err(|cause| {
                Error::io(format!("cannot make '{}' longer", self.path.display()), &cause)
            })?;
        }
        loops::over(self.path)
            .iter()
            .try_for_each(|device| loops::set_capacity(device))
            .map_err(explained)?;
        Ok(self.wanted_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_becomes_longer_and_never_shorter() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let plan = |wanted: Option<u64>, used| Growth::plan(file.path(), wanted.map(Size), used);
        file.as_file().set_len(1 << 20).unwrap();
        assert_eq!(plan(None, 1 << 20).unwrap().grow().unwrap(), 1 << 20);
        assert_eq!(plan(Some(2 << 20), 1 << 20).unwrap().grow().unwrap(), 2 << 20);
        assert_eq!(file.as_file().metadata().unwrap().len(), 2 << 20);
        // As after a crash: the file is longer than what the kernel uses.
        assert_eq!(plan(Some(1 << 20), 1 << 20).unwrap().grow().unwrap(), 1 << 20);
        assert_eq!(file.as_file().metadata().unwrap().len(), 2 << 20);
        assert_eq!(plan(Some(1 << 19), 1 << 20).err().unwrap().kind(), Kind::Invalid);
    }

    #[test]
    fn what_is_not_named_is_left_alone() {
        let wants = |size: Option<u64>, metadata: Option<u64>| {
            let flags = DmExtend { size: size.map(Size), metadata_size: metadata.map(Size) };
            (wants_data(&flags), wants_metadata(&flags))
        };
        assert_eq!(wants(None, None), (true, true));
        assert_eq!((wants(Some(1), None), wants(None, Some(1))), ((true, false), (false, true)));
        assert_eq!(wants(Some(1), Some(1)), (true, true));
    }

    #[test]
    fn sizes_that_the_kernel_does_not_take_are_refused() {
        let check = |size: Option<u64>, metadata: Option<u64>| {
            check(&DmExtend { size: size.map(Size), metadata_size: metadata.map(Size) })
        };
        check(Some(1 << 20), Some(4 << 20)).unwrap();
        assert_eq!(check(Some(4096), None).unwrap_err().kind(), Kind::Invalid);
        assert_eq!(check(None, Some(512)).unwrap_err().kind(), Kind::Invalid);
        assert_eq!(check(None, Some(1 << 40)).unwrap_err().kind(), Kind::Limit);
    }
}
