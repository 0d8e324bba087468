//! Makes new metadata for a damaged pool, out of all that is provably live.
//!
//! Owns the order of a repair. The root slot that loses least is chosen, and the log behind it must reach the present as
//! in an opening (`log.rs`). Its volume records and counts are read with holes (`base.rs`), its mapping pages met once
//! each (`census.rs`); pages whose parent is bad go back where their counts, keys and generation prove that they belong
//! (`orphans.rs`). All trees are written to a new metadata file (`build.rs`, `target.rs`), where what cannot be saved is
//! *lost*: it reads as an error, never as older or other data. Then the log is replayed (`replay.rs`), and two
//! checkpoints and the superblocks make the new file a pool.
//!
//! Both disks of the damaged pool are only read, until [`Repair::commit`] writes the log head by which the old metadata
//! is refused from then on. `docs/format.md`, Repair, argues why.

mod base;
mod build;
mod census;
mod finish;
mod identity;
mod log;
mod orphans;
mod replay;
mod report;
mod source;
mod target;

pub use report::{Loss, Progress, RepairReport};

use crate::error::{Error, ErrorKind, Result};
use crate::format::{RootSlot, Superblock, VolumeKind, VolumeRecord, VolumeState};
use crate::metadata::files::Files;
use crate::metadata::recovery::Checked;
use crate::metadata::recovery::UNUSED_AHEAD;
use crate::metadata::{LogRing, Metadata, Parts, assemble};
use crate::request::Uuid;
use crate::storage::Disk;
use crate::units::{BLOCK_BYTES, Generation, Incarnation, PAGE_BYTES, PageNumber, VolumeId};
use base::Base;
use build::Build;
use census::Census;
use log::Log;
use orphans::Orphans;
use source::{Edge, PossibleBlocks, Source};
use target::Target;

/// What repair cannot know by itself.
#[derive(Clone, Copy, Debug)]
pub struct RepairOptions {
    /// A random number, so that the new metadata is not taken for another of the same pool.
    pub nonce: u32,
    /// A random number: the pool's new secret, if both superblocks are lost.
    pub secret: u64,
}

/// New metadata that is complete. The damaged pool is as it was until [`Repair::commit`].
pub struct Repair {
    /// What was found, made and lost.
    pub report: RepairReport,
    head: finish::Head,
}

impl Repair {
    /// Makes the data file belong to the new metadata, and the old metadata refused from then on.
    ///
    /// To be called when the new metadata file is where it shall be. Writes again, in place, data whose change is not
    /// yet proven, and one log head; syncs. May be called again after an error, or not at all: an opening with the new
    /// metadata does the second part by itself.
    pub fn commit(&self, data: &mut dyn Disk) -> Result<()> {
        self.head.commit(data)
    }
}

