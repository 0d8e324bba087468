//! Data on its way into one block, and the delta that makes it visible once it is there.
//!
//! Owns jobs: their writes in flight, and the publishing (L2, L7, hazard 10). A job holds its sectors' locks until
//! it is published, and a pin on its block. Read next: `commit.rs`.

use super::operations::Pending;
use super::room::Room;
use super::stall::Shortage;
use super::write::{WriteTask, sector_offset_bytes};
use super::{Core, Side, Task, Then};
use crate::canary::{self, Canary};
use crate::error::{Error, ErrorKind, Place, Result};
use crate::format::{self, Delta};
use crate::metadata::Fault;
use crate::storage::{DiskError, Operation, Ticket};
use crate::units::{DataBlock, SECTOR_BYTES, SectorMask};
use bytes::Bytes;

/// Data being written into one block.
pub struct Job {
    /// The write it carries out; it is done anew if its place is gone when the data has been written.
    pub task: WriteTask,
    block: DataBlock,
    pieces: Vec<(u32, Bytes)>,
    /// Sectors that become visible.
    publish: SectorMask,
    /// What the delta states; only the canary for absolute masks makes it differ.
    stated: SectorMask,
    room: Option<Room>,
    /// The block was new and nobody's when the write began.
    fresh: bool,
    writes_left: usize,
    error: Option<Error>,
    /// For a collapse: what goes on afterwards.
    after: Option<Task>,
    published: bool,
}

impl Core {
    pub(super) fn start_in_place(&mut self, task: WriteTask, block: DataBlock) {
        self.start_job(task, block, SectorMask::EMPTY, None, false, None);
    }

    pub(super) fn start_fill(&mut self, task: WriteTask, block: DataBlock, publish: SectorMask, room: Room) {
        self.start_job(task, block, publish, Some(room), false, None);
    }

    pub(super) fn start_fresh(&mut self, task: WriteTask, block: DataBlock, publish: SectorMask, room: Room) {
        self.start_job(task, block, publish, Some(room), true, None);
    }

    pub(super) fn start_collapse(
        &mut self,
        task: WriteTask,
        block: DataBlock,
        publish: SectorMask,
        room: Room,
        after: Option<Task>,
    ) {
        self.start_job(task, block, publish, Some(room), false, after);
    }

    fn start_job(
        &mut self,
        task: WriteTask,
        block: DataBlock,
        publish: SectorMask,
        room: Option<Room>,
        fresh: bool,
        after: Option<Task>,
    ) {
        let id = self.next_job;
        self.next_job += 1;
        self.space.pin(block, task.volume);
        let pieces = task.pieces();
        for (first, bytes) in &pieces {
            let offset_bytes = sector_offset_bytes(block, *first);
            let operation = Operation::Write { offset_bytes, bytes: bytes.clone() };
            let ticket = self.submit_operation(Side::Data, operation, Pending::JobWrite(id));
            self.data_writes.insert(ticket);
        }
        let writes_left = pieces.len();
        let stated = self.stated_sectors(&task, block, publish);
        let mut job = Box::new(Job {
            task,
            block,
            pieces,
            publish,
            stated,
            room,
            fresh,
            writes_left,
            error: None,
            after,
            published: false,
        });
        if canary::broken(Canary::MaskBeforeData) && !publish.is_empty() {
            job.published = self.publish_early(&mut job);
        }
        self.jobs.insert(id, job);
    }

    /// The sectors that a delta states: those that it brings (L2). The canary states the whole mask as it is now.
    fn stated_sectors(&self, task: &WriteTask, block: DataBlock, publish: SectorMask) -> SectorMask {
        if !canary::broken(Canary::AbsoluteMask) || publish.is_empty() {
            return publish;
        }
        let root = self.metadata.volumes.get(task.volume).and_then(|record| record.root);
        let found = self.metadata.forest.lookup(&root, task.virtual_block);
        let mapping = found.ok().and_then(|found| found.mapping).filter(|m| m.upper.block == block);
        mapping.map_or(publish, |mapping| mapping.upper.mask.union(publish))
    }

