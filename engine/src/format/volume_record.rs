//! The record of a volume or snapshot, in the tree of volumes and in log deltas.
//!
//! Owns its fields, its limits and the rules of names. Which record may follow which is the metadata folder's affair.

use super::codec::{Reader, U48_LIMIT, from_body, to_body};
use super::page::Pointer;
use super::properties::Properties;
use crate::error::{Error, ErrorKind, Result};
use crate::request::{Source, StreamBase, Uuid};
use crate::units::{Generation, VolumeId};

// offset  size  field
//      0     2  version of the record, 1; fields behind the known ones do not change it
//      2     2  length of the body
//      4        body: the fields of `VolumeRecord` in their order, then the limit of requests in flight as 32 bits, then
//               the unknown tail. The limit is left out where it is 0 and no tail follows: older records end before it.
const RECORD_VERSION: u16 = 1;
const HEADER_BYTES: usize = 4;
/// Bytes that a record may take, so that two of them always fit in a page.
pub const RECORD_BYTES_MAX: usize = 1900;
/// Bytes of the longest name.
pub const NAME_BYTES_MAX: usize = 255;
/// Bytes of the longest tag of a hold.
pub const TAG_BYTES_MAX: usize = 64;

/// What the tag of a hold begins with that keeps not only the snapshot, but each of its blocks where it is: metadata of
/// dm-thin names them.
pub const PICTURE_TAG: &str = "dm-picture:";

/// What a record stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, bincode::Encode, bincode::Decode)]
pub enum VolumeKind {
    /// The pool's own, as the log is.
    Hidden,
    /// Can be written.
    Volume,
    /// Can only be read.
    Snapshot,
    /// A snapshot that has arrived in part: written by whoever receives it, not there for anybody else.
    Partial,
}

/// Where a volume is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, bincode::Encode, bincode::Decode)]
pub enum VolumeState {
    /// In use.
    Active,
    /// Deleted: its name is free, its mappings go.
    Deleting,
}

/// Where a received snapshot came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct Received {
    /// The pool, volume and checkpoint that it was made in.
    pub source: Source,
    /// What its stream started from.
    pub base: StreamBase,
    /// While it is partial: everything before this byte has arrived.
    pub position_bytes: u64,
}

/// A volume or snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeRecord {
    /// Its number.
    pub id: VolumeId,
    /// Its uuid.
    pub uuid: Uuid,
    /// Its name; see [`check_name`]. Anything without control characters while it is hidden or deleted.
    pub name: String,
    /// What it is.
    pub kind: VolumeKind,
    /// Where it is in its life.
    pub state: VolumeState,
    /// What it was made from, which may be gone.
    pub origin: Option<VolumeId>,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// When it was made, in seconds since 1970.
    pub created_unix_s: u64,
    /// The checkpoint under construction when it was made: its own pages are not older.
    pub generation_of_birth: Generation,
    /// Level and pointer of the root of its mappings; none while nothing is mapped.
    pub root: Option<(u8, Pointer)>,
    /// Tags that keep it from being deleted.
    pub holds: Vec<String>,
    /// What was set on it.
    pub properties: Properties,
    /// Which key its data is encrypted with; 0 for none.
    pub key_slot: u32,
    /// What changed since this checkpoint or an older one cannot be told by the generations of pages: blocks that a
    /// deleted snapshot had may have been overwritten in place since, or the volume began as another one. 0 for never.
    pub in_place_since: Generation,
    /// It is deleted when the last of its holds is released.
    pub deletion_deferred: bool,
    /// Where it came from if another pool sent it; of a picture, the snapshot that it shows.
    pub received: Option<Box<Received>>,
    /// What a newer program wrote behind the fields above. Kept.
    pub unknown_tail: Vec<u8>,
}

impl VolumeRecord {
    /// A volume of `size_bytes` with nothing mapped; who it is and when it was made is for the caller to fill in.
    pub fn new_volume(size_bytes: u64) -> Self {
        Self {
            id: VolumeId(0),
            uuid: [0; 16],
            name: String::new(),
            kind: VolumeKind::Volume,
            state: VolumeState::Active,
            origin: None,
            size_bytes,
            created_unix_s: 0,
            generation_of_birth: Generation(0),
            root: None,
            holds: Vec::new(),
            properties: Properties::default(),
            key_slot: 0,
            in_place_since: Generation(0),
            deletion_deferred: false,
            received: None,
            unknown_tail: Vec::new(),
        }
    }

    /// Whether its name leads to it.
    pub fn has_name(&self) -> bool {
        self.state == VolumeState::Active && matches!(self.kind, VolumeKind::Volume | VolumeKind::Snapshot)
    }

