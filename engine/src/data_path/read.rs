//! Reads: one look at the mappings of the whole range, then disk reads that run side by side.
//!
//! Owns reads in flight and their pieces. A block that is being read is pinned, so it is not given to anybody else
//! meanwhile (hazards 3 and 8).

use super::gather::lost_error;
use super::operations::Pending;
use super::write::sector_offset_bytes;
use super::{Core, Key, Side, Task};
use crate::error::{Error, ErrorKind, Place};
use crate::format::{Layer, Mapping};
use crate::metadata::Fault;
use crate::request::{Outcome, Segment};
use crate::storage::{Buffer, DiskError, Operation};
use crate::units::{BLOCK_BYTES, DataBlock, SECTOR_BYTES, SectorMask, VirtualBlock, VolumeId};
use bytes::Bytes;
use std::ops::ControlFlow;

/// A read of one range.
pub struct ReadTask {
    pub key: Key,
    pub volume: VolumeId,
    pub offset_bytes: u64,
    pub length_bytes: u64,
}

/// A read whose pieces are in flight.
pub struct OpenRead {
    volume: VolumeId,
    /// The range that was asked for, in bytes of the volume; pieces are whole sectors.
    from: u64,
    to: u64,
    pieces: Vec<Piece>,
    left: usize,
    error: Option<Error>,
}

/// Whole sectors of the range that stand side by side on disk, or read as zeros.
struct Piece {
    /// Where it starts in the volume, in bytes.
    from: u64,
    length_bytes: u64,
    /// Where it starts in the data file, in bytes; none for zeros.
    source: Option<u64>,
    bytes: Option<Bytes>,
}

impl Piece {
    fn blocks(&self) -> impl Iterator<Item = DataBlock> + use<> {
        let range =
            self.source.map(|from| from / BLOCK_BYTES..(from + self.length_bytes).div_ceil(BLOCK_BYTES));
        range.into_iter().flatten().map(DataBlock)
    }
}

impl Core {
    pub(super) fn read(&mut self, task: ReadTask) {
        if task.length_bytes == 0 {
            self.set_outcome(task.key, Outcome::Data(Vec::new()));
            return self.part_done(task.key, Ok(()));
        }
        let pieces = match self.pieces_of(&task) {
            Ok(pieces) => pieces,
            Err(Fault::Missing(pointer)) => return self.wait_for_page(pointer, Task::Read(task)),
            Err(Fault::Failed(error)) => return self.fail_task(Task::Read(task), &error),
        };
        let to = task.offset_bytes + task.length_bytes;
        let read =
            OpenRead { volume: task.volume, from: task.offset_bytes, to, left: 0, pieces, error: None };
        self.start_read(task, read);
    }

    fn start_read(&mut self, task: ReadTask, mut read: OpenRead) {
        for (index, piece) in read.pieces.iter().enumerate() {
            let Some(offset_bytes) = piece.source else { continue };
            piece.blocks().for_each(|block| self.pin_for_read(block, task.volume));
            let buffer = Buffer::zeroed(piece.length_bytes as usize);
            self.submit_operation(
                Side::Data,
                Operation::Read { offset_bytes, buffer },
                Pending::ReadPiece(task.key, index),
            );
            read.left += 1;
        }
        let done = read.left == 0;
        self.reads.insert(task.key, read);
        if done {
            self.finish_read(task.key);
        }
    }

