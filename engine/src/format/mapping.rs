//! The mapping of one virtual block: a data block and a mask, and perhaps the same below.
//!
//! Owns the rule of *publish* and of *clear*. Knows no leaf and no count. Read next: `map_leaf.rs`.

use crate::units::{DataBlock, SectorMask};

/// Data block numbers are below this; 8 more bits are kept for a device number.
pub const DATA_BLOCK_LIMIT: u64 = 1 << 40;
/// The number that stands for no data block: sectors of a layer that names it are lost and read as errors. It has no
/// count and is never given out, freed, read or written. A lost layer is the last one of its mapping.
pub const LOST: DataBlock = DataBlock(DATA_BLOCK_LIMIT - 1);

/// A data block and the sectors that a mapping sees of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Where the sectors are stored, each at its own place in the block.
    pub block: DataBlock,
    /// Which sectors the mapping sees. Never empty in a valid mapping.
    pub mask: SectorMask,
}

/// What a virtual block reads as: sectors of the upper layer, sectors of the lower one, zeros elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The newer layer, or the only one.
    pub upper: Layer,
    /// The older layer, which was shared when the upper one was made.
    pub lower: Option<Layer>,
}

impl Layer {
    /// Whether the sectors are lost: no data block holds them.
    pub fn is_lost(self) -> bool {
        self.block == LOST
    }

    fn without(self, sectors: SectorMask) -> Option<Self> {
        let mask = self.mask.without(sectors);
        (!mask.is_empty()).then_some(Self { mask, ..self })
    }
}

impl Mapping {
    /// A mapping of one layer.
    pub const fn single(block: DataBlock, mask: SectorMask) -> Self {
        Self { upper: Layer { block, mask }, lower: None }
    }

    /// The layers, upper one first.
    pub fn layers(self) -> impl Iterator<Item = Layer> {
        std::iter::once(self.upper).chain(self.lower)
    }

    /// The data blocks of the layers, upper one first. A lost layer has none.
    pub fn blocks(self) -> impl Iterator<Item = DataBlock> {
        self.layers().filter(|layer| !layer.is_lost()).map(|layer| layer.block)
    }

    /// The same mapping with data blocks at other places: `place` says where each one stands from now on.
    #[must_use]
    pub fn with_blocks_moved(self, place: impl Fn(DataBlock) -> DataBlock) -> Self {
        let moved = |layer: Layer| match layer.is_lost() {
            true => layer,
            false => Layer { block: place(layer.block), ..layer },
        };
        Self { upper: moved(self.upper), lower: self.lower.map(moved) }
    }

    /// The sectors that are lost.
    pub fn lost(self) -> SectorMask {
        self.layers().find(|layer| layer.is_lost()).map_or(SectorMask::EMPTY, |layer| layer.mask)
    }

    /// The sectors that do not read as zeros.
    pub fn visible(self) -> SectorMask {
        self.layers().fold(SectorMask::EMPTY, |all, layer| all.union(layer.mask))
    }

    /// The data block that holds sector `sector` (0 to 15), if any does.
    pub fn layer_of(self, sector: u32) -> Option<DataBlock> {
        self.layers().find(|layer| layer.mask.has(sector)).map(|layer| layer.block)
    }

    /// Whether masks are neither empty nor overlapping, the blocks differ and can be stored, and nothing is below a lost
    /// layer.
    pub fn is_valid(self) -> bool {
        let layer_ok = |layer: Layer| !layer.mask.is_empty() && layer.block.0 < DATA_BLOCK_LIMIT;
        let apart = |lower: Layer| lower.block != self.upper.block && !lower.mask.overlaps(self.upper.mask);
        layer_ok(self.upper)
            && self.lower.is_none_or(|lower| layer_ok(lower) && apart(lower) && !self.upper.is_lost())
    }

