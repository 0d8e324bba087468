//! What mapped devices are made of, in the words of device-mapper: lines of `start length target arguments`.
//!
//! Owns the two targets `thin-pool` and `thin`. Lengths are in sectors of 512 bytes.

use std::fmt;
use std::str::FromStr;

/// Bytes of a sector in tables.
const SECTOR_BYTES: u64 = 512;

/// The table of a thin pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolTable {
    /// How much of the data device the pool may use.
    pub sectors: u64,
    /// The device with the metadata: a path, or `major:minor`.
    pub metadata: String,
    /// The device with the data.
    pub data: String,
    /// Size of a data block.
    pub block_sectors: u64,
    /// The kernel tells once that fewer blocks are free.
    pub low_water_blocks: u64,
    /// Words like `error_if_no_space`.
    pub features: Vec<String>,
}

impl PoolTable {
    /// Whether a feature is on.
    pub fn has(&self, feature: &str) -> bool {
        self.features.iter().any(|other| other == feature)
    }

    /// What the pool may use of the data device.
    pub fn size_bytes(&self) -> u64 {
        self.sectors.saturating_mul(SECTOR_BYTES)
    }

    /// The low-water mark.
    pub fn low_water_bytes(&self) -> u64 {
        self.low_water_blocks.saturating_mul(self.block_sectors).saturating_mul(SECTOR_BYTES)
    }
}

impl fmt::Display for PoolTable {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sectors, metadata, data, block_sectors, low_water_blocks, features } = self;
        write!(out, "0 {sectors} thin-pool {metadata} {data} {block_sectors} {low_water_blocks}")?;
        write!(out, " {}", features.len())?;
        features.iter().try_for_each(|feature| write!(out, " {feature}"))
    }
}

impl FromStr for PoolTable {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("this is no table of a thin pool: '{}'", text.trim());
        let words: Vec<&str> = text.split_whitespace().collect();
        let [_, sectors, "thin-pool", metadata, data, block_sectors, low_water_blocks, rest @ ..] =
            &words[..]
        else {
            return Err(wrong());
        };
        let number = |word: &str| word.parse::<u64>().map_err(|_| wrong());
        Ok(Self {
            sectors: number(sectors)?,
            metadata: (*metadata).to_owned(),
            data: (*data).to_owned(),
            block_sectors: number(block_sectors)?,
            low_water_blocks: number(low_water_blocks)?,
            // The first is their number.
            features: rest.iter().skip(1).map(|feature| (*feature).to_owned()).collect(),
        })
    }
}

/// The table of a thin device of `size_bytes`, in the pool whose device is `pool`.
pub fn thin_table(pool: &str, device: u32, size_bytes: u64) -> String {
    format!("0 {} thin {pool} {device}", size_bytes / SECTOR_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_come_back_from_their_text() {
        for text in [
            "0 131072 thin-pool 7:1 7:0 128 100 0",
            "0 131072 thin-pool /dev/loop1 /dev/vdb 128 0 2 skip_block_zeroing error_if_no_space",
        ] {
            let table: PoolTable = text.parse().unwrap();
            assert_eq!(table.to_string(), text);
        }
        let table: PoolTable = "0 256 thin-pool 7:1 7:0 128 1 1 error_if_no_space\n".parse().unwrap();
        assert_eq!((table.size_bytes(), table.low_water_bytes()), (131_072, 65_536));
        assert!(table.has("error_if_no_space") && !table.has("read_only"));
    }

    #[test]
    fn other_tables_are_refused() {
        for text in ["", "0 8 thin 254:0 1", "0 x thin-pool 7:1 7:0 128 0 0", "0 8 thin-pool 7:1 7:0 128"] {
            assert!(text.parse::<PoolTable>().unwrap_err().contains("no table"), "{text}");
        }
        assert_eq!(thin_table("254:3", 7, 1 << 20), "0 2048 thin 254:3 7");
    }
}
