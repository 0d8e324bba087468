//! Finds files that no target reaches: they look alive and are never compiled.
//!
//! Owns Cargo's rules for where targets and modules lie, as far as this repository uses them. `#[path]` is refused,
//! because a module should be found where its name says.

use crate::code;
use crate::tree::{File, join};
use std::collections::BTreeSet;

/// Files that are reached neither from a target of a manifest nor by a `mod` line.
pub fn dead_files(files: &[File]) -> Vec<String> {
    let mut reached = BTreeSet::new();
    for manifest in files.iter().filter(|file| file.name() == "Cargo.toml") {
        for root in targets(manifest, files) {
            reach(&root, true, files, &mut reached);
        }
    }
    let dead = files.iter().filter(|file| file.is_rust() && !reached.contains(&file.path));
    let mut complaints: Vec<_> = dead.map(|file| format!("{}: no `mod` line or target", file.path)).collect();
    let renamed = files.iter().filter(|file| file.is_rust() && code::code_of(&file.text).contains("#[path"));
    complaints.extend(renamed.map(|file| format!("{}: uses `#[path]`", file.path)));
    complaints
}

/// The root files of a package's targets: those it names, and those that Cargo finds by itself.
fn targets(manifest: &File, files: &[File]) -> Vec<String> {
    if !manifest.text.contains("[package]") {
        return Vec::new();
    }
    let named = manifest.text.lines().filter_map(|line| line.strip_prefix("path = \"")?.strip_suffix('"'));
    let mut roots: Vec<String> = named.map(|path| join(manifest.folder(), path)).collect();
    roots.extend(["src/lib.rs", "src/main.rs", "build.rs"].map(|path| join(manifest.folder(), path)));
    for folder in ["src/bin", "examples", "tests", "benches"] {
        let folder = join(manifest.folder(), folder);
        roots.extend(files.iter().filter(|file| file.folder() == folder).map(|file| file.path.clone()));
    }
    roots
}

fn reach(path: &str, is_root: bool, files: &[File], reached: &mut BTreeSet<String>) {
    let Some(file) = files.iter().find(|file| file.path == path && file.is_rust()) else { return };
    if !reached.insert(path.to_owned()) {
        return;
    }
    let stem = path.trim_end_matches(".rs");
    let folder = if is_root || file.name() == "mod.rs" { file.folder() } else { stem };
    for module in modules_of(&code::code_of(&file.text)) {
        reach(&join(folder, &format!("{module}.rs")), false, files, reached);
        reach(&join(folder, &format!("{module}/mod.rs")), false, files, reached);
    }
}

/// The names in lines of the form `mod name;`.
fn modules_of(code: &str) -> Vec<String> {
    let statements =
        code.split_inclusive([';', '{', '}']).filter_map(|statement| statement.strip_suffix(';'));
    let module = |statement: &str| {
        let words: Vec<&str> = code::words(statement).collect();
        match words[..] {
            [.., "mod", name] => Some(name.to_owned()),
            _ => None,
        }
    };
    statements.filter_map(module).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_a_way_to_it_is_found() {
        let file = |path: &str, text: &str| File { path: path.into(), text: text.into() };
        let files = [
            file("a/Cargo.toml", "[package]\n[[test]]\npath = \"deep/main.rs\"\n"),
            file("a/src/lib.rs", "pub mod one;\n// mod dead;\n#[cfg(test)]\nmod two;"),
            file("a/src/one.rs", "mod inner;"),
            file("a/src/one/inner.rs", ""),
            file("a/src/two/mod.rs", "mod leaf;"),
            file("a/src/two/leaf.rs", ""),
            file("a/src/dead.rs", "mod also_dead;"),
            file("a/src/also_dead.rs", ""),
            file("a/deep/main.rs", "mod side;"),
            file("a/deep/side.rs", "#[path = \"x.rs\"] mod x;"),
            file("a/examples/show.rs", ""),
        ];
        let complaints = dead_files(&files);
        assert_eq!(complaints.len(), 3, "{complaints:?}");
        assert!(
            complaints[0].starts_with("a/src/dead.rs") && complaints[1].starts_with("a/src/also_dead.rs")
        );
        assert!(complaints[2].starts_with("a/deep/side.rs"));
    }
}
