//! Memory that the kernel knows beforehand: buffers taken from it need no look-up and no pinning an operation.
//!
//! Owns one arena a process, cut into slots, and who has which. Every ring registers it; an operation whose buffer lies
//! elsewhere, because all slots are taken or it is too long, works all the same.

use crate::units::{BLOCK_BYTES, PAGE_BYTES};
use aligned_vec::{AVec, ConstAlign};
use std::sync::{Mutex, OnceLock, PoisonError};

/// The longest buffer from the arena, in bytes: a block.
const SLOT_BYTES: usize = BLOCK_BYTES as usize;
/// Shorter ones come from the heap; no disk operation is so short.
const SLOT_BYTES_MIN: usize = 512;

static ARENA: OnceLock<Arena> = OnceLock::new();

struct Arena {
    /// Where the memory begins. It is never given back.
    base: usize,
    slots: usize,
    free: Mutex<Vec<u32>>,
}

/// A slot of the arena, whoever holds this has it alone.
pub struct Slot {
    address: *mut u8,
    length_bytes: usize,
}

// SAFETY: a slot is memory that only its holder can reach, as with a box; it may move between threads.
#[allow(unsafe_code)]
unsafe impl Send for Slot {}
// SAFETY: through a shared slot the memory can only be read.
#[allow(unsafe_code)]
unsafe impl Sync for Slot {}

/// Sets `length_bytes` of memory aside for buffers, once a process; a second call changes nothing.
pub fn reserve(length_bytes: usize) {
    ARENA.get_or_init(|| {
        let slots = length_bytes / SLOT_BYTES;
        let mut memory: AVec<u8, ConstAlign<PAGE_BYTES>> =
            AVec::with_capacity(PAGE_BYTES, slots * SLOT_BYTES);
        memory.resize(slots * SLOT_BYTES, 0);
        let base = memory.as_mut_ptr().expose_provenance();
        // Never given back: rings and buffers may live as long as the process.
        std::mem::forget(memory);
        Arena { base, slots, free: Mutex::new((0..slots as u32).rev().collect()) }
    });
}

/// The arena's memory, if there is one: address and length in bytes.
pub fn memory() -> Option<(*mut u8, usize)> {
    let arena = ARENA.get().filter(|arena| arena.slots > 0)?;
    Some((std::ptr::with_exposed_provenance_mut(arena.base), arena.slots * SLOT_BYTES))
}

/// Whether `length_bytes` at `address` lie in the arena.
pub fn holds(address: *const u8, length_bytes: usize) -> bool {
    memory().is_some_and(|(base, length)| {
        let (base, address) = (base.addr(), address.addr());
        address >= base && address + length_bytes <= base + length
    })
}

/// A slot for `length_bytes`, its content left over from whoever had it before.
pub fn take(length_bytes: usize) -> Option<Slot> {
    if !(SLOT_BYTES_MIN..=SLOT_BYTES).contains(&length_bytes) {
        return None;
    }
    let arena = ARENA.get()?;
    let index = arena.lock().pop()? as usize;
    let address = std::ptr::with_exposed_provenance_mut(arena.base + index * SLOT_BYTES);
    Some(Slot { address, length_bytes })
}

impl Arena {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<u32>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(arena) = ARENA.get() {
            arena.lock().push(((self.address.addr() - arena.base) / SLOT_BYTES) as u32);
        }
    }
}

impl std::ops::Deref for Slot {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `take` popped this slot's number, which is pushed again only when this slot is dropped: nobody else has
        // it. Its `length_bytes` are at most SLOT_BYTES inside the leaked, initialised memory of the arena.
        #[allow(unsafe_code)]
        unsafe {
            std::slice::from_raw_parts(self.address, self.length_bytes)
        }
    }
}

impl std::ops::DerefMut for Slot {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `self` is borrowed mutably, so this is the only way to the memory meanwhile.
        #[allow(unsafe_code)]
        unsafe {
            std::slice::from_raw_parts_mut(self.address, self.length_bytes)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_apart_aligned_and_come_back() {
        reserve(4 * SLOT_BYTES);
        let mut slots: Vec<Slot> = (0..4).map(|_| take(4096).unwrap()).collect();
        assert!(take(4096).is_none(), "four slots are four slots");
        for (index, slot) in slots.iter_mut().enumerate() {
            slot.fill(index as u8);
        }
        for (index, slot) in slots.iter().enumerate() {
            assert!(slot.iter().all(|byte| *byte == index as u8));
            assert!(slot.as_ptr().addr().is_multiple_of(PAGE_BYTES) && holds(slot.as_ptr(), slot.len()));
        }
        drop(slots);
        assert_eq!(take(SLOT_BYTES).unwrap().len(), SLOT_BYTES);
        assert!(take(SLOT_BYTES + 1).is_none() && take(1).is_none());
    }
}
