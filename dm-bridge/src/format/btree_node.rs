//! Btree nodes: sorted keys of 64 bits, and as many values of one size.
//!
//! Owns the layout, which depends on the size of the values. Who may stand below whom, and how full a node must be, is for
//! the walker and the check to say; a node alone is right when its keys ascend and its sizes fit.

use super::checksum::{BlockKind, seal, verify, verify_number};
use super::{BLOCK_BYTES, Block, get_u32, get_u64, put_u32, put_u64};
use crate::error::{Error, Result};

// offset           size  field
//      0              4  checksum
//      4              4  flags: 1 internal, 2 leaf
//      8              8  own block number
//     16              4  entries
//     20              4  entries that there is room for
//     24              4  bytes of a value
//     28              4  zero
//     32        8 * max  keys
//   32 + 8 * max  s * max  values
const FLAGS: usize = 4;
const BLOCKNR: usize = 8;
const NR_ENTRIES: usize = 16;
const MAX_ENTRIES: usize = 20;
const VALUE_SIZE: usize = 24;
const HEADER_BYTES: usize = 32;
const KEY_BYTES: usize = 8;

/// Entries of a full internal node.
pub const MAX_INTERNAL_ENTRIES: usize = max_entries(8);

/// Entries of a full node with values of `value_bytes`: what fits, down to a multiple of three.
pub const fn max_entries(value_bytes: usize) -> usize {
    (BLOCK_BYTES - HEADER_BYTES) / (KEY_BYTES + value_bytes) / 3 * 3
}

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeFlags {
    /// Values are blocks of nodes.
    Internal,
    /// Values are what the tree holds.
    Leaf,
}

/// A node as it is on the device, with its header checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BtreeNode {
    bytes: Box<Block>,
    flags: NodeFlags,
    len: usize,
    values: usize,
    value_bytes: usize,
}

impl BtreeNode {
    /// Reads the node in block `number` of a tree whose leaves have values of `leaf_value_bytes`.
    ///
    /// Fails with `Damaged` if checksum, own number, flags, sizes or the order of keys are wrong.
    pub fn decode(bytes: Box<Block>, number: u64, leaf_value_bytes: usize) -> Result<Self> {
        verify(&bytes, BlockKind::BtreeNode, number)?;
        verify_number(&bytes, BLOCKNR, number)?;
        let flags = match get_u32(&bytes[..], FLAGS) {
            1 => NodeFlags::Internal,
            2 => NodeFlags::Leaf,
            other => {
                return Err(Error::damaged(number, FLAGS, format!("a node cannot have flags {other:#x}")));
            }
        };
        let value_bytes = if flags == NodeFlags::Leaf { leaf_value_bytes } else { 8 };
        let stored = get_u32(&bytes[..], VALUE_SIZE);
        if stored as usize != value_bytes {
            let message = format!("values have {stored} bytes and should have {value_bytes}");
            return Err(Error::damaged(number, VALUE_SIZE, message));
        }
        let (len, max) = sizes(&bytes, number, value_bytes)?;
        let node = Self { bytes, flags, len, values: HEADER_BYTES + KEY_BYTES * max, value_bytes };
        if let Some(at) = (1..len).find(|at| node.key(at - 1) >= node.key(*at)) {
            let message = format!("key {} follows key {}", node.key(at), node.key(at - 1));
            return Err(Error::damaged(number, HEADER_BYTES + KEY_BYTES * at, message));
        }
        Ok(node)
    }

    /// A block with these entries, not sealed. There must be a value for every key, and room for all.
    pub fn build(flags: NodeFlags, keys: &[u64], values: &[u8], value_bytes: usize) -> Box<Block> {
        let max = max_entries(value_bytes);
        assert!(keys.len() <= max && values.len() == keys.len() * value_bytes, "the builder splits before");
        debug_assert!(keys.is_sorted_by(|left, right| left < right));
        let mut bytes = Box::new([0; BLOCK_BYTES]);
        let out = &mut bytes[..];
        put_u32(out, FLAGS, if flags == NodeFlags::Leaf { 2 } else { 1 });
        put_u32(out, NR_ENTRIES, keys.len() as u32);
        put_u32(out, MAX_ENTRIES, max as u32);
        put_u32(out, VALUE_SIZE, value_bytes as u32);
        for (at, key) in keys.iter().enumerate() {
            put_u64(out, HEADER_BYTES + KEY_BYTES * at, *key);
        }
        let start = HEADER_BYTES + KEY_BYTES * max;
        out[start..start + values.len()].copy_from_slice(values);
        bytes
    }

