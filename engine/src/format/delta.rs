//! Deltas: what log records say has changed.
//!
//! Owns their kinds and bytes. What they do to the trees is `metadata`'s affair, when they may be written `log`'s.

use super::codec::{Reader, U48_LIMIT, from_body, to_body};
use super::mapping::LOST;
use super::properties::Properties;
use super::volume_record::{VolumeKind, VolumeRecord, check_name, check_text};
use crate::error::{Error, ErrorKind, Result};
use crate::units::{DataBlock, Generation, SectorMask, VirtualBlock, VolumeId};

// offset  size  field
//      0     2  kind
//      2     2  length of the body
//      4        body: the fields of the variant in their order; records as in `volume_record.rs`
const HEADER_BYTES: usize = 4;
/// Bytes that one delta may take, so that it fits in a record.
pub const DELTA_BYTES_MAX: usize = 60 * 1024;

const PUBLISH: u16 = 1;
const CLEAR: u16 = 2;
const UNMAP: u16 = 3;
const CREATE: u16 = 4;
const SNAPSHOT: u16 = 5;
const UPDATE: u16 = 6;
const DELETE: u16 = 7;
const FORGET: u16 = 8;
// 9 and 10 are reserved, see `docs/format.md`.
const ROLLBACK: u16 = 11;
const RECEIVE: u16 = 12;
const ARRIVE: u16 = 13;

/// One change of the pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delta {
    /// Sectors of a data block are what a virtual block reads as from now on.
    Publish {
        /// Whose block.
        volume: VolumeId,
        /// Which block.
        virtual_block: VirtualBlock,
        /// Where the sectors are.
        data_block: DataBlock,
        /// Exactly the sectors whose data the write brought.
        sectors: SectorMask,
        /// CRC-32 of these sectors, in order.
        crc: u32,
    },
    /// Sectors read as zeros from now on.
    Clear {
        /// Whose block.
        volume: VolumeId,
        /// Which block.
        virtual_block: VirtualBlock,
        /// Which sectors.
        sectors: SectorMask,
    },
    /// Nothing is mapped in a range from now on.
    Unmap {
        /// Of which volume.
        volume: VolumeId,
        /// The first block of the range.
        first: VirtualBlock,
        /// The last block of the range.
        last: VirtualBlock,
    },
    /// There is a new volume.
    Create {
        /// The volume.
        record: VolumeRecord,
    },
    /// Every record is new and starts with its source's mappings, all at one moment.
    Snapshot {
        /// Sources and the records made from them.
        cuts: Vec<(VolumeId, VolumeRecord)>,
    },
    /// These fields of a volume have changed. With its name those of its snapshots change; with its last hold it goes, if
    /// its deletion was deferred.
    Update {
        /// Which volume.
        volume: VolumeId,
        /// Its name.
        name: String,
        /// Its size in bytes.
        size_bytes: u64,
        /// Tags that keep it from being deleted.
        holds: Vec<String>,
        /// What was set on it.
        properties: Properties,
        /// It is deleted when the last of its holds is released.
        deletion_deferred: bool,
    },
    /// Volumes are deleted: their names are free, their mappings go. What is held is deleted with its last hold.
    Delete {
        /// Which volumes.
        volumes: Vec<VolumeId>,
    },
    /// A deleted volume has no mappings left, and its record goes.
    Forget {
        /// Which volume.
        volume: VolumeId,
    },
    /// A volume has size and mappings of a snapshot from now on.
    Rollback {
        /// Which volume.
        volume: VolumeId,
        /// What it goes back to.
        snapshot: VolumeId,
        /// The new number under which what it had is deleted.
        old: VolumeId,
    },
    /// A partial volume has come so far.
    Receive {
        /// Which partial volume.
        volume: VolumeId,
        /// Everything before this byte has arrived.
        position_bytes: u64,
    },
    /// A partial volume is whole: it is a snapshot from now on.
    Arrive {
        /// Which partial volume.
        volume: VolumeId,
        /// The snapshot's name.
        name: String,
        /// Its size in bytes.
        size_bytes: u64,
        /// The checkpoint under construction.
        generation: Generation,
    },
}

