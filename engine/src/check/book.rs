//! Which pages were met on the way through the trees, and by which pointer.
//!
//! Owns four bytes a page: enough to visit every page once and to see that all who point to it mean the same. Reads
//! nothing. Read next: `walk.rs`.

use crate::format::{POINTER_BYTES, Pointer, Writer, crc32};
use crate::units::PageNumber;
use rustc_hash::FxHashMap;

/// What is known of a page when a pointer leads to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Met {
    /// It was not met before.
    New,
    /// Another parent points to it in the same words.
    Again,
    /// It was met as something else.
    Different,
    /// It is behind the end of the metadata file.
    Outside,
}

/// The pages that were met.
pub(super) struct Book {
    /// A digest of the pointer by which a page was met; 0 for none.
    marks: Vec<u32>,
    /// First and last key in use of the pages that several parents share.
    keys: FxHashMap<PageNumber, (u64, u64)>,
}

impl Book {
    /// A book of `pages` pages, none of them met.
    pub fn new(pages: u64) -> Self {
        Self { marks: vec![0; usize::try_from(pages).unwrap_or(0)], keys: FxHashMap::default() }
    }

    /// Notes that `pointer` leads to its page at `level`.
    pub fn meet(&mut self, pointer: &Pointer, level: u8) -> Met {
        self.mark(pointer.page, digest(pointer, level).max(1))
    }

    /// Notes that the second copy of a page stands where `pointer` says, if it has one.
    pub fn meet_copy(&mut self, pointer: &Pointer, level: u8) -> Met {
        match pointer.copy {
            Some(copy) => self.mark(copy, (!digest(pointer, level)).max(1)),
            None => Met::New,
        }
    }

    fn mark(&mut self, page: PageNumber, digest: u32) -> Met {
        match usize::try_from(page.0).ok().and_then(|index| self.marks.get_mut(index)) {
            None => Met::Outside,
            Some(mark) if *mark == 0 => {
                *mark = digest;
                Met::New
            }
            Some(mark) if *mark == digest => Met::Again,
            Some(_) => Met::Different,
        }
    }

    /// Keeps the keys of a page that more parents will lead to.
    pub fn keep_keys(&mut self, page: PageNumber, keys: (u64, u64)) {
        self.keys.insert(page, keys);
    }

    /// The keys of a page, if they were kept.
    pub fn keys(&self, page: PageNumber) -> Option<(u64, u64)> {
        self.keys.get(&page).copied()
    }
}

fn digest(pointer: &Pointer, level: u8) -> u32 {
    let mut out = Writer::with_capacity(1 + POINTER_BYTES);
    out.u8(level);
    pointer.write(&mut out);
    crc32(&out.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Generation;

    #[test]
    fn a_page_is_met_once_by_each_of_its_pointers() {
        let pointer = Pointer {
            page: PageNumber(5),
            copy: Some(PageNumber(6)),
            generation: Generation(2),
            checksum: 3,
            mapped: 4,
        };
        let mut book = Book::new(7);
        assert_eq!((book.meet(&pointer, 1), book.meet_copy(&pointer, 1)), (Met::New, Met::New));
        assert_eq!((book.meet(&pointer, 1), book.meet_copy(&pointer, 1)), (Met::Again, Met::Again));
        assert_eq!(book.meet(&pointer, 2), Met::Different);
        assert_eq!(book.meet(&Pointer { mapped: 5, ..pointer }, 1), Met::Different);
        assert_eq!(book.meet(&Pointer { page: PageNumber(6), ..pointer }, 1), Met::Different);
        assert_eq!(book.meet(&Pointer { page: PageNumber(7), ..pointer }, 1), Met::Outside);
    }
}
