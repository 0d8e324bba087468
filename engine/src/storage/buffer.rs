//! Memory aligned for direct I/O, owned by one operation at a time.

use crate::units::PAGE_BYTES;
use aligned_vec::{AVec, ConstAlign};
use bytes::Bytes;
use std::ops::{Deref, DerefMut};

/// Zero-initialised memory that starts on a 4 KiB boundary, as direct I/O wants it.
pub struct Buffer(AVec<u8, ConstAlign<PAGE_BYTES>>);

impl Buffer {
    /// `length_bytes` zeros.
    pub fn zeroed(length_bytes: usize) -> Self {
        let mut memory = AVec::with_capacity(PAGE_BYTES, length_bytes);
        memory.resize(length_bytes, 0);
        Self(memory)
    }

    /// A copy of `bytes`.
    pub fn copy_of(bytes: &[u8]) -> Self {
        Self(AVec::from_slice(PAGE_BYTES, bytes))
    }

    /// Gives up the right to change the memory, and shares it without a copy.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Buffer({} bytes)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_aligned_and_survives_freezing() {
        let mut buffer = Buffer::zeroed(3 * PAGE_BYTES);
        buffer[5] = 7;
        assert_eq!(buffer.as_ptr() as usize % PAGE_BYTES, 0);
        let bytes = buffer.freeze();
        assert_eq!(bytes.as_ptr() as usize % PAGE_BYTES, 0);
        assert_eq!(bytes[5], 7);
    }
}
