//! Names of volumes and snapshots, looked at before anything is opened.
//!
//! Owns the hints about them. What is legal is the engine's word.

use crate::error::{Error, Result};
use crate::exit::Kind;
use vellum_engine::format::{VolumeKind, check_name};

const VOLUME_HINT: &str = "a volume's name is 1 to 255 bytes without @, as in `disk` or `group/disk`";
const SNAPSHOT_HINT: &str = "a snapshot's name is VOLUME@NAME, as in `disk@monday`";

/// Whether a volume may have this name.
pub fn check_volume(name: &str) -> Result<()> {
    check(VolumeKind::Volume, name, VOLUME_HINT)
}

/// Whether a snapshot may have this name.
pub fn check_snapshot(name: &str) -> Result<()> {
    check(VolumeKind::Snapshot, name, SNAPSHOT_HINT)
}

/// Whether anything may have this name.
pub fn check_any(name: &str) -> Result<()> {
    if is_snapshot(name) { check_snapshot(name) } else { check_volume(name) }
}

fn check(kind: VolumeKind, name: &str, hint: &'static str) -> Result<()> {
    check_name(kind, name).map_err(|error| {
        Error::new(error.kind().into(), format!("'{}': {}", name.escape_debug(), error.message())).hint(hint)
    })
}

/// Whether the name is one of a snapshot.
pub fn is_snapshot(name: &str) -> bool {
    name.contains('@')
}

/// The volume of a snapshot's name.
pub fn volume_of(snapshot: &str) -> Result<&str> {
    check_snapshot(snapshot)?;
    Ok(snapshot.split('@').next().unwrap_or(snapshot))
}

/// The error for a name that nothing has.
pub fn not_found(name: &str) -> Error {
    let (what, list) =
        if is_snapshot(name) { ("snapshot", "snapshot list") } else { ("volume", "volume list") };
    Error::new(Kind::NotFound, format!("there is no {what} '{}'", name.escape_debug()))
        .hint(format!("`vellum {list}` shows what there is"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart() {
        assert_eq!(volume_of("group/disk@monday").unwrap(), "group/disk");
        for wrong in ["disk", "a@b@c", "@b", "a@"] {
            assert_eq!(volume_of(wrong).unwrap_err().kind(), Kind::Invalid, "{wrong}");
        }
        for wrong in ["a@b", "", "a//b", "/a", "a\nb"] {
            let error = check_volume(wrong).unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid);
            assert_eq!(error.to_string().lines().count(), 2);
        }
    }
}
