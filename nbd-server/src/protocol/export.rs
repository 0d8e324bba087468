//! What a client is told about an export, and where the handshake looks exports up.
//!
//! Owns the transmission flags. Which exports there are, and whether there is a default, is for the implementor of
//! [`Exports`].

use super::constants::*;

/// What a client is told about an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    /// The canonical name: at most 4096 bytes without NUL.
    pub name: String,
    /// A line for people.
    pub description: String,
    /// The size.
    pub size_bytes: u64,
    /// Whether writes are refused.
    pub read_only: bool,
    /// What requests had best be a multiple of: a power of two, 512 or more.
    pub preferred_block_bytes: u32,
}

impl Export {
    /// The transmission flags of this export.
    ///
    /// FLUSH and FUA are offered on a read-only export too: they do nothing there, and clients that want them go on.
    /// TRIM and WRITE_ZEROES would only fail; without WRITE_ZEROES the spec forbids FAST_ZERO.
    pub fn transmission_flags(&self, structured_replies: bool) -> u16 {
        let always = FLAG_HAS_FLAGS | FLAG_SEND_FLUSH | FLAG_SEND_FUA | FLAG_SEND_CACHE | FLAG_CAN_MULTI_CONN;
        let writes = if self.read_only {
            FLAG_READ_ONLY
        } else {
            FLAG_SEND_TRIM | FLAG_SEND_WRITE_ZEROES | FLAG_SEND_FAST_ZERO
        };
        always | writes | if structured_replies { FLAG_SEND_DF } else { 0 }
    }
}

/// Where the handshake looks exports up.
pub trait Exports {
    /// The export of that name. "" is passed through: the implementor decides whether there is a default.
    fn find(&self, name: &str) -> Option<Export>;

    /// Name and description of every export that a client may see.
    fn list(&self) -> Vec<(String, String)>;
}

#[cfg(test)]
mod tests {
    use super::super::talk;

    #[test]
    fn flags_follow_from_the_export_and_from_structured_replies() {
        let writable = talk::export("a", false);
        assert_eq!(writable.transmission_flags(false), 0b1101_0110_1101);
        assert_eq!(writable.transmission_flags(true), 0b1101_1110_1101);
        let read_only = talk::export("a", true);
        assert_eq!(read_only.transmission_flags(false), 0b0101_0000_1111);
        assert_eq!(read_only.transmission_flags(true), 0b0101_1000_1111);
    }
}
