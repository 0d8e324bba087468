//! A mapping leaf on disk.
//!
//! Owns the bytes of the leaf and what must hold before they are believed. Read next: `map_leaf.rs`.

use super::codec::{Reader, U48_LIMIT, Writer};
use super::map_entries::Entries;
use super::map_leaf::{MapEntry, MapLeaf, WINDOW_BLOCKS};
use super::mapping::{LOST, Layer, Mapping};
use super::page::BODY_BYTES;
use crate::error::{Error, Result};
use crate::units::{DataBlock, SectorMask, VirtualBlock};

// body: entries, one behind the other, offsets rising
// offset  size  field
//      0     2  bits 0..14: first virtual block, counted from the start of the window; bits 14..16: kind
//
//               kind 0, one layer          kind 1, two layers          kind 2, run of full blocks
//      2     6  data block                 data block, upper           first data block
//      8     2  sector mask                sector mask, upper          virtual blocks
//     10     6                             data block, lower
//     16     2                             sector mask, lower
//
// data block: 40 bits, then 8 bits of device number, 0 in version 1. All of the 40 bits set: no data block, the sectors
// are lost; only in the last layer of a mapping. A run that starts so is lost from its first to its last block.
const OFFSET_MASK: u16 = WINDOW_BLOCKS as u16 - 1;
const KIND_SHIFT: u32 = 14;
const SINGLE: u16 = 0;
const TWO_LAYERS: u16 = 1;
const RUN: u16 = 2;

impl MapLeaf {
    /// The body of the page. It is longer than a page when the leaf does not fit.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::with_capacity(self.encoded_bytes());
        for entry in self.iter_entries() {
            write_entry(&entry, &mut out);
        }
        out.finish()
    }

    /// Reads the body of a leaf that may hold the virtual blocks `first_key..=last_key`.
    ///
    /// Fails with `Damaged` unless entries rise, lie in that range of one window, and hold valid mappings.
    pub fn decode(body: &[u8], first_key: u64, last_key: u64) -> Result<Self> {
        let window = first_key / WINDOW_BLOCKS;
        if first_key > last_key || window != last_key / WINDOW_BLOCKS || last_key >= U48_LIMIT {
            return Err(Error::damaged("mapping leaf: its keys do not lie in one window"));
        }
        let base = window * WINDOW_BLOCKS;
        let mut allowed_from = (first_key - base) as u32;
        let allowed_to = (last_key - base) as u32;
        let mut reader = Reader::new(body);
        // An entry has 10 bytes at least.
        let mut entries = Entries::with_capacity(body.len().min(BODY_BYTES) / 10);
        while !reader.is_empty() {
            let entry = read_entry(&mut reader)?;
            if u32::from(entry.offset) < allowed_from || entry.end() > allowed_to + 1 {
                return Err(Error::damaged("mapping leaf: entries overlap or lie outside its keys"));
            }
            allowed_from = entry.end();
            entries.push(&entry);
        }
        Ok(Self::from_entries(VirtualBlock(base), entries))
    }
}

fn write_entry(entry: &MapEntry, out: &mut Writer) {
    let Mapping { upper, lower } = entry.mapping;
    let kind = match lower {
        Some(_) => TWO_LAYERS,
        None if entry.length > 1 => RUN,
        None => SINGLE,
    };
    out.u16(entry.offset | kind << KIND_SHIFT);
    out.u48(upper.block.0);
    out.u16(if kind == RUN { entry.length } else { upper.mask.0 });
    if let Some(lower) = lower {
        out.u48(lower.block.0);
        out.u16(lower.mask.0);
    }
}

fn read_entry(reader: &mut Reader<'_>) -> Result<MapEntry> {
    // One look at the end of the body for all three: a large pool has millions of entries to read.
    let [w0, w1, b0, b1, b2, b3, b4, b5, m0, m1] = reader.array()?;
    let word = u16::from_le_bytes([w0, w1]);
    let offset = word & OFFSET_MASK;
    let block = DataBlock(u64::from_le_bytes([b0, b1, b2, b3, b4, b5, 0, 0]));
    let mask_or_length = u16::from_le_bytes([m0, m1]);
    let upper = Layer { block, mask: SectorMask(mask_or_length) };
    let entry = match word >> KIND_SHIFT {
        SINGLE => MapEntry { offset, length: 1, mapping: Mapping { upper, lower: None } },
        TWO_LAYERS => {
            let lower = Layer { block: DataBlock(reader.u48()?), mask: SectorMask(reader.u16()?) };
            MapEntry { offset, length: 1, mapping: Mapping { upper, lower: Some(lower) } }
        }
        RUN => MapEntry { offset, length: mask_or_length, mapping: Mapping::single(block, SectorMask::FULL) },
        kind => return Err(Error::damaged(format!("mapping leaf: entry of unknown kind {kind}"))),
    };
    let possible = block == LOST || block.0 + u64::from(entry.length) <= LOST.0;
    if entry.length == 0 || !entry.mapping.is_valid() || !possible {
        return Err(Error::damaged("mapping leaf: impossible mapping"));
    }
    Ok(entry)
}

