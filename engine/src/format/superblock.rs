//! The superblock: what a pool is. Written once, in two copies, and never again.
//!
//! Owns the order in which a stranger's file is believed: magic, version, checksum, features, sizes. Holds nothing that
//! changes; that is `root_slot.rs`.

use super::FORMAT_VERSION;
use super::checksum::crc32;
use super::codec::{Reader, Writer};
use crate::error::{Error, ErrorKind, Result};
use crate::request::Uuid;
use crate::storage::Buffer;
use crate::units::{BLOCK_BYTES, PAGE_BYTES, SECTOR_BYTES, UNIT_BYTES};

// offset  size  field
//      0     8  magic "VELLUMTP"
//      8     4  format version
//     12     4  zero
//     16     8  incompatible features: an unknown bit refuses the pool
//     24     8  read-only compatible features: an unknown bit refuses writing
//     32     4  bytes of a block, 65536
//     36     4  bytes of a sector, 4096
//     40     4  bytes of a page, 4096
//     44     4  zero
//     48    16  pool uuid
//     64     8  secret, seeds the checksums of log records
//     72     8  created, seconds since 1970
//     80     8  data blocks at creation
//     88   420  zero
//    508     4  CRC-32 of bytes 0..508
//    512  3584  zero
const MAGIC: &[u8; 8] = b"VELLUMTP";
const PAYLOAD_BYTES: usize = UNIT_BYTES as usize;
const CHECKSUM_OFFSET: usize = PAYLOAD_BYTES - 4;

/// Mappings may name [`LOST`](super::LOST): ranges that a repair could not save. Set by repair, with the new superblock
/// that it writes.
pub const LOST_RANGES: u64 = 1;
/// Features without which a pool must not be opened.
pub const KNOWN_INCOMPATIBLE: u64 = LOST_RANGES;
/// Features without which a pool may be read and must not be written. Version 1 has none.
pub const KNOWN_READ_ONLY_COMPATIBLE: u64 = 0;

/// What a pool is: version, features, sizes, identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Format version.
    pub version: u32,
    /// Features without which the pool must not be opened, a bit each.
    pub incompatible: u64,
    /// Features without which the pool must not be written, a bit each.
    pub read_only_compatible: u64,
    /// Bytes of a data block.
    pub block_bytes: u32,
    /// Bytes of a sector.
    pub sector_bytes: u32,
    /// Bytes of a page of metadata and log.
    pub page_bytes: u32,
    /// The pool's uuid, in every page.
    pub pool: Uuid,
    /// Seeds the checksums of log records, so that no user data can pass for one.
    pub secret: u64,
    /// When the pool was made, in seconds since 1970.
    pub created_unix_s: u64,
    /// Data blocks that the pool was made with; the root slot knows the present number.
    pub data_blocks_at_creation: u64,
}

impl Superblock {
    /// That of a pool of this version, with nothing special about it.
    pub fn new(pool: Uuid, secret: u64, created_unix_s: u64, data_blocks: u64) -> Self {
        Self {
            version: FORMAT_VERSION,
            incompatible: 0,
            read_only_compatible: 0,
            block_bytes: BLOCK_BYTES as u32,
            sector_bytes: SECTOR_BYTES as u32,
            page_bytes: PAGE_BYTES as u32,
            pool,
            secret,
            created_unix_s,
            data_blocks_at_creation: data_blocks,
        }
    }

    /// Whether a page starts as a superblock of any version does.
    pub fn is_one(bytes: &[u8]) -> bool {
        bytes.starts_with(MAGIC)
    }

    /// A page with this superblock.
    pub fn encode(&self) -> Buffer {
        let mut out = Writer::with_capacity(PAYLOAD_BYTES);
        out.bytes(MAGIC);
        out.u32(self.version);
        out.u32(0);
        out.u64(self.incompatible);
        out.u64(self.read_only_compatible);
        out.u32(self.block_bytes);
        out.u32(self.sector_bytes);
        out.u32(self.page_bytes);
        out.u32(0);
        out.bytes(&self.pool);
        out.u64(self.secret);
        out.u64(self.created_unix_s);
        out.u64(self.data_blocks_at_creation);
        out.zeros_to(CHECKSUM_OFFSET);
        let payload = out.finish();
        let mut page = Buffer::zeroed(PAGE_BYTES);
        page[..CHECKSUM_OFFSET].copy_from_slice(&payload);
        page[CHECKSUM_OFFSET..PAYLOAD_BYTES].copy_from_slice(&crc32(&payload).to_le_bytes());
        page
    }

