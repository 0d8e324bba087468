//! What the engine takes from outside: who we are, what time it is, and randomness.
//!
//! Owns the only places where this program asks the system for them.

use crate::error::{Error, Result};
use crate::exit::Kind;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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
    let flag = Arc::default();
    signal_hook::flag::register(signal_hook::consts::SIGXFSZ, flag)
        .map(drop)
        .map_err(|cause| Error::io("cannot handle SIGXFSZ", &cause))
}

/// Signals that would end the program wait as long as this lives; then they do what they do otherwise. Once in a program.
pub struct HeldSignals {
    ends_at_once: Arc<AtomicBool>,
    came: Vec<(i32, Arc<AtomicBool>)>,
}

impl HeldSignals {
    /// Holds those that a terminal or an administrator sends, unless they are ignored.
    pub fn hold() -> Result<Self> {
        let cannot = |cause: std::io::Error| Error::io("cannot handle signals", &cause);
        let ends_at_once = Arc::new(AtomicBool::new(false));
        let ignored = ignored_signals();
        let mut came = Vec::new();
        for signal in [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|signal| ignored & 1 << (signal - 1) == 0)
        {
            let flag = Arc::new(AtomicBool::new(false));
            // There is no way back to what was before: from then on the first one does what the system would.
            signal_hook::flag::register_conditional_default(signal, Arc::clone(&ends_at_once))
                .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&flag)))
                .map_err(cannot)?;
            came.push((signal, flag));
        }
        Ok(Self { ends_at_once, came })
    }
}

impl Drop for HeldSignals {
    fn drop(&mut self) {
        self.ends_at_once.store(true, Ordering::SeqCst);
        for (signal, _) in self.came.iter().filter(|(_, came)| came.load(Ordering::SeqCst)) {
            // It ends the program; if it cannot, the work goes on.
            let _ = signal_hook::low_level::emulate_default_handler(*signal);
        }
    }
}

/// A bit for each signal that somebody, as `nohup`, lets this program ignore.
fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

fn no_randomness(cause: getrandom::Error) -> Error {
    Error::new(Kind::Failure, format!("the system gives no random numbers: {cause}"))
        .hint("check that the system allows getrandom(2)")
}
