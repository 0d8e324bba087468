//! What may raise the sum of reservations: setting one, a snapshot of a volume that has one, a rollback, a larger size.
//!
//! Owns the checks before such a change is applied. The pool must have as many free blocks as all promises together leave
//! outstanding, and the host must have allocated them: a promise that the host breaks is none. Blocks that are missing on
//! the host are allocated first, in slabs as always; meanwhile the request waits.

use super::control::ControlTask;
use super::reservations::promised_blocks;
use super::{Core, Task};
use crate::error::{Error, ErrorKind, Place};
use crate::format::{Delta, VolumeRecord};
use crate::request::Request;
use crate::units::{BLOCK_BYTES, VolumeId};

/// Whether a promise can be made.
enum Verdict {
    Yes,
    /// It is not known yet, or blocks are being allocated for it.
    Wait,
    No(Error),
}

impl Core {
    /// Makes sure that what will be outstanding once `delta` is applied is there. Otherwise puts the task aside, or fails it,
    /// and gives nothing back.
    pub(super) fn reserve_for(&mut self, task: ControlTask, delta: &Delta) -> Option<ControlTask> {
        let verdict = self.judge_promises(delta);
        if let Verdict::Wait = verdict {
            self.reservations.waiting.push_back(Task::Control(task));
            return None;
        }
        if self.reservations.waiting.is_empty() {
            self.reservations.wanted = None;
        }
        let Verdict::No(error) = verdict else { return Some(task) };
        self.end_trial(&task.request);
        self.part_done(task.key, Err(error));
        None
    }

    /// A request that came to nothing may have had a volume looked at for it.
    pub(super) fn end_trial(&mut self, request: &Request) {
        if let Request::SetProperties { volume, .. } = request {
            self.refresh_promise(*volume);
        }
    }

    fn judge_promises(&mut self, delta: &Delta) -> Verdict {
        let raised = self.promises_after(delta);
        if raised.is_empty() {
            return Verdict::Yes;
        }
        if raised
            .iter()
            .any(|(volume, _)| self.reservations.promise(*volume).is_some_and(|p| p.walk.is_some()))
        {
            return Verdict::Wait;
        }
        let more: u64 = raised.iter().map(|(_, blocks)| blocks).sum();
        let sum = self.reservations.outstanding_blocks() + more;
        let free = self.free_blocks();
        if sum > free {
            if self.reservations.is_walking() || self.slab.is_running() {
                return Verdict::Wait;
            }
            return Verdict::No(at(delta, raised[0].0, self.promise_refused(delta, more, free)));
        }
        match self.judge_host(sum) {
            Verdict::No(error) => Verdict::No(at(delta, raised[0].0, error)),
            other => other,
        }
    }

    /// Whether so many free blocks are allocated on the host; if not, they are wanted from now on.
    fn judge_host(&mut self, sum: u64) -> Verdict {
        if self.allocated_blocks() >= sum {
            return Verdict::Yes;
        }
        if self.reservations.is_walking() {
            // Too much may count as outstanding until then.
            return Verdict::Wait;
        }
        if self.reservations.wanted.is_none_or(|wanted| wanted < sum) {
            self.reservations.wanted = Some(sum);
            self.slab.ask_again();
        } else if self.slab.was_refused() && !self.slab.is_running() {
            let allocated = text(self.allocated_blocks());
            let message = format!(
                "the file system that holds the data file has no room for {} that are to be reserved in all, \
                 {allocated} of them are allocated; free some there, or reserve less",
                text(sum)
            );
            return Verdict::No(Error::new(ErrorKind::NoSpace, message));
        }
        Verdict::Wait
    }

