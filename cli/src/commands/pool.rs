//! `vellum pool`: make it, show it, check it, look into it. Its repair is `repair.rs`, its shrinking `shrink.rs`.
//!
//! Owns what a check and an inspection become as views. Both read the files themselves, so a served pool is in use.

use crate::arguments::{InspectCommand, PoolCommand, PoolCreate};
use crate::error::{Error, Result};
use crate::exit::Kind;
use crate::manage::{self, Files, Growth, Manage, Remote};
use crate::output::{Output, text};
use crate::pool_directory::{Disks, NewDisks, PoolDirectory};
use crate::size::Size;
use crate::views::{AffectedView, CheckView, ConfigurationView, FindingView, InspectView, StructureView};
use indicatif::{ProgressBar, ProgressStyle};
use vellum_engine::check::{CheckReport, Finding, Progress};
use vellum_engine::inspect::{self, Checksum, Inspection, LogEntry, LogState};
use vellum_engine::storage::Disk;
use vellum_engine::units::{PAGE_BYTES, PageNumber};

pub fn run(command: &PoolCommand, directory: &PoolDirectory, output: Output) -> Result<()> {
    match command {
        PoolCommand::Create(create) => make(create, directory, output),
        PoolCommand::Status => {
            output.result(&manage::with_pool(directory, |pool| pool.status())?, text::pool)
        }
        PoolCommand::Extend { size } => {
            let view = manage::with_pool(directory, |pool| pool.extend(size.bytes()))?;
            output.result(&view, text::pool)
        }
        PoolCommand::Set { settings } => {
            let change =
                settings.iter().map(|setting| (setting.key.clone(), setting.value.clone())).collect();
            let change = ConfigurationView { settings: change };
            let view = manage::with_pool(directory, |pool| pool.configure(&change))?;
            output.result(&view, text::pool)
        }
        PoolCommand::Trim => super::trim::run(directory, output),
        PoolCommand::Shrink { size } => super::shrink::run(size, directory, output),
        PoolCommand::Check => check(directory, output),
        PoolCommand::Repair(arguments) => super::repair::run(arguments, directory, output),
        PoolCommand::Inspect(what) => {
            let view = InspectView { structures: look_at(what, directory)? };
            output.result(&view, text::structures)
        }
    }
}

fn make(create: &PoolCreate, directory: &PoolDirectory, output: Output) -> Result<()> {
    refuse_served(directory)?;
    let new = NewDisks { data: create.data.clone(), metadata: create.metadata.clone(), force: create.force };
    let growth = match create.max_size {
        Some(Size(bytes)) if bytes < create.size.0 => {
            return Err(Error::new(Kind::Usage, "--max-size is less than --size")
                .hint("give as much or more, or --no-auto-extend"));
        }
        Some(Size(bytes)) => Growth::To(bytes),
        None if create.no_auto_extend => Growth::Never,
        None => Growth::Default,
    };
    let mut pool = Box::new(Files::create(directory, create.size.0, &new, growth)?);
    let view = pool.status()?;
    pool.close()?;
    output.result(&view, text::pool)
}

pub(super) fn refuse_served(directory: &PoolDirectory) -> Result<()> {
    match Remote::connect(&directory.control_socket())? {
        None => Ok(()),
        Some(_) => Err(Error::new(Kind::InUse, format!("'{}' is being served", directory.path().display()))
            .hint("stop its server first")),
    }
}

fn check(directory: &PoolDirectory, output: Output) -> Result<()> {
    let Disks { mut data, mut metadata } = directory.open_disks_read_only()?;
    let bar = if output.shows_progress() { progress_bar() } else { ProgressBar::hidden() };
    let mut progress = |progress: Progress| {
        bar.set_length(progress.pages_total);
        bar.set_position(progress.pages_done);
    };
    let report = vellum_engine::check(&mut data, &mut metadata, &mut progress);
    bar.finish_and_clear();
    let view = check_view(&report.map_err(|error| directory.explain(error))?);
    output.result(&view, text::check)?;
    if view.clean {
        return Ok(());
    }
    let count = view.findings.len() as u64 + view.unlisted_findings;
    let findings = if count == 1 { "1 finding".to_owned() } else { format!("{count} findings") };
    Err(Error::new(Kind::Damaged, format!("'{}' is damaged: {findings}", directory.path().display()))
        .hint("keep a copy of both files; `vellum pool repair` tells what can be saved, and writes nothing by itself"))
}

