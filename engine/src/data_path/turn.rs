//! One turn: what has become possible is decided, and what has been decided is put into operations.
//!
//! Owns the order of a turn, and when a proof is due. Call it after every batch of requests and completions.

use super::commit::NewRecord;
use super::operations::Pending;
use super::{Core, Side, Task};
use crate::storage::Operation;

impl Core {
    /// Does everything that requests, completions and time have made possible. `now_ms` never goes back; its zero
    /// is the caller's choice.
    pub fn turn(&mut self, now_ms: u64) {
        self.now_ms = self.now_ms.max(now_ms);
        self.collapse.new_turn();
        self.renew_own_steps();
        self.ready.extend(self.usage.new_turn());
        // What one step makes possible, an earlier one may have to do: until nothing new comes of it.
        loop {
            let submitted = self.next_ticket;
            self.start_due();
            self.wake();
            self.run_ready();
            self.judge_stalled();
            self.run_collapse();
            self.run_own_walks();
            self.stop_at_damage();
            self.prove_when_due();
            self.retry_when_due();
            self.retry_refused();
            self.compose();
            self.run_checkpoint();
            self.sync_when_due();
            self.prove();
            // Behind the proof, which frees what may be given back: nothing else may come along to do it.
            self.run_reclaim();
            let is_still = !self.room.changed && !self.limits.changed && !self.stall.more;
            let is_over = self.ready.is_empty() && is_still;
            if is_over && self.next_ticket == submitted {
                // A proof may have freed the last that was expected.
                self.judge_stalled();
                if self.ready.is_empty() && self.next_ticket == submitted {
                    break;
                }
            }
        }
        self.run_auto_extend();
        self.note_space();
        self.bound_cache();
        self.rates.note(self.now_ms, self.metadata.forest.data_counts.in_use());
    }

    fn run_ready(&mut self) {
        while let Some(task) = self.ready.pop_front() {
            match (task, &self.failure) {
                (Task::Read(task), _) => self.read(task),
                (Task::Extents(task), _) => self.extents(task),
                (Task::Difference(task), _) => self.difference(task),
                (Task::Mappings(task), _) => self.mappings(task),
                (other, Some(_)) => self.refuse_task(other),
                (Task::Usage(task), None) => self.usage(task),
                (Task::Write(task), None) => self.write(task),
                (Task::Publish(job), None) => self.publish(job),
                (Task::Clear(task), None) => self.clear(task),
                (Task::Unmap(task), None) => self.unmap(task),
                (Task::Collapse(task), None) => self.collapse(task),
                (Task::Control(task), None) => self.control(task),
                (Task::Extend(task), None) => self.extend(task),
                (Task::Shrink(task), None) => self.shrink(task),
                (Task::PunchSectors(block), None) => self.punch_sectors(block),
                (Task::Trim(task), None) => self.trim(task),
                (Task::CountOwn(volume), None) => self.count_own(volume),
            }
        }
    }

    /// The pool failed while the task waited.
    fn refuse_task(&mut self, task: Task) {
        if let Err(error) = self.check_healthy() {
            self.fail_task(task, &error);
        }
    }

    /// Counts and trees that contradict each other must not get into a checkpoint.
    fn stop_at_damage(&mut self) {
        if let Some(damage) = self.metadata.forest.damage().cloned() {
            self.fail(damage);
        }
    }

    /// Deltas go into records in the turn that applied them; while as many records are being written as may be, they
    /// gather, which is what makes groups.
    fn compose(&mut self) {
        while self.failure.is_none() && self.commit.writes_in_flight() < self.options.log_writes_in_flight {
            let Some(record) = self.commit.compose() else { break };
            self.write_record(record);
        }
    }

    /// Puts every delta into a record, for a checkpoint to stand behind.
    pub(super) fn compose_all(&mut self) {
        while let Some(record) = self.commit.compose() {
            self.write_record(record);
        }
    }

    fn write_record(&mut self, record: NewRecord) {
        let write = Operation::Write { offset_bytes: record.offset_bytes, bytes: record.bytes };
        self.submit_operation(Side::Data, write, Pending::Record(record.sequence));
    }

    /// Wants a proof after a while, when free blocks are short, and before recovery would have too much to check.
    fn prove_when_due(&mut self) {
        let newest = self.commit.newest();
        if newest <= self.commit.proven {
            return;
        }
        let old = self.now_ms.saturating_sub(self.unproven_since_ms) >= self.options.proof_after_ms;
        let much = self.unproven.bytes() * 2 >= self.options.unproven_limit_bytes;
        if old || much {
            self.commit.want_proof(newest);
        }
        let short = self.space.ready() == 0 || self.stall.wants_block();
        if let Some(number) = self.space.newest_freed().filter(|_| short) {
            self.commit.want_proof(number);
        }
    }

    /// Writes the records of a wanted proof, and learns what has been proven.
    fn prove(&mut self) {
        while self.failure.is_none() && !self.only_closing() {
            let Some(record) = self.commit.compose_proof() else { break };
            self.write_record(record);
        }
        let proven = self.commit.proven;
        if proven > self.room.proven {
            self.room.proven = proven;
            self.unproven_since_ms = self.now_ms;
            self.room.changed = true;
            self.unproven.prove(proven);
            self.space.prove(proven);
            self.wake();
        }
    }

    fn sync_when_due(&mut self) {
        if self.failure.is_some() || self.commit.sync.is_some() {
            return;
        }
        let checkpoint = self.checkpoint.awaits().unwrap_or_default();
        if self.commit.needs_sync(checkpoint) {
            self.submit_operation(Side::Data, Operation::Sync, Pending::DataSync);
            self.commit.sync_submitted();
            self.syncing = std::mem::take(&mut self.unsynced);
        }
    }
}
