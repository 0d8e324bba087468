//! Every mapping page that the volumes lead to, met once: which are bad, and which parents were found for each.
//!
//! Owns the references and the list of bad pages. Pages whose parent is bad are `orphans.rs`'s affair.

use super::source::{Edge, PossibleBlocks, Source};
use crate::error::Error;
use crate::format::{MapEntry, MapLeaf};
use crate::metadata::cache::Node;
use crate::metadata::tree::{LAST_KEY, MAX_LEVELS, Root};
use crate::units::PageNumber;
use rustc_hash::FxHashMap;

/// A page that cannot be used in any of its copies, and what was found for it.
pub(super) struct Bad {
    pub edge: Edge,
    /// Its children, by rising keys, once they were looked for; none can be found for a leaf.
    pub children: Option<Vec<Edge>>,
    /// The children are all that it had: what lies between them was not mapped.
    pub complete: bool,
}

/// What is known of the pages below the volumes.
pub(super) struct Census<'b> {
    possible: &'b PossibleBlocks,
    /// Parents that lead to a page.
    references: FxHashMap<PageNumber, u32>,
    /// Whether all of a page and what is below it can be taken over as it is.
    clean: FxHashMap<PageNumber, bool>,
    pub bad: FxHashMap<PageNumber, Bad>,
    /// Some leaf holds lost ranges already.
    pub lost_before: bool,
    pub problems: Vec<Error>,
}

impl<'b> Census<'b> {
    pub fn new(possible: &'b PossibleBlocks) -> Self {
        Self {
            possible,
            references: FxHashMap::default(),
            clean: FxHashMap::default(),
            bad: FxHashMap::default(),
            lost_before: false,
            problems: Vec::new(),
        }
    }

    /// How many parents were found for a page.
    pub fn references(&self, page: PageNumber) -> u32 {
        self.references.get(&page).copied().unwrap_or(0)
    }

    /// Whether a page that was met can be taken over as it is, with all below.
    pub fn is_clean(&self, page: PageNumber) -> bool {
        self.clean.get(&page).copied().unwrap_or(false)
    }

    /// Goes through the tree of a volume as far as it was not met before.
    pub fn volume(&mut self, source: &mut Source<'_, '_>, root: &Root) {
        if let Some(edge) = root_edge(root) {
            self.visit(source, edge);
        }
    }

    /// Goes through a subtree. Whether all of it is clean.
    pub fn visit(&mut self, source: &mut Source<'_, '_>, edge: Edge) -> bool {
        let page = edge.pointer.page;
        *self.references.entry(page).or_default() += 1;
        if let Some(clean) = self.clean.get(&page) {
            return *clean;
        }
        edge.pointer.copy.into_iter().for_each(|copy| *self.references.entry(copy).or_default() += 1);
        // Until it is known, for a page that leads to itself.
        self.clean.insert(page, false);
        let clean = match source.mapping_page(&edge).map(|page| page.node) {
            Ok(Node::Leaf(leaf)) => self.is_leaf_clean(&edge, &leaf),
            Ok(Node::Inner(inner)) => {
                let mut all = true;
                for child in edge.children(&inner) {
                    all &= self.visit(source, child);
                }
                all
            }
            Err(error) => {
                self.problems.push(error);
                self.bad.insert(page, Bad { edge, children: None, complete: false });
                false
            }
        };
        self.clean.insert(page, clean);
        clean
    }

    fn is_leaf_clean(&mut self, edge: &Edge, leaf: &MapLeaf) -> bool {
        self.lost_before |= leaf.iter_entries().any(|entry| !entry.mapping.lost().is_empty());
        let possible = |entry: MapEntry| entry.data_blocks().all(|block| self.possible.has(block));
        let clean = leaf.iter_entries().all(possible);
        if !clean {
            let error = Error::damaged("it maps blocks that no volume can have");
            self.problems.push(error.at(crate::error::Place::Page(edge.pointer.page)));
        }
        clean
    }

    /// Mapped blocks that cannot be saved from this base, as far as bad pages tell.
    pub fn lost_blocks(&self) -> u64 {
        let of_children = |bad: &Bad| bad.children.iter().flatten().map(|child| child.pointer.mapped).sum();
        self.bad.values().map(|bad| bad.edge.pointer.mapped.saturating_sub(of_children(bad))).sum()
    }
}

/// The way from a record to its tree; none for a root that cannot be.
pub(super) fn root_edge(root: &Root) -> Option<Edge> {
    let (level, pointer) = (*root)?;
    let possible = usize::from(level) < MAX_LEVELS && (level > 0) == pointer.copy.is_some();
    possible.then_some(Edge { pointer, level, low: 0, high: LAST_KEY })
}
