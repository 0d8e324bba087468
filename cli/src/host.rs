//! What the engine takes from outside: who we are, what time it is, and randomness.
//!
//! Owns the only places where this program asks the system for them.

use crate::error::{Error, Result};
use crate::exit::Kind;
use std::time::{SystemTime, UNIX_EPOCH};
use vellum_engine::options::{OpenOptions, Owner};
use vellum_engine::request::{NewVolume, Uuid};
use vellum_engine::storage::FileDisk;

/// This process as the owner of a pool.
pub fn owner() -> Owner {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let boot_id = uuid::Uuid::try_parse(&read("/proc/sys/kernel/random/boot_id")).unwrap_or_default();
    Owner {
        host: read("/proc/sys/kernel/hostname"),
        boot_id: boot_id.into_bytes(),
        pid: std::process::id(),
        kernel: false,
    }
}

/// Whether the process that has a pool may still live. Of another host that is not known, so it may.
pub fn is_alive(owner: &Owner) -> bool {
    let this = self::owner();
    if owner.kernel {
        return true;
    }
    if owner.host != this.host {
        return true;
    }
    owner.boot_id == this.boot_id && std::path::Path::new(&format!("/proc/{}", owner.pid)).exists()
}

/// Options for an opening by this process of a pool with this data.
pub fn open_options(data: &FileDisk) -> Result<OpenOptions> {
    let data_is_device = data.file().is_device();
    Ok(OpenOptions { nonce: new_nonce()?, owner: owner(), data_is_device, ..OpenOptions::default() })
}

/// A random mark for an opening.
pub fn new_nonce() -> Result<u32> {
    getrandom::u32().map_err(no_randomness)
}

/// A random uuid.
pub fn new_uuid() -> Result<Uuid> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(no_randomness)?;
    Ok(uuid::Builder::from_random_bytes(bytes).into_uuid().into_bytes())
}

/// A random secret.
pub fn new_secret() -> Result<u64> {
    getrandom::u64().map_err(no_randomness)
}

/// Something to be made now.
pub fn new_volume(name: &str) -> Result<NewVolume> {
    Ok(NewVolume { name: name.to_owned(), uuid: new_uuid()?, created_unix_s: now_unix_s() })
}

/// The time, in seconds since 1970.
pub fn now_unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Makes the signal for a file that would grow beyond its limit harmless: the write then fails as on a full disk.
pub fn survive_file_size_limit() -> Result<()> {
    let flag = std::sync::Arc::default();
    signal_hook::flag::register(signal_hook::consts::SIGXFSZ, flag)
        .map(drop)
        .map_err(|cause| Error::io("cannot handle SIGXFSZ", &cause))
}

fn no_randomness(cause: getrandom::Error) -> Error {
    Error::new(Kind::Failure, format!("the system gives no random numbers: {cause}"))
        .hint("check that the system allows getrandom(2)")
}