impl Delta {
    /// Whether the delta can be stored: `Invalid` for a bad name, `Limit` when it is longer than [`DELTA_BYTES_MAX`] or
    /// holds a record that is too long.
    pub fn check(&self) -> Result<()> {
        match self {
            Self::Create { record } => record.check()?,
            Self::Snapshot { cuts } => cuts.iter().try_for_each(|(_, record)| record.check())?,
            Self::Update { name, .. } => check_text(name)?,
            Self::Arrive { name, .. } => check_name(VolumeKind::Snapshot, name)?,
            _ => {}
        }
        if self.encoded_bytes() > DELTA_BYTES_MAX {
            return Err(Error::new(
                ErrorKind::Limit,
                "too much for one step: take fewer volumes, holds or labels",
            ));
        }
        Ok(())
    }

    /// The volume that has to be there for a delta of one volume; none for those that make or name several.
    pub fn volume(&self) -> Option<VolumeId> {
        match self {
            Self::Publish { volume, .. }
            | Self::Clear { volume, .. }
            | Self::Unmap { volume, .. }
            | Self::Update { volume, .. }
            | Self::Forget { volume }
            | Self::Rollback { volume, .. }
            | Self::Receive { volume, .. }
            | Self::Arrive { volume, .. } => Some(*volume),
            Self::Create { .. } | Self::Snapshot { .. } | Self::Delete { .. } => None,
        }
    }

    /// Bytes of the encoded delta.
    pub fn encoded_bytes(&self) -> usize {
        let body_bytes = match self {
            Self::Publish { .. } => 30,
            Self::Clear { .. } => 18,
            Self::Unmap { .. } => 24,
            Self::Create { record } => record.encoded_bytes(),
            Self::Snapshot { cuts } => cuts.iter().map(|(_, record)| 8 + record.encoded_bytes()).sum(),
            Self::Update { .. } => self.encode_body().len(),
            Self::Delete { volumes } => 8 + 8 * volumes.len(),
            Self::Forget { .. } => 8,
            Self::Rollback { .. } => 24,
            Self::Receive { .. } => 16,
            Self::Arrive { name, .. } => 32 + name.len(),
        };
        HEADER_BYTES + body_bytes
    }

