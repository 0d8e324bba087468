//! From the bytes on disk to the present state: choose a root slot, read what hangs on it, replay the log.
//!
//! Owns the reading half of the crash argument in `docs/format.md` (L1, L2, L5 and Damage). Writes nothing: the
//! verdict is written by `data_path/opening.rs`. Used as it is by `check/`, on pools that must not be touched. Read next:
//! `load.rs` (what hangs on a slot).

use super::Metadata;
use super::files::Files;
use super::load::{keep_other_pages, load, load_page};
use super::log_ring::{LogRing, PAGES_PER_BLOCK};
use super::tree::Fault;
use crate::canary::{self, Canary};
use crate::error::{Error, ErrorKind, Place, Result};
use crate::format::{self, Delta, LogHead, LogRecord, RecordHeader, RootSlot, Superblock};
use crate::units::{DataBlock, Generation, Incarnation, PAGE_BYTES, SECTOR_BYTES, SectorMask, Sequence};

/// How far ahead of the newest slot that was found the pages of recovery are numbered. While slot `g` was the newest
/// durable one, changes were made for `g + 1`, and for `g + 2` once that was frozen; records of volumes say so. If slot
/// `g + 1` is lost or cannot be read, both are one more. What recovery builds has to be newer than all of these, and odd
/// numbers keep the slots in turn.
pub(crate) const UNUSED_AHEAD: u64 = 5;

/// The present state of a pool, found without writing anything.
pub struct Recovered {
    /// The state after the last delta that counts.
    pub metadata: Metadata,
    /// The log, its head behind the last record that was found.
    pub ring: LogRing,
    /// The last record that was found.
    pub sequence: Sequence,
    /// The newest incarnation that has written anything.
    pub incarnation: Incarnation,
    /// The data of unproven deltas that was verified and counts.
    pub checked: Vec<Checked>,
    /// What recovery came upon.
    pub findings: Findings,
}

/// Sectors of a block whose data was verified.
pub type Checked = (DataBlock, SectorMask);

/// What recovery came upon; for people and for `check`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Records behind the root slot's.
    pub records: u64,
    /// Deltas applied from them.
    pub deltas: u64,
    /// Where the log ended because the data of an unproven delta had not reached the disk.
    pub dropped_at: Option<Sequence>,
    /// The newest root slot could not be used, the other one was.
    pub fallback: Option<Fallback>,
}

/// Why and how the older root slot was used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fallback {
    /// What is wrong with the newest slot, or with what hangs on it.
    pub cause: Error,
    /// The generation under which the good slot replaces the bad one.
    pub copy: Generation,
}

/// Finds the present state. Fails rather than give an older one.
pub fn recover(files: &mut Files<'_>) -> Result<Recovered> {
    let superblock = files.superblock()?;
    let [newest, other] = files.root_slots(&superblock.pool);
    if let (Err(_), Ok(other)) = (&newest, &other) {
        // Both slots said so before one of them rotted.
        refuse_given(other)?;
    }
    let (generation, reached) =
        newest.as_ref().map_or_else(|_| Default::default(), |slot| (slot.generation, slot.sequence));
    let first = newest.and_then(|slot| {
        let building = Generation(slot.generation.0 + UNUSED_AHEAD);
        recover_from(files, &superblock, slot, other.as_ref().ok(), building)
    });
    match (first, other) {
        (Ok(found), _) => Ok(found),
        // Either slot plus the log gives the present; an older log that does not reach it refuses by itself.
        (Err(error), Ok(slot)) if error.kind() == ErrorKind::Damaged || error.kind() == ErrorKind::Io => {
            let found = fall_back(files, &superblock, slot, generation, error.clone())?;
            // The newest slot says how far the present reaches, also when what hangs on it is bad.
            if found.sequence < reached { Err(error) } else { Ok(found) }
        }
        (Err(error), _) => Err(error),
    }
}

/// Recovers from the older slot. Before anything else is written it has to be copied over the bad one, as
/// generation [`Fallback::copy`], so what is built comes behind that.
fn fall_back(
    files: &mut Files<'_>,
    superblock: &Superblock,
    slot: RootSlot,
    newest: Generation,
    cause: Error,
) -> Result<Recovered> {
    let mut copy = Generation(newest.max(slot.generation).0 + UNUSED_AHEAD - 1);
    if copy.0 % 2 == slot.generation.0 % 2 {
        // The good slot keeps its place until its copy stands in the bad one's.
        copy.0 += 1;
    }
    let mut found =
        recover_from(files, superblock, slot, None, Generation(copy.0 + 1)).map_err(|_| cause.clone())?;
    found.findings.fallback = Some(Fallback { cause, copy });
    Ok(found)
}