/// Makes new metadata on `target`, an empty disk that grows, for the pool on `data` and `metadata`, which are not
/// changed. Nobody may have the pool open.
///
/// Damage is told in the report. Fails with `Unsupported` if this is no pool that the program knows, `Mismatch` if the
/// files do not belong together, `Damaged` if the present state cannot be proven: both root slots are bad, or a log
/// record that was durable is missing; then nothing that repair could make would be true.
pub fn repair(
    data: &mut dyn Disk,
    metadata: &mut dyn Disk,
    target: &mut dyn Disk,
    options: &RepairOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<Repair> {
    let (plan, made) = {
        let mut files = Files::new(data, metadata);
        let (superblock, problems) = identity::superblock(&mut files, options.secret)?;
        let mut source = Source::new(&mut files, superblock.pool, progress);
        let mut plan = Plan::choose(&mut source, superblock, problems)?;
        let made = plan.make(&mut source, target)?;
        (plan, made)
    };
    finish::finish(Files::new(data, target), plan, made, options)
}

/// The root slot to start from, its log, and what is to be told.
struct Plan {
    superblock: Superblock,
    base: Base,
    log: Log,
    /// No page and no slot is younger.
    newest: Generation,
    report: RepairReport,
}

/// The trees as they were made.
struct Made {
    state: Metadata,
    any_lost: bool,
}

impl Plan {
    /// Takes the slot from which least is lost; the newest if that is the same.
    fn choose(source: &mut Source<'_, '_>, superblock: Superblock, mut problems: Vec<Error>) -> Result<Self> {
        let slots = source.files.root_slots(&superblock.pool);
        let newest = slots.iter().flatten().map(|slot| slot.generation).max().unwrap_or_default();
        let reached = slots.iter().flatten().map(|slot| slot.sequence).max().unwrap_or_default();
        let incarnation = slots.iter().flatten().map(|slot| slot.incarnation).max().unwrap_or_default();
        let mut refusal = None;
        let mut best: Option<((u64, u64), Base, Log)> = None;
        for slot in slots {
            let slot = match slot {
                Ok(slot) => slot,
                Err(error) => {
                    problems.push(error.clone());
                    refusal.get_or_insert(error);
                    continue;
                }
            };
            match Self::weigh(source, &superblock, slot, reached) {
                Ok((loss, base, log)) => {
                    if best.as_ref().is_none_or(|(least, ..)| loss < *least) {
                        best = Some((loss, base, log));
                    }
                }
                // Who has the pool matters more than what is wrong with it.
                Err(error) if error.kind() == ErrorKind::InUse => refusal = Some(error),
                Err(error) => drop(refusal.get_or_insert(error)),
            }
            if best
                .as_ref()
                .is_some_and(|((records, blocks), base, _)| records + blocks == 0 && base.problems.is_empty())
            {
                break;
            }
        }
        let Some((_, mut base, mut log)) = best else {
            let error = refusal.unwrap_or_else(|| Error::damaged("there is no root slot"));
            return Err(log::refused(&error));
        };
        // The other slot may be of an opening that never wrote its log head.
        log.incarnation = log.incarnation.max(incarnation);
        problems.append(&mut base.problems);
        let report = RepairReport { slot: base.slot.generation, problems, ..RepairReport::default() };
        Ok(Self { superblock, base, log, newest, report })
    }

    /// What starting from `slot` would lose: whether records, and mapped blocks.
    fn weigh(
        source: &mut Source<'_, '_>,
        superblock: &Superblock,
        slot: RootSlot,
        reached: crate::units::Sequence,
    ) -> Result<((u64, u64), Base, Log)> {
        refuse_unusable(&slot)?;
        let log = Log::read(source.files, superblock, &slot)?;
        if log.sequence < reached {
            return Err(Error::damaged("the log behind the older root slot does not reach the newer one"));
        }
        let base = Base::read(source, slot);
        let possible = PossibleBlocks::of(&base.slot);
        let mut census = Census::new(&possible);
        base.records.iter().for_each(|record| census.volume(source, &record.root));
        let loss = (u64::from(base.records_lost), census.lost_blocks());
        Ok((loss, base, log))
    }

    /// Makes all trees on `target`.
    fn make(&mut self, source: &mut Source<'_, '_>, target: &mut dyn Disk) -> Result<Made> {
        let possible = PossibleBlocks::of(&self.base.slot);
        let mut census = Census::new(&possible);
        self.base.records.iter().for_each(|record| census.volume(source, &record.root));
        let mut records = self.base.records.clone();
        if self.base.records_doubtful || census.bad.values().any(|bad| bad.edge.level > 0) {
            let orphans = Orphans::find(source, &self.base);
            self.report.reattached_pages = orphans.reattach(source, &self.base, &mut census);
            if self.base.records_doubtful {
                let roots = orphans.roots(source, &self.base, &mut census);
                let unknown = |page: &PageNumber| census.references(*page) == 0;
                self.base.records_lost |= self.base.unreadable.iter().any(unknown);
                self.recover_volumes(source, roots, &mut records);
            }
        }
        self.report.reattached_pages += self.base.leaves_found;
        self.report.records_lost = self.base.records_lost;
        self.report.problems.append(&mut census.problems);

        // A page may be needed for several ranges when something below it is lost, and lost ranges take leaves.
        let pages_at_most = source.pages().saturating_mul(4).saturating_add(4 << 20);
        let data_blocks = self.base.slot.data_blocks;
        let generation = Generation(self.newest.0 + UNUSED_AHEAD - 1);
        let mut target = Target::new(target, self.superblock.pool, data_blocks, pages_at_most)?;
        let mut build = Build::new(source, &census, &possible, &mut target, generation);
        for record in &mut records {
            record.root = build.volume(record)?;
        }
        let any_lost = build.any_lost;
        let state = assemble(Parts {
            superblock: self.superblock.clone(),
            slot: self.base.slot.clone(),
            records,
            settings: self.base.settings.clone(),
            next_volume: self.base.slot.next_volume,
            page_counts: std::mem::take(&mut target.page_counts),
            data_counts: std::mem::take(&mut target.data_counts),
            building: Generation(generation.0 + 1),
        })?;
        Ok(Made { state, any_lost })
    }

    /// Gives mappings without a record a volume of a new name. Not if the log changes a volume without a record: then
    /// these mappings may be of another time.
    fn recover_volumes(
        &mut self,
        source: &mut Source<'_, '_>,
        roots: Vec<Edge>,
        records: &mut Vec<VolumeRecord>,
    ) {
        self.base.records_lost |= !roots.is_empty();
        if !self.log.changes_only(records.iter().map(|record| record.id).collect()) {
            return;
        }
        // Numbers that the log gives out stay its own.
        let in_log = self.log.records.iter().flat_map(|record| &record.deltas).flat_map(log::made_by);
        let first = in_log.map(|id| id.0 + 1).fold(self.base.slot.next_volume.0, u64::max);
        for (index, root) in roots.into_iter().enumerate() {
            let mut name = format!("recovered-{}", index + 1);
            while records.iter().any(|record| record.name == name) {
                name.push('x');
            }
            self.report.recovered_volumes.push(name.clone());
            let size_bytes = end_bytes(source, root);
            let id = VolumeId(first + index as u64);
            // Nothing is known of its past.
            let in_place_since = Generation(self.newest.0 + UNUSED_AHEAD);
            let pool = self.superblock.pool;
            records.push(VolumeRecord { in_place_since, ..recovered(id, name, root, size_bytes, pool) });
        }
    }
}

/// Where the mappings of a tree end, in bytes, by its last page.
fn end_bytes(source: &mut Source<'_, '_>, root: Edge) -> u64 {
    use crate::metadata::cache::Node;
    let mut edge = root;
    loop {
        let below = match source.mapping_page(&edge).map(|page| page.node) {
            Ok(Node::Leaf(leaf)) => {
                return leaf.last().map_or(BLOCK_BYTES, |last| last.offset_bytes() + BLOCK_BYTES);
            }
            Ok(Node::Inner(inner)) => edge.children(&inner).last(),
            Err(_) => None,
        };
        match below {
            Some(below) => edge = below,
            // What is lost at the end counts as mapped.
            None => return (edge.low + 1).saturating_mul(BLOCK_BYTES),
        }
    }
}

fn recovered(id: VolumeId, name: String, root: Edge, size_bytes: u64, pool: Uuid) -> VolumeRecord {
    // Another for every number, and the same when the repair is made again.
    let mut uuid = pool;
    for (byte, number) in uuid.iter_mut().zip(id.0.to_le_bytes()) {
        *byte ^= number ^ 0x5a;
    }
    VolumeRecord {
        id,
        uuid,
        name,
        kind: VolumeKind::Volume,
        state: VolumeState::Active,
        origin: None,
        size_bytes,
        created_unix_s: 0,
        generation_of_birth: Generation(1),
        root: Some((root.level, root.pointer)),
        holds: Vec::new(),
        properties: Default::default(),
        key_slot: 0,
        in_place_since: Generation(0),
        deletion_deferred: false,
        received: None,
        unknown_tail: Vec::new(),
    }
}

/// What no repair may touch.
fn refuse_unusable(slot: &RootSlot) -> Result<()> {
    if slot.owner.kernel {
        let message = "the kernel's dm-thin has the data file; take it back first";
        return Err(Error::new(ErrorKind::InUse, message));
    }
    if slot.data_blocks > crate::units::DATA_BLOCKS_MAX {
        return Err(Error::new(ErrorKind::Unsupported, "the pool is larger than this program can hold"));
    }
    Ok(())
}
