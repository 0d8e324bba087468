//! What happens when something cannot go on: one task, or the whole pool.
//!
//! Owns failing. A failed sync or log write is never tried again: the pool serves what it knows to be good and takes no
//! more writes, and nothing that waited is answered as if it were done.

use super::{Core, DeltaNumber, Task, Then};
use crate::error::{Error, ErrorKind, Place};
use crate::metadata::tree::Event;
use crate::units::VolumeId;

impl Core {
    /// Gives up a task: what it held goes back, and its request fails.
    pub(super) fn fail_task(&mut self, task: Task, error: &Error) {
        match task {
            Task::Read(task) => self.part_done(task.key, Err(error.clone())),
            Task::Extents(task) => self.part_done(task.key, Err(error.clone())),
            Task::Difference(task) => self.part_done(task.key, Err(error.clone())),
            Task::Mappings(task) => self.part_done(task.key, Err(error.clone())),
            Task::Usage(task) => self.part_done(task.key, Err(error.clone())),
            Task::Write(task) => self.write_done(task, Err(error.clone())),
            Task::Publish(job) => self.fail_job(job, error),
            Task::Clear(task) => self.part_done(task.key, Err(error.clone())),
            Task::Unmap(task) => self.fail_unmap(&task, error),
            Task::Collapse(task) => self.fail_collapse(&task, error),
            Task::Control(task) => self.part_done(task.key, Err(error.clone())),
            Task::Extend(task) => self.extension_over(task.key, Err(error.clone())),
            Task::Shrink(task) => self.fail_shrink(&task, error),
            Task::PunchSectors(block) => self.punch.sectors.give_up_looking(block),
            Task::Trim(task) => self.part_done(task.key, Err(error.clone())),
            Task::CountOwn(volume) => self.own_walk_ends(volume),
        }
    }

    /// The pool takes no more writes. What waits fails; what is being read goes on.
    pub(super) fn fail(&mut self, error: Error) {
        if self.failure.is_some() {
            return;
        }
        self.failure = Some(error);
        let Err(error) = self.check_healthy() else { return };
        for then in self.commit.drain() {
            match then {
                Then::Part(key) | Then::Answer(key) => self.answer_with_failure(key, &error),
                Then::Run(task) => self.fail_task(task, &error),
                Then::Nothing | Then::Slab(..) | Then::WrittenAhead(..) => {}
            }
        }
        for then in self.checkpoint.drain() {
            match then {
                Then::Run(task) => self.fail_task(task, &error),
                Then::Part(key) | Then::Answer(key) => self.part_done(key, Err(error.clone())),
                Then::Nothing | Then::Slab(..) | Then::WrittenAhead(..) => {}
            }
        }
        for (_, key) in std::mem::take(&mut self.barriers) {
            self.part_done(key, Err(error.clone()));
        }
        self.fail_waiting(&error);
        self.start_all_limited();
    }

    fn answer_with_failure(&mut self, key: super::Key, error: &Error) {
        let Some(request) = self.requests.get_mut(&key) else { return };
        if request.parts == 0 {
            self.answer_with(key, Err(error.clone()));
        } else {
            self.part_done(key, Err(error.clone()));
        }
    }

    fn fail_waiting(&mut self, error: &Error) {
        let mut tasks = std::mem::take(&mut self.ready);
        tasks.extend(std::mem::take(&mut self.waiting_for_proof).into_iter().map(|(_, task)| task));
        tasks.append(&mut self.waiting_for_room);
        tasks.extend(self.stall.drain());
        tasks.append(&mut self.waiting_for_pins);
        tasks.append(&mut self.reservations.waiting);
        self.locks.drain_waiting(&mut tasks);
        self.fail_walks(&mut tasks);
        self.fail_trims(error);
        self.fail_counts(&mut tasks);
        for task in tasks {
            match task {
                reading @ (Task::Read(_) | Task::Extents(_) | Task::Difference(_) | Task::Mappings(_)) => {
                    self.ready.push_back(reading)
                }
                other => self.fail_task(other, error),
            }
        }
    }

    /// Notes what the delta just appended freed and made exclusive.
    pub(super) fn take_events(&mut self, number: DeltaNumber) {
        for event in std::mem::take(&mut self.metadata.forest.events) {
            match event {
                Event::BlockFreed(block) => {
                    self.rates.block_freed();
                    self.punch.sectors.freed(block);
                    self.space.free(number, block);
                }
                Event::BlockExclusive(block) => self.unproven.become_exclusive(number, block),
                Event::PageExclusive(page) => self.unproven.page_became_exclusive(number, page),
                Event::PageInherits { from, to } => self.unproven.page_inherits(from, to),
            }
        }
    }
}

/// What is said when a volume went away under a request.
pub fn gone(volume: VolumeId) -> Error {
    Error::new(ErrorKind::NotFound, "the volume was deleted").at(Place::Volume(volume))
}
