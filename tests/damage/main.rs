//! Every page of a pool is zeroed, gets a bit flipped, and is replaced by an older version of itself, one at a time and with
//! its second copy; then the pool is checked, opened and repaired.
//!
//! What must hold: check names it; an opening gives the present or refuses; repair leaves the old files as they are, and
//! makes metadata in which check finds nothing; every sector reads as before, or is in the list of losses and reads as an
//! error; losses lie in the keys of the damaged page. `VELLUM_SEEDS` above 1 damages every page; without it, of kinds
//! that have many pages some are left out. `--nocapture` shows the table.

mod content;
mod kept;
mod kinds;
mod lost;
mod many;
mod pool;
mod steps;
mod table;

use content::{Content, content, is_lost};
use kinds::{Known, known_pages};
use pool::{Disks, make, open_options, page, put_page};
use std::collections::BTreeMap;
use table::Table;
use vellum_engine::error::{Error, ErrorKind};
use vellum_engine::inspect::{self, LogState};
use vellum_engine::metadata::files::Files;
use vellum_engine::repair::{Repair, RepairOptions};
use vellum_engine::storage::{Blocking, MemoryDisk};
use vellum_engine::units::{PAGE_BYTES, SECTOR_BYTES};
use vellum_engine::{Pool, check, repair};

const OPTIONS: RepairOptions = RepairOptions { nonce: 77, secret: 4711 };

/// What one damage may cost.
struct Case<'c> {
    kind: &'c str,
    damage: &'static str,
    label: String,
    /// Check has to find it.
    needed: bool,
    /// The bytes of volumes where losses may be.
    bytes: Option<(u64, u64)>,
    /// Volumes may go, or come back under other names.
    may_lose_volumes: bool,
    /// Repair may find that the present cannot be proven.
    may_refuse: bool,
}

fn repaired(data: &mut MemoryDisk, metadata: &mut MemoryDisk) -> Result<(Repair, MemoryDisk), Error> {
    let mut target = MemoryDisk::new(0);
    let before = (data.counters(), metadata.counters());
    let made = repair(data, metadata, &mut target, &OPTIONS, &mut |progress| {
        assert!(progress.pages_done <= progress.pages_total);
    });
    for since in [data.counters().since(&before.0), metadata.counters().since(&before.1)] {
        assert_eq!((since.writes, since.syncs, since.punches, since.allocations), (0, 0, 0, 0));
    }
    made.map(|made| (made, target))
}

/// Checks, opens and repairs a damaged pool.
fn examine(
    case: &Case<'_>,
    mut data: MemoryDisk,
    mut metadata: MemoryDisk,
    before: &Content,
    table: &mut Table,
) {
    let row = table.row(case.kind, case.damage);
    row.cases += 1;
    let report = check(&mut data, &mut metadata, &mut |_| {});
    let named = report.as_ref().map_or(true, |report| !report.is_clean());
    assert!(named || !case.needed, "{}: check finds nothing", case.label);
    row.named += u64::from(named);
    match Pool::open(data.clone(), metadata.clone(), &open_options()) {
        Ok(mut pool) => {
            row.opened += 1;
            // Whatever cannot be read is an error; the rest is the present.
            let differences = before.differences(&content(&mut pool), &|_, _| true, false);
            assert_eq!(differences, [""; 0], "{}: opened", case.label);
        }
        Err(error) => assert_ne!(error.kind(), ErrorKind::Io, "{}", case.label),
    }
    let (made, mut target) = match repaired(&mut data, &mut metadata) {
        Ok(made) => made,
        Err(error) => return assert!(case.may_refuse, "{}: {error}", case.label),
    };
    row.repaired += 1;
    let report = &made.report;
    assert!(case.may_lose_volumes || !report.records_lost, "{}: records are lost", case.label);
    row.with_losses += u64::from(!report.losses.is_empty() || report.records_lost);
    let lost = is_lost(&report.losses);
    row.most_lost_sectors = row.most_lost_sectors.max(before.lost_sectors(&lost));
    for loss in &report.losses {
        let (from, to) = case.bytes.unwrap_or((0, 0));
        let inside = from <= loss.offset_bytes && loss.offset_bytes + loss.length_bytes <= to;
        assert!(inside, "{}: {loss:?} lies outside {:?}", case.label, case.bytes);
    }
    made.commit(&mut data).unwrap();
    let checked = check(&mut data, &mut target, &mut |_| {}).unwrap();
    assert!(checked.is_clean(), "{}: {:#?}", case.label, checked.findings);
    let mut pool = Pool::open(data, target, &open_options()).unwrap();
    let after = content(&mut pool);
    let differences = before.differences(&after, &lost, case.may_lose_volumes && report.records_lost);
    assert_eq!(differences, [""; 0], "{}: repaired, {:?}", case.label, report.losses);
    assert_eq!(before.strangers(&after), [""; 0], "{}: recovered", case.label);
}

/// The page as it was at the last earlier time at which it was another whole page.
fn older_version(disks: &Disks, number: u64, of_data: bool) -> Option<Vec<u8>> {
    let read = |disk: &MemoryDisk| {
        let mut disk = disk.clone();
        let bytes = Blocking::metadata(&mut disk).read(number * PAGE_BYTES as u64, PAGE_BYTES);
        bytes.map_or_else(|_| vec![0; PAGE_BYTES], |bytes| bytes.to_vec())
    };
    let now = read(if of_data { &disks.data } else { &disks.metadata });
    let older = disks.older.iter().rev().map(|(data, metadata)| read(if of_data { data } else { metadata }));
    older.into_iter().find(|bytes| *bytes != now && bytes.iter().any(|byte| *byte != 0))
}