    pub(super) fn job_write_done(
        &mut self,
        id: u64,
        ticket: Ticket,
        result: std::result::Result<(), DiskError>,
    ) {
        self.data_writes.remove(&ticket);
        self.commit.data_changed();
        let Some(job) = self.jobs.get_mut(&id) else { return };
        if let Err(cause) = result
            && !canary::broken(Canary::WriteErrorIgnored)
        {
            job.error = Some(cause.into_error("write").at(Place::Block(job.block)));
        } else if job.task.line.is_some() {
            self.note_room(Shortage::Host);
        }
        let Some(job) = self.jobs.get_mut(&id) else { return };
        job.writes_left -= 1;
        if job.writes_left == 0
            && let Some(job) = self.jobs.remove(&id)
        {
            let written = job.pieces.iter().fold(SectorMask::EMPTY, |all, (first, bytes)| {
                all.union(SectorMask::range(*first, (bytes.len() as u64 / SECTOR_BYTES) as u32))
            });
            self.note_written(job.block, written);
            self.written(job);
        }
        self.check_barriers();
    }

    /// The data of `job` is written. On a pool that failed meanwhile nobody knows whether it stays.
    fn written(&mut self, mut job: Box<Job>) {
        if let Err(error) = self.check_healthy() {
            job.error.get_or_insert(error);
        }
        self.publish(job);
    }

    /// The data of `job` is written: makes it visible, or gives the block back.
    pub(super) fn publish(&mut self, mut job: Box<Job>) {
        if let Some(error) = job.error.take() {
            let can_wait = error.kind() == ErrorKind::NoSpace && job.after.is_none() && !job.published;
            if can_wait && self.failure.is_none() {
                return self.wait_for_host(job);
            }
            return self.end_job(job, Err(error));
        }
        if job.publish.is_empty() || job.published {
            return self.end_job(job, Ok(()));
        }
        if let Err(error) =
            self.check_healthy().and_then(|()| self.metadata.volumes.active(job.task.volume).map(drop))
        {
            return self.end_job(job, Err(error));
        }
        match self.job_has_its_place(&job) {
            Ok(true) => {}
            Ok(false) => return self.redo(job),
            Err(Fault::Missing(pointer)) => return self.wait_for_page(pointer, Task::Publish(job)),
            Err(Fault::Failed(error)) => return self.end_job(job, Err(error)),
        }
        let delta = job.delta();
        match self.apply(&delta) {
            Ok(()) => self.published(job, delta),
            Err(Fault::Missing(pointer)) => self.wait_for_page(pointer, Task::Publish(job)),
            Err(Fault::Failed(error)) => self.end_job(job, Err(error)),
        }
    }

    /// Whether the block is still the one that the mapping names, or a new one that nothing names. It may not be:
    /// a snapshot was taken after the write began, another write went elsewhere, and the block is not this volume's
    /// any more.
    fn job_has_its_place(&self, job: &Job) -> std::result::Result<bool, Fault> {
        if job.fresh && self.locks.is_target(job.task.place(), job.block) {
            return Ok(true);
        }
        let root = self.metadata.volumes.get(job.task.volume).and_then(|record| record.root);
        let found = self.metadata.forest.lookup(&root, job.task.virtual_block)?;
        Ok(found.mapping.is_some_and(|mapping| mapping.blocks().any(|block| block == job.block)))
    }

    /// Writes the same bytes again, at a place that is decided anew.
    fn redo(&mut self, mut job: Box<Job>) {
        let task = self.take_back(&mut job);
        match job.after.take() {
            Some(after) => {
                self.unlock(task.place(), task.locked);
                self.collapse_goes_on(Some(after));
            }
            None => self.ready.push_back(Task::Write(task)),
        }
    }

