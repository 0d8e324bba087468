//! Figures that were taken several times, as text.
//!
//! Owns how medians, spreads and percentiles are chosen and shown.

use std::time::Duration;

/// The value below which `percent` of the values lie; NaN if there are none.
pub fn percentile(values: &mut [f64], percent: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    values.get((last as f64 * percent / 100.0).round() as usize).copied().unwrap_or(f64::NAN)
}

/// The median, with the lowest and highest beside it if there are several.
pub fn spread(values: &[f64]) -> String {
    let mut values = values.to_vec();
    let median = percentile(&mut values, 50.0);
    match values[..] {
        [low, .., high] => format!("{} ({}–{})", number(median), number(low), number(high)),
        _ => number(median),
    }
}

/// Three digits that mean something.
pub fn number(value: f64) -> String {
    match value {
        _ if value.is_nan() => "not measured".to_owned(),
        _ if value >= 100.0 => format!("{value:.0}"),
        _ if value >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// Milliseconds.
pub fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// A number from the environment, or `default` if the variable is not set.
pub fn environment(name: &str, default: u64) -> Result<u64, String> {
    match std::env::var(name) {
        Ok(text) => text.parse().map_err(|_| format!("{name} must be a number, not `{text}`")),
        Err(_) => Ok(default),
    }
}
