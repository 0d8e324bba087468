//! One round: some blocks move, and both root slots say so.
//!
//! Owns which block goes where, and how many at a time: as many as the metadata file has pages for. Nothing is changed
//! on disk but blocks that nothing names, until the checkpoint names them.

use super::{Shrink, copy};
use crate::canary::{self, Canary};
use crate::error::{Error, ErrorKind, Result};
use crate::format::Extent;
use crate::metadata::load::load_page;
use crate::metadata::tree::Moves;
use crate::metadata::{Fault, Metadata};
use crate::units::{DataBlock, Generation, PAGE_BYTES, VolumeId};

/// Blocks that move, each with its place, both rising.
pub(super) type Pairs = Vec<(DataBlock, DataBlock)>;

/// How many of some blocks have to move in one round.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Least {
    One,
    All,
}

/// Mappings that change in one round at most, about: each may lie in a page of its own.
const ROUND_REFERENCES_MAX: u64 = 64 * 1024;
/// Memory for mapping pages that are not changed, in bytes.
const CACHE_BYTES: usize = 64 << 20;
/// Extents that a log may have so that it fits in a root slot.
const LOG_EXTENTS_MAX: usize = 4;

impl Shrink<'_, '_> {
    /// Moves the part of the log that is behind the new end, to neighbouring blocks. The log is empty; its heads move
    /// with its first block.
    pub(super) fn move_log(&mut self) -> Result<()> {
        let blocks = log_blocks(&self.state.slot.log);
        let behind: Vec<DataBlock> =
            blocks.iter().copied().filter(|block| block.0 >= self.to_blocks).collect();
        if behind.is_empty() {
            return Ok(());
        }
        let first = self.free_run(behind.len() as u64)?;
        self.put_log(behind.into_iter().zip((first..).map(DataBlock)).collect())
    }

    /// Moves blocks of the log.
    pub(super) fn put_log(&mut self, pairs: Pairs) -> Result<()> {
        let blocks = log_blocks(&self.state.slot.log);
        let place = |block| pairs.iter().find(|(from, _)| *from == block).map_or(block, |(_, to)| *to);
        let log = extents(blocks.into_iter().map(place));
        if log.len() > LOG_EXTENTS_MAX.max(self.state.slot.log.len()) {
            let message = "the log would lie in too many pieces; a larger size leaves it where it is";
            return Err(Error::new(ErrorKind::NoSpace, message));
        }
        self.state.slot.log = log;
        // The slot names all of it at once.
        self.move_blocks(pairs, Least::All)
    }

    /// The first of so many free blocks in a row before the new end.
    fn free_run(&self, length: u64) -> Result<u64> {
        let counts = &self.state.forest.data_counts;
        let mut first = counts.first_zero(0);
        while let Some(from) = first {
            let end = counts.first_in_use(from).unwrap_or(counts.len()).min(self.to_blocks);
            if from + length <= end {
                return Ok(from);
            }
            first = counts.first_zero(end).filter(|next| *next < self.to_blocks);
        }
        let message =
            format!("the log needs {length} free blocks in a row before the new end; give a larger size");
        Err(Error::new(ErrorKind::NoSpace, message))
    }

    /// Moves some of what is behind the new end. Whether there was anything.
    pub(super) fn move_some(&mut self) -> Result<bool> {
        let pairs = self.next_pairs()?;
        let any = !pairs.is_empty();
        if any {
            self.move_blocks(pairs, Least::One)?;
        }
        Ok(any)
    }

    /// The lowest blocks behind the new end, each with the lowest free block: what follows one another stays so.
    fn next_pairs(&self) -> Result<Pairs> {
        let counts = &self.state.forest.data_counts;
        let mut pairs = Pairs::new();
        let (mut from, mut to, mut references) = (self.to_blocks, 0, 0);
        while let Some(block) = counts.first_in_use(from) {
            references += u64::from(counts.get(block));
            if pairs.len() as u64 >= self.round_blocks
                || references > ROUND_REFERENCES_MAX && !pairs.is_empty()
            {
                break;
            }
            let place = counts.first_zero(to).filter(|place| *place < self.to_blocks);
            let place = place.ok_or_else(|| Error::damaged("counts of blocks say less than is in use"))?;
            pairs.push((DataBlock(block), DataBlock(place)));
            (from, to) = (block + 1, place + 1);
        }
        Ok(pairs)
    }

