//! Exact reference counts: one byte a block or page, in chunks that are stored whole or as one number; large counts apart.
//!
//! Owns the numbers in memory and knows which leaves of them changed since the last checkpoint. Writes and reads no
//! pages (`checkpoint.rs` and `recovery.rs` do) and does not know what is counted. Read next: `page_space.rs`.

use crate::error::{Error, ErrorKind, Result};
use crate::format::COUNTS_PER_LEAF;
use std::collections::BTreeMap;

/// The byte that says that the count stands in the overflow.
const IN_OVERFLOW: u8 = u8::MAX;
/// Counts of one leaf, and of one chunk in memory.
const LEAF: usize = COUNTS_PER_LEAF as usize;

/// The counts of one leaf as they stand on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadedCounts<'a> {
    /// One byte each.
    Each(&'a [u8]),
    /// All the same; the leaf has no page. Below 255.
    Uniform(u32),
}

/// The counts of one leaf in memory. In a large pool most blocks have the same few counts, neighbours above all.
#[derive(Clone, Debug)]
enum Chunk {
    /// All are this; never [`IN_OVERFLOW`].
    Uniform(u8),
    /// One byte each, as many as the leaf has.
    Dense(Box<[u8]>),
}

/// One count for every block of the data file, or for every page of the metadata file.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    len: u64,
    chunks: Vec<Chunk>,
    /// Counts of 255 and more.
    overflow: BTreeMap<u64, u32>,
    overflow_changed: bool,
    /// Leaves that changed, in the order in which they first did.
    changed: Vec<usize>,
    /// Whether a leaf stands in `changed`.
    is_changed: Vec<bool>,
    in_use: u64,
}

/// The chunk of a count, and its place there.
#[inline]
const fn place(index: u64) -> (usize, usize) {
    ((index / COUNTS_PER_LEAF) as usize, (index % COUNTS_PER_LEAF) as usize)
}

impl Counts {
    /// `len` counts of zero.
    pub fn new(len: u64) -> Self {
        let mut counts = Self::default();
        counts.grow(len);
        counts
    }

    /// How many counts there are.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are no counts at all.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds counts of zero up to `len` counts. Fewer than there are changes nothing.
    pub fn grow(&mut self, len: u64) {
        if len <= self.len {
            return;
        }
        let last = self.chunks.len().saturating_sub(1);
        let room = self.room(last);
        self.len = len;
        self.chunks.resize(len.div_ceil(COUNTS_PER_LEAF) as usize, Chunk::Uniform(0));
        self.is_changed.resize(self.chunks.len(), false);
        if !matches!(self.chunks.get(last), None | Some(Chunk::Uniform(0))) && room < self.room(last) {
            self.lengthen(last, room);
        }
    }

    /// A chunk that was the last one gets more counts: zeros behind the first `room` ones.
    fn lengthen(&mut self, leaf: usize, room: usize) {
        let mut bytes = vec![0; self.room(leaf)];
        match &self.chunks[leaf] {
            Chunk::Uniform(count) => {
                bytes[..room].fill(*count);
                // On disk it may be uniform too, which would hold for the new counts as well.
                self.note_change(leaf);
            }
            Chunk::Dense(old) => bytes[..room].copy_from_slice(old),
        }
        self.chunks[leaf] = Chunk::Dense(bytes.into());
    }

    /// How many counts a leaf has: all but the last are full.
    fn room(&self, leaf: usize) -> usize {
        let first = (leaf as u64).saturating_mul(COUNTS_PER_LEAF);
        self.len.saturating_sub(first).min(COUNTS_PER_LEAF) as usize
    }

    /// How many counts are not zero.
    pub fn in_use(&self) -> u64 {
        self.in_use
    }

