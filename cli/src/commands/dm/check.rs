//! `vellum dm check`: what is wrong with metadata of dm-thin.
//!
//! Owns what a finding becomes as a view. What is checked is the bridge's.

use super::files::{self, Watched};
use crate::error::{Error, Result};
use crate::exit::Kind;
use crate::output::{Output, dm as text};
use crate::views::{DmCheckView, DmFindingView};
use std::path::Path;
use vellum_dm_bridge::{Finding, Place, Report};

pub fn run(path: &Path, output: Output) -> Result<()> {
    let view = checked(path, output)?;
    output.result(&view, text::check)?;
    if view.clean { Ok(()) } else { Err(damaged(path, &view)) }
}

fn checked(path: &Path, output: Output) -> Result<DmCheckView> {
    let metadata = Watched::new(files::open(path, false)?, "checking", output);
    let bar = metadata.bar();
    let report = vellum_dm_bridge::check(metadata);
    bar.finish_and_clear();
    Ok(view_of(&report.map_err(|error| super::explained(path, &error))?))
}

/// Metadata of a pool that the kernel gets, or that comes back from it, must be what the kernel wrote.
pub(super) fn require_sound(path: &Path, output: Output) -> Result<()> {
    if super::export::interrupted(path).is_some_and(|mark| mark != [0; 24]) {
        let message = format!("the export to '{}' was interrupted", path.display());
        let hint = format!("run `vellum dm export --metadata {}` again to its end", path.display());
        return Err(Error::new(Kind::InUse, message).hint(hint));
    }
    let view = checked(path, output)?;
    let Some(first) = view.findings.first() else { return Ok(()) };
    let message = format!("{}: {}", damaged(path, &view).message(), first.message);
    Err(Error::new(Kind::Damaged, message)
        .hint("`vellum dm check` tells what is affected; `vellum dm import --lenient` saves what is left"))
}

/// What a check that was not clean ends with.
fn damaged(path: &Path, view: &DmCheckView) -> Error {
    let count = view.findings.len() as u64 + view.unlisted_findings;
    let findings = if count == 1 { "1 finding".to_owned() } else { format!("{count} findings") };
    Error::new(Kind::Damaged, format!("'{}' is damaged: {findings}", path.display()))
        .hint("keep a copy; `vellum dm dump --lenient` writes what can be read, `vellum dm restore` makes new metadata of it")
}

pub(super) fn view_of(report: &Report) -> DmCheckView {
    DmCheckView {
        clean: report.is_clean(),
        needs_check: report.needs_check,
        is_picture: report.is_picture,
        findings: report.findings.iter().map(finding_view).collect(),
        unlisted_findings: report.not_kept,
        counts_incomplete: report.counts_incomplete,
        devices: report.devices,
        mappings: report.mappings,
        data_blocks_used: report.data_blocks_used,
        metadata_blocks_used: report.metadata_blocks_used,
    }
}

fn finding_view(finding: &Finding) -> DmFindingView {
    let cost = finding.cost.to_string();
    DmFindingView {
        defect: kebab(&format!("{:?}", finding.defect)),
        place: Some(finding.place).filter(|place| *place != Place::default()).map(|place| place.to_string()),
        message: finding.text.clone(),
        cost: Some(cost.trim_start_matches("; ").to_owned()).filter(|cost| !cost.is_empty()),
    }
}

/// `CountTooLow` as `count-too-low`.
fn kebab(name: &str) -> String {
    let mut out = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !out.is_empty() {
            out.push('-');
        }
        out.push(letter.to_ascii_lowercase());
    }
    out
}
