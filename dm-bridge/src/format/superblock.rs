//! The superblock: block 0, where everything starts. A metadata snapshot is a copy of it in another block.
//!
//! Owns the order in which a stranger's device is believed: magic, checksum, own number, version, features. Whether the
//! fields make sense together is for the check to say. The kernel uses the first 512 bytes, so that the block is one sector.

use super::checksum::{BlockKind, seal, verify, verify_number};
use super::space_map::SpaceMapRoot;
use super::{BLOCK_BYTES, Block, get_u32, get_u64, put_u32, put_u64};
use crate::error::{Error, ErrorKind, Result};

// offset  size  field
//      0     4  checksum
//      4     4  flags: bit 0 needs_check
//      8     8  own block number
//     16    16  uuid
//     32     8  magic 27022010
//     40     4  version
//     44     4  time
//     48     8  transaction id
//     56     8  held root: block of the metadata snapshot, 0 if there is none
//     64   128  data space map root
//    192   128  metadata space map root
//    320     8  data mapping root
//    328     8  device details root
//    336     4  data block size in sectors
//    340     4  metadata block size in sectors
//    344     8  metadata blocks when it was made
//    352     4  compatible flags
//    356     4  read-only compatible flags
//    360     4  incompatible flags
//    364  3732  zero
const BLOCKNR: usize = 8;
const UUID: usize = 16;
const MAGIC: usize = 32;
const VERSION: usize = 40;
const DATA_SPACE_MAP_ROOT: usize = 64;
const METADATA_SPACE_MAP_ROOT: usize = 192;
const METADATA_BLOCK_SECTORS: usize = 340;
const COMPAT_RO_FLAGS: usize = 356;
const INCOMPAT_FLAGS: usize = 360;

const MAGIC_VALUE: u64 = 27_022_010;
const VERSION_VALUE: u32 = 2;
const NEEDS_CHECK: u32 = 1;
/// A feature that no kernel knows: it takes such metadata only from a device that is read-only.
const PICTURE: u32 = 1 << 31;

/// Numbers of thin devices are below this.
pub const DEVICE_ID_LIMIT: u64 = 1 << 24;
/// The smallest data block, 64 KiB, in sectors; every size is a multiple of it.
pub const DATA_BLOCK_SECTORS_MIN: u32 = 128;
const DATA_BLOCK_SECTORS_MAX: u32 = 1 << 21;

/// Whether the kernel takes data blocks of so many sectors: 64 KiB to 1 GiB in steps of 64 KiB.
pub fn data_block_sectors_are_valid(sectors: u32) -> bool {
    (DATA_BLOCK_SECTORS_MIN..=DATA_BLOCK_SECTORS_MAX).contains(&sectors)
        && sectors.is_multiple_of(DATA_BLOCK_SECTORS_MIN)
}

/// Where everything is, and what the pool is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Whether the kernel wants a check before it writes again.
    pub needs_check: bool,
    /// Flags that this library does not know.
    pub unknown_flags: u32,
    /// Whether the data belongs to somebody else, so that nobody may write by this metadata: see [`crate::picture`].
    pub is_picture: bool,
    /// All zero in practice.
    pub uuid: [u8; 16],
    /// Goes up by one with every snapshot.
    pub time: u32,
    /// Userspace's own number.
    pub transaction_id: u64,
    /// Block of the metadata snapshot.
    pub held_root: Option<u64>,
    /// Space map of the data device; all zero in a metadata snapshot.
    pub data_space_map: SpaceMapRoot,
    /// Space map of the metadata device; all zero in a metadata snapshot.
    pub metadata_space_map: SpaceMapRoot,
    /// Root of the tree of devices, whose values are roots of trees of mappings.
    pub mapping_root: u64,
    /// Root of the tree of device details.
    pub details_root: u64,
    /// Size of a data block in sectors.
    pub data_block_sectors: u32,
    /// Metadata blocks when the pool was made; the space map knows the present number.
    pub metadata_blocks_at_format: u64,
}

