//! `vellum pool repair`: what could be saved, a new metadata file, and its taking the old one's place.
//!
//! Owns the order: a trial in memory tells what is lost and how much space is needed, then the new file is written, and
//! only `--commit` changes the pool. Read next: `new_metadata.rs`.

use crate::arguments::PoolRepair;
use crate::error::{Error, Result};
use crate::exit::Kind;
use crate::host;
use crate::new_metadata::NewMetadata;
use crate::output::{Output, text};
use crate::pool_directory::{Disks, PoolDirectory};
use crate::size::Size;
use crate::views::{AffectedView, FindingView, RepairView};
use indicatif::{ProgressBar, ProgressStyle};
use vellum_engine::error::Error as EngineError;
use vellum_engine::repair::{Progress, Repair, RepairOptions, RepairReport};
use vellum_engine::storage::{Disk, MemoryDisk};

pub fn run(arguments: &PoolRepair, directory: &PoolDirectory, output: Output) -> Result<()> {
    let options = RepairOptions { nonce: host::new_nonce()?, secret: host::new_secret()? };
    // Whoever changes the pool keeps others out for all the time, and not only others who write.
    let mut disks =
        if arguments.commit { directory.open_disks()? } else { directory.open_disks_read_only()? };
    let trial = made(&mut disks, &mut MemoryDisk::new(0), &options, "examining", directory, output)?;
    let mut view = view_of(&trial.report);
    if arguments.output.is_none() && !arguments.commit {
        return output.result(&view, text::repair);
    }
    let new = NewMetadata::at(directory, arguments.output.as_deref());
    if arguments.commit {
        new.require_unkept()?;
    }
    new.require_room(trial.report.metadata_bytes)?;
    let mut target = new.create()?;
    output.note(&format!(
        "writing {} of new metadata to '{}'",
        Size(trial.report.metadata_bytes),
        new.path().display()
    ));
    let repair = made(&mut disks, &mut target, &options, "writing", directory, output);
    let repair = repair.inspect_err(|_| new.discard())?;
    new.sync_directory()?;
    view.output = Some(new.path().display().to_string());
    if arguments.commit {
        let kept = new.take_place()?;
        repair.commit(&mut disks.data)?;
        view.committed = true;
        view.output = Some(directory.metadata().display().to_string());
        view.kept = Some(kept.display().to_string());
    }
    output.result(&view, text::repair)
}

fn made(
    disks: &mut Disks,
    target: &mut dyn Disk,
    options: &RepairOptions,
    what: &str,
    directory: &PoolDirectory,
    output: Output,
) -> Result<Repair> {
    let bar = if output.shows_progress() { progress_bar(what) } else { ProgressBar::hidden() };
    let mut progress = |progress: Progress| {
        bar.set_length(progress.pages_total);
        bar.set_position(progress.pages_done);
    };
    let Disks { data, metadata } = disks;
    let repair = vellum_engine::repair(data, metadata, target, options, &mut progress);
    bar.finish_and_clear();
    repair.map_err(|error| explained(directory, error))
}

fn explained(directory: &PoolDirectory, error: EngineError) -> Error {
    let error = directory.explain(error);
    match error.kind() {
        Kind::Damaged => error.hint("keep a copy of both files; `vellum pool check` tells what is affected"),
        _ => error,
    }
}

fn progress_bar(what: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(&format!("{what} {{bar:40}} {{pos}}/{{len}} pages"));
    ProgressBar::new(1).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn view_of(report: &RepairReport) -> RepairView {
    let problem = |error: &EngineError| FindingView {
        kind: error.kind().into(),
        place: error.place().map(|place| place.to_string()),
        message: error.message().to_owned(),
        affected: Vec::new(),
    };
    let losses = report.losses.iter().map(|loss| AffectedView {
        name: loss.name.clone(),
        offset_bytes: loss.offset_bytes,
        length_bytes: loss.length_bytes,
    });
    RepairView {
        problems: report.problems.iter().map(problem).collect(),
        reattached_pages: report.reattached_pages,
        records_lost: report.records_lost,
        recovered_volumes: report.recovered_volumes.clone(),
        skipped_changes: report.skipped_deltas,
        log_records: report.records,
        volumes: report.volumes,
        losses: losses.collect(),
        lost_bytes: report.lost_bytes(),
        metadata_bytes: report.metadata_bytes,
        output: None,
        committed: false,
        kept: None,
    }
}
