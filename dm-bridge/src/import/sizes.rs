//! How large the volume of a thin device is, which the metadata does not say.
//!
//! Owns which size counts. Nothing that is mapped may be outside.

use super::Member;
use vellum_engine::error::{Error as PoolError, ErrorKind as PoolKind, Place};
use vellum_engine::units::BLOCK_BYTES;

/// The largest volume, in bytes.
const VOLUME_BYTES_MAX: u64 = BLOCK_BYTES << 40;

/// As large as was asked for, as it was, or as what it starts as; at least so that all that is mapped is inside.
pub(super) fn size_of(
    member: &Member,
    blocks_a_block: u64,
    wanted: Option<u64>,
    base: Option<u64>,
) -> Result<u64, PoolError> {
    let at = |error: PoolError| error.at(Place::Volume(member.record.id));
    let mapped = member.seen.end.saturating_mul(blocks_a_block * BLOCK_BYTES);
    if let Some(wanted) = wanted {
        // The last block may be mapped beyond the end.
        if wanted == 0
            || wanted > VOLUME_BYTES_MAX
            || !wanted.is_multiple_of(4096)
            || wanted.next_multiple_of(blocks_a_block * BLOCK_BYTES) < mapped
        {
            let message = format!(
                "device {} cannot have {wanted} bytes: blocks up to byte {mapped} are mapped, and sizes are multiples of 4096 up to {VOLUME_BYTES_MAX}",
                member.seen.device.id
            );
            return Err(at(PoolError::invalid(message)));
        }
        return Ok(wanted);
    }
    let known = member.record.size_bytes;
    // What was whole sectors before it was given away is whole blocks for the kernel.
    let fits = known > 0 && known.next_multiple_of(blocks_a_block * BLOCK_BYTES) >= mapped;
    let size = if fits { known } else { mapped.max(base.unwrap_or(0)).max(BLOCK_BYTES) };
    if size > VOLUME_BYTES_MAX {
        let message = format!(
            "device {} is mapped up to byte {size}, and volumes end at {VOLUME_BYTES_MAX}",
            member.seen.device.id
        );
        return Err(at(PoolError::new(PoolKind::Limit, message)));
    }
    Ok(size)
}
