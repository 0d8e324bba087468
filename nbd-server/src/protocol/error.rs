//! The errors that a request can be answered with, and their numbers on the wire.
//!
//! Owns nothing else. Which of them fits is for `request.rs` and for those who carry requests out.

use std::fmt;

/// Why a request failed. The only numbers that the spec allows, whatever they are on this system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Errno {
    /// The export is read-only.
    EPERM = 1,
    /// The disk failed, or what is on it is damaged.
    EIO = 5,
    /// Out of memory. To be avoided, says the spec.
    ENOMEM = 12,
    /// The request makes no sense as it stands.
    EINVAL = 22,
    /// No space for the write, or it goes past the end.
    ENOSPC = 28,
    /// Too long to answer without fragments.
    EOVERFLOW = 75,
    /// Zeroing is no faster than writing here. Answers `CMD_FLAG_FAST_ZERO` and nothing else.
    ENOTSUP = 95,
    /// The server is about to stop.
    ESHUTDOWN = 108,
}

impl Errno {
    /// The number on the wire.
    pub fn number(self) -> u32 {
        self as u32
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, out)
    }
}

impl std::error::Error for Errno {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_spec() {
        let all = [
            Errno::EPERM,
            Errno::EIO,
            Errno::ENOMEM,
            Errno::EINVAL,
            Errno::ENOSPC,
            Errno::EOVERFLOW,
            Errno::ENOTSUP,
            Errno::ESHUTDOWN,
        ];
        assert_eq!(all.map(Errno::number), [1, 5, 12, 22, 28, 75, 95, 108]);
        assert_eq!(Errno::ENOTSUP.to_string(), "ENOTSUP");
    }
}
