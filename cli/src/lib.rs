//! The command line of Vellum, as a library so that tests and servers can use its parts.
//!
//! A command is parsed ([`arguments`]), carried out ([`commands`]) on whatever runs the pool ([`manage`]: the files, or
//! a server behind [`control`]), and its answer ([`views`]) is printed ([`output`]). What goes wrong is an
//! [`error::Error`], which ends the program with a code of [`exit`]. What users see is told in `docs/cli.md`.

#![forbid(unsafe_code)]

pub mod arguments;
pub mod commands;
pub mod control;
pub mod error;
pub mod exit;
pub mod host;
pub mod manage;
pub mod names;
pub mod new_metadata;
mod next_step;
pub mod output;
pub mod patterns;
pub mod pool_directory;
pub mod serve;
pub mod size;
pub mod views;

use arguments::Arguments;
use clap::Parser;
use exit::Kind;
use output::Output;
use std::ffi::OsString;
use std::process::ExitCode;

/// Runs the program with `arguments`, the first of which is its name, and gives its exit code.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let result = match Arguments::try_parse_from(&arguments) {
        Ok(parsed) => {
            let output = Output::new(parsed.json);
            (output, commands::run(parsed, output))
        }
        Err(error) => (Output::new(asks_for_json(&arguments)), answer_parser(&error)),
    };
    match result {
        (_, Ok(())) => ExitCode::SUCCESS,
        (output, Err(error)) => {
            output.error(&error);
            ExitCode::from(error.kind().code())
        }
    }
}

/// Whether `--json` is there, for the errors of command lines that cannot be parsed.
fn asks_for_json(arguments: &[OsString]) -> bool {
    arguments.iter().take_while(|argument| *argument != "--").any(|argument| argument == "--json")
}

/// Help and version come as errors too; everything else is a wrong command line.
fn answer_parser(error: &clap::Error) -> error::Result<()> {
    use clap::error::ErrorKind as Cause;
    if matches!(error.kind(), Cause::DisplayHelp | Cause::DisplayVersion) {
        // Whoever closed the other end has read enough.
        let _ = error.print();
        return Ok(());
    }
    let text = error.render().to_string();
    Err(error::Error::new(Kind::Usage, first_paragraph(&text)).hint(parser_hint(&text)))
}

fn first_paragraph(text: &str) -> String {
    let lines = text.lines().map(str::trim).skip_while(|line| line.is_empty());
    let words: Vec<&str> = lines.take_while(|line| !line.is_empty()).collect();
    let joined = words.join(" ");
    joined.strip_prefix("error: ").unwrap_or("a command is missing").to_owned()
}

fn parser_hint(text: &str) -> String {
    let lines = || text.lines().map(str::trim);
    let tip = lines().find_map(|line| line.strip_prefix("tip: "));
    let usage = lines().find_map(|line| line.strip_prefix("Usage: "));
    match (tip, usage) {
        (Some(tip), _) => tip.to_owned(),
        (None, Some(usage)) => format!("the form is `{usage}`; `--help` tells more"),
        (None, None) => "`--help` tells what can be given".to_owned(),
    }
}