    /// The byte of `index`; zero behind the end.
    #[inline]
    fn byte(&self, index: u64) -> u8 {
        let (leaf, at) = place(index);
        match self.chunks.get(leaf) {
            Some(Chunk::Dense(bytes)) => bytes.get(at).copied().unwrap_or(0),
            Some(Chunk::Uniform(count)) if index < self.len => *count,
            _ => 0,
        }
    }

    /// The count of `index`; zero behind the end.
    #[inline]
    pub fn get(&self, index: u64) -> u32 {
        match self.byte(index) {
            IN_OVERFLOW => self.overflow.get(&index).copied().unwrap_or(u32::from(IN_OVERFLOW)),
            byte => u32::from(byte),
        }
    }

    /// Whether nothing refers to `index`.
    #[inline]
    pub fn is_zero(&self, index: u64) -> bool {
        self.byte(index) == 0
    }

    /// Whether nothing refers to one of the `length` things from `first` on, or one of them is behind the end.
    #[inline]
    pub fn is_any_zero(&self, first: u64, length: u64) -> bool {
        if length == 1 {
            return self.is_zero(first);
        }
        first.checked_add(length).is_none_or(|end| end > self.len)
            || self.pieces(first, length).any(|(leaf, from, to)| match &self.chunks[leaf] {
                Chunk::Uniform(count) => *count == 0,
                Chunk::Dense(bytes) => bytes[from..to].contains(&0),
            })
    }

    /// Whether each of the `length` things from `first` on has exactly one reference.
    pub fn are_all_one(&self, first: u64, length: u64) -> bool {
        if length == 1 {
            return self.byte(first) == 1;
        }
        first.checked_add(length).is_some_and(|end| end <= self.len)
            && self.pieces(first, length).all(|(leaf, from, to)| match &self.chunks[leaf] {
                Chunk::Uniform(count) => *count == 1,
                Chunk::Dense(bytes) => bytes[from..to].iter().all(|byte| *byte == 1),
            })
    }

    /// The range `first..first + length`, which is not behind the end, leaf by leaf: leaf, and from where to where.
    fn pieces(&self, first: u64, length: u64) -> impl Iterator<Item = (usize, usize, usize)> + use<> {
        let end = first + length;
        let leaves = first / COUNTS_PER_LEAF..end.div_ceil(COUNTS_PER_LEAF);
        leaves.filter(move |_| length > 0).map(move |leaf| {
            let start = leaf * COUNTS_PER_LEAF;
            (
                leaf as usize,
                (first.max(start) - start) as usize,
                (end.min(start + COUNTS_PER_LEAF) - start) as usize,
            )
        })
    }

    /// The byte of `index`, which is not behind the end, to be changed.
    #[inline]
    fn byte_mut(&mut self, index: u64) -> &mut u8 {
        let (leaf, at) = place(index);
        if let Chunk::Uniform(count) = self.chunks[leaf] {
            self.chunks[leaf] = Chunk::Dense(vec![count; self.room(leaf)].into());
        }
        match &mut self.chunks[leaf] {
            Chunk::Dense(bytes) => &mut bytes[at],
            Chunk::Uniform(_) => unreachable!("it was made dense"),
        }
    }

    /// Adds one, and returns the new count. Fails, changing nothing, behind the end and at the largest count.
    pub fn increment(&mut self, index: u64) -> Result<u32> {
        if index >= self.len {
            return Err(Error::damaged("a reference leads behind the end of the file"));
        }
        let byte = self.byte_mut(index);
        if *byte < IN_OVERFLOW - 1 {
            *byte += 1;
            let count = u32::from(*byte);
            self.in_use += u64::from(count == 1);
            self.note_change(place(index).0);
            return Ok(count);
        }
        let count = self.get(index).checked_add(1);
        let count =
            count.ok_or_else(|| Error::new(ErrorKind::Limit, "more references than a count can hold"))?;
        self.put(index, count);
        Ok(count)
    }

