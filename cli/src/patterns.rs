//! Patterns for volumes, as in `db-*@nightly`, and for snapshots that are there.
//!
//! Owns what a pattern matches: `*` and `?` inside a group, `**` for any number of groups, `[ab]` and `{a,b}` choose. A volume that is
//! called exactly as the pattern is meant alone.

use crate::error::{Error, Result};
use crate::exit::Kind;
use crate::names;
use globset::GlobBuilder;
use vellum_engine::VolumeInfo;
use vellum_engine::format::VolumeKind;

const SPECIAL: &[char] = &['*', '?', '[', '{'];

/// Names of snapshots, with the volumes that a pattern matches in its place, in order of their numbers. What several
/// patterns match is there once.
pub fn expand(names: &[String], all: &[VolumeInfo]) -> Result<Vec<String>> {
    let mut expanded: Vec<String> = Vec::new();
    for name in names {
        let volume = names::volume_of(name)?;
        let is_there = all.iter().any(|info| info.name == volume);
        if is_there || !volume.contains(SPECIAL) {
            expanded.push(name.clone());
            continue;
        }
        for matched in matching(volume, all)? {
            let snapshot = format!("{matched}{}", &name[volume.len()..]);
            if !expanded.contains(&snapshot) && !names.contains(&snapshot) {
                expanded.push(snapshot);
            }
        }
    }
    Ok(expanded)
}

/// The volumes and snapshots of these names and patterns, each once, in order of their numbers. A pattern without `@`
/// matches volumes, one with `@` snapshots.
pub fn select<'a>(names: &[String], all: &'a [VolumeInfo]) -> Result<Vec<&'a VolumeInfo>> {
    let mut selected: Vec<&str> = Vec::new();
    for name in names {
        match all.iter().find(|info| info.name == *name) {
            Some(info) => selected.push(&info.name),
            None if name.contains(SPECIAL) => selected.extend(matching(name, all)?),
            None => {
                names::check_any(name)?;
                return Err(names::not_found(name));
            }
        }
    }
    Ok(all.iter().filter(|info| selected.contains(&info.name.as_str())).collect())
}

/// The names that `pattern` matches: of snapshots if it has an `@`, else of volumes.
fn matching<'a>(pattern: &str, all: &'a [VolumeInfo]) -> Result<Vec<&'a str>> {
    let is_for_snapshots = names::is_snapshot(pattern);
    let glob = GlobBuilder::new(pattern).literal_separator(true).backslash_escape(false).build();
    let glob = glob.map_err(|cause| {
        let message = format!("'{}' is no pattern: {}", pattern.escape_debug(), cause.kind());
        Error::new(Kind::Invalid, message).hint("`*`, `?`, `**`, `[ab]` and `{a,b}` can be used")
    })?;
    let matcher = glob.compile_matcher();
    let kind = if is_for_snapshots { VolumeKind::Snapshot } else { VolumeKind::Volume };
    let volumes = all.iter().filter(|info| info.kind == kind);
    let matched: Vec<&str> =
        volumes.map(|info| info.name.as_str()).filter(|name| matcher.is_match(name)).collect();
    if matched.is_empty() {
        let noun = if is_for_snapshots { "snapshot" } else { "volume" };
        let message = format!("no {noun} matches '{}'", pattern.escape_debug());
        return Err(Error::new(Kind::NotFound, message).hint(format!(
            "`vellum {noun} list` shows what there is; quote a pattern, so that the shell leaves it alone"
        )));
    }
    Ok(matched)
}

#[cfg(test)]
mod tests {
    use super::*;
    use vellum_engine::units::VolumeId;

    fn volume(name: &&str) -> VolumeInfo {
        VolumeInfo {
            id: VolumeId(1),
            uuid: [0; 16],
            name: (*name).to_owned(),
            kind: if name.contains('@') { VolumeKind::Snapshot } else { VolumeKind::Volume },
            origin: None,
            size_bytes: 4096,
            mapped_blocks: 0,
            created_unix_s: 0,
            generation: vellum_engine::units::Generation(1),
            holds: Vec::new(),
            deletion_deferred: false,
            properties: Default::default(),
        }
    }

    fn expanded(names: &[&str]) -> Result<Vec<String>> {
        let all = ["db-1", "db-2", "db-2@old", "web", "group/db-3", "odd[x]"];
        let all: Vec<VolumeInfo> = all.iter().map(volume).collect();
        expand(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>(), &all)
    }

    #[test]
    fn patterns_match_volumes_and_nothing_else() {
        assert_eq!(expanded(&["db-*@n"]).unwrap(), ["db-1@n", "db-2@n"]);
        assert_eq!(expanded(&["**/db-?@n"]).unwrap(), ["db-1@n", "db-2@n", "group/db-3@n"]);
        assert_eq!(expanded(&["{web,db-[2-9]}@n", "*/*@n"]).unwrap(), ["db-2@n", "web@n", "group/db-3@n"]);
        assert_eq!(expanded(&["web@n", "*@n"]).unwrap().len(), 4, "each once");
        assert_eq!(expanded(&["odd[x]@n"]).unwrap(), ["odd[x]@n"], "its name goes first");
        assert_eq!(expanded(&["nope@n", "web@n"]).unwrap(), ["nope@n", "web@n"]);
    }

    #[test]
    fn patterns_select_volumes_or_snapshots() {
        let all = ["db-1", "db-2", "db-2@old", "web@old", "odd[x]"];
        let all: Vec<VolumeInfo> = all.iter().map(volume).collect();
        let selected = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            select(&names, &all).map(|infos| infos.iter().map(|info| info.name.clone()).collect::<Vec<_>>())
        };
        assert_eq!(selected(&["db-*"]).unwrap(), ["db-1", "db-2"]);
        assert_eq!(selected(&["*@old", "db-?", "db-1"]).unwrap(), ["db-1", "db-2", "db-2@old", "web@old"]);
        assert_eq!(selected(&["odd[x]"]).unwrap(), ["odd[x]"]);
        assert_eq!(selected(&["db-1", "nope"]).unwrap_err().kind(), Kind::NotFound);
        assert_eq!(selected(&["db-1@*"]).unwrap_err().kind(), Kind::NotFound);
        assert_eq!(selected(&[""]).unwrap_err().kind(), Kind::Invalid);
    }

    #[test]
    fn what_matches_nothing_is_an_error() {
        assert_eq!(expanded(&["x*@n"]).unwrap_err().kind(), Kind::NotFound);
        assert_eq!(expanded(&["db-[@n"]).unwrap_err().kind(), Kind::Invalid);
        assert_eq!(expanded(&["db-*"]).unwrap_err().kind(), Kind::Invalid);
    }
}
