//! Where data blocks of a thin pool are in the pool that it becomes: the same place, or a copy that is made when it is first met.
//!
//! Owns the copies: each is made once, however many devices share the block, and zeros are left out. Where a copy is, is kept
//! only for blocks that are met again, in four bytes for 64 KiB.

use super::census::Used;
use crate::device::Source;
use crate::error::Error as ThinError;
use crate::export::Failure;
use vellum_engine::adopt::Adoption;
use vellum_engine::units::{BLOCK_BYTES, DataBlock};

/// Where blocks are.
pub(super) enum Places<'c> {
    /// Where they were.
    Same,
    /// Copies.
    Copies(Copies<'c>),
}

/// Copies of blocks.
pub(super) struct Copies<'c> {
    source: &'c dyn Source,
    blocks_a_block: u64,
    known: Known,
    next: u64,
    copied_bytes: u64,
}

impl<'c> Copies<'c> {
    /// Copies from `source`, to block `next` and those behind it. Blocks that are met more than once are in `shared`.
    pub fn new(source: &'c dyn Source, blocks_a_block: u64, shared: Used, next: u64) -> Self {
        Self { source, blocks_a_block, known: Known::new(shared, blocks_a_block), next, copied_bytes: 0 }
    }

    fn place(
        &mut self,
        adoption: &mut Adoption<'_>,
        thin_block: u64,
        inside: u64,
    ) -> Result<Option<DataBlock>, Failure> {
        if let Some(place) = self.known.get(thin_block, inside) {
            return Ok(place);
        }
        let offset = (thin_block * self.blocks_a_block + inside) * BLOCK_BYTES;
        let mut bytes = vec![0; BLOCK_BYTES as usize];
        let read = self.source.read_at(offset, &mut bytes);
        read.map_err(|error| ThinError::io(offset, "reading data", error))?;
        let place = if bytes.iter().all(|byte| *byte == 0) {
            None
        } else {
            let block = DataBlock(self.next);
            adoption.write(block, bytes.into())?;
            self.next += 1;
            self.copied_bytes += BLOCK_BYTES;
            Some(block)
        };
        self.known.set(thin_block, inside, place);
        Ok(place)
    }
}

/// Where the copies of shared blocks are.
struct Known {
    shared: Used,
    /// Shared blocks before each word of `shared`.
    before: Vec<u64>,
    blocks_a_block: u64,
    /// By shared block and block of 64 KiB in it: 0 while there is no copy, [`Known::ZERO`] for zeros, or the copy's number and 1.
    places: Vec<u32>,
}

impl Known {
    const ZERO: u32 = u32::MAX;

    fn new(shared: Used, blocks_a_block: u64) -> Self {
        let before = shared.before();
        let places = vec![0; (shared.count() * blocks_a_block) as usize];
        Self { shared, before, blocks_a_block, places }
    }

    fn index(&self, thin_block: u64, inside: u64) -> Option<usize> {
        let rank = self.shared.rank(&self.before, thin_block)?;
        Some((rank * self.blocks_a_block + inside) as usize)
    }

    fn get(&self, thin_block: u64, inside: u64) -> Option<Option<DataBlock>> {
        match self.places[self.index(thin_block, inside)?] {
            0 => None,
            Self::ZERO => Some(None),
            place => Some(Some(DataBlock(u64::from(place - 1)))),
        }
    }

    fn set(&mut self, thin_block: u64, inside: u64, place: Option<DataBlock>) {
        let place = match place {
            None => Self::ZERO,
            // What does not fit is not kept, and is copied again: one block, in the largest of all pools.
            Some(block) => u32::try_from(block.0 + 1).ok().filter(|place| *place != Self::ZERO).unwrap_or(0),
        };
        if let Some(index) = self.index(thin_block, inside) {
            self.places[index] = place;
        }
    }
}

impl Places<'_> {
    /// Where the block of 64 KiB number `inside` of a thin pool's data block is; none if it is all zero.
    pub fn place(
        &mut self,
        adoption: &mut Adoption<'_>,
        thin_block: u64,
        inside: u64,
    ) -> Result<Option<DataBlock>, Failure> {
        let Places::Copies(copies) = self else { return Ok(Some(DataBlock(thin_block))) };
        copies.place(adoption, thin_block, inside)
    }

    /// What was copied.
    pub fn copied_bytes(&self) -> u64 {
        match self {
            Places::Same => 0,
            Places::Copies(copies) => copies.copied_bytes,
        }
    }
}
