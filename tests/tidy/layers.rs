//! Who may know whom: modules inside the engine, packages inside the workspace.
//!
//! Owns the two tables. A module or package that stands in no table is a complaint too, so that every new one is
//! given its place on purpose.

use crate::code;
use crate::tree::File;

/// A module of the engine and what it may name, itself apart. `docs/architecture.md` draws this.
/// Aligned memory is the one thing that `format` takes from `storage`: it makes pages, it does not move them.
const MODULES: [(&str, &str); 19] = [
    ("units", ""),
    ("canary", ""),
    ("error", "units"),
    ("options", "units error"),
    ("settings", "error"),
    ("request", "units error options settings"),
    ("format", "units error options request canary storage::Buffer"),
    ("storage", "units error"),
    ("metadata", "units error options settings request canary format storage"),
    ("data_path", "units error options settings request canary format storage metadata"),
    ("pool", "units error options settings request canary format storage metadata data_path"),
    ("shrink_pool", "units error options request canary format storage metadata pool check"),
    ("hand_over", "units error options request canary format storage metadata pool shrink_pool::settle"),
    ("adopt", "units error options format storage metadata hand_over pool check"),
    ("transfer", "units error request format"),
    ("picture", "units error request format transfer"),
    ("check", "units error options request format storage metadata"),
    ("inspect", "units error options request format storage metadata"),
    ("repair", "units error options request format storage metadata"),
];

/// A package and the packages of this workspace that it may depend on.
const PACKAGES: [(&str, &[&str]); 7] = [
    ("vellum-engine", &[]),
    ("vellum-nbd-server", &["vellum-engine"]),
    ("vellum-dm-bridge", &["vellum-engine"]),
    // The tests of the program use the harness; Cargo refuses a circle.
    ("vellum-cli", &["vellum-engine", "vellum-nbd-server", "vellum-dm-bridge", "vellum-tests"]),
    ("vellum-tests", &["vellum-engine", "vellum-nbd-server", "vellum-dm-bridge"]),
    ("vellum-benches", &["vellum-engine", "vellum-tests"]),
    ("vellum-fuzz", &["vellum-engine", "vellum-nbd-server", "vellum-dm-bridge"]),
];

const ENGINE: &str = "engine/src/";

/// References between modules of the engine that the table does not allow.
pub fn wrong_references(files: &[File]) -> Vec<String> {
    let mut complaints = Vec::new();
    for file in files {
        let Some(inside) = file.path.strip_prefix(ENGINE).filter(|inside| *inside != "lib.rs") else {
            continue;
        };
        let module = inside.split('/').next().unwrap_or(inside).trim_end_matches(".rs");
        let Some((_, allowed)) = MODULES.iter().find(|(name, _)| *name == module) else {
            complaints.push(format!("{}: the module `{module}` has no line in the layer table", file.path));
            continue;
        };
        for path in paths_from_root(inside, &code::code_of(&file.text)) {
            if !is_below(&path, module) && !is_below(&path, allowed) {
                complaints.push(format!("{}: `{module}` may not name `crate::{path}`", file.path));
            }
        }
    }
    complaints
}

/// The paths that `code` names from the root of its crate, by `crate::` or by enough `super::`.
fn paths_from_root(inside: &str, code: &str) -> Vec<String> {
    let depth = inside.split('/').filter(|part| *part != "mod.rs").count();
    let mut paths: Vec<String> =
        code::paths_behind(code, "crate::").map(|(_, path)| path.to_owned()).collect();
    for hops in depth..depth + 3 {
        let chain = "super::".repeat(hops);
        let at_root = |(at, path): &(usize, &str)| {
            !path.starts_with("super") && hops == depth + code::open_modules(&code[..*at])
        };
        paths.extend(code::paths_behind(code, &chain).filter(at_root).map(|(_, path)| path.to_owned()));
    }
    paths
}

/// Whether `path` is, or lies below, one of the blank-separated paths in `allowed`.
fn is_below(path: &str, allowed: &str) -> bool {
    let below =
        |known| path.strip_prefix(known).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"));
    allowed.split_whitespace().any(below)
}

/// Dependencies between packages of the workspace that the table does not allow.
pub fn wrong_dependencies(files: &[File]) -> Vec<String> {
    let mut complaints = Vec::new();
    for file in files.iter().filter(|file| file.name() == "Cargo.toml" && file.text.contains("[package]")) {
        let quoted = |line: &str| line.split('"').nth(1).map(str::to_owned);
        let package = file.text.lines().find(|line| line.starts_with("name = ")).and_then(quoted);
        let package = package.unwrap_or_default();
        let Some((_, allowed)) = PACKAGES.iter().find(|(name, _)| *name == package) else {
            complaints.push(format!("{}: the package `{package}` has no line in the layer table", file.path));
            continue;
        };
        let keys = file.text.lines().filter_map(|line| line.split([' ', '.', '=']).next());
        for dependency in keys.filter(|key| key.starts_with("vellum-") && !allowed.contains(key)) {
            complaints.push(format!("{}: `{package}` may not depend on `{dependency}`", file.path));
        }
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints(path: &str, text: &str) -> usize {
        wrong_references(&[File { path: format!("{ENGINE}{path}"), text: text.into() }]).len()
    }

    #[test]
    fn a_reference_upwards_is_found() {
        assert_eq!(complaints("format/page.rs", "use crate::units::PageNumber;"), 0);
        assert_eq!(complaints("format/page.rs", "use crate::format::codec;"), 0);
        assert_eq!(complaints("format/page.rs", "use crate::{units::PageNumber, metadata::tree};"), 1);
        assert_eq!(complaints("storage/mod.rs", "fn a() { crate::format::page::seal() }"), 1);
        assert_eq!(complaints("format/page.rs", "use crate::storage::Buffer;"), 0);
        assert_eq!(complaints("format/page.rs", "use crate::storage::Disk;"), 1);
        assert_eq!(complaints("units.rs", "use crate::error::Error;"), 1);
        assert_eq!(complaints("shelf.rs", ""), 1);
    }

    #[test]
    fn a_reference_by_way_of_super_is_found() {
        assert_eq!(complaints("format/page.rs", "use super::codec;"), 0);
        assert_eq!(complaints("format/page.rs", "use super::super::metadata::tree;"), 1);
        assert_eq!(complaints("format/mod.rs", "use super::metadata::tree;"), 1);
        assert_eq!(complaints("format/page.rs", "mod tests { use super::super::codec; }"), 0);
        assert_eq!(complaints("format/page.rs", "mod tests { use super::super::super::pool; }"), 1);
        assert_eq!(complaints("canary.rs", "mod switch { use super::Canary; }"), 0);
    }

    #[test]
    fn a_dependency_upwards_is_found() {
        let manifest = |path: &str, text: &str| File { path: path.into(), text: text.into() };
        let wrong =
            "[package]\nname = \"vellum-engine\"\n[dev-dependencies]\nvellum-tests.workspace = true\n";
        assert_eq!(wrong_dependencies(&[manifest("engine/Cargo.toml", wrong)]).len(), 1);
        let right =
            "[package]\nname = \"vellum-tests\"\n[dependencies]\nvellum-engine = { workspace = true }\n";
        assert_eq!(wrong_dependencies(&[manifest("tests/Cargo.toml", right)]).len(), 0);
    }
}
