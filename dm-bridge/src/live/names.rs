//! What mapped devices are called, and by which uuid they are found again.
//!
//! Owns the way from the name of a volume to one that device-mapper takes unchanged: letters, digits and `#+-.:=@_`, at most 127
//! bytes. `/` becomes `:`, and every other byte that may not stand there `=XX`, so two volumes never get one name. Names are for
//! people; what belongs to a pool is known by its uuid.

use std::fmt;
use std::fmt::Write;
use std::str::FromStr;
use vellum_engine::format::uuid_text;
use vellum_engine::request::Uuid;

/// The longest prefix of names.
pub const PREFIX_BYTES_MAX: usize = 64;
/// The longest name that device-mapper takes.
const NAME_BYTES_MAX: usize = 127;
/// What the pool's device is called behind the prefix. No volume gets it.
const POOL: &str = "pool";

/// Whether names may start so.
pub fn prefix_is_valid(prefix: &str) -> bool {
    let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || b"#+-.:=@_".contains(&byte);
    (1..=PREFIX_BYTES_MAX).contains(&prefix.len()) && prefix.bytes().all(is_legal)
}

/// The prefix for a pool in a directory of this name.
pub fn prefix_of_directory(name: &str) -> String {
    let mut prefix = format!("vellum-{}", encoded(name));
    // Every byte of it is ASCII.
    prefix.truncate(PREFIX_BYTES_MAX);
    prefix
}

/// The name of a pool's device.
pub fn pool_name(prefix: &str) -> String {
    format!("{prefix}-{POOL}")
}

/// The prefix that the name of a pool's device starts with.
pub fn prefix_of_pool(name: &str) -> Option<&str> {
    name.strip_suffix(POOL)?.strip_suffix('-')
}

/// The name of the thin device of a volume or snapshot: readable, or its number where that would be too long.
pub fn thin_name(prefix: &str, volume: &str, device: u32) -> String {
    let mut name = encoded(volume);
    if name == POOL {
        name.replace_range(..1, "=70");
    }
    let name = format!("{prefix}-{name}");
    // No encoded name has this sign.
    if name.len() <= NAME_BYTES_MAX { name } else { format!("{prefix}-#{device}") }
}

fn encoded(volume: &str) -> String {
    let mut name = String::with_capacity(volume.len());
    for byte in volume.bytes() {
        match byte {
            b'/' => name.push(':'),
            b'+' | b'-' | b'.' | b'@' | b'_' => name.push(char::from(byte)),
            _ if byte.is_ascii_alphanumeric() => name.push(char::from(byte)),
            _ => write!(name, "={byte:02X}").expect("writing into memory succeeds"),
        }
    }
    name
}

/// The uuid of a mapped device: which pool it belongs to, and what of it it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberUuid {
    /// The pool's uuid as text.
    pub pool: String,
    /// Number of the thin device; none for the pool itself.
    pub device: Option<u32>,
}

impl MemberUuid {
    /// Of a pool's own device.
    pub fn pool(pool: &Uuid) -> Self {
        Self { pool: uuid_text(pool), device: None }
    }

    /// Of a thin device.
    pub fn thin(pool: &Uuid, device: u32) -> Self {
        Self { pool: uuid_text(pool), device: Some(device) }
    }
}

impl fmt::Display for MemberUuid {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "VELLUM-{}-", self.pool)?;
        match self.device {
            Some(device) => device.fmt(out),
            None => out.write_str(POOL),
        }
    }
}

impl FromStr for MemberUuid {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (pool, member) = text.strip_prefix("VELLUM-").ok_or(())?.split_at_checked(36).ok_or(())?;
        let member = member.strip_prefix('-').ok_or(())?;
        let device = if member == POOL { None } else { Some(member.parse().map_err(drop)?) };
        Ok(Self { pool: pool.to_owned(), device })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_readable_and_taken_unchanged() {
        let name = |volume: &str| thin_name("tank", volume, 7);
        assert_eq!(name("disk"), "tank-disk");
        assert_eq!(name("group/disk@monday"), "tank-group:disk@monday");
        assert_eq!(name("my disk"), "tank-my=20disk");
        assert_eq!(name("größe"), "tank-gr=C3=B6=C3=9Fe");
        assert_eq!(name(&"x".repeat(123)), "tank-#7");
        assert_eq!(name(&"x".repeat(122)).len(), NAME_BYTES_MAX);
    }

    #[test]
    fn two_names_never_become_one() {
        let pieces = ["a", "/", ":", "=", "@", "#", " ", "=3A", "pool", "=70ool", "-", "%", "\u{fc}", "70"];
        let mut volumes = BTreeSet::from([String::new()]);
        for _ in 0..3 {
            let longer = volumes.iter().flat_map(|volume| pieces.map(|piece| format!("{volume}{piece}")));
            volumes = volumes.iter().cloned().chain(longer).collect();
        }
        let names: BTreeSet<String> = volumes.iter().map(|volume| thin_name("p", volume, 1)).collect();
        assert_eq!(names.len(), volumes.len());
        assert!(!names.contains(&pool_name("p")));
        assert!(names.iter().all(|name| prefix_is_valid(name)));
    }

    #[test]
    fn prefixes_come_from_directories_and_go_back() {
        assert_eq!(prefix_of_directory("my pool"), "vellum-my=20pool");
        assert_eq!(prefix_of_directory(&"é".repeat(200)).len(), PREFIX_BYTES_MAX);
        assert_eq!(prefix_of_pool("a-b-pool"), Some("a-b"));
        assert_eq!(prefix_of_pool("apool"), None);
        assert!(!prefix_is_valid("") && !prefix_is_valid("a/b") && !prefix_is_valid("a b"));
    }

    #[test]
    fn uuids_come_back_from_their_text() {
        for uuid in [MemberUuid::pool(&[0xab; 16]), MemberUuid::thin(&[1; 16], 16_777_215)] {
            assert_eq!(uuid.to_string().parse(), Ok(uuid.clone()));
            assert!(uuid.to_string().len() < 128);
        }
        assert_eq!(
            MemberUuid::thin(&[0; 16], 3).to_string(),
            "VELLUM-00000000-0000-0000-0000-000000000000-3"
        );
        for other in ["", "LVM-x", "VELLUM-", "VELLUM-00000000-0000-0000-0000-000000000000-x", "VELLUM-é"] {
            assert_eq!(other.parse::<MemberUuid>(), Err(()), "{other}");
        }
    }
}
