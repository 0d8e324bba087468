//! `vellum dm revoke`: a hand-over that came to nothing, or whose metadata is lost, is undone.
//!
//! Owns what has to be certain before. The metadata that the kernel might take is made unusable first, so that never two have the pool.

use super::export::interrupted;
use super::files;
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

pub fn run(flags: &DmRevoke, directory: &PoolDirectory, output: Output) -> Result<()> {
    super::super::pool::refuse_served(directory)?;
    files::refuse_looped(&directory.data())?;
    let Disks { mut data, mut metadata } = directory.open_disks()?;
    let given = adopt::given(&mut metadata).map_err(|error| directory.explain(error))?;
    let untouched = match &flags.metadata {
        Some(path) => is_untouched(path, &given, flags.force)?,
        None => false,
    };
    if !untouched && !flags.force {
        return Err(may_have_written());
    }
    // What was never finished nobody takes.
    if let Some(path) = flags.metadata.as_ref().filter(|_| !untouched) {
        make_unusable(path, &given)?;
    }
    let nonce = host::open_options()?.nonce;
    hand_over::revoke(&mut data, &mut metadata, nonce).map_err(|error| directory.explain(error))?;
    output.result(&DmRevokeView { untouched }, text::revoke)
}

/// Whether the mark of this hand-over stands where the superblock would: then the kernel has never had the pool. What is neither that nor the
/// metadata of this hand-over is refused.
fn is_untouched(path: &Path, given: &Given, force: bool) -> Result<bool> {
    files::refuse_looped(path)?;
    let file = files::open(path, false)?;
    if interrupted(path) == Some(given.mark()) {
        return Ok(true);
    }
    let is_its = Metadata::open(&file).is_ok_and(|thin| thin.superblock().uuid == stamp(&given.mark()));
    // Made unusable by a revocation that was interrupted.
    let was_its = import::imported_mark(&first_block(&file)?) == Some(stamp(&given.mark()));
    match is_its || was_its || !force {
        true => Ok(false),
        false => Err(Error::new(
            Kind::Mismatch,
            format!("'{}' is not the metadata that the pool was given away with", path.display()),
        )
        .hint("name that, or leave --metadata out if it is lost")),
    }
}

fn first_block(file: &File) -> Result<[u8; BLOCK_BYTES]> {
    let mut first = [0; BLOCK_BYTES];
    let read = file.read_exact_at(&mut first, 0);
    read.map_err(|cause| Error::io("cannot read the kernel's metadata", &cause))?;
    Ok(first)
}

fn may_have_written() -> Error {
    Error::new(Kind::InUse, "the kernel may have had the pool, and written to it").hint(
        "take it back by `vellum dm import`; only if the kernel's metadata is lost, add --force: what it has written is lost then",
    )
}

/// The kernel cannot take it any more, nor does an export go on with it.
fn make_unusable(path: &Path, given: &Given) -> Result<()> {
    let mut file = files::open_own(path)?;
    import::disown(&mut file, &stamp(&given.mark())).map_err(|error| super::explained(path, &error))
}