    /// Gives back what `job` holds, but the locks of its write.
    pub(super) fn take_back(&mut self, job: &mut Job) -> WriteTask {
        if let Some(room) = job.room.take() {
            self.withdraw(room);
        }
        self.release_job_block(job);
        job.task.clone()
    }

    fn published(&mut self, mut job: Box<Job>, delta: Delta) {
        if let Some(room) = job.room.take() {
            self.settle(room);
        }
        self.locks.target_published(job.task.place(), job.block);
        let key = job.task.key;
        let then = match job.after.take() {
            Some(after) => Then::Run(after),
            None if canary::broken(Canary::AckBeforeLog) => {
                self.part_done(key, Ok(()));
                Then::Nothing
            }
            None => Then::Part(key),
        };
        self.append(delta, then);
        self.release_job_block(&job);
        self.unlock(job.task.place(), job.task.locked);
    }

    /// Applies `delta`, which will be the next in the log.
    pub(super) fn apply(&mut self, delta: &Delta) -> std::result::Result<(), Fault> {
        let is_counted = self.concerns_reservations(delta);
        if is_counted { self.apply_counted(delta) } else { self.metadata.apply(delta) }?;
        self.usage.note(delta);
        Ok(())
    }

    /// Queues an applied delta, and notes what it freed, published and made exclusive.
    pub(super) fn append(&mut self, delta: Delta, then: Then) {
        if self.is_proven() {
            self.unproven_since_ms = self.now_ms;
        }
        if let Delta::Publish { data_block, sectors, .. } = &delta {
            self.unproven.publish(self.commit.next_number(), *data_block, *sectors);
            self.punch.sectors.mapped(*data_block, *sectors);
        }
        let number = self.commit.push(delta, then);
        self.take_events(number);
    }

    fn end_job(&mut self, mut job: Box<Job>, result: Result<()>) {
        if let Some(room) = job.room.take() {
            self.withdraw(room);
        }
        self.release_job_block(&job);
        match (job.after.take(), result) {
            (Some(after), Err(error)) => {
                self.unlock(job.task.place(), job.task.locked);
                self.fail_task(after, &error);
            }
            (_, result) => self.write_done(job.task, result),
        }
    }

    pub(super) fn fail_job(&mut self, job: Box<Job>, error: &Error) {
        self.end_job(job, Err(error.clone()));
    }

    fn release_job_block(&mut self, job: &Job) {
        let nobodys = job.fresh && self.locks.leave_target(job.task.place(), job.block);
        if nobodys {
            self.space.give_back(job.block);
            self.note_given_back(job.task.volume);
        }
        self.unpin(job.block, job.task.volume);
    }

    /// The canary for hazard 10.
    fn publish_early(&mut self, job: &mut Job) -> bool {
        if self.apply(&job.delta()).is_err() {
            return false;
        }
        if let Some(room) = job.room.take() {
            self.settle(room);
        }
        self.locks.target_published(job.task.place(), job.block);
        self.append(job.delta(), Then::Nothing);
        true
    }
}

impl Job {
    /// Whether it writes over what was there already, and brings nothing new.
    pub(super) fn is_overwrite(&self) -> bool {
        !self.fresh && self.publish.is_empty()
    }

    fn delta(&self) -> Delta {
        Delta::Publish {
            volume: self.task.volume,
            virtual_block: self.task.virtual_block,
            data_block: self.block,
            sectors: self.stated,
            crc: format::crc32_of_parts(self.published_parts()),
        }
    }

    /// The bytes of the sectors that become visible, in order.
    fn published_parts(&self) -> impl Iterator<Item = &[u8]> {
        self.pieces.iter().flat_map(|(first, bytes)| {
            let sectors = bytes.chunks(SECTOR_BYTES as usize).zip(*first..);
            sectors.filter(|(_, sector)| self.publish.has(*sector)).map(|(bytes, _)| bytes)
        })
    }
}
