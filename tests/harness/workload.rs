//! Random requests: what the clients of a simulated pool ask for.
//!
//! Owns the choice. Operations name volumes by a number that is resolved when they are issued, so a list from which
//! some were taken out still runs: that is what shrinking does. Read next: `model/issue.rs`.

use crate::rng::Rng;
use vellum_engine::units::{BLOCK_BYTES, SECTOR_BYTES, UNIT_BYTES};

const SECTORS_PER_BLOCK: u64 = BLOCK_BYTES / SECTOR_BYTES;

/// Chooses one of the volumes that fit, when the operation is issued.
pub type Selector = u64;

/// A byte range; cut to the volume when the operation is issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Where it starts.
    pub offset_bytes: u64,
    /// How long it is.
    pub length_bytes: u64,
}

/// One thing that a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Read a range of a volume or snapshot.
    Read(Selector, Span),
    /// Write a range of a volume; the flag is FUA.
    Write(Selector, Span, bool),
    /// Write zeros to a range of a volume; the flags are "keep allocated" and FUA.
    WriteZeroes(Selector, Span, bool, bool),
    /// Discard a range of a volume; the flag is FUA.
    Discard(Selector, Span, bool),
    /// Flush everything.
    Flush,
    /// Make a volume of so many blocks.
    Create(u64),
    /// Snapshot some volumes at one moment.
    Snapshot(Vec<Selector>),
    /// Clone a snapshot.
    Clone(Selector),
    /// Delete volumes and snapshots.
    Delete(Vec<Selector>),
    /// Delete a snapshot, now or with its last hold.
    DeleteDeferred(Selector),
    /// Give a volume a size of about so many sectors.
    Resize(Selector, u64),
    /// Give a volume or snapshot another name.
    Rename(Selector),
    /// Roll a volume back to this snapshot.
    Rollback(Selector),
    /// Put a hold on a volume or snapshot.
    Hold(Selector),
    /// Take a hold away.
    Release(Selector),
    /// Collapse a volume.
    Collapse(Selector),
    /// Write a checkpoint.
    Checkpoint,
    /// Punch what is free in a part of the pool, from this block on.
    Trim(u64),
    /// Change what the pool does about space.
    Configure(Selector),
    /// Let the pool have so many data blocks.
    Extend(u64),
    /// Others use the hosts: so many pages are left of room for data, and for metadata. None for no limit.
    HostRoom(Option<u64>, Option<u64>),
}

/// What kind of requests, and how many.
#[derive(Clone, Debug)]
pub struct WorkloadConfig {
    /// How many operations.
    pub operations: usize,
    /// Size of a volume in blocks, at most.
    pub volume_blocks: u64,
    /// Blocks that most requests go to.
    pub hot_blocks: u64,
    /// One in so many ranges has any byte alignment; 0 for none.
    pub unaligned_one_in: u64,
    /// One in so many writes has FUA.
    pub fua_one_in: u64,
    /// One in so many operations is a flush.
    pub flush_one_in: u64,
    /// One in so many operations makes or deletes volumes, snapshots and clones.
    pub administration_one_in: u64,
}

impl Default for WorkloadConfig {
    fn default() -> Self {
        Self {
            operations: 120,
            volume_blocks: 5,
            hot_blocks: 2,
            unaligned_one_in: 6,
            fua_one_in: 10,
            flush_one_in: 12,
            administration_one_in: 6,
        }
    }
}

/// The operations of a seed.
pub fn generate(config: &WorkloadConfig, rng: &mut Rng) -> Vec<Op> {
    let first = Op::Create(rng.between(1, config.volume_blocks));
    std::iter::once(first).chain((1..config.operations).map(|_| operation(config, rng))).collect()
}

/// What happens to the space of a crowded pool beside `ops`: in between, one in so many.
pub fn crowd(ops: Vec<Op>, data_blocks: u64, rng: &mut Rng) -> Vec<Op> {
    let mut all = Vec::with_capacity(ops.len() * 2);
    for op in ops {
        if rng.one_in(8) {
            all.push(match rng.below(8) {
                0 => Op::Extend(data_blocks + rng.below(24)),
                1..4 => Op::Configure(rng.bits()),
                _ => {
                    let pages = |rng: &mut Rng, most| (!rng.one_in(3)).then(|| rng.below(most));
                    Op::HostRoom(pages(rng, 8 * SECTORS_PER_BLOCK), pages(rng, 64))
                }
            });
        }
        all.push(op);
    }
    all
}

fn operation(config: &WorkloadConfig, rng: &mut Rng) -> Op {
    if rng.one_in(config.flush_one_in) {
        return Op::Flush;
    }
    if rng.one_in(config.administration_one_in) {
        return administration(config, rng);
    }
    let span = span(config, rng);
    let fua = rng.one_in(config.fua_one_in);
    match rng.below(100) {
        0..25 => Op::Read(rng.bits(), span),
        25..79 => Op::Write(rng.bits(), span, fua),
        79..80 => Op::Trim(rng.below(64)),
        80..86 => Op::WriteZeroes(rng.bits(), span, rng.one_in(2), fua),
        86..97 => Op::Discard(rng.bits(), span, fua),
        97..98 => Op::Collapse(rng.bits()),
        98..99 => Op::Configure(rng.bits()),
        _ => Op::Checkpoint,
    }
}

fn administration(config: &WorkloadConfig, rng: &mut Rng) -> Op {
    let some = |rng: &mut Rng| (0..rng.between(1, 2)).map(|_| rng.bits()).collect();
    match rng.below(100) {
        0..8 => Op::Create(rng.between(1, config.volume_blocks)),
        8..36 => Op::Snapshot(some(rng)),
        36..47 => Op::Clone(rng.bits()),
        47..66 => Op::Delete(some(rng)),
        66..72 => Op::Hold(rng.bits()),
        72..79 => Op::Release(rng.bits()),
        79..82 => Op::DeleteDeferred(rng.bits()),
        82..89 => Op::Resize(rng.bits(), rng.between(1, config.volume_blocks * SECTORS_PER_BLOCK)),
        89..92 => Op::Rename(rng.bits()),
        _ => Op::Rollback(rng.bits()),
    }
}

fn span(config: &WorkloadConfig, rng: &mut Rng) -> Span {
    let blocks = if rng.one_in(4) { config.volume_blocks } else { config.hot_blocks };
    if config.unaligned_one_in > 0 && rng.one_in(config.unaligned_one_in) {
        let length_bytes = rng.between(1, *rng.clone().pick(&[100, 5000, 20_000]));
        return Span { offset_bytes: rng.below(blocks * BLOCK_BYTES), length_bytes };
    }
    match rng.below(10) {
        0 => Span { offset_bytes: rng.below(blocks) * BLOCK_BYTES, length_bytes: BLOCK_BYTES },
        1 => of_grain(rng, blocks, SECTOR_BYTES, 20),
        2 => of_grain(rng, blocks, UNIT_BYTES, 12),
        _ => of_grain(rng, blocks, SECTOR_BYTES, 3),
    }
}

fn of_grain(rng: &mut Rng, blocks: u64, grain: u64, longest: u64) -> Span {
    let offset_bytes = rng.below(blocks * BLOCK_BYTES / grain) * grain;
    Span { offset_bytes, length_bytes: rng.between(1, longest) * grain }
}
