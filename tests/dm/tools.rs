//! Debian's thin-provisioning-tools 0.9, on files.

use std::path::Path;
use std::process::{Command, Output};

fn run(tool: &str, arguments: &[&Path]) -> Output {
    // Tools for the administrator are not in everybody's path.
    let path = format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default());
    let output = Command::new(tool).args(arguments).env("PATH", path).output();
    output.unwrap_or_else(|error| panic!("{tool}: {error}; see tests/run for what to install"))
}

/// Whether thin_check finds nothing, and what it says.
pub fn thin_check(metadata: &Path) -> (bool, String) {
    let output = run("thin_check", &[metadata]);
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[track_caller]
pub fn assert_thin_check(metadata: &Path) {
    let (ok, said) = thin_check(metadata);
    assert!(ok, "thin_check: {said}");
}

/// What thin_dump prints.
#[track_caller]
pub fn thin_dump(metadata: &Path) -> String {
    let output = run("thin_dump", &[metadata]);
    assert!(output.status.success(), "thin_dump: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// Makes metadata of XML; the file must have its size.
#[track_caller]
pub fn thin_restore(xml: &Path, metadata: &Path) {
    let output = run("thin_restore", &[Path::new("-i"), xml, Path::new("-o"), metadata]);
    assert!(output.status.success(), "thin_restore: {}", String::from_utf8_lossy(&output.stderr));
}
