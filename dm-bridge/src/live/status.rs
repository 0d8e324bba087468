//! What the kernel tells about an active pool and its thin devices.
//!
//! Owns the way from a status line to numbers. Words that a newer kernel may add are passed over; numbers that are no numbers are an
//! error.

/// A line of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PoolState {
    /// It works, in one of its modes.
    Working(PoolStatus),
    /// It does nothing any more; the kernel's word for it.
    Failed(String),
}

/// What a pool does with writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolMode {
    /// All of them.
    Write,
    /// Those that need no new data block.
    OutOfDataSpace,
    /// None; nothing of the metadata changes any more.
    ReadOnly,
    /// The kernel says something else.
    Unknown,
}

/// A pool that works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolStatus {
    /// Userspace's own number.
    pub transaction_id: u64,
    /// Metadata blocks of 4 KiB in use, with the kernel's reserve.
    pub metadata_used_blocks: u64,
    /// All of them.
    pub metadata_blocks: u64,
    /// Data blocks in use.
    pub data_used_blocks: u64,
    /// All of them.
    pub data_blocks: u64,
    /// Where the metadata snapshot is, if there is one.
    pub held_root: Option<u64>,
    /// What it does with writes.
    pub mode: PoolMode,
    /// What becomes of discards, in the kernel's word.
    pub discard: String,
    /// Whether writes without room fail at once.
    pub error_if_no_space: bool,
    /// Whether the kernel asks for a check before it writes again.
    pub needs_check: bool,
    /// With fewer free metadata blocks the kernel tells so. Old kernels do not say.
    pub metadata_low_water_blocks: Option<u64>,
}

impl PoolState {
    /// Reads a line of `dmsetup status`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let words = arguments(text, "thin-pool")?;
        match &words[..] {
            [word @ ("Fail" | "Error")] => Ok(Self::Failed((*word).to_owned())),
            [transaction, metadata, data, held, words @ ..] => {
                let wrong = || format!("this is no status of a thin pool: '{}'", text.trim());
                let [metadata, data] = [metadata, data].map(|part| used_of(part).ok_or_else(wrong));
                let (metadata, data) = (metadata?, data?);
                let held_root = if *held == "-" { None } else { Some(held.parse().map_err(|_| wrong())?) };
                Ok(Self::Working(PoolStatus {
                    transaction_id: transaction.parse().map_err(|_| wrong())?,
                    metadata_used_blocks: metadata.0,
                    metadata_blocks: metadata.1,
                    data_used_blocks: data.0,
                    data_blocks: data.1,
                    held_root,
                    ..PoolStatus::of_words(words)
                }))
            }
            _ => Err(format!("this is no status of a thin pool: '{}'", text.trim())),
        }
    }
}

impl PoolStatus {
    /// What stands behind the numbers.
    fn of_words(words: &[&str]) -> Self {
        let has = |word: &str| words.contains(&word);
        let mode = [
            ("rw", PoolMode::Write),
            ("out_of_data_space", PoolMode::OutOfDataSpace),
            ("ro", PoolMode::ReadOnly),
        ];
        let discard = words.iter().find(|word| word.contains("discard"));
        Self {
            transaction_id: 0,
            metadata_used_blocks: 0,
            metadata_blocks: 0,
            data_used_blocks: 0,
            data_blocks: 0,
            held_root: None,
            mode: mode.iter().find(|(word, _)| has(word)).map_or(PoolMode::Unknown, |(_, mode)| *mode),
            discard: discard.map_or_else(String::new, |word| (*word).to_owned()),
            error_if_no_space: has("error_if_no_space"),
            needs_check: has("needs_check"),
            metadata_low_water_blocks: words.iter().skip(3).find_map(|word| word.parse().ok()),
        }
    }
}

/// What a thin device has mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThinStatus {
    /// So many sectors.
    Mapped(u64),
    /// It does nothing any more.
    Failed,
}

