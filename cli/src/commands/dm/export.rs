//! `vellum dm export`: a pool given to the kernel, what had to be filled for that, and the numbers of its thin devices.
//!
//! Owns the metadata file that it makes, and the words. The order of it is `export` in the bridge.

use super::files::{self, Watched};
use super::given_files::GivenFiles;
use super::import::kept_superblock;
use crate::arguments::dm::DmExport;
use crate::error::{Error, Result};
use crate::exit::Kind;
use crate::host;
use crate::output::{Output, dm as text};
use crate::pool_directory::{Disks, PoolDirectory, identity};
use crate::size::Size;
use crate::views::{DmExportView, DmThinView, VolumeKind};
use indicatif::{ProgressBar, ProgressStyle};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use vellum_dm_bridge::export::{self, ExportOptions, Exported, Failure, Progress, ThinVolume};
use vellum_dm_bridge::format::BLOCK_BYTES;
use vellum_engine::format::uuid_text;
use vellum_engine::hand_over::{Mark, Plan};
use vellum_engine::units::BLOCK_BYTES as DATA_BLOCK_BYTES;

pub fn run(flags: &DmExport, directory: &PoolDirectory, output: Output) -> Result<()> {
    super::super::pool::refuse_served(directory).map_err(|error| match error.kind() {
        Kind::InUse => error.hint("stop its server first; --snapshot shows snapshots while it is served"),
        _ => error,
    })?;
    refuse_own(&flags.metadata, directory)?;
    let mut disks = directory.open_disks()?;
    if let Some(pool) = identity(&mut disks.metadata) {
        files::refuse_active(&pool)?;
    }
    files::refuse_looped(&directory.data())?;
    files::refuse_looped(&flags.metadata)?;
    // Nobody else goes on with it meanwhile: the pool is locked.
    let interrupted = interrupted(&flags.metadata);
    let options = ExportOptions { open: host::open_options(&disks.data)?, interrupted };
    let was_there = flags.metadata.symlink_metadata().is_ok();
    let exported = exported(flags, &mut disks, &options, directory, output);
    if exported.is_ok() {
        // Of an earlier hand-over: there it brought back what nobody has any more. That it stays does no harm.
        let _ = std::fs::remove_file(kept_superblock(directory));
    }
    // What an interrupted hand-over has to go on with must stay.
    let is_ours = directory.slot_owner().is_some_and(|owner| !owner.kernel);
    if exported.is_err() && is_ours {
        // The error that led here is the one to tell.
        let _ = GivenFiles::of(directory).remove();
        if !was_there {
            let _ = std::fs::remove_file(&flags.metadata);
        }
    }
    output.result(&view_of(flags, directory, &exported?), text::export)
}

/// The pool's own files are no place for the kernel's metadata, forced or not.
pub(super) fn refuse_own(path: &Path, directory: &PoolDirectory) -> Result<()> {
    for own in [directory.data(), directory.metadata()] {
        if path.exists() && own.exists() && files::are_same(path, &own)? {
            return Err(Error::new(
                Kind::Invalid,
                format!("'{}' belongs to the pool itself", path.display()),
            )
            .hint("name another file or device for the kernel's metadata"));
        }
    }
    Ok(())
}

/// The hand-over whose export to the file was interrupted, if one was.
pub(super) fn interrupted(path: &Path) -> Option<Mark> {
    let mut first = [0; BLOCK_BYTES];
    File::open(path).and_then(|file| file.read_exact_at(&mut first, 0)).ok()?;
    vellum_dm_bridge::unfinished_mark(&first)
}

