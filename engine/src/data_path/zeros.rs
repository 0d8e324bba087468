//! Zero detection: whole sectors of zeros that somebody writes become holes, if the pool is set to do so.
//!
//! Owns the cut of a write into runs of zeros, which are cleared, and runs of data, which are written. Each is a part of the
//! request, with its own locks; the request is answered when all are done. Clearing takes metadata, and where that is full
//! the zeros wait as a write. Zeros that shall stay allocated do not come here.

use super::unmap::ClearTask;
use super::write::WriteTask;
use super::{Core, Key, Task};
use crate::storage::Buffer;
use crate::units::{SECTOR_BYTES, SECTORS_PER_BLOCK, SectorMask, VirtualBlock, VolumeId};
use bytes::Bytes;

/// Bytes that are looked at between two chances to stop.
const STEP_BYTES: usize = 256;

/// A range of a volume, in bytes, and whether zeros are written to it.
#[derive(Debug, PartialEq, Eq)]
struct Run {
    from: u64,
    to: u64,
    is_zero: bool,
}

impl Core {
    /// Starts a write: sectors of zeros are cleared, the rest is written.
    pub(super) fn start_sparse_writes(
        &mut self,
        key: Key,
        volume: VolumeId,
        offset_bytes: u64,
        bytes: &Bytes,
    ) {
        for Run { from, to, is_zero } in runs(offset_bytes, bytes) {
            if is_zero {
                self.start_zero_sectors(key, volume, from, to);
            } else {
                let part = bytes.slice((from - offset_bytes) as usize..(to - offset_bytes) as usize);
                self.start_writes(key, volume, from, &part, false);
            }
        }
    }
}

impl Core {
    /// Block by block, as writes go: a range in slices would not know how to wait for room.
    fn start_zero_sectors(&mut self, key: Key, volume: VolumeId, mut from: u64, to: u64) {
        while from < to {
            let virtual_block = VirtualBlock::containing(from);
            let first = ((from - virtual_block.offset_bytes()) / SECTOR_BYTES) as u32;
            let count = (((to - from) / SECTOR_BYTES) as u32).min(SECTORS_PER_BLOCK - first);
            let sectors = SectorMask::range(first, count);
            let task = ClearTask { key, volume, virtual_block, sectors, is_write: true };
            self.start_part(key, Task::Clear(task));
            from += u64::from(count) * SECTOR_BYTES;
        }
    }
}

impl ClearTask {
    /// The same as a write of zeros, which can wait for room. What is not mapped needs none.
    pub fn into_write(self) -> WriteTask {
        let (first, count) = self.sectors.runs().next().unwrap_or((0, 0));
        let offset_bytes = self.virtual_block.offset_bytes() + u64::from(first) * SECTOR_BYTES;
        let zeros = Buffer::zeroed(count as usize * SECTOR_BYTES as usize).freeze();
        WriteTask::new(self.key, self.volume, offset_bytes, zeros, true)
    }
}

/// Cuts a write between whole sectors of zeros and everything else.
fn runs(offset_bytes: u64, bytes: &[u8]) -> Vec<Run> {
    let end = offset_bytes + bytes.len() as u64;
    let mut runs: Vec<Run> = Vec::new();
    let mut from = offset_bytes;
    while from < end {
        let to = (from - from % SECTOR_BYTES + SECTOR_BYTES).min(end);
        let piece = &bytes[(from - offset_bytes) as usize..(to - offset_bytes) as usize];
        let is_zero = to - from == SECTOR_BYTES && is_zero(piece);
        match runs.last_mut().filter(|last| last.is_zero == is_zero) {
            Some(last) => last.to = to,
            None => runs.push(Run { from, to, is_zero }),
        }
        from = to;
    }
    runs
}

fn is_zero(bytes: &[u8]) -> bool {
    // Without a branch for each byte, so that the compiler takes many at a time.
    bytes.chunks(STEP_BYTES).all(|chunk| chunk.iter().fold(0, |any, byte| any | byte) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_sectors_of_zeros_are_holes() {
        let mut bytes = vec![0; 4 * 4096];
        bytes[2 * 4096] = 1;
        let run = |from, to, is_zero| Run { from, to, is_zero };
        let whole = runs(4096, &bytes);
        assert_eq!(whole, [run(4096, 12288, true), run(12288, 16384, false), run(16384, 20480, true)]);
        // From the middle of a sector on, its two parts are data, whatever they hold.
        let cut = runs(512, &bytes[..2 * 4096]);
        assert_eq!(cut, [run(512, 4096, false), run(4096, 8192, true), run(8192, 8704, false)]);
        assert!(runs(0, &[]).is_empty());
    }

    #[test]
    fn one_bit_anywhere_is_data() {
        for at in [0, 1, 255, 256, 4095] {
            let mut sector = [0; 4096];
            assert!(is_zero(&sector));
            sector[at] = 0x80;
            assert!(!is_zero(&sector));
        }
    }
}
