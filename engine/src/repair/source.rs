//! The damaged metadata file, read one page at a time: a mapping page is given whole and plausible, or not at all.
//!
//! Owns what is believed of a page and the progress. Follows no pointers. Read next: `census.rs`.

use super::report::Progress;
use crate::error::{Error, Place, Result};
use crate::format::{self, InnerPage, LOST, MapLeaf, PageHeader, PageKind, Pointer, WINDOW_BLOCKS};
use crate::metadata::cache::Node;
use crate::metadata::files::Files;
use crate::request::Uuid;
use crate::units::{DataBlock, PAGE_BYTES, PageNumber};
use bytes::Bytes;

/// Pages between two calls of the progress function.
const PROGRESS_PAGES: u64 = 64;

/// A pointer, and the keys for which its owner leads to it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Edge {
    pub pointer: Pointer,
    pub level: u8,
    pub low: u64,
    pub high: u64,
}

impl Edge {
    /// The ways from an inner page to its children. A leaf ends at its window.
    pub fn children(self, inner: &InnerPage) -> impl Iterator<Item = Self> + '_ {
        let level = self.level.saturating_sub(1);
        let ends = inner.entries.iter().skip(1).map(|(key, _)| key.saturating_sub(1)).chain([self.high]);
        inner.entries.iter().zip(ends).map(move |(&(low, pointer), end)| {
            let high = if level == 0 { end.min(window_end(low)) } else { end };
            Self { pointer, level, low, high }
        })
    }
}

/// The last virtual block of the window that holds `key`.
pub(super) fn window_end(key: u64) -> u64 {
    key - key % WINDOW_BLOCKS + (WINDOW_BLOCKS - 1)
}

/// A mapping page as it was found.
pub(super) struct Page {
    pub header: PageHeader,
    pub bytes: Bytes,
    pub node: Node,
}

impl Page {
    /// The body, as it stands on disk.
    pub fn body(&self) -> &[u8] {
        format::inspect(&self.bytes).map_or(&[], |page| page.body)
    }
}

/// The files of a damaged pool.
pub(super) struct Source<'s, 'f> {
    pub files: &'s mut Files<'f>,
    pub pool: Uuid,
    progress: &'s mut dyn FnMut(Progress),
    pages_done: u64,
    pages_total: u64,
}

impl<'s, 'f> Source<'s, 'f> {
    pub fn new(files: &'s mut Files<'f>, pool: Uuid, progress: &'s mut dyn FnMut(Progress)) -> Self {
        // Met once to choose the slot, once to find what is bad, once to be written again.
        let pages_total = 3 * (files.metadata.size_bytes() / PAGE_BYTES as u64);
        Self { files, pool, progress, pages_done: 0, pages_total }
    }

    /// Pages of the file.
    pub fn pages(&self) -> u64 {
        self.files.metadata.size_bytes() / PAGE_BYTES as u64
    }

    fn page_read(&mut self) {
        self.pages_done += 1;
        if self.pages_done.is_multiple_of(PROGRESS_PAGES) {
            let pages_total = self.pages_total.max(self.pages_done);
            (self.progress)(Progress { pages_done: self.pages_done, pages_total });
        }
    }

    /// The page of an index tree behind a pointer, from either copy.
    pub fn index_page(&mut self, pointer: &Pointer) -> Result<Bytes> {
        self.page_read();
        self.files.page(&self.pool, pointer).map_err(|error| error.at(Place::Page(pointer.page)))
    }

    /// What stands at `number`, if it is a whole page of this pool and stands at its own place.
    pub fn whole_page_at(&mut self, number: PageNumber) -> Option<(PageHeader, Bytes)> {
        self.page_read();
        let bytes = self.files.metadata.read(number.offset_bytes(), PAGE_BYTES).ok()?.freeze();
        let page = format::inspect(&bytes).ok()?;
        let is_here = page.header.number == number || page.header.copy == Some(number);
        (page.checksum_ok && page.pool == self.pool && is_here).then_some((page.header, bytes.clone()))
    }

    /// The mapping page behind a pointer, from either copy. Fails with `Damaged` when it cannot be what is meant.
    pub fn mapping_page(&mut self, edge: &Edge) -> Result<Page> {
        let bytes = self.index_page(&edge.pointer)?;
        self.open(edge, bytes).map_err(|error| error.at(Place::Page(edge.pointer.page)))
    }

    fn open(&self, edge: &Edge, bytes: Bytes) -> Result<Page> {
        let (header, body) = format::open(&bytes, &self.pool, &edge.pointer)?;
        let node = decode_node(&header, body, edge.level)?;
        let inside = match &node {
            Node::Inner(inner) => inner.entries.iter().all(|(key, _)| (edge.low..=edge.high).contains(key)),
            Node::Leaf(leaf) => leaf
                .first()
                .zip(leaf.last())
                .is_some_and(|(first, last)| edge.low <= first.0 && last.0 <= edge.high),
        };
        if !inside || node.mapped() != edge.pointer.mapped {
            return Err(Error::damaged("what it holds contradicts the page that leads to it"));
        }
        Ok(Page { header, bytes: bytes.clone(), node })
    }
}

/// A page of a mapping tree whose checksum is right.
pub(super) fn decode_node(header: &PageHeader, body: &[u8], level: u8) -> Result<Node> {
    let node = match header.kind {
        PageKind::MapLeaf if level == 0 && header.level == 0 => {
            Node::Leaf(MapLeaf::decode(body, header.first_key, header.last_key)?)
        }
        PageKind::Inner if level > 0 && header.level == level => Node::Inner(InnerPage::decode(level, body)?),
        _ => return Err(Error::damaged("it is no page of a mapping tree, or of another level")),
    };
    let holds_something = match &node {
        Node::Inner(_) => true,
        Node::Leaf(leaf) => !leaf.is_empty(),
    };
    if !holds_something || node.entries() != usize::from(header.entries) {
        return Err(Error::damaged("what it holds contradicts its header"));
    }
    Ok(node)
}

/// Which data blocks volumes can have: those of the pool that are not the log's.
pub(super) struct PossibleBlocks {
    data_blocks: u64,
    log: Vec<std::ops::Range<u64>>,
}

impl PossibleBlocks {
    pub fn of(slot: &format::RootSlot) -> Self {
        let range = |extent: &format::Extent| extent.first.0..extent.first.0.saturating_add(extent.blocks);
        Self { data_blocks: slot.data_blocks, log: slot.log.iter().map(range).collect() }
    }

    pub fn has(&self, block: DataBlock) -> bool {
        let in_log = self.log.iter().any(|range| range.contains(&block.0));
        block.0 < self.data_blocks && !in_log && block != LOST
    }
}
