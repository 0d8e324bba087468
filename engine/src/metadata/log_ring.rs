//! Where log records stand: ring positions, and the bytes of the data file behind them.
//!
//! Owns head and tail of the ring. Knows nothing of what records say; see `format/log_record.rs`.

use crate::error::{Error, Result};
use crate::format::Extent;
use crate::units::{BLOCK_BYTES, DataBlock, Incarnation, PAGE_BYTES};

/// Log pages of one data block.
pub const PAGES_PER_BLOCK: u64 = BLOCK_BYTES / PAGE_BYTES as u64;

/// Pages in front of the ring. Openings write their log head into them in turn, so that one torn head harms nobody.
pub const LOG_HEAD_PAGES: u64 = 2;

/// The ring of log pages behind the log heads. Positions count pages for ever.
#[derive(Clone, Debug)]
pub struct LogRing {
    blocks: Vec<DataBlock>,
    /// Where the next record goes.
    pub head: u64,
    /// The oldest position that one of the root slots still needs.
    pub tail: u64,
}

impl LogRing {
    /// The ring in `extents`, empty at `position`.
    pub fn new(extents: &[Extent], position: u64) -> Result<Self> {
        let total = extents.iter().fold(0u64, |sum, extent| sum.saturating_add(extent.blocks));
        if total == 0 || total > 1 << 20 {
            return Err(Error::damaged("the root slot names a log of an impossible size"));
        }
        let blocks = extents
            .iter()
            .flat_map(|e| (0..e.blocks).map(|i| DataBlock(e.first.0.saturating_add(i))))
            .collect();
        Ok(Self { blocks, head: position, tail: position })
    }

    /// Pages that records can use.
    pub fn pages(&self) -> u64 {
        self.blocks.len() as u64 * PAGES_PER_BLOCK - LOG_HEAD_PAGES
    }

    /// Pages between tail and head.
    pub fn used_pages(&self) -> u64 {
        self.head - self.tail
    }

    /// Pages that new records can take without touching what a root slot needs.
    pub fn free_pages(&self) -> u64 {
        self.pages().saturating_sub(self.used_pages())
    }

    /// Pages from `position` to the end of its data block: the longest record that can stand there.
    pub fn contiguous_pages(&self, position: u64) -> u64 {
        PAGES_PER_BLOCK - self.page_of(position) % PAGES_PER_BLOCK
    }

    /// Where `position` stands in the data file, in bytes.
    pub fn offset_bytes(&self, position: u64) -> u64 {
        let page = self.page_of(position);
        let block = self.blocks[(page / PAGES_PER_BLOCK) as usize];
        block.offset_bytes() + page % PAGES_PER_BLOCK * PAGE_BYTES as u64
    }

    /// Where the two log heads stand in the data file, in bytes.
    pub fn head_page_offsets_bytes(&self) -> [u64; LOG_HEAD_PAGES as usize] {
        let first = self.blocks[0].offset_bytes();
        [first, first + PAGE_BYTES as u64]
    }

    /// Where an opening writes its log head, in bytes of the data file.
    pub fn head_offset_bytes(&self, incarnation: Incarnation) -> u64 {
        self.head_page_offsets_bytes()[(incarnation.opening() % LOG_HEAD_PAGES) as usize]
    }

    /// The data blocks of the log, in ring order.
    pub fn blocks(&self) -> &[DataBlock] {
        &self.blocks
    }

    fn page_of(&self, position: u64) -> u64 {
        LOG_HEAD_PAGES + position % self.pages()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_fill_blocks_exactly_and_skip_the_head() {
        let extents = [Extent { first: DataBlock(7), blocks: 1 }, Extent { first: DataBlock(3), blocks: 1 }];
        let ring = LogRing::new(&extents, 0).unwrap();
        assert_eq!(ring.pages(), 30);
        assert_eq!(ring.contiguous_pages(0), 14);
        assert_eq!(ring.offset_bytes(0), 7 * BLOCK_BYTES + 8192);
        assert_eq!(ring.offset_bytes(14), 3 * BLOCK_BYTES);
        assert_eq!(ring.contiguous_pages(14), 16);
        assert_eq!(ring.offset_bytes(30), ring.offset_bytes(0));
    }

    #[test]
    fn an_impossible_log_is_refused() {
        assert!(LogRing::new(&[], 0).is_err());
        assert!(LogRing::new(&[Extent { first: DataBlock(0), blocks: u64::MAX }], 0).is_err());
    }
}