/// The damaged versions of a page, by name.
fn damages(whole: &[u8], older: Option<Vec<u8>>) -> Vec<(&'static str, Vec<u8>)> {
    let mut flipped = whole.to_vec();
    flipped[100] ^= 0x10;
    let mut all = vec![("zeroed", vec![0; PAGE_BYTES]), ("bit flipped", flipped)];
    all.extend(older.map(|older| ("older version", older)));
    all
}

fn damage_everything() -> bool {
    std::env::var("VELLUM_SEEDS").is_ok_and(|text| text.parse::<u64>().is_ok_and(|seeds| seeds > 1))
}

/// Which pages of a kind are damaged: all, or some of those of which there are many, also some that had a past.
fn chosen(disks: &Disks, known: &BTreeMap<u64, Known>, part: usize, parts: usize) -> Vec<(u64, Known)> {
    let mut of_kind: BTreeMap<(&str, bool), Vec<(u64, Known)>> = BTreeMap::new();
    for (number, page) in known {
        let had_past = older_version(disks, *number, false).is_some();
        of_kind.entry((page.kind, had_past)).or_default().push((*number, page.clone()));
    }
    let some = of_kind.into_values().flat_map(|pages| {
        let stride = if damage_everything() { 1 } else { pages.len().div_ceil(6) };
        pages.into_iter().step_by(stride).collect::<Vec<_>>()
    });
    some.enumerate().filter(|(index, _)| index % parts == part).map(|(_, page)| page).collect()
}

fn present(disks: &Disks) -> Content {
    let mut pool = Pool::open(disks.data.clone(), disks.metadata.clone(), &open_options()).unwrap();
    content(&mut pool)
}

/// Damages pages of the metadata file, one at a time and with their second copies.
fn damage_pages(disks: &Disks, part: usize, parts: usize) {
    let before = present(disks);
    let (mut data, mut metadata) = (disks.data.clone(), disks.metadata.clone());
    let known = known_pages(&mut Files::new(&mut data, &mut metadata));
    let mut table = Table::default();
    for (number, known) in chosen(disks, &known, part, parts) {
        let whole = page(&mut metadata, number);
        for (damage, bytes) in damages(&whole, older_version(disks, number, false)) {
            let with_copy = known.copy.into_iter().flat_map(|copy| [vec![copy], vec![number, copy]]);
            for numbers in std::iter::once(vec![number]).chain(with_copy) {
                let mut damaged = metadata.clone();
                let is_all = numbers.len() > usize::from(known.copy.is_some());
                numbers.iter().for_each(|number| put_page(&mut damaged, *number, bytes.clone()));
                let single = known.copy.is_some() && !is_all;
                let kind = format!("{}{}", known.kind, if single { ", one copy" } else { "" });
                let case = Case {
                    kind: &kind,
                    damage,
                    label: format!("{kind}, pages {numbers:?} {damage}"),
                    // A stale slot that still leads to whole trees and a whole log gives the present: nothing is wrong.
                    needed: known.kind != "root slot" || damage != "older version",
                    bytes: known.bytes.filter(|_| !single),
                    may_lose_volumes: known.kind == "volume leaf",
                    may_refuse: known.kind == "superblock" && !single,
                };
                examine(&case, data.clone(), damaged, &before, &mut table);
            }
        }
    }
    table.print();
}

#[test]
fn pages_of_a_pool_that_was_not_closed_0() {
    damage_pages(&make(130, false), 0, 2);
}

#[test]
fn pages_of_a_pool_that_was_not_closed_1() {
    damage_pages(&make(130, false), 1, 2);
}

#[test]
fn pages_of_a_closed_pool() {
    damage_pages(&make(8, true), 0, 1);
}

/// Log heads, and records in the chain and out of it.
#[test]
fn pages_of_the_log() {
    let disks = make(8, false);
    let before = present(&disks);
    let (mut data, mut metadata) = (disks.data.clone(), disks.metadata.clone());
    let log = inspect::log(&mut data, &mut metadata).unwrap();
    let mut pages: BTreeMap<u64, (&str, bool)> = (0..2).map(|number| (number, ("log head", false))).collect();
    for entry in &log.entries {
        let first = entry.offset_bytes / PAGE_BYTES as u64;
        let kind = match entry.state {
            LogState::InChain => "log record, needed",
            _ => "log record, old",
        };
        pages.extend((first..first + u64::from(entry.header.pages)).map(|page| (page, (kind, true))));
    }
    let mut table = Table::default();
    let stride = if damage_everything() { 1 } else { 5 };
    let is_chosen = |(index, (_, (kind, _))): &(usize, (u64, (&str, bool)))| {
        *kind != "log record, old" || index % stride == 0
    };
    for (_, (number, (kind, is_record))) in pages.into_iter().enumerate().filter(is_chosen) {
        let offset = number * PAGE_BYTES as u64;
        let whole = Blocking::data(&mut data).read(offset, PAGE_BYTES).unwrap().to_vec();
        for (damage, bytes) in damages(&whole, older_version(&disks, number, true)) {
            let mut damaged = data.clone();
            Blocking::data(&mut damaged).write(offset, bytes.into()).unwrap();
            let case = Case {
                kind,
                damage,
                label: format!("{kind}, page {number} of the log {damage}"),
                needed: false,
                bytes: None,
                may_lose_volumes: false,
                may_refuse: is_record,
            };
            examine(&case, damaged, metadata.clone(), &before, &mut table);
        }
    }
    table.print();
}

const _: () = assert!(SECTOR_BYTES as usize == PAGE_BYTES);