    /// Gives a built block its number and its checksum.
    pub fn seal(bytes: &mut Block, number: u64) {
        put_u64(bytes, BLOCKNR, number);
        seal(bytes, BlockKind::BtreeNode);
    }

    /// Whether two blocks are the same node but for number and checksum.
    pub fn same_content(left: &Block, right: &Block) -> bool {
        left[FLAGS..BLOCKNR] == right[FLAGS..BLOCKNR] && left[NR_ENTRIES..] == right[NR_ENTRIES..]
    }

    /// What the node is.
    pub fn flags(&self) -> NodeFlags {
        self.flags
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no entries; only a root may be so.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Entries that there is room for.
    pub fn max_entries(&self) -> usize {
        (self.values - HEADER_BYTES) / KEY_BYTES
    }

    /// The key of an entry below [`len`](Self::len).
    pub fn key(&self, at: usize) -> u64 {
        get_u64(&self.bytes[..], HEADER_BYTES + KEY_BYTES * at)
    }

    /// The value of an entry below [`len`](Self::len), as bytes.
    pub fn value(&self, at: usize) -> &[u8] {
        let start = self.values + self.value_bytes * at;
        &self.bytes[start..start + self.value_bytes]
    }

    /// The value of an entry, of a tree whose values are numbers of 64 bits, and of any internal node.
    pub fn value_u64(&self, at: usize) -> u64 {
        get_u64(self.value(at), 0)
    }

    /// The byte of the block where the value of an entry starts.
    pub fn value_offset(&self, at: usize) -> usize {
        self.values + self.value_bytes * at
    }
}

/// Entries, and the room for them.
fn sizes(bytes: &Block, number: u64, value_bytes: usize) -> Result<(usize, usize)> {
    let (len, max) = (get_u32(bytes, NR_ENTRIES) as usize, get_u32(bytes, MAX_ENTRIES) as usize);
    if max % 3 != 0 || max == 0 || max > (BLOCK_BYTES - HEADER_BYTES) / (KEY_BYTES + value_bytes) {
        let message =
            format!("a node cannot have room for {max} entries, but for {}", max_entries(value_bytes));
        return Err(Error::damaged(number, MAX_ENTRIES, message));
    }
    if len > max {
        return Err(Error::damaged(number, NR_ENTRIES, format!("{len} entries where {max} have room")));
    }
    Ok((len, max))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rooms_are_those_of_the_kernel() {
        assert_eq!([4, 8, 16, 24].map(max_entries), [336, 252, 168, 126]);
    }

    #[test]
    fn a_node_goes_there_and_back() {
        let mut bytes = BtreeNode::build(NodeFlags::Leaf, &[3, 9], &[1; 48], 24);
        BtreeNode::seal(&mut bytes, 5);
        let node = BtreeNode::decode(bytes.clone(), 5, 24).expect("it is whole");
        assert_eq!((node.len(), node.key(1), node.value(1)), (2, 9, &[1; 24][..]));
        assert!(BtreeNode::decode(bytes.clone(), 6, 24).is_err());
        assert!(BtreeNode::decode(bytes, 5, 16).is_err());
    }

    #[test]
    fn no_header_makes_it_panic() {
        let mut bytes = BtreeNode::build(NodeFlags::Internal, &[3, 9], &[1; 16], 8);
        for at in 4..48 {
            let original = bytes[at];
            for value in 0..=255 {
                bytes[at] = value;
                BtreeNode::seal(&mut bytes, 5);
                if let Ok(node) = BtreeNode::decode(bytes.clone(), 5, 8) {
                    let all = (0..node.len()).fold(0, |sum: u64, at| sum.wrapping_add(node.value_u64(at)));
                    assert!(node.len() <= 252, "{all}");
                }
            }
            bytes[at] = original;
        }
    }
}
