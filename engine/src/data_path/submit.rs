//! Takes requests: checks them, cuts them at block boundaries, and answers them when all parts are done.
//!
//! Owns open requests and their parts. What a part does is `read.rs`, `write.rs`, `unmap.rs`, `control.rs`.

use super::{Core, Key, OpenRequest, Task, Then, control, extents, read, unmap, write};
use crate::error::{Error, ErrorKind, Place, Result};
use crate::format::{VolumeKind, VolumeRecord};
use crate::request::{Outcome, Request, RequestId};
use crate::storage::Buffer;
use crate::units::{BLOCK_BYTES, SECTOR_BYTES, SectorMask, VirtualBlock, VolumeId};
use bytes::Bytes;

/// The longest read, write or zeroing that is kept allocated, in bytes.
const REQUEST_BYTES_MAX: u64 = 64 << 20;

impl Core {
    /// Takes a request. Its answer comes through [`Core::next_reply`], after some turns and completions.
    pub fn submit(&mut self, id: RequestId, request: Request) {
        let key = Key(self.next_key);
        self.next_key += 1;
        let open = OpenRequest { id, parts: 1, error: None, durable: false, outcome: Outcome::Done };
        self.requests.insert(key, open);
        if !matches!(request, Request::Trim { .. } | Request::Close) {
            self.punch.note_asked(self.now_ms);
        }
        let now = if self.limits.any() { self.line_up(key, request) } else { Some(request) };
        if let Some(request) = now {
            let result = self.start(key, request);
            self.part_done(key, result);
        }
    }

    /// Starts all parts of a request. The request itself is a part too until this is over.
    pub(super) fn start(&mut self, key: Key, request: Request) -> Result<()> {
        if self.closing {
            return Err(Error::new(ErrorKind::ReadOnly, "the pool is being closed"));
        }
        match request {
            Request::Read { volume, offset_bytes, length_bytes } => {
                self.check_range(volume, offset_bytes, length_bytes)?;
                check_length(length_bytes)?;
                self.start_part(key, Task::Read(read::ReadTask { key, volume, offset_bytes, length_bytes }));
                Ok(())
            }
            Request::Extents { volume, offset_bytes, length_bytes } => {
                self.check_range(volume, offset_bytes, length_bytes)?;
                let task = extents::ExtentsTask { key, volume, offset_bytes, length_bytes };
                self.start_part(key, Task::Extents(task));
                Ok(())
            }
            Request::Difference { base, volume, offset_bytes } => {
                self.start_difference(key, base, volume, offset_bytes)
            }
            Request::Mappings { volume, first } => self.start_mappings(key, volume, first),
            Request::Usage { volumes, sectors } => {
                self.check_healthy()?;
                self.start_usage(key, volumes, sectors)
            }
            Request::Describe { snapshot, base } => self.describe(key, snapshot, base),
            Request::Partials => {
                self.set_outcome(key, Outcome::Partials(self.partials()));
                Ok(())
            }
            Request::Flush => self.start_flush(key),
            other => {
                self.check_healthy()?;
                self.start_change(key, other)
            }
        }
    }

    fn start_change(&mut self, key: Key, request: Request) -> Result<()> {
        match request {
            Request::Write { volume, offset_bytes, bytes, fua } => {
                self.check_writable(volume, offset_bytes, bytes.len() as u64)?;
                check_length(bytes.len() as u64)?;
                self.set_durable(key, fua);
                if self.settings.detect_zeros {
                    self.start_sparse_writes(key, volume, offset_bytes, &bytes);
                } else {
                    self.start_writes(key, volume, offset_bytes, &bytes, false);
                }
            }
            Request::WriteWhole { volume, offset_bytes, bytes } => {
                self.check_writable(volume, offset_bytes, bytes.len() as u64)?;
                check_length(bytes.len() as u64)?;
                self.start_writes(key, volume, offset_bytes, &bytes, false);
            }
            Request::WriteZeroes { volume, offset_bytes, length_bytes, keep_allocated, fua } => {
                self.check_writable(volume, offset_bytes, length_bytes)?;
                self.set_durable(key, fua);
                if keep_allocated {
                    check_length(length_bytes)?;
                    let zeros = Buffer::zeroed(length_bytes as usize).freeze();
                    self.start_writes(key, volume, offset_bytes, &zeros, false);
                } else {
                    self.start_zeroes(key, volume, offset_bytes, length_bytes);
                }
            }
            Request::Discard { volume, offset_bytes, length_bytes, fua } => {
                self.check_writable(volume, offset_bytes, length_bytes)?;
                self.set_durable(key, fua);
                let (first, end) = whole_sectors(offset_bytes, length_bytes);
                self.start_clears(key, volume, first, end);
            }
            Request::StartReceive { arrival } => return self.start_receive(key, arrival),
            Request::Collapse { volume } => {
                self.check_writable(volume, 0, 0)?;
                self.start_collapse_request(key, volume);
            }
            Request::Extend { data_blocks } => self.start_extend(key, data_blocks)?,
            Request::Trim { first_block } => self.start_trim(key, first_block)?,
            Request::Checkpoint => self.start_checkpoint_request(key),
            Request::Close => self.start_close(key),
            control => {
                self.set_durable(key, true);
                self.start_part(key, Task::Control(control::ControlTask { key, request: control }));
            }
        }
        Ok(())
    }

