//! `vellum dm export --snapshot`: a read-only picture of snapshots in the data file of a pool that goes on.
//!
//! Owns the order, and the words. Each snapshot gets another that is whole and held, its pin; then the pins' blocks are
//! written as dm-thin's metadata, whose superblock comes last. So whatever interrupts it leaves metadata that nobody takes, and at
//! most pins, which are listed and can be deleted. What fails takes along what it made: the metadata first, for nothing that it names may
//! go while somebody could take it.

use super::export::refuse_own;
use super::files::{self, Watched};
use super::pins::{Pin, Pins};
use crate::arguments::dm::DmExport;
use crate::error::{Error, Result};
use crate::exit::Kind;
use crate::manage::{Manage, with_pool};
use crate::names;
use crate::output::{Output, dm as text};
use crate::pool_directory::PoolDirectory;
use crate::size::Size;
use crate::views::{AskMappingsView, DmPictureView, DmPinnedView, MappedRunView, PoolView, VolumeView};
use indicatif::{ProgressBar, ProgressStyle};
use std::fs::File;
use std::path::Path;
use vellum_dm_bridge::export::{Failure, metadata_bytes};
use vellum_dm_bridge::format::{BLOCK_BYTES, DATA_BLOCK_SECTORS_MIN, DEVICE_ID_LIMIT};
use vellum_dm_bridge::picture::PictureWriter;
use vellum_dm_bridge::{Error as ThinError, Source, Target, Written};
use vellum_engine::format::{PICTURE_TAG, TAG_BYTES_MAX};
use vellum_engine::hand_over::Plan;
use vellum_engine::units::BLOCK_BYTES as DATA_BLOCK_BYTES;

/// Bytes of a tag behind what shows that it is a picture's.
const PATH_BYTES_MAX: usize = TAG_BYTES_MAX - PICTURE_TAG.len();

pub fn run(flags: &DmExport, directory: &PoolDirectory, output: Output) -> Result<()> {
    check_names(&flags.snapshot)?;
    refuse_own(&flags.metadata, directory)?;
    files::refuse_looped(&flags.metadata)?;
    let view = with_pool(directory, |pool| {
        let mut drawing = Drawing::new(flags, directory, output);
        drawing.run(pool).map_err(|error| drawing.undo(pool, error))
    })?;
    output.result(&view, text::picture)
}

fn check_names(snapshots: &[String]) -> Result<()> {
    for (index, name) in snapshots.iter().enumerate() {
        names::check_snapshot(name)?;
        if snapshots[..index].contains(name) {
            return Err(Error::new(Kind::Usage, format!("'{name}' is named twice")).hint("name it once"));
        }
    }
    Ok(())
}

struct Drawing<'a> {
    flags: &'a DmExport,
    directory: &'a PoolDirectory,
    output: Output,
    pins: Pins,
    has_made_file: bool,
    /// The metadata was not finished, and could not be taken back.
    may_be_valid: bool,
}

impl<'a> Drawing<'a> {
    fn new(flags: &'a DmExport, directory: &'a PoolDirectory, output: Output) -> Self {
        let pins = Pins::default();
        Self { flags, directory, output, pins, has_made_file: false, may_be_valid: false }
    }

    fn run(&mut self, pool: &mut dyn Manage) -> Result<DmPictureView> {
        let shown = shown(pool, &self.flags.snapshot)?;
        let mut plan = Plan::default();
        for snapshot in &shown {
            each_run(pool, &snapshot.uuid, |run| count(&mut plan, &run))?;
        }
        let status = pool.status()?;
        check_room(&status, plan.bytes_to_copy)?;
        plan.data_blocks = status.size_bytes / DATA_BLOCK_BYTES;
        // Whether that can be told is learned before anything is made.
        self.data_blocks(&status)?;
        let target = self.target(&plan)?;
        self.output.note(&told(&plan));
        let bar = if self.output.shows_progress() { progress_bar(&plan) } else { ProgressBar::hidden() };
        let tag = tag_of(&self.flags.metadata);
        for snapshot in shown {
            self.pins.make(pool, snapshot, &tag, &bar)?;
        }
        bar.finish_and_clear();
        // It may have grown for the blocks that were written.
        let data_blocks = self.data_blocks(&pool.status()?)?;
        let written = self.write(pool, target, data_blocks)?;
        Ok(self.view(data_blocks, &written))
    }

