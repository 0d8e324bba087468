//! A pool of dm-thin as a pool of Vellum: with the data file as it is, or with copies of what it maps.
//!
//! Owns the order of it, whose metadata is believed, and how much of the sharing of nodes is kept: a device starts as the one before it with
//! which it has most nodes in common, and gets what differs. Who becomes which volume is in `names.rs`. Blocks are shared by their counts; times say nothing here. All
//! mappings are read before anything is written. Told in `docs/dm-thin.md`.

mod census;
mod copies;
mod names;
mod put;
mod sizes;

use crate::device::{Source, Target};
use crate::error::Error as ThinError;
use crate::export::{Failure, TRANSACTION_ID, stamp};
use crate::format::BLOCK_BYTES as THIN_BLOCK_BYTES;
use crate::reader::{Metadata, Salvage};
use census::{Census, Seen};
use copies::{Copies, Places};
use put::{Cursor, Put};
use rustc_hash::FxHashMap;
use sizes::size_of;
use std::collections::BTreeMap;
use vellum_engine::adopt::{Adoption, Given};
use vellum_engine::error::{Error as PoolError, ErrorKind as PoolKind, Place};
use vellum_engine::format::VolumeRecord;
use vellum_engine::options::CreateOptions;
use vellum_engine::request::Uuid;
use vellum_engine::storage::Disk;
use vellum_engine::units::{BLOCK_BYTES, VirtualBlock, VolumeId};

/// What stands in block 0 of metadata whose pool was imported.
const IMPORTED: &[u8] = b"this dm-thin metadata was imported into a pool of Vellum, which has the data now\n";
/// Blocks that can be noted as lost.
const LOST_BLOCKS_MAX: u64 = 1 << 26;

/// How a pool is imported. What is random comes from outside.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// The uuid of the pool, unless it was given away by Vellum.
    pub uuid: Uuid,
    /// Must be random.
    pub secret: u64,
    /// Must be random.
    pub nonce: u32,
    /// Now, in seconds since 1970.
    pub now_unix_s: u64,
    /// What devices are to be called.
    pub names: BTreeMap<u32, String>,
    /// How large devices are, in bytes: the metadata does not know.
    pub sizes: BTreeMap<u32, u64>,
    /// Data blocks of a pool that gets copies; enough for them and a quarter more, if none is named.
    pub data_blocks: Option<u64>,
    /// Adopt also what cannot be read as a whole: what the lost part maps counts as free, and will be written over.
    pub accepts_loss: bool,
    /// Take a pool back also by metadata that does not say that the pool was given away with it.
    pub accepts_unmarked: bool,
}

/// How far an import has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Mappings that were gone through.
    pub mappings_done: u64,
    /// All mappings, what is shared counted for each.
    pub mappings_total: u64,
}

/// A device that became a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportedVolume {
    /// Number of the thin device.
    pub device: u32,
    /// The volume.
    pub record: VolumeRecord,
    /// Mapped blocks of the thin device.
    pub mapped_blocks: u64,
    /// How many the metadata counts; after lenient reading they may differ although no range is known to be lost.
    pub counted_blocks: u64,
    /// It was given away as a snapshot, and the kernel has written to it: its uuid is a new one.
    pub is_changed: bool,
}

/// What was imported.
#[derive(Debug, Default)]
pub struct Imported {
    /// Every device, by the number of its volume.
    pub volumes: Vec<ImportedVolume>,
    /// What lenient reading could not read; such blocks read as errors.
    pub lost: Salvage,
    /// Data blocks of the pool.
    pub data_blocks: u64,
    /// Bytes that were copied.
    pub copied_bytes: u64,
    /// Userspace's own number in the metadata, which LVM compares.
    pub transaction_id: u64,
}

