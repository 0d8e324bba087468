//! Deliberate breaks of the rules, one at a time, for the tests that prove that such a break is found.
//!
//! Owns the list. Compiled to "never" without the feature `canaries`; no program that people run has it. The table
//! canary to seeds needed is printed by the crash tests, see `docs/testing.md`.

/// One deliberate break. The comment names the hazard (H) of the design or the rule (L) that it breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Canary {
    /// H1: a snapshot is answered before writes decided before the cut have completed and its record is durable.
    SnapshotBeforeDurable,
    /// H1: writes after the cut still treat blocks as owned.
    SharedAsOwned,
    /// H2: overlapping writes do not wait for each other.
    NoSectorLocks,
    /// H3, L4: a freed block is given out before the record that freed it is proven.
    ReuseUnproven,
    /// H3: a freed block is given out while an operation that was given its address is in flight.
    NoPins,
    /// H3: a block is given out while it is being punched.
    PunchRacesRewrite,
    /// H3: a hole is made ready and given out while a trim punches it.
    TrimRacesWrite,
    /// H3, L4: discarded sectors are punched before the record that freed them is proven.
    SectorPunchUnproven,
    /// H3: discarded sectors are punched although somebody writes them.
    SectorPunchUnlocked,
    /// H3, L4: discarded sectors that were mapped again are punched when they are found unmapped, proven or not.
    SectorPunchStale,
    /// H3: a block is given out while it is being written ahead.
    WriteAheadRacesWrite,
    /// H4: a flush that arrives while a sync runs is answered by that sync.
    FlushSharesRunningSync,
    /// H5: checksums of log records are not verified.
    RecordChecksumIgnored,
    /// H5: checksums of pages are not verified.
    PageChecksumIgnored,
    /// H5: the older of two root slots is believed, without its log.
    OlderSlot,
    /// H5: nobody looks for signs of a missing record.
    NoEvidence,
    /// H6: a failed data write is published all the same.
    WriteErrorIgnored,
    /// H7, L7: a write is answered before its record is written.
    AckBeforeLog,
    /// L7: who finds nothing to do is answered before what made it so is written.
    NothingToDoAtOnce,
    /// L8: a failed sync is taken for a good one.
    FailedSyncIgnored,
    /// H8: a block that is being read may be given out.
    NoReadPins,
    /// H8, H9: a block is written in place while a former owner's operation on it is in flight.
    ForeignPinsIgnored,
    /// H9, L4: a block that became exclusive is written in place at once.
    ExclusiveTooEarly,
    /// H10: a mapping becomes visible before its data is written.
    MaskBeforeData,
    /// H11, L5: recovery does not sync the data it verified before it writes its verdict.
    VerdictUnsynced,
    /// L1: records of any incarnation are replayed, so that a dropped delta comes back.
    AnyIncarnation,
    /// L2: a delta states the whole mask as it was decided, not the sectors it brings.
    AbsoluteMask,
    /// L2: a dropped delta does not end the log.
    DropOneDelta,
    /// L3: a sync makes durable what was written when it completed, not when it was submitted.
    DurableAtCompletion,
    /// L3: one durable record is enough for a proof, so a lost one makes a proven delta look unproven.
    ProofByOneRecord,
    /// L4: a sector is overwritten in place before the record that published it is proven.
    InPlaceUnproven,
    /// L5: unproven records are replayed without looking at their data.
    UnseenReplay,
    /// L6: a checkpoint does not wait for the data that it maps.
    CheckpointAheadOfData,
    /// L6: the root slot is written without syncing the pages first.
    SlotAheadOfPages,
    /// L6: pages are given out again as soon as they are freed.
    PagesReleasedEarly,
    /// L6: a page is dropped from memory before the checkpoint that writes it is durable.
    EvictUnwritten,
    /// L6: log space is given out again when the newest slot no longer needs it.
    LogReleasedEarly,
    /// H8: a volume is smaller before what lay behind its new end is gone.
    SizeAheadOfTail,
    /// H6: blocks are given out that the host may have no room for.
    RoomUncertain,
    /// H6: writes take the pages of metadata that the next checkpoint needs.
    CheckpointWithoutRoom,
    /// H8: a rollback does not wait for writes that were decided on what it takes away.
    RollbackBesideWrites,
    /// L6: a pool that is made smaller names copies of blocks that are not synced.
    MovedUnsynced,
    /// L6: the data file is truncated while the older root slot still names blocks behind its end.
    TruncatedAheadOfSlots,
    /// L6: the kernel gets blocks whose filling is not synced.
    FilledUnsynced,
    /// L6: the kernel gets a pool whose older root slot still says that nobody has it.
    GivenByOneSlot,
}

impl Canary {
    /// Every canary.
    pub const ALL: [Self; 45] = [
        Self::SnapshotBeforeDurable,
        Self::SharedAsOwned,
        Self::NoSectorLocks,
        Self::ReuseUnproven,
        Self::NoPins,
        Self::PunchRacesRewrite,
        Self::TrimRacesWrite,
        Self::SectorPunchUnproven,
        Self::SectorPunchUnlocked,
        Self::SectorPunchStale,
        Self::WriteAheadRacesWrite,
        Self::FlushSharesRunningSync,
        Self::RecordChecksumIgnored,
        Self::PageChecksumIgnored,
        Self::OlderSlot,
        Self::NoEvidence,
        Self::WriteErrorIgnored,
        Self::AckBeforeLog,
        Self::NothingToDoAtOnce,
        Self::FailedSyncIgnored,
        Self::NoReadPins,
        Self::ForeignPinsIgnored,
        Self::ExclusiveTooEarly,
        Self::MaskBeforeData,
        Self::VerdictUnsynced,
        Self::AnyIncarnation,
        Self::AbsoluteMask,
        Self::DropOneDelta,
        Self::DurableAtCompletion,
        Self::ProofByOneRecord,
        Self::InPlaceUnproven,
        Self::UnseenReplay,
        Self::CheckpointAheadOfData,
        Self::SlotAheadOfPages,
        Self::PagesReleasedEarly,
        Self::EvictUnwritten,
        Self::LogReleasedEarly,
        Self::SizeAheadOfTail,
        Self::RollbackBesideWrites,
        Self::RoomUncertain,
        Self::CheckpointWithoutRoom,
        Self::MovedUnsynced,
        Self::TruncatedAheadOfSlots,
        Self::FilledUnsynced,
        Self::GivenByOneSlot,
    ];
}

#[cfg(feature = "canaries")]
mod switch {
    use super::Canary;
    use std::cell::Cell;

    thread_local! {
        static BROKEN: Cell<Option<Canary>> = const { Cell::new(None) };
    }

    /// Breaks one rule on this thread, or none.
    pub fn set(canary: Option<Canary>) {
        BROKEN.set(canary);
    }

    pub(crate) fn broken(canary: Canary) -> bool {
        BROKEN.get() == Some(canary)
    }
}

#[cfg(not(feature = "canaries"))]
mod switch {
    pub(crate) const fn broken(_: super::Canary) -> bool {
        false
    }
}

pub(crate) use switch::broken;
#[cfg(feature = "canaries")]
pub use switch::set;