    /// The mapping after `sectors` of `block` were published over `current`.
    ///
    /// Fails with `current` when three layers would be needed; whoever writes must prevent that.
    pub fn publish(
        current: Option<Self>,
        block: DataBlock,
        sectors: SectorMask,
    ) -> std::result::Result<Self, Self> {
        debug_assert!(!sectors.is_empty());
        let published = Layer { block, mask: sectors };
        let Some(mapping) = current else {
            return Ok(Self { upper: published, lower: None });
        };
        let gained = |layer: Layer| Layer { mask: layer.mask.union(sectors), ..layer };
        if mapping.upper.block == block {
            let lower = mapping.lower.and_then(|lower| lower.without(sectors));
            return Ok(Self { upper: gained(mapping.upper), lower });
        }
        if let Some(lower) = mapping.lower.filter(|lower| lower.block == block) {
            return Ok(match mapping.upper.without(sectors) {
                Some(upper) => Self { upper, lower: Some(gained(lower)) },
                None => Self { upper: gained(lower), lower: None },
            });
        }
        let upper = mapping.upper.without(sectors);
        match (upper, mapping.lower.and_then(|lower| lower.without(sectors))) {
            (Some(_), Some(_)) => Err(mapping),
            (left, right) => Ok(Self { upper: published, lower: left.or(right) }),
        }
    }

    /// The mapping after `sectors` were cleared, so that they read as zeros; nothing if none is left.
    pub fn clear(self, sectors: SectorMask) -> Option<Self> {
        let mut left = self.layers().filter_map(|layer| layer.without(sectors));
        left.next().map(|upper| Self { upper, lower: left.next() })
    }

