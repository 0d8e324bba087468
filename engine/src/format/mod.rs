//! Bytes on disk: every structure of the format, one a file, each with its picture, encoder and decoder.
//!
//! Owns what is written where, byte by byte; `docs/format.md` says in which order it gets there and why. Never does I/O,
//! never decides. No decoder panics, whatever it is given: what a disk returns is believed only after its checks.
//!
//! All numbers are little-endian. Bodies that can grow are bincode in its fixed-width little-endian configuration.
//!
//! | file | structure |
//! |---|---|
//! | `superblock.rs`, `root_slot.rs` | pages 0 to 3 of the metadata file |
//! | `page.rs` | header of all other pages, pointers to them |
//! | `inner_page.rs`, `map_leaf.rs`, `volume_leaf.rs`, `count_leaf.rs`, `overflow_leaf.rs` | what pages hold |
//! | `mapping.rs`, `map_entries.rs`, `map_leaf_bytes.rs`, `volume_record.rs`, `properties.rs` | what leaves hold |
//! | `log_head.rs`, `log_record.rs`, `delta.rs` | the log |
//! | `stream.rs` | a snapshot on its way to another pool |
//! | `codec.rs`, `checksum.rs` | numbers and checksums |
//! | `codec.rs`, `checksum.rs`, `search.rs` | numbers, checksums, searching sorted entries |
//!
//! # Adding to the format
//!
//! A new field goes behind the last one of its body, is read only if the body is long enough, and needs a bit in one of
//! the superblock's feature words if an older program must not open, or not write, a pool that uses it. A change of
//! anything else takes a new [`FORMAT_VERSION`], a decoder beside the old one, and a line in the version history of
//! `docs/format.md`. The golden bytes in the tests of each structure never change.

mod checksum;
mod codec;
mod count_leaf;
mod delta;
#[cfg(test)]
mod golden;
mod inner_page;
mod log_head;
mod log_record;
mod map_entries;
mod map_leaf;
mod map_leaf_bytes;
#[cfg(test)]
mod map_leaf_tests;
mod mapping;
mod overflow_leaf;
mod page;
mod properties;
mod root_slot;
mod search;
mod stream;
#[cfg(test)]
mod stream_tests;
mod superblock;
mod volume_leaf;
mod volume_record;

pub use checksum::{crc32, crc32_of_parts, crc32_seeded};
pub use codec::{Reader, U48_LIMIT, Writer, from_body, to_body, uuid_text};
pub use count_leaf::{COUNT_IN_OVERFLOW, COUNTS_PER_LEAF, decode_count_leaf, encode_count_leaf};
pub use delta::{DELTA_BYTES_MAX, Delta};
pub use inner_page::{INNER_CAPACITY, InnerPage};
pub use log_head::LogHead;
pub use log_record::{LogRecord, RECORD_HEADER_BYTES, RECORD_PAGES_MAX, RecordHeader};
pub use map_leaf::{MapEntry, MapLeaf, WINDOW_BLOCKS};
pub use mapping::{DATA_BLOCK_LIMIT, LOST, Layer, Mapping};
pub use overflow_leaf::{OVERFLOWS_PER_LEAF, decode_overflow_leaf, encode_overflow_leaf};
pub use page::{
    BODY_BYTES, HEADER_BYTES, Inspected, POINTER_BYTES, PageHeader, PageKind, Pointer, inspect, open, seal,
};
pub use properties::Properties;
pub use root_slot::{Extent, RootSlot};
pub use stream::{
    CHUNK_BYTES_MAX, Chunk, STREAM_VERSION, StreamDecoder, StreamEncoder, StreamHeader, StreamTotals,
};
pub use superblock::{KNOWN_INCOMPATIBLE, KNOWN_READ_ONLY_COMPATIBLE, LOST_RANGES, Superblock};
pub use volume_leaf::{decode_volume_leaf, encode_volume_leaf};
pub use volume_record::{
    NAME_BYTES_MAX, PICTURE_TAG, RECORD_BYTES_MAX, Received, TAG_BYTES_MAX, VolumeKind, VolumeRecord,
    VolumeState, check_name, check_tag,
};

use crate::units::{Generation, PageNumber};

/// The version of the format that this program reads and writes.
pub const FORMAT_VERSION: u32 = 1;
/// Where the two copies of the superblock stand.
pub const SUPERBLOCK_PAGES: [PageNumber; 2] = [PageNumber(0), PageNumber(3)];
/// Where the two root slots stand.
pub const ROOT_SLOT_PAGES: [PageNumber; 2] = [PageNumber(1), PageNumber(2)];
/// The first page that trees may use.
pub const FIRST_FREE_PAGE: PageNumber = PageNumber(4);

/// Where the root slot of `generation` stands.
pub const fn root_slot_page(generation: Generation) -> PageNumber {
    PageNumber(1 + generation.0 % 2)
}
