//! Whether a pool is sound, told in terms of volumes and byte ranges. Nothing is written.
//!
//! Owns the order of a check. The present state is found in memory as an opening would find it
//! (`metadata/recovery.rs`); its trees are walked and every reference is counted (`walk.rs`, `counts.rs`). Then the
//! trees of both root slots are walked as they stand on disk (`index.rs`), for the next opening may need either. What
//! is bad is traced to those who lose by it (`trace.rs`). Never repairs, never guesses: a pool that cannot be recovered
//! is walked as far as pages can be read.
//!
//! Memory: the counts twice, four bytes a page, and the keys of pages that several parents share.

mod book;
mod counts;
mod index;
mod log;
mod report;
mod trace;
mod volumes;
mod walk;

pub use report::{Affected, CheckReport, Finding, Information, Progress};

use crate::error::{Error, ErrorKind, Place, Result};
use crate::format::{LOST_RANGES, RootSlot, SUPERBLOCK_PAGES, Superblock, VolumeKind, VolumeRecord};
use crate::metadata::Metadata;
use crate::metadata::files::Files;
use crate::metadata::load::load;
use crate::metadata::recovery::{Recovered, recover, recover_without_log};
use crate::storage::Disk;
use crate::units::{PAGE_BYTES, VolumeId};
use book::Book;
use counts::Tally;
use report::{Notes, moved};
use trace::Pages;
use walk::Walk;

/// Checks every invariant of the pool on two disks, and writes nothing. Nobody may have the pool open for writing.
///
/// What is wrong is a finding of the report, not an error. Fails with `Unsupported` if this is no pool that the
/// program knows.
pub fn check(
    data: &mut dyn Disk,
    metadata: &mut dyn Disk,
    progress: &mut dyn FnMut(Progress),
) -> Result<CheckReport> {
    let mut files = Files::new(data, metadata);
    let mut notes = Notes::new(progress);
    notes.expect_pages(files.metadata.size_bytes() / PAGE_BYTES as u64);
    notes.report_progress();
    let superblock = match files.superblock() {
        Ok(superblock) => superblock,
        Err(error) if error.kind() == ErrorKind::Unsupported => return Err(error),
        Err(error) => {
            notes.add(error);
            return Ok(report(notes, Vec::new(), 0, &[]));
        }
    };
    let (state, recovered) = present_state(&mut files, &superblock, &mut notes);
    check_superblocks(&mut files, &mut notes);
    let slots = usable_slots(&mut files, &superblock, &mut notes);
    let check = Check { files, superblock, notes, state, slots };
    check.run(recovered)
}

/// The present state; the newest slot's, if recovery refuses; none if that cannot be loaded either.
fn present_state(
    files: &mut Files<'_>,
    superblock: &Superblock,
    notes: &mut Notes<'_>,
) -> (Option<Metadata>, bool) {
    match recover(files) {
        Ok(found) => {
            tell_recovered(&found, notes);
            (Some(found.metadata), true)
        }
        Err(error) if error.kind() == ErrorKind::InUse => given_state(files, notes, error),
        Err(error) => {
            notes.add(moved(&error, format!("the pool cannot be opened: {}", error.message())));
            let slots = files.root_slots(&superblock.pool);
            let loaded = slots.into_iter().flatten().find_map(|slot| {
                let building = crate::units::Generation(slot.generation.0 + 1);
                load(files, superblock, slot, building).ok()
            });
            (loaded, false)
        }
    }
}

/// What the pool was when it was given to the kernel.
fn given_state(files: &mut Files<'_>, notes: &mut Notes<'_>, refused: Error) -> (Option<Metadata>, bool) {
    match recover_without_log(files) {
        Ok(found) => {
            notes.information.push(Information::Given);
            (Some(found.metadata), false)
        }
        Err(_) => {
            notes.add(refused);
            (None, false)
        }
    }
}

fn tell_recovered(found: &Recovered, notes: &mut Notes<'_>) {
    let findings = &found.findings;
    let slot = &found.metadata.slot;
    if let Some(fallback) = &findings.fallback {
        let error = &fallback.cause;
        notes.add(moved(error, format!("the newest root slot cannot be used: {}", error.message())));
    }
    if let Some(error) = found.metadata.forest.damage() {
        notes.add(error.clone());
    }
    if slot.clean && findings.records > 0 {
        notes.add(Error::damaged("the pool was closed, and yet its log holds records"));
    }
    notes.tell_owner(slot);
    if findings.records > 0 {
        let (records, deltas) = (findings.records, findings.deltas);
        notes.information.push(Information::LogToReplay { records, deltas });
    }
    notes.information.extend(findings.dropped_at.map(Information::TailDropped));
}

fn check_superblocks(files: &mut Files<'_>, notes: &mut Notes<'_>) {
    let mut first = None;
    for page in SUPERBLOCK_PAGES {
        notes.page_read();
        let bytes = files.metadata.read(page.offset_bytes(), PAGE_BYTES);
        match bytes.and_then(|bytes| Superblock::decode(&bytes)) {
            Ok(superblock) if first.as_ref().is_some_and(|first| *first != superblock) => {
                notes.add(Error::damaged("the two superblocks differ").at(Place::Page(page)));
            }
            Ok(superblock) => first = Some(superblock),
            Err(error) => {
                let message = format!("one of two superblocks is bad: {}", error.message());
                notes.add(Error::damaged(message).at(Place::Page(page)));
            }
        }
    }
}