    /// Whether its blocks have to stay where they are.
    pub fn is_picture(&self) -> bool {
        self.holds.iter().any(|tag| tag.starts_with(PICTURE_TAG))
    }

    /// It has kept its name, and holds something else than what others know by its uuid: from now on it has another one, and if it was
    /// received it is not what the stream brought.
    pub fn become_another(&mut self, uuid: Uuid, pool: Uuid, generation: Generation) {
        self.uuid = uuid;
        if let Some(received) = &mut self.received {
            received.source = Source { pool, volume: self.id, generation };
        }
    }

    /// Whether it can be written.
    pub fn is_writable(&self) -> bool {
        self.state == VolumeState::Active && matches!(self.kind, VolumeKind::Volume | VolumeKind::Partial)
    }

    /// Whether the record can be stored: `Invalid` for a bad name, `Limit` when it is longer than
    /// [`RECORD_BYTES_MAX`].
    pub fn check(&self) -> Result<()> {
        if self.kind == VolumeKind::Hidden || self.state == VolumeState::Deleting {
            check_text(&self.name)?;
        } else {
            check_name(self.kind, &self.name)?;
        }
        if self.id.0 >= U48_LIMIT {
            return Err(Error::new(ErrorKind::Limit, "volume numbers have 48 bits"));
        }
        let length = self.encoded_bytes();
        if length > RECORD_BYTES_MAX {
            let message =
                format!("name, holds and labels of a volume fill {length} of {RECORD_BYTES_MAX} bytes");
            return Err(Error::new(ErrorKind::Limit, message));
        }
        Ok(())
    }

    /// Bytes of the encoded record.
    pub fn encoded_bytes(&self) -> usize {
        HEADER_BYTES + self.encode_body().len()
    }

    /// The record's bytes. Fails as [`VolumeRecord::check`] does.
    pub fn encode(&self) -> Result<Vec<u8>> {
        self.check()?;
        let body = self.encode_body();
        let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len());
        bytes.extend_from_slice(&RECORD_VERSION.to_le_bytes());
        bytes.extend_from_slice(&(body.len() as u16).to_le_bytes());
        bytes.extend_from_slice(&body);
        Ok(bytes)
    }

    /// Takes a record from the front. Fails with `Unsupported` for a record of another version, otherwise `Damaged`.
    pub fn read(reader: &mut Reader<'_>) -> Result<Self> {
        let version = reader.u16()?;
        let length = usize::from(reader.u16()?);
        let body = reader.bytes(length)?;
        if version != RECORD_VERSION {
            let message = format!("volume record of version {version}, this program knows {RECORD_VERSION}");
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        let record = Self::decode_body(body)?;
        record.check().map_err(|cause| Error::damaged(format!("volume record: {}", cause.message())))?;
        Ok(record)
    }

    fn encode_body(&self) -> Vec<u8> {
        let mut body = to_body(&(
            self.id,
            self.uuid,
            &self.name,
            self.kind,
            self.state,
            self.origin,
            self.size_bytes,
            self.created_unix_s,
            self.generation_of_birth,
            self.root,
            &self.holds,
            &self.properties,
            self.key_slot,
            (self.in_place_since, self.deletion_deferred, &self.received),
        ));
        if self.unknown_tail.is_empty() {
            body.extend_from_slice(&self.properties.encode_tail());
        } else {
            body.extend_from_slice(&to_body(&self.properties.limit_in_flight));
            body.extend_from_slice(&self.unknown_tail);
        }
        body
    }

    fn decode_body(body: &[u8]) -> Result<Self> {
        let (fields, mut used) = from_body(body)?;
        let (
            id,
            uuid,
            name,
            kind,
            state,
            origin,
            size_bytes,
            created_unix_s,
            born,
            root,
            holds,
            properties,
            key_slot,
            (in_place_since, deletion_deferred, received),
        ) = fields;
        let mut properties: Properties = properties;
        used += properties.decode_tail(body.get(used..).unwrap_or_default())?;
        Ok(Self {
            id,
            uuid,
            name,
            kind,
            state,
            origin,
            size_bytes,
            created_unix_s,
            generation_of_birth: born,
            root,
            holds,
            properties,
            key_slot,
            in_place_since,
            deletion_deferred,
            received,
            unknown_tail: body.get(used..).unwrap_or_default().to_vec(),
        })
    }
}

