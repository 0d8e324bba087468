//! What a pool does about space: kept with the pool, changed while it is open.
//!
//! Owns the settings, their defaults, and their form as pairs of words, in which the record of the log's volume keeps
//! them. A pair that this program does not know is kept and not acted upon. Who acts upon them is `data_path/`.

use crate::error::{Error, Result};

/// The longest command for low-water events, in bytes: it has to fit into a record with everything else.
pub const HOOK_BYTES_MAX: usize = 512;
/// A low-water mark that follows the size of the pool.
const LOW_WATER_AUTO: &str = "auto";

/// What happens to a write that needs a new block when there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum NoSpace {
    /// It waits until there is one, or until the time-out.
    #[default]
    Stall,
    /// It fails at once.
    Error,
}

/// What becomes of space that a discard or deletion freed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DiscardPolicy {
    /// The host gets it back within seconds, sectors too.
    #[default]
    Eager,
    /// It is kept for the next writes, and goes back when the pool has been idle for long or keeps too much.
    Lazy,
    /// It is free for the pool, and the host gets nothing back.
    Off,
}

/// How a pool is to behave when space runs short.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What happens to writes that find no space.
    pub no_space: NoSpace,
    /// How long writes wait for space before they fail, in seconds; 0 for ever.
    pub no_space_timeout_s: u32,
    /// The pool grows by itself up to this size, in bytes; 0 for never.
    pub auto_extend_bytes: u64,
    /// The pool is low on space while less than this is free, in bytes; none for a tenth of the pool, at most 16 GiB.
    pub low_water_bytes: Option<u64>,
    /// A command to be run when the pool is low on space or out of it; empty for none.
    pub low_water_hook: String,
    /// What becomes of freed space. Kept; nothing acts upon it yet.
    pub discard: DiscardPolicy,
    /// Whether a written sector of zeros becomes a hole. Kept; nothing acts upon it yet.
    pub detect_zeros: bool,
    /// Pairs that a newer program wrote. Kept.
    pub unknown: Vec<(String, String)>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            no_space: NoSpace::Stall,
            no_space_timeout_s: 60,
            auto_extend_bytes: 0,
            low_water_bytes: None,
            low_water_hook: String::new(),
            discard: DiscardPolicy::Eager,
            detect_zeros: false,
            unknown: Vec::new(),
        }
    }
}

impl Settings {
    /// Settings from pairs of key and value; what is absent has its default.
    pub fn from_pairs(pairs: &[(String, String)]) -> Self {
        let mut settings = Self::default();
        for (key, value) in pairs {
            // A value that a newer program wrote must not keep the pool from being opened.
            if settings.set(key, value).is_err() {
                settings.unknown.push((key.clone(), value.clone()));
            }
        }
        settings
    }

    /// All settings as pairs of key and value; [`Settings::set`] takes each of them.
    pub fn to_pairs(&self) -> Vec<(String, String)> {
        let low_water = self.low_water_bytes.map_or(LOW_WATER_AUTO.to_owned(), |bytes| bytes.to_string());
        let pair = |key: &str, value: String| (key.to_owned(), value);
        let mut pairs = vec![
            pair("no-space", self.no_space.name().to_owned()),
            pair("no-space-timeout", self.no_space_timeout_s.to_string()),
            pair("auto-extend", self.auto_extend_bytes.to_string()),
            pair("low-water", low_water),
            pair("on-low-water", self.low_water_hook.clone()),
            pair("discard", self.discard.name().to_owned()),
            pair("detect-zeros", if self.detect_zeros { "on" } else { "off" }.to_owned()),
        ];
        pairs.extend(self.unknown.iter().cloned());
        pairs
    }

