//! Walks a tree from left to right, leaf by leaf, strictly or past what is damaged.
//!
//! Owns what a node alone cannot know: that its keys lie where its parent says, that it is not empty below another, that all
//! leaves are equally deep. As ranges of keys narrow on the way down, no circle of blocks can keep a walk from ending.

use crate::device::{Blocks, Source};
use crate::error::{Error, Result};
use crate::format::{BtreeNode, DeviceDetails, IndexEntry, NodeFlags};
use crate::search::{Found, Graft, Head};

/// Nodes above one another. A tree of dm-thin's largest metadata has four; the kernel gives up at this.
pub(crate) const DEPTH_MAX: usize = 64;

/// What a node belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Mappings,
    Devices,
    Details,
    Index,
    RefCounts,
}

impl Role {
    /// Size of a value in its leaves.
    pub fn value_bytes(self) -> usize {
        match self {
            Role::Mappings | Role::Devices => 8,
            Role::Details => DeviceDetails::BYTES,
            Role::Index => IndexEntry::BYTES,
            Role::RefCounts => 4,
        }
    }
}

/// Keys that could not be read, and why.
#[derive(Debug)]
pub(crate) struct LostKeys {
    pub first: u64,
    pub last: u64,
    pub error: Error,
}

/// What is below: the children of a node, or what was found of a lost one.
enum Below {
    Children(BtreeNode),
    Found(Vec<Head>),
}

impl Below {
    fn len(&self) -> usize {
        match self {
            Below::Children(node) => node.len(),
            Below::Found(heads) => heads.len(),
        }
    }

    /// The first key that may be below a child, and its block.
    fn child(&self, at: usize) -> (u64, u64) {
        match self {
            Below::Children(node) => (node.key(at), node.value_u64(at)),
            Below::Found(heads) => (heads[at].first, heads[at].block),
        }
    }
}

struct Frame {
    below: Below,
    at: usize,
    last: u64,
}

/// Keys of which only a part was found. All between the leaves is lost: what stands above them may have been another state's.
struct Part {
    /// Nodes above it.
    depth: usize,
    /// Behind the last leaf, if anything is.
    free_from: Option<u64>,
    last: u64,
    error: Error,
}

impl Part {
    /// The same error, once more.
    fn error(&self) -> Error {
        let place = self.error.place();
        let byte = place.byte.unwrap_or_default() as usize;
        Error::damaged(place.block.unwrap_or_default(), byte, self.error.message())
    }
}

pub(crate) struct TreeWalk<'a, S> {
    blocks: &'a Blocks<S>,
    value_bytes: usize,
    root: Option<u64>,
    stack: Vec<Frame>,
    leaf_depth: Option<usize>,
    lost: Option<Vec<LostKeys>>,
    found: Option<&'a Found>,
    part: Option<Part>,
}

impl<'a, S: Source> TreeWalk<'a, S> {
    /// Starts left of the tree at `root`. A lenient walk goes around damage and remembers it.
    pub fn new(blocks: &'a Blocks<S>, root: u64, value_bytes: usize, lenient: bool) -> Self {
        let lost = lenient.then(Vec::new);
        Self {
            blocks,
            value_bytes,
            root: Some(root),
            stack: Vec::new(),
            leaf_depth: None,
            lost,
            found: None,
            part: None,
        }
    }

    /// Puts what a search has found in the place of what is lost.
    pub fn with_found(mut self, found: Option<&'a Found>) -> Self {
        self.found = found;
        self
    }

    /// Whether the leaf that was given last was found by a search.
    pub fn is_at_found(&self) -> bool {
        self.stack.iter().any(|frame| matches!(frame.below, Below::Found(_)))
    }

