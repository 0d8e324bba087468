//! The two files of a pool, read one operation at a time: pages, superblock, root slots, each from a good copy.
//!
//! Owns the choice between copies, and reading ahead where many pages are read in order. Decides nothing else and
//! writes nothing; who may write does so through the disks.

use crate::canary::{self, Canary};
use crate::error::{Error, Place, Result};
use crate::format::{self, Pointer, ROOT_SLOT_PAGES, RootSlot, SUPERBLOCK_PAGES, Superblock, U48_LIMIT};
use crate::storage::{Blocking, Buffer, Disk};
use crate::units::{PAGE_BYTES, PageNumber};
use bytes::Bytes;

/// Openings go some generations ahead; there must be room for them.
const GENERATION_MAX: u64 = U48_LIMIT - (1 << 20);

/// The two files of a pool, read one operation at a time.
pub struct Files<'a> {
    /// The data file.
    pub data: Blocking<'a, dyn Disk + 'a>,
    /// The metadata file.
    pub metadata: Blocking<'a, dyn Disk + 'a>,
    ahead: Ahead,
}

/// Pages of the metadata file that were read together.
#[derive(Default)]
struct Ahead {
    first: u64,
    /// How many there were; more are read at a time as long as the next one wanted is near.
    pages: u64,
    bytes: Option<Buffer>,
}

/// Pages that are read at a time at most.
const AHEAD_PAGES_MAX: u64 = 64;

impl<'a> Files<'a> {
    /// Both files.
    pub fn new(data: &'a mut dyn Disk, metadata: &'a mut dyn Disk) -> Self {
        let (data, metadata) = (Blocking::data(data), Blocking::metadata(metadata));
        Self { data, metadata, ahead: Ahead::default() }
    }

    /// The page that `pointer` names, verified, from whichever copy is good.
    pub fn page(&mut self, pool: &[u8; 16], pointer: &Pointer) -> Result<Bytes> {
        let first = self.copy_of_page(pool, pointer, pointer.page);
        match (first, pointer.copy) {
            (Err(error), Some(copy)) => self.copy_of_page(pool, pointer, copy).map_err(|_| error),
            (first, _) => first,
        }
    }

    /// As [`Files::page`], for pages that are read in order of their numbers, as far as they stand in order. Nobody may
    /// write meanwhile; call [`Files::forget_ahead`] when done.
    pub fn page_in_order(&mut self, pool: &[u8; 16], pointer: &Pointer) -> Result<Bytes> {
        let ahead = self.read_ahead(pointer.page).filter(|bytes| format::open(bytes, pool, pointer).is_ok());
        match ahead {
            Some(bytes) => Ok(Bytes::copy_from_slice(bytes)),
            // What is wrong is found out from the page alone.
            None => self.page(pool, pointer),
        }
    }

    /// Forgets what was read ahead: it may be written from now on.
    pub fn forget_ahead(&mut self) {
        self.ahead = Ahead::default();
    }

    /// The bytes of a page as they were read with its neighbours, if they could be.
    fn read_ahead(&mut self, page: PageNumber) -> Option<&[u8]> {
        let Ahead { first, pages, bytes } = &self.ahead;
        let behind = first + pages;
        if bytes.is_none() || !(*first..behind).contains(&page.0) {
            let is_near = (behind..behind + AHEAD_PAGES_MAX).contains(&page.0);
            let wanted = if is_near { (2 * pages).clamp(1, AHEAD_PAGES_MAX) } else { 1 };
            let in_file = (self.metadata.size_bytes() / PAGE_BYTES as u64).saturating_sub(page.0);
            let pages = wanted.min(in_file).max(1);
            let bytes = self.metadata.read(page.offset_bytes(), pages as usize * PAGE_BYTES).ok();
            self.ahead = Ahead { first: page.0, pages, bytes };
        }
        let at = (page.0 - self.ahead.first) as usize * PAGE_BYTES;
        self.ahead.bytes.as_ref()?.get(at..at + PAGE_BYTES)
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
            if slot.generation.0 > GENERATION_MAX {
                let message = "a root slot has a generation that no pool comes to";
                return Err(Error::damaged(message).at(Place::Page(page)));
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