    /// Appends the delta's bytes. Panics on a delta that [`Delta::check`] refuses.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        let body = self.encode_body();
        assert!(HEADER_BYTES + body.len() <= DELTA_BYTES_MAX, "a delta of {} bytes", body.len());
        out.extend_from_slice(&self.kind().to_le_bytes());
        out.extend_from_slice(&(body.len() as u16).to_le_bytes());
        out.extend_from_slice(&body);
    }

    /// Takes a delta from the front. Fails with `Unsupported` for an unknown kind, otherwise `Damaged`.
    pub fn read(reader: &mut Reader<'_>) -> Result<Self> {
        let kind = reader.u16()?;
        let length = usize::from(reader.u16()?);
        let delta = Self::decode_body(kind, reader.bytes(length)?)?;
        delta.check_numbers()?;
        delta.check().map_err(|cause| Error::damaged(format!("delta: {}", cause.message())))?;
        Ok(delta)
    }

    fn kind(&self) -> u16 {
        match self {
            Self::Publish { .. } => PUBLISH,
            Self::Clear { .. } => CLEAR,
            Self::Unmap { .. } => UNMAP,
            Self::Create { .. } => CREATE,
            Self::Snapshot { .. } => SNAPSHOT,
            Self::Update { .. } => UPDATE,
            Self::Delete { .. } => DELETE,
            Self::Forget { .. } => FORGET,
            Self::Rollback { .. } => ROLLBACK,
            Self::Receive { .. } => RECEIVE,
            Self::Arrive { .. } => ARRIVE,
        }
    }

    fn encode_body(&self) -> Vec<u8> {
        let record_bytes = |record: &VolumeRecord| record.encode().expect("the record was checked");
        match self {
            Self::Publish { volume, virtual_block, data_block, sectors, crc } => {
                to_body(&(volume, virtual_block, data_block, sectors, crc))
            }
            Self::Clear { volume, virtual_block, sectors } => to_body(&(volume, virtual_block, sectors)),
            Self::Unmap { volume, first, last } => to_body(&(volume, first, last)),
            Self::Create { record } => record_bytes(record),
            Self::Snapshot { cuts } => {
                let one = |(source, record): &(VolumeId, VolumeRecord)| {
                    [to_body(source), record_bytes(record)].concat()
                };
                cuts.iter().flat_map(one).collect()
            }
            Self::Update { volume, name, size_bytes, holds, properties, deletion_deferred } => {
                let fields = to_body(&(volume, name, size_bytes, holds, properties, deletion_deferred));
                [fields, properties.encode_tail()].concat()
            }
            Self::Delete { volumes } => to_body(volumes),
            Self::Forget { volume } => to_body(volume),
            Self::Rollback { volume, snapshot, old } => to_body(&(volume, snapshot, old)),
            Self::Receive { volume, position_bytes } => to_body(&(volume, position_bytes)),
            Self::Arrive { volume, name, size_bytes, generation } => {
                to_body(&(volume, name, size_bytes, generation))
            }
        }
    }

    fn decode_body(kind: u16, body: &[u8]) -> Result<Self> {
        Ok(match kind {
            PUBLISH => {
                let (volume, virtual_block, data_block, sectors, crc) = exact(body)?;
                Self::Publish { volume, virtual_block, data_block, sectors, crc }
            }
            CLEAR => {
                let (volume, virtual_block, sectors) = exact(body)?;
                Self::Clear { volume, virtual_block, sectors }
            }
            UNMAP => {
                let (volume, first, last) = exact(body)?;
                Self::Unmap { volume, first, last }
            }
            CREATE => {
                let mut reader = Reader::new(body);
                let record = VolumeRecord::read(&mut reader)?;
                if reader.is_empty() { Self::Create { record } } else { return Err(longer()) }
            }
            SNAPSHOT => Self::Snapshot { cuts: read_cuts(body)? },
            UPDATE => {
                let (fields, used) = from_body(body)?;
                let (volume, name, size_bytes, holds, properties, deletion_deferred) = fields;
                let mut properties: Properties = properties;
                if properties.decode_tail(&body[used..])? < body.len() - used {
                    return Err(longer());
                }
                Self::Update { volume, name, size_bytes, holds, properties, deletion_deferred }
            }
            DELETE => Self::Delete { volumes: exact(body)? },
            FORGET => Self::Forget { volume: exact(body)? },
            ROLLBACK => {
                let (volume, snapshot, old) = exact(body)?;
                Self::Rollback { volume, snapshot, old }
            }
            RECEIVE => {
                let (volume, position_bytes) = exact(body)?;
                Self::Receive { volume, position_bytes }
            }
            ARRIVE => {
                let (volume, name, size_bytes, generation) = exact(body)?;
                Self::Arrive { volume, name, size_bytes, generation }
            }
            _ => return Err(Error::new(ErrorKind::Unsupported, format!("delta of unknown kind {kind}"))),
        })
    }

    /// Numbers that no tree could hold never got into a log.
    fn check_numbers(&self) -> Result<()> {
        let possible = match self {
            Self::Publish { virtual_block, data_block, sectors, .. } => {
                virtual_block.0 < U48_LIMIT && data_block.0 < LOST.0 && !sectors.is_empty()
            }
            Self::Clear { virtual_block, sectors, .. } => virtual_block.0 < U48_LIMIT && !sectors.is_empty(),
            Self::Unmap { first, last, .. } => first <= last && last.0 < U48_LIMIT,
            _ => true,
        };
        if possible { Ok(()) } else { Err(Error::damaged("delta: impossible block, range or mask")) }
    }
}

/// A body that is understood to its end: a delta that is understood by half would be replayed wrongly.
fn exact<T: bincode::Decode<()>>(body: &[u8]) -> Result<T> {
    let (value, used) = from_body(body)?;
    if used == body.len() { Ok(value) } else { Err(longer()) }
}

fn longer() -> Error {
    Error::new(ErrorKind::Unsupported, "delta with more fields than this program knows; use a newer one")
}

fn read_cuts(body: &[u8]) -> Result<Vec<(VolumeId, VolumeRecord)>> {
    let mut reader = Reader::new(body);
    let mut cuts = Vec::new();
    while !reader.is_empty() {
        cuts.push((VolumeId(reader.u64()?), VolumeRecord::read(&mut reader)?));
    }
    Ok(cuts)
}

#[cfg(test)]
mod tests {
    use super::super::golden::{self, snapshot_record};
    use super::*;