    /// Adds one to each of `length` counts from `first` on, as [`Self::increment`] does.
    pub fn increment_run(&mut self, first: u64, length: u64) -> Result<()> {
        if first.checked_add(length).is_none_or(|end| end > self.len) {
            return Err(Error::damaged("a reference leads behind the end of the file"));
        }
        for (leaf, from, to) in self.pieces(first, length) {
            match &mut self.chunks[leaf] {
                Chunk::Uniform(count) if to - from == LEAF && *count < IN_OVERFLOW - 1 => {
                    *count += 1;
                    self.in_use += if *count == 1 { COUNTS_PER_LEAF } else { 0 };
                    self.note_change(leaf);
                }
                Chunk::Dense(bytes) if bytes[from..to].iter().all(|byte| *byte < IN_OVERFLOW - 1) => {
                    let zeros = bytes[from..to].iter().filter(|byte| **byte == 0).count();
                    bytes[from..to].iter_mut().for_each(|byte| *byte += 1);
                    self.in_use += zeros as u64;
                    self.note_change(leaf);
                }
                _ => {
                    let start = leaf as u64 * COUNTS_PER_LEAF;
                    (from..to).try_for_each(|at| self.increment(start + at as u64).map(drop))?;
                }
            }
        }
        Ok(())
    }

    /// Takes one away, and returns the new count. Fails, changing nothing, if the count is zero.
    pub fn decrement(&mut self, index: u64) -> Result<u32> {
        let count = self.get(index);
        if count == 0 {
            return Err(Error::damaged("a count is lower than the number of references"));
        }
        self.put(index, count - 1);
        Ok(count - 1)
    }

    /// Makes the count of `index` this. For who moves what is counted; others count one by one. Fails behind the end.
    pub fn set(&mut self, index: u64, count: u32) -> Result<()> {
        if index >= self.len {
            return Err(Error::damaged("a reference leads behind the end of the file"));
        }
        self.put(index, count);
        Ok(())
    }

    /// Ends with `len` counts. Fails, changing nothing, if one behind them is not zero; more than there are changes
    /// nothing.
    pub fn truncate(&mut self, len: u64) -> Result<()> {
        if len >= self.len {
            return Ok(());
        }
        if self.first_in_use(len).is_some() {
            return Err(Error::damaged("what is behind the new end of the file is in use"));
        }
        self.len = len;
        let leaves = len.div_ceil(COUNTS_PER_LEAF) as usize;
        self.chunks.truncate(leaves);
        self.is_changed.truncate(leaves);
        self.changed.retain(|leaf| *leaf < leaves);
        if let Some(last) = leaves.checked_sub(1) {
            if let Chunk::Dense(bytes) = &self.chunks[last] {
                self.chunks[last] = Chunk::Dense(bytes[..self.room(last)].into());
            }
            self.note_change(last);
        }
        Ok(())
    }

    /// The first count from `from` on that is not zero.
    pub fn first_in_use(&self, from: u64) -> Option<u64> {
        self.pieces(from, self.len.saturating_sub(from)).find_map(|(leaf, first, end)| {
            let at = match &self.chunks[leaf] {
                Chunk::Uniform(0) => None,
                Chunk::Uniform(_) => Some(0),
                Chunk::Dense(bytes) => bytes[first..end].iter().position(|byte| *byte != 0),
            };
            at.map(|at| leaf as u64 * COUNTS_PER_LEAF + (first + at) as u64)
        })
    }

    /// How many counts from `from` on are not zero.
    pub fn in_use_from(&self, from: u64) -> u64 {
        let in_piece = |(leaf, first, end): (usize, usize, usize)| match &self.chunks[leaf] {
            Chunk::Uniform(0) => 0,
            Chunk::Uniform(_) => end - first,
            Chunk::Dense(bytes) => bytes[first..end].iter().filter(|byte| **byte != 0).count(),
        };
        self.pieces(from, self.len.saturating_sub(from)).map(|piece| in_piece(piece) as u64).sum()
    }