/// Whether `name` may be the name of something of `kind`; `Invalid` with the reason if not.
///
/// 1 to 255 bytes without control characters, in groups that `/` separates and that are not empty. A snapshot is
/// `volume@snapshot`, nothing else has an `@`.
pub fn check_name(kind: VolumeKind, name: &str) -> Result<()> {
    check_text(name)?;
    let parts: Vec<&str> = name.split('@').collect();
    match (kind, parts.len()) {
        (VolumeKind::Snapshot | VolumeKind::Partial, 2) | (VolumeKind::Volume | VolumeKind::Hidden, 1) => {}
        (VolumeKind::Snapshot | VolumeKind::Partial, _) => {
            return Err(Error::invalid("a snapshot's name is volume@snapshot"));
        }
        _ => return Err(Error::invalid("only the name of a snapshot has an @")),
    }
    if parts.iter().flat_map(|part| part.split('/')).any(str::is_empty) {
        return Err(Error::invalid("no part of a name may be empty"));
    }
    Ok(())
}

/// Whether a hold may have this tag; `Invalid` if not.
pub fn check_tag(tag: &str) -> Result<()> {
    if tag.is_empty() || tag.len() > TAG_BYTES_MAX || tag.chars().any(char::is_control) {
        return Err(Error::invalid(format!(
            "a tag has 1 to {TAG_BYTES_MAX} bytes and no control characters"
        )));
    }
    Ok(())
}

/// What holds for every name, hidden and deleted ones included.
pub(super) fn check_text(name: &str) -> Result<()> {
    if name.len() > NAME_BYTES_MAX {
        return Err(Error::invalid(format!("a name has at most {NAME_BYTES_MAX} bytes")));
    }
    if name.chars().any(char::is_control) {
        return Err(Error::invalid("a name has no control characters"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::golden::{self, snapshot_record};
    use super::*;

    fn read(bytes: &[u8]) -> Result<VolumeRecord> {
        VolumeRecord::read(&mut Reader::new(bytes))
    }

    #[test]
    fn round_trip() {
        let newer = VolumeRecord { unknown_tail: vec![1, 2, 3], ..snapshot_record(8) };
        let hidden =
            VolumeRecord { name: String::new(), kind: VolumeKind::Hidden, root: None, ..snapshot_record(0) };
        let limited = |unknown_tail: Vec<u8>| VolumeRecord {
            properties: Properties { limit_in_flight: 32, policy: 9, ..snapshot_record(6).properties },
            unknown_tail,
            ..snapshot_record(6)
        };
        for record in [snapshot_record(7), newer, hidden, limited(Vec::new()), limited(vec![0; 4])] {
            let bytes = record.encode().unwrap();
            assert_eq!(bytes.len(), record.encoded_bytes());
            assert_eq!(read(&bytes), Ok(record));
        }
    }

    #[test]
    fn golden_bytes() {
        golden::assert_golden(
            &snapshot_record(7).encode().unwrap(),
            "01000b010700000000000000c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c50c0000000000000067726f75\
             702f6469736b4037",
            0x3b76_b2e4_059d_ede4,
        );
    }

    #[test]
    fn damage_never_panics() {
        golden::damage(&snapshot_record(7).encode().unwrap(), |bytes| drop(read(bytes)));
    }

    #[test]
    fn another_version_is_unsupported() {
        let mut bytes = snapshot_record(7).encode().unwrap();
        bytes[0] = 2;
        assert_eq!(read(&bytes).unwrap_err().kind(), ErrorKind::Unsupported);
    }

    #[test]
    fn long_records_are_refused() {
        let record = VolumeRecord { holds: vec!["h".repeat(64); 30], ..snapshot_record(7) };
        assert_eq!(record.encode().unwrap_err().kind(), ErrorKind::Limit);
        let longest_name = format!("{}@b", "a".repeat(NAME_BYTES_MAX - 2));
        assert!(VolumeRecord { name: longest_name, ..snapshot_record(7) }.encode().is_ok());
    }

    #[test]
    fn names() {
        let legal = [("disk", "disk@monday"), ("a/b/c", "a/b@c"), ("ü", "ü@ß")];
        for (volume, snapshot) in legal {
            assert_eq!(check_name(VolumeKind::Volume, volume), Ok(()));
            assert_eq!(check_name(VolumeKind::Snapshot, snapshot), Ok(()));
            assert!(check_name(VolumeKind::Volume, snapshot).is_err());
            assert!(check_name(VolumeKind::Snapshot, volume).is_err());
        }
        for volume in ["", "/", "/a", "a/", "a//b", "a\nb", "a\0", &"a".repeat(256)] {
            assert!(check_name(VolumeKind::Volume, volume).is_err(), "{volume:?}");
        }
        for snapshot in ["@", "a@", "@a", "a@b@c", "a/@b"] {
            assert!(check_name(VolumeKind::Snapshot, snapshot).is_err(), "{snapshot:?}");
        }
    }
}