    /// What a lenient walk went around since this was last asked.
    pub fn take_lost(&mut self) -> Vec<LostKeys> {
        self.lost.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// The next leaf that has entries, with its block.
    pub fn next_leaf(&mut self) -> Result<Option<(u64, BtreeNode)>> {
        loop {
            let Some((block, first, last)) = self.next_child() else { return Ok(None) };
            match self.visit(block, first, last) {
                Ok(Some(node)) if node.is_empty() => {}
                Ok(Some(node)) => {
                    self.lose_before(node.key(0), node.key(node.len() - 1));
                    return Ok(Some((block, node)));
                }
                Ok(None) => {}
                Err(error) => match self.found_for(block, first, last) {
                    Some(graft) => self.graft(graft, first, last, error),
                    None => self.lose(first, last, error)?,
                },
            }
        }
    }

    /// The block to look at next, with the keys that may stand there.
    fn next_child(&mut self) -> Option<(u64, u64, u64)> {
        if let Some(root) = self.root.take() {
            return Some((root, 0, u64::MAX));
        }
        while self.stack.last()?.at == self.stack.last()?.below.len() {
            self.stack.pop();
            self.end_part();
        }
        let frame = self.stack.last_mut()?;
        let (at, below) = (frame.at, &frame.below);
        frame.at += 1;
        let last = if at + 1 < below.len() { below.child(at + 1).0 - 1 } else { frame.last };
        let (first, block) = below.child(at);
        Some((block, first, last))
    }

    /// Reads a node; a leaf is returned, another one becomes the place to go on from.
    fn visit(&mut self, block: u64, first: u64, last: u64) -> Result<Option<BtreeNode>> {
        let node = BtreeNode::decode(self.blocks.read(block)?, block, self.value_bytes)?;
        check_place(&node, block, first, last, self.stack.is_empty())?;
        if node.flags() == NodeFlags::Leaf {
            let depth = self.stack.len();
            let expected = *self.leaf_depth.get_or_insert(depth);
            if expected != depth && self.lost.is_none() {
                let message = format!("a leaf at depth {depth} in a tree of depth {expected}");
                return Err(Error::damaged(block, 4, message));
            }
            return Ok(Some(node));
        }
        if self.stack.len() == DEPTH_MAX {
            return Err(Error::damaged(block, 4, format!("a tree deeper than {DEPTH_MAX} nodes")));
        }
        self.stack.push(Frame { below: Below::Children(node), at: 0, last });
        Ok(None)
    }

    fn found_for(&self, block: u64, first: u64, last: u64) -> Option<&'a Graft> {
        let graft = self.found?.grafts.get(&block).filter(|_| self.stack.len() < DEPTH_MAX)?;
        graft.heads.iter().all(|head| (first..=last).contains(&head.first)).then_some(graft)
    }

    /// Goes on with what was found.
    fn graft(&mut self, graft: &Graft, first: u64, last: u64, error: Error) {
        let depth = self.stack.len();
        if !graft.is_complete && self.part.is_none() {
            self.part = Some(Part { depth, free_from: Some(first), last, error });
        }
        self.stack.push(Frame { below: Below::Found(graft.heads.clone()), at: 0, last });
    }

    /// Before a leaf with these keys, what is not found is lost.
    fn lose_before(&mut self, first: u64, last: u64) {
        let Some(part) = &mut self.part else { return };
        let from = std::mem::replace(&mut part.free_from, last.checked_add(1));
        if let (Some(from), Some(lost)) = (from.filter(|from| *from < first), &mut self.lost) {
            lost.push(LostKeys { first: from, last: first - 1, error: part.error() });
        }
    }

    fn end_part(&mut self) {
        let Some(Part { free_from, last, error, .. }) =
            self.part.take_if(|part| part.depth >= self.stack.len())
        else {
            return;
        };
        if let (Some(first), Some(lost)) = (free_from.filter(|from| *from <= last), &mut self.lost) {
            lost.push(LostKeys { first, last, error });
        }
    }

    fn lose(&mut self, first: u64, last: u64, error: Error) -> Result<()> {
        let Some(lost) = self.lost.as_mut() else { return Err(error) };
        // There it is told with what is around it.
        if self.part.is_some() {
            return Ok(());
        }
        lost.push(LostKeys { first, last, error });
        Ok(())
    }
}

/// Fails unless the keys of a node lie in `first..=last`, and unless it has some or is a leaf and the root.
pub(crate) fn check_place(node: &BtreeNode, block: u64, first: u64, last: u64, is_root: bool) -> Result<()> {
    if node.is_empty() {
        return match node.flags() {
            NodeFlags::Leaf if is_root => Ok(()),
            _ => Err(Error::damaged(
                block,
                16,
                "a node without entries below another, or with nothing below it",
            )),
        };
    }
    let (lowest, highest) = (node.key(0), node.key(node.len() - 1));
    if lowest < first || highest > last {
        let message = format!("keys {lowest} to {highest} where the parent has {first} to {last}");
        return Err(Error::damaged(block, 32, message));
    }
    Ok(())
}

/// An entry: key, value, and the block and the byte where the value stands.
pub(crate) type Row<V> = (u64, V, u64, usize);

/// Entries of a tree one by one.
pub(crate) struct Entries<'a, S> {
    walk: TreeWalk<'a, S>,
    leaf: Option<(u64, BtreeNode)>,
    at: usize,
}

impl<'a, S: Source> Entries<'a, S> {
    pub fn new(walk: TreeWalk<'a, S>) -> Self {
        Self { walk, leaf: None, at: 0 }
    }

    pub fn next<const BYTES: usize>(&mut self) -> Result<Option<Row<[u8; BYTES]>>> {
        loop {
            if let Some((block, node)) = self.leaf.as_ref().filter(|(_, node)| self.at < node.len()) {
                let at = self.at;
                self.at += 1;
                let mut value = [0; BYTES];
                value.copy_from_slice(node.value(at));
                return Ok(Some((node.key(at), value, *block, node.value_offset(at))));
            }
            self.leaf = self.walk.next_leaf()?;
            self.at = 0;
            if self.leaf.is_none() {
                return Ok(None);
            }
        }
    }

    pub fn take_lost(&mut self) -> Vec<LostKeys> {
        self.walk.take_lost()
    }
}
