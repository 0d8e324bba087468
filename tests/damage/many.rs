//! Several pages damaged at once: repair saves less, and still nothing that is not so.
//!
//! No page is replaced by an older version here: below a bad inner page that is the one thing that repair cannot see
//! (`docs/format.md`, Repair), and another test does it to every page alone. `VELLUM_SEEDS` multiplies the runs,
//! `VELLUM_SEED` runs one.

use super::content::{content, is_lost};
use super::kinds::known_pages;
use super::pool::{Disks, make, open_options, page, put_page};
use super::{damages, present, repaired};
use vellum_engine::metadata::files::Files;
use vellum_engine::{Pool, check};
use vellum_tests::driver::{multiplier, only_seed};
use vellum_tests::rng::Rng;

const RUNS: u64 = 30;

/// Damages 2 to 6 pages with their copies, and says which.
fn damaged(disks: &Disks, pages: &[(u64, Option<u64>)], rng: &mut Rng) -> (Disks, Vec<String>) {
    let mut damaged = disks.clone();
    let mut labels = Vec::new();
    for _ in 0..2 + rng.below(5) {
        let (number, copy) = pages[rng.below(pages.len() as u64) as usize];
        let whole = page(&mut damaged.metadata, number);
        let mut ways = damages(&whole, None);
        let (way, bytes) = ways.swap_remove(rng.below(ways.len() as u64) as usize);
        let both = rng.below(4) > 0;
        labels.push(format!("{number}{}: {way}", if both { " and copy" } else { "" }));
        for place in std::iter::once(number).chain(copy.filter(|_| both)) {
            put_page(&mut damaged.metadata, place, bytes.clone());
        }
    }
    (damaged, labels)
}

#[test]
fn several_bad_pages_never_make_anything_up() {
    let pools = [make(8, false), make(8, true), make(130, true)];
    let pools = pools.map(|disks| {
        let before = present(&disks);
        let (mut data, mut metadata) = (disks.data.clone(), disks.metadata.clone());
        let known = known_pages(&mut Files::new(&mut data, &mut metadata));
        let pages: Vec<(u64, Option<u64>)> =
            known.into_iter().skip(4).map(|(number, known)| (number, known.copy)).collect();
        (disks, before, pages)
    });
    let seeds = only_seed().map_or(0..RUNS * multiplier(), |seed| seed..seed + 1);
    let (mut refused, mut recovered, mut reattached, mut lossless) = (0, 0, 0, 0);
    for seed in seeds {
        let mut rng = Rng::new(seed);
        let (disks, before, pages) = &pools[(seed % 3) as usize];
        let (Disks { mut data, mut metadata, .. }, labels) = damaged(disks, pages, &mut rng);
        let label = format!("VELLUM_SEED={seed}: {labels:?}");
        let (made, mut target) = match repaired(&mut data, &mut metadata) {
            Ok(made) => made,
            Err(_) => {
                refused += 1;
                continue;
            }
        };
        made.commit(&mut data).unwrap();
        let checked = check(&mut data, &mut target, &mut |_| {}).unwrap();
        assert!(checked.is_clean(), "{label}: {:#?}", checked.findings);
        let mut pool = Pool::open(data, target, &open_options()).unwrap();
        let after = content(&mut pool);
        let report = &made.report;
        let differences = before.differences(&after, &is_lost(&report.losses), report.records_lost);
        assert_eq!(differences, [""; 0], "{label}");
        assert_eq!(before.strangers(&after), [""; 0], "{label}");
        recovered += report.recovered_volumes.len();
        reattached += report.reattached_pages;
        lossless += u64::from(report.losses.is_empty() && !report.records_lost);
    }
    println!(
        "{refused} refused, {lossless} without loss, {reattached} pages and {recovered} volumes came back"
    );
    assert!(only_seed().is_some() || (recovered > 0 && reattached > 0 && lossless > 0 && refused < RUNS / 4));
}
