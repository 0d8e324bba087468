//! Operations in flight: what each was for, and what its completion sets off.
//!
//! Owns the table from ticket to purpose. The effects are in the files of those who submitted them.

use super::{Core, Side, Task};
use crate::canary::{self, Canary};
use crate::error::{Error, Place};
use crate::format::Pointer;
use crate::storage::{Buffer, Completion, DiskError, Operation, Ticket};
use crate::units::{DataBlock, PAGE_BYTES, PageNumber, Sequence};

/// What an operation in flight is for.
pub enum Pending {
    /// A piece of a read: request and piece.
    ReadPiece(super::Key, usize),
    /// A piece of what a write has to read first.
    Gather(u64, usize),
    /// Data of a job.
    JobWrite(u64),
    /// A log record.
    Record(Sequence),
    /// The sync of the data file.
    DataSync,
    /// A metadata page that tasks wait for.
    PageLoad(PageNumber),
    /// A page of the running checkpoint.
    CheckpointPage,
    /// The sync of the checkpoint's pages.
    CheckpointSync,
    /// The root slot.
    Slot,
    /// The sync of the root slot.
    SlotSync,
    /// A slab being allocated.
    Slab(DataBlock, u64),
    /// Zeros into free blocks.
    WriteAhead,
    /// Free blocks being given back to the host; the flag says whether for a trim.
    Punch(DataBlock, u64, bool),
    /// Discarded sectors being given back to the host.
    SectorPunch,
    /// The metadata file being extended.
    Growth,
    /// The sync of the growth.
    GrowthSync,
    /// The end of a larger pool being allocated: for whom, and how many blocks it will have.
    Extension(super::Key, u64),
}

/// A page on its way into memory, and who waits for it.
pub struct PageLoad {
    pointer: Pointer,
    second_copy: bool,
    tasks: Vec<Task>,
    /// When the first of them came upon it, by the clock of the cache.
    pub(super) since: u64,
}

impl Core {
    pub(super) fn submit_operation(&mut self, side: Side, operation: Operation, pending: Pending) -> Ticket {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.pending.insert(ticket, pending);
        self.outbox.push_back((side, ticket, operation));
        ticket
    }

    /// Takes the completion of an operation that [`Core::next_operation`] gave out. Call [`Core::turn`] afterwards.
    pub fn complete(&mut self, completion: Completion) {
        let Some(pending) = self.pending.remove(&completion.ticket) else { return };
        let result = completion.result;
        let own = self.put_refused_aside(completion.ticket, pending, completion.operation, result);
        let Some((pending, operation)) = own else { return };
        let buffer = match operation {
            Operation::Read { buffer, .. } => Some(buffer),
            _ => None,
        };
        match pending {
            Pending::ReadPiece(key, piece) => self.read_piece_done(key, piece, buffer, result),
            Pending::Gather(gather, piece) => self.gather_piece_done(gather, piece, buffer, result),
            Pending::JobWrite(job) => self.job_write_done(job, completion.ticket, result),
            Pending::Record(sequence) => self.record_done(sequence, result),
            Pending::DataSync => self.data_sync_done(result),
            Pending::PageLoad(page) => self.page_load_done(page, buffer, result),
            Pending::CheckpointPage => self.checkpoint_page_done(result),
            Pending::CheckpointSync => self.checkpoint_pages_synced(result),
            Pending::Slot => self.slot_written(result),
            Pending::SlotSync => self.slot_synced(result),
            Pending::Slab(first, blocks) => self.slab_allocated(first, blocks, result),
            Pending::WriteAhead => self.write_ahead_done(result),
            Pending::Punch(first, blocks, for_trim) => self.punch_done(first, blocks, for_trim, result),
            Pending::SectorPunch => self.sector_punch_done(result),
            Pending::Growth => self.growth_allocated(result),
            Pending::GrowthSync => self.growth_synced(result),
            Pending::Extension(key, blocks) => self.extension_allocated(key, blocks, result),
        }
    }

