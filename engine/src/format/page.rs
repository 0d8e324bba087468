//! Pages of trees and the pointers that lead to them.
//!
//! Owns the header of every page and the proof that a page is the one its parent meant. Does not look into bodies.
//! Read next: `inner_page.rs`, `map_leaf.rs`.

use super::checksum::crc32;
use super::codec::{Reader, U48_LIMIT, Writer};
use crate::canary::{self, Canary};
use crate::error::{Error, ErrorKind, Place, Result};
use crate::request::Uuid;
use crate::storage::Buffer;
use crate::units::{Generation, PAGE_BYTES, PageNumber, VolumeId};

// offset  size  field
//      0     4  CRC-32 of bytes 4..4096
//      4     1  kind, see `PageKind`
//      5     1  level: 0 for a leaf
//      6     2  entries
//      8     8  number of this page
//     16     8  number of its copy, 0 for none
//     24     8  generation
//     32     8  first key it may hold
//     40     8  last key it may hold
//     48     8  volume of birth
//     56    16  pool uuid
//     72     2  length of the body
//     74    22  zero
//     96  4000  body, then zeros
/// Bytes of the header of a page.
pub const HEADER_BYTES: usize = 96;
/// Bytes of a page behind its header.
pub const BODY_BYTES: usize = PAGE_BYTES - HEADER_BYTES;

// offset  size  field of a pointer
//      0     6  page
//      6     6  its copy, 0 for none
//     12     6  generation
//     18     4  the page's checksum
//     22     6  mapped blocks below
/// Bytes of an encoded [`Pointer`].
pub const POINTER_BYTES: usize = 28;

/// What a page holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageKind {
    /// Mappings of one volume.
    MapLeaf = 1,
    /// Pointers.
    Inner = 2,
    /// Volume records.
    VolumeLeaf = 3,
    /// Counts of a byte each.
    CountLeaf = 4,
    /// Counts that do not fit in a byte.
    OverflowLeaf = 5,
}

impl PageKind {
    fn decode(byte: u8) -> Result<Self> {
        Ok(match byte {
            1 => Self::MapLeaf,
            2 => Self::Inner,
            3 => Self::VolumeLeaf,
            4 => Self::CountLeaf,
            5 => Self::OverflowLeaf,
            _ => return Err(Error::new(ErrorKind::Unsupported, format!("page kind {byte} is unknown"))),
        })
    }
}

/// What stands in front of every page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageHeader {
    /// What the page holds.
    pub kind: PageKind,
    /// 0 for a leaf, otherwise one more than the children's.
    pub level: u8,
    /// How many entries the body holds.
    pub entries: u16,
    /// Where the page stands.
    pub number: PageNumber,
    /// Where the same bytes stand a second time.
    pub copy: Option<PageNumber>,
    /// The checkpoint that wrote it.
    pub generation: Generation,
    /// The first key that it may hold.
    pub first_key: u64,
    /// The last key that it may hold.
    pub last_key: u64,
    /// The volume that it was written for.
    pub volume_of_birth: VolumeId,
}

/// The way to a page, with all that tells whether the page found there is the one that was meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pointer {
    /// Where the page stands.
    pub page: PageNumber,
    /// Where the same bytes stand a second time.
    pub copy: Option<PageNumber>,
    /// The checkpoint that wrote it.
    pub generation: Generation,
    /// The page's checksum.
    pub checksum: u32,
    /// Virtual blocks mapped below; 0 in trees that hold no mappings.
    pub mapped: u64,
}

impl Pointer {
    /// Appends the pointer. Panics when a number has more than 48 bits.
    pub fn write(&self, out: &mut Writer) {
        out.u48(self.page.0);
        out.u48(self.copy.map_or(0, |copy| copy.0));
        out.u48(self.generation.0);
        out.u32(self.checksum);
        out.u48(self.mapped);
    }

    /// Takes a pointer. Fails with `Damaged` at the end of the bytes.
    pub fn read(reader: &mut Reader<'_>) -> Result<Self> {
        Ok(Self {
            page: PageNumber(reader.u48()?),
            copy: page_or_none(reader.u48()?),
            generation: Generation(reader.u48()?),
            checksum: reader.u32()?,
            mapped: reader.u48()?,
        })
    }
}

impl bincode::Encode for Pointer {
    fn encode<E: bincode::enc::Encoder>(
        &self,
        encoder: &mut E,
    ) -> std::result::Result<(), bincode::error::EncodeError> {
        use bincode::enc::write::Writer as _;
        let mut out = Writer::with_capacity(POINTER_BYTES);
        self.write(&mut out);
        encoder.writer().write(&out.finish())
    }
}