impl ThinStatus {
    /// Reads a line of `dmsetup status`.
    pub fn parse(text: &str) -> Result<Self, String> {
        match &arguments(text, "thin")?[..] {
            ["Fail" | "Error"] => Ok(Self::Failed),
            [mapped, ..] if mapped.parse::<u64>().is_ok() => {
                Ok(Self::Mapped(mapped.parse().unwrap_or_default()))
            }
            _ => Err(format!("this is no status of a thin device: '{}'", text.trim())),
        }
    }
}

/// What stands behind the target in `start length target ...`.
fn arguments<'t>(text: &'t str, target: &str) -> Result<Vec<&'t str>, String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    match &words[..] {
        [_, _, found, rest @ ..] if *found == target => Ok(rest.to_vec()),
        _ => Err(format!("this is no status of a {target} device: '{}'", text.trim())),
    }
}

/// `used/total`.
fn used_of(part: &str) -> Option<(u64, u64)> {
    let (used, total) = part.split_once('/')?;
    Some((used.parse().ok()?, total.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn working(text: &str) -> PoolStatus {
        match PoolState::parse(text).unwrap() {
            PoolState::Working(status) => status,
            failed => panic!("{failed:?}"),
        }
    }

    #[test]
    fn the_line_of_a_pool_that_works() {
        let line =
            "0 5120000 thin-pool 4 130/1024 2101/40000 45 rw discard_passdown queue_if_no_space - 256 \n";
        let expected = PoolStatus {
            transaction_id: 4,
            metadata_used_blocks: 130,
            metadata_blocks: 1024,
            data_used_blocks: 2101,
            data_blocks: 40000,
            held_root: Some(45),
            mode: PoolMode::Write,
            discard: "discard_passdown".into(),
            error_if_no_space: false,
            needs_check: false,
            metadata_low_water_blocks: Some(256),
        };
        assert_eq!(working(line), expected);
    }

    #[test]
    fn every_mode_and_word() {
        let modes = [("rw", PoolMode::Write), ("ro", PoolMode::ReadOnly)];
        let more = [("out_of_data_space", PoolMode::OutOfDataSpace), ("dreaming", PoolMode::Unknown)];
        for (word, mode) in modes.into_iter().chain(more) {
            let line =
                format!("0 8 thin-pool 0 1/2 3/3 - {word} ignore_discard error_if_no_space needs_check 1024");
            let status = working(&line);
            assert_eq!((status.mode, status.discard.as_str()), (mode, "ignore_discard"));
            assert!(status.error_if_no_space && status.needs_check && status.held_root.is_none());
            assert_eq!(status.metadata_low_water_blocks, Some(1024));
        }
        // Before the mark of metadata was told.
        let old = working("0 8 thin-pool 0 1/2 3/3 - rw no_discard_passdown queue_if_no_space");
        assert_eq!((old.metadata_low_water_blocks, old.needs_check), (None, false));
    }

    #[test]
    fn pools_and_devices_that_fail() {
        for word in ["Fail", "Error"] {
            assert_eq!(
                PoolState::parse(&format!("0 8 thin-pool {word}")),
                Ok(PoolState::Failed(word.into()))
            );
            assert_eq!(ThinStatus::parse(&format!("0 8 thin {word}")), Ok(ThinStatus::Failed));
        }
    }

    #[test]
    fn lines_of_thin_devices() {
        assert_eq!(ThinStatus::parse("0 2048 thin 384 1023"), Ok(ThinStatus::Mapped(384)));
        assert_eq!(ThinStatus::parse("0 2048 thin 0 -\n"), Ok(ThinStatus::Mapped(0)));
    }

    #[test]
    fn what_is_no_status_says_so() {
        for line in
            ["", "0 8 linear", "0 8 thin-pool", "0 8 thin-pool 1 2 3 -", "0 8 thin-pool x 1/2 1/2 - rw"]
        {
            assert!(PoolState::parse(line).unwrap_err().contains("no status"), "{line}");
        }
        for line in ["", "0 8 thin", "0 8 thin many -", "0 8 thin-pool 1"] {
            assert!(ThinStatus::parse(line).unwrap_err().contains("no status"), "{line}");
        }
    }
}
