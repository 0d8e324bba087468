//! Holds the rules of the tree itself: layers, module docs, where `unsafe` may stand, dead files, file length, links.
//!
//! Every rule is a function from the files of the repository to complaints, so that each is tested on a broken
//! tree too. Never looks at what the code does. Read next: `layers.rs` for the layer table.

mod code;
mod layers;
mod modules;
mod prose;
mod tree;

use tree::File;

const LINES_MAX: usize = 700;

#[test]
fn layers_inside_the_engine_point_down() {
    assert_none(layers::wrong_references(&tree::files()));
}

#[test]
fn packages_point_down() {
    assert_none(layers::wrong_dependencies(&tree::files()));
}

#[test]
fn every_file_is_reached_from_a_target() {
    assert_none(modules::dead_files(&tree::files()));
}

#[test]
fn every_file_says_what_it_owns() {
    assert_none(files_without_doc(&tree::files()));
}

#[test]
fn unsafe_stands_in_storage_only() {
    assert_none(unsafe_elsewhere(&tree::files()));
}

#[test]
fn no_file_is_longer_than_the_limit() {
    assert_none(long_files(&tree::files()));
}

#[test]
fn no_file_names_a_path_of_one_machine() {
    assert_none(prose::machine_paths(&tree::files()));
}

#[test]
fn links_lead_somewhere() {
    assert_none(prose::broken_links(&tree::files()));
}

fn assert_none(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

fn files_without_doc(files: &[File]) -> Vec<String> {
    let undocumented = |file: &&File| file.is_rust() && !file.text.starts_with("//! ");
    files.iter().filter(undocumented).map(|file| format!("{}: does not open with `//!`", file.path)).collect()
}

fn unsafe_elsewhere(files: &[File]) -> Vec<String> {
    let outside = |file: &&File| file.is_rust() && !file.path.starts_with("engine/src/storage/");
    let has_unsafe = |file: &&File| code::words(&code::code_of(&file.text)).any(|word| word == "unsafe");
    let complain = |file: &File| format!("{}: `unsafe` outside engine/src/storage", file.path);
    files.iter().filter(outside).filter(has_unsafe).map(complain).collect()
}

fn long_files(files: &[File]) -> Vec<String> {
    let long = |file: &&File| file.is_rust() && file.text.lines().count() > LINES_MAX;
    files.iter().filter(long).map(|file| format!("{}: more than {LINES_MAX} lines", file.path)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_docs_unsafe_and_length_are_found() {
        let file = |path: &str, text: &str| [File { path: path.into(), text: text.into() }];
        assert_eq!(files_without_doc(&file("a.rs", "// no doc")).len(), 1);
        assert_eq!(files_without_doc(&file("a.rs", "//! doc")).len(), 0);
        let text = "//! unsafe\nunsafe { call() }";
        assert_eq!(unsafe_elsewhere(&file("engine/src/pool.rs", text)).len(), 1);
        assert_eq!(unsafe_elsewhere(&file("engine/src/storage/ring.rs", text)).len(), 0);
        assert_eq!(unsafe_elsewhere(&file("engine/src/pool.rs", "//! unsafe\n\"unsafe\";")).len(), 0);
        assert_eq!(long_files(&file("a.rs", &"\n".repeat(LINES_MAX + 1))).len(), 1);
    }
}