    /// The whole range as pieces of whole sectors, neighbours joined.
    fn pieces_of(&self, task: &ReadTask) -> Result<Vec<Piece>, Fault> {
        let record = self.metadata.volumes.active(task.volume)?;
        let end = task.offset_bytes + task.length_bytes;
        self.check_still_there(record, end)?;
        let first = VirtualBlock::containing(task.offset_bytes);
        let last = VirtualBlock::containing(end - 1);
        let range =
            (task.offset_bytes - task.offset_bytes % SECTOR_BYTES, end.next_multiple_of(SECTOR_BYTES));
        let mut pieces = Pieces { list: Vec::new(), position: range.0, end: range.1 };
        let mut lost = None;
        self.metadata.forest.mappings(&record.root, first, last, |block, mapping| {
            pieces.add_mapping(block, &mapping);
            lost = lost_in_range(block, &mapping, range);
            if lost.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        if let Some((from, length_bytes)) = lost {
            return Err(lost_range_error(Place::Range(task.volume, from, length_bytes)).into());
        }
        pieces.add_zeros(range.1);
        Ok(pieces.list)
    }

    pub(super) fn read_piece_done(
        &mut self,
        key: Key,
        index: usize,
        buffer: Option<Buffer>,
        result: Result<(), DiskError>,
    ) {
        let Some(read) = self.reads.get_mut(&key) else { return };
        let piece = &mut read.pieces[index];
        let place = Place::Range(read.volume, piece.from, piece.length_bytes);
        match (result, buffer) {
            (Ok(()), Some(buffer)) => piece.bytes = Some(buffer.freeze()),
            (Err(cause), _) => read.error = Some(cause.into_error("read").at(place)),
            (Ok(()), None) => read.error = Some(Error::new(ErrorKind::Io, "a read gave no bytes").at(place)),
        }
        read.left -= 1;
        let (volume, done) = (read.volume, read.left == 0);
        let blocks: Vec<DataBlock> = piece.blocks().collect();
        let source = piece.source.unwrap_or(0);
        let sectors = sectors_in(source, piece.length_bytes);
        for block in blocks {
            if self.is_lost(block, sectors(block))
                && let Some(read) = self.reads.get_mut(&key)
            {
                read.error = Some(lost_error(block));
            }
            self.unpin_for_read(block, volume);
        }
        if done {
            self.finish_read(key);
        }
    }

    fn finish_read(&mut self, key: Key) {
        let Some(read) = self.reads.remove(&key) else { return };
        if let Some(error) = read.error {
            return self.part_done(key, Err(error));
        }
        let segments = read.pieces.into_iter().map(|piece| trimmed(piece, read.from, read.to)).collect();
        self.set_outcome(key, Outcome::Data(segments));
        self.part_done(key, Ok(()));
    }
}

/// The part of a piece that lies in `from..to` of its volume.
fn trimmed(piece: Piece, from: u64, to: u64) -> Segment {
    let skip = from.saturating_sub(piece.from);
    let length = (piece.from + piece.length_bytes).min(to) - piece.from - skip;
    match piece.bytes {
        Some(bytes) => Segment::Bytes(bytes.slice(skip as usize..(skip + length) as usize)),
        None => Segment::Zeros(length),
    }
}

/// Which sectors of a block a range of the data file touches.
fn sectors_in(source: u64, length_bytes: u64) -> impl Fn(DataBlock) -> SectorMask {
    move |block| {
        let start = block.offset_bytes();
        let first = source.max(start) - start;
        let end = (source + length_bytes).min(start + BLOCK_BYTES) - start;
        SectorMask::range((first / SECTOR_BYTES) as u32, ((end - first) / SECTOR_BYTES) as u32)
    }
}

/// The first lost sectors of a block that lie in a range of the volume: where they start and how many bytes they are.
fn lost_in_range(block: VirtualBlock, mapping: &Mapping, (from, to): (u64, u64)) -> Option<(u64, u64)> {
    mapping.lost().runs().find_map(|(first, count)| {
        let start = block.offset_bytes() + u64::from(first) * SECTOR_BYTES;
        let end = start + u64::from(count) * SECTOR_BYTES;
        (start < to && from < end).then(|| (start.max(from), end.min(to) - start.max(from)))
    })
}

/// A range that a repair could not save.
pub(super) fn lost_range_error(place: Place) -> Error {
    let message = "what was here is lost; write or discard it, and it can be read again";
    Error::damaged(message).at(place)
}

/// The runs of sectors of both layers, in order: first sector, sectors, block.
pub(super) fn runs_of(mapping: &Mapping) -> Vec<(u32, u32, DataBlock)> {
    let runs = |layer: Layer| layer.mask.runs().map(move |(first, count)| (first, count, layer.block));
    let mut all: Vec<_> = runs(mapping.upper).collect();
    if let Some(lower) = mapping.lower {
        all.extend(runs(lower));
        all.sort_unstable();
    }
    all
}

/// Builds pieces in order of the volume.
struct Pieces {
    list: Vec<Piece>,
    /// Everything before is in the list.
    position: u64,
    end: u64,
}

impl Pieces {
    fn add_mapping(&mut self, block: VirtualBlock, mapping: &Mapping) {
        for (first, count, source) in runs_of(mapping) {
            let start = block.offset_bytes() + u64::from(first) * SECTOR_BYTES;
            let from = start.max(self.position);
            let to = (start + u64::from(count) * SECTOR_BYTES).min(self.end);
            if from < to {
                self.add_zeros(from);
                let source = sector_offset_bytes(source, first) + (from - start);
                self.add(from, to, Some(source));
            }
        }
    }

    fn add_zeros(&mut self, to: u64) {
        if self.position < to {
            self.add(self.position, to, None);
        }
    }

    fn add(&mut self, from: u64, to: u64, source: Option<u64>) {
        self.position = to;
        let joins = |last: &Piece| match (last.source, source) {
            (None, None) => true,
            (Some(last_source), Some(source)) => last_source + last.length_bytes == source,
            _ => false,
        };
        match self.list.last_mut().filter(|last| joins(last)) {
            Some(last) => last.length_bytes += to - from,
            None => self.list.push(Piece { from, length_bytes: to - from, source, bytes: None }),
        }
    }
}
