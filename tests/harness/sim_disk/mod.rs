//! A disk in memory that does what `docs/format.md` allows a disk to do, and no more.
//!
//! What it implements, by the numbers of that list:
//!
//! 1. A unit of 512 bytes is written whole or not at all; unsynced units survive a power cut in any subset and any
//!    order. With `byte_mixing` (mode `writeback`) an unsynced unit may come out as a mixture of two versions.
//! 2. A sync covers what had completed before it was submitted, on this disk.
//! 3. A failed sync covers nothing, and what it should have covered is never certain again.
//! 4. After a failed write or punch each unit it named is old or new, as if that much had been written. A failed read fills the buffer with rubbish.
//! 5. A completed write is seen by every later read. One in flight is seen, or not, unit by unit; of two writes to
//!    one unit that were in flight together either may win.
//! 6. [`SimDisk::kill`]: what had completed has happened; what was in flight has, or has not, unit by unit.
//! 7. Space that was never written reads as zeros. An extension that was not synced may be undone by a power cut.
//! 8. Punched units read as zeros; after a power cut before a sync they hold either.
//! 9. Every disk has its own sync.
//! 10. What is not allocated may find no room on the host: an allocation or write is refused, or a sync fails. An
//!     allocation counts as such after a power cut only if a sync has covered it.
//! 11. Faults come from a [`FaultPlan`].
//!
//! Operations stay in flight until somebody asks for a completion, and complete in random order. Everything is
//! decided by the seed. Never keeps a promise that the list does not make. Files: `image.rs` (bytes),
//! `volatile.rs` (what no sync has covered), `cut.rs` (power cut and kill), `fault.rs` (faults), `host.rs` (room).

mod cut;
mod fault;
mod host;
mod image;
mod power;
#[cfg(test)]
mod tests;
mod volatile;

pub use fault::{Fault, FaultPlan, OperationKind, Strike, Trigger};
pub use power::PowerSupply;

use crate::rng::Rng;
use crate::tag;
use host::Host;
use image::{Image, PAGE, UNIT, pages_of, units_in};
use vellum_engine::storage::{Completion, Disk, DiskError, HostRoom, Operation, Ticket};
use volatile::{Content, Cover, OperationNumber, Version, Volatile};

/// One in so many operations takes its time, so that others, and much else, happen while it is in flight.
const SLOW_ONE_IN: u64 = 16;

/// In which order operations complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Any.
    Random,
    /// As they were submitted: for looking at a pool, where nothing is to be found by disorder.
    Submission,
}

#[derive(Clone, Debug)]
struct Growth {
    operation: OperationNumber,
    doomed: bool,
    size_bytes: u64,
    /// The disk became shorter.
    truncates: bool,
}

#[derive(Debug)]
struct InFlight {
    number: OperationNumber,
    ticket: Ticket,
    operation: Operation,
    fault: Option<Fault>,
    /// Units of a write or punch that have not taken effect yet, page by page.
    rest: Vec<(u64, u8)>,
    /// What a sync will cover.
    cover: Option<Cover>,
    /// Takes its time: comes last, nearly always.
    slow: bool,
    /// Submitted after the power went off: has no effect whatever.
    dead: bool,
}

/// A simulated disk.
#[derive(Debug)]
pub struct SimDisk {
    visible: Image,
    durable: Image,
    size_bytes: u64,
    durable_size_bytes: u64,
    growths: Vec<Growth>,
    volatile: Volatile,
    in_flight: Vec<InFlight>,
    next_number: OperationNumber,
    next_order: u64,
    rng: Rng,
    order: Order,
    byte_mixing: bool,
    plan: FaultPlan,
    strikes: Vec<Strike>,
    counts: [u64; OperationKind::ALL.len()],
    power: PowerSupply,
    host: Host,
}

impl SimDisk {
    /// An empty disk. With `byte_mixing` unsynced units may be mixtures after a power cut.
    pub fn new(seed: u64, byte_mixing: bool) -> Self {
        Self {
            visible: Image::default(),
            durable: Image::default(),
            size_bytes: 0,
            durable_size_bytes: 0,
            growths: Vec::new(),
            volatile: Volatile::default(),
            in_flight: Vec::new(),
            next_number: 1,
            next_order: 1,
            rng: Rng::new(seed),
            order: Order::Random,
            byte_mixing,
            plan: FaultPlan::default(),
            strikes: Vec::new(),
            counts: [0; OperationKind::ALL.len()],
            power: PowerSupply::endless(),
            host: Host::default(),
        }
    }