impl<C> bincode::Decode<C> for Pointer {
    fn decode<D: bincode::de::Decoder<Context = C>>(
        decoder: &mut D,
    ) -> std::result::Result<Self, bincode::error::DecodeError> {
        let bytes: [u8; POINTER_BYTES] = bincode::Decode::decode(decoder)?;
        Self::read(&mut Reader::new(&bytes))
            .map_err(|cause| bincode::error::DecodeError::OtherString(cause.to_string()))
    }
}

/// A page with `body`, ready to be written, and its checksum for the pointer to it.
///
/// Panics when the body is longer than [`BODY_BYTES`] or a number longer than a pointer can hold.
pub fn seal(header: &PageHeader, pool: &Uuid, body: &[u8]) -> (Buffer, u32) {
    assert!(body.len() <= BODY_BYTES, "a body of {} bytes does not fit in a page", body.len());
    assert!(header.number.0 < U48_LIMIT && header.generation.0 < U48_LIMIT, "numbers of a page have 48 bits");
    let mut out = Writer::with_capacity(HEADER_BYTES);
    out.u8(header.kind as u8);
    out.u8(header.level);
    out.u16(header.entries);
    out.u64(header.number.0);
    out.u64(header.copy.map_or(0, |copy| copy.0));
    out.u64(header.generation.0);
    out.u64(header.first_key);
    out.u64(header.last_key);
    out.u64(header.volume_of_birth.0);
    out.bytes(pool);
    out.u16(body.len() as u16);
    out.zeros_to(HEADER_BYTES - 4);
    let mut page = Buffer::zeroed(PAGE_BYTES);
    page[4..HEADER_BYTES].copy_from_slice(&out.finish());
    page[HEADER_BYTES..HEADER_BYTES + body.len()].copy_from_slice(body);
    let checksum = crc32(&page[4..]);
    page[..4].copy_from_slice(&checksum.to_le_bytes());
    (page, checksum)
}

/// The header and body of the page that `pointer` means.
///
/// Fails with `Damaged` when the bytes are not that page: rotten, misdirected, lost, stale, or another pool's.
pub fn open<'a>(bytes: &'a [u8], pool: &Uuid, pointer: &Pointer) -> Result<(PageHeader, &'a [u8])> {
    open_unplaced(bytes, pool, pointer).map_err(|error| error.at(Place::Page(pointer.page)))
}

fn open_unplaced<'a>(bytes: &'a [u8], pool: &Uuid, pointer: &Pointer) -> Result<(PageHeader, &'a [u8])> {
    let mut reader = Reader::new(bytes);
    let checksum = reader.u32()?;
    // Before anything is believed: rot in the kind is damage too, not a kind from the future.
    let intact = checksum == crc32(reader.rest()) || canary::broken(Canary::PageChecksumIgnored);
    require(intact, || "page: checksum mismatch".into())?;
    let found = inspect(bytes)?;
    let (number, copy) = (pointer.page, pointer.copy);
    if canary::broken(Canary::PageChecksumIgnored) {
        return Ok((found.header, found.body));
    }
    require(found.pool == *pool, || "page: it belongs to another pool".into())?;
    require(found.header.number == number, || {
        format!("page: it is page {}, misdirected", found.header.number)
    })?;
    require(found.header.copy == copy, || "page: its copy is not where its parent says".into())?;
    require(found.header.generation == pointer.generation, || {
        let (found, expected) = (found.header.generation, pointer.generation);
        format!("page: it is of generation {found}, its parent wants {expected}: a write was lost")
    })?;
    require(checksum == pointer.checksum, || "page: it is whole, but not the one its parent wants".into())?;
    Ok((found.header, found.body))
}

/// What stands in a page, whether it was meant or not. For tools that look at damaged pools.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspected<'a> {
    /// Its header.
    pub header: PageHeader,
    /// The pool that it says it belongs to.
    pub pool: Uuid,
    /// Whether the checksum fits the bytes.
    pub checksum_ok: bool,
    /// Its body.
    pub body: &'a [u8],
}

