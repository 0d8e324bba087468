//! Who the pool is: its superblock, or what of it can be told without.
//!
//! Owns the only case in which repair does without a superblock: both copies are bad, both root slots are good, and the
//! pool was closed, so that nothing in its log matters and the secret is not needed. Read next: `mod.rs`.

use crate::error::{Error, ErrorKind, Place, Result};
use crate::format::{ROOT_SLOT_PAGES, RootSlot, SUPERBLOCK_PAGES, Superblock};
use crate::metadata::files::Files;
use crate::request::Uuid;
use crate::units::PAGE_BYTES;

/// The superblock, and what is wrong with its copies. `secret` is taken if it has to be made anew.
pub(super) fn superblock(files: &mut Files<'_>, secret: u64) -> Result<(Superblock, Vec<Error>)> {
    let mut problems = Vec::new();
    let mut found = None;
    for page in SUPERBLOCK_PAGES {
        let read = files.metadata.read(page.offset_bytes(), PAGE_BYTES);
        match read.and_then(|bytes| Superblock::decode(&bytes)) {
            Ok(superblock) => found = found.or(Some(superblock)),
            Err(error) => problems.push(error.at(Place::Page(page))),
        }
    }
    if let Some(superblock) = found {
        refuse_unknown(&superblock)?;
        return Ok((superblock, problems));
    }
    match made_anew(files, secret) {
        Some(superblock) => Ok((superblock, problems)),
        None => Err(problems.swap_remove(0)),
    }
}

fn refuse_unknown(superblock: &Superblock) -> Result<()> {
    if superblock.unknown_read_only_compatible() == 0 {
        return Ok(());
    }
    let message = "the pool has a feature that this program may read but not write; use a newer one";
    Err(Error::new(ErrorKind::Unsupported, message))
}

fn made_anew(files: &mut Files<'_>, secret: u64) -> Option<Superblock> {
    let mut slots = Vec::new();
    for page in ROOT_SLOT_PAGES {
        let bytes = files.metadata.read(page.offset_bytes(), PAGE_BYTES).ok()?;
        let pool: Uuid = bytes.get(16..32)?.try_into().ok()?;
        slots.push((pool, RootSlot::decode(&bytes, &pool).ok()?));
    }
    let (pool, newest) = slots.iter().max_by_key(|(_, slot)| slot.generation)?;
    let of_one_pool = slots.iter().all(|(other, _)| other == pool);
    (of_one_pool && newest.clean).then(|| Superblock::new(*pool, secret, 0, newest.data_blocks))
}
