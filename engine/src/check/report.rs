//! What a check tells: findings with the volumes and bytes they cost, and what is worth knowing beside.
//!
//! Owns the types of the report and the list of troubles while it grows. Knows no trees. Read next: `mod.rs`.

use crate::error::{Error, Place};
use crate::format::RootSlot;
use crate::options::Owner;
use crate::units::{Generation, PageNumber, Sequence, VolumeId};
use std::fmt;

/// Findings that are listed; the others are counted.
const FINDINGS_MAX: usize = 1000;
/// Pages between two calls of the progress function.
const PROGRESS_PAGES: u64 = 64;

/// How far a check has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Pages read so far.
    pub pages_done: u64,
    /// Pages that will have been read at the end, estimated. Never less than `pages_done`.
    pub pages_total: u64,
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// What is wrong, in the order in which it was found.
    pub findings: Vec<Finding>,
    /// Findings beyond those that are listed.
    pub unlisted_findings: u64,
    /// What is not wrong and yet worth knowing.
    pub information: Vec<Information>,
    /// Pages of the metadata file that were read; a page that two root slots need is read once.
    pub pages: u64,
    /// Mapped virtual blocks, those in a leaf that several volumes share counted once.
    pub mappings: u64,
    /// Volumes and snapshots, those being deleted included.
    pub volumes: u64,
}

impl CheckReport {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What, and where.
    pub error: Error,
    /// What users lose by it; empty if nothing, or if that cannot be told.
    pub affected: Vec<Affected>,
}

/// A byte range of a volume that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Affected {
    /// The volume's number.
    pub volume: VolumeId,
    /// Its name.
    pub name: String,
    /// Where the range starts, in bytes.
    pub offset_bytes: u64,
    /// How long it is, in bytes.
    pub length_bytes: u64,
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.error)?;
        for Affected { name, offset_bytes, length_bytes, .. } in &self.affected {
            write!(out, "\n  '{name}': {length_bytes} bytes at {offset_bytes}")?;
        }
        Ok(())
    }
}

/// What is worth knowing about a pool that may be sound.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Information {
    /// The log holds records that the newest root slot does not: the next opening replays them.
    LogToReplay {
        /// How many records.
        records: u64,
        /// How many deltas of them count.
        deltas: u64,
    },
    /// The data of a change at the end of the log never reached the disk; the log ends before it. No flush was
    /// acknowledged that covers it.
    TailDropped(Sequence),
    /// The pool was not closed, or is open.
    NotClosed(Owner),
    /// The kernel's dm-thin has the pool.
    Given,
    /// Volumes whose deletion goes on with the next opening.
    DeletionsToFinish(u64),
    /// Virtual blocks of 64 KiB with sectors that an earlier repair could not save, those in a page that several volumes
    /// share counted once. These sectors read as errors until they are written or discarded.
    LostBlocks(u64),
    /// Pages could not be read, so counts that seem too high may be right; they were not reported.
    CountsNotComparable,
}

impl fmt::Display for Information {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LogToReplay { records, deltas } => {
                write!(out, "the next opening replays {records} log records with {deltas} changes")
            }
            Self::TailDropped(sequence) => {
                write!(
                    out,
                    "the log ends in record {sequence}: data behind it was never flushed and is dropped"
                )
            }
            Self::NotClosed(owner) if owner.pid == 0 => write!(out, "the pool was not closed"),
            Self::NotClosed(owner) => {
                write!(out, "the pool was not closed by process {} on '{}'", owner.pid, owner.host)
            }
            Self::Given => write!(out, "the kernel's dm-thin has the pool; what it changed is not looked at"),
            Self::DeletionsToFinish(volumes) => write!(out, "the deletion of {volumes} volumes goes on"),
            Self::LostBlocks(blocks) => {
                write!(out, "{blocks} blocks hold sectors that an earlier repair could not save")
            }
            Self::CountsNotComparable => {
                write!(out, "unreadable pages hide references: counts were not compared from above")
            }
        }
    }
}

/// Something wrong, and the page by which it costs users data.
pub(super) struct Trouble {
    pub error: Error,
    pub lost: Option<Lost>,
}

/// What of a mapping tree cannot be used.
#[derive(Clone, Copy)]
pub(super) struct Lost {
    pub page: PageNumber,
    /// Virtual blocks of a leaf; the whole page and all below if none.
    pub blocks: Option<(u64, u64)>,
}

/// Troubles while they are collected, and the progress.
pub(super) struct Notes<'p> {
    pub troubles: Vec<Trouble>,
    pub unlisted: u64,
    pub information: Vec<Information>,
    /// The root slot that is being looked at, if it is not the present state.
    pub slot: Option<Generation>,
    progress: &'p mut dyn FnMut(Progress),
    pages_done: u64,
    pages_total: u64,
}

impl<'p> Notes<'p> {
    pub fn new(progress: &'p mut dyn FnMut(Progress)) -> Self {
        Self {
            troubles: Vec::new(),
            unlisted: 0,
            information: Vec::new(),
            slot: None,
            progress,
            pages_done: 0,
            pages_total: 1,
        }
    }

    pub fn expect_pages(&mut self, pages: u64) {
        self.pages_total = pages.max(1);
    }

    pub fn page_read(&mut self) {
        self.pages_done += 1;
        if self.pages_done.is_multiple_of(PROGRESS_PAGES) {
            self.report_progress();
        }
    }

    pub fn pages_read(&self) -> u64 {
        self.pages_done
    }

    pub fn report_progress(&mut self) {
        let pages_total = self.pages_total.max(self.pages_done);
        (self.progress)(Progress { pages_done: self.pages_done, pages_total });
    }

    pub fn finish_progress(&mut self) {
        self.pages_total = self.pages_done;
        self.report_progress();
    }

    /// Something wrong that costs nobody data.
    pub fn add(&mut self, error: Error) {
        self.put(error, None);
    }

    /// Something wrong about a page of a mapping tree.
    pub fn add_lost(&mut self, error: Error, lost: Lost) {
        self.put(error, Some(lost));
    }

    fn put(&mut self, error: Error, lost: Option<Lost>) {
        if self.troubles.len() == FINDINGS_MAX {
            self.unlisted += 1;
            return;
        }
        let error = match self.slot {
            Some(generation) => {
                let message =
                    format!("{} (needed by the root slot of generation {generation})", error.message());
                moved(&error, message)
            }
            None => error,
        };
        self.troubles.push(Trouble { error, lost });
    }

    /// What the slot that was used says about how the pool was left.
    pub fn tell_owner(&mut self, slot: &RootSlot) {
        if !slot.clean {
            self.information.push(Information::NotClosed(slot.owner.clone()));
        }
    }
}

/// The error with other words.
pub(super) fn moved(error: &Error, message: String) -> Error {
    let new = Error::new(error.kind(), message);
    match error.place() {
        Some(place) => new.at(place),
        None => new,
    }
}

/// Damage of a page.
pub(super) fn bad_page(page: PageNumber, message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::damaged(message).at(Place::Page(page))
}
