//! `vellum dm restore`: XML as metadata of dm-thin.
//!
//! Owns where the XML comes from and what was made of it. A file that this made is removed again if it fails.

use super::files::{self, Watched};
use crate::arguments::dm::DmRestore;
use crate::error::{Error, Result};
use crate::output::{Output, dm as text};
use crate::views::{DmCorrectedView, DmRestoreView};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use vellum_dm_bridge::format::BLOCK_BYTES;
use vellum_dm_bridge::{Corrected, MetadataWriter, Packing, Written, read_xml};

pub fn run(flags: &DmRestore, output: Output) -> Result<()> {
    let input: Box<dyn BufRead> = if flags.input == Path::new("-") {
        Box::new(std::io::stdin().lock())
    } else {
        let cannot = |cause| Error::io(format!("cannot open '{}'", flags.input.display()), &cause);
        Box::new(BufReader::with_capacity(1 << 18, File::open(&flags.input).map_err(cannot)?))
    };
    let was_there = flags.output.symlink_metadata().is_ok();
    let target = files::open_target(&flags.output, flags.size, flags.force)?;
    let target = Watched::new(target, "restoring", output);
    let bar = target.bar();
    let written = write(input, target, flags);
    bar.finish_and_clear();
    if written.is_err() && !was_there {
        // The error that led here is the one to tell.
        let _ = std::fs::remove_file(&flags.output);
    }
    let (written, corrected) = written?;
    output.result(&view_of(flags, &written, &corrected), text::restore)
}

fn write(input: impl BufRead, target: Watched, flags: &DmRestore) -> Result<(Written, Vec<Corrected>)> {
    let explained = |error: vellum_dm_bridge::Error| {
        let is_of_input = error.place().xml.is_some();
        super::explained(if is_of_input { &flags.input } else { &flags.output }, &error)
    };
    let mut writer = MetadataWriter::new(target, Packing::Full).map_err(explained)?;
    let corrected = read_xml(input, &mut writer).map_err(explained)?;
    Ok((writer.written(), corrected))
}

fn view_of(flags: &DmRestore, written: &Written, corrected: &[Corrected]) -> DmRestoreView {
    let corrected = corrected.iter().map(|Corrected { device, declared, counted }| DmCorrectedView {
        device: *device,
        declared: *declared,
        counted: *counted,
    });
    DmRestoreView {
        output: flags.output.display().to_string(),
        devices: written.devices,
        mappings: written.mappings,
        data_blocks_used: written.data_blocks_used,
        metadata_used_bytes: written.metadata_blocks_used * BLOCK_BYTES as u64,
        metadata_bytes: written.metadata_blocks * BLOCK_BYTES as u64,
        corrected: corrected.collect(),
    }
}
