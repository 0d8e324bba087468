//! What is known of a thin pool before anything is written: its devices, how far they are mapped, which data blocks are in use.
//!
//! Owns the first of two readings of all mappings. Damage ends it, or is noted if reading is lenient.

use crate::device::Source;
use crate::error::{Error as ThinError, ErrorKind as ThinKind};
use crate::export::Failure;
use crate::reader::{Device, LostRange, Metadata, Salvage};
use vellum_engine::units::{BLOCK_BYTES, DATA_BLOCKS_MAX};

/// Data blocks of a thin pool that can be told apart in memory.
const THIN_BLOCKS_MAX: u64 = 1 << 34;

/// Sums are kept so far apart that they take an eighth of the memory of the bits.
const WORDS_A_SUM: usize = 8;

/// One bit a block.
#[derive(Default)]
pub(super) struct Used(Vec<u64>);

impl Used {
    fn new(blocks: u64) -> Self {
        Self(vec![0; blocks.div_ceil(64) as usize])
    }

    /// Whether the block is new here.
    fn add(&mut self, block: u64) -> bool {
        let (word, bit) = (&mut self.0[(block / 64) as usize], 1 << (block % 64));
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }

    /// How many blocks stand before every [`WORDS_A_SUM`] words.
    pub fn before(&self) -> Vec<u64> {
        let counts = self.0.chunks(WORDS_A_SUM).scan(0, |sum, words| {
            let before = *sum;
            *sum += count(words);
            Some(before)
        });
        counts.collect()
    }

    /// How many blocks stand before this one, if it is there.
    pub fn rank(&self, before: &[u64], block: u64) -> Option<u64> {
        let (word, bit) = ((block / 64) as usize, 1 << (block % 64));
        let bits = self.0.get(word).filter(|bits| *bits & bit != 0)?;
        let sum = word / WORDS_A_SUM;
        let words = &self.0[sum * WORDS_A_SUM..word];
        Some(before[sum] + count(words) + u64::from((bits & (bit - 1)).count_ones()))
    }

    pub fn has(&self, block: u64) -> bool {
        self.0.get((block / 64) as usize).is_some_and(|bits| bits & (1 << (block % 64)) != 0)
    }

    pub fn count(&self) -> u64 {
        count(&self.0)
    }
}

fn count(words: &[u64]) -> u64 {
    words.iter().map(|bits| u64::from(bits.count_ones())).sum()
}

/// What is known of a device before anything is written.
pub(super) struct Seen {
    pub device: Device,
    pub mapped_blocks: u64,
    /// The newest time of a mapping.
    pub newest_time: u32,
    /// Behind the last mapped block.
    pub end: u64,
    pub lost: Vec<(u64, u64)>,
}

/// All that is known of a thin pool before anything is written.
pub(super) struct Census {
    /// Blocks of 64 KiB of one of its data blocks.
    pub blocks_a_block: u64,
    pub nr_data_blocks: u64,
    pub transaction_id: u64,
    pub used: Used,
    /// Blocks that more than one mapping has.
    pub shared: Used,
    pub devices: Vec<Seen>,
    pub salvage: Salvage,
}

impl Census {
    pub fn take<S: Source>(metadata: &Metadata<S>) -> Result<Self, Failure> {
        let header = metadata.header()?;
        let blocks_a_block = u64::from(header.data_block_sectors) * 512 / BLOCK_BYTES;
        let nr_data_blocks = header.nr_data_blocks;
        if nr_data_blocks > THIN_BLOCKS_MAX
            || !crate::format::data_block_sectors_are_valid(header.data_block_sectors)
        {
            let message = format!("{nr_data_blocks} data blocks of {} sectors", header.data_block_sectors);
            return Err(ThinError::new(ThinKind::Limit, message).into());
        }
        let mut census = Self {
            blocks_a_block,
            nr_data_blocks,
            transaction_id: header.transaction_id,
            used: Used::new(nr_data_blocks),
            shared: Used::new(nr_data_blocks),
            devices: Vec::new(),
            salvage: Salvage::default(),
        };
        let mut devices = metadata.devices();
        for device in &mut devices {
            census.device(metadata, device?)?;
        }
        census.salvage.device_numbers = devices.take_lost();
        Ok(census)
    }

    pub fn device<S: Source>(&mut self, metadata: &Metadata<S>, device: Device) -> Result<(), Failure> {
        let mut seen = Seen { device, mapped_blocks: 0, newest_time: 0, end: 0, lost: Vec::new() };
        let mut runs = metadata.runs(&device);
        while let Some(run) = runs.next().transpose()? {
            for block in run.data_begin..run.data_begin + run.length {
                if !self.used.add(block) {
                    self.shared.add(block);
                }
            }
            seen.mapped_blocks += run.length;
            seen.newest_time = seen.newest_time.max(run.time);
            // Larger than any volume, and so refused.
            seen.end = run.virtual_begin.saturating_add(run.length);
        }
        metadata.require_count(&device, seen.mapped_blocks)?;
        let mut lost = runs.take_lost();
        if runs.found() > 0 {
            self.salvage.found.push((device.id, runs.found()));
        }
        if device.root.is_none() {
            let error = ThinError::new(ThinKind::Damaged, "the tree of devices does not have this one");
            lost.push(LostRange { first: 0, last: u64::MAX, error: error.with_device(device.id.into()) });
        }
        seen.lost = lost.iter().map(|range| (range.first, range.last)).collect();
        if !lost.is_empty() {
            self.salvage.devices.push((device.id, lost));
        }
        self.devices.push(seen);
        Ok(())
    }
}

const _: () = assert!(DATA_BLOCKS_MAX <= THIN_BLOCKS_MAX);