    /// Completes operations in this order from now on.
    pub fn set_order(&mut self, order: Order) {
        self.order = order;
    }

    /// Lets these faults befall the operations submitted from now on.
    pub fn set_faults(&mut self, plan: FaultPlan) {
        self.plan = plan;
    }

    /// Draws power from `power` from now on.
    pub fn set_power(&mut self, power: PowerSupply) {
        self.power = power;
    }

    /// The room on its host.
    pub fn host(&mut self) -> &mut Host {
        &mut self.host
    }

    /// The faults that have happened.
    pub fn strikes(&self) -> &[Strike] {
        &self.strikes
    }

    /// How many operations of a kind were submitted.
    pub fn submitted(&self, kind: OperationKind) -> u64 {
        self.counts[kind as usize]
    }

    /// How many operations are in flight.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// 64 bits of the disk's randomness.
    pub fn random(&mut self) -> u64 {
        self.rng.bits()
    }

    /// Whether everything in flight takes its time.
    pub fn is_slow(&self) -> bool {
        self.in_flight.iter().all(|entry| entry.slow)
    }

    fn choose(&mut self) -> usize {
        let any = self.is_slow() || self.rng.one_in(2 * SLOW_ONE_IN);
        let eligible: Vec<usize> =
            (0..self.in_flight.len()).filter(|&index| any || !self.in_flight[index].slow).collect();
        *self.rng.pick(&eligible)
    }

    fn cover_now(&self, number: OperationNumber) -> Cover {
        Cover { before: number, incomplete: self.in_flight.iter().map(|other| other.number).collect() }
    }

    /// Now and then some units of an operation take effect (or are read) long before it completes.
    fn start_early(&mut self, entry: &mut InFlight) {
        if entry.fault.is_some() || entry.dead || !self.rng.one_in(4) {
            return;
        }
        let whole = self.rng.one_in(3);
        match &mut entry.operation {
            Operation::Read { offset_bytes, buffer } => self.visible.read(*offset_bytes, buffer),
            Operation::Write { .. } | Operation::Punch { .. } => {
                let Some(content) = content_of(&entry.operation) else { return };
                for index in 0..entry.rest.len() {
                    let (page, units) = entry.rest[index];
                    let early = if whole { units } else { units & self.rng.bits() as u8 };
                    self.take_effect(entry.number, page, early, &content);
                    entry.rest[index].1 &= !early;
                }
                return;
            }
            Operation::Sync | Operation::Allocate { .. } => return,
        }
        entry.rest.retain_mut(|(_, units)| {
            *units &= if whole { 0 } else { self.rng.bits() as u8 };
            *units != 0
        });
    }

    fn take_effect(&mut self, operation: OperationNumber, page: u64, units: u8, content: &Content) {
        if units == 0 {
            return;
        }
        match content {
            Content::Zeros if units == u8::MAX => self.visible.set_page(page, None),
            Content::Bytes { offset_bytes, bytes } if units == u8::MAX => {
                let at = (page * PAGE as u64 - offset_bytes) as usize;
                self.visible.set_page(page, bytes[at..].first_chunk());
            }
            _ => units_in(units).for_each(|unit| self.visible.set_unit(page, unit, content.unit(page, unit))),
        }
        let order = self.next_order;
        self.next_order += 1;
        self.volatile.add(page, Version { operation, order, units, doomed: false, content: content.clone() });
    }

    fn take_effect_all(&mut self, entry: &InFlight, content: &Content) {
        for &(page, units) in &entry.rest {
            self.take_effect(entry.number, page, units, content);
        }
    }

    fn complete(&mut self, mut entry: InFlight) -> Completion {
        let result = if self.power.is_off() || entry.dead {
            self.strand(&entry);
            Err(DiskError::Io(None))
        } else if let Some(fault) = entry.fault {
            self.complete_with_fault(&mut entry, fault)
        } else {
            self.complete_well(&mut entry)
        };
        Completion { ticket: entry.ticket, operation: entry.operation, result }
    }

