//! Takes big-endian fields off the front of the data of an option, and cuts strings that go the other way.
//!
//! Owns what a string of the protocol is. Never panics: what is not there is `None`.

use super::STRING_BYTES_MAX;

/// The bytes that are left.
#[derive(Clone, Copy)]
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    /// The next `length` bytes.
    pub fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    /// The next 16 bits.
    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    /// The next 32 bits.
    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    /// The next 64 bits.
    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }
}

/// `bytes` as a string of the protocol: UTF-8 without NUL, at most 4096 bytes.
pub fn string(bytes: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(bytes).ok()?;
    (bytes.len() <= STRING_BYTES_MAX && !bytes.contains(&0)).then_some(text)
}

/// As much of `text` as a string of the protocol may have, in whole characters.
pub fn clipped(text: &str) -> &str {
    &text[..text.floor_char_boundary(STRING_BYTES_MAX)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_short_utf8_without_nul() {
        assert_eq!(string("gr\u{fc}n".as_bytes()), Some("gr\u{fc}n"));
        assert_eq!(string(b""), Some(""));
        assert!(string(&[b'a'; 4096]).is_some() && string(&[b'a'; 4097]).is_none());
        assert!(string(b"a\0").is_none() && string(b"\xff").is_none());
    }

    #[test]
    fn clipping_keeps_characters_whole() {
        assert_eq!(clipped("short"), "short");
        let long = "a".to_owned() + &"\u{fc}".repeat(3000);
        assert_eq!(clipped(&long).len(), 4095);
    }

    #[test]
    fn what_is_not_there_takes_nothing() {
        let mut fields = Fields(&[1, 2, 3]);
        assert_eq!((fields.u32(), fields.bytes(4), fields.u64()), (None, None, None));
        assert_eq!((fields.u16(), fields.u16(), fields.bytes(1)), (Some(0x102), None, Some(&[3][..])));
    }
}