impl Superblock {
    /// A block with this superblock, to be written as block `number`.
    pub fn encode(&self, number: u64) -> Box<Block> {
        let mut bytes = Box::new([0; BLOCK_BYTES]);
        let out = &mut bytes[..];
        put_u32(out, 4, self.unknown_flags & !NEEDS_CHECK | u32::from(self.needs_check));
        put_u64(out, BLOCKNR, number);
        out[UUID..MAGIC].copy_from_slice(&self.uuid);
        put_u64(out, MAGIC, MAGIC_VALUE);
        put_u32(out, VERSION, VERSION_VALUE);
        put_u32(out, 44, self.time);
        put_u64(out, 48, self.transaction_id);
        put_u64(out, 56, self.held_root.unwrap_or(0));
        self.data_space_map.encode(&mut out[DATA_SPACE_MAP_ROOT..]);
        self.metadata_space_map.encode(&mut out[METADATA_SPACE_MAP_ROOT..]);
        put_u64(out, 320, self.mapping_root);
        put_u64(out, 328, self.details_root);
        put_u32(out, 336, self.data_block_sectors);
        put_u32(out, METADATA_BLOCK_SECTORS, (BLOCK_BYTES / 512) as u32);
        put_u64(out, 344, self.metadata_blocks_at_format);
        put_u32(out, COMPAT_RO_FLAGS, if self.is_picture { PICTURE } else { 0 });
        seal(&mut bytes, BlockKind::Superblock);
        bytes
    }

    /// Reads the superblock from block `number`.
    ///
    /// Fails with `Unsupported` if this is no dm-thin metadata, or of a version or feature that nothing is known of, and
    /// with `Damaged` if the checksum, the own number or the size of metadata blocks is wrong.
    pub fn decode(bytes: &Block, number: u64) -> Result<Self> {
        if get_u64(bytes, MAGIC) != MAGIC_VALUE {
            return Err(foreign(bytes, number));
        }
        verify(bytes, BlockKind::Superblock, number)?;
        verify_number(bytes, BLOCKNR, number)?;
        check_features(bytes, number)?;
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&bytes[UUID..MAGIC]);
        let flags = get_u32(bytes, 4);
        Ok(Self {
            needs_check: flags & NEEDS_CHECK != 0,
            unknown_flags: flags & !NEEDS_CHECK,
            is_picture: get_u32(bytes, COMPAT_RO_FLAGS) & PICTURE != 0,
            uuid,
            time: get_u32(bytes, 44),
            transaction_id: get_u64(bytes, 48),
            held_root: Some(get_u64(bytes, 56)).filter(|block| *block != 0),
            data_space_map: SpaceMapRoot::decode(&bytes[DATA_SPACE_MAP_ROOT..]),
            metadata_space_map: SpaceMapRoot::decode(&bytes[METADATA_SPACE_MAP_ROOT..]),
            mapping_root: get_u64(bytes, 320),
            details_root: get_u64(bytes, 328),
            data_block_sectors: get_u32(bytes, 336),
            metadata_blocks_at_format: get_u64(bytes, 344),
        })
    }
}

fn foreign(bytes: &Block, number: u64) -> Error {
    let what = if bytes.iter().all(|byte| *byte == 0) { ": the block is all zero" } else { "" };
    Error::new(ErrorKind::Unsupported, format!("no dm-thin metadata: the magic is missing{what}"))
        .with_block(number)
}

fn check_features(bytes: &Block, number: u64) -> Result<()> {
    let unsupported = |message| Err(Error::new(ErrorKind::Unsupported, message).with_block(number));
    let version = get_u32(bytes, VERSION);
    if version != VERSION_VALUE {
        return unsupported(format!("the metadata has version {version}, the kernel knows {VERSION_VALUE}"));
    }
    let fields = [
        ("compatible", 352, 0),
        ("read-only compatible", COMPAT_RO_FLAGS, PICTURE),
        ("incompatible", INCOMPAT_FLAGS, 0),
    ];
    for (name, offset, known) in fields {
        let flags = get_u32(bytes, offset) & !known;
        if flags != 0 {
            return unsupported(format!("the metadata has unknown {name} features {flags:#x}"));
        }
    }
    let sectors = get_u32(bytes, METADATA_BLOCK_SECTORS);
    if sectors as usize * 512 != BLOCK_BYTES {
        let message = format!("a metadata block has {sectors} sectors and should have 8");
        return Err(Error::damaged(number, METADATA_BLOCK_SECTORS, message));
    }
    Ok(())
}
