//! `vellum dm deactivate`: the devices of a pool end, and the pool comes back.
//!
//! Owns the order of it: nothing is removed while anything is open; then thin devices, the pool, loop devices; then the pool is
//! taken back as `vellum dm import` does it. Every step finds out by itself what is left to do, so it can be run again at any time.

use super::{Live, Members, explained, remove_begun, resolved, status};
use crate::arguments::dm_live::DmDeactivate;
use crate::commands::dm::{files, import};
use crate::error::{Error, Result};
use crate::exit::Kind;
use crate::output::{Output, dm_live as text};
use crate::pool_directory::PoolDirectory;
use crate::size::Size;
use crate::views::DmDeactivateView;
use std::fs::File;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};
use vellum_dm_bridge::Source;
use vellum_dm_bridge::live::{ErrorKind, loops};

/// How long a loop device may take to go after its last user.
const PATIENCE: Duration = Duration::from_secs(5);
/// What an import needs for the log.
const LOG_BYTES_AT_LEAST: u64 = 1 << 20;
const RETRY: Duration = Duration::from_millis(50);

pub fn run(flags: &DmDeactivate, directory: &PoolDirectory, output: Output) -> Result<()> {
    let live = Live::open(directory)?;
    let mut members = live.members()?;
    refuse_open(&members)?;
    if !flags.keep {
        refuse_full(&live)?;
    }
    let mut removed = remove_begun(&live, &mut members)?;
    removed.extend(remove(&live, &members)?);
    release(&live)?;
    // The pool is opened as a whole from here, and looked at again when it is.
    drop(live);
    let imported = if flags.keep { None } else { Some(import::take_back(directory, output)?) };
    output.result(&DmDeactivateView { removed, imported }, text::deactivated)
}

/// The log of the pool that comes back needs room, which can be made only while the pool is active.
fn refuse_full(live: &Live<'_>) -> Result<()> {
    let Some(pool) = status::view(live)?.pool.filter(|pool| pool.failure.is_none()) else { return Ok(()) };
    let data = live.data()?;
    let length = File::open(&data).and_then(|file| file.length_bytes());
    let length = length.map_err(|cause| Error::io(format!("cannot look at '{}'", data.display()), &cause))?;
    let room = pool.free_bytes + length.saturating_sub(pool.size_bytes);
    if room >= LOG_BYTES_AT_LEAST {
        return Ok(());
    }
    let message = format!("{} are free, and a pool that comes back needs 1 MiB for its log", Size(room));
    Err(Error::new(Kind::NoSpace, message)
        .hint("`vellum dm extend` makes room, or discard; --keep leaves the pool to the kernel"))
}

fn refuse_open(members: &Members) -> Result<()> {
    let open = members.thins.iter().filter(|(_, device)| device.open_count > 0);
    let open: Vec<String> = open.map(|(_, device)| device.path().display().to_string()).collect();
    if !open.is_empty() {
        return Err(Error::new(Kind::Busy, format!("in use: {}", open.join(", ")))
            .hint("unmount or close them, then try again"));
    }
    Ok(())
}

fn remove(live: &Live<'_>, members: &Members) -> Result<Vec<String>> {
    let mut removed = Vec::new();
    let thins = members.thins.iter().map(|(_, device)| device);
    for device in thins.chain(&members.pool) {
        live.mapper.remove(&device.name).map_err(|error| match error.kind() {
            ErrorKind::Busy => Error::new(Kind::Busy, format!("'{}' is in use", device.path().display()))
                .hint("`dmsetup ls --tree` shows what is on it; end that, then try again"),
            _ => explained(error),
        })?;
        removed.push(device.name.clone());
    }
    Ok(removed)
}

/// Both files are files only.
fn release(live: &Live<'_>) -> Result<()> {
    let metadata = live.files.metadata().map(|path| resolved(&path)).transpose()?;
    [Some(live.data()?), metadata].iter().flatten().try_for_each(|file| release_file(file))
}

fn release_file(file: &Path) -> Result<()> {
    let start = Instant::now();
    loop {
        let left = loops::over(file);
        let Some(device) = left.first() else { return Ok(()) };
        // Who has it open alone can end it; the kernel may still be at it itself.
        left.iter().for_each(|device| end_idle(device, file));
        if start.elapsed() >= PATIENCE {
            let message = format!("'{}' over '{}' is in use", device.display(), file.display());
            return Err(Error::new(Kind::Busy, message)
                .hint("end what uses it, as `lsblk` and `dmsetup ls --tree` show, then try again"));
        }
        sleep(RETRY);
    }
}

fn end_idle(device: &Path, file: &Path) {
    // Nobody else gets it for himself meanwhile; and it may be over another file by now.
    let Ok(_held) = files::open(device, false) else { return };
    if loops::over(file).iter().any(|over| over == device) {
        // If it fails the device is still there, which is told.
        let _ = loops::detach(device);
    }
}