/// Reads a page without a pointer to it. Fails when it has no possible header or is not [`PAGE_BYTES`] long.
pub fn inspect(bytes: &[u8]) -> Result<Inspected<'_>> {
    require(bytes.len() == PAGE_BYTES, || format!("a page has {PAGE_BYTES} bytes, not {}", bytes.len()))?;
    let mut reader = Reader::new(bytes);
    let checksum_ok = reader.u32()? == crc32(reader.rest());
    let (kind, level, entries) = (reader.u8()?, reader.u8()?, reader.u16()?);
    let header = PageHeader {
        kind: PageKind::decode(kind)?,
        level,
        entries,
        number: PageNumber(reader.u64()?),
        copy: page_or_none(reader.u64()?),
        generation: Generation(reader.u64()?),
        first_key: reader.u64()?,
        last_key: reader.u64()?,
        volume_of_birth: VolumeId(reader.u64()?),
    };
    let pool = reader.array()?;
    let body_bytes = usize::from(reader.u16()?);
    let mut behind = Reader::new(bytes);
    behind.bytes(HEADER_BYTES)?;
    Ok(Inspected { header, pool, checksum_ok, body: behind.bytes(body_bytes)? })
}

fn page_or_none(number: u64) -> Option<PageNumber> {
    (number != 0).then_some(PageNumber(number))
}

fn require(holds: bool, otherwise: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::damaged(otherwise())) }
}

#[cfg(test)]
mod tests {
    use super::super::golden;
    use super::*;

    const HEADER: PageHeader = PageHeader {
        kind: PageKind::Inner,
        level: 2,
        entries: 3,
        number: PageNumber(900),
        copy: Some(PageNumber(901)),
        generation: Generation(12),
        first_key: 0x1000,
        last_key: 0xffff_ffff,
        volume_of_birth: VolumeId(5),
    };

    fn sample() -> (Buffer, Pointer) {
        let (page, checksum) = seal(&HEADER, &golden::POOL, b"the body");
        let PageHeader { number, copy, generation, .. } = HEADER;
        (page, Pointer { page: number, copy, generation, checksum, mapped: 0 })
    }

    #[test]
    fn round_trip() {
        let (page, pointer) = sample();
        assert_eq!(open(&page, &golden::POOL, &pointer), Ok((HEADER, &b"the body"[..])));
        let (full, _) = seal(&HEADER, &golden::POOL, &[7; BODY_BYTES]);
        assert_eq!(inspect(&full).unwrap().body, [7; BODY_BYTES]);
    }

    #[test]
    fn pointers_round_trip() {
        for pointer in [golden::leaf_pointer(4), golden::inner_pointer(U48_LIMIT - 2)] {
            let bytes = super::super::to_body(&pointer);
            assert_eq!(bytes.len(), POINTER_BYTES);
            assert_eq!(super::super::from_body(&bytes), Ok((pointer, POINTER_BYTES)));
        }
    }

    #[test]
    fn golden_bytes() {
        golden::assert_golden(
            &sample().0,
            "d1df22c702020300840300000000000085030000000000000c000000000000000010000000000000\
             ffffffff000000000500000000000000a0a1a2a3a4a5a6a7a8a9aaabacadaeaf0800000000000000\
             0000000000000000000000000000000074686520626f6479",
            0xb92b_4e4a_c6f5_154c,
        );
        golden::assert_golden(
            &super::super::to_body(&golden::inner_pointer(0x0102_0304_0506)),
            "060504030201070504030201070000000000785634122a0000000000",
            0xb411_a32e_57c0_04c9,
        );
    }

    /// Each thing that a pointer knows of its page catches a page that differs in it alone.
    #[test]
    fn every_difference_from_the_pointer_is_seen() {
        let (page, pointer) = sample();
        let refused = |pointer: Pointer, pool: &Uuid, word: &str| {
            let error = open(&page, pool, &pointer).unwrap_err();
            assert_eq!((error.kind(), error.place()), (ErrorKind::Damaged, Some(Place::Page(pointer.page))));
            assert!(error.message().contains(word), "{error}");
        };
        refused(pointer, &golden::OTHER_POOL, "another pool");
        refused(Pointer { page: PageNumber(899), ..pointer }, &golden::POOL, "misdirected");
        refused(Pointer { copy: None, ..pointer }, &golden::POOL, "copy");
        refused(Pointer { generation: Generation(13), ..pointer }, &golden::POOL, "lost");
        refused(Pointer { checksum: 0, ..pointer }, &golden::POOL, "not the one");
        assert!(open(&page[..4000], &golden::POOL, &pointer).is_err());
    }

    #[test]
    fn rot_is_seen_and_can_be_inspected() {
        let (page, pointer) = sample();
        let mut page = page.to_vec();
        page[PAGE_BYTES - 1] ^= 1;
        assert!(open(&page, &golden::POOL, &pointer).unwrap_err().message().contains("checksum"));
        let inspected = inspect(&page).unwrap();
        assert_eq!((inspected.header, inspected.checksum_ok), (HEADER, false));
    }

    #[test]
    fn damage_never_panics() {
        golden::damage(&sample().0, |bytes| drop(inspect(bytes)));
    }
}