fn recover_from(
    files: &mut Files<'_>,
    superblock: &Superblock,
    slot: RootSlot,
    other: Option<&RootSlot>,
    building: Generation,
) -> Result<Recovered> {
    refuse_given(&slot)?;
    let mut ring = LogRing::new(&slot.log, slot.log_position)?;
    check_log_head(files, superblock, &slot, &ring)?;
    let mut metadata = load(files, superblock, slot, building)?;
    if let Some(other) = other {
        keep_other_pages(files, &mut metadata, other);
    }
    let records = read_chain(files, superblock, &metadata.slot, &mut ring)?;
    let sequence = records.last().map_or(metadata.slot.sequence, |record| record.sequence);
    // A slot that says the pool was closed is the last thing that its opening wrote; records of a later opening come after
    // its log head, and both heads are whole and not later. So there is nothing to find in the ring, which may be 256 MiB
    // long.
    let nothing_follows = metadata.slot.clean && records.is_empty();
    let synced = if nothing_follows && are_log_heads_whole(files, superblock, &ring)? {
        sequence
    } else {
        look_for_evidence(files, superblock, &metadata.slot, &ring, sequence)?
    };
    let mut findings = Findings { records: records.len() as u64, ..Findings::default() };
    let checked = replay(files, &mut metadata, &ring, &records, synced, &mut findings)?;
    let incarnation = metadata.slot.incarnation;
    Ok(Recovered { metadata, ring, sequence, incarnation, checked, findings })
}

/// A pool that the kernel has: its data file may be another's by now, the log in it too.
fn refuse_given(slot: &RootSlot) -> Result<()> {
    if !slot.owner.kernel {
        return Ok(());
    }
    Err(Error::new(ErrorKind::InUse, "the kernel's dm-thin has the data file; take it back first"))
}

/// The state that a pool had when it was given to the kernel: what the newest root slot says, without a look at the log, which
/// was empty then and may be overwritten by now. Both slots say the same; one that rotted meanwhile is passed over.
///
/// Fails with `Invalid` if the kernel does not have the pool.
pub fn recover_without_log(files: &mut Files<'_>) -> Result<Recovered> {
    let superblock = files.superblock()?;
    let [newest, other] = files.root_slots(&superblock.pool);
    let (slot, other) = match (newest, other) {
        (Ok(newest), other) => (newest, other.ok()),
        (Err(_), Ok(other)) if other.owner.kernel => (other, None),
        (Err(error), _) => return Err(error),
    };
    if !slot.owner.kernel {
        return Err(Error::invalid("the kernel does not have this pool"));
    }
    // The good slot keeps its place until another stands in the bad one's.
    const { assert!(UNUSED_AHEAD % 2 == 1) };
    let building = Generation(slot.generation.0 + UNUSED_AHEAD);
    let ring = LogRing::new(&slot.log, slot.log_position)?;
    let (sequence, incarnation) = (slot.sequence, slot.incarnation);
    let mut metadata = load(files, &superblock, slot, building)?;
    if let Some(other) = &other {
        keep_other_pages(files, &mut metadata, other);
    }
    let (checked, findings) = Default::default();
    Ok(Recovered { metadata, ring, sequence, incarnation, checked, findings })
}

/// The data file must be this pool's, and not newer than the metadata.
pub(crate) fn check_log_head(
    files: &mut Files<'_>,
    superblock: &Superblock,
    slot: &RootSlot,
    ring: &LogRing,
) -> Result<()> {
    let (offset, head) = newest_log_head(files, superblock, ring)?;
    if head.incarnation > slot.incarnation {
        return Err(older_than_data(Place::DataOffset(offset)));
    }
    if head.incarnation.opening() == slot.incarnation.opening() && head.incarnation != slot.incarnation {
        return Err(Error::new(
            ErrorKind::Mismatch,
            "data and metadata file are from two copies of this pool that were both opened since",
        )
        .at(Place::DataOffset(offset)));
    }
    Ok(())
}

