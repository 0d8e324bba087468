//! A pool of Vellum as metadata of dm-thin for the same data file, and the pool given to the kernel.
//!
//! Owns the order of it. Everything but the superblock of the new metadata is written and checked while the pool is still the
//! engine's; then the pool is given away, and only then the superblock makes the metadata valid. So a crash at any step leaves
//! one owner: the engine, or the kernel, for which the same export has to be run to its end if the superblock is not there
//! yet. Numbers of thin devices are those of volumes, which are never used again. Told in `docs/dm-thin.md`.

use crate::check::{Report, check};
use crate::device::{Target, WithFirst};
use crate::error::Error as ThinError;
use crate::format::{BLOCK_BYTES, DEVICE_ID_LIMIT, DeviceDetails, MAX_METADATA_BLOCKS, Superblock};
use crate::stream::{PoolHeader, Run, Sink};
use crate::writer::{MetadataWriter, Packing, Written};
use std::fmt;
use vellum_engine::error::{Error as PoolError, ErrorKind as PoolErrorKind, Place};
use vellum_engine::format::{Properties, VolumeKind, VolumeRecord};
use vellum_engine::hand_over::{HandOver, Mark, Plan};
use vellum_engine::options::OpenOptions;
use vellum_engine::request::Uuid;
use vellum_engine::storage::Disk;
use vellum_engine::units::VirtualBlock;

/// The time of the exported pool, and of the last snapshot of all its devices.
pub(crate) const POOL_TIME: u32 = 1;
/// What the kernel copies before it writes is older.
const SHARED_TIME: u32 = POOL_TIME - 1;
/// The setting of a pool under which LVM's number is kept: it compares the number with its own record.
pub(crate) const TRANSACTION_ID: &str = "dm.transaction-id";
/// 64 KiB in sectors of 512 bytes.
pub(crate) const DATA_BLOCK_SECTORS: u32 = 128;
/// Metadata grows with what is written later; this much is free in what [`metadata_bytes`] names.
const SPARE_BYTES: u64 = 4 << 20;

/// How a pool is exported.
#[derive(Clone, Debug, Default)]
pub struct ExportOptions {
    /// How it is opened before. The host's name stands in the pool's metadata while the kernel has the pool.
    pub open: OpenOptions,
    /// The mark of what an interrupted export left on the target: see [`crate::unfinished_mark`].
    pub interrupted: Option<Mark>,
}

/// How far an export has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Mappings that are written.
    pub mappings_done: u64,
    /// All mappings.
    pub mappings_total: u64,
}

/// A volume or snapshot as a thin device. The table that activates the device gives it its size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThinVolume {
    /// Number of the thin device; the same in every export.
    pub device: u32,
    /// The uuid of the volume.
    pub uuid: Uuid,
    /// Its name.
    pub name: String,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Whether it is a snapshot. The kernel does not keep anybody from writing to it: its table may.
    pub is_snapshot: bool,
    /// Mapped blocks of 64 KiB.
    pub mapped_blocks: u64,
}

/// What was exported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// What was copied and filled.
    pub plan: Plan,
    /// What the metadata has.
    pub written: Written,
    /// Every volume and snapshot.
    pub volumes: Vec<ThinVolume>,
}

/// Why a pool could not be exported or imported.
#[derive(Debug)]
pub enum Failure {
    /// The pool.
    Pool(PoolError),
    /// The metadata of dm-thin.
    Thin(ThinError),
    /// The new metadata is not what was written there; the target may be failing.
    Unsound(Box<Report>),
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pool(error) => error.fmt(out),
            Self::Thin(error) => error.fmt(out),
            Self::Unsound(report) => match report.findings.first() {
                Some(finding) => write!(out, "what was written reads differently: {finding}"),
                None => write!(out, "what was written reads differently"),
            },
        }
    }
}

impl std::error::Error for Failure {}

impl From<PoolError> for Failure {
    fn from(error: PoolError) -> Self {
        Self::Pool(error)
    }
}

impl From<ThinError> for Failure {
    fn from(error: ThinError) -> Self {
        Self::Thin(error)
    }
}

/// Bytes of metadata that are enough for what `plan` has, with room to grow.
pub fn metadata_bytes(plan: &Plan) -> u64 {
    // The kernel's estimate for a pool in use, and twice what the mappings take now.
    let bytes = (48 * plan.data_blocks).max(2 * 8 * 2 * plan.mappings) + SPARE_BYTES;
    bytes.next_multiple_of(SPARE_BYTES).min(MAX_METADATA_BLOCKS * BLOCK_BYTES as u64)
}

/// What stands as uuid in the metadata of a hand-over, which the kernel leaves as it is.
pub fn stamp(mark: &Mark) -> Uuid {
    let (pool, opening) = mark.split_at(size_of::<Uuid>());
    let mut stamp = [0; size_of::<Uuid>()];
    stamp.copy_from_slice(pool);
    stamp.iter_mut().zip(opening).for_each(|(byte, opening)| *byte ^= opening);
    stamp
}

/// Whether a snapshot that was given away is what it was: it has as many blocks, none of which the kernel has mapped.
pub(crate) fn is_unchanged(snapshot: &VolumeRecord, mapped_blocks: u64, newest_time: u32) -> bool {
    let had = snapshot.root.map_or(0, |(_, root)| root.mapped);
    mapped_blocks == had && newest_time == SHARED_TIME
}

fn transaction_id(settings: &Properties) -> u64 {
    let kept = settings.labels.iter().find(|(key, _)| key == TRANSACTION_ID);
    kept.and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
}

