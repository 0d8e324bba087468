//! Reads what a write needs before it can be placed: the rest of a sector, or a layer that is copied.
//!
//! Owns block images under construction. The sectors that are read and those that will be written are locked, so
//! nothing changes under the image. Read next: `job.rs`.

use super::operations::Pending;
use super::room::Room;
use super::write::{WriteTask, sector_offset_bytes};
use super::{Core, Side, Task};
use crate::error::{Error, ErrorKind, Place};
use crate::format::Mapping;
use crate::metadata::Found;
use crate::storage::{Buffer, DiskError, Operation};
use crate::units::{BLOCK_BYTES, DataBlock, SECTOR_BYTES, SECTORS_PER_BLOCK, SectorMask, VolumeId};

/// What the image is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum GatherKind {
    /// Whole sectors out of parts of sectors; then the write is decided anew.
    Merge,
    /// A new top layer that takes in what the write does not touch.
    Copy,
    /// The smaller of two owned layers, on its way into the larger.
    Collapse(DataBlock),
}

/// A block image, its reads in flight.
pub struct Gather {
    pub task: WriteTask,
    pub kind: GatherKind,
    image: Buffer,
    /// Sectors of the image that are read from disk.
    read: SectorMask,
    pieces: Vec<Piece>,
    pieces_left: usize,
    error: Option<Error>,
    /// For a collapse: what goes on afterwards.
    pub after: Option<Task>,
}

struct Piece {
    block: DataBlock,
    first: u32,
}

impl Core {
    /// Reads `wanted` sectors, as far as they are mapped, into an image for `task`.
    pub(super) fn gather(&mut self, task: WriteTask, found: &Found, wanted: SectorMask, kind: GatherKind) {
        self.gather_then(task, found, wanted, kind, None);
    }

    pub(super) fn gather_then(
        &mut self,
        task: WriteTask,
        found: &Found,
        wanted: SectorMask,
        kind: GatherKind,
        after: Option<Task>,
    ) {
        let volume = task.volume;
        let runs = runs_of(found.mapping, wanted);
        let read = runs
            .iter()
            .fold(SectorMask::EMPTY, |all, (_, first, count)| all.union(SectorMask::range(*first, *count)));
        let id = self.next_job;
        self.next_job += 1;
        let pieces: Vec<Piece> =
            runs.iter().map(|(block, first, _)| Piece { block: *block, first: *first }).collect();
        let image = Buffer::zeroed(BLOCK_BYTES as usize);
        let pieces_left = pieces.len();
        self.gathers.insert(id, Gather { task, kind, image, read, pieces, pieces_left, error: None, after });
        for (index, (block, first, count)) in runs.into_iter().enumerate() {
            self.pin_for_read(block, volume);
            let buffer = Buffer::zeroed(count as usize * SECTOR_BYTES as usize);
            let operation = Operation::Read { offset_bytes: sector_offset_bytes(block, first), buffer };
            self.submit_operation(Side::Data, operation, Pending::Gather(id, index));
        }
        if pieces_left == 0 {
            self.gathered(id);
        }
    }

    pub(super) fn gather_piece_done(
        &mut self,
        id: u64,
        index: usize,
        buffer: Option<Buffer>,
        result: Result<(), DiskError>,
    ) {
        let Some(gather) = self.gathers.get_mut(&id) else { return };
        let (block, first, volume) =
            (gather.pieces[index].block, gather.pieces[index].first, gather.task.volume);
        match (result, buffer) {
            (Ok(()), Some(bytes)) => {
                let at = first as usize * SECTOR_BYTES as usize;
                gather.image[at..at + bytes.len()].copy_from_slice(&bytes);
            }
            (Err(cause), _) => gather.error = Some(cause.into_error("read").at(Place::Block(block))),
            (Ok(()), None) => gather.error = Some(Error::new(ErrorKind::Io, "a read gave no bytes")),
        }
        let sectors = gather.read;
        gather.pieces_left -= 1;
        if self.is_lost(block, sectors)
            && let Some(gather) = self.gathers.get_mut(&id)
        {
            gather.error = Some(lost_error(block));
        }
        self.unpin_for_read(block, volume);
        if self.gathers.get(&id).is_some_and(|gather| gather.pieces_left == 0) {
            self.gathered(id);
        }
    }