/// The log head of the newest opening that wrote one. A torn one is passed over: its opening wrote nothing else.
fn newest_log_head(files: &mut Files<'_>, superblock: &Superblock, ring: &LogRing) -> Result<(u64, LogHead)> {
    let mut newest: Result<(u64, LogHead)> = Err(Error::damaged("the data file has no log head"));
    for offset in ring.head_page_offsets_bytes() {
        let place = Place::DataOffset(offset);
        if offset + PAGE_BYTES as u64 > files.data.size_bytes() {
            let message = "the data file is too short for this pool's log: is it the right file?";
            return Err(Error::new(ErrorKind::Mismatch, message).at(place));
        }
        let page = files.data.read(offset, PAGE_BYTES)?;
        newest = match (LogHead::decode(&page, &superblock.pool), newest) {
            (Ok(head), Ok(other)) if head.incarnation <= other.1.incarnation => Ok(other),
            (Ok(head), _) => Ok((offset, head)),
            (Err(error), Err(_)) => Err(error.at(place)),
            (Err(_), found) => found,
        };
    }
    newest
}

/// Whether both log heads can be read: then none is missing that would tell of a later opening.
fn are_log_heads_whole(files: &mut Files<'_>, superblock: &Superblock, ring: &LogRing) -> Result<bool> {
    for offset in ring.head_page_offsets_bytes() {
        if LogHead::decode(&files.data.read(offset, PAGE_BYTES)?, &superblock.pool).is_err() {
            return Ok(false);
        }
    }
    Ok(true)
}

fn older_than_data(place: Place) -> Error {
    Error::new(
        ErrorKind::Mismatch,
        "the metadata file is older than its data file: use the metadata file that belongs to it",
    )
    .at(place)
}

/// A record of the chain. What it says is read again when it is replayed: all deltas of a long log take much memory.
pub(crate) struct ChainRecord {
    pub sequence: Sequence,
    pub synced: Sequence,
    position: u64,
}

/// The records behind the root slot, as far as the chain holds.
pub(crate) fn read_chain(
    files: &mut Files<'_>,
    superblock: &Superblock,
    slot: &RootSlot,
    ring: &mut LogRing,
) -> Result<Vec<ChainRecord>> {
    let mut records: Vec<ChainRecord> = Vec::new();
    let mut expected = slot.sequence.next();
    let start = ring.head;
    while let Some(record) = read_record(files, superblock, ring, ring.head)? {
        let fits = record.sequence == expected && record.incarnation == slot.incarnation;
        let old = canary::broken(Canary::AnyIncarnation) && record.sequence == expected;
        if !(fits || old) || ring.head - start + u64::from(record.pages) > ring.pages() {
            break;
        }
        let LogRecord { sequence, synced, pages, .. } = record;
        records.push(ChainRecord { sequence, synced, position: ring.head });
        ring.head += u64::from(pages);
        expected = expected.next();
    }
    Ok(records)
}

/// The valid record at a position of the ring, if there is one.
fn read_record(
    files: &mut Files<'_>,
    superblock: &Superblock,
    ring: &LogRing,
    position: u64,
) -> Result<Option<LogRecord>> {
    let offset = ring.offset_bytes(position);
    let first = files.data.read(offset, PAGE_BYTES)?;
    let Some(header) = LogRecord::peek(&first) else { return Ok(None) };
    if u64::from(header.pages) > ring.contiguous_pages(position) {
        return Ok(None);
    }
    let bytes = files.data.read(offset, usize::from(header.pages) * PAGE_BYTES)?;
    match LogRecord::decode(&bytes, superblock.secret) {
        Ok(record) => Ok(Some(record)),
        Err(error) if error.kind() == ErrorKind::Unsupported => Err(error.at(Place::Record(header.sequence))),
        Err(_) => Ok(None),
    }
}

/// What any record of this opening, wherever it stands, says is synced; and no sign that a durable record is missing
/// behind `end`, the end of the chain.
pub(crate) fn look_for_evidence(
    files: &mut Files<'_>,
    superblock: &Superblock,
    slot: &RootSlot,
    ring: &LogRing,
    end: Sequence,
) -> Result<Sequence> {
    let mut synced = slot.sequence;
    if canary::broken(Canary::NoEvidence) {
        return Ok(synced);
    }
    for block in ring.blocks() {
        let bytes = files.data.read(block.offset_bytes(), PAGES_PER_BLOCK as usize * PAGE_BYTES)?;
        for page in 0..PAGES_PER_BLOCK as usize {
            let rest = &bytes[page * PAGE_BYTES..];
            let Some(header) = LogRecord::peek(rest) else { continue };
            let newer = header.incarnation > slot.incarnation;
            let says_more = header.incarnation == slot.incarnation && header.synced > synced;
            if !(newer || says_more) || !is_record(rest, &header, superblock.secret) {
                continue;
            }
            if newer || header.synced > end {
                return Err(verdict_on(&header, slot, end));
            }
            synced = header.synced;
        }
    }
    Ok(synced)
}

