//! `vellum dm import`: a thin pool of the kernel as a pool of Vellum.
//!
//! Owns which of three ways it goes: a pool that Vellum gave away comes back; a data file of blocks of 64 KiB is taken as it is;
//! everything else is copied. Where the data is taken, the kernel's metadata is made unusable before the pool has its name, and what
//! brings it back stands in the pool's directory until then: run again, it goes on.

use super::files::{self, Held, Watched};
use super::given_files::GivenFiles;
use crate::arguments::dm::DmImport;
use crate::error::{Error, Result};
use crate::exit::Kind;
use crate::host;
use crate::output::{Output, dm as text};
use crate::pool_directory::{Disks, NewDisks, PoolDirectory};
use crate::views::{DmImportView, DmImportedView, VolumeKind};
use indicatif::{ProgressBar, ProgressStyle};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use vellum_dm_bridge::export::{Failure, stamp};
use vellum_dm_bridge::format::{BLOCK_BYTES, Block, DATA_BLOCK_SECTORS_MIN};
use vellum_dm_bridge::import::{self, ImportOptions, Imported, ImportedVolume, Progress};
use vellum_dm_bridge::{Metadata, WithFirst};
use vellum_engine::adopt::{self, Given};
use vellum_engine::format::{VolumeKind as EngineKind, uuid_text};
use vellum_engine::request::Uuid;
use vellum_engine::storage::{Disk, FileDisk};
use vellum_engine::units::BLOCK_BYTES as DATA_BLOCK_BYTES;

type Thin = Metadata<WithFirst<Watched>>;

pub fn run(flags: &DmImport, directory: &PoolDirectory, output: Output) -> Result<()> {
    super::super::pool::refuse_served(directory)?;
    let is_given = directory.owner().is_some_and(|owner| owner.kernel);
    let import = Import { flags, directory, output, path: path_of(flags, directory, is_given)? };
    let must_stay = flags.copy || flags.metadata_snapshot;
    let view = match is_given {
        true if must_stay => {
            return Err(Error::new(
                Kind::Exists,
                "there is a pool, which the kernel has; copies make a new one",
            )
            .hint("name another directory by --pool, or leave --copy and --metadata-snapshot out"));
        }
        true => import.take_back(Strict::No)?,
        false => import.new_pool(must_stay)?,
    };
    output.result(&view, text::import)
}

/// Whether metadata has to be sound in all that it says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Strict {
    Yes,
    No,
}

/// The pool that the kernel has comes back, if its metadata is sound.
pub(super) fn take_back(directory: &PoolDirectory, output: Output) -> Result<DmImportView> {
    let flags = DmImport::default();
    let import = Import { flags: &flags, directory, output, path: path_of(&flags, directory, true)? };
    import.take_back(Strict::Yes)
}

fn is_imported(path: &Path) -> bool {
    let mut first = vec![0; BLOCK_BYTES];
    let read = File::open(path).and_then(|file| file.read_exact_at(&mut first, 0));
    read.is_ok() && import::imported_mark(&first).is_some()
}

/// The kernel's metadata: a pool that was given away knows where it is.
fn path_of(flags: &DmImport, directory: &PoolDirectory, is_given: bool) -> Result<PathBuf> {
    match &flags.metadata {
        Some(named) => Ok(named.clone()),
        None if is_given => GivenFiles::of(directory).require_metadata(None),
        None => Err(Error::new(Kind::Usage, "the kernel's metadata is not named")
            .hint("add --metadata FILE|DEV; only a pool that was given away knows where it is")),
    }
}

struct Import<'a> {
    flags: &'a DmImport,
    directory: &'a PoolDirectory,
    output: Output,
    /// The kernel's metadata.
    path: PathBuf,
}

