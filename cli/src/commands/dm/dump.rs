//! `vellum dm dump`: metadata of dm-thin as XML, and what could not be read.
//!
//! Owns where the XML goes, and what lost and found ranges become as views.

use super::files::{self, Held, Watched};
use crate::arguments::dm::DmDump;
use crate::error::{Error, Result};
use crate::output::{Output, dm as text};
use crate::views::{DmDumpView, DmFoundView, DmLostView};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use vellum_dm_bridge::format::DeviceDetails;
use vellum_dm_bridge::{LostRange, Metadata, PoolHeader, Run, Salvage, Sink, XmlWriter};

pub fn run(flags: &DmDump, output: Output) -> Result<()> {
    let held = flags.metadata_snapshot.then(|| Held::look(&flags.metadata)).transpose()?;
    let source = Watched::new(files::open(&flags.metadata, flags.metadata_snapshot)?, "dumping", output);
    let bar = source.bar();
    let opened =
        if flags.metadata_snapshot { Metadata::open_snapshot(source) } else { Metadata::open(source) };
    let metadata = opened.map_err(|error| super::explained(&flags.metadata, &error))?;
    let metadata = if flags.lenient { metadata.lenient() } else { metadata };
    if metadata.superblock().is_picture {
        output.note("note: the metadata is a picture; what is restored from this lets the kernel write over the pool's data");
    }
    let still = || match &held {
        Some(held) => held.require_same(&flags.metadata).map_err(Failed::Here),
        None => Ok(()),
    };
    let copied = match &flags.output {
        None => copy(&metadata, std::io::stdout().lock()).and_then(|done| still().map(|()| done)),
        Some(path) => to_file(&metadata, path, still),
    };
    bar.finish_and_clear();
    let (salvage, counted) = copied.map_err(|failed| match failed {
        Failed::Here(error) => error,
        Failed::Bridge(error) => super::explained(&flags.metadata, &error),
    })?;
    let to = flags.output.as_ref().map(|path| path.display().to_string());
    let view = DmDumpView {
        output: to,
        devices: counted.0,
        mappings: counted.1,
        lost: lost_views(&salvage),
        found: found_views(&salvage),
    };
    if flags.output.is_some() {
        return output.result(&view, text::dump);
    }
    // Nothing but the XML goes to standard output.
    text::losses(&view.lost, &view.found).iter().for_each(|line| output.note(line));
    Ok(())
}

/// Devices and mappings.
type Counted = (u64, u64);

enum Failed {
    Here(Error),
    Bridge(vellum_dm_bridge::Error),
}

impl From<vellum_dm_bridge::Error> for Failed {
    fn from(error: vellum_dm_bridge::Error) -> Self {
        Self::Bridge(error)
    }
}

/// Writes a new file, or none: what it was written from must `still` be there at the end.
fn to_file(
    metadata: &Metadata<Watched>,
    path: &Path,
    still: impl FnOnce() -> std::result::Result<(), Failed>,
) -> std::result::Result<(Salvage, Counted), Failed> {
    let cannot =
        |cause: std::io::Error| Failed::Here(Error::io(format!("cannot write '{}'", path.display()), &cause));
    let file = File::options().write(true).create_new(true).open(path).map_err(cannot)?;
    let result = copy(metadata, &file).and_then(|done| {
        file.sync_all().map_err(cannot)?;
        still().map(|()| done)
    });
    if result.is_err() {
        // The error that led here is the one to tell.
        let _ = std::fs::remove_file(path);
    }
    result
}

fn copy(metadata: &Metadata<Watched>, to: impl Write) -> std::result::Result<(Salvage, Counted), Failed> {
    let mut sink = Counting { sink: XmlWriter::new(BufWriter::with_capacity(1 << 18, to)), counted: (0, 0) };
    let salvage = metadata.copy_to(&mut sink)?;
    Ok((salvage, sink.counted))
}

pub(super) fn lost_views(salvage: &Salvage) -> Vec<DmLostView> {
    let devices = salvage.devices.iter();
    let lost =
        devices.flat_map(|(device, lost)| lost.iter().map(move |range| lost_view(Some(*device), range)));
    lost.chain(salvage.device_numbers.iter().map(|range| lost_view(None, range))).collect()
}

pub(super) fn found_views(salvage: &Salvage) -> Vec<DmFoundView> {
    let view = |(device, mappings): &(u32, u64)| DmFoundView { device: *device, mappings: *mappings };
    salvage.found.iter().map(view).collect()
}

fn lost_view(device: Option<u32>, range: &LostRange) -> DmLostView {
    DmLostView {
        device,
        first: range.first,
        last: Some(range.last).filter(|last| *last != u64::MAX),
        message: range.error.to_string(),
    }
}

/// Counts what goes by.
struct Counting<S> {
    sink: S,
    counted: Counted,
}

impl<S: Sink> Sink for Counting<S> {
    fn begin(&mut self, header: &PoolHeader) -> vellum_dm_bridge::Result<()> {
        self.sink.begin(header)
    }

    fn device(&mut self, id: u32, details: &DeviceDetails) -> vellum_dm_bridge::Result<()> {
        self.counted.0 += 1;
        self.sink.device(id, details)
    }

    fn run(&mut self, run: &Run) -> vellum_dm_bridge::Result<()> {
        self.counted.1 += run.length;
        self.sink.run(run)
    }

    fn device_end(&mut self) -> vellum_dm_bridge::Result<()> {
        self.sink.device_end()
    }

    fn end(&mut self) -> vellum_dm_bridge::Result<()> {
        self.sink.end()
    }
}