    /// Reads a superblock from a page, or from its first 512 bytes.
    ///
    /// Fails with `Unsupported` when this is no pool, or one of a version, feature or size that this program does not
    /// know, and with `Damaged` when the checksum is wrong.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        if !bytes.starts_with(MAGIC) {
            return Err(unsupported("no Vellum pool: the magic is missing"));
        }
        let mut reader = Reader::new(bytes);
        reader.bytes(MAGIC.len())?;
        let version = reader.u32()?;
        if version != FORMAT_VERSION {
            return Err(unsupported(format!(
                "the pool has format version {version}, this program knows {FORMAT_VERSION}"
            )));
        }
        verify_checksum(bytes)?;
        let superblock = Self::read_fields(version, &mut reader)?;
        superblock.check_known()?;
        Ok(superblock)
    }

    /// Features of this pool without which this program must not write it; 0 if it may.
    pub fn unknown_read_only_compatible(&self) -> u64 {
        self.read_only_compatible & !KNOWN_READ_ONLY_COMPATIBLE
    }

    /// Fails with `Unsupported` if this program may read the pool, but not write it.
    pub fn refuse_read_only(&self) -> Result<()> {
        if self.unknown_read_only_compatible() == 0 {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Unsupported,
            "the pool has a feature that this program may read but not write; use a newer one",
        ))
    }

    fn read_fields(version: u32, reader: &mut Reader<'_>) -> Result<Self> {
        reader.u32()?;
        let incompatible = reader.u64()?;
        let read_only_compatible = reader.u64()?;
        let block_bytes = reader.u32()?;
        let sector_bytes = reader.u32()?;
        let page_bytes = reader.u32()?;
        reader.u32()?;
        Ok(Self {
            version,
            incompatible,
            read_only_compatible,
            block_bytes,
            sector_bytes,
            page_bytes,
            pool: reader.array()?,
            secret: reader.u64()?,
            created_unix_s: reader.u64()?,
            data_blocks_at_creation: reader.u64()?,
        })
    }

    fn check_known(&self) -> Result<()> {
        let unknown = self.incompatible & !KNOWN_INCOMPATIBLE;
        if unknown != 0 {
            return Err(unsupported(format!(
                "the pool uses features that this program does not know: {unknown:#x}"
            )));
        }
        let sizes = (self.block_bytes, self.sector_bytes, self.page_bytes);
        if sizes != (BLOCK_BYTES as u32, SECTOR_BYTES as u32, PAGE_BYTES as u32) {
            let known = (BLOCK_BYTES, SECTOR_BYTES, PAGE_BYTES);
            return Err(unsupported(format!(
                "blocks, sectors and pages of {sizes:?} bytes, this program knows {known:?}"
            )));
        }
        Ok(())
    }
}

fn verify_checksum(bytes: &[u8]) -> Result<()> {
    let mut reader = Reader::new(bytes);
    let covered = reader.bytes(CHECKSUM_OFFSET)?;
    if reader.u32()? != crc32(covered) {
        return Err(Error::damaged("superblock: checksum mismatch"));
    }
    Ok(())
}

fn unsupported(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Unsupported, message)
}

#[cfg(test)]
mod tests {
    use super::super::golden;
    use super::*;

    fn sample() -> Superblock {
        Superblock {
            version: FORMAT_VERSION,
            incompatible: 0,
            read_only_compatible: 0,
            block_bytes: 65536,
            sector_bytes: 4096,
            page_bytes: 4096,
            pool: golden::POOL,
            secret: 0x5ec2_e700_5ec2_e700,
            created_unix_s: 1_700_000_000,
            data_blocks_at_creation: 1 << 20,
        }
    }

    fn kind(bytes: &[u8]) -> ErrorKind {
        Superblock::decode(bytes).unwrap_err().kind()
    }

    #[test]
    fn round_trip() {
        let page = sample().encode();
        assert_eq!(page.len(), PAGE_BYTES);
        assert_eq!(Superblock::decode(&page), Ok(sample()));
        assert_eq!(Superblock::decode(&page[..PAYLOAD_BYTES]), Ok(sample()));
        assert!(page[PAYLOAD_BYTES..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn golden_bytes() {
        golden::assert_golden(
            &sample().encode(),
            "56454c4c554d54500100000000000000000000000000000000000000000000000000010000100000\
             0010000000000000a0a1a2a3a4a5a6a7a8a9aaabacadaeaf00e7c25e00e7c25e00f1536500000000\
             0000100000000000",
            0x22a2_1743_165e_dea3,
        );
    }

    #[test]
    fn a_stranger_is_refused_before_a_newer_version_before_damage() {
        assert_eq!(kind(&[0; 4096]), ErrorKind::Unsupported);
        let mut page = sample().encode();
        page[100] ^= 1;
        assert_eq!(kind(&page), ErrorKind::Damaged);
        page[8] = 2;
        assert_eq!(
            Superblock::decode(&page).unwrap_err().message(),
            "the pool has format version 2, this program knows 1"
        );
        page[0] ^= 1;
        assert_eq!(kind(&page), ErrorKind::Unsupported);
    }

    #[test]
    fn unknown_features_and_sizes_are_refused() {
        assert_eq!(kind(&Superblock { incompatible: 4, ..sample() }.encode()), ErrorKind::Unsupported);
        assert_eq!(kind(&Superblock { block_bytes: 131072, ..sample() }.encode()), ErrorKind::Unsupported);
        let readable = Superblock { read_only_compatible: 4, ..sample() };
        assert_eq!(Superblock::decode(&readable.encode()), Ok(readable.clone()));
        assert_eq!(readable.unknown_read_only_compatible(), 4);
    }

    #[test]
    fn damage_never_panics() {
        golden::damage(&sample().encode(), |bytes| drop(Superblock::decode(bytes)));
    }
}