    fn target(&mut self, plan: &Plan) -> Result<Watched> {
        let path = &self.flags.metadata;
        let is_absent = path.symlink_metadata().is_err();
        let fitting = is_absent.then(|| Size(metadata_bytes(plan)));
        let file = files::open_target(path, self.flags.size.or(fitting), self.flags.force)?;
        self.has_made_file = is_absent;
        Ok(Watched::quiet(file))
    }

    /// Writes the metadata. If that fails, nobody takes what is there, or `may_be_valid` says that somebody may.
    fn write(&mut self, pool: &mut dyn Manage, target: impl Target, data_blocks: u64) -> Result<Written> {
        let mut writer = PictureWriter::begin(target, data_blocks).map_err(|error| self.thin(&error))?;
        let written = self.write_all(pool, &mut writer);
        if written.is_err() {
            self.may_be_valid = writer.retract().is_err() && !self.removes_file();
        }
        written
    }

    fn write_all<T: Target>(
        &mut self,
        pool: &mut dyn Manage,
        writer: &mut PictureWriter<T>,
    ) -> Result<Written> {
        for Pin { shown, pin, .. } in &self.pins.list {
            writer.device(shown.number as u32).map_err(|error| self.thin(&error))?;
            each_run(pool, &pin.uuid, |run| writer.run(&run.run()).map_err(|error| self.failed(error)))?;
        }
        self.pins.look_again(pool)?;
        writer.end().map_err(|error| self.failed(error))
    }

    fn thin(&self, error: &ThinError) -> Error {
        super::explained(&self.flags.metadata, error)
    }

    /// Removes the file if it was made here. Whether it is gone, also after a power loss.
    fn removes_file(&mut self) -> bool {
        let path = &self.flags.metadata;
        let removes = std::mem::take(&mut self.has_made_file) && std::fs::remove_file(path).is_ok();
        removes && files::sync_folder(path).is_ok()
    }

    /// What a device of the data file can have, now: the file may be shorter than the pool, but holds all that is mapped.
    fn data_blocks(&self, status: &PoolView) -> Result<u64> {
        let path = self.directory.data();
        let length = File::open(&path).and_then(|file| file.length_bytes());
        let length =
            length.map_err(|cause| Error::io(format!("cannot look at '{}'", path.display()), &cause))?;
        Ok(length.min(status.size_bytes) / DATA_BLOCK_BYTES)
    }

    fn failed(&self, failure: Failure) -> Error {
        match failure {
            Failure::Thin(error) => self.thin(&error),
            Failure::Pool(error) => error.into(),
            other => Error::new(Kind::Damaged, format!("'{}': {other}", self.flags.metadata.display()))
                .hint("the pool is what it was; name another file or device for the metadata"),
        }
    }

    /// Takes back what was made, and says in the error what cannot be taken back.
    fn undo(&mut self, pool: &mut dyn Manage, error: Error) -> Error {
        let path = self.flags.metadata.display();
        if self.may_be_valid {
            let release = self.pins.commands().unwrap_or_default();
            return error.hint(format!(
                "whether '{path}' is valid now is not known, so what it names stays pinned: overwrite or destroy \
                 that first, then {release}"
            ));
        }
        self.pins.take_back(pool);
        let error = match self.pins.commands() {
            Some(commands) => {
                let hint = format!("{}; what was pinned stays: {commands} takes it", error.hint_text());
                error.hint(hint)
            }
            None => error,
        };
        self.removes_file();
        error
    }

    fn view(&self, data_blocks: u64, written: &Written) -> DmPictureView {
        let copied_bytes = self.pins.list.iter().map(|pin| pin.copied_bytes).sum();
        DmPictureView {
            metadata: self.flags.metadata.display().to_string(),
            data: self.directory.data().display().to_string(),
            data_block_sectors: u64::from(DATA_BLOCK_SECTORS_MIN),
            data_blocks,
            data_blocks_used: written.data_blocks_used,
            copied_blocks: copied_bytes / DATA_BLOCK_BYTES,
            copied_bytes,
            metadata_used_bytes: written.metadata_blocks_used * BLOCK_BYTES as u64,
            metadata_bytes: written.metadata_blocks * BLOCK_BYTES as u64,
            devices: self.pins.list.iter().map(pinned_view).collect(),
        }
    }
}

