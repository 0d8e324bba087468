//! Sizes as people write and read them: `10G`, `1.5TiB`, `4096`; `10 GiB`.
//!
//! Owns both directions. Powers of 1024 throughout, and exact: a size that is no whole number of bytes is refused.

use crate::error::Error;
use crate::exit::Kind;
use std::fmt;
use std::str::FromStr;
use vellum_engine::units::BLOCK_BYTES;

/// A number of bytes; its text is for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

const LETTERS: &[u8] = b"KMGTPE";
const DIGITS_AFTER_POINT_MAX: usize = 9;

/// What was given as a size and is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadSize(&'static str);

impl fmt::Display for BadSize {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}; write it as 10G, 512M, 1.5TiB or 4096 (bytes)", self.0)
    }
}

impl std::error::Error for BadSize {}

impl FromStr for Size {
    type Err = BadSize;

    fn from_str(text: &str) -> Result<Self, BadSize> {
        let text = text.trim();
        let number_length = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(number_length);
        let unit_bytes = unit_bytes(unit.trim_start()).ok_or(BadSize("this is no size"))?;
        let (whole, fraction) = number.split_once('.').map_or((number, None), |(a, b)| (a, Some(b)));
        let whole: u64 = parse_digits(whole)?;
        let bytes = u128::from(whole) * u128::from(unit_bytes) + fraction_bytes(fraction, unit_bytes)?;
        u64::try_from(bytes).map(Self).map_err(|_| BadSize("this is more than 64 bits can count"))
    }
}

/// `K`, `KiB` and so on, in either case. `KB` is left out: to some it is 1000.
fn unit_bytes(unit: &str) -> Option<u64> {
    if unit.is_empty() || unit.eq_ignore_ascii_case("b") {
        return Some(1);
    }
    let (letter, rest) = unit.split_at_checked(1)?;
    let letter = letter.as_bytes()[0].to_ascii_uppercase();
    let power = LETTERS.iter().position(|known| *known == letter)? + 1;
    (rest.is_empty() || rest.eq_ignore_ascii_case("ib")).then(|| 1 << (10 * power))
}

fn parse_digits(digits: &str) -> Result<u64, BadSize> {
    if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err(BadSize("this is no size"));
    }
    digits.parse().map_err(|_| BadSize("this is more than 64 bits can count"))
}

fn fraction_bytes(fraction: Option<&str>, unit_bytes: u64) -> Result<u128, BadSize> {
    let Some(fraction) = fraction else { return Ok(0) };
    if fraction.len() > DIGITS_AFTER_POINT_MAX {
        return Err(BadSize("this has too many digits behind the point"));
    }
    let parts = u128::from(parse_digits(fraction)?) * u128::from(unit_bytes);
    let scale = 10u128.pow(fraction.len() as u32);
    if parts % scale == 0 { Ok(parts / scale) } else { Err(BadSize("this is no whole number of bytes")) }
}

impl fmt::Display for Size {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let power = (0..=LETTERS.len() as u32).rev().find(|power| self.0 >> (10 * power) > 0).unwrap_or(0);
        if power == 0 {
            return out.pad(&format!("{} B", self.0));
        }
        let unit = 1u128 << (10 * power);
        // Rounded down: what is shown as free must be there.
        let hundredths = u128::from(self.0) * 100 / unit;
        let (whole, rest) = (hundredths / 100, hundredths % 100);
        let fraction = if rest == 0 { String::new() } else { format!(".{rest:02}") };
        let letter = char::from(LETTERS[power as usize - 1]);
        out.pad(&format!("{whole}{} {letter}iB", fraction.trim_end_matches('0')))
    }
}

/// The data blocks of a pool of this size.
pub fn pool_blocks(size_bytes: u64) -> Result<u64, Error> {
    if !size_bytes.is_multiple_of(BLOCK_BYTES) {
        return Err(Error::new(Kind::Invalid, "a pool's size is a multiple of 64 KiB")
            .hint("write it as 10G or 512M; these are"));
    }
    Ok(size_bytes / BLOCK_BYTES)
}

/// A size to be, alone or beside the one there is: `20G`, `+5G`, `-512M`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewSize {
    /// This.
    Exactly(Size),
    /// So much more.
    More(Size),
    /// So much less.
    Less(Size),
}

impl FromStr for NewSize {
    type Err = BadSize;

    fn from_str(text: &str) -> Result<Self, BadSize> {
        match (text.strip_prefix('+'), text.strip_prefix('-')) {
            (Some(more), _) => more.parse().map(Self::More),
            (_, Some(less)) => less.parse().map(Self::Less),
            _ => text.parse().map(Self::Exactly),
        }
    }
}

impl NewSize {
    /// What becomes of `size_bytes`; none if that cannot be counted.
    pub fn of(self, size_bytes: u64) -> Option<u64> {
        match self {
            Self::Exactly(Size(bytes)) => Some(bytes),
            Self::More(Size(bytes)) => size_bytes.checked_add(bytes),
            Self::Less(Size(bytes)) => size_bytes.checked_sub(bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_write_sizes_so() {
        let expected = [
            ("4096", 4096),
            ("0", 0),
            ("10G", 10 << 30),
            ("512M", 512 << 20),
            ("512m", 512 << 20),
            ("1.5TiB", 3 << 39),
            ("64KiB", 65536),
            ("64 kib", 65536),
            ("2P", 2 << 50),
            ("0.5K", 512),
            ("7B", 7),
            ("18446744073709551615", u64::MAX),
        ];
        for (text, bytes) in expected {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused_with_an_example() {
        let nonsense = [
            "",
            "G",
            "ten",
            "-1",
            "+1",
            "1e3",
            "10X",
            "10GB",
            "10Gib/s",
            "1.G",
            ".5G",
            "1..5G",
            "1.5",
            "0.3K",
            "16E",
            "99999999999999999999",
            "1,5G",
            "1_000",
            "0x10",
            "1.0000000001G",
            "ü",
        ];
        for text in nonsense {
            let error = text.parse::<Size>().expect_err(text);
            assert!(error.to_string().contains("10G"), "{error}");
        }
    }

    #[test]
    fn a_size_may_be_more_or_less() {
        let of = |text: &str| text.parse::<NewSize>().unwrap().of(10);
        assert_eq!([of("7"), of("+7"), of("-7")], [Some(7), Some(17), Some(3)]);
        assert_eq!([of("-11"), of("+18446744073709551615")], [None, None]);
        for text in ["+", "-", "++1", "+-1", "1+", ""] {
            assert!(text.parse::<NewSize>().is_err(), "{text}");
        }
    }

    #[test]
    fn people_read_sizes_so() {
        let expected = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (10 << 30, "10 GiB"),
            ((1 << 20) - 1, "1023.99 KiB"),
            (1_288_490_188, "1.19 GiB"),
            ((1 << 30) + (52 << 20), "1.05 GiB"),
            (1 << 50, "1 PiB"),
            (u64::MAX, "15.99 EiB"),
        ];
        for (bytes, text) in expected {
            assert_eq!(Size(bytes).to_string(), text);
        }
    }
}