fn exported(
    flags: &DmExport,
    disks: &mut Disks,
    options: &ExportOptions,
    directory: &PoolDirectory,
    output: Output,
) -> Result<Exported> {
    let bar = if output.shows_progress() { progress_bar() } else { ProgressBar::hidden() };
    let mut progress = |progress: Progress| {
        bar.set_length(progress.mappings_total);
        bar.set_position(progress.mappings_done);
    };
    let target = |plan: &Plan, mark: &Mark| {
        let target = target(flags, plan, mark).map_err(Failed::Here)?;
        // Before the kernel has the pool: whoever finds it so can tell where the metadata is.
        GivenFiles::of(directory).set_metadata(&flags.metadata).map_err(Failed::Here)?;
        output.note(&told(plan));
        Ok(target)
    };
    let Disks { data, metadata } = disks;
    let exported = export::export(data, metadata, options, target, &mut progress);
    bar.finish_and_clear();
    exported.map_err(|failed| match failed {
        Failed::Here(error) => error,
        Failed::Export(Failure::Pool(error)) => directory.explain(error),
        Failed::Export(Failure::Thin(error)) => super::explained(&flags.metadata, &error),
        Failed::Export(other) => {
            Error::new(Kind::Damaged, format!("'{}': {other}", flags.metadata.display()))
                .hint("the pool is what it was; name another file or device for the metadata")
        }
    })
}

enum Failed {
    Here(Error),
    Export(Failure),
}

impl From<Failure> for Failed {
    fn from(error: Failure) -> Self {
        Self::Export(error)
    }
}

fn target(flags: &DmExport, plan: &Plan, mark: &Mark) -> Result<Watched> {
    // What this pool has begun there may be all that says where it is: it stays as long as it is.
    if interrupted(&flags.metadata).is_some_and(|other| other[..16] == mark[..16]) {
        return Ok(Watched::quiet(files::open_own(&flags.metadata)?));
    }
    let is_absent = flags.metadata.symlink_metadata().is_err();
    let fitting = is_absent.then(|| Size(export::metadata_bytes(plan)));
    let file = files::open_target(&flags.metadata, flags.size.or(fitting), flags.force)?;
    Ok(Watched::quiet(file))
}

fn told(plan: &Plan) -> String {
    let [blocks, fill] = [plan.blocks_to_copy, plan.blocks_to_fill];
    if blocks + fill == 0 {
        return "nothing has to be copied or filled: every block is whole".to_owned();
    }
    format!(
        "copying {blocks} blocks that others share, filling {fill} where they are: {} to copy, {} to clear",
        Size(plan.bytes_to_copy),
        Size(plan.bytes_to_clear)
    )
}

fn progress_bar() -> ProgressBar {
    let style = ProgressStyle::with_template("exporting {bar:40} {pos}/{len} blocks, {eta} left");
    ProgressBar::new(1).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn view_of(flags: &DmExport, directory: &PoolDirectory, exported: &Exported) -> DmExportView {
    let Exported { plan, written, volumes } = exported;
    DmExportView {
        metadata: flags.metadata.display().to_string(),
        data: directory.data().display().to_string(),
        data_block_sectors: DATA_BLOCK_BYTES / 512,
        data_blocks: plan.data_blocks,
        data_blocks_used: written.data_blocks_used,
        copied_blocks: plan.blocks_to_copy,
        filled_blocks: plan.blocks_to_fill,
        copied_bytes: plan.bytes_to_copy,
        cleared_bytes: plan.bytes_to_clear,
        metadata_used_bytes: written.metadata_blocks_used * BLOCK_BYTES as u64,
        metadata_bytes: written.metadata_blocks * BLOCK_BYTES as u64,
        devices: volumes.iter().map(thin_view).collect(),
    }
}

fn thin_view(volume: &ThinVolume) -> DmThinView {
    DmThinView {
        device: volume.device,
        name: volume.name.clone(),
        uuid: uuid_text(&volume.uuid),
        kind: if volume.is_snapshot { VolumeKind::Snapshot } else { VolumeKind::Volume },
        size_bytes: volume.size_bytes,
        mapped_bytes: volume.mapped_blocks * DATA_BLOCK_BYTES,
    }
}
