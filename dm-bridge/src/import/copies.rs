//! Where data blocks of a thin pool are in the pool that it becomes: the same place, or a copy that is made when it is first met.
//!
//! Owns the copies: each is made once, however many devices share the block, and zeros are left out.

use crate::device::Source;
use crate::error::Error as ThinError;
use crate::export::Failure;
use rustc_hash::FxHashMap;
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
    known: FxHashMap<u64, Box<[Option<DataBlock>]>>,
    next: u64,
    copied_bytes: u64,
}

impl<'c> Copies<'c> {
    /// Copies from `source`, to block `next` and those behind it.
    pub fn new(source: &'c dyn Source, blocks_a_block: u64, next: u64) -> Self {
        Self { source, blocks_a_block, known: FxHashMap::default(), next, copied_bytes: 0 }
    }

    fn copy(&mut self, adoption: &mut Adoption<'_>, thin_block: u64) -> Result<(), Failure> {
        let mut places = vec![None; self.blocks_a_block as usize];
        for (inside, place) in (0..).zip(&mut places) {
            let offset = (thin_block * self.blocks_a_block + inside) * BLOCK_BYTES;
            let mut bytes = vec![0; BLOCK_BYTES as usize];
            let read = self.source.read_at(offset, &mut bytes);
            read.map_err(|error| ThinError::io(offset, "reading data", error))?;
            if bytes.iter().all(|byte| *byte == 0) {
                continue;
            }
            let block = DataBlock(self.next);
            adoption.write(block, bytes.into())?;
            self.next += 1;
            self.copied_bytes += BLOCK_BYTES;
            *place = Some(block);
        }
        self.known.insert(thin_block, places.into());
        Ok(())
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
        if !copies.known.contains_key(&thin_block) {
            copies.copy(adoption, thin_block)?;
        }
        Ok(copies.known.get(&thin_block).and_then(|places| places[inside as usize]))
    }

    /// What was copied.
    pub fn copied_bytes(&self) -> u64 {
        match self {
            Places::Same => 0,
            Places::Copies(copies) => copies.copied_bytes,
        }
    }
}