fn progress_bar() -> ProgressBar {
    let style = ProgressStyle::with_template("checking {bar:40} {pos}/{len} pages");
    ProgressBar::new(1).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn check_view(report: &CheckReport) -> CheckView {
    CheckView {
        clean: report.is_clean(),
        findings: report.findings.iter().map(finding_view).collect(),
        unlisted_findings: report.unlisted_findings,
        information: report.information.iter().map(ToString::to_string).collect(),
        pages: report.pages,
        mappings: report.mappings,
        volumes: report.volumes,
    }
}

fn finding_view(finding: &Finding) -> FindingView {
    let affected = finding.affected.iter().map(|affected| AffectedView {
        name: affected.name.clone(),
        offset_bytes: affected.offset_bytes,
        length_bytes: affected.length_bytes,
    });
    FindingView {
        kind: finding.error.kind().into(),
        place: finding.error.place().map(|place| place.to_string()),
        message: finding.error.message().to_owned(),
        affected: affected.collect(),
    }
}

fn look_at(what: &InspectCommand, directory: &PoolDirectory) -> Result<Vec<StructureView>> {
    let Disks { mut data, mut metadata } = directory.open_disks_read_only()?;
    match what {
        InspectCommand::Slots => {
            let pages = inspect::summary(&mut metadata).pages;
            Ok(pages.into_iter().map(|(number, found)| page_view(number, found)).collect())
        }
        InspectCommand::Log => {
            let log = inspect::log(&mut data, &mut metadata).map_err(|error| directory.explain(error))?;
            Ok(log_views(&log))
        }
        InspectCommand::Page { numbers } => {
            let pages = metadata.size_bytes() / PAGE_BYTES as u64;
            let look = |number: &u64| {
                if *number >= pages {
                    return Err(Error::new(Kind::Invalid, format!("there is no page {number}"))
                        .hint(format!("the metadata has the pages 0 to {}", pages.saturating_sub(1))));
                }
                let number = PageNumber(*number);
                Ok(page_view(number, inspect::metadata_page(&mut metadata, number)))
            };
            numbers.iter().map(look).collect()
        }
    }
}

fn page_view(number: PageNumber, found: vellum_engine::error::Result<Inspection>) -> StructureView {
    let file = "metadata".to_owned();
    let offset_bytes = Some(number.offset_bytes());
    match found {
        Ok(found) => StructureView { file, offset_bytes, ..structure(&format!("page {number}: "), &found) },
        Err(error) => StructureView {
            file,
            offset_bytes,
            checksum: None,
            problems: vec![error.to_string()],
            text: format!("page {number}: {error}"),
        },
    }
}

/// A structure somewhere in the data file.
fn structure(title: &str, found: &Inspection) -> StructureView {
    let checksum = match found.checksum {
        Checksum::Right => "right",
        Checksum::Wrong => "wrong",
        Checksum::NeedsSecret => "needs-secret",
        Checksum::None => "none",
    };
    StructureView {
        file: "data".to_owned(),
        offset_bytes: None,
        checksum: Some(checksum.to_owned()),
        problems: found.problems.iter().map(ToString::to_string).collect(),
        text: format!("{title}{found}"),
    }
}

fn log_views(log: &inspect::LogInspection) -> Vec<StructureView> {
    let heads = log.heads.iter().map(|head| structure("", head));
    // Shown one by one, each as the engine shows a log of one record, without its first line.
    let entries = log.entries.iter().map(|entry| log_entry(log, entry));
    heads.chain(entries).collect()
}

fn log_entry(log: &inspect::LogInspection, entry: &LogEntry) -> StructureView {
    let alone = inspect::LogInspection {
        heads: Vec::new(),
        slot: log.slot.clone(),
        pages: log.pages,
        entries: vec![entry.clone()],
    };
    let text = alone.to_string();
    let is_whole = entry.state != LogState::Invalid;
    StructureView {
        file: "data".to_owned(),
        offset_bytes: Some(entry.offset_bytes),
        checksum: Some(if is_whole { "right" } else { "wrong" }.to_owned()),
        problems: Vec::new(),
        text: text.split_once('\n').map_or("", |(_, rest)| rest).to_owned(),
    }
}
