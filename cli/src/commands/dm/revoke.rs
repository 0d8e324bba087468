//! `vellum dm revoke`: a hand-over that came to nothing, or whose metadata is lost, is undone.
//!
//! Owns what has to be certain before. Metadata that the kernel might take is made unusable first, so that not both have the pool. Where it is
//! said to be lost, nobody can do that: whoever finds it again must not use it.

use super::export::interrupted;
use super::files;
use super::given_files::GivenFiles;
use super::import::is_kept_for;
use crate::arguments::dm::DmRevoke;
use crate::error::{Error, Result};
use crate::exit::Kind;
use crate::host;
use crate::output::{Output, dm as text};
use crate::pool_directory::{Disks, PoolDirectory};
use crate::views::DmRevokeView;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use vellum_dm_bridge::export::stamp;
use vellum_dm_bridge::format::BLOCK_BYTES;
use vellum_dm_bridge::{Metadata, import};
use vellum_engine::adopt::{self, Given};
use vellum_engine::hand_over;
use vellum_engine::request::Uuid;
use vellum_engine::units::VolumeId;

pub fn run(flags: &DmRevoke, directory: &PoolDirectory, output: Output) -> Result<()> {
    super::super::pool::refuse_served(directory)?;
    let Disks { mut data, mut metadata } = directory.open_disks()?;
    let given = adopt::given(&mut metadata).map_err(|error| match directory.explain(error) {
        error if error.kind() == Kind::Invalid => {
            error.hint("there is nothing to revoke: the pool can be used as it is")
        }
        error => error,
    })?;
    files::refuse_active(&given.pool)?;
    files::refuse_looped(&directory.data())?;
    let known = GivenFiles::of(directory);
    // What the directory knows may be lost.
    let path = flags.metadata.clone().or_else(|| known.metadata().filter(|path| path.exists()));
    let found = path.as_deref().map_or(Ok(Found::Nothing), |path| look_at(path, &given, directory))?;
    match found {
        Found::Mark | Found::Revoked => {}
        Found::Other if flags.metadata.is_some() => return Err(other(path.as_deref())),
        _ if !flags.force => return Err(may_have_written(&found)),
        _ => {}
    }
    if let (Found::Its, Some(path)) = (&found, &path) {
        files::refuse_active(&given.pool)?;
        files::refuse_looped(&directory.data())?;
        files::refuse_looped(path)?;
        make_unusable(path, &given)?;
    }
    let is_untouched = matches!(found, Found::Mark);
    let mut new_uuid = uuids(given.volumes.len())?;
    let mut next_uuid = |_: VolumeId| new_uuid.pop().unwrap_or_default();
    let new_uuid: Option<&mut dyn FnMut(VolumeId) -> Uuid> =
        if is_untouched { None } else { Some(&mut next_uuid) };
    hand_over::revoke(&mut data, &mut metadata, host::new_nonce()?, new_uuid)
        .map_err(|error| directory.explain(error))?;
    known.remove()?;
    output.result(&DmRevokeView { untouched: is_untouched }, text::revoke)
}

/// What stands where the kernel's metadata would.
enum Found {
    /// There is no such file.
    Nothing,
    /// The mark of this hand-over: the kernel has never had the pool.
    Mark,
    /// The metadata of this hand-over.
    Its,
    /// That, made unusable by a revocation that did not come to its end.
    Revoked,
    /// Neither.
    Other,
}

fn look_at(path: &Path, given: &Given, directory: &PoolDirectory) -> Result<Found> {
    files::refuse_looped(path)?;
    let file = files::open(path, false)?;
    if interrupted(path) == Some(given.mark()) {
        return Ok(Found::Mark);
    }
    let stamp = stamp(&given.mark());
    if import::imported_mark(&first_block(&file)?) == Some(stamp) {
        return match is_kept_for(directory, &stamp) {
            true => Err(Error::new(
                Kind::InUse,
                "the pool is being taken back by an import, which was interrupted",
            )
            .hint("run that again to its end")),
            false => Ok(Found::Revoked),
        };
    }
    let is_its = Metadata::open(&file).is_ok_and(|thin| thin.superblock().uuid == stamp);
    Ok(if is_its { Found::Its } else { Found::Other })
}

fn uuids(count: usize) -> Result<Vec<Uuid>> {
    (0..count).map(|_| host::new_uuid()).collect()
}

fn other(path: Option<&Path>) -> Error {
    let path = path.unwrap_or(Path::new("")).display();
    Error::new(Kind::Mismatch, format!("'{path}' is not the metadata that the pool was given away with"))
        .hint("name that, or leave --metadata out if it is lost")
}

fn may_have_written(found: &Found) -> Error {
    let error = Error::new(Kind::InUse, "the kernel may have had the pool, and written to it");
    match found {
        Found::Its => error.hint(
            "take it back by `vellum dm import`; --force gives up what the kernel has written, and snapshots get new uuids",
        ),
        _ => error.hint(
            "name what was to be the kernel's metadata by --metadata: it may say that the kernel never had the pool; \
             only if it is lost, add --force: what the kernel has written is lost then",
        ),
    }
}

fn first_block(file: &File) -> Result<[u8; BLOCK_BYTES]> {
    let mut first = [0; BLOCK_BYTES];
    let read = file.read_exact_at(&mut first, 0);
    read.map_err(|cause| Error::io("cannot read the kernel's metadata", &cause))?;
    Ok(first)
}

/// The kernel cannot take it any more, nor does an export go on with it.
fn make_unusable(path: &Path, given: &Given) -> Result<()> {
    let mut file = files::open_own(path)?;
    import::disown(&mut file, &stamp(&given.mark())).map_err(|error| super::explained(path, &error))
}