    /// Moves as many of `pairs` as there are pages for, or fails.
    fn move_blocks(&mut self, mut pairs: Pairs, least: Least) -> Result<()> {
        let mut moves = self.survey(&pairs)?;
        while let Err(error) = self.make_room(moves.page_numbers()) {
            if error.kind() != ErrorKind::NoSpace || pairs.len() < 2 || least == Least::All {
                return Err(error);
            }
            pairs.truncate(pairs.len() / 2);
            moves = self.survey(&pairs)?;
        }
        let Self { files, progress, report_progress, .. } = self;
        let before = progress.blocks_done;
        copy::copy(files, &pairs, &moves, &mut |copied| {
            progress.blocks_done = before + copied;
            report_progress(*progress);
        })?;
        if !canary::broken(Canary::MovedUnsynced) {
            self.files.data.sync()?;
        }
        self.follow(&mut moves)?;
        self.state.forest.count_moves(moves)?;
        self.write_both_slots(0)
    }

    fn survey(&mut self, pairs: &[(DataBlock, DataBlock)]) -> Result<Moves> {
        let mut moves = Moves::new(pairs.iter().copied());
        for volume in self.volumes() {
            let root = self.state.volumes.get(volume).and_then(|record| record.root);
            self.with_pages(|state| state.forest.survey_moves(&root, &mut moves))?;
        }
        Ok(moves)
    }

    fn follow(&mut self, moves: &mut Moves) -> Result<()> {
        for volume in self.volumes() {
            let mut root = self.state.volumes.get(volume).and_then(|record| record.root);
            if self.with_pages(|state| state.forest.follow_moves(volume, &mut root, moves))? {
                self.state.volumes.change(volume)?.root = root;
            }
        }
        Ok(())
    }

    /// All volumes: hidden ones, partial ones, and those that are being deleted.
    fn volumes(&self) -> Vec<VolumeId> {
        self.state.volumes.iter().map(|record| record.id).collect()
    }

    /// Does something that may need pages in memory, and reads these.
    fn with_pages<T>(
        &mut self,
        mut action: impl FnMut(&mut Metadata) -> std::result::Result<T, Fault>,
    ) -> Result<T> {
        loop {
            match action(&mut self.state) {
                Ok(value) => return Ok(value),
                Err(Fault::Missing(pointer)) => load_page(&mut self.files, &mut self.state, &pointer)?,
                Err(Fault::Failed(error)) => return Err(error),
            }
            let forest = &mut self.state.forest;
            let newest = Generation(forest.building.0.saturating_sub(1));
            forest.cache.tick();
            forest.bound_cache(CACHE_BYTES, newest, forest.cache.clock());
        }
    }

    /// Makes sure of so many pages, and of those of two checkpoints.
    pub(super) fn make_room(&mut self, page_numbers: u64) -> Result<()> {
        let page_bytes = PAGE_BYTES as u64;
        let (state, files) = (&mut self.state, &mut self.files);
        // Every record may change.
        let records = state.volumes.iter().count() as u64;
        let needed = page_numbers + 2 * (state.checkpoint_pages_at_most() as u64 + 2 * records);
        let free = state.forest.pages.free_pages();
        if free >= needed {
            return Ok(());
        }
        let now = state.forest.page_counts.len();
        // Counts of the new pages take pages themselves.
        let more = needed - free + (needed - free) / 256 + 16;
        files.metadata.allocate(now * page_bytes, more * page_bytes).map_err(|error| match error.kind() {
            ErrorKind::NoSpace => no_pages(),
            _ => error,
        })?;
        files.metadata.sync()?;
        state.forest.grow_pages(now + more);
        Ok(())
    }
}

fn no_pages() -> Error {
    let message = "the metadata file cannot take the pages that moving blocks needs: enlarge its device, or free space on its file system";
    Error::new(ErrorKind::NoSpace, message)
}

/// The blocks of the log, in order.
fn log_blocks(log: &[Extent]) -> Vec<DataBlock> {
    log.iter().flat_map(|extent| (0..extent.blocks).map(|index| DataBlock(extent.first.0 + index))).collect()
}

/// The same blocks as extents.
fn extents(blocks: impl Iterator<Item = DataBlock>) -> Vec<Extent> {
    let mut extents: Vec<Extent> = Vec::new();
    for block in blocks {
        match extents.last_mut() {
            Some(last) if last.first.0 + last.blocks == block.0 => last.blocks += 1,
            _ => extents.push(Extent { first: block, blocks: 1 }),
        }
    }
    extents
}