fn pinned_view(pin: &Pin) -> DmPinnedView {
    let Pin { shown, pin, .. } = pin;
    DmPinnedView {
        device: shown.number as u32,
        name: shown.name.clone(),
        uuid: shown.uuid.clone(),
        size_bytes: shown.size_bytes,
        mapped_bytes: pin.mapped_bytes,
        pinned_by: pin.name.clone(),
        hold: pin.holds.first().cloned().unwrap_or_default(),
    }
}

/// The snapshots that are shown, by number.
fn shown(pool: &mut dyn Manage, snapshots: &[String]) -> Result<Vec<VolumeView>> {
    let mut shown: Vec<VolumeView> = snapshots.iter().map(|name| pool.volume(name)).collect::<Result<_>>()?;
    shown.sort_by_key(|snapshot| snapshot.number);
    match shown.iter().find(|snapshot| snapshot.number >= DEVICE_ID_LIMIT) {
        None => Ok(shown),
        Some(snapshot) => {
            let (name, number) = (&snapshot.name, snapshot.number);
            let message = format!(
                "'{name}' has number {number}, and numbers of thin devices end at {}",
                DEVICE_ID_LIMIT - 1
            );
            Err(Error::new(Kind::Limit, message).hint("send it to another pool, where it gets a new number"))
        }
    }
}

fn each_run(
    pool: &mut dyn Manage,
    uuid: &str,
    mut act: impl FnMut(MappedRunView) -> Result<()>,
) -> Result<()> {
    let mut next = Some(0);
    while let Some(offset_bytes) = next {
        let mappings = pool.mappings(&AskMappingsView { uuid: uuid.to_owned(), offset_bytes })?;
        mappings.runs.into_iter().try_for_each(&mut act)?;
        next = mappings.next_bytes;
    }
    Ok(())
}

fn count(plan: &mut Plan, run: &MappedRunView) -> Result<()> {
    let blocks = run.length_bytes / DATA_BLOCK_BYTES;
    plan.mappings += blocks;
    if !run.whole {
        plan.blocks_to_copy += blocks;
        plan.bytes_to_copy += run.length_bytes;
    }
    Ok(())
}

/// Better refused than begun, and the pool then full for everybody.
fn check_room(status: &PoolView, needed_bytes: u64) -> Result<()> {
    let grows_to: u64 = status.settings.get("auto-extend").and_then(|bytes| bytes.parse().ok()).unwrap_or(0);
    let more = grows_to.saturating_sub(status.size_bytes);
    let room = status.free_bytes.saturating_sub(status.reserved_bytes) + more;
    if needed_bytes <= room {
        return Ok(());
    }
    let message = format!(
        "{} are in blocks with holes or a second layer and have to be written anew, and the pool has room for {}",
        Size(needed_bytes),
        Size(room)
    );
    Err(Error::new(Kind::NoSpace, message).hint("`vellum pool extend`, or show fewer snapshots"))
}

/// The metadata's path, or the end of it.
fn tag_of(metadata: &Path) -> String {
    let path = std::path::absolute(metadata).unwrap_or_else(|_| metadata.to_owned());
    let path: String =
        path.to_string_lossy().chars().map(|letter| if letter.is_control() { '?' } else { letter }).collect();
    if path.len() <= PATH_BYTES_MAX {
        return path;
    }
    let mut from = path.len() - (PATH_BYTES_MAX - 3);
    while !path.is_char_boundary(from) {
        from += 1;
    }
    format!("...{}", &path[from..])
}

fn told(plan: &Plan) -> String {
    match plan.blocks_to_copy {
        0 => format!("nothing has to be written anew: all {} blocks are whole", plan.mappings),
        blocks => format!(
            "writing {blocks} of {} blocks anew, {}, because they have holes or a second layer",
            plan.mappings,
            Size(plan.bytes_to_copy)
        ),
    }
}