    fn record_done(&mut self, sequence: Sequence, result: Result<(), DiskError>) {
        match result {
            Ok(()) => {
                for then in self.commit.record_written(sequence) {
                    self.happen(then);
                }
            }
            Err(cause) => self.fail(cause.into_error("log write").at(Place::Record(sequence))),
        }
    }

    fn data_sync_done(&mut self, result: Result<(), DiskError>) {
        let result = if canary::broken(Canary::FailedSyncIgnored) { Ok(()) } else { result };
        match result {
            Ok(()) => {
                self.syncing.clear();
                self.note_sync();
                for then in self.commit.sync_completed() {
                    self.happen(then);
                }
            }
            Err(cause) => {
                for (block, sectors) in self.syncing.drain().chain(self.unsynced.drain()) {
                    let lost = self.lost.entry(block).or_default();
                    *lost = lost.union(sectors);
                }
                self.fail(cause.into_error("sync of the data file"));
            }
        }
    }

    /// Puts `task` aside until the page that `pointer` names is in memory.
    pub(super) fn wait_for_page(&mut self, pointer: Pointer, task: Task) {
        if let Some(load) = self.page_loads.get_mut(&pointer.page) {
            load.tasks.push(task);
            return;
        }
        self.load_page(pointer, vec![task]);
    }

    /// Has a page read that will be needed soon, unless it is in memory or on its way.
    pub(super) fn load_ahead(&mut self, pointer: &Pointer) {
        let is_resident = self.metadata.forest.cache.get(pointer.page).is_some();
        if !is_resident && !self.page_loads.contains_key(&pointer.page) {
            self.load_page(*pointer, Vec::new());
        }
    }

    fn load_page(&mut self, pointer: Pointer, tasks: Vec<Task>) {
        let since = self.metadata.forest.cache.clock();
        self.page_loads.insert(pointer.page, PageLoad { pointer, second_copy: false, tasks, since });
        self.metadata.forest.pages.pin(pointer.page);
        self.read_page(pointer.page, pointer.page);
    }

    fn read_page(&mut self, page: PageNumber, copy: PageNumber) {
        let read = Operation::Read { offset_bytes: copy.offset_bytes(), buffer: Buffer::zeroed(PAGE_BYTES) };
        self.submit_operation(Side::Metadata, read, Pending::PageLoad(page));
    }

    fn page_load_done(&mut self, page: PageNumber, buffer: Option<Buffer>, result: Result<(), DiskError>) {
        let Some(mut load) = self.page_loads.remove(&page) else { return };
        let loaded = match (result, buffer) {
            (Ok(()), Some(bytes)) => self.metadata.forest.insert_loaded(&load.pointer, &bytes),
            (Err(cause), _) => Err(cause.into_error("read").at(Place::Page(page))),
            (Ok(()), None) => Err(Error::damaged("a page read gave no bytes").at(Place::Page(page))),
        };
        match (loaded, load.pointer.copy.filter(|_| !load.second_copy)) {
            (Ok(()), _) => self.ready.extend(load.tasks),
            (Err(_), Some(copy)) => {
                load.second_copy = true;
                self.page_loads.insert(page, load);
                return self.read_page(page, copy);
            }
            (Err(error), None) => load.tasks.into_iter().for_each(|task| self.fail_task(task, &error)),
        }
        self.metadata.forest.pages.unpin(page);
    }

    pub(super) fn pin_for_read(&mut self, block: DataBlock, volume: crate::units::VolumeId) {
        if !canary::broken(Canary::NoReadPins) {
            self.space.pin(block, volume);
        }
    }

    pub(super) fn unpin_for_read(&mut self, block: DataBlock, volume: crate::units::VolumeId) {
        if !canary::broken(Canary::NoReadPins) {
            self.unpin(block, volume);
        }
    }

    /// Takes a pin away. Whoever waits for a block of former owners tries again.
    pub(super) fn unpin(&mut self, block: DataBlock, volume: crate::units::VolumeId) {
        self.space.unpin(block, volume);
        self.ready.append(&mut self.waiting_for_pins);
    }
}
