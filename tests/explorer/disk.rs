//! The disk of the explorer: what each place may hold after a power cut, and what a sync settles.
//!
//! Owns places (data sectors, log pages, root slots, tree pages) with their unsynced writes. Knows
//! nothing of the protocol. Read next: `state.rs`.

/// Content of a sector: 0 reads as zeros, `GARBAGE` is data that no live volume may show.
pub type Tag = u8;

/// What nobody alive wrote. All such contents are alike to the oracle, so they share one tag.
pub const GARBAGE: Tag = 15;

const COVERED: u8 = 0x80;
const LATER: usize = 4;

/// A sector of a data block: its synced content and the completed writes that no sync covered yet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Sector {
    pub base: Tag,
    len: u8,
    later: [u8; LATER],
}

impl Sector {
    /// A sector that holds `tag` for good.
    pub fn settled(tag: Tag) -> Sector {
        Sector { base: tag, ..Sector::default() }
    }

    /// What a read sees while power lasts.
    pub fn current(&self) -> Tag {
        match self.len {
            0 => self.base,
            n => self.later[n as usize - 1] & !COVERED,
        }
    }

    /// A completed write. False if the explorer's bound on unsynced writes is reached.
    pub fn write(&mut self, tag: Tag) -> bool {
        if self.current() == tag {
            return true;
        }
        if self.len as usize == LATER {
            return false;
        }
        self.later[self.len as usize] = tag;
        self.len += 1;
        true
    }

    /// A sync was submitted: it covers what has completed.
    pub fn cover(&mut self) {
        self.later[..self.len as usize].iter_mut().for_each(|tag| *tag |= COVERED);
    }

    /// The sync will never return.
    pub fn uncover(&mut self) {
        self.later.iter_mut().for_each(|tag| *tag &= !COVERED);
    }

    /// The sync returned.
    pub fn settle(&mut self) {
        let covered = self.later[..self.len as usize].iter().filter(|tag| **tag & COVERED != 0).count();
        if covered > 0 {
            self.base = self.later[covered - 1] & !COVERED;
            self.later.rotate_left(covered);
            self.later[LATER - covered..].fill(0);
            self.len -= covered as u8;
        }
    }

    /// Unsynced writes, oldest first.
    pub fn later(&self) -> impl Iterator<Item = Tag> + '_ {
        self.later[..self.len as usize].iter().map(|tag| tag & !COVERED)
    }

    /// Is there a completed write that the running sync, if any, does not cover?
    pub fn uncovered(&self) -> bool {
        self.len > 0 && self.later[self.len as usize - 1] & COVERED == 0
    }

    /// Is there a completed write that no returned sync covers?
    pub fn unsynced(&self) -> bool {
        self.len > 0
    }

    /// Renames every tag.
    pub fn rename(&mut self, names: &[Tag; 16]) {
        self.base = names[self.base as usize];
        for tag in &mut self.later[..self.len as usize] {
            *tag = names[(*tag & !COVERED) as usize] | (*tag & COVERED);
        }
    }
}

/// A place written as a whole (log page, root slot, tree page, log head): its synced content and at
/// most one newer one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Place<T> {
    pub base: T,
    pub later: Option<T>,
    covered: bool,
}

impl<T: Copy + PartialEq> Place<T> {
    /// A place that holds `content` for good.
    pub fn settled(content: T) -> Place<T> {
        Place { base: content, later: None, covered: false }
    }

    /// What a read sees while power lasts.
    pub fn current(&self) -> T {
        self.later.unwrap_or(self.base)
    }

    /// A write. False if the place has an unsynced one already.
    pub fn write(&mut self, content: T) -> bool {
        let free = self.later.is_none();
        if free {
            self.later = Some(content);
        }
        free
    }

    /// A sync was submitted.
    pub fn cover(&mut self) {
        self.covered = self.later.is_some();
    }

    /// The sync will never return.
    pub fn uncover(&mut self) {
        self.covered = false;
    }

    /// The sync returned.
    pub fn settle(&mut self) {
        if self.covered {
            *self = Place::settled(self.current());
        }
    }

    /// One sync, submitted and returned.
    pub fn sync(&mut self) {
        self.cover();
        self.settle();
    }

    /// Is there a write that the running sync, if any, does not cover?
    pub fn uncovered(&self) -> bool {
        self.later.is_some() && !self.covered
    }
}