    fn complete_well(&mut self, entry: &mut InFlight) -> Result<(), DiskError> {
        let (offset_bytes, length_bytes) = range_of(&entry.operation);
        let pages = offset_bytes / PAGE as u64..(offset_bytes + length_bytes).div_ceil(PAGE as u64);
        let is_refused = match &entry.operation {
            Operation::Allocate { .. } => !self.host.has_room_for(&pages),
            Operation::Write { .. } => self.host.refuses(&pages),
            Operation::Sync => self.host.is_overcommitted(),
            Operation::Read { .. } | Operation::Punch { .. } => false,
        };
        if is_refused {
            return self.fail(entry, DiskError::NoSpace);
        }
        match &entry.operation {
            Operation::Allocate { .. } | Operation::Write { .. } => self.host.add(entry.number, pages),
            Operation::Punch { .. } => self.host.remove(entry.number, pages),
            Operation::Read { .. } | Operation::Sync => {}
        }
        if let Some(content) = content_of(&entry.operation) {
            self.take_effect_all(entry, &content);
        }
        match &mut entry.operation {
            Operation::Read { offset_bytes, buffer } => {
                for &(page, units) in &entry.rest {
                    for unit in units_in(units) {
                        let at = (page as usize * PAGE + unit * UNIT) - *offset_bytes as usize;
                        buffer[at..at + UNIT].copy_from_slice(self.visible.unit(page, unit));
                    }
                }
            }
            Operation::Sync => {
                let cover = entry.cover.take().expect("a sync in flight has its cover");
                self.settle(&cover);
            }
            Operation::Allocate { offset_bytes, length_bytes } => {
                self.extend(entry.number, *offset_bytes + *length_bytes);
            }
            Operation::Write { .. } | Operation::Punch { .. } => {}
        }
        Ok(())
    }

    fn settle(&mut self, cover: &Cover) {
        self.volatile.settle(cover, &self.visible, &mut self.durable);
        self.host.settle(cover);
        let durable_size_bytes = &mut self.durable_size_bytes;
        self.growths.retain(|growth| {
            let covered = !growth.doomed && cover.contains(growth.operation);
            if covered {
                let least = if growth.truncates { 0 } else { *durable_size_bytes };
                *durable_size_bytes = growth.size_bytes.max(least);
            }
            !covered
        });
    }

    fn extend(&mut self, operation: OperationNumber, end_bytes: u64) {
        let size_bytes = end_bytes.next_multiple_of(PAGE as u64);
        if size_bytes > self.size_bytes {
            self.size_bytes = size_bytes;
            self.visible.grow((size_bytes / PAGE as u64) as usize);
            self.growths.push(Growth { operation, doomed: false, size_bytes, truncates: false });
        }
    }

    fn complete_with_fault(&mut self, entry: &mut InFlight, fault: Fault) -> Result<(), DiskError> {
        self.note_strike(&entry.operation, fault);
        match fault {
            Fault::Lost => Ok(()),
            Fault::Misdirected => {
                self.misdirect(entry);
                Ok(())
            }
            Fault::BitFlip => {
                self.flip_a_bit(entry);
                Ok(())
            }
            Fault::Io => self.fail(entry, DiskError::Io(Some(5))),
            Fault::NoSpace => self.fail(entry, DiskError::NoSpace),
            Fault::Short => self.fail(entry, DiskError::Short),
        }
    }

    fn note_strike(&mut self, operation: &Operation, fault: Fault) {
        let (offset_bytes, length_bytes) = range_of(operation);
        let client_data = matches!(operation, Operation::Write { bytes, .. } if tag::is_client_data(bytes));
        self.strikes.push(Strike { fault, offset_bytes, length_bytes, client_data });
    }

    fn fail(&mut self, entry: &mut InFlight, error: DiskError) -> Result<(), DiskError> {
        if let Some(content) = content_of(&entry.operation) {
            let kept = self.rng.below(entry.rest.len() as u64 + 1) as usize;
            for (index, &(page, units)) in entry.rest.clone().iter().enumerate() {
                let done = match error {
                    DiskError::Short if index < kept => units,
                    DiskError::Short => 0,
                    _ => units & self.rng.bits() as u8,
                };
                self.take_effect(entry.number, page, done, &content);
            }
        }
        match &mut entry.operation {
            Operation::Read { buffer, .. } => buffer.fill(0xe5),
            Operation::Sync => self.fail_sync(entry.cover.take()),
            Operation::Allocate { offset_bytes, length_bytes } if self.rng.one_in(2) => {
                self.extend(entry.number, *offset_bytes + *length_bytes);
            }
            _ => {}
        }
        Err(error)
    }

    fn fail_sync(&mut self, cover: Option<Cover>) {
        let cover = cover.expect("a sync in flight has its cover");
        self.volatile.doom_covered(&cover);
        for growth in &mut self.growths {
            growth.doomed |= cover.contains(growth.operation);
        }
    }

