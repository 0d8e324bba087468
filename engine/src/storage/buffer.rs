//! Memory aligned for direct I/O, owned by one operation at a time.

use super::arena::{self, Slot};
use crate::units::PAGE_BYTES;
use aligned_vec::{AVec, ConstAlign};
use bytes::Bytes;
use std::ops::{Deref, DerefMut};

/// Memory that starts on a 4 KiB boundary, as direct I/O wants it.
pub struct Buffer(Memory);

enum Memory {
    Heap(AVec<u8, ConstAlign<PAGE_BYTES>>),
    /// Known to the kernel.
    Arena(Slot),
}

impl Buffer {
    /// `length_bytes` zeros.
    pub fn zeroed(length_bytes: usize) -> Self {
        if let Some(mut slot) = arena::take(length_bytes) {
            slot.fill(0);
            return Self(Memory::Arena(slot));
        }
        let mut memory = AVec::with_capacity(PAGE_BYTES, length_bytes);
        memory.resize(length_bytes, 0);
        Self(Memory::Heap(memory))
    }

    /// A copy of `bytes`.
    pub fn copy_of(bytes: &[u8]) -> Self {
        if let Some(mut slot) = arena::take(bytes.len()) {
            slot.copy_from_slice(bytes);
            return Self(Memory::Arena(slot));
        }
        Self(Memory::Heap(AVec::from_slice(PAGE_BYTES, bytes)))
    }

    /// Gives up the right to change the memory, and shares it without a copy.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Memory::Heap(memory) => memory,
            Memory::Arena(slot) => slot,
        }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.0 {
            Memory::Heap(memory) => memory,
            Memory::Arena(slot) => slot,
        }
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Buffer({} bytes)", self.len())
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