    /// Sets what `key` stands for. Sizes are in bytes, times in seconds. Fails with `Invalid` for an unknown key or a value
    /// that it cannot have.
    pub fn set(&mut self, key: &str, value: &str) -> Result<()> {
        match key {
            "no-space" => self.no_space = NoSpace::named(value)?,
            "no-space-timeout" => self.no_space_timeout_s = number(key, value)?,
            "auto-extend" => self.auto_extend_bytes = number(key, value)?,
            "low-water" if value == LOW_WATER_AUTO => self.low_water_bytes = None,
            "low-water" => self.low_water_bytes = Some(number(key, value)?),
            "on-low-water" => self.low_water_hook = hook(value)?,
            "discard" => self.discard = DiscardPolicy::named(value)?,
            "detect-zeros" => {
                self.detect_zeros = match value {
                    "on" => true,
                    "off" => false,
                    _ => return Err(Error::invalid("detect-zeros is on or off")),
                }
            }
            _ => return Err(Error::invalid(format!("a pool has no setting '{key}'"))),
        }
        Ok(())
    }

    /// The low-water mark of a pool of `pool_bytes`, in bytes.
    pub fn low_water_of(&self, pool_bytes: u64) -> u64 {
        self.low_water_bytes.unwrap_or((pool_bytes / 10).min(16 << 30))
    }
}

impl NoSpace {
    /// Its word in settings and on command lines.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stall => "stall",
            Self::Error => "error",
        }
    }

    fn named(value: &str) -> Result<Self> {
        let all = [Self::Stall, Self::Error];
        let found = all.into_iter().find(|policy| policy.name() == value);
        found.ok_or_else(|| Error::invalid("no-space is stall or error"))
    }
}

impl DiscardPolicy {
    /// Its word in settings and on command lines.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Eager => "eager",
            Self::Lazy => "lazy",
            Self::Off => "off",
        }
    }

    fn named(value: &str) -> Result<Self> {
        let all = [Self::Eager, Self::Lazy, Self::Off];
        let found = all.into_iter().find(|policy| policy.name() == value);
        found.ok_or_else(|| Error::invalid("discard is eager, lazy or off"))
    }
}

fn number<T: std::str::FromStr>(key: &str, value: &str) -> Result<T> {
    value.parse().map_err(|_| Error::invalid(format!("{key} is a number, not '{value}'")))
}

fn hook(value: &str) -> Result<String> {
    if value.len() > HOOK_BYTES_MAX || value.chars().any(char::is_control) {
        let message = format!("a command has at most {HOOK_BYTES_MAX} bytes, and no control characters");
        return Err(Error::invalid(message));
    }
    Ok(value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_come_back_from_their_pairs_and_what_is_unknown_is_kept() {
        let mut settings = Settings {
            no_space: NoSpace::Error,
            no_space_timeout_s: 7,
            auto_extend_bytes: 1 << 40,
            low_water_bytes: Some(5),
            low_water_hook: "logger low".to_owned(),
            discard: DiscardPolicy::Lazy,
            detect_zeros: true,
            unknown: Vec::new(),
        };
        settings = Settings::from_pairs(&settings.to_pairs());
        assert_eq!((settings.no_space, settings.discard), (NoSpace::Error, DiscardPolicy::Lazy));
        let newer = [("no-space".to_owned(), "ask".to_owned()), ("colour".to_owned(), "red".to_owned())];
        let read = Settings::from_pairs(&newer);
        assert_eq!(read.no_space, NoSpace::Stall);
        assert!(newer.iter().all(|pair| read.to_pairs().contains(pair)));
        assert_eq!(Settings::from_pairs(&Settings::default().to_pairs()), Settings::default());
    }

    #[test]
    fn what_cannot_be_set_says_so() {
        let mut settings = Settings::default();
        for (key, value) in
            [("no-space", "maybe"), ("no-space-timeout", "-1"), ("detect-zeros", "1"), ("size", "1")]
        {
            settings.set(key, value).unwrap_err();
        }
        settings.set("on-low-water", &"x".repeat(HOOK_BYTES_MAX + 1)).unwrap_err();
        assert_eq!(settings, Settings::default());
    }
}
