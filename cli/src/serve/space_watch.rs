//! What people learn when the space of a served pool runs short: a line in the log, and a command of theirs.
//!
//! Owns the thread that waits for events. The newest event is what counts: while a command runs, older ones are passed
//! over. That nobody misses anything for long is the engine's doing: it tells again and again what is not well.

use crate::error::{Error, Result};
use crate::pool_directory::PoolDirectory;
use crate::size::Size;
use crate::views::SpaceState;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::Receiver;
use vellum_engine::{MetadataState, SpaceEvent};
use vellum_nbd_server::Handle;

/// Watches one pool.
pub struct SpaceWatch {
    pool: PathBuf,
    handle: Handle,
}

impl SpaceWatch {
    /// Watches until the server ends.
    pub fn start(directory: &PoolDirectory, handle: Handle, events: Receiver<SpaceEvent>) -> Result<()> {
        let watch = Self { pool: directory.path().to_owned(), handle };
        let builder = std::thread::Builder::new().name("space".to_owned());
        let started = builder.spawn(move || {
            while let Ok(event) = events.recv() {
                log_event(&event);
                let newest = events.try_iter().inspect(log_event).last().unwrap_or(event);
                watch.run_hook(&newest);
            }
        });
        started.map(drop).map_err(|cause| Error::io("cannot start a thread", &cause))
    }

    /// Runs the command of the pool, if it has one, and waits for its end.
    fn run_hook(&self, event: &SpaceEvent) {
        let hook = self.handle.settings().low_water_hook;
        if hook.is_empty() {
            return;
        }
        let command =
            Command::new("sh").args(["-c", &hook]).envs(self.variables(event)).stdin(Stdio::null()).status();
        match command {
            Ok(status) if status.success() => {}
            Ok(status) => log::warn!("on-low-water: '{hook}' ended with {status}"),
            Err(cause) => log::warn!("on-low-water: '{hook}' cannot be run: {cause}"),
        }
    }

    /// The figures, for the command's environment.
    fn variables(&self, event: &SpaceEvent) -> Vec<(&'static str, String)> {
        vec![
            ("VELLUM_POOL", self.pool.display().to_string()),
            ("VELLUM_EVENT", event.number.to_string()),
            ("VELLUM_SPACE_STATE", SpaceState::from(event.state).name().to_owned()),
            ("VELLUM_METADATA_STATE", metadata_word(event.metadata).to_owned()),
            ("VELLUM_SIZE_BYTES", event.pool_bytes.to_string()),
            ("VELLUM_FREE_BYTES", event.free_bytes.to_string()),
            ("VELLUM_LOW_WATER_BYTES", event.low_water_bytes.to_string()),
            ("VELLUM_WAITING_WRITES", event.stall.writes.to_string()),
            ("VELLUM_OLDEST_WAIT_S", (event.stall.oldest_ms / 1000).to_string()),
        ]
    }
}

fn metadata_word(state: MetadataState) -> &'static str {
    match state {
        MetadataState::Ok => "ok",
        MetadataState::NearFull => "near-full",
        MetadataState::Full => "full",
    }
}

fn log_event(event: &SpaceEvent) {
    let (free, size) = (Size(event.free_bytes), Size(event.pool_bytes));
    let figures = format!(
        "space {}: {free} of {size} free, {} writes waiting, metadata {} (event {})",
        SpaceState::from(event.state).name(),
        event.stall.writes,
        metadata_word(event.metadata),
        event.number
    );
    match SpaceState::from(event.state) {
        SpaceState::Ok => log::info!("{figures}"),
        _ => log::warn!("{figures}"),
    }
}