    fn start_flush(&mut self, key: Key) -> Result<()> {
        self.check_healthy()?;
        self.set_durable(key, true);
        Ok(())
    }

    pub(super) fn start_part(&mut self, key: Key, task: Task) {
        if let Some(request) = self.requests.get_mut(&key) {
            request.parts += 1;
        }
        self.ready.push_back(task);
    }

    pub(super) fn set_durable(&mut self, key: Key, durable: bool) {
        if let Some(request) = self.requests.get_mut(&key) {
            request.durable = durable;
        }
    }

    pub(super) fn start_writes(
        &mut self,
        key: Key,
        volume: VolumeId,
        offset_bytes: u64,
        bytes: &Bytes,
        only_mapped: bool,
    ) {
        let mut done = 0u64;
        while done < bytes.len() as u64 {
            let at = offset_bytes + done;
            let length = (BLOCK_BYTES - at % BLOCK_BYTES).min(bytes.len() as u64 - done);
            let part = bytes.slice(done as usize..(done + length) as usize);
            let task = write::WriteTask::new(key, volume, at, part, only_mapped);
            self.start_part(key, Task::Write(task));
            done += length;
        }
    }

    /// The edges inside a sector are written, where something is mapped; the rest is cleared.
    fn start_zeroes(&mut self, key: Key, volume: VolumeId, offset_bytes: u64, length_bytes: u64) {
        let end = offset_bytes + length_bytes;
        let (first_sector, end_sector) = whole_sectors(offset_bytes, length_bytes);
        let edges = if first_sector > end_sector {
            [(offset_bytes, end), (end, end)]
        } else {
            [(offset_bytes, first_sector), (end_sector, end)]
        };
        for (from, to) in edges.into_iter().filter(|(from, to)| from < to) {
            let zeros = Buffer::zeroed((to - from) as usize).freeze();
            self.start_writes(key, volume, from, &zeros, true);
        }
        self.start_clears(key, volume, first_sector, end_sector);
    }

    /// Clears whole sectors: blocks that are cut by slices of sectors, the blocks between in one range.
    fn start_clears(&mut self, key: Key, volume: VolumeId, mut from: u64, to: u64) {
        while from < to {
            let block = VirtualBlock::containing(from);
            if from.is_multiple_of(BLOCK_BYTES) && to - from >= BLOCK_BYTES {
                let last = VirtualBlock(to / BLOCK_BYTES - 1);
                let task = unmap::UnmapTask { then: unmap::UnmapThen::Part(key), volume, next: block, last };
                self.start_part(key, Task::Unmap(task));
                from = (last.0 + 1) * BLOCK_BYTES;
            } else {
                let end = to.min((block.0 + 1) * BLOCK_BYTES);
                let first = (from - block.offset_bytes()) / SECTOR_BYTES;
                let sectors = SectorMask::range(first as u32, ((end - from) / SECTOR_BYTES) as u32);
                let task = unmap::ClearTask { key, volume, virtual_block: block, sectors, is_write: false };
                self.start_part(key, Task::Clear(task));
                from = end;
            }
        }
    }

    pub(super) fn check_range(
        &self,
        volume: VolumeId,
        offset_bytes: u64,
        length_bytes: u64,
    ) -> Result<VolumeKind> {
        let record = self.metadata.volumes.active(volume)?;
        if self.unborn.contains(&volume) {
            return Err(Error::new(ErrorKind::NotFound, "it is still being made").at(Place::Volume(volume)));
        }
        self.check_still_there(record, offset_bytes.saturating_add(length_bytes))?;
        Ok(record.kind)
    }

