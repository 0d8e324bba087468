//! The way that was gone last, for the next lookup in the same leaf.
//!
//! Owns when that way still holds: no page changed, came or went, the root is the same, and the block lies between the
//! keys that led the way. Clients work on neighbours, so most lookups end in the leaf of the one before.

use super::lookup::Path;
use crate::format::Pointer;
use crate::units::{Generation, PageNumber, VirtualBlock};
use std::cell::RefCell;

/// A way from a root to a leaf, and which blocks it holds for.
#[derive(Debug, Default)]
struct Way {
    root: PageNumber,
    generation: Generation,
    /// What [`PageCache::changes`](crate::metadata::cache::PageCache::changes) said.
    changes: u64,
    low: u64,
    /// Behind the last block that it holds for; 0 for a way that holds for none.
    end: u64,
    path: Path,
}

/// The last way, if there was one.
#[derive(Debug, Default)]
pub(super) struct LastWay(RefCell<Way>);

impl LastWay {
    /// The way to `block`, if it is the last one.
    #[inline]
    pub fn find(&self, root: &Pointer, changes: u64, block: VirtualBlock) -> Option<Path> {
        let way = self.0.borrow();
        let holds = (way.low..way.end).contains(&block.0)
            && way.changes == changes
            && (way.root, way.generation) == (root.page, root.generation);
        holds.then_some(way.path)
    }

    /// Remembers the way to all blocks from `path.low` to in front of `end`.
    #[inline]
    pub fn remember(&self, root: &Pointer, changes: u64, path: &Path, end: u64) {
        let mut way = self.0.borrow_mut();
        (way.root, way.generation, way.changes) = (root.page, root.generation, changes);
        (way.low, way.end, way.path) = (path.low, end, *path);
    }
}
