//! `vellum pool shrink`: what has to be moved, its progress, and what the host got back.
//!
//! Owns the words. The order of it, and why it may be interrupted, is `shrink_pool`'s in the engine.

use crate::arguments::PoolSize;
use crate::error::{Error, Result};
use crate::exit::Kind;
use crate::host;
use crate::output::{Output, text};
use crate::pool_directory::{Disks, PoolDirectory};
use crate::size::{self, Size};
use crate::views::ShrinkView;
use indicatif::{ProgressBar, ProgressStyle};
use vellum_engine::error::Error as EngineError;
use vellum_engine::shrink_pool::{Progress, ShrinkOptions, ShrinkReport};
use vellum_engine::units::BLOCK_BYTES;

pub fn run(size: &PoolSize, directory: &PoolDirectory, output: Output) -> Result<()> {
    super::pool::refuse_served(directory)?;
    let to_blocks = size::pool_blocks(size.bytes())?;
    let mut disks = directory.open_disks()?;
    let options = ShrinkOptions::new(to_blocks, host::open_options(&disks.data)?);
    let (host_before, _) = directory.host_bytes();
    let report = shrunk(&mut disks, &options, directory, output)?;
    let (host_after, _) = directory.host_bytes();
    let returned = host_before.zip(host_after).map(|(before, after)| before.saturating_sub(after));
    output.result(&view_of(&report, returned), text::shrunk)
}

fn shrunk(
    disks: &mut Disks,
    options: &ShrinkOptions,
    directory: &PoolDirectory,
    output: Output,
) -> Result<ShrinkReport> {
    let bar = if output.shows_progress() { progress_bar() } else { ProgressBar::hidden() };
    let mut is_planned = false;
    let mut progress = |progress: Progress| {
        let [done, total] = [progress.blocks_done, progress.blocks_total].map(|blocks| blocks * BLOCK_BYTES);
        if !std::mem::replace(&mut is_planned, true) {
            output.note(&plan(total, options.to_blocks));
        }
        bar.set_length(total);
        bar.set_position(done);
    };
    let Disks { data, metadata } = disks;
    let report = vellum_engine::shrink_pool(data, metadata, options, &mut progress);
    bar.finish_and_clear();
    report.map_err(|error| explained(directory, error))
}

fn plan(total_bytes: u64, to_blocks: u64) -> String {
    let end = Size(to_blocks * BLOCK_BYTES);
    match total_bytes {
        0 => format!("nothing has to be moved to let the pool end at {end}"),
        _ => format!(
            "moving {} to let the pool end at {end}; to interrupt this harms nothing",
            Size(total_bytes)
        ),
    }
}

fn explained(directory: &PoolDirectory, error: EngineError) -> Error {
    let error = directory.explain(error);
    match error.kind() {
        Kind::Invalid => error.hint("`vellum pool extend` makes it larger"),
        Kind::NoSpace => {
            error.hint("give a larger size, or delete volumes or snapshots; the pool is as large as it was")
        }
        Kind::Damaged => {
            error.hint("`vellum pool check` tells what is affected; the pool is as large as it was")
        }
        _ => error,
    }
}

fn progress_bar() -> ProgressBar {
    let style =
        ProgressStyle::with_template("moving {bar:40} {binary_bytes}/{binary_total_bytes}, {eta} left");
    ProgressBar::new(1).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn view_of(report: &ShrinkReport, returned_bytes: Option<u64>) -> ShrinkView {
    ShrinkView {
        size_bytes: report.to_blocks * BLOCK_BYTES,
        size_before_bytes: report.from_blocks * BLOCK_BYTES,
        used_bytes: report.used_blocks * BLOCK_BYTES,
        moved_bytes: report.moved_blocks * BLOCK_BYTES,
        returned_bytes,
        truncated: report.truncated,
    }
}