impl Import<'_> {
    /// The kernel's metadata. If an import of it was interrupted, with the superblock that it had before, and the mark that it has now.
    fn metadata(&self, given: Option<&Given>) -> Result<(Thin, Option<Uuid>)> {
        let path = &self.path;
        if !self.flags.metadata_snapshot {
            files::refuse_looped(path)?;
        }
        let file = files::open(path, self.flags.metadata_snapshot)?;
        let mut first: Box<Block> = Box::new([0; BLOCK_BYTES]);
        let read = file.read_exact_at(&mut first[..], 0);
        read.map_err(|cause| Error::io(format!("cannot read '{}'", path.display()), &cause))?;
        let mark = import::imported_mark(&first[..]);
        if let Some(mark) = mark {
            first = self.kept_first(&mark).ok_or_else(|| self.imported_before(&mark, given))?;
        }
        let source = WithFirst { rest: Watched::quiet(file), first };
        let opened = match self.flags.metadata_snapshot {
            true => Metadata::open_snapshot(source),
            false => Metadata::open(source),
        };
        let metadata = opened.map_err(|error| super::explained(path, &error))?;
        Ok((if self.flags.lenient { metadata.lenient() } else { metadata }, mark))
    }

    /// The superblock that was kept when `mark` took its place.
    fn kept_first(&self, mark: &Uuid) -> Option<Box<Block>> {
        kept_first(self.directory, mark)
    }

    fn kept(&self) -> PathBuf {
        kept_superblock(self.directory)
    }

    /// Metadata that is made unusable, with nothing that brings it back.
    fn imported_before(&self, mark: &Uuid, given: Option<&Given>) -> Error {
        if given.is_some_and(|given| stamp(&given.mark()) == *mark) {
            let message = format!(
                "a revocation has made '{}' unusable, and did not come to its end",
                self.path.display()
            );
            return Error::new(Kind::InUse, message).hint("run `vellum dm revoke --force` to its end");
        }
        used_up(&self.path)
    }

    /// What flags say wins over what is known of devices that were made while the kernel had the pool.
    fn options(&self, given: Option<&Given>) -> Result<ImportOptions> {
        let made = given.map_or(Ok(Vec::new()), |given| GivenFiles::of(self.directory).new_thins(given))?;
        let made = made
            .into_iter()
            .filter(|thin| given.is_some_and(|given| u64::from(thin.device) >= given.next_volume.0));
        let (mut names, mut sizes): (BTreeMap<_, _>, BTreeMap<_, _>) =
            made.map(|thin| ((thin.device, thin.name), (thin.device, thin.size_bytes))).unzip();
        names.extend(self.flags.name.iter().map(|named| (named.device, named.value.clone())));
        sizes.extend(self.flags.size.iter().map(|sized| (sized.device, sized.value.0)));
        Ok(ImportOptions {
            uuid: host::new_uuid()?,
            secret: host::new_secret()?,
            nonce: host::new_nonce()?,
            now_unix_s: host::now_unix_s(),
            names,
            sizes,
            accepts_loss: false,
            accepts_unmarked: self.flags.force,
            data_blocks: self.flags.pool_size.map(|size| crate::size::pool_blocks(size.0)).transpose()?,
        })
    }

    /// A thin pool becomes a new pool.
    fn new_pool(&self, must_stay: bool) -> Result<DmImportView> {
        let held = self.flags.metadata_snapshot.then(|| Held::look(&self.path)).transpose()?;
        let (thin, _) = self.metadata(None)?;
        if must_stay || thin.superblock().data_block_sectors != DATA_BLOCK_SECTORS_MIN {
            return self.copy(&thin, held.as_ref());
        }
        self.adopt(&thin)
    }

    /// A pool that was given away comes back with all that its own metadata knows. Whatever is looked at, is so under the lock:
    /// before, somebody else might activate the pool or change it.
    fn take_back(&self, strict: Strict) -> Result<DmImportView> {
        let directory = self.directory;
        if let Some(named) = &self.flags.data {
            require_same(named, &directory.data())?;
        }
        let Disks { mut data, metadata: mut before } = directory.open_disks()?;
        let given = adopt::given(&mut before).map_err(|error| directory.explain(error))?;
        self.refuse_used(&given)?;
        // An import that was interrupted had it checked.
        if strict == Strict::Yes && !is_imported(&self.path) {
            super::check::require_sound(&self.path, self.output)?;
        }
        let (thin, mark) = self.metadata(Some(&given))?;
        if mark.is_some_and(|mark| mark != stamp(&given.mark())) {
            return Err(used_up(&self.path));
        }
        if !self.flags.force {
            import::refuse_other(&thin, &given).map_err(|error| {
                directory.explain(error).hint(
                    "name the metadata that the kernel had last; --force takes any, and a wrong one mixes up volumes",
                )
            })?;
        }
        let place = NewPlace::of(&directory.metadata());
        let _ = std::fs::remove_file(&place.new);
        let mut target = FileDisk::create(&place.new, 0).map_err(|error| directory.explain(error))?;
        let imported = self.adopted(&thin, &mut data, &mut target, Some(&given));
        let imported = imported.inspect_err(|_| drop(std::fs::remove_file(&place.new)))?;
        let unused = self.refuse_used(&given);
        unused.inspect_err(|_| drop(std::fs::remove_file(&place.new)))?;
        self.disown(&stamp(&given.mark()))?;
        place.take()?;
        GivenFiles::of(directory).remove()?;
        self.done()?;
        if let Some(device) = place.left {
            self.output.note(&format!(
                "the pool's metadata is the file '{}' now; nothing on '{}' is needed any more",
                place.metadata.display(),
                device.display()
            ));
        }
        Ok(self.view(&imported, true))
    }

    /// Refuses a pool of which the kernel has anything.
    fn refuse_used(&self, given: &Given) -> Result<()> {
        files::refuse_active(&given.pool)?;
        files::refuse_looped(&self.directory.data())?;
        files::refuse_looped(&self.path)
    }

    /// The data file is taken as it is.
    fn adopt(&self, thin: &Thin) -> Result<DmImportView> {
        import::refuse_picture(thin).map_err(|failure| self.explained(failure))?;
        let (mut disks, made) = self.directory.adopt_disks(self.data()?)?;
        files::refuse_looped(self.data()?)?;
        let imported = self.adopted(thin, &mut disks.data, &mut disks.metadata, None)?;
        files::refuse_looped(self.data()?)?;
        files::refuse_looped(&self.path)?;
        self.disown(&host::new_uuid()?)?;
        drop(disks);
        made.keep()?;
        self.done()?;
        Ok(self.view(&imported, true))
    }

    /// What is mapped is copied; data and metadata of the thin pool stay as they are. `held` is the metadata snapshot that is read.
    fn copy(&self, thin: &Thin, held: Option<&Held>) -> Result<DmImportView> {
        let source = files::open(self.data()?, true)?;
        let (mut disks, made) = self.directory.create_disks(&NewDisks::default())?;
        let options = self.options(None)?;
        let bar = self.bar("copying");
        let Disks { data, metadata } = &mut disks;
        let imported = import::copy(thin, &source, data, metadata, &options, &mut told(&bar));
        bar.finish_and_clear();
        let imported = imported.map_err(|failure| self.explained(failure))?;
        held.map_or(Ok(()), |held| held.require_same(&self.path))?;
        drop(disks);
        made.keep()?;
        Ok(self.view(&imported, false))
    }

    fn data(&self) -> Result<&Path> {
        self.flags.data.as_deref().ok_or_else(|| {
            Error::new(Kind::Usage, "the data of the thin pool is not named")
                .hint("add --data FILE|DEV; only a pool that was given away by `vellum dm export` knows it")
        })
    }

    fn adopted(
        &self,
        thin: &Thin,
        data: &mut dyn Disk,
        target: &mut dyn Disk,
        given: Option<&Given>,
    ) -> Result<Imported> {
        let options = self.options(given)?;
        let bar = self.bar("importing");
        let imported = import::adopt(thin, data, target, given, &options, &mut told(&bar));
        bar.finish_and_clear();
        imported.map_err(|failure| self.explained(failure))
    }

    /// From here on the kernel cannot take the pool; what was there is kept until the pool has its name.
    fn disown(&self, mark: &Uuid) -> Result<()> {
        let path = &self.path;
        let cannot = |cause: std::io::Error| Error::io(format!("cannot change '{}'", path.display()), &cause);
        let mut file = File::options().read(true).write(true).open(path).map_err(cannot)?;
        let mut first = vec![0; BLOCK_BYTES];
        file.read_exact_at(&mut first, 0).map_err(cannot)?;
        if import::imported_mark(&first).is_some() {
            return Ok(());
        }
        let kept = File::create(self.kept()).and_then(|kept| {
            kept.write_all_at(&[&first[..], mark].concat(), 0)?;
            kept.sync_all()?;
            File::open(self.directory.path())?.sync_all()
        });
        kept.map_err(|cause| Error::io(format!("cannot write '{}'", self.kept().display()), &cause))?;
        import::disown(&mut file, mark).map_err(|error| super::explained(path, &error))
    }

    fn done(&self) -> Result<()> {
        let _ = std::fs::remove_file(self.kept());
        let synced = File::open(self.directory.path()).and_then(|folder| folder.sync_all());
        synced.map_err(|cause| Error::io("cannot sync the pool's directory", &cause))
    }

    fn explained(&self, failure: Failure) -> Error {
        match failure {
            Failure::Thin(error) => super::explained(&self.path, &error),
            Failure::Pool(error) => {
                let error = self.directory.explain(error);
                let is_given = self.directory.owner().is_some_and(|owner| owner.kernel);
                match (error.kind(), is_given) {
                    (Kind::Unsupported, false) => {
                        error.hint("--copy makes a new pool and leaves the thin pool as it is")
                    }
                    (Kind::NoSpace, false) => error.hint("make it larger, or copy into a new pool by --copy"),
                    (Kind::NoSpace, true) => {
                        error.hint("make the data file or device larger, and import again")
                    }
                    (Kind::Unsupported, true) => error.hint(
                        "copy what is left into a pool in another directory: --pool, --data and --copy",
                    ),
                    _ => error,
                }
            }
            other => Error::new(Kind::Damaged, other.to_string()),
        }
    }

    fn bar(&self, what: &str) -> ProgressBar {
        if !self.output.shows_progress() {
            return ProgressBar::hidden();
        }
        let style =
            ProgressStyle::with_template(&format!("{what} {{bar:40}} {{pos}}/{{len}} blocks, {{eta}} left"));
        ProgressBar::new(1).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
    }

    fn view(&self, imported: &Imported, adopted: bool) -> DmImportView {
        DmImportView {
            adopted,
            size_bytes: imported.data_blocks * DATA_BLOCK_BYTES,
            copied_bytes: imported.copied_bytes,
            transaction_id: imported.transaction_id,
            volumes: imported.volumes.iter().map(volume_view).collect(),
            lost: super::dump::lost_views(&imported.lost),
            found: super::dump::found_views(&imported.lost),
        }
    }
}

