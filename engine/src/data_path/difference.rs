//! How a volume differs from a base, without reading data: another volume, or what it was at a checkpoint.
//!
//! Owns ranges while they are put together, and when a generation may be asked for. An answer may end early, so that it
//! never holds the core for long. The walk is `metadata/tree/difference.rs`'s, its soundness is argued in
//! `docs/format.md`.

use super::{Core, Key, Task};
use crate::error::{Error, Place, Result};
use crate::format::{VolumeKind, VolumeRecord};
use crate::metadata::Fault;
use crate::metadata::tree::{Differing, Progress};
use crate::request::{Base, Difference, DifferenceRange, Outcome};
use crate::units::{
    BLOCK_BYTES, Generation, SECTOR_BYTES, SECTORS_PER_BLOCK, SectorMask, VirtualBlock, VolumeId,
};

/// Mappings that one answer looks at at most; a page counts as some.
const BUDGET: u32 = 4096;

/// A look at what differs.
pub struct DifferenceTask {
    pub key: Key,
    base: Base,
    volume: VolumeId,
    /// Nothing in front of this byte differs, or it was told already.
    offset_bytes: u64,
}

impl Core {
    pub(super) fn start_difference(
        &mut self,
        key: Key,
        base: Base,
        volume: VolumeId,
        offset_bytes: u64,
    ) -> Result<()> {
        self.check_range(volume, offset_bytes, 0)?;
        self.check_base(base, self.metadata.volumes.active(volume)?)?;
        self.start_part(key, Task::Difference(DifferenceTask { key, base, volume, offset_bytes }));
        Ok(())
    }

    /// Whether it can be told how `record` differs from the base.
    pub(super) fn check_base(&self, base: Base, record: &VolumeRecord) -> Result<()> {
        match base {
            Base::Nothing => Ok(()),
            Base::Volume(volume) => self.check_range(volume, 0, 0).map(drop),
            Base::Generation(since) => {
                self.check_since(since, record).map_err(|error| error.at(Place::Volume(record.id)))
            }
        }
    }

    fn check_since(&self, since: Generation, record: &VolumeRecord) -> Result<()> {
        if since > self.metadata.forest.building {
            return Err(Error::invalid(format!("there has been no generation {since} yet")));
        }
        if record.kind != VolumeKind::Snapshot && since < record.generation_of_birth {
            let birth = record.generation_of_birth;
            return Err(Error::invalid(format!("it was made in generation {birth}, after {since}")));
        }
        if record.in_place_since >= since {
            let message = format!(
                "what changed since generation {since} cannot be told any more: it became a clone, was rolled back, or \
                 a snapshot was deleted in generation {}; compare with a snapshot, or take all of it",
                record.in_place_since
            );
            return Err(Error::invalid(message));
        }
        Ok(())
    }

    pub(super) fn difference(&mut self, mut task: DifferenceTask) {
        match self.difference_of(&mut task) {
            Ok(difference) => {
                self.set_outcome(task.key, Outcome::Difference(difference));
                self.part_done(task.key, Ok(()));
            }
            Err(Fault::Missing(pointer)) => self.wait_for_page(pointer, Task::Difference(task)),
            Err(Fault::Failed(error)) => self.fail_task(Task::Difference(task), &error),
        }
    }

    fn difference_of(&self, task: &mut DifferenceTask) -> std::result::Result<Difference, Fault> {
        let record = self.metadata.volumes.active(task.volume)?;
        self.check_base(task.base, record)?;
        let mut ranges = Ranges { list: Vec::new(), from: task.offset_bytes, to: record.size_bytes };
        let mut progress = Progress::new(VirtualBlock::containing(task.offset_bytes), BUDGET);
        let forest = &self.metadata.forest;
        let visit = |differing| ranges.add(differing);
        let walked = match task.base {
            Base::Nothing => forest.difference((&None, &record.root), &mut progress, visit),
            Base::Volume(base) => {
                let base = self.metadata.volumes.active(base)?;
                forest.difference((&base.root, &record.root), &mut progress, visit)
            }
            Base::Generation(since) => forest.changed_since(&record.root, since, &mut progress, visit),
        };
        let next = progress.next.saturating_mul(BLOCK_BYTES).max(task.offset_bytes);
        match walked {
            // What was seen so far is an answer too.
            Err(Fault::Missing(_)) if !ranges.list.is_empty() => {}
            Err(fault) => {
                task.offset_bytes = next.min(record.size_bytes);
                return Err(fault);
            }
            Ok(()) => {}
        }
        let next_bytes = (next < record.size_bytes && !progress.is_done()).then_some(next);
        Ok(Difference { ranges: ranges.list, next_bytes })
    }
}

/// Ranges in order, neighbours of one kind joined, cut to what was asked for.
struct Ranges {
    list: Vec<DifferenceRange>,
    from: u64,
    to: u64,
}

impl Ranges {
    fn add(&mut self, Differing { first, blocks, changed, absent }: Differing) {
        let start = first.offset_bytes();
        if changed.is_full() || absent.is_full() {
            return self.add_range(
                start,
                start.saturating_add(blocks.saturating_mul(BLOCK_BYTES)),
                absent.is_full(),
            );
        }
        for block in 0..blocks {
            self.add_sectors(start + block * BLOCK_BYTES, changed, absent);
        }
    }

    fn add_sectors(&mut self, start: u64, changed: SectorMask, absent: SectorMask) {
        for sector in (0..SECTORS_PER_BLOCK).filter(|sector| changed.union(absent).has(*sector)) {
            let from = start + u64::from(sector) * SECTOR_BYTES;
            self.add_range(from, from + SECTOR_BYTES, absent.has(sector));
        }
    }

    fn add_range(&mut self, from: u64, to: u64, absent: bool) {
        let offset_bytes = from.max(self.from);
        let length_bytes = to.min(self.to).saturating_sub(offset_bytes);
        if length_bytes == 0 {
            return;
        }
        let ends_here = |last: &&mut DifferenceRange| {
            (last.offset_bytes + last.length_bytes, last.absent) == (offset_bytes, absent)
        };
        match self.list.last_mut().filter(ends_here) {
            Some(last) => last.length_bytes += length_bytes,
            None => self.list.push(DifferenceRange { offset_bytes, length_bytes, absent }),
        }
    }
}
