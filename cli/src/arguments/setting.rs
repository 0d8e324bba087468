//! One setting on the command line, as in `auto-extend=20G`.
//!
//! Owns the form, and the sizes in it; which settings there are, and what they may be, is the engine's word.

use crate::size::{BadSize, Size};
use std::str::FromStr;

/// Settings whose value may be a size.
const SIZES: [&str; 2] = ["auto-extend", "low-water"];
/// Words that stand for themselves where a size may be.
const AUTO: &str = "auto";
const OFF: &str = "off";

/// A key and the value that it gets, as the engine takes them: sizes in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Which setting.
    pub key: String,
    /// Its value.
    pub value: String,
}

impl FromStr for Setting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) = text.split_once('=').ok_or("write it as KEY=VALUE, as in no-space=error")?;
        let value = match value {
            OFF if key == "auto-extend" => "0".to_owned(),
            size if SIZES.contains(&key) && size != AUTO => {
                let size: Size = size.parse().map_err(|cause: BadSize| cause.to_string())?;
                size.0.to_string()
            }
            other => other.to_owned(),
        };
        Ok(Self { key: key.to_owned(), value })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_become_bytes_and_everything_else_stays() {
        let value = |text: &str| text.parse::<Setting>().unwrap().value;
        assert_eq!(value("auto-extend=1G"), "1073741824");
        assert_eq!(value("auto-extend=off"), "0");
        assert_eq!(value("low-water=auto"), "auto");
        assert_eq!(value("on-low-water=a=b"), "a=b");
        assert_eq!(value("discard=off"), "off");
        "no-space".parse::<Setting>().unwrap_err();
        "auto-extend=much".parse::<Setting>().unwrap_err();
    }
}