    fn misdirect(&mut self, entry: &InFlight) {
        let Operation::Write { offset_bytes, bytes } = &entry.operation else { return };
        let last = self.size_bytes - bytes.len() as u64;
        let target = self.rng.below(last / PAGE as u64 + 1) * PAGE as u64 + offset_bytes % PAGE as u64;
        let target = target.min(last);
        let content = Content::Bytes { offset_bytes: target, bytes: bytes.clone() };
        for (page, units) in pages_of(target, bytes.len() as u64) {
            self.take_effect(entry.number, page, units, &content);
        }
        self.strikes.push(Strike {
            fault: Fault::Misdirected,
            offset_bytes: target,
            length_bytes: bytes.len() as u64,
            client_data: true,
        });
    }

    fn flip_a_bit(&mut self, entry: &InFlight) {
        let Operation::Write { offset_bytes, bytes } = &entry.operation else { return };
        let mut rotten = bytes.to_vec();
        // Where something stands, if it is found soon: most of a page is padding that nobody reads.
        let mut at = 0;
        for _ in 0..16 {
            at = self.rng.below(rotten.len() as u64) as usize;
            if rotten[at] != 0 {
                break;
            }
        }
        rotten[at] ^= 1 << self.rng.below(8);
        let content = Content::Bytes { offset_bytes: *offset_bytes, bytes: rotten.into() };
        self.take_effect_all(entry, &content);
    }
}

impl Disk for SimDisk {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn host_room(&self) -> Option<HostRoom> {
        Some(self.host.room())
    }

    fn submit(&mut self, ticket: Ticket, operation: Operation) {
        let kind = OperationKind::of(&operation);
        let (offset_bytes, length_bytes) = range_of(&operation);
        assert!(
            offset_bytes.is_multiple_of(UNIT as u64) && length_bytes.is_multiple_of(UNIT as u64),
            "{kind:?} of {length_bytes} bytes at {offset_bytes} is not made of whole units"
        );
        let dead = !self.power.draw();
        let beyond = kind != OperationKind::Allocate && offset_bytes + length_bytes > self.size_bytes;
        let fault = if beyond { Some(Fault::Short) } else { self.plan.next(kind, offset_bytes) };
        let rest = if beyond || kind == OperationKind::Allocate {
            Vec::new()
        } else {
            pages_of(offset_bytes, length_bytes).collect()
        };
        let number = self.next_number;
        self.next_number += 1;
        self.counts[kind as usize] += 1;
        let cover = (kind == OperationKind::Sync).then(|| self.cover_now(number));
        let slow = self.order == Order::Random && self.rng.one_in(SLOW_ONE_IN);
        let mut entry = InFlight { number, ticket, operation, fault, rest, cover, slow, dead };
        self.start_early(&mut entry);
        self.in_flight.push(entry);
    }

    fn next_completion(&mut self) -> Option<Completion> {
        if self.in_flight.is_empty() {
            return None;
        }
        let index = match self.order {
            Order::Random => self.choose(),
            Order::Submission => 0,
        };
        self.power.draw();
        let entry = self.in_flight.remove(index);
        Some(self.complete(entry))
    }

    fn truncate(&mut self, size_bytes: u64) -> Result<(), DiskError> {
        assert!(self.in_flight.is_empty() && size_bytes.is_multiple_of(PAGE as u64));
        if !self.power.draw() {
            return Err(DiskError::Io(None));
        }
        if size_bytes < self.size_bytes {
            let operation = self.next_number;
            self.next_number += 1;
            // What is behind the end reads as zeros if the disk grows again.
            for page in size_bytes / PAGE as u64..self.size_bytes / PAGE as u64 {
                self.take_effect(operation, page, u8::MAX, &Content::Zeros);
            }
            self.size_bytes = size_bytes;
            self.growths.push(Growth { operation, doomed: false, size_bytes, truncates: true });
        }
        Ok(())
    }
}

fn range_of(operation: &Operation) -> (u64, u64) {
    match operation {
        Operation::Read { offset_bytes, buffer } => (*offset_bytes, buffer.len() as u64),
        Operation::Write { offset_bytes, bytes } => (*offset_bytes, bytes.len() as u64),
        Operation::Punch { offset_bytes, length_bytes }
        | Operation::Allocate { offset_bytes, length_bytes } => (*offset_bytes, *length_bytes),
        Operation::Sync => (0, 0),
    }
}

fn content_of(operation: &Operation) -> Option<Content> {
    match operation {
        Operation::Write { offset_bytes, bytes } => {
            Some(Content::Bytes { offset_bytes: *offset_bytes, bytes: bytes.clone() })
        }
        Operation::Punch { .. } => Some(Content::Zeros),
        Operation::Read { .. } | Operation::Sync | Operation::Allocate { .. } => None,
    }
}
