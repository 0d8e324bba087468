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
    let metadata = Watched::new(files::open(path, false)?, "checking", output);
    let bar = metadata.bar();
    let report = vellum_dm_bridge::check(metadata);
    bar.finish_and_clear();
    let view = view_of(&report.map_err(|error| super::explained(path, &error))?);
    output.result(&view, text::check)?;
    if view.clean { Ok(()) } else { Err(damaged(path, &view)) }
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
