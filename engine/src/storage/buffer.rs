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
    /// Comes as zeros from the kernel, page by page, when it is first written.
    Zeros(Zeros),
    /// Known to the kernel.
    Arena(Slot),
}

/// An aligned part of plain memory, which is a little longer.
struct Zeros {
    /// Never grows.
    memory: Vec<u8>,
    start: usize,
    length_bytes: usize,
}

impl Zeros {
    fn new(length_bytes: usize) -> Self {
        let memory = vec![0; length_bytes + PAGE_BYTES];
        let start = memory.as_ptr().addr().next_multiple_of(PAGE_BYTES) - memory.as_ptr().addr();
        Self { memory, start, length_bytes }
    }
}

impl Buffer {
    /// `length_bytes` zeros. A long one takes memory only as it is filled.
    pub fn zeroed(length_bytes: usize) -> Self {
        if let Some(mut slot) = arena::take(length_bytes) {
            slot.fill(0);
            return Self(Memory::Arena(slot));
        }
        Self(Memory::Zeros(Zeros::new(length_bytes)))
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
            Memory::Zeros(zeros) => &zeros.memory[zeros.start..][..zeros.length_bytes],
            Memory::Arena(slot) => slot,
        }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.0 {
            Memory::Heap(memory) => memory,
            Memory::Zeros(zeros) => &mut zeros.memory[zeros.start..][..zeros.length_bytes],
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
