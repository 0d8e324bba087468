//! The deliberate breaks of the protocol: each must be caught, or the explorer is blind.
//!
//! Owns the list and what each one means. Where a rule can be broken, the model asks for its break
//! by name. Read next: `main.rs`.

/// One rule broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Break {
    /// L1: the verdict keeps the old incarnation, so a dropped record behind a new one counts again.
    OldIncarnation,
    /// L2: a publish states the block's whole mask as it was decided.
    AbsoluteMask,
    /// L2: a delta whose data fails takes along only later deltas of the same data block.
    DropPerBlock,
    /// L3: what was written by the time a sync returns counts as durable.
    DurableAtCompletion,
    /// L4: a sector whose record is durable but not proven is overwritten in place.
    OverwriteUnproven,
    /// L4: the unproven publication is forgotten when the sector is discarded, then filled again.
    RefillUnproven,
    /// L4: a freed block is given out before its record is proven.
    ReuseUnproven,
    /// L4: a freed block is punched before its record is proven.
    PunchUnproven,
    /// L4: a block is written in place as soon as it has one owner.
    ExclusiveUnproven,
    /// L5: the verdict is written without syncing what recovery verified.
    VerdictUnsynced,
    /// L5: unproven deltas are taken without a look at their data.
    UnprovenUnseen,
    /// L5: recovery writes pages while the slots that it read may be in a cache only.
    RecoveryOverCache,
    /// L5: the verdict goes to one root slot.
    VerdictOneSlot,
    /// L6: a checkpoint of a record that is not durable.
    CheckpointAhead,
    /// L6: the root slot is written with the pages, one sync for both.
    SlotBeforePages,
    /// L6: the log is released up to the newer root slot.
    LogReleasedEarly,
    /// L6: pages of the older root slot are written over while it stands.
    PagesReleasedEarly,
    /// L6: recovery from the older root slot forgets what the newer one proves.
    SlotProofForgotten,
    /// L7: a request is answered when its delta is queued.
    AcknowledgeEarly,
    /// A flush that arrives while a sync runs is answered by it.
    FlushSharesSync,
    /// A flush is answered at once because the sync that covers everything has been submitted.
    FlushAtSubmission,
    /// A delta is applied and logged before its data has completed.
    MaskBeforeData,
    /// A block that a write in flight names is given out.
    NoPins,
    /// A block being punched is given out.
    PunchRace,
    /// A snapshot is acknowledged when its record is written.
    SnapshotUnsynced,
    /// A snapshot is acknowledged while a write decided before it is in flight.
    SnapshotUnsettled,
    /// A break of sharing copies a sector that a write in flight names.
    CopyUnsettled,
}

/// Every break.
pub const ALL: [Break; 27] = [
    Break::OldIncarnation,
    Break::AbsoluteMask,
    Break::DropPerBlock,
    Break::DurableAtCompletion,
    Break::OverwriteUnproven,
    Break::RefillUnproven,
    Break::ReuseUnproven,
    Break::PunchUnproven,
    Break::ExclusiveUnproven,
    Break::VerdictUnsynced,
    Break::UnprovenUnseen,
    Break::RecoveryOverCache,
    Break::VerdictOneSlot,
    Break::CheckpointAhead,
    Break::SlotBeforePages,
    Break::LogReleasedEarly,
    Break::PagesReleasedEarly,
    Break::SlotProofForgotten,
    Break::AcknowledgeEarly,
    Break::FlushSharesSync,
    Break::FlushAtSubmission,
    Break::MaskBeforeData,
    Break::NoPins,
    Break::PunchRace,
    Break::SnapshotUnsynced,
    Break::SnapshotUnsettled,
    Break::CopyUnsettled,
];

impl Break {
    /// The scope that catches it.
    pub fn scope(self) -> &'static str {
        match self {
            Break::AbsoluteMask | Break::SnapshotUnsettled => "two sectors",
            Break::RefillUnproven | Break::DropPerBlock => "two layers",
            Break::ExclusiveUnproven => "shared block",
            Break::PunchUnproven | Break::PunchRace => "punch",
            Break::CheckpointAhead
            | Break::SlotBeforePages
            | Break::LogReleasedEarly
            | Break::RecoveryOverCache
            | Break::PagesReleasedEarly
            | Break::SlotProofForgotten => "checkpoints, small log",
            Break::SnapshotUnsynced => "snapshot",
            Break::CopyUnsettled => "copy while writing",
            _ => "two volumes",
        }
    }
}
