//! The mappings of one device, put into its volume: all of them, or what differs from the volume that it starts as.
//!
//! Owns the walk of two devices side by side. Where blocks are is `copies.rs`'s affair.

use super::census::Seen;
use super::copies::Places;
use crate::device::Source;
use crate::error::{Error as ThinError, ErrorKind};
use crate::export::Failure;
use crate::reader::{Metadata, Runs};
use crate::stream::Run;
use vellum_engine::adopt::Adoption;
use vellum_engine::units::{VirtualBlock, VolumeId};

/// Runs of a device, taken in parts.
pub(super) struct Cursor<'m, S> {
    runs: Runs<'m, S>,
    pub run: Option<Run>,
    seen: &'m Seen,
    taken_blocks: u64,
}

impl<'m, S: Source> Cursor<'m, S> {
    pub fn new(metadata: &'m Metadata<S>, seen: &'m Seen) -> Result<Self, Failure> {
        let mut runs = metadata.runs(&seen.device);
        let run = runs.next().transpose()?;
        Ok(Self { runs, run, seen, taken_blocks: 0 })
    }

    /// Takes `length` blocks of the present run.
    pub fn take(&mut self, length: u64) -> Result<(), Failure> {
        if let Some(run) = &mut self.run {
            run.virtual_begin += length;
            run.data_begin += length;
            run.length -= length;
            self.taken_blocks += length;
            if run.length == 0 {
                self.run = self.runs.next().transpose()?;
            }
        }
        Ok(())
    }

    /// Fails with `Damaged` unless all was read that was read before. A lenient reading goes around what fails: this time more may have.
    pub fn require_same(&self) -> Result<(), Failure> {
        if self.taken_blocks == self.seen.mapped_blocks {
            return Ok(());
        }
        let message = format!(
            "{} mapped blocks could be read at first, and {} the second time: the device may be failing",
            self.seen.mapped_blocks, self.taken_blocks
        );
        Err(ThinError::new(ErrorKind::Damaged, message).with_device(self.seen.device.id.into()).into())
    }
}

/// Maps blocks of one volume.
pub(super) struct Put<'p, 'f, 'c> {
    pub adoption: &'p mut Adoption<'f>,
    pub places: &'p mut Places<'c>,
    pub volume: VolumeId,
    pub blocks_a_block: u64,
}

impl Put<'_, '_, '_> {
    pub fn all<S: Source>(&mut self, own: &mut Cursor<'_, S>) -> Result<(), Failure> {
        while let Some(run) = own.run {
            self.map(&run, run.length, false)?;
            own.take(run.length)?;
        }
        Ok(())
    }

    /// Maps what differs from `base`, and what it has in the thin block `cut`.
    pub fn differences<S: Source>(
        &mut self,
        base: &mut Cursor<'_, S>,
        own: &mut Cursor<'_, S>,
        cut: Option<u64>,
    ) -> Result<(), Failure> {
        loop {
            match (base.run, own.run) {
                (None, None) => return Ok(()),
                (Some(old), None) => {
                    self.unmap(old.virtual_begin, old.length)?;
                    base.take(old.length)?;
                }
                (None, Some(new)) => {
                    self.map(&new, new.length, false)?;
                    own.take(new.length)?;
                }
                (Some(old), Some(new)) if old.virtual_begin < new.virtual_begin => {
                    let length = old.length.min(new.virtual_begin - old.virtual_begin);
                    self.unmap(old.virtual_begin, length)?;
                    base.take(length)?;
                }
                (Some(old), Some(new)) if new.virtual_begin < old.virtual_begin => {
                    let length = new.length.min(old.virtual_begin - new.virtual_begin);
                    self.map(&new, length, false)?;
                    own.take(length)?;
                }
                (Some(old), Some(new)) => {
                    let length = old.length.min(new.length);
                    self.change(&old, &new, length, cut)?;
                    base.take(length)?;
                    own.take(length)?;
                }
            }
        }
    }

    /// Both have the first `length` blocks mapped.
    pub fn change(&mut self, old: &Run, new: &Run, length: u64, cut: Option<u64>) -> Result<(), Failure> {
        let begin = new.virtual_begin;
        if old.data_begin != new.data_begin {
            return self.map(new, length, true);
        }
        match cut.filter(|cut| (begin..begin + length).contains(cut)) {
            Some(cut) => {
                let data_begin = new.data_begin + (cut - begin);
                self.map(&Run { virtual_begin: cut, data_begin, ..*new }, 1, true)
            }
            None => Ok(()),
        }
    }

    pub fn unmap(&mut self, first: u64, length: u64) -> Result<(), Failure> {
        let [first, end] = [first, first + length].map(|block| block * self.blocks_a_block);
        Ok(self.adoption.unmap(self.volume, VirtualBlock(first), VirtualBlock(end - 1))?)
    }

    /// Maps the first `length` blocks of a run. What is all zero is not mapped, and `over` something it is unmapped.
    pub fn map(&mut self, run: &Run, length: u64, over: bool) -> Result<(), Failure> {
        for step in 0..length {
            for inside in 0..self.blocks_a_block {
                let block = VirtualBlock((run.virtual_begin + step) * self.blocks_a_block + inside);
                match self.places.place(self.adoption, run.data_begin + step, inside)? {
                    Some(place) => self.adoption.map(self.volume, block, place)?,
                    None if over => self.adoption.unmap(self.volume, block, block)?,
                    None => {}
                }
            }
        }
        Ok(())
    }
}
