//! What `vellum volume set` takes: `KEY=VALUE`.
//!
//! Owns the keys, their values, and what several of them ask for together.

use crate::error::{Error, Result};
use crate::exit::Kind;
use crate::size::Size;
use crate::views::{NoSpaceView, SettingsView};
use std::str::FromStr;

/// What is offered where a setting cannot be understood.
const EXAMPLES: &str = "write iops=1000, bandwidth=100M, in-flight=32, reservation=10G (or =none), \
                        no-space=stall|error|pool, label.NAME=TEXT";

/// One setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    key: String,
    change: SettingsView,
}

impl FromStr for Setting {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let (key, value) = text.split_once('=').ok_or_else(|| EXAMPLES.to_owned())?;
        let nothing = SettingsView::default;
        let change = match key {
            "iops" => SettingsView { limit_iops: Some(limit(value)?), ..nothing() },
            "bandwidth" => SettingsView { limit_bytes_per_s: Some(size(value)?), ..nothing() },
            "in-flight" => SettingsView { limit_in_flight: Some(limit(value)?), ..nothing() },
            "reservation" => SettingsView { reservation_bytes: Some(size(value)?), ..nothing() },
            "no-space" => SettingsView { no_space: Some(no_space(value)?), ..nothing() },
            _ => match key.strip_prefix("label.").filter(|name| !name.is_empty()) {
                Some(name) => {
                    let value = (!value.is_empty()).then(|| value.to_owned());
                    SettingsView { labels: [(name.to_owned(), value)].into(), ..nothing() }
                }
                None => return Err(format!("there is no setting '{key}'; {EXAMPLES}")),
            },
        };
        Ok(Self { key: key.to_owned(), change })
    }
}

/// A number above 0, or 0 for `none`.
fn limit<T: FromStr + Default + PartialEq>(value: &str) -> std::result::Result<T, String> {
    if value == "none" {
        return Ok(T::default());
    }
    let number = value.parse::<T>().ok().filter(|number| *number != T::default());
    number.ok_or_else(|| "this is a whole number of 1 and more that is not too large, or none".to_owned())
}

/// A size above 0, or 0 for `none`.
fn size(value: &str) -> std::result::Result<u64, String> {
    if value == "none" {
        return Ok(0);
    }
    match value.parse::<Size>() {
        Ok(Size(0)) => Err("nothing is written as none".to_owned()),
        Ok(Size(bytes)) => Ok(bytes),
        Err(cause) => Err(cause.to_string()),
    }
}

fn no_space(value: &str) -> std::result::Result<NoSpaceView, String> {
    match value {
        "pool" => Ok(NoSpaceView::Pool),
        "stall" => Ok(NoSpaceView::Stall),
        "error" => Ok(NoSpaceView::Error),
        _ => Err("a write that finds no space stalls, ends with an error, or does as the pool: stall, error or pool"
            .to_owned()),
    }
}

/// All of `settings` in one change. Fails with `Usage` if one is given twice.
pub fn together(settings: &[Setting]) -> Result<SettingsView> {
    let mut all = SettingsView::default();
    for (index, Setting { key, change }) in settings.iter().enumerate() {
        if settings[..index].iter().any(|other| other.key == *key) {
            return Err(Error::new(Kind::Usage, format!("'{key}' is given twice")).hint("give it once"));
        }
        all.reservation_bytes = change.reservation_bytes.or(all.reservation_bytes);
        all.limit_iops = change.limit_iops.or(all.limit_iops);
        all.limit_bytes_per_s = change.limit_bytes_per_s.or(all.limit_bytes_per_s);
        all.limit_in_flight = change.limit_in_flight.or(all.limit_in_flight);
        all.no_space = change.no_space.or(all.no_space);
        all.labels.extend(change.labels.clone());
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(texts: &[&str]) -> Result<SettingsView> {
        together(&texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>())
    }

    #[test]
    fn settings_join() {
        let all = parsed(&[
            "iops=1000",
            "bandwidth=100M",
            "in-flight=none",
            "no-space=stall",
            "label.a=b=c",
            "label.d=",
        ]);
        let expected = SettingsView {
            limit_iops: Some(1000),
            limit_bytes_per_s: Some(100 << 20),
            limit_in_flight: Some(0),
            no_space: Some(NoSpaceView::Stall),
            labels: [("a".to_owned(), Some("b=c".to_owned())), ("d".to_owned(), None)].into(),
            ..SettingsView::default()
        };
        assert_eq!(all, Ok(expected));
        assert_eq!(parsed(&["iops=1", "iops=none"]).unwrap_err().kind(), Kind::Usage);
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "iops",
            "iops=",
            "iops=0",
            "iops=-1",
            "iops=1k",
            "in-flight=4294967296",
            "bandwidth=fast",
            "bandwidth=0",
            "reservation=10GB",
            "no-space=panic",
            "label.=x",
            "speed=1",
            "=1",
            "",
        ] {
            assert!(text.parse::<Setting>().is_err(), "{text}");
        }
    }
}
