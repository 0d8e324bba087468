//! What readers of text would trip over: links that lead nowhere, and paths that exist on one machine only.
//!
//! Owns just enough of Markdown for links and headings. Links into the web are not followed.

use crate::tree::{File, join};

/// Spelled in two pieces, so that this file does not name them itself.
const MACHINE_FOLDERS: [&str; 3] = [concat!("/", "root/"), concat!("/", "work/"), concat!("/", "home/")];
const TEMPORARY_FOLDER: &str = concat!("/", "tmp/");

/// Files that name a folder of somebody's machine; documents may not name the temporary folder either.
pub fn machine_paths(files: &[File]) -> Vec<String> {
    let mut complaints = Vec::new();
    for file in files {
        for folder in MACHINE_FOLDERS.iter().copied().chain(file.is_markdown().then_some(TEMPORARY_FOLDER)) {
            let starts_path = |(at, _): &(usize, &str)| !file.text[..*at].ends_with(char::is_alphanumeric);
            if file.text.match_indices(folder).any(|found| starts_path(&found)) {
                complaints.push(format!("{}: names `{folder}`", file.path));
            }
        }
    }
    complaints
}

/// Links of documents to files or headings that are not there.
pub fn broken_links(files: &[File]) -> Vec<String> {
    let mut complaints = Vec::new();
    for file in files.iter().filter(|file| file.is_markdown()) {
        for link in links(&file.text) {
            if !resolves(file, link, files) {
                complaints.push(format!("{}: the link `{link}` leads nowhere", file.path));
            }
        }
    }
    complaints
}

fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](").skip(1).filter_map(|rest| rest.split_once(')').map(|(link, _)| link))
}

fn resolves(file: &File, link: &str, files: &[File]) -> bool {
    if link.contains("://") || link.starts_with("mailto:") {
        return true;
    }
    let (path, heading) = link.split_once('#').map_or((link, None), |(path, heading)| (path, Some(heading)));
    let target = if path.is_empty() { file.path.clone() } else { join(file.folder(), path) };
    let folder = format!("{target}/");
    match files.iter().find(|file| file.path == target) {
        Some(found) => {
            heading.is_none_or(|heading| !found.is_markdown() || has_heading(&found.text, heading))
        }
        None => heading.is_none() && files.iter().any(|file| file.path.starts_with(&folder)),
    }
}

fn has_heading(text: &str, anchor: &str) -> bool {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings.map(|line| anchor_of(line.trim_start_matches('#'))).any(|found| found == anchor)
}

/// The anchor that a renderer gives a heading: lower case, blanks as hyphens, no punctuation.
fn anchor_of(heading: &str) -> String {
    let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> File {
        File { path: path.into(), text: text.into() }
    }

    #[test]
    fn broken_links_are_found() {
        let target = file("docs/format.md", "# Words: one, two\n");
        let text = "[a](docs/format.md) [b](docs/format.md#words-one-two) [c](docs) [d](https://x.y/z) \
                    [e](docs/gone.md) [f](docs/format.md#gone) [g](#here)\n## Here";
        let complaints = broken_links(&[target, file("README.md", text)]);
        assert_eq!(complaints.len(), 2, "{complaints:?}");
        let upwards =
            [file("README.md", ""), file("docs/a.md", "[a](../README.md) [b](../../README.md) [c](b.md)")];
        assert_eq!(broken_links(&upwards).len(), 2);
    }

    #[test]
    fn paths_of_a_machine_are_found() {
        let line = format!("see {}file", MACHINE_FOLDERS[1]);
        assert_eq!(machine_paths(&[file("a.rs", &line)]).len(), 1);
        assert_eq!(machine_paths(&[file("a.rs", &format!("frame{}", MACHINE_FOLDERS[1]))]).len(), 0);
        let line = format!("cd {TEMPORARY_FOLDER}pool");
        assert_eq!(machine_paths(&[file("a.rs", &line), file("a.md", &line)]).len(), 1);
    }
}