    fn gathered(&mut self, id: u64) {
        let Some(mut gather) = self.gathers.remove(&id) else { return };
        if let Err(error) = self.check_healthy() {
            gather.error.get_or_insert(error);
        }
        if let Some(error) = gather.error {
            return match gather.after {
                Some(after) => {
                    self.unlock(gather.task.place(), gather.task.locked);
                    self.fail_task(after, &error);
                }
                None => self.fail_task(Task::Write(gather.task), &error),
            };
        }
        match gather.kind {
            GatherKind::Merge => self.merged(gather),
            GatherKind::Copy => self.copied(gather),
            GatherKind::Collapse(into) => {
                self.collapse_gathered(gather.task, into, gather.image, gather.after)
            }
        }
    }

    fn merged(&mut self, gather: Gather) {
        let mut task = gather.task;
        task.merged = Some(overlay(gather.image, &task).freeze());
        self.ready.push_back(Task::Write(task));
    }

    /// The image is the new top layer: what was read and what is written.
    fn copied(&mut self, gather: Gather) {
        let mut task = gather.task;
        let sectors = gather.read.union(task.sectors());
        let record = match self.metadata.volumes.active(task.volume) {
            Ok(record) => record,
            Err(error) => return self.fail_task(Task::Write(task), &error),
        };
        let needed = Room::for_mapping(&self.metadata.forest, record);
        let image = overlay(gather.image, &task).freeze();
        task.copied = Some((sectors, image));
        self.write_fresh(task, sectors, needed);
    }
}

/// The runs of neighbouring sectors that `wanted` has in each layer: block, first sector, sectors.
fn runs_of(mapping: Option<Mapping>, wanted: SectorMask) -> Vec<(DataBlock, u32, u32)> {
    let Some(mapping) = mapping else { return Vec::new() };
    let layers = std::iter::once(mapping.upper).chain(mapping.lower);
    let runs = layers.flat_map(|layer| {
        layer
            .mask
            .intersection(wanted)
            .runs()
            .map(move |(first, count)| (layer.block, first, count))
            .collect::<Vec<_>>()
    });
    runs.collect()
}

fn overlay(mut image: Buffer, task: &WriteTask) -> Buffer {
    if let Some(merged) = &task.merged {
        for (first, count) in task.sectors().runs() {
            let bytes =
                first as usize * SECTOR_BYTES as usize..(first + count) as usize * SECTOR_BYTES as usize;
            image[bytes.clone()].copy_from_slice(&merged[bytes]);
        }
        return image;
    }
    let from = task.offset_bytes as usize;
    image[from..from + task.bytes.len()].copy_from_slice(&task.bytes);
    image
}

/// A sector whose write a failed sync may have lost.
pub fn lost_error(block: DataBlock) -> Error {
    Error::new(ErrorKind::Io, "a failed sync may have lost what was written here").at(Place::Block(block))
}

impl Core {
    /// Whether a failed sync may have lost one of these sectors.
    pub(super) fn is_lost(&self, block: DataBlock, sectors: SectorMask) -> bool {
        self.lost.get(&block).is_some_and(|lost| lost.overlaps(sectors))
    }

    pub(super) fn note_written(&mut self, block: DataBlock, sectors: SectorMask) {
        let failed = self.failure.is_some();
        let noted = if failed { &mut self.lost } else { &mut self.unsynced }.entry(block).or_default();
        *noted = noted.union(sectors);
    }
}

/// A task that stands for a whole block of a volume, for locking and reading.
pub fn whole_block(key: super::Key, volume: VolumeId, block: crate::units::VirtualBlock) -> WriteTask {
    let mut task = WriteTask::new(key, volume, block.offset_bytes(), bytes::Bytes::new(), false);
    task.locked = SectorMask::range(0, SECTORS_PER_BLOCK);
    task
}