#[cfg(test)]
mod tests {
    use super::super::golden;
    use super::super::mapping::DATA_BLOCK_LIMIT;
    use super::*;

    const FIRST: u64 = 3 * WINDOW_BLOCKS;
    const LAST: u64 = 4 * WINDOW_BLOCKS - 1;

    fn sample() -> MapLeaf {
        let mut leaf = MapLeaf::new(VirtualBlock(FIRST));
        let lower = Some(Layer { block: DataBlock(500), mask: SectorMask(0xff00) });
        let upper = Layer { block: DataBlock(600), mask: SectorMask(0x000f) };
        leaf.set(VirtualBlock(FIRST), Some(Mapping { upper, lower: None }));
        leaf.set(VirtualBlock(FIRST + 5), Some(Mapping { upper, lower }));
        for index in 0..100 {
            let full = Mapping::single(DataBlock(0x0001_0203_0405 + index), SectorMask::FULL);
            leaf.set(VirtualBlock(LAST - 99 + index), Some(full));
        }
        leaf
    }

    #[test]
    fn round_trip() {
        let body = sample().encode();
        assert_eq!((body.len(), sample().encoded_bytes()), (38, 38));
        assert_eq!(MapLeaf::decode(&body, FIRST, LAST), Ok(sample()));
        assert_eq!(MapLeaf::decode(&[], FIRST, LAST), Ok(MapLeaf::new(VirtualBlock(FIRST))));
    }

    #[test]
    fn golden_bytes() {
        golden::assert_golden(
            &sample().encode(),
            "00005802000000000f0005405802000000000f00f4010000000000ff9cbf0504030201006400",
            0x16e9_a832_5c93_ccce,
        );
    }

    /// A window that is lost as a whole is one entry, whatever was written into it meanwhile.
    #[test]
    fn lost_blocks_make_runs() {
        let mut leaf = MapLeaf::new(VirtualBlock(FIRST));
        let lost = Mapping::single(LOST, SectorMask::FULL);
        for block in FIRST..=LAST {
            leaf.set(VirtualBlock(block), Some(lost));
        }
        assert_eq!(leaf.encode().len(), 10);
        golden::assert_golden(&leaf.encode(), "0080ffffffffff000040", 0x5535_d7e5_2a64_e006);
        let written = Mapping::publish(Some(lost), DataBlock(7), SectorMask(3)).unwrap();
        leaf.set(VirtualBlock(FIRST + 9), Some(written));
        assert_eq!(MapLeaf::decode(&leaf.encode(), FIRST, LAST), Ok(leaf.clone()));
        assert_eq!(leaf.encoded_bytes(), 10 + 18 + 10);
        let blocks: Vec<DataBlock> = leaf.iter_entries().flat_map(MapEntry::data_blocks).collect();
        assert_eq!((blocks, leaf.mapped_blocks()), (vec![DataBlock(7)], WINDOW_BLOCKS));
        leaf.set(VirtualBlock(FIRST + 9), Some(lost));
        assert_eq!(leaf.iter_entries().count(), 1);
    }

    #[test]
    fn entries_must_lie_in_the_leafs_keys() {
        let body = sample().encode();
        let keys = [(FIRST + 1, LAST), (FIRST, LAST - 1), (FIRST, LAST + 1), (LAST, FIRST), (0, u64::MAX)];
        for (first, last) in keys {
            assert!(MapLeaf::decode(&body, first, last).is_err());
        }
    }

    #[test]
    fn impossible_entries_are_damaged() {
        let entry = |word: u16, block: u64, last: u16| {
            let mut out = Writer::default();
            out.u16(word);
            out.u48(block);
            out.u16(last);
            out.finish()
        };
        let two_layers =
            |block: u64, mask: u16| [entry(1 << 14, 9, 3), entry(0, block, mask)[2..].to_vec()].concat();
        let decode = |body: &[u8]| MapLeaf::decode(body, 0, WINDOW_BLOCKS - 1);
        assert!(decode(&two_layers(8, 4)).is_ok());
        let bad = [
            entry(0, 9, 0),
            entry(0, DATA_BLOCK_LIMIT, 1),
            entry(2 << 14, 9, 0),
            entry(2 << 14, LOST.0 - 1, 2),
            entry(2 << 14, LOST.0, 0),
            [entry(1 << 14, LOST.0, 3), entry(0, 9, 4)[2..].to_vec()].concat(),
            entry(2 << 14 | OFFSET_MASK, 9, 2),
            entry(3 << 14, 9, 1),
            two_layers(9, 4),
            two_layers(8, 2),
            two_layers(8, 0),
            [entry(2 << 14, 9, 2), entry(1, 3, 1)].concat(),
            [entry(1, 9, 1), entry(0, 3, 1)].concat(),
        ];
        assert!(bad.iter().all(|body| decode(body).is_err()));
        golden::damage(&sample().encode(), |bytes| drop(MapLeaf::decode(bytes, FIRST, LAST)));
    }
}
