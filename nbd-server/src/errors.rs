//! What the engine's errors are called on the wire.

use crate::protocol::Errno;
use vellum_engine::error::{Error, ErrorKind};

/// The error number that a client is told for `error`.
pub fn errno(error: &Error) -> Errno {
    match error.kind() {
        ErrorKind::NoSpace => Errno::ENOSPC,
        ErrorKind::Invalid | ErrorKind::Limit => Errno::EINVAL,
        ErrorKind::Unsupported => Errno::ENOTSUP,
        _ => Errno::EIO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_pool_is_told_apart_from_a_broken_one() {
        assert_eq!(errno(&Error::new(ErrorKind::NoSpace, "full")), Errno::ENOSPC);
        assert_eq!(errno(&Error::new(ErrorKind::ReadOnly, "failed")), Errno::EIO);
        assert_eq!(errno(&Error::damaged("bad")), Errno::EIO);
    }
}
