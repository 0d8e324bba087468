//! What became of every damage, by kind of page: the table that the test prints.

use std::collections::BTreeMap;

/// What became of the damages of one kind.
#[derive(Clone, Copy, Debug, Default)]
pub struct Row {
    pub cases: u64,
    pub named: u64,
    pub opened: u64,
    pub repaired: u64,
    pub with_losses: u64,
    pub most_lost_sectors: u64,
}

/// Rows by kind of page and damage.
#[derive(Default)]
pub struct Table(BTreeMap<(String, &'static str), Row>);

impl Table {
    pub fn row(&mut self, kind: &str, damage: &'static str) -> &mut Row {
        self.0.entry((kind.to_owned(), damage)).or_default()
    }

    pub fn print(&self) {
        println!(
            "{:<26} {:<16} {:>6} {:>6} {:>6} {:>8} {:>7} {:>12}",
            "page", "damage", "cases", "named", "opens", "repaired", "losing", "most sectors"
        );
        for ((kind, damage), row) in &self.0 {
            println!(
                "{kind:<26} {damage:<16} {:>6} {:>6} {:>6} {:>8} {:>7} {:>12}",
                row.cases, row.named, row.opened, row.repaired, row.with_losses, row.most_lost_sectors
            );
        }
    }
}
