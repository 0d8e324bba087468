//! Little-endian numbers and record bodies: the only code that turns integers into bytes and back.
//!
//! Owns bounds checks, so that a decoder never indexes bytes from a disk, and the configuration of bincode. Knows no
//! structure. Read next: any structure of this folder, `superblock.rs` first.

use crate::error::{Error, Result};
use crate::request::Uuid;
use bincode::config::{Configuration, Fixint, Limit, LittleEndian};
use std::fmt::Write;

/// Values of 48 bits (keys, page numbers, generations, counts of blocks) are below this.
pub const U48_LIMIT: u64 = 1 << 48;

// Every body lies in a page or in a log record, so nothing longer can be real. The limit also bounds what a hostile
// length can make the decoder allocate.
const BODY_LIMIT_BYTES: usize = 64 * 1024;
const BODY: Configuration<LittleEndian, Fixint, Limit<BODY_LIMIT_BYTES>> =
    bincode::config::standard().with_little_endian().with_fixed_int_encoding().with_limit();

/// Encodes a record body: fixed-width little-endian numbers, lengths as 64 bits, no field names.
pub fn to_body<T: bincode::Encode>(value: &T) -> Vec<u8> {
    bincode::encode_to_vec(value, BODY).expect("encoding into memory succeeds")
}

/// Decodes a record body and says how many bytes it took; what is behind them is the body's unknown tail.
///
/// Fails with `Damaged` when the bytes are no such body.
pub fn from_body<T: bincode::Decode<()>>(bytes: &[u8]) -> Result<(T, usize)> {
    bincode::decode_from_slice(bytes, BODY).map_err(|cause| Error::damaged(format!("record body: {cause}")))
}

/// A uuid as people write it.
pub fn uuid_text(uuid: &Uuid) -> String {
    let mut text = String::with_capacity(36);
    for (index, byte) in uuid.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        write!(text, "{byte:02x}").expect("writing into memory succeeds");
    }
    text
}

/// Takes numbers from the front of bytes that nobody vouches for. Every method fails with `Damaged` at their end.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the first of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What has not been read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Whether everything has been read.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next `count` bytes.
    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8]> {
        let (taken, rest) =
            self.rest.split_at_checked(count).ok_or_else(|| Error::damaged("the structure is cut short"))?;
        self.rest = rest;
        Ok(taken)
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (taken, rest) =
            self.rest.split_first_chunk().ok_or_else(|| Error::damaged("the structure is cut short"))?;
        self.rest = rest;
        Ok(*taken)
    }

    /// The next byte.
    pub fn u8(&mut self) -> Result<u8> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    /// The next 16 bits.
    pub fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    /// The next 32 bits.
    pub fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// The next 48 bits.
    pub fn u48(&mut self) -> Result<u64> {
        let [a, b, c, d, e, f] = self.array()?;
        Ok(u64::from_le_bytes([a, b, c, d, e, f, 0, 0]))
    }

    /// The next 64 bits.
    pub fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }
}

/// Puts numbers one behind the other.
#[derive(Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// Starts empty, with room for `capacity` bytes.
    pub fn with_capacity(capacity: usize) -> Self {
        Self { bytes: Vec::with_capacity(capacity) }
    }

    /// What was written.
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }

    /// Appends bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Appends zeros until `length` bytes are there.
    pub fn zeros_to(&mut self, length: usize) {
        assert!(self.bytes.len() <= length, "the structure is longer than its {length} bytes");
        self.bytes.resize(length, 0);
    }

    /// Appends a byte.
    pub fn u8(&mut self, value: u8) {
        self.bytes.push(value);
    }

    /// Appends 16 bits.
    pub fn u16(&mut self, value: u16) {
        self.bytes(&value.to_le_bytes());
    }

    /// Appends 32 bits.
    pub fn u32(&mut self, value: u32) {
        self.bytes(&value.to_le_bytes());
    }

    /// Appends 48 bits. Panics on a value that has more: the engine must not have let it grow so far.
    pub fn u48(&mut self, value: u64) {
        assert!(value < U48_LIMIT, "{value} does not fit in 48 bits");
        let [a, b, c, d, e, f, _, _] = value.to_le_bytes();
        self.bytes(&[a, b, c, d, e, f]);
    }

    /// Appends 64 bits.
    pub fn u64(&mut self, value: u64) {
        self.bytes(&value.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_round_trip() {
        let mut out = Writer::default();
        out.u8(1);
        out.u16(0x0203);
        out.u32(0x0405_0607);
        out.u48(0x0809_0a0b_0c0d);
        out.u64(0x0e0f_1011_1213_1415);
        out.bytes(b"xy");
        out.zeros_to(24);
        let bytes = out.finish();
        assert_eq!(bytes[..9], [1, 3, 2, 7, 6, 5, 4, 0x0d, 0x0c]);
        let mut reader = Reader::new(&bytes);
        assert_eq!(reader.u8(), Ok(1));
        assert_eq!(reader.u16(), Ok(0x0203));
        assert_eq!(reader.u32(), Ok(0x0405_0607));
        assert_eq!(reader.u48(), Ok(0x0809_0a0b_0c0d));
        assert_eq!(reader.u64(), Ok(0x0e0f_1011_1213_1415));
        assert_eq!(reader.array(), Ok(*b"xy"));
        assert!(reader.clone().bytes(2).is_err() && reader.u16().is_err());
        assert_eq!(reader.bytes(1), Ok(&[0][..]));
        assert!(reader.is_empty());
    }

    #[test]
    #[should_panic(expected = "does not fit in 48 bits")]
    fn wide_numbers_are_refused() {
        Writer::default().u48(U48_LIMIT);
    }

    #[test]
    fn bodies_are_fixed_width_and_say_what_they_took() {
        let mut body = to_body(&(1u16, "ab", Some(3u64)));
        assert_eq!(body, *b"\x01\0\x02\0\0\0\0\0\0\0ab\x01\x03\0\0\0\0\0\0\0");
        body.extend_from_slice(b"tail");
        assert_eq!(
            from_body::<(u16, String, Option<u64>)>(&body),
            Ok(((1, "ab".into(), Some(3)), body.len() - 4))
        );
    }

    #[test]
    fn a_hostile_length_allocates_nothing() {
        for length in [u64::MAX, 1 << 40, 70_000] {
            assert!(from_body::<Vec<u64>>(&length.to_le_bytes()).is_err());
            assert!(from_body::<String>(&length.to_le_bytes()).is_err());
        }
    }

    #[test]
    fn uuids_look_like_uuids() {
        assert_eq!(uuid_text(&super::super::golden::POOL), "a0a1a2a3-a4a5-a6a7-a8a9-aaabacadaeaf");
    }
}