    /// The first count from `from` on that is zero.
    pub fn first_zero(&self, from: u64) -> Option<u64> {
        self.pieces(from, self.len.saturating_sub(from)).find_map(|(leaf, first, end)| {
            let at = match &self.chunks[leaf] {
                Chunk::Uniform(0) => Some(0),
                Chunk::Uniform(_) => None,
                Chunk::Dense(bytes) => bytes[first..end].iter().position(|byte| *byte == 0),
            };
            at.map(|at| leaf as u64 * COUNTS_PER_LEAF + (first + at) as u64)
        })
    }

    fn put(&mut self, index: u64, count: u32) {
        let byte = self.byte_mut(index);
        let (was_zero, was_overflow) = (*byte == 0, *byte == IN_OVERFLOW);
        *byte = u8::try_from(count).unwrap_or(IN_OVERFLOW);
        if *byte == IN_OVERFLOW {
            self.overflow.insert(index, count);
            self.overflow_changed = true;
        } else if was_overflow {
            self.overflow.remove(&index);
            self.overflow_changed = true;
        }
        self.in_use = self.in_use + u64::from(was_zero && count > 0) - u64::from(!was_zero && count == 0);
        self.note_change(place(index).0);
    }

    #[inline]
    fn note_change(&mut self, leaf: usize) {
        if !self.is_changed[leaf] {
            self.is_changed[leaf] = true;
            self.changed.push(leaf);
        }
    }

    /// A bit for every count, set where it is zero; bits behind the end are not set.
    pub fn zeros(&self) -> Vec<u64> {
        // A leaf starts at a multiple of 32 counts.
        const GROUP: usize = 32;
        const { assert!(LEAF.is_multiple_of(GROUP)) };
        let mut words = vec![0u64; self.len.div_ceil(64) as usize];
        let mut put = |at: usize, bits: u32| words[at / 64] |= u64::from(bits) << (at % 64);
        for (leaf, chunk) in self.chunks.iter().enumerate() {
            let (start, room) = (leaf * LEAF, self.room(leaf));
            match chunk {
                Chunk::Uniform(0) => (0..room).step_by(GROUP).for_each(|at| {
                    put(start + at, u32::MAX >> (GROUP - GROUP.min(room - at)));
                }),
                Chunk::Uniform(_) => {}
                Chunk::Dense(bytes) => bytes.chunks(GROUP).enumerate().for_each(|(group, bytes)| {
                    let bits = bytes.iter().rev().fold(0, |bits, byte| bits << 1 | u32::from(*byte == 0));
                    put(start + group * GROUP, bits);
                }),
            }
        }
        words
    }
}

/// What a checkpoint writes.
impl Counts {
    /// Leaves that changed since [`Self::clear_changed`], each once, in the order in which they first did.
    pub fn changed_leaves(&self) -> &[usize] {
        &self.changed
    }

    /// Whether the overflow changed since [`Self::clear_changed`].
    pub fn overflow_changed(&self) -> bool {
        self.overflow_changed
    }

    /// Forgets what changed: it is in a checkpoint now.
    pub fn clear_changed(&mut self) {
        for leaf in self.changed.drain(..) {
            self.is_changed[leaf] = false;
        }
        self.overflow_changed = false;
    }

