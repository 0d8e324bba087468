//! Faults of a simulated disk: which operation fails, and how.
//!
//! Owns the plan and the account of what was done. Never fails anything by itself. Read next: `mod.rs`.

use std::ops::Range;
use vellum_engine::storage::Operation;

/// A kind of operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum OperationKind {
    /// A read.
    Read,
    /// A write.
    Write,
    /// A sync.
    Sync,
    /// A punch.
    Punch,
    /// An allocation or extension.
    Allocate,
}

impl OperationKind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Read, Self::Write, Self::Sync, Self::Punch, Self::Allocate];

    /// The kind of an operation.
    pub fn of(operation: &Operation) -> Self {
        match operation {
            Operation::Read { .. } => Self::Read,
            Operation::Write { .. } => Self::Write,
            Operation::Sync => Self::Sync,
            Operation::Punch { .. } => Self::Punch,
            Operation::Allocate { .. } => Self::Allocate,
        }
    }
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The device fails; any units of a write or punch are changed, or none. A sync covers nothing, for ever.
    Io,
    /// The host has no space; as [`Fault::Io`] otherwise.
    NoSpace,
    /// The device stops early: the first units are changed, the operation fails.
    Short,
    /// Reported done; nothing was written.
    Lost,
    /// Reported done; the bytes went to another page.
    Misdirected,
    /// Done, and one bit of it is wrong from then on.
    BitFlip,
}

impl Fault {
    /// Every fault.
    pub const ALL: [Self; 6] =
        [Self::Io, Self::NoSpace, Self::Short, Self::Lost, Self::Misdirected, Self::BitFlip];

    /// Whether the disk says nothing of it.
    pub fn is_silent(self) -> bool {
        matches!(self, Self::Lost | Self::Misdirected | Self::BitFlip)
    }

    /// Whether it can befall operations of this kind.
    pub fn befalls(self, kind: OperationKind) -> bool {
        match self {
            Self::Io => true,
            Self::NoSpace => {
                matches!(kind, OperationKind::Write | OperationKind::Sync | OperationKind::Allocate)
            }
            Self::Short => matches!(kind, OperationKind::Read | OperationKind::Write),
            Self::Lost | Self::Misdirected | Self::BitFlip => kind == OperationKind::Write,
        }
    }
}

/// The operation that a fault waits for: the `nth` (from 0) of a kind, inside a byte range.
#[derive(Clone, Debug)]
pub struct Trigger {
    /// Of which kind.
    pub kind: OperationKind,
    /// Starting in which bytes.
    pub range: Range<u64>,
    /// How many of those go well before.
    pub nth: u64,
}

impl Trigger {
    /// The `nth` operation of a kind, anywhere.
    pub fn nth(kind: OperationKind, nth: u64) -> Self {
        Self { kind, range: 0..u64::MAX, nth }
    }
}

/// What a fault did.
#[derive(Clone, Copy, Debug)]
pub struct Strike {
    /// The fault.
    pub fault: Fault,
    /// Where the operation started, in bytes.
    pub offset_bytes: u64,
    /// How many bytes it named.
    pub length_bytes: u64,
    /// Whether what it carried was written by a client, as far as its looks tell.
    pub client_data: bool,
}

/// Faults still to come.
#[derive(Clone, Debug, Default)]
pub struct FaultPlan {
    faults: Vec<(Trigger, Fault)>,
}

impl FaultPlan {
    /// One fault.
    pub fn one(trigger: Trigger, fault: Fault) -> Self {
        Self { faults: vec![(trigger, fault)] }
    }

    /// The fault that befalls this operation, if any. Counts it otherwise.
    pub fn next(&mut self, kind: OperationKind, offset_bytes: u64) -> Option<Fault> {
        let matching = |trigger: &Trigger| trigger.kind == kind && trigger.range.contains(&offset_bytes);
        let due = self.faults.iter().position(|(trigger, _)| matching(trigger) && trigger.nth == 0);
        for (trigger, _) in &mut self.faults {
            if matching(trigger) {
                trigger.nth = trigger.nth.saturating_sub(1);
            }
        }
        due.map(|index| self.faults.remove(index).1)
    }
}
