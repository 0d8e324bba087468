//! CRC-32 (IEEE) of bytes, of parts of bytes, and of bytes behind a seed.
//!
//! Owns the choice of checksum. What each one covers stands in the picture of its structure.

use crc32fast::Hasher;

/// The checksum of `bytes`.
pub fn crc32(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

/// The checksum of `bytes` behind `seed_parts` (each as 8 little-endian bytes), which are not stored with it.
pub fn crc32_seeded(seed_parts: &[u64], bytes: &[u8]) -> u32 {
    let mut hasher = Hasher::new();
    for part in seed_parts {
        hasher.update(&part.to_le_bytes());
    }
    hasher.update(bytes);
    hasher.finalize()
}

/// The checksum of all `parts` as if they were one.
pub fn crc32_of_parts<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u32 {
    let mut hasher = Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_check_value() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn parts_and_seeds_are_bytes_in_front() {
        assert_eq!(crc32_of_parts([&b"1234"[..], b"", b"56789"]), crc32(b"123456789"));
        assert_eq!(crc32_seeded(&[1, 2], b"x"), crc32(b"\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0x"));
        assert_ne!(crc32_seeded(&[1, 2], b"x"), crc32_seeded(&[2, 1], b"x"));
    }
}
