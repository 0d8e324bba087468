//! The end of a machine or a process: what is left on the disk, drawn from everything that could be.
//!
//! Owns the choice of survivors. The disk it was taken from stays as it was, so that one run can be cut at every
//! operation. Read next: `volatile.rs`.

use super::image::{Image, PAGE, UNIT, units_in};
use super::volatile::{Content, OperationNumber, Version};
use super::{InFlight, SimDisk, content_of};
use crate::rng::{Rng, mix};

/// How a cut chooses; drawn once a cut, because a coin for every unit alone would hardly ever lose a whole write.
struct Taste {
    salt: u64,
    /// Out of 4: how much survives.
    keep: u64,
    grain: Grain,
    /// Later versions do not always win.
    shuffled: bool,
    mixing: bool,
}

#[derive(Clone, Copy)]
enum Grain {
    Unit,
    Page,
    Operation,
}

impl Taste {
    fn draw(rng: &mut Rng, mixing: bool) -> Self {
        Self {
            salt: rng.bits(),
            keep: rng.below(5),
            grain: *rng.pick(&[Grain::Unit, Grain::Page, Grain::Operation]),
            shuffled: rng.one_in(2),
            mixing,
        }
    }

    fn keeps(&self, operation: OperationNumber, page: u64, unit: usize) -> bool {
        let grain = match self.grain {
            Grain::Unit => page * 8 + unit as u64 + 1,
            Grain::Page => page,
            Grain::Operation => 0,
        };
        mix(self.salt ^ mix(operation) ^ grain) % 4 < self.keep
    }

    fn rank(&self, order: u64, page: u64, unit: usize) -> u64 {
        if self.shuffled { mix(self.salt ^ order ^ mix(page * 8 + unit as u64)) } else { order }
    }
}

impl SimDisk {
    /// The disk after the machine lost power now, with a random choice of what was not certain.
    pub fn power_cut(&self, rng: &mut Rng) -> Self {
        let mut disk = Self::new(rng.bits(), self.byte_mixing);
        let taste = Taste::draw(rng, self.byte_mixing);
        disk.size_bytes = self.surviving_size(rng);
        let pages = (disk.size_bytes / PAGE as u64) as usize;
        disk.durable = self.durable.clone();
        disk.durable.resize(pages);
        let mut late: Vec<(u64, Version)> = self.in_flight.iter().flat_map(versions_in_flight).collect();
        late.sort_by_key(|&(page, _)| page);
        for (page, versions) in self.volatile.pages().filter(|&(page, _)| page < pages as u64) {
            let from = late.partition_point(|&(other, _)| other < page);
            let to = late.partition_point(|&(other, _)| other <= page);
            let late = late[from..to].iter().map(|(_, version)| version);
            survive(&mut disk.durable, page, versions.iter().chain(late), &taste, rng);
        }
        for run in late.chunk_by(|one, other| one.0 == other.0) {
            let page = run[0].0;
            if page < pages as u64 && !self.volatile.has(page) {
                survive(&mut disk.durable, page, run.iter().map(|(_, version)| version), &taste, rng);
            }
        }
        disk.durable_size_bytes = disk.size_bytes;
        disk.host = self.host.after_power_cut();
        disk.visible = disk.durable.clone();
        disk
    }

    /// The disk after the process died now and the machine lived on: nothing is more certain than it was.
    pub fn kill(&self, rng: &mut Rng) -> Self {
        let taste = Taste::draw(rng, false);
        let mut disk = Self::new(rng.bits(), self.byte_mixing);
        disk.visible = self.visible.clone();
        disk.durable = self.durable.clone();
        disk.size_bytes = self.size_bytes;
        disk.durable_size_bytes = self.durable_size_bytes;
        disk.growths.clone_from(&self.growths);
        disk.volatile = self.volatile.clone();
        disk.next_number = self.next_number;
        disk.next_order = self.next_order;
        disk.host = self.host.clone();
        for entry in self.in_flight.iter().filter(|entry| !entry.dead) {
            let Some(content) = content_of(&entry.operation) else { continue };
            for &(page, units) in &entry.rest {
                let done = units_in(units).filter(|&unit| taste.keeps(entry.number, page, unit));
                let done = done.fold(0, |set, unit| set | 1 << unit);
                disk.take_effect(entry.number, page, done, &content);
            }
        }
        disk
    }

    /// The power is off: of what was still to be done some units are done, and nobody is told.
    pub(super) fn strand(&mut self, entry: &InFlight) {
        let Some(content) = content_of(&entry.operation).filter(|_| !entry.dead) else { return };
        for &(page, units) in &entry.rest {
            let done = units & self.rng.bits() as u8;
            self.take_effect(entry.number, page, done, &content);
        }
    }

    fn surviving_size(&self, rng: &mut Rng) -> u64 {
        let growths = self.growths.iter().map(|growth| growth.size_bytes);
        let sizes: Vec<u64> = growths.chain([self.durable_size_bytes]).collect();
        *rng.pick(&sizes)
    }
}

fn versions_in_flight(entry: &InFlight) -> Vec<(u64, Version)> {
    let Some(content) = content_of(&entry.operation).filter(|_| !entry.dead) else { return Vec::new() };
    let version = |units| Version {
        operation: entry.number,
        order: u64::MAX - 1,
        units,
        doomed: true,
        content: content.clone(),
    };
    entry.rest.iter().map(|&(page, units)| (page, version(units))).collect()
}

fn survive<'a>(
    durable: &mut Image,
    page: u64,
    versions: impl Iterator<Item = &'a Version> + Clone,
    taste: &Taste,
    rng: &mut Rng,
) {
    let touched = versions.clone().fold(0, |set, version| set | version.units);
    for unit in units_in(touched) {
        let of_unit = versions.clone().filter(|version| version.units & (1 << unit) != 0);
        let kept = of_unit.filter(|version| taste.keeps(version.operation, page, unit));
        let Some(winner) = kept.max_by_key(|version| taste.rank(version.order, page, unit)) else { continue };
        if taste.mixing && rng.one_in(4) {
            let mixture = mixed(durable.unit(page, unit), &winner.content, page, unit, rng);
            durable.set_unit(page, unit, Some(&mixture));
        } else {
            durable.set_unit(page, unit, winner.content.unit(page, unit));
        }
    }
}

fn mixed(old: &[u8], new: &Content, page: u64, unit: usize, rng: &mut Rng) -> Vec<u8> {
    let new = new.unit(page, unit).unwrap_or(&[0; UNIT]);
    let boundary = rng.below(UNIT as u64) as usize;
    let style = rng.below(3);
    let takes_new = |index: usize, rng: &mut Rng| match style {
        0 => index < boundary,
        1 => index >= boundary,
        _ => rng.one_in(2),
    };
    (0..UNIT).map(|index| if takes_new(index, rng) { new[index] } else { old[index] }).collect()
}
