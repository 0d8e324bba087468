//! The content of a simulated disk: pages of 4 KiB that clones share until one of them changes.
//!
//! Owns bytes. Knows nothing of time, order or loss; that is `volatile.rs` and `mod.rs`.

use std::rc::Rc;

/// Bytes of a page of the image.
pub const PAGE: usize = 4096;
/// Bytes of a unit.
pub const UNIT: usize = 512;
/// Units of a page; a set of them is one byte.
pub const UNITS: usize = PAGE / UNIT;

/// Pages by number; an absent one is zeros.
#[derive(Clone, Debug, Default)]
pub struct Image {
    pages: Vec<Option<Rc<[u8; PAGE]>>>,
}

impl Image {
    /// Makes the image so many pages long; new ones are zeros.
    pub fn resize(&mut self, pages: usize) {
        self.pages.resize(pages, None);
    }

    /// Makes the image at least so long.
    pub fn grow(&mut self, pages: usize) {
        if self.pages.len() < pages {
            self.resize(pages);
        }
    }

    /// How many pages it has.
    pub fn pages(&self) -> usize {
        self.pages.len()
    }

    /// One unit.
    pub fn unit(&self, page: u64, unit: usize) -> &[u8] {
        match &self.pages[page as usize] {
            Some(bytes) => &bytes[unit * UNIT..(unit + 1) * UNIT],
            None => &[0; UNIT],
        }
    }

    /// Replaces one unit; `None` is zeros.
    pub fn set_unit(&mut self, page: u64, unit: usize, bytes: Option<&[u8]>) {
        let slot = &mut self.pages[page as usize];
        if slot.is_none() && bytes.is_none() {
            return;
        }
        let page = Rc::make_mut(slot.get_or_insert_with(|| Rc::new([0; PAGE])));
        let target = &mut page[unit * UNIT..(unit + 1) * UNIT];
        match bytes {
            Some(bytes) => target.copy_from_slice(bytes),
            None => target.fill(0),
        }
    }

    /// Replaces a whole page; `None` is zeros.
    pub fn set_page(&mut self, page: u64, bytes: Option<&[u8; PAGE]>) {
        self.pages[page as usize] = bytes.map(|bytes| Rc::new(*bytes));
    }

    /// Takes one page over from `other`, sharing it.
    pub fn share_page(&mut self, page: u64, other: &Self) {
        self.pages[page as usize].clone_from(&other.pages[page as usize]);
    }

    /// Copies what stands at `offset_bytes` into `out`.
    pub fn read(&self, offset_bytes: u64, out: &mut [u8]) {
        let mut at = offset_bytes as usize;
        let mut rest = out;
        while !rest.is_empty() {
            let length = (PAGE - at % PAGE).min(rest.len());
            let (piece, behind) = rest.split_at_mut(length);
            match &self.pages[at / PAGE] {
                Some(page) => piece.copy_from_slice(&page[at % PAGE..at % PAGE + length]),
                None => piece.fill(0),
            }
            at += length;
            rest = behind;
        }
    }
}

/// The pages that a byte range touches, each with the set of its units that lie in the range.
pub fn pages_of(offset_bytes: u64, length_bytes: u64) -> impl Iterator<Item = (u64, u8)> {
    let (first, end) = (offset_bytes / UNIT as u64, (offset_bytes + length_bytes) / UNIT as u64);
    let units = UNITS as u64;
    (first / units..end.div_ceil(units)).map(move |page| {
        let low = first.saturating_sub(page * units);
        let high = (end - page * units).min(units);
        (page, (((1u32 << high) - 1) & !((1u32 << low) - 1)) as u8)
    })
}

/// The units in a set.
pub fn units_in(set: u8) -> impl Iterator<Item = usize> {
    (0..UNITS).filter(move |unit| set & (1 << unit) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_become_pages_and_units() {
        assert_eq!(pages_of(0, 4096).collect::<Vec<_>>(), [(0, 0xff)]);
        assert_eq!(pages_of(512, 512).collect::<Vec<_>>(), [(0, 0b10)]);
        assert_eq!(pages_of(7 * 512, 1024).collect::<Vec<_>>(), [(0, 0x80), (1, 1)]);
        assert_eq!(pages_of(4096, 0).count(), 0);
    }

    #[test]
    fn clones_do_not_see_each_others_changes() {
        let mut image = Image::default();
        image.resize(2);
        image.set_unit(1, 3, Some(&[7; UNIT]));
        let mut clone = image.clone();
        clone.set_unit(1, 3, None);
        assert_eq!((image.unit(1, 3)[0], clone.unit(1, 3)[0]), (7, 0));
        let mut out = [1; 1024];
        image.read(4096 + 2 * 512, &mut out);
        assert_eq!((out[0], out[512]), (0, 7));
    }
}
