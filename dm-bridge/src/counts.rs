//! Counts of owners by block, exact, in memory that goes with what is mapped and not with the size of the device.
//!
//! Owns groups of 240 blocks with a byte each; a bitmap of a space map counts 68 whole groups. Counts from 255 on are aside.

use rustc_hash::FxHashMap;

/// Blocks that are counted together.
pub(crate) const GROUP_BLOCKS: u64 = 240;
const ASIDE: u8 = u8::MAX;

pub(crate) type Group = [u8; GROUP_BLOCKS as usize];

#[derive(Default)]
pub(crate) struct Counts {
    groups: Vec<Group>,
    places: FxHashMap<u64, u32>,
    aside: FxHashMap<u64, u32>,
    /// The group that was used last, as neighbours are mostly counted one after the other.
    recent: Option<(u64, u32)>,
}

impl Counts {
    /// One more owner of `block`.
    pub fn add(&mut self, block: u64) {
        let group = block / GROUP_BLOCKS;
        let place = match self.recent {
            Some((recent, place)) if recent == group => place,
            _ => self.place(group),
        };
        let count = &mut self.groups[place as usize][(block % GROUP_BLOCKS) as usize];
        if *count == ASIDE {
            *self.aside.entry(block).or_default() += 1;
        } else {
            *count += 1;
            if *count == ASIDE {
                self.aside.insert(block, u32::from(ASIDE));
            }
        }
    }

    fn place(&mut self, group: u64) -> u32 {
        let groups = &mut self.groups;
        let place = *self.places.entry(group).or_insert_with(|| {
            groups.push([0; GROUP_BLOCKS as usize]);
            groups.len() as u32 - 1
        });
        self.recent = Some((group, place));
        place
    }

    /// Owners of `block`.
    pub fn get(&self, block: u64) -> u32 {
        let Some(group) = self.group(block / GROUP_BLOCKS) else { return 0 };
        self.exact(block, group[(block % GROUP_BLOCKS) as usize])
    }

    /// The counts of a group as bytes, which [`exact`](Self::exact) makes whole; `None` if all are 0.
    pub fn group(&self, group: u64) -> Option<&Group> {
        if let Some((recent, place)) = self.recent.filter(|(recent, _)| *recent == group) {
            debug_assert_eq!(recent, group);
            return self.groups.get(place as usize);
        }
        self.places.get(&group).map(|place| &self.groups[*place as usize])
    }

    /// The count of `block`, whose byte is `byte`.
    pub fn exact(&self, block: u64, byte: u8) -> u32 {
        if byte == ASIDE { self.aside.get(&block).copied().unwrap_or(u32::from(ASIDE)) } else { byte.into() }
    }

    /// Whether a block has more owners than one.
    pub fn any_shared(&self) -> bool {
        self.groups.iter().any(|group| group.iter().any(|count| *count > 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_beyond_a_byte_are_exact() {
        let mut counts = Counts::default();
        for _ in 0..700 {
            counts.add(1 << 39);
        }
        counts.add(3);
        assert_eq!([counts.get(1 << 39), counts.get(3), counts.get(4)], [700, 1, 0]);
        assert!(counts.any_shared());
    }
}