/// Makes a pool of the data file as it is. `data` holds the thin pool's data, in blocks of 64 KiB, and `target` is an empty
/// disk for the pool's metadata. `given` is what is known of a pool that Vellum gave away.
///
/// Fails with `Unsupported` for other block sizes and for pictures, `Mismatch` if `data` is too small or the metadata is not what the pool was given
/// away with, `NoSpace` if there is no room for a log. `target` is no pool then.
pub fn adopt<S: Source>(
    metadata: &Metadata<S>,
    data: &mut dyn Disk,
    target: &mut dyn Disk,
    given: Option<&Given>,
    options: &ImportOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<Imported, Failure> {
    refuse_picture(metadata)?;
    let census = Census::take(metadata)?;
    if census.blocks_a_block != 1 {
        let message = format!(
            "data blocks of {} bytes cannot be adopted, only copied into a pool",
            census.blocks_a_block * BLOCK_BYTES
        );
        return Err(PoolError::new(PoolKind::Unsupported, message).into());
    }
    if !options.accepts_loss {
        refuse_loss(&census)?;
    }
    if let Some(given) = given.filter(|_| !options.accepts_unmarked) {
        refuse_other(metadata, given)?;
    }
    let there = data.size_bytes() / BLOCK_BYTES;
    if there < census.nr_data_blocks {
        let message = format!(
            "the thin pool has {} data blocks, and the data file or device only {there}: is it the right one?",
            census.nr_data_blocks
        );
        return Err(PoolError::new(PoolKind::Mismatch, message).into());
    }
    let data_blocks = pool_blocks(&census, given, options, there);
    let create = create_options(options, data_blocks);
    let used = &census.used;
    let adoption = Adoption::begin(data, target, &create, given, options.nonce, &|block| used.has(block.0))?;
    Import::of(metadata, census, given, options)?.run(adoption, &mut Places::Same, data_blocks, progress)
}

/// Blocks of the pool: what comes back keeps its size if a log has room in it, everything else has all that is `there`.
fn pool_blocks(census: &Census, given: Option<&Given>, options: &ImportOptions, there: u64) -> u64 {
    let kept = census.nr_data_blocks;
    let has_room = || Adoption::has_room(&create_options(options, kept), &|block| census.used.has(block.0));
    if given.is_some() && has_room() { kept } else { there }
}

/// In place a pool would write over what is mapped and cannot be read.
fn refuse_loss(census: &Census) -> Result<(), PoolError> {
    let lacks = |seen: &Seen| seen.mapped_blocks < seen.device.details.mapped_blocks;
    if census.salvage.is_whole() && !census.devices.iter().any(lacks) {
        return Ok(());
    }
    let message = "not all of the metadata can be read where it should stand, and in place a pool would write over what the lost part maps: \
                   copy what is left into a pool of its own (`--copy`)";
    Err(PoolError::new(PoolKind::Unsupported, message))
}

/// Fails with `Mismatch` unless it is the metadata that the pool was given away with: the kernel keeps what an export put where dm-thin has
/// a uuid, and makes no pool smaller.
pub fn refuse_other<S: Source>(metadata: &Metadata<S>, given: &Given) -> Result<(), PoolError> {
    let found = metadata.superblock().uuid;
    let mismatch = |message: String| Err(PoolError::new(PoolKind::Mismatch, message));
    if found == [0; 16] {
        let message = "the metadata does not say that it is of this pool: thin_repair and thin_restore make such, and \
                       thin_check 1.x where it clears a flag";
        return mismatch(message.into());
    }
    if found != stamp(&given.mark()) {
        return mismatch("this is not the metadata that the pool was given away with last".into());
    }
    let nr_data_blocks = metadata.superblock().data_space_map.nr_blocks;
    if nr_data_blocks < given.data_blocks {
        return mismatch(format!(
            "the metadata has {nr_data_blocks} data blocks, and the pool had {} when it was given away",
            given.data_blocks
        ));
    }
    Ok(())
}

/// Fails with `Unsupported` if the metadata is a picture: its data is another pool's, and can only be copied.
pub fn refuse_picture<S: Source>(metadata: &Metadata<S>) -> Result<(), Failure> {
    if metadata.superblock().is_picture {
        let message = "the metadata is a picture of a pool that goes on, whose data nobody else can have";
        return Err(PoolError::new(PoolKind::Unsupported, message).into());
    }
    Ok(())
}

/// Makes a pool with copies of what the thin pool on `source` maps. `data` and `target` are empty disks; zeros are not copied.
///
/// Fails with `NoSpace` if the pool is to be smaller than what has to be copied.
pub fn copy<S: Source>(
    metadata: &Metadata<S>,
    source: &dyn Source,
    data: &mut dyn Disk,
    target: &mut dyn Disk,
    options: &ImportOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<Imported, Failure> {
    let mut census = Census::take(metadata)?;
    let needed = census.used.count() * census.blocks_a_block;
    let log = CreateOptions::log_blocks_for(needed + needed / 4 + 256);
    let data_blocks = options.data_blocks.unwrap_or(needed + needed / 4 + log + 256);
    let create = create_options(options, data_blocks);
    if needed + create.log_blocks > data_blocks {
        let message = format!(
            "{needed} blocks may have to be copied, the log takes {}, and the pool is to have {data_blocks}: give it {} bytes",
            create.log_blocks,
            (needed + 2 * create.log_blocks) * BLOCK_BYTES
        );
        return Err(PoolError::new(PoolKind::NoSpace, message).into());
    }
    let adoption = Adoption::begin(data, target, &create, None, options.nonce, &|_| false)?;
    let shared = std::mem::take(&mut census.shared);
    let copies = Copies::new(source, census.blocks_a_block, shared, create.log_blocks);
    Import::of(metadata, census, None, options)?.run(
        adoption,
        &mut Places::Copies(copies),
        data_blocks,
        progress,
    )
}

fn create_options(options: &ImportOptions, data_blocks: u64) -> CreateOptions {
    CreateOptions {
        data_blocks,
        log_blocks: CreateOptions::log_blocks_for(data_blocks),
        uuid: options.uuid,
        secret: options.secret,
        created_unix_s: options.now_unix_s,
    }
}

/// Makes metadata unusable whose pool was imported, so that the kernel does not take the data too. Its first block is what
/// brings it back.
pub fn disown(target: &mut impl Target, pool: &Uuid) -> Result<(), ThinError> {
    let mut first = vec![0; THIN_BLOCK_BYTES];
    first[..IMPORTED.len()].copy_from_slice(IMPORTED);
    first[IMPORTED.len()..][..pool.len()].copy_from_slice(pool);
    let failed = |error| ThinError::io(0, "writing", error);
    target.write_at(0, &first).map_err(failed)?;
    target.sync().map_err(failed)
}

/// The pool that metadata was imported into, by its first block.
pub fn imported_mark(first_block: &[u8]) -> Option<Uuid> {
    first_block.strip_prefix(IMPORTED)?.first_chunk().copied()
}

/// A device on its way to be a volume.
struct Member {
    seen: Seen,
    record: VolumeRecord,
    /// Place in the order of volumes of the one that it starts as.
    base: Option<usize>,
    is_changed: bool,
}

struct Import<'m, S> {
    metadata: &'m Metadata<S>,
    blocks_a_block: u64,
    members: Vec<Member>,
    next_volume: VolumeId,
    imported: Imported,
}

impl<'m, S: Source> Import<'m, S> {
    fn of(
        metadata: &'m Metadata<S>,
        census: Census,
        given: Option<&Given>,
        options: &ImportOptions,
    ) -> Result<Self, Failure> {
        let Census { blocks_a_block, transaction_id, devices, salvage, .. } = census;
        let next_volume = given.map_or(VolumeId(1), |given| given.next_volume);
        let is_whole = salvage.is_whole();
        let mut members = names::members(devices, given, options, next_volume)?;
        if is_whole {
            choose_bases(metadata, &mut members)?;
        }
        for at in 0..members.len() {
            let known =
                given.is_some_and(|given| given.volumes.iter().any(|old| old.id == members[at].record.id));
            // What is a snapshot of something is as large, and its last blocks may be unmapped.
            let base = members[at].base.filter(|_| !known).map(|base| members[base].record.size_bytes);
            let wanted = options.sizes.get(&members[at].seen.device.id).copied();
            let size = size_of(&members[at], blocks_a_block, wanted, base)?;
            members[at].record.size_bytes = size;
        }
        let last = members.iter().map(|member| member.record.id.0 + 1).max().unwrap_or(0);
        let imported = Imported { lost: salvage, transaction_id, ..Imported::default() };
        let next_volume = VolumeId(next_volume.0.max(last));
        Ok(Self { metadata, blocks_a_block, members, next_volume, imported })
    }

    fn run(
        mut self,
        mut adoption: Adoption<'_>,
        places: &mut Places<'_>,
        data_blocks: u64,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Imported, Failure> {
        let mut told = Progress {
            mappings_total: self.members.iter().map(|member| member.seen.mapped_blocks).sum(),
            ..Progress::default()
        };
        progress(told);
        let mut lost_blocks = 0;
        for at in 0..self.members.len() {
            self.member(&mut adoption, places, at, &mut lost_blocks)?;
            told.mappings_done += self.members[at].seen.mapped_blocks;
            progress(told);
        }
        let transaction_id = match self.imported.transaction_id {
            0 => String::new(),
            number => number.to_string(),
        };
        adoption.keep_setting(TRANSACTION_ID, &transaction_id)?;
        adoption.finish(self.next_volume)?;
        self.imported.copied_bytes = places.copied_bytes();
        self.imported.data_blocks = data_blocks;
        self.imported.volumes = self
            .members
            .into_iter()
            .map(|Member { seen, record, is_changed, .. }| ImportedVolume {
                device: seen.device.id,
                record,
                mapped_blocks: seen.mapped_blocks,
                counted_blocks: seen.device.details.mapped_blocks,
                is_changed,
            })
            .collect();
        Ok(self.imported)
    }

    fn member(
        &self,
        adoption: &mut Adoption<'_>,
        places: &mut Places<'_>,
        at: usize,
        lost_blocks: &mut u64,
    ) -> Result<(), Failure> {
        let member = &self.members[at];
        let base = member.base.map(|base| &self.members[base]);
        let volume = member.record.id;
        adoption.volume(member.record.clone(), base.map(|base| base.record.id))?;
        let mut put = Put { adoption, places, volume, blocks_a_block: self.blocks_a_block };
        let mut own = Cursor::new(self.metadata, &member.seen)?;
        match base {
            None => put.all(&mut own)?,
            Some(base) => {
                let mut before = Cursor::new(self.metadata, &base.seen)?;
                // A block that was cut for the base may be whole here.
                let end = base.record.size_bytes;
                let bytes = self.blocks_a_block * BLOCK_BYTES;
                let cut = (!end.is_multiple_of(bytes)).then_some(end / bytes);
                put.differences(&mut before, &mut own, cut)?;
                before.require_same()?;
            }
        }
        own.require_same()?;
        let size_blocks = member.record.size_bytes.div_ceil(BLOCK_BYTES);
        for (first, last) in &member.seen.lost {
            let first = first.saturating_mul(self.blocks_a_block);
            let end = last.saturating_add(1).saturating_mul(self.blocks_a_block).min(size_blocks);
            *lost_blocks += end.saturating_sub(first);
            if *lost_blocks > LOST_BLOCKS_MAX {
                let message = format!("more than {LOST_BLOCKS_MAX} blocks are lost: too much to be noted");
                return Err(PoolError::new(PoolKind::Limit, message).at(Place::Volume(volume)).into());
            }
            (first..end).try_for_each(|block| put.adoption.lose(volume, VirtualBlock(block)))?;
        }
        adoption.cut(volume, member.record.size_bytes)?;
        Ok(())
    }
}

/// For each device the one before it that has most of its uppermost nodes.
fn choose_bases<S: Source>(metadata: &Metadata<S>, members: &mut [Member]) -> Result<(), Failure> {
    let mut owners: FxHashMap<u64, usize> = FxHashMap::default();
    for (at, member) in members.iter_mut().enumerate() {
        let nodes = metadata.upper_nodes(&member.seen.device)?;
        let mut votes: FxHashMap<usize, u32> = FxHashMap::default();
        nodes
            .iter()
            .filter_map(|node| owners.get(node))
            .for_each(|owner| *votes.entry(*owner).or_default() += 1);
        member.base = votes.into_iter().max_by_key(|(owner, votes)| (*votes, *owner)).map(|(owner, _)| owner);
        owners.extend(nodes.into_iter().map(|node| (node, at)));
    }
    Ok(())
}
