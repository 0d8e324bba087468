//! The table of figures: what was promised for the largest pool, what was measured, what does not hold.
//!
//! Owns the list of rows. A figure that was taken several times is shown as its median, lowest and highest beside it.

use std::collections::BTreeMap;
use vellum_benches::pools::Shape;
use vellum_benches::stat::number;

/// What the largest pool must keep to.
#[derive(Clone, Copy)]
enum Promise {
    AtMost(f64),
    AtLeast(f64),
    None,
}

/// A row: pool, the key that its step prints, what it is, its promise.
type Row = (Shape, &'static str, &'static str, Promise);

use Promise::{AtLeast, AtMost};
use Shape::{Broken, InOrder, Random};

const ROWS: [Row; 40] = [
    (InOrder, "open_ms", "open after a clean close, ms", AtMost(100.0)),
    (InOrder, "open_mib", "memory of that, MiB", AtMost(64.0)),
    (Broken, "open_ms", "open after a clean close, ms", AtMost(100.0)),
    (Broken, "open_processor_ms", "of that on a processor, ms", Promise::None),
    (Broken, "open_mib", "memory of that, MiB", AtMost(64.0)),
    (Random, "open_ms", "open after a clean close, ms", AtMost(100.0)),
    (Random, "open_mib", "memory of that, MiB", AtMost(64.0)),
    (Broken, "open_written_kib", "written by an opening and a close, KiB", Promise::None),
    (InOrder, "crash_s", "recovery a 400 K deltas in order, s", AtMost(1.0)),
    (InOrder, "crash_mib", "memory of that, MiB", AtMost(512.0)),
    (Random, "crash_s", "recovery a 400 K deltas at random, s", AtMost(1.0)),
    (Random, "crash_processor_s", "of that on a processor, s", Promise::None),
    (Random, "crash_mib", "memory of that, MiB", AtMost(512.0)),
    (InOrder, "snapshot_us", "snapshot, µs, without the device", AtMost(1000.0)),
    (InOrder, "delete_us", "immediate delete, µs, without the device", AtMost(1000.0)),
    (Random, "snapshot_us", "snapshot, µs, without the device", AtMost(1000.0)),
    (Random, "delete_us", "immediate delete, µs, without the device", AtMost(1000.0)),
    (Random, "snapshot_synced_us", "snapshot, µs, with its syncs", Promise::None),
    (Random, "delete_synced_us", "immediate delete, µs, with its syncs", Promise::None),
    (InOrder, "lookup_random_ns", "lookup anywhere, ns", AtMost(500.0)),
    (InOrder, "lookup_leaf_ns", "lookup in the last leaf, ns", AtMost(100.0)),
    (Random, "lookup_random_ns", "lookup anywhere, ns", AtMost(500.0)),
    (Random, "lookup_leaf_ns", "lookup in the last leaf, ns", AtMost(100.0)),
    (Random, "resident_page_bytes", "memory of a page in the cache, bytes", Promise::None),
    (InOrder, "mapping_mib", "metadata without counts, MiB", AtMost(8.0)),
    (InOrder, "counts_mib", "counts, MiB", Promise::None),
    (Broken, "mapping_mib", "metadata without counts, MiB", Promise::None),
    (Broken, "all_mib", "metadata in all, MiB", AtMost(24.0)),
    (Random, "scan_grew_mib", "memory that looking at all mappings adds, MiB", AtMost(64.0)),
    (Random, "mapping_bytes_a_block", "metadata without counts, bytes a block", AtMost(24.0)),
    (Random, "file_mib", "metadata file, MiB", Promise::None),
    (InOrder, "check_m_s", "check, million mappings a second of a processor", AtLeast(5.0)),
    (Broken, "check_m_s", "check, million mappings a second of a processor", AtLeast(5.0)),
    (Random, "check_m_s", "check, million mappings a second of a processor", AtLeast(5.0)),
    (InOrder, "difference_ms", "difference of two snapshots, 10 blocks, ms", AtMost(5.0)),
    (InOrder, "difference_first_ms", "the same behind an opening, ms", AtMost(5.0)),
    (Broken, "difference_ms", "difference of two snapshots, 10 blocks, ms", AtMost(5.0)),
    (Broken, "difference_first_ms", "the same behind an opening, ms", AtMost(5.0)),
    (Random, "difference_ms", "difference of two snapshots, 10 blocks, ms", AtMost(5.0)),
    (Random, "difference_first_ms", "the same behind an opening, ms", AtMost(5.0)),
];

/// Everything that was measured.
pub struct Table<'a> {
    sizes: &'a [u64],
    values: BTreeMap<(&'static str, String, usize), Vec<f64>>,
}

impl<'a> Table<'a> {
    pub fn new(sizes: &'a [u64]) -> Self {
        Self { sizes, values: BTreeMap::new() }
    }

    /// One measurement, of the pool in `column`.
    pub fn add(&mut self, shape: Shape, key: &str, column: usize, value: f64) {
        self.values.entry((shape.name(), key.to_owned(), column)).or_default().push(value);
    }

    pub fn print(mut self) {
        let heads: Vec<String> = self.sizes.iter().map(|size| format!("{} Ki", size >> 10)).collect();
        println!("| pool | figure | {} | promised | |", heads.join(" | "));
        println!("|---|---|{}---|---|", "---|".repeat(heads.len()));
        for (shape, key, what, promise) in ROWS {
            let cells: Vec<Option<(f64, String)>> =
                (0..heads.len()).map(|column| self.cell(shape, key, column)).collect();
            let shown: Vec<&str> =
                cells.iter().map(|cell| cell.as_ref().map_or("not measured", |(_, text)| text)).collect();
            let last = cells.last().and_then(|cell| cell.as_ref().map(|(median, _)| *median));
            let (promised, holds) = judge(promise, last);
            println!("| {} | {what} | {} | {promised} | {holds} |", shape.name(), shown.join(" | "));
        }
    }

    /// The median, and all that is to be shown of it.
    fn cell(&mut self, shape: Shape, key: &str, column: usize) -> Option<(f64, String)> {
        let values = self.values.get_mut(&(shape.name(), key.to_owned(), column))?;
        values.sort_by(f64::total_cmp);
        let (low, high, median) = (*values.first()?, *values.last()?, values[values.len() / 2]);
        let text = match values.len() {
            1 => number(median),
            _ => format!("{} ({}–{})", number(median), number(low), number(high)),
        };
        Some((median, text))
    }
}

fn judge(promise: Promise, measured: Option<f64>) -> (String, &'static str) {
    let (promised, holds) = match promise {
        AtMost(limit) => (format!("at most {limit}"), measured.map(|value| value <= limit)),
        AtLeast(limit) => (format!("at least {limit}"), measured.map(|value| value >= limit)),
        Promise::None => return (String::new(), ""),
    };
    (promised, holds.map_or("", |holds| if holds { "holds" } else { "FAILS" }))
}
