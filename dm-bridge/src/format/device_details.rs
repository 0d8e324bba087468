//! Device details: what the pool knows of a thin device besides its mappings.
//!
//! Owns the value of the details tree, whose key is the number of the device. There is no size in it: the table that
//! activates a thin device gives it.

use super::{get_u32, get_u64, put_u32, put_u64};

// offset  size  field
//      0     8  mapped blocks
//      8     8  transaction id at creation
//     16     4  creation time
//     20     4  snapshotted time

/// One row of the details tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceDetails {
    /// How many blocks the device has mapped.
    pub mapped_blocks: u64,
    /// The pool's transaction id when the device was made.
    pub transaction_id: u64,
    /// The pool's time when the device was made.
    pub creation_time: u32,
    /// The pool's time of the last snapshot of the device, or of its creation as one.
    pub snapshotted_time: u32,
}

impl DeviceDetails {
    /// Bytes of an encoded one.
    pub const BYTES: usize = 24;

    /// Reads any bytes; every value means something.
    pub fn decode(bytes: &[u8; Self::BYTES]) -> Self {
        Self {
            mapped_blocks: get_u64(bytes, 0),
            transaction_id: get_u64(bytes, 8),
            creation_time: get_u32(bytes, 16),
            snapshotted_time: get_u32(bytes, 20),
        }
    }

    /// The bytes of the tree's value.
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        put_u64(&mut bytes, 0, self.mapped_blocks);
        put_u64(&mut bytes, 8, self.transaction_id);
        put_u32(&mut bytes, 16, self.creation_time);
        put_u32(&mut bytes, 20, self.snapshotted_time);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes() {
        let details =
            DeviceDetails { mapped_blocks: 3, transaction_id: 4, creation_time: 5, snapshotted_time: 6 };
        let bytes = details.encode();
        assert_eq!(bytes, [3, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 6, 0, 0, 0]);
        assert_eq!(DeviceDetails::decode(&bytes), details);
    }
}