/// The slots that can be read, the newer one first.
fn usable_slots(files: &mut Files<'_>, superblock: &Superblock, notes: &mut Notes<'_>) -> Vec<RootSlot> {
    let mut usable = Vec::new();
    for slot in files.root_slots(&superblock.pool) {
        notes.page_read();
        match slot {
            Ok(slot) => usable.push(slot),
            Err(error) => {
                notes.add(moved(&error, format!("one of two root slots is bad: {}", error.message())));
            }
        }
    }
    usable
}

struct Check<'f, 'p> {
    files: Files<'f>,
    superblock: Superblock,
    notes: Notes<'p>,
    state: Option<Metadata>,
    slots: Vec<RootSlot>,
}

impl Check<'_, '_> {
    fn run(mut self, recovered: bool) -> Result<CheckReport> {
        let file_pages = self.files.metadata.size_bytes() / PAGE_BYTES as u64;
        let counted = self.state.as_ref().map_or(0, |state| state.forest.page_counts.len());
        let mut book = Book::new(file_pages.max(counted));
        let mappings = self.check_state(&mut book, file_pages);
        let in_slots = self.check_slots(&mut book);
        self.notes.slot = None;
        let records = match &self.state {
            Some(state) => state.volumes.iter().cloned().collect(),
            None => in_slots,
        };
        self.check_records(&records);
        if let ([newest, older], true) = (&self.slots[..], recovered) {
            log::check_older_chain(&mut self.files, &self.superblock, newest, older, &mut self.notes);
        }
        let Self { mut files, superblock, mut notes, state, .. } = self;
        let mut pages = Pages { files: &mut files, pool: superblock.pool, state: state.as_ref() };
        let affected = trace::affected(&notes.troubles, &records, &mut pages);
        notes.finish_progress();
        Ok(report(notes, affected, mappings, &records))
    }

    /// The present state against its counts. Returns the mapped blocks.
    fn check_state(&mut self, book: &mut Book, file_pages: u64) -> u64 {
        let Self { files, superblock, notes, state: Some(state), .. } = self else { return 0 };
        let forest = &state.forest;
        notes.expect_pages(forest.page_counts.in_use() + index::index_pages(state.index_trees()));
        counts::check_length(state, file_pages, notes);
        let mut tally = Tally::new(state, notes);
        let mut walk = Walk {
            files,
            pool: superblock.pool,
            book,
            notes,
            state: Some(state),
            tally: Some(&mut tally),
            next_volume: state.next_volume,
            lost_blocks: 0,
        };
        for record in state.volumes.iter() {
            walk.volume(record, forest.building);
        }
        let lost_blocks = walk.lost_blocks;
        if lost_blocks > 0 {
            notes.information.push(Information::LostBlocks(lost_blocks));
            if superblock.incompatible & LOST_RANGES == 0 {
                notes.add(Error::damaged("ranges are lost, and the superblock lacks the feature for it"));
            }
        }
        tally.compare(state, notes);
        tally.mappings
    }

    /// The trees of both slots as they are on disk. Returns the volume records of the newest slot that has some.
    fn check_slots(&mut self, book: &mut Book) -> Vec<VolumeRecord> {
        let mut newest = Vec::new();
        for slot in &self.slots {
            self.notes.slot = Some(slot.generation);
            let mut walk = Walk {
                files: &mut self.files,
                pool: self.superblock.pool,
                book,
                notes: &mut self.notes,
                state: None,
                tally: None,
                next_volume: slot.next_volume,
                lost_blocks: 0,
            };
            let records = walk.index_trees(slot);
            records.iter().for_each(|record| walk.volume(record, slot.generation));
            if newest.is_empty() {
                newest = records;
            }
        }
        newest
    }

    fn check_records(&mut self, records: &[VolumeRecord]) {
        let state = self.state.as_ref();
        let slot = state.map(|state| &state.slot).or(self.slots.first());
        let next_volume = state.map(|state| state.next_volume).or(slot.map(|slot| slot.next_volume));
        let mut pages = Pages { files: &mut self.files, pool: self.superblock.pool, state };
        volumes::check_volumes(records, next_volume.unwrap_or(VolumeId(0)), &mut pages, &mut self.notes);
        if let Some(slot) = slot {
            volumes::check_log_volume(records, slot, state, &mut pages, &mut self.notes);
        }
    }
}

fn report(
    notes: Notes<'_>,
    affected: Vec<Vec<Affected>>,
    mappings: u64,
    records: &[VolumeRecord],
) -> CheckReport {
    let pages = notes.pages_read();
    let affected = affected.into_iter().chain(std::iter::repeat_with(Vec::new));
    let troubles = notes.troubles.into_iter().zip(affected);
    CheckReport {
        findings: troubles.map(|(t, affected)| Finding { error: t.error, affected }).collect(),
        unlisted_findings: notes.unlisted,
        information: notes.information,
        pages,
        mappings,
        volumes: records.iter().filter(|record| record.kind != VolumeKind::Hidden).count() as u64,
    }
}
