//! `vellum completions` and `vellum man`: what the definition of the command line gives by itself.
//!
//! Owns nothing but the way out.

use crate::arguments::Arguments;
use crate::error::{Error, Result};
use crate::output::Output;
use clap::CommandFactory;
use std::path::Path;

pub fn completions(shell: clap_complete::Shell, output: Output) -> Result<()> {
    let mut bytes = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "vellum", &mut bytes);
    output.raw(&bytes)
}

pub fn manual(directory: Option<&Path>, output: Output) -> Result<()> {
    let Some(directory) = directory else {
        let mut bytes = Vec::new();
        let rendered = clap_mangen::Man::new(Arguments::command()).render(&mut bytes);
        rendered.map_err(|cause| Error::io("cannot write the manual", &cause))?;
        return output.raw(&bytes);
    };
    clap_mangen::generate_to(Arguments::command(), directory)
        .map_err(|cause| Error::io(format!("cannot write the manual into '{}'", directory.display()), &cause))
}