    /// The mapping after `sectors` were lost, whatever they were before. A mapping has two layers: where two others are
    /// left beside the lost one, the smaller of them is lost too.
    pub fn lose(current: Option<Self>, sectors: SectorMask) -> Self {
        let lost = sectors.union(current.map_or(SectorMask::EMPTY, Self::lost));
        let whole = current.and_then(|mapping| mapping.clear(lost));
        let Some(Self { upper, lower }) = whole else { return Self::single(LOST, lost) };
        let (kept, given_up) = match lower {
            Some(lower) if lower.mask.count() > upper.mask.count() => (lower, upper.mask),
            Some(lower) => (upper, lower.mask),
            None => (upper, SectorMask::EMPTY),
        };
        Self { upper: kept, lower: Some(Layer { block: LOST, mask: lost.union(given_up) }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Model = [Option<u64>; 16];

    fn model_of(mapping: Option<Mapping>) -> Model {
        std::array::from_fn(|sector| mapping.and_then(|m| m.layer_of(sector as u32)).map(|block| block.0))
    }

    fn model_set(mut model: Model, sectors: SectorMask, to: Option<u64>) -> Model {
        for (sector, slot) in model.iter_mut().enumerate() {
            if sectors.has(sector as u32) {
                *slot = to;
            }
        }
        model
    }

    fn distinct(model: &Model) -> usize {
        model.iter().flatten().collect::<std::collections::BTreeSet<_>>().len()
    }

    /// Every way that two masks of 4 quarters of a block can lie, each quarter in one layer, the other, or none.
    fn all_mappings() -> Vec<Option<Mapping>> {
        let mut all = vec![None];
        for code in 1..81u32 {
            let mut masks = [SectorMask::EMPTY; 3];
            for quarter in 0..4 {
                let owner = (code / 3u32.pow(quarter) % 3) as usize;
                masks[owner] = masks[owner].union(SectorMask::range(quarter * 4, 4));
            }
            let layer = |block: u64| Layer { block: DataBlock(block), mask: masks[block as usize] };
            let layers: Vec<Layer> =
                [layer(1), layer(2)].into_iter().filter(|layer| !layer.mask.is_empty()).collect();
            all.push(Some(Mapping { upper: layers[0], lower: layers.get(1).copied() }));
        }
        all
    }

    fn quarters(code: u32) -> SectorMask {
        let in_code = (0..4).filter(|quarter| code & (1 << quarter) != 0);
        in_code.fold(SectorMask::EMPTY, |all, quarter| all.union(SectorMask::range(quarter * 4, 4)))
    }

    #[test]
    fn publish_is_an_array_write() {
        for current in all_mappings() {
            for (block, code) in (1..=3).flat_map(|block| (1..16).map(move |code| (block, code))) {
                let expected = model_set(model_of(current), quarters(code), Some(block));
                match Mapping::publish(current, DataBlock(block), quarters(code)) {
                    Ok(mapping) => {
                        assert!(mapping.is_valid(), "{current:?} + {block} {code:#b} = {mapping:?}");
                        assert_eq!(model_of(Some(mapping)), expected);
                    }
                    Err(unchanged) => {
                        assert_eq!(Some(unchanged), current);
                        assert_eq!(distinct(&expected), 3);
                    }
                }
            }
        }
    }

    #[test]
    fn clear_is_an_array_write() {
        for mapping in all_mappings().into_iter().flatten() {
            for code in 0..16 {
                let cleared = mapping.clear(quarters(code));
                assert!(cleared.is_none_or(Mapping::is_valid));
                assert_eq!(model_of(cleared), model_set(model_of(Some(mapping)), quarters(code), None));
            }
        }
    }

    #[test]
    fn losing_keeps_the_rest_and_stays_lost_until_it_is_written() {
        for current in all_mappings() {
            for code in 1..16 {
                let sectors = quarters(code);
                let mapping = Mapping::lose(current, sectors);
                assert!(mapping.is_valid() && mapping.lost().contains(sectors), "{mapping:?}");
                let kept = model_of(Some(mapping));
                for (sector, before) in model_of(current).into_iter().enumerate() {
                    assert!(kept[sector] == before || kept[sector] == Some(LOST.0));
                }
                let untouched = |layer: &Layer| !layer.mask.without(sectors).is_empty();
                let left = current.into_iter().flat_map(Mapping::layers).filter(untouched).count();
                assert_eq!(mapping.blocks().count(), left.min(1), "{current:?} {mapping:?}");
                assert_eq!(mapping.lost() == sectors, left < 2);
                let healed = Mapping::publish(Some(mapping), DataBlock(3), SectorMask::FULL).unwrap();
                assert_eq!(healed, Mapping::single(DataBlock(3), SectorMask::FULL));
                assert!(mapping.clear(mapping.lost()).is_none_or(|rest| rest.lost().is_empty()));
            }
        }
    }

    #[test]
    fn a_new_block_becomes_the_upper_layer() {
        let old = Mapping::single(DataBlock(1), SectorMask::FULL);
        let broken = Mapping::publish(Some(old), DataBlock(2), SectorMask(1)).unwrap();
        assert_eq!(broken.upper, Layer { block: DataBlock(2), mask: SectorMask(1) });
        assert_eq!(broken.lower, Some(Layer { block: DataBlock(1), mask: SectorMask(0xfffe) }));
        let collapsed = Mapping::publish(Some(broken), DataBlock(1), SectorMask(1)).unwrap();
        assert_eq!(collapsed, old);
        assert_eq!(Mapping::publish(Some(broken), DataBlock(3), SectorMask(2)), Err(broken));
        assert_eq!(broken.visible(), SectorMask::FULL);
        assert_eq!(broken.blocks().collect::<Vec<_>>(), [DataBlock(2), DataBlock(1)]);
    }

    #[test]
    fn invalid_mappings_are_seen() {
        let upper = Layer { block: DataBlock(1), mask: SectorMask(3) };
        let invalid = |block, mask| {
            !Mapping { upper, lower: Some(Layer { block: DataBlock(block), mask: SectorMask(mask) }) }
                .is_valid()
        };
        assert!(invalid(1, 4) && invalid(2, 0) && invalid(2, 2) && invalid(DATA_BLOCK_LIMIT, 4));
        assert!(!invalid(LOST.0, 4));
        let below_lost = Some(Layer { block: DataBlock(2), mask: SectorMask(4) });
        assert!(!Mapping { upper: Layer { block: LOST, mask: SectorMask(3) }, lower: below_lost }.is_valid());
        assert!(!invalid(2, 4) && !Mapping::single(DataBlock(1), SectorMask::EMPTY).is_valid());
    }
}
