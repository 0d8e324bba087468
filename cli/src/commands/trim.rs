//! `vellum pool trim`: has the host take back everything that is free, part by part.
//!
//! Owns the way through the pool, what is told meanwhile, and how much came back.

use crate::error::Result;
use crate::manage::{Manage, with_pool};
use crate::output::{Output, text};
use crate::pool_directory::PoolDirectory;
use crate::views::{TrimReportView, TrimView};
use indicatif::{ProgressBar, ProgressStyle};

pub fn run(directory: &PoolDirectory, output: Output) -> Result<()> {
    let bar = if output.shows_progress() { progress_bar() } else { ProgressBar::hidden() };
    let trimmed = with_pool(directory, |pool| trim(pool, &bar));
    bar.finish_and_clear();
    let trimmed = trimmed?;
    // Closing a pool that is not served gives back what it had kept ready.
    let (host_data_bytes, _) = directory.host_bytes();
    output.result(&report(trimmed, host_data_bytes), text::trim)
}

/// What was punched, and what the host held before.
type Trimmed = (u64, Option<u64>);

fn trim(pool: &mut dyn Manage, bar: &ProgressBar) -> Result<Trimmed> {
    let before = pool.status()?;
    bar.set_length(before.size_bytes);
    let (mut part, mut punched_bytes) = (TrimView::default(), 0);
    loop {
        let trimmed = pool.trim(&part)?;
        punched_bytes += trimmed.punched_bytes;
        let Some(next) = trimmed.next_bytes else { break };
        bar.set_position(next);
        part.offset_bytes = next;
    }
    Ok((punched_bytes, before.host_data_bytes))
}

fn report((punched_bytes, before): Trimmed, host_data_bytes: Option<u64>) -> TrimReportView {
    let returned_bytes = before.zip(host_data_bytes).map(|(before, now)| before.saturating_sub(now));
    TrimReportView { punched_bytes, returned_bytes, host_data_bytes }
}

fn progress_bar() -> ProgressBar {
    let style = ProgressStyle::with_template("trimming {bar:40} {bytes}/{total_bytes}");
    ProgressBar::new(1).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
