//! Carries out a command: one function a command.
//!
//! Owns the way from arguments to an answer. Read next: `pool.rs`, `volumes.rs`; what a pool does is `manage/`'s.

mod dm;
mod pages;
mod pool;
mod repair;
mod shrink;
mod transfer;
mod trim;
mod volumes;

use crate::arguments::{Arguments, Command};
use crate::error::Result;
use crate::output::Output;
use crate::serve;

/// Does what the arguments ask for.
pub fn run(arguments: Arguments, output: Output) -> Result<()> {
    match &arguments.command {
        Command::Completions { shell } => pages::completions(*shell, output),
        Command::Man { directory } => pages::manual(directory.as_deref(), output),
        Command::Pool(command) => pool::run(command, &arguments.directory()?, output),
        Command::Volume(command) => volumes::volume(command, &arguments.directory()?, output),
        Command::Snapshot(command) => volumes::snapshot(command, &arguments.directory()?, output),
        Command::Clone(command) => volumes::clone(command, &arguments.directory()?, output),
        Command::Send(flags) => transfer::send(flags, &arguments.directory()?, output),
        Command::Receive(flags) => transfer::receive(flags, &arguments.directory()?, output),
        Command::Dm(command) => dm::run(command, &arguments, output),
        Command::Serve(flags) => serve::run(flags, &arguments.directory()?, output),
    }
}