    /// The counts of one leaf as they go to disk. The last leaf may be short, one behind it is empty.
    pub fn leaf(&self, leaf: usize) -> LoadedCounts<'_> {
        match self.chunks.get(leaf) {
            Some(Chunk::Dense(bytes)) => LoadedCounts::Each(bytes),
            Some(Chunk::Uniform(count)) => LoadedCounts::Uniform(u32::from(*count)),
            None => LoadedCounts::Each(&[]),
        }
    }

    /// The same, a byte each, whatever the leaf is in memory.
    pub fn leaf_bytes(&self, leaf: usize) -> Vec<u8> {
        match self.leaf(leaf) {
            LoadedCounts::Each(bytes) => bytes.to_vec(),
            LoadedCounts::Uniform(count) => vec![count as u8; self.room(leaf)],
        }
    }

    /// The one count of a changed leaf, if all of it is the same; from then on it takes no memory.
    pub fn make_uniform(&mut self, leaf: usize) -> Option<u32> {
        let count = match self.chunks.get(leaf)? {
            Chunk::Uniform(count) => *count,
            Chunk::Dense(bytes) => {
                let first = *bytes.first().filter(|byte| **byte != IN_OVERFLOW)?;
                bytes.iter().all(|byte| *byte == first).then_some(first)?
            }
        };
        self.chunks[leaf] = Chunk::Uniform(count);
        Some(u32::from(count))
    }

    /// How many counts stand in the overflow.
    pub fn overflow_len(&self) -> usize {
        self.overflow.len()
    }

    /// Counts of 255 and more, by rising index.
    pub fn overflow(&self) -> impl Iterator<Item = (u64, u32)> + '_ {
        self.overflow.iter().map(|(&index, &count)| (index, count))
    }
}

/// What an opening reads: leaves and overflow in any order, then [`Counts::finish_load`].
impl Counts {
    /// Takes over the counts of the leaf that starts with the count of `first`, which is still zero as all of its
    /// counts are. Counts that are not given stay zero.
    pub fn load_leaf(&mut self, first: u64, counts: LoadedCounts<'_>) -> Result<()> {
        let leaf = usize::try_from(first / COUNTS_PER_LEAF).unwrap_or(usize::MAX);
        let room = self.room(leaf);
        let (chunk, in_use) = match counts {
            LoadedCounts::Uniform(count) if count < u32::from(IN_OVERFLOW) => {
                (Chunk::Uniform(count as u8), if count > 0 { room } else { 0 })
            }
            LoadedCounts::Uniform(_) => return Err(Error::damaged("a leaf of counts is all overflow")),
            LoadedCounts::Each(bytes) => {
                let kept = bytes.len().min(room);
                if bytes.len() > LEAF || bytes[kept..].iter().any(|&byte| byte != 0) {
                    return Err(Error::damaged("a leaf of counts reaches behind the end of the file"));
                }
                let mut all = vec![0; room];
                all[..kept].copy_from_slice(&bytes[..kept]);
                (Chunk::Dense(all.into()), bytes.iter().filter(|&&byte| byte != 0).count())
            }
        };
        if !first.is_multiple_of(COUNTS_PER_LEAF) {
            return Err(Error::damaged("a leaf of counts reaches behind the end of the file"));
        }
        if let Some(place) = self.chunks.get_mut(leaf) {
            *place = chunk;
            self.in_use += in_use as u64;
        }
        Ok(())
    }

    /// Takes over one count of the overflow.
    pub fn load_overflow(&mut self, index: u64, count: u32) -> Result<()> {
        let is_large = count >= u32::from(IN_OVERFLOW);
        if !is_large || self.overflow.insert(index, count).is_some() {
            return Err(Error::damaged("the overflow of counts has a small count, or one twice"));
        }
        Ok(())
    }

    /// Checks that bytes and overflow belong together, and starts with nothing changed.
    pub fn finish_load(&mut self) -> Result<()> {
        let marked_in = |chunk: &Chunk| match chunk {
            Chunk::Dense(bytes) => bytes.iter().filter(|&&byte| byte == IN_OVERFLOW).count(),
            Chunk::Uniform(_) => 0,
        };
        let marked: usize = self.chunks.iter().map(marked_in).sum();
        let found = self.overflow.keys().filter(|&&index| self.byte(index) == IN_OVERFLOW);
        if marked != self.overflow.len() || found.count() != marked {
            return Err(Error::damaged("counts and their overflow do not fit together"));
        }
        self.clear_changed();
        Ok(())
    }
}
