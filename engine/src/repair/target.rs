//! The new metadata file while it grows: page numbers in order, room ahead, counts of what was written.
//!
//! Owns the sealing of its mapping pages. What is in them is `build.rs`'s affair.

use crate::error::{Error, ErrorKind, Result};
use crate::format::{self, FIRST_FREE_PAGE, InnerPage, MapEntry, MapLeaf, PageHeader, PageKind, Pointer};
use crate::metadata::counts::Counts;
use crate::request::Uuid;
use crate::storage::{Blocking, Disk};
use crate::units::{Generation, PAGE_BYTES, PageNumber, VolumeId};
use bytes::Bytes;

/// The file grows by so many pages at a time.
const GROWTH_PAGES: u64 = 256;

/// What a page says about itself, beside what it holds.
#[derive(Clone, Copy)]
pub(super) struct Origin {
    pub generation: Generation,
    pub first_key: u64,
    pub last_key: u64,
    pub volume_of_birth: VolumeId,
}

/// A new metadata file.
pub(super) struct Target<'t> {
    disk: Blocking<'t, dyn Disk + 't>,
    pool: Uuid,
    next: u64,
    allocated: u64,
    pages_at_most: u64,
    pub page_counts: Counts,
    pub data_counts: Counts,
}

impl<'t> Target<'t> {
    /// An empty file, which may take so many pages.
    pub fn new(disk: &'t mut dyn Disk, pool: Uuid, data_blocks: u64, pages_at_most: u64) -> Result<Self> {
        let mut target = Self {
            disk: Blocking::metadata(disk),
            pool,
            next: 0,
            allocated: 0,
            pages_at_most,
            page_counts: Counts::default(),
            data_counts: Counts::new(data_blocks),
        };
        for _ in 0..FIRST_FREE_PAGE.0 {
            let page = target.page()?;
            target.page_counts.increment(page.0)?;
        }
        Ok(target)
    }

    fn page(&mut self) -> Result<PageNumber> {
        if self.next == self.pages_at_most {
            let message = "what is left makes more pages than there can have been";
            return Err(Error::new(ErrorKind::Limit, message));
        }
        if self.next == self.allocated {
            let page_bytes = PAGE_BYTES as u64;
            self.disk.allocate(self.allocated * page_bytes, GROWTH_PAGES * page_bytes)?;
            self.allocated += GROWTH_PAGES;
        }
        self.next += 1;
        self.page_counts.grow(self.next);
        Ok(PageNumber(self.next - 1))
    }

    /// Writes a leaf, whose body may be as it stood elsewhere.
    pub fn leaf(&mut self, origin: &Origin, leaf: &MapLeaf, body: &[u8]) -> Result<Pointer> {
        let blocks = leaf.iter_entries().flat_map(MapEntry::data_blocks);
        blocks.into_iter().try_for_each(|block| self.data_counts.increment(block.0).map(drop))?;
        let number = self.page()?;
        let entries = leaf.iter_entries().count();
        let header = header(PageKind::MapLeaf, 0, entries, number, None, origin);
        self.write(&header, body, leaf.mapped_blocks())
    }

    /// Writes an inner page, twice.
    pub fn inner(&mut self, origin: &Origin, inner: &InnerPage) -> Result<Pointer> {
        let children = inner.entries.iter().map(|(_, child)| child.page);
        children.into_iter().try_for_each(|child| self.refer(child))?;
        let (number, copy) = (self.page()?, self.page()?);
        self.page_counts.increment(copy.0)?;
        let header = header(PageKind::Inner, inner.level, inner.entries.len(), number, Some(copy), origin);
        self.write(&header, &inner.encode(), inner.mapped())
    }

    /// One more parent leads to a page.
    pub fn refer(&mut self, page: PageNumber) -> Result<()> {
        self.page_counts.increment(page.0).map(drop)
    }

    fn write(&mut self, header: &PageHeader, body: &[u8], mapped: u64) -> Result<Pointer> {
        let (buffer, checksum) = format::seal(header, &self.pool, body);
        let bytes: Bytes = buffer.freeze();
        for number in std::iter::once(header.number).chain(header.copy) {
            self.disk.write(number.offset_bytes(), bytes.clone())?;
        }
        let PageHeader { number: page, copy, generation, .. } = *header;
        Ok(Pointer { page, copy, generation, checksum, mapped })
    }
}

fn header(
    kind: PageKind,
    level: u8,
    entries: usize,
    number: PageNumber,
    copy: Option<PageNumber>,
    origin: &Origin,
) -> PageHeader {
    let Origin { generation, first_key, last_key, volume_of_birth } = *origin;
    let entries = entries as u16;
    PageHeader { kind, level, entries, number, copy, generation, first_key, last_key, volume_of_birth }
}
