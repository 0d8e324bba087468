//! The two files of a pool, read one operation at a time: pages, superblock, root slots, each from a good copy.
//!
//! Owns the choice between copies. Decides nothing else and writes nothing; who may write does so through the disks.

use crate::canary::{self, Canary};
use crate::error::{Error, Place, Result};
use crate::format::{self, Pointer, ROOT_SLOT_PAGES, RootSlot, SUPERBLOCK_PAGES, Superblock};
use crate::storage::{Blocking, Disk};
use crate::units::{PAGE_BYTES, PageNumber};
use bytes::Bytes;

/// The two files of a pool, read one operation at a time.
pub struct Files<'a> {
    /// The data file.
    pub data: Blocking<'a, dyn Disk + 'a>,
    /// The metadata file.
    pub metadata: Blocking<'a, dyn Disk + 'a>,
}

impl<'a> Files<'a> {
    /// Both files.
    pub fn new(data: &'a mut dyn Disk, metadata: &'a mut dyn Disk) -> Self {
        Self { data: Blocking::data(data), metadata: Blocking::metadata(metadata) }
    }

    /// The page that `pointer` names, verified, from whichever copy is good.
    pub fn page(&mut self, pool: &[u8; 16], pointer: &Pointer) -> Result<Bytes> {
        let first = self.copy_of_page(pool, pointer, pointer.page);
        match (first, pointer.copy) {
            (Err(error), Some(copy)) => self.copy_of_page(pool, pointer, copy).map_err(|_| error),
            (first, _) => first,
        }
    }

    /// One copy of the page that `pointer` names, verified.
    pub fn copy_of_page(&mut self, pool: &[u8; 16], pointer: &Pointer, number: PageNumber) -> Result<Bytes> {
        let bytes = self.metadata.read(number.offset_bytes(), PAGE_BYTES)?;
        format::open(&bytes, pool, pointer)?;
        Ok(bytes.freeze())
    }

    /// The superblock from whichever copy is good.
    pub fn superblock(&mut self) -> Result<Superblock> {
        let mut error = None;
        for page in SUPERBLOCK_PAGES {
            match self.metadata.read(page.offset_bytes(), PAGE_BYTES).and_then(|b| Superblock::decode(&b)) {
                Ok(superblock) => return Ok(superblock),
                Err(e) => error = error.or(Some(e.at(Place::Page(page)))),
            }
        }
        Err(error.unwrap_or_else(|| Error::damaged("no superblock")))
    }

    /// Both root slots, the newer one first.
    pub fn root_slots(&mut self, pool: &[u8; 16]) -> [Result<RootSlot>; 2] {
        let mut slots = ROOT_SLOT_PAGES.map(|page| {
            let bytes = self.metadata.read(page.offset_bytes(), PAGE_BYTES)?;
            let slot = RootSlot::decode(&bytes, pool).map_err(|e| e.at(Place::Page(page)))?;
            if ROOT_SLOT_PAGES[(slot.generation.0 % 2) as usize] != page {
                return Err(Error::damaged("a root slot stands in the other's place").at(Place::Page(page)));
            }
            Ok(slot)
        });
        let age = |slot: &Result<RootSlot>| slot.as_ref().map_or(0, |s| s.generation.0);
        if age(&slots[0]) < age(&slots[1]) {
            slots.swap(0, 1);
        }
        if canary::broken(Canary::OlderSlot) && slots[1].is_ok() {
            slots.swap(0, 1);
        }
        slots
    }
}