    fn check_writable(&self, volume: VolumeId, offset_bytes: u64, length_bytes: u64) -> Result<()> {
        match self.check_range(volume, offset_bytes, length_bytes)? {
            VolumeKind::Volume | VolumeKind::Partial => Ok(()),
            _ => Err(Error::invalid("a snapshot is read-only; clone it to write").at(Place::Volume(volume))),
        }
    }

    /// The record of what may be written, judged when a write is decided: meanwhile it may have become a snapshot.
    pub(super) fn writable(&self, volume: VolumeId) -> Result<&VolumeRecord> {
        let record = self.metadata.volumes.active(volume)?;
        if record.is_writable() {
            return Ok(record);
        }
        Err(Error::invalid("a snapshot is read-only; clone it to write").at(Place::Volume(volume)))
    }

    pub(super) fn check_healthy(&self) -> Result<()> {
        match &self.failure {
            Some(failure) => Err(Error::new(
                ErrorKind::ReadOnly,
                format!(
                    "the pool takes no writes since this failure; mend its cause and open it again: {failure}"
                ),
            )),
            None => Ok(()),
        }
    }

    /// A part of a request is over. The last one answers, or waits for a sync first.
    pub(super) fn part_done(&mut self, key: Key, result: Result<()>) {
        let Some(request) = self.requests.get_mut(&key) else { return };
        request.parts -= 1;
        if let Err(error) = result {
            request.error.get_or_insert(error);
        }
        if request.parts > 0 {
            return;
        }
        if request.error.is_some() || !request.durable || self.commit.is_all_synced() {
            self.answer(key);
        } else if self.failure.is_some() {
            self.answer_with(key, self.check_healthy());
        } else {
            self.commit.wait_for_sync(Then::Answer(key));
        }
    }

    /// A part found nothing to do. Deltas that are not written yet may be why, so they come first.
    pub(super) fn nothing_to_do(&mut self, key: Key) {
        if let Some(then) = self.commit.follow(Then::Part(key)) {
            self.happen(then);
        }
    }

    pub(super) fn answer_with(&mut self, key: Key, result: Result<()>) {
        if let (Some(request), Err(error)) = (self.requests.get_mut(&key), result) {
            request.error.get_or_insert(error);
        }
        self.answer(key);
    }

    pub(super) fn answer(&mut self, key: Key) {
        let Some(request) = self.requests.remove(&key) else { return };
        if self.limits.any() {
            self.limits.answered(key);
        }
        match (&request.outcome, &request.error) {
            (Outcome::Created(made), None) => made.iter().for_each(|volume| {
                self.unborn.remove(volume);
            }),
            (Outcome::Receiving(partial), None) => drop(self.unborn.remove(&partial.volume)),
            _ => {}
        }
        let reply = match request.error {
            Some(error) => Err(error),
            None => Ok(request.outcome),
        };
        self.replies.push_back((request.id, reply));
    }

    pub(super) fn set_outcome(&mut self, key: Key, outcome: Outcome) {
        if let Some(request) = self.requests.get_mut(&key) {
            request.outcome = outcome;
        }
    }

    /// Does what was put off until now.
    pub(super) fn happen(&mut self, then: Then) {
        match then {
            Then::Nothing => {}
            Then::Part(key) => self.part_done(key, Ok(())),
            Then::Answer(key) => self.answer(key),
            Then::Run(task) => self.ready.push_back(task),
            Then::Slab(first, blocks) => self.slab_synced(first, blocks),
            Then::WrittenAhead(first, blocks, written) => self.write_ahead_synced(first, blocks, written),
        }
    }
}

fn check_length(length_bytes: u64) -> Result<()> {
    if length_bytes > REQUEST_BYTES_MAX {
        return Err(Error::new(ErrorKind::Limit, "one request moves at most 64 MiB; split it"));
    }
    Ok(())
}

/// The first byte and the end of the whole sectors inside a range. The end may be before the first.
fn whole_sectors(offset_bytes: u64, length_bytes: u64) -> (u64, u64) {
    let end = offset_bytes + length_bytes;
    (offset_bytes.next_multiple_of(SECTOR_BYTES), end - end % SECTOR_BYTES)
}
