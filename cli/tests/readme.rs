//! The first command of README.md works as printed, and prints what README.md says.

#[allow(dead_code)]
mod common;

use common::VELLUM;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

const README: &str = include_str!("../../README.md");
const COMMAND: &str = "    cargo run --release -- ";
/// Where README.md pretends to be.
const FOLDER: &str = "/srv/vellum";

#[test]
fn the_first_command_prints_what_it_is_said_to() {
    let (_, rest) = README.split_once(COMMAND).unwrap();
    let (arguments, rest) = rest.split_once('\n').unwrap();
    let shown = rest.lines().skip_while(|line| !line.starts_with("    ")).take_while(|line| !line.is_empty());
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("target")).unwrap();
    let mut command = Command::new(VELLUM);
    command.env_remove("VELLUM_POOL").current_dir(folder.path()).args(arguments.split(' '));
    let mut server = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut printed = BufReader::new(server.stdout.take().unwrap()).lines();
    for line in shown {
        let expected = line.trim_start_matches("    ").replace(FOLDER, folder.path().to_str().unwrap());
        assert_eq!(printed.next().unwrap().unwrap().trim_start(), expected.trim_start());
    }
    assert!(Command::new("kill").args(["-TERM", &server.id().to_string()]).status().unwrap().success());
    assert_eq!(server.wait().unwrap().code(), Some(0));
}
