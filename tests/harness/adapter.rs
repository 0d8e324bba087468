//! What the harness takes from the engine, in one place.
//!
//! Owns nothing. If the engine's outer shape changes, this file follows.

use vellum_engine::error::Result;
use vellum_engine::format::VolumeKind;
use vellum_engine::storage::Disk;
pub use vellum_engine::{Core, Side, VolumeInfo, create, open};

/// Whether it is a snapshot.
pub fn is_snapshot(info: &VolumeInfo) -> bool {
    info.kind == VolumeKind::Snapshot
}

/// Checks every invariant of a pool that is at rest; the findings, in words.
///
/// # Errors
/// If the check cannot be carried out.
pub fn check(data: &mut dyn Disk, metadata: &mut dyn Disk) -> Result<Vec<String>> {
    let report = vellum_engine::check(data, metadata, &mut |_| {})?;
    Ok(report.findings.iter().map(|finding| finding.error.to_string()).collect())
}
