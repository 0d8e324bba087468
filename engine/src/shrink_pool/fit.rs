//! Whether a pool fits into a smaller size.
//!
//! Owns the figures that a refusal tells.

use crate::error::{Error, ErrorKind, Result};
use crate::units::BLOCK_BYTES;

/// Free data blocks that a pool keeps when it becomes smaller: 1 MiB, so that it can take a write at all.
pub const FREE_BLOCKS_AT_LEAST: u64 = 16;

/// Fails unless a pool of `from_blocks`, of which `used_blocks` are in use and `reserved_blocks` are kept free for volumes,
/// can have `to_blocks`.
pub(super) fn require(
    from_blocks: u64,
    used_blocks: u64,
    reserved_blocks: u64,
    to_blocks: u64,
) -> Result<()> {
    // Whoever reads this may give the size back as it stands here.
    let kib = |blocks: u64| blocks * BLOCK_BYTES / 1024;
    if to_blocks > from_blocks {
        let message = format!("the pool has {} KiB; to make it larger, extend it", kib(from_blocks));
        return Err(Error::invalid(message));
    }
    let least = used_blocks + reserved_blocks.max(FREE_BLOCKS_AT_LEAST);
    let reserved = match reserved_blocks {
        0 => String::new(),
        blocks => format!(", and keeps {} KiB for reservations", kib(blocks)),
    };
    if to_blocks < from_blocks && to_blocks < least {
        let message = match least < from_blocks {
            true => format!(
                "the pool uses {} KiB, its log included{reserved}; the least size is {}K",
                kib(used_blocks),
                kib(least)
            ),
            false => format!(
                "the pool uses {} of its {} KiB{reserved}; it cannot be smaller",
                kib(used_blocks),
                kib(from_blocks)
            ),
        };
        return Err(Error::new(ErrorKind::NoSpace, message));
    }
    Ok(())
}