/// Exports the pool on two disks and gives it to the kernel. Nobody may have it open.
///
/// `target` makes the device for the metadata, once it is known what there is to do; it gets the mark by which an interrupted
/// hand-over is known. The pool is its own again after any error before the root slots are written; behind that the same
/// export goes on. Fails with `Limit` if dm-thin cannot hold the pool, and as
/// [`HandOver::begin`], [`HandOver::plan`] and [`MetadataWriter`] do.
pub fn export<T: Target, E: From<Failure>>(
    data: &mut dyn Disk,
    metadata: &mut dyn Disk,
    options: &ExportOptions,
    target: impl FnOnce(&Plan, &Mark) -> Result<T, E>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Exported, E> {
    let pool = |error: PoolError| E::from(Failure::Pool(error));
    let open = HandOver::begin(data, metadata, &options.open, options.interrupted);
    let mut hand_over = open.map_err(pool)?;
    refuse_limits(&hand_over.volumes()).map_err(pool)?;
    let plan = hand_over.plan().map_err(pool)?;
    let mut export = Export { plan, progress, done: 0, volumes: Vec::new() };
    let writer = MetadataWriter::new(target(&plan, &hand_over.mark())?, Packing::Shareable);
    let writer = writer.map_err(|error| E::from(Failure::Thin(error)))?;
    let mut writer = writer.with_mark(hand_over.mark());
    export.write(&mut hand_over, &mut writer).map_err(E::from)?;
    give(&mut hand_over, &mut writer, &options.open.owner.host).map_err(E::from)?;
    Ok(Exported { plan, written: writer.written(), volumes: export.volumes })
}

/// The superblock comes last: until then nobody takes the metadata for a pool.
fn give<T: Target>(
    hand_over: &mut HandOver<'_>,
    writer: &mut MetadataWriter<T>,
    host: &str,
) -> Result<(), Failure> {
    let superblock = writer.prepare()?;
    verify(writer, &superblock)?;
    hand_over.give(host)?;
    Ok(writer.commit(&superblock)?)
}

fn refuse_limits(volumes: &[VolumeRecord]) -> Result<(), PoolError> {
    match volumes.iter().find(|record| record.id.0 >= DEVICE_ID_LIMIT) {
        None => Ok(()),
        Some(record) => {
            let message = format!(
                "volume number {}, and numbers of thin devices end at {}: send its volumes to another pool, where they get new ones",
                record.id,
                DEVICE_ID_LIMIT - 1
            );
            Err(PoolError::new(PoolErrorKind::Limit, message).at(Place::Volume(record.id)))
        }
    }
}

struct Export<'p> {
    plan: Plan,
    progress: &'p mut dyn FnMut(Progress),
    done: u64,
    volumes: Vec<ThinVolume>,
}

impl Export<'_> {
    /// Fills and writes volume by volume.
    fn write(&mut self, hand_over: &mut HandOver<'_>, sink: &mut impl Sink) -> Result<(), Failure> {
        self.tell();
        sink.begin(&PoolHeader {
            uuid: stamp(&hand_over.mark()),
            time: POOL_TIME,
            transaction_id: transaction_id(&hand_over.settings()),
            data_block_sectors: DATA_BLOCK_SECTORS,
            nr_data_blocks: self.plan.data_blocks,
            ..PoolHeader::default()
        })?;
        hand_over.start_filling()?;
        for volume in hand_over.volumes() {
            let mapped_blocks = self.volume(hand_over, sink, &volume)?;
            self.volumes.push(ThinVolume {
                device: volume.id.0 as u32,
                uuid: volume.uuid,
                is_snapshot: volume.kind == VolumeKind::Snapshot,
                name: volume.name,
                size_bytes: volume.size_bytes,
                mapped_blocks,
            });
        }
        Ok(())
    }

    fn volume(
        &mut self,
        hand_over: &mut HandOver<'_>,
        sink: &mut impl Sink,
        volume: &VolumeRecord,
    ) -> Result<u64, Failure> {
        let details = DeviceDetails { snapshotted_time: POOL_TIME, ..DeviceDetails::default() };
        sink.device(volume.id.0 as u32, &details)?;
        // Whatever is written to a snapshot gets another block, so that an import sees that it is not what it was.
        let is_snapshot = volume.kind == VolumeKind::Snapshot;
        let mut mapped_blocks = 0;
        let mut next = Some(VirtualBlock(0));
        while let Some(first) = next {
            let batch = hand_over.mappings(volume, first)?;
            for whole in &batch.mappings {
                // The kernel copies a block before a write if it is older than the last snapshot of the device.
                let time = if whole.shared || is_snapshot { SHARED_TIME } else { POOL_TIME };
                let (virtual_begin, data_begin) = (whole.virtual_block.0, whole.data_block.0);
                sink.run(&Run { virtual_begin, data_begin, length: 1, time })?;
            }
            mapped_blocks += batch.mappings.len() as u64;
            self.done += batch.mappings.len() as u64;
            self.tell();
            next = batch.next;
        }
        sink.device_end()?;
        Ok(mapped_blocks)
    }

    fn tell(&mut self) {
        (self.progress)(Progress { mappings_done: self.done, mappings_total: self.plan.mappings });
    }
}

/// Checks what was prepared, with the superblock that it will get.
pub(crate) fn verify<T: Target>(writer: &MetadataWriter<T>, superblock: &Superblock) -> Result<(), Failure> {
    let prepared = WithFirst { rest: writer.target(), first: superblock.encode(0) };
    let report = check(prepared)?;
    if report.is_clean() { Ok(()) } else { Err(Failure::Unsound(Box::new(report))) }
}
