//! The value of a mapping: the data block, and when it was mapped.
//!
//! Owns the packing into 64 bits: the block in the upper 40, the time in the lower 24.

/// Data blocks have numbers below this.
pub const DATA_BLOCK_LIMIT: u64 = 1 << 40;
/// Times of mappings are below this. The kernel counts on without asking, and then corrupts block numbers.
pub const TIME_LIMIT: u32 = 1 << 24;

/// A data block and the time of its mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockTime {
    /// Number of the data block.
    pub block: u64,
    /// The pool's time when it was mapped. The kernel takes a block to be shared if its device was snapshotted later.
    pub time: u32,
}

impl BlockTime {
    /// Bytes of an encoded one.
    pub const BYTES: usize = 8;

    /// Reads any 64 bits; every value means something.
    pub fn unpack(value: u64) -> Self {
        Self { block: value >> 24, time: (value & 0xff_ffff) as u32 }
    }

    /// The 64 bits. The block and the time must be below their limits.
    pub fn pack(self) -> u64 {
        debug_assert!(self.block < DATA_BLOCK_LIMIT && self.time < TIME_LIMIT);
        (self.block << 24) | u64::from(self.time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_go_there_and_back() {
        for value in [0, 1, 0xff_ffff, 1 << 24, u64::MAX] {
            assert_eq!(BlockTime::unpack(value).pack(), value);
        }
        assert_eq!(BlockTime { block: 5, time: 2 }.pack(), (5 << 24) | 2);
    }
}