fn is_record(bytes: &[u8], header: &RecordHeader, secret: u64) -> bool {
    let length = usize::from(header.pages) * PAGE_BYTES;
    bytes.get(..length).is_some_and(|bytes| LogRecord::is_intact(bytes, secret))
}

fn verdict_on(header: &RecordHeader, slot: &RootSlot, end: Sequence) -> Error {
    if header.incarnation > slot.incarnation {
        return older_than_data(Place::Record(header.sequence));
    }
    Error::damaged(format!(
        "this log record was synced and is gone, record {} says so; `check` and `inspect` tell more",
        header.sequence
    ))
    .at(Place::Record(end.next()))
}

/// Applies the records: the proven ones unseen, the others as long as their data is what they say.
fn replay(
    files: &mut Files<'_>,
    metadata: &mut Metadata,
    ring: &LogRing,
    records: &[ChainRecord],
    synced: Sequence,
    findings: &mut Findings,
) -> Result<Vec<Checked>> {
    let mut checked = Vec::new();
    let proven = records.iter().map(|record| record.synced).fold(synced, Sequence::max);
    for found in records {
        let record = read_again(files, &metadata.superblock, ring, found)?;
        let seen = record.sequence > proven && !canary::broken(Canary::UnseenReplay);
        for delta in &record.deltas {
            if seen && !data_arrived(files, delta)? {
                findings.dropped_at = Some(record.sequence);
                if canary::broken(Canary::DropOneDelta) {
                    continue;
                }
                return Ok(checked);
            }
            if let (true, Delta::Publish { data_block, sectors, .. }) = (seen, delta) {
                checked.push((*data_block, *sectors));
            }
            apply(files, metadata, delta).map_err(|e| e.at(Place::Record(record.sequence)))?;
            findings.deltas += 1;
        }
    }
    Ok(checked)
}

/// A record that was valid when the chain was read.
pub(crate) fn read_again(
    files: &mut Files<'_>,
    superblock: &Superblock,
    ring: &LogRing,
    found: &ChainRecord,
) -> Result<LogRecord> {
    let record = read_record(files, superblock, ring, found.position)?;
    record.filter(|record| record.sequence == found.sequence).ok_or_else(|| {
        let message = "a log record reads differently a second time; is somebody writing to the data file?";
        Error::new(ErrorKind::Io, message).at(Place::Record(found.sequence))
    })
}

pub(crate) fn data_arrived(files: &mut Files<'_>, delta: &Delta) -> Result<bool> {
    let Delta::Publish { data_block, sectors, crc, .. } = delta else { return Ok(true) };
    Ok(sectors_crc(files, *data_block, *sectors)? == Some(*crc))
}

/// The CRC of sectors of a block; none if the file ends before them, as it may when its growth was lost.
fn sectors_crc(files: &mut Files<'_>, block: DataBlock, sectors: SectorMask) -> Result<Option<u32>> {
    let mut parts = Vec::new();
    for (first, count) in sectors.runs() {
        let offset =
            block.0.saturating_mul(crate::units::BLOCK_BYTES).saturating_add(u64::from(first) * SECTOR_BYTES);
        let length = u64::from(count) * SECTOR_BYTES;
        if offset.saturating_add(length) > files.data.size_bytes() {
            return Ok(None);
        }
        parts.push(files.data.read(offset, length as usize)?);
    }
    Ok(Some(format::crc32_of_parts(parts.iter().map(|part| &part[..]))))
}

fn apply(files: &mut Files<'_>, metadata: &mut Metadata, delta: &Delta) -> Result<()> {
    loop {
        match metadata.apply(delta) {
            Ok(()) => break,
            Err(Fault::Missing(pointer)) => load_page(files, metadata, &pointer)?,
            Err(Fault::Failed(error)) => return Err(error),
        }
    }
    metadata.forest.events.clear();
    Ok(())
}