fn progress_bar(plan: &Plan) -> ProgressBar {
    let style =
        ProgressStyle::with_template("writing {bar:40} {binary_bytes}/{binary_total_bytes}, {eta} left");
    ProgressBar::new(plan.bytes_to_copy).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manage::{Files, Growth};
    use crate::pool_directory::NewDisks;
    use std::io;
    use vellum_dm_bridge::Metadata;

    /// Fails the sync behind the superblock, and everything later unless it `heals`.
    struct Failing {
        bytes: Vec<u8>,
        syncs: u32,
        heals: bool,
    }

    impl Failing {
        fn answer(&self) -> io::Result<()> {
            let fails = self.syncs == 3 || self.syncs > 3 && !self.heals;
            if fails { Err(io::Error::other("the disk is failing")) } else { Ok(()) }
        }
    }

    impl Source for Failing {
        fn length_bytes(&self) -> io::Result<u64> {
            self.bytes.length_bytes()
        }

        fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
            self.bytes.read_at(offset, buffer)
        }
    }

    impl Target for Failing {
        fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
            if self.syncs >= 3 && !self.heals {
                return self.answer();
            }
            self.bytes.write_at(offset, bytes)
        }

        fn sync(&mut self) -> io::Result<()> {
            self.syncs += 1;
            self.answer()
        }
    }

    /// Whether the metadata is valid, what the pool has then, and what is said, if the last sync fails.
    fn behind_a_failed_sync(heals: bool, has_made_file: bool) -> (bool, Vec<String>, Error) {
        let folder = tempfile::tempdir().unwrap();
        let directory = PoolDirectory::new(folder.path().join("pool"));
        let mut pool = Files::create(&directory, 16 << 20, &NewDisks::default(), Growth::Never).unwrap();
        pool.create_volume("disk", 1 << 20, 0).unwrap();
        let shown = pool.create_snapshots(&["disk@one".to_owned()]).unwrap().remove(0);
        let metadata = folder.path().join("tmeta");
        std::fs::write(&metadata, "").unwrap();
        let flags = DmExport { metadata, snapshot: vec![shown.name.clone()], size: None, force: false };
        let mut drawing = Drawing::new(&flags, &directory, Output::new(false));
        drawing.has_made_file = has_made_file;
        drawing.pins.make(&mut pool, shown, "test", &ProgressBar::hidden()).unwrap();
        let mut target = Failing { bytes: vec![0; 1 << 20], syncs: 0, heals };
        let error = drawing.write(&mut pool, &mut target, 256).unwrap_err();
        let error = drawing.undo(&mut pool, error);
        assert_eq!(flags.metadata.exists(), !has_made_file);
        let names = pool.volumes().unwrap().into_iter().map(|volume| volume.name).collect();
        (Metadata::open(&target.bytes).is_ok(), names, error)
    }

    #[test]
    fn metadata_is_taken_back_before_what_it_names() {
        let (is_valid, names, error) = behind_a_failed_sync(true, false);
        assert!(!is_valid && error.kind() == Kind::Io);
        assert_eq!(names, ["disk", "disk@one"]);
        // A file that is gone is as good.
        let (_, names, _) = behind_a_failed_sync(false, true);
        assert_eq!(names, ["disk", "disk@one"]);
    }

    #[test]
    fn what_valid_metadata_names_stays_pinned() {
        let (is_valid, names, error) = behind_a_failed_sync(false, false);
        assert!(is_valid && error.kind() == Kind::Io);
        assert_eq!(names, ["disk", "disk@one", "disk@one.picture-1"]);
        assert!(error.hint_text().contains("`vellum dm release disk@one.picture-1`"), "{error}");
    }

    #[test]
    fn a_tag_has_room_for_the_end_of_any_path() {
        assert_eq!(tag_of(Path::new("/a/b\nc")), "/a/b?c");
        let long = tag_of(Path::new(&format!("/{}/tmeta", "é".repeat(100))));
        assert!(
            long.len() <= PATH_BYTES_MAX && long.starts_with("...é") && long.ends_with("/tmeta"),
            "{long}"
        );
    }
}