/// Where the new metadata of a pool that comes back is made, and where it goes.
struct NewPlace {
    new: PathBuf,
    metadata: PathBuf,
    /// A device that had the metadata; a file takes its place.
    left: Option<PathBuf>,
}

impl NewPlace {
    /// Beside the file that `metadata` is or leads to: it has to be on the same file system.
    fn of(metadata: &Path) -> Self {
        let real = metadata.canonicalize().unwrap_or_else(|_| metadata.to_owned());
        let is_file = real.metadata().is_ok_and(|found| found.is_file());
        let (metadata, left) = if is_file { (real, None) } else { (metadata.to_owned(), Some(real)) };
        let mut new = metadata.clone().into_os_string();
        new.push(".imported");
        Self { new: new.into(), metadata, left }
    }

    /// The new metadata takes the place of the old.
    fn take(&self) -> Result<()> {
        let cannot = |cause| Error::io(format!("cannot name '{}'", self.metadata.display()), &cause);
        std::fs::rename(&self.new, &self.metadata).map_err(cannot)?;
        let folder = self.metadata.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = File::open(folder.unwrap_or(Path::new(".")));
        folder.and_then(|folder| folder.sync_all()).map_err(cannot)
    }
}

fn told(bar: &ProgressBar) -> impl FnMut(Progress) {
    let bar = bar.clone();
    move |progress: Progress| {
        bar.set_length(progress.mappings_total);
        bar.set_position(progress.mappings_done);
    }
}

