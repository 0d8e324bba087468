//! The abstract metadata tree: volumes of one virtual block, mappings of two layers, deltas.
//!
//! Owns what a delta does to a tree, in memory and on replay alike. Knows nothing of disks or order.
//! Read next: `state.rs`.

use crate::disk::Tag;

pub const VOLUMES: usize = 3;
pub const BLOCKS: usize = 3;
pub const SECTORS: usize = 3;

/// A set of sectors of one block, a bit each.
pub type Sectors = u8;

/// One layer of a mapping; without sectors it is absent.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Layer {
    pub block: u8,
    pub sectors: Sectors,
}

/// Upper and lower layer.
pub type Mapping = [Layer; 2];

#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub enum Life {
    #[default]
    Absent,
    Live,
    Deleting,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Volume {
    pub life: Life,
    pub mapping: Mapping,
}

/// The tree: all volumes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Tree {
    pub volumes: [Volume; VOLUMES],
}

/// A delta of the log. `tags` stand for the CRC: they are the contents that it covers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub enum Delta {
    #[default]
    None,
    /// `whole` is zero but for the broken rule that states a whole mask.
    Publish {
        volume: u8,
        block: u8,
        sectors: Sectors,
        tags: [Tag; SECTORS],
        whole: Sectors,
    },
    Clear {
        volume: u8,
        sectors: Sectors,
    },
    Snapshot {
        from: u8,
        to: u8,
    },
    Delete {
        volume: u8,
    },
    /// *unmap* of everything and *forget* in one.
    Unmap {
        volume: u8,
    },
}

/// The sectors of a set.
pub fn each(sectors: Sectors) -> impl Iterator<Item = usize> {
    (0..SECTORS).filter(move |s| sectors >> s & 1 == 1)
}

impl Tree {
    /// How many layers name `block`.
    pub fn count(&self, block: u8) -> usize {
        let layers = self.volumes.iter().flat_map(|v| v.mapping.iter());
        layers.filter(|l| l.sectors != 0 && l.block == block).count()
    }

    /// The block that holds a sector of a volume; none reads as zeros.
    pub fn find(&self, volume: usize, sector: usize) -> Option<u8> {
        let layers = &self.volumes[volume].mapping;
        layers.iter().find(|l| l.sectors >> sector & 1 == 1).map(|l| l.block)
    }

    /// Applies a delta; an error is damage that no order of events may bring about.
    pub fn apply(&mut self, delta: Delta) -> Result<(), &'static str> {
        match delta {
            Delta::None => {}
            Delta::Publish { volume, block, sectors, whole, .. } => {
                let mapping = &mut self.live(volume)?.mapping;
                publish(mapping, block, sectors)?;
                if whole != 0 {
                    mapping.iter_mut().filter(|l| l.block == block).for_each(|l| l.sectors = whole);
                }
            }
            Delta::Clear { volume, sectors } => {
                let volume = self.live(volume)?;
                volume.mapping = without(volume.mapping, sectors);
            }
            Delta::Snapshot { from, to } => {
                let source = *self.live(from)?;
                if self.volumes[to as usize].life != Life::Absent {
                    return Err("snapshot over a volume that exists");
                }
                self.volumes[to as usize] = source;
            }
            Delta::Delete { volume } => self.live(volume)?.life = Life::Deleting,
            Delta::Unmap { volume } => {
                if self.volumes[volume as usize].life != Life::Deleting {
                    return Err("unmap of a volume that was not deleted");
                }
                self.volumes[volume as usize] = Volume::default();
            }
        }
        Ok(())
    }

    fn live(&mut self, volume: u8) -> Result<&mut Volume, &'static str> {
        let volume = &mut self.volumes[volume as usize];
        if volume.life == Life::Live { Ok(volume) } else { Err("delta of a volume that is not there") }
    }
}

/// The rule of *publish* in `docs/format.md`.
fn publish(mapping: &mut Mapping, block: u8, sectors: Sectors) -> Result<(), &'static str> {
    let mut gained = sectors;
    if let Some(layer) = mapping.iter().find(|l| l.sectors != 0 && l.block == block) {
        gained |= layer.sectors;
        let upper = mapping[0].block == block;
        let other = without(*mapping, gained)[0];
        let layer = Layer { block, sectors: gained };
        *mapping = if other.sectors == 0 {
            [layer, Layer::default()]
        } else if upper {
            [layer, other]
        } else {
            [other, layer]
        };
        return Ok(());
    }
    let rest = without(*mapping, sectors);
    if rest[1].sectors != 0 {
        return Err("a mapping of three layers");
    }
    *mapping = [Layer { block, sectors }, rest[0]];
    Ok(())
}

/// A mapping without some sectors; layers that have none left go.
fn without(mapping: Mapping, sectors: Sectors) -> Mapping {
    let mut left = mapping.map(|l| match l.sectors & !sectors {
        0 => Layer::default(),
        rest => Layer { block: l.block, sectors: rest },
    });
    if left[0].sectors == 0 {
        left.swap(0, 1);
    }
    left
}
