//! Decodes any structure for people, damaged ones too.
//!
//! Owns recognising what a page is and drawing its fields. Believes nothing and never panics: what a checksum does not
//! vouch for is shown with that remark. Says nothing of what a pool means as a whole; that is `check/`. Files:
//! `recognise.rs` (from bytes to a structure), `draw.rs` (from a structure to text), `log.rs` (the ring of records).

mod draw;
mod log;
mod recognise;

pub use log::{LogEntry, LogInspection, LogState, log};
pub use recognise::page;

use crate::error::{Error, Result};
use crate::format::{
    InnerPage, LogHead, LogRecord, MapLeaf, PageHeader, ROOT_SLOT_PAGES, RootSlot, SUPERBLOCK_PAGES,
    Superblock, VolumeRecord,
};
use crate::request::Uuid;
use crate::storage::{Blocking, Disk};
use crate::units::{PAGE_BYTES, PageNumber};

/// What some bytes are. Its text shows all fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// What they were recognised as.
    pub structure: Structure,
    /// Whether its checksum vouches for it.
    pub checksum: Checksum,
    /// What could not be decoded, or cannot be.
    pub problems: Vec<Error>,
}

/// What a checksum says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// The bytes are as they were written.
    Right,
    /// They are not; whatever is shown may be wrong.
    Wrong,
    /// It cannot be told without the pool's secret.
    NeedsSecret,
    /// There is none.
    None,
}

/// What bytes can be recognised as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Structure {
    /// Nothing but zeros.
    Zeros,
    /// Nothing that is known.
    Unknown,
    /// A superblock; none if no field of it can be read.
    Superblock(Option<Superblock>),
    /// A root slot and the pool that it says it belongs to.
    RootSlot(Option<Box<RootSlot>>, Uuid),
    /// A log head.
    LogHead(Option<LogHead>),
    /// A log record.
    LogRecord(Option<LogRecord>),
    /// A page of a tree.
    TreePage {
        /// Its header.
        header: PageHeader,
        /// The pool that it says it belongs to.
        pool: Uuid,
        /// Its body.
        contents: Contents,
    },
}

/// What the body of a tree's page holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Contents {
    /// Mappings.
    Mappings(MapLeaf),
    /// Pointers.
    Pointers(InnerPage),
    /// Volume records, as far as they could be read.
    Volumes(Vec<VolumeRecord>),
    /// One count a block or page, from the first key on; 255 stands for "in the overflow".
    Counts(Vec<u8>),
    /// Numbers with their counts.
    Overflow(Vec<(u64, u32)>),
    /// A body that could not be decoded.
    Bytes(Vec<u8>),
}

/// One page of a metadata file. Fails if it cannot be read.
pub fn metadata_page(metadata: &mut dyn Disk, number: PageNumber) -> Result<Inspection> {
    let offset = number.0.checked_mul(PAGE_BYTES as u64);
    let offset = offset.ok_or_else(|| Error::invalid("no file has a page of this number"))?;
    Ok(page(&Blocking::metadata(metadata).read(offset, PAGE_BYTES)?))
}

/// What stands at the fixed places of a metadata file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Both superblocks and both root slots, each with its place, or why it cannot be read.
    pub pages: Vec<(PageNumber, Result<Inspection>)>,
}

/// Superblocks and root slots of a metadata file.
pub fn summary(metadata: &mut dyn Disk) -> Summary {
    let numbers = SUPERBLOCK_PAGES.into_iter().chain(ROOT_SLOT_PAGES);
    Summary { pages: numbers.map(|number| (number, metadata_page(metadata, number))).collect() }
}