fn require_same(named: &Path, data: &Path) -> Result<()> {
    if files::are_same(named, data)? {
        return Ok(());
    }
    let message = format!("'{}' is not the data of the pool that was given away", named.display());
    Err(Error::new(Kind::Mismatch, message).hint("leave --data out, or name another directory by --pool"))
}

/// What brings back a superblock that an import has made unusable, until the pool has its name.
pub(super) fn kept_superblock(directory: &PoolDirectory) -> PathBuf {
    directory.path().join("superblock.imported")
}

fn kept_first(directory: &PoolDirectory, mark: &Uuid) -> Option<Box<Block>> {
    let kept = std::fs::read(kept_superblock(directory)).ok()?;
    let (first, kept_mark) = kept.split_at_checked(BLOCK_BYTES)?;
    (kept_mark == mark).then(|| first.first_chunk().copied().map(Box::new))?
}

/// Whether an import that began with this mark can go on. What an earlier hand-over has left behind says nothing.
pub(super) fn is_kept_for(directory: &PoolDirectory, mark: &Uuid) -> bool {
    kept_first(directory, mark).is_some()
}

fn used_up(path: &Path) -> Error {
    Error::new(Kind::Exists, format!("'{}' was imported into a pool already", path.display()))
        .hint("use that pool, or name the metadata that the kernel had last")
}

fn volume_view(volume: &ImportedVolume) -> DmImportedView {
    let record = &volume.record;
    DmImportedView {
        device: volume.device,
        number: record.id.0,
        name: record.name.clone(),
        uuid: uuid_text(&record.uuid),
        kind: if record.kind == EngineKind::Snapshot { VolumeKind::Snapshot } else { VolumeKind::Volume },
        size_bytes: record.size_bytes,
        changed: volume.is_changed,
        mapped_blocks: volume.mapped_blocks,
        counted_blocks: volume.counted_blocks,
    }
}