    fn samples() -> Vec<Delta> {
        let volume = VolumeId(3);
        let virtual_block = VirtualBlock(0x0102_0304);
        let snapshot = |id| (volume, snapshot_record(id));
        vec![
            Delta::Publish {
                volume,
                virtual_block,
                data_block: DataBlock(0x0506_0708),
                sectors: SectorMask(0x00f0),
                crc: 0xdead_beef,
            },
            Delta::Clear { volume, virtual_block, sectors: SectorMask(1) },
            Delta::Unmap { volume, first: VirtualBlock(1), last: virtual_block },
            Delta::Create { record: snapshot_record(4) },
            Delta::Snapshot { cuts: vec![snapshot(5), snapshot(6)] },
            Delta::Update {
                volume,
                name: "new/name".into(),
                size_bytes: 1 << 30,
                holds: vec!["tag".into()],
                properties: Properties { policy: 1, ..Properties::default() },
                deletion_deferred: true,
            },
            Delta::Delete { volumes: vec![VolumeId(5), VolumeId(6)] },
            Delta::Forget { volume },
            Delta::Rollback { volume, snapshot: VolumeId(5), old: VolumeId(9) },
            Delta::Receive { volume, position_bytes: 1 << 26 },
            Delta::Arrive { volume, name: "disk@b".into(), size_bytes: 1 << 30, generation: Generation(9) },
        ]
    }

    fn encode(delta: &Delta) -> Vec<u8> {
        let mut bytes = Vec::new();
        delta.encode_into(&mut bytes);
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Delta> {
        Delta::read(&mut Reader::new(bytes))
    }

    #[test]
    fn round_trip() {
        for delta in samples() {
            let bytes = encode(&delta);
            assert_eq!(bytes.len(), delta.encoded_bytes(), "{delta:?}");
            assert_eq!(delta.check(), Ok(()));
            assert_eq!(read(&bytes), Ok(delta));
        }
    }

    #[test]
    fn golden_bytes() {
        let whole: Vec<u8> = samples().iter().flat_map(encode).collect();
        golden::assert_golden(
            &whole,
            "01001e00030000000000000004030201000000000807060500000000f000efbeadde",
            0x5234_eb18_7509_7fe0,
        );
    }

    #[test]
    fn damage_never_panics() {
        for delta in samples() {
            golden::damage(&encode(&delta), |bytes| drop(read(bytes)));
        }
    }

    /// A newer program's longer delta must not be replayed by half.
    #[test]
    fn an_unknown_tail_is_unsupported() {
        for delta in [Delta::Forget { volume: VolumeId(7) }, Delta::Delete { volumes: vec![VolumeId(7)] }] {
            let mut bytes = Vec::new();
            delta.encode_into(&mut bytes);
            bytes.push(1);
            let body_bytes = (bytes.len() - HEADER_BYTES) as u16;
            bytes[2..4].copy_from_slice(&body_bytes.to_le_bytes());
            let refused = Delta::read(&mut Reader::new(&bytes)).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Unsupported);
        }
    }

    #[test]
    fn an_unknown_kind_is_unsupported() {
        let mut bytes = encode(&Delta::Forget { volume: VolumeId(1) });
        bytes[0] = 99;
        assert_eq!(read(&bytes).unwrap_err().kind(), ErrorKind::Unsupported);
    }

    #[test]
    fn impossible_numbers_are_damaged() {
        let volume = VolumeId(1);
        let unmap =
            |first, last| Delta::Unmap { volume, first: VirtualBlock(first), last: VirtualBlock(last) };
        let clear = Delta::Clear { volume, virtual_block: VirtualBlock(0), sectors: SectorMask::EMPTY };
        for delta in [unmap(2, 1), unmap(0, U48_LIMIT), clear] {
            assert_eq!(read(&encode(&delta)).unwrap_err().kind(), ErrorKind::Damaged);
        }
    }

    #[test]
    fn a_delta_that_fills_a_record_is_the_longest() {
        let delete = |count| Delta::Delete { volumes: vec![VolumeId(1); count] };
        let most = (DELTA_BYTES_MAX - 12) / 8;
        assert_eq!(read(&encode(&delete(most))), Ok(delete(most)));
        assert_eq!(delete(most + 1).check().unwrap_err().kind(), ErrorKind::Limit);
    }
}
