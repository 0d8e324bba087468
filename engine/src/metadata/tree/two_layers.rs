//! Finding the mappings of two layers.
//!
//! Owns the walk past what cannot hold one of interest: subtrees that were made before a checkpoint. Changes nothing.

use super::{Fault, Forest, Root};
use crate::format::{MapLeaf, Pointer};
use crate::metadata::cache::Node;
use crate::units::{Generation, VirtualBlock};

/// How far a search has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TwoLayers {
    /// The next block with two layers.
    Found(VirtualBlock),
    /// Nothing before this block, where the search goes on.
    Further(VirtualBlock),
    /// Nothing more.
    End,
}

impl Forest {
    /// The next virtual block from `first` on whose mapping has two layers, among the pages made by checkpoint `since` and
    /// later ones. Looks at `entries_left` entries at most, about, and takes what it looked at from them.
    pub fn next_two_layers(
        &self,
        root: &Root,
        first: VirtualBlock,
        since: Generation,
        entries_left: &mut usize,
    ) -> Result<TwoLayers, Fault> {
        let Some((level, pointer)) = root else { return Ok(TwoLayers::End) };
        let found = self.two_layers_below(pointer, *level, first, since, entries_left)?;
        Ok(found.unwrap_or(TwoLayers::End))
    }

    fn two_layers_below(
        &self,
        pointer: &Pointer,
        level: u8,
        first: VirtualBlock,
        since: Generation,
        entries_left: &mut usize,
    ) -> Result<Option<TwoLayers>, Fault> {
        *entries_left = entries_left.saturating_sub(1);
        if pointer.generation < since {
            return Ok(None);
        }
        match &self.node(pointer, level)?.node {
            Node::Leaf(leaf) => Ok(two_layers_in(leaf, first, entries_left)),
            Node::Inner(inner) => {
                for (_, child) in &inner.entries[inner.child_index(first.0)..] {
                    let found = self.two_layers_below(child, level - 1, first, since, entries_left)?;
                    if found.is_some() {
                        return Ok(found);
                    }
                }
                Ok(None)
            }
        }
    }
}

fn two_layers_in(leaf: &MapLeaf, first: VirtualBlock, entries_left: &mut usize) -> Option<TwoLayers> {
    let mut looked_at = 0;
    let found = leaf.two_layers_from(first).inspect(|_| looked_at += 1).find_map(|found| found);
    *entries_left = entries_left.saturating_sub(looked_at);
    match (found, leaf.last()) {
        (Some(block), _) => Some(TwoLayers::Found(block)),
        (None, Some(last)) if *entries_left == 0 && last >= first => {
            Some(TwoLayers::Further(VirtualBlock(last.0 + 1)))
        }
        _ => None,
    }
}