    /// Volumes that will have more outstanding once `delta` is applied, and how many blocks more. Begins to count what one
    /// has alone that gets its first reservation.
    fn promises_after(&mut self, delta: &Delta) -> Vec<(VolumeId, u64)> {
        match delta {
            Delta::Create { record } => {
                let blocks = promised_blocks(record);
                if blocks > 0 { vec![(record.id, blocks)] } else { Vec::new() }
            }
            Delta::Update { volume, size_bytes, properties, .. } => {
                let Some(record) = self.metadata.volumes.get(*volume) else { return Vec::new() };
                let properties = properties.clone();
                let blocks =
                    promised_blocks(&VolumeRecord { size_bytes: *size_bytes, properties, ..record.clone() });
                if blocks > promised_blocks(record) {
                    self.track_promise(*volume);
                }
                self.raised(*volume, blocks, false).into_iter().collect()
            }
            Delta::Snapshot { cuts } => {
                cuts.iter().filter_map(|(volume, _)| self.raised_by_sharing(*volume)).collect()
            }
            Delta::Rollback { volume, snapshot, .. } => {
                let volumes = &self.metadata.volumes;
                let (Some(record), Some(snapshot)) = (volumes.get(*volume), volumes.get(*snapshot)) else {
                    return Vec::new();
                };
                let after = VolumeRecord { size_bytes: snapshot.size_bytes, ..record.clone() };
                self.raised(*volume, promised_blocks(&after), true).into_iter().collect()
            }
            _ => Vec::new(),
        }
    }

    fn raised_by_sharing(&self, volume: VolumeId) -> Option<(VolumeId, u64)> {
        self.raised(volume, self.reservations.promise(volume)?.blocks, true)
    }

    /// By how much more will be outstanding to `volume` with a promise of so many blocks, if that has to be judged. Where all
    /// it has becomes shared, 0 more is judged too: until now too much may have counted as outstanding, from then on nothing.
    fn raised(&self, volume: VolumeId, blocks: u64, all_shared: bool) -> Option<(VolumeId, u64)> {
        let promise = self.reservations.promise(volume)?;
        let before = promise.outstanding_of(promise.blocks, promise.own);
        let after = promise.outstanding_of(blocks, if all_shared { 0 } else { promise.own });
        (after > before || (all_shared && blocks > 0)).then(|| (volume, after.saturating_sub(before)))
    }

    /// Free blocks, those that are on their way included.
    fn free_blocks(&self) -> u64 {
        let space = self.space.counts();
        self.allocated_blocks() + space.holes + space.punching
    }

    /// Free blocks that the host has allocated, and that nobody will give back to it.
    fn allocated_blocks(&self) -> u64 {
        let space = self.space.counts();
        self.space.ready() + space.waiting + space.write_ahead
    }

    /// Whether blocks have to be allocated for what was promised, or is to be.
    pub(super) fn reservations_lack_slabs(&self) -> bool {
        let wanted = self.reservations.wanted.unwrap_or(0);
        // What is outstanding is not known while a walk goes on.
        let outstanding =
            if self.reservations.is_walking() { 0 } else { self.reservations.outstanding_blocks() };
        let wanted = wanted.max(outstanding);
        wanted > 0 && self.allocated_blocks() < wanted
    }

    fn promise_refused(&self, delta: &Delta, more: u64, free: u64) -> Error {
        let (kept, more) = (text(self.reservations.outstanding_blocks()), text(more));
        let figures = format!(
            "it needs {more} more of the pool's {} of free space, of which reservations hold {kept}",
            text(free)
        );
        let message = match delta {
            Delta::Snapshot { .. } | Delta::Rollback { .. } => format!(
                "the volume has a reservation, and would share what it has now: {figures}; extend the pool, free space, or \
                 lower the reservation"
            ),
            _ => format!(
                "the pool cannot keep so much for it: {figures}; extend the pool, free space, or reserve less"
            ),
        };
        Error::new(ErrorKind::NoSpace, message)
    }
}

/// Names the volume, if there is one yet.
fn at(delta: &Delta, volume: VolumeId, error: Error) -> Error {
    if matches!(delta, Delta::Create { .. }) { error } else { error.at(Place::Volume(volume)) }
}

/// So many blocks as people read it.
fn text(blocks: u64) -> String {
    let kib = blocks * (BLOCK_BYTES / 1024);
    if kib.is_multiple_of(1024) { format!("{} MiB", kib / 1024) } else { format!("{kib} KiB") }
}
