//! Copies the sectors that mappings see to the places where their blocks move.
//!
//! Owns how copies are joined to large reads and writes. What nobody sees of a block is not copied.

use crate::error::{Error, Place, Result};
use crate::metadata::files::Files;
use crate::metadata::tree::Moves;
use crate::units::{DataBlock, SECTOR_BYTES};

/// Bytes that are read and written at a time.
const COPY_BYTES_MAX: u64 = 1 << 20;

/// A range of the data file, and where it goes, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Copy {
    from: u64,
    to: u64,
    length: u64,
}

/// Copies what is seen of `pairs`, which rise. Calls `copied` with how many of them are done.
pub(super) fn copy(
    files: &mut Files<'_>,
    pairs: &[(DataBlock, DataBlock)],
    moves: &Moves,
    copied: &mut dyn FnMut(u64),
) -> Result<()> {
    let mut pending: Option<Copy> = None;
    for (done, &(from, to)) in pairs.iter().enumerate() {
        let mask = moves.mask(from);
        if mask.is_empty() {
            let message = "a block is in use, and no volume maps it; `check` tells what is wrong";
            return Err(Error::damaged(message).at(Place::Block(from)));
        }
        for (first, count) in mask.runs() {
            let first = u64::from(first) * SECTOR_BYTES;
            let (from, to) = (from.offset_bytes() + first, to.offset_bytes() + first);
            let next = Copy { from, to, length: u64::from(count) * SECTOR_BYTES };
            match &mut pending {
                Some(last) if last.goes_on(&next) => last.length += next.length,
                _ => {
                    if let Some(last) = pending.replace(next) {
                        last.carry_out(files)?;
                        copied(done as u64);
                    }
                }
            }
        }
    }
    pending.into_iter().try_for_each(|last| last.carry_out(files))?;
    copied(pairs.len() as u64);
    Ok(())
}

impl Copy {
    fn goes_on(&self, next: &Self) -> bool {
        self.from + self.length == next.from
            && self.to + self.length == next.to
            && self.length + next.length <= COPY_BYTES_MAX
    }

    fn carry_out(self, files: &mut Files<'_>) -> Result<()> {
        let data = &mut files.data;
        let bytes = data.read(self.from, self.length as usize)?.freeze();
        if data.size_bytes() < self.to + self.length {
            data.allocate(self.to, self.length)?;
        }
        data.write(self.to, bytes)
    }
}
