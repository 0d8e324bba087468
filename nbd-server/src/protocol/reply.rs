//! Writes replies to requests: the simple reply, and the chunks of a structured one.
//!
//! Owns their bytes. The payload of a READ is appended by the caller behind the header; which chunks a request
//! needs is the caller's choice too. Once structured replies are agreed, every answer to a READ must be one.

use super::constants::*;
use super::fields::clipped;
use super::{Errno, PAYLOAD_BYTES_MAX};

/// More extents than this may not stand in one chunk of block status.
const EXTENTS_MAX: usize = 1 << 20;

// A simple reply; behind it, after a successful READ, the data:
//
// offset  size  field
//      0     4  SIMPLE_REPLY_MAGIC
//      4     4  error, 0 for success
//      8     8  cookie
//
// A chunk of a structured reply; its payload follows:
//
//      0     4  STRUCTURED_REPLY_MAGIC
//      4     2  flags
//      6     2  type
//      8     8  cookie
//     16     4  payload length

/// A run of bytes in one state, in one context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The length, never 0.
    pub length_bytes: u32,
    /// The state, in bits that the context defines.
    pub flags: u32,
}

/// A simple reply. After a successful READ the caller appends the data.
pub fn simple(output: &mut Vec<u8>, cookie: u64, result: Result<(), Errno>) {
    output.extend(SIMPLE_REPLY_MAGIC.to_be_bytes());
    output.extend(result.err().map_or(0, Errno::number).to_be_bytes());
    output.extend(cookie.to_be_bytes());
}

/// The chunk that ends a structured reply without saying more.
pub fn done(output: &mut Vec<u8>, cookie: u64) {
    chunk(output, true, REPLY_TYPE_NONE, cookie, 0);
}

/// An error chunk, the last of its reply: for the request as a whole, or at `offset_bytes` of the export. The message
/// is cut at 4096 bytes.
pub fn error(output: &mut Vec<u8>, cookie: u64, errno: Errno, message: &str, offset_bytes: Option<u64>) {
    let message = clipped(message);
    let length = message.len() as u16;
    let (kind, tail) = match offset_bytes {
        Some(_) => (REPLY_TYPE_ERROR_OFFSET, 8),
        None => (REPLY_TYPE_ERROR, 0),
    };
    chunk(output, true, kind, cookie, 6 + u32::from(length) + tail);
    output.extend(errno.number().to_be_bytes());
    output.extend(length.to_be_bytes());
    output.extend(message.as_bytes());
    output.extend(offset_bytes.into_iter().flat_map(u64::to_be_bytes));
}

/// The header of a chunk of data; the caller appends `length_bytes` of it, at least one and at most 32 MiB.
///
/// `done` may be set only if nothing can fail any more.
pub fn data_header(output: &mut Vec<u8>, cookie: u64, done: bool, offset_bytes: u64, length_bytes: u32) {
    debug_assert!((1..=PAYLOAD_BYTES_MAX).contains(&length_bytes));
    chunk(output, done, REPLY_TYPE_OFFSET_DATA, cookie, 8 + length_bytes);
    output.extend(offset_bytes.to_be_bytes());
}

/// A chunk that stands for `length_bytes` of zeroes, at least one.
pub fn hole(output: &mut Vec<u8>, cookie: u64, done: bool, offset_bytes: u64, length_bytes: u32) {
    debug_assert!(length_bytes > 0);
    chunk(output, done, REPLY_TYPE_OFFSET_HOLE, cookie, 12);
    output.extend(offset_bytes.to_be_bytes());
    output.extend(length_bytes.to_be_bytes());
}

/// A chunk with the extents of one context, at least one. Those beyond 2^20 are left out: the client asks again.
pub fn block_status(output: &mut Vec<u8>, cookie: u64, done: bool, context_id: u32, extents: &[Extent]) {
    debug_assert!(!extents.is_empty() && extents.iter().all(|extent| extent.length_bytes > 0));
    let extents = &extents[..extents.len().min(EXTENTS_MAX)];
    chunk(output, done, REPLY_TYPE_BLOCK_STATUS, cookie, 4 + 8 * extents.len() as u32);
    output.extend(context_id.to_be_bytes());
    for extent in extents {
        output.extend(extent.length_bytes.to_be_bytes());
        output.extend(extent.flags.to_be_bytes());
    }
}

/// The failure of a request, as the kind of reply that was agreed.
pub fn failure(output: &mut Vec<u8>, cookie: u64, structured: bool, errno: Errno, message: &str) {
    if structured {
        error(output, cookie, errno, message, None);
    } else {
        simple(output, cookie, Err(errno));
    }
}

fn chunk(output: &mut Vec<u8>, done: bool, kind: u16, cookie: u64, payload_bytes: u32) {
    output.extend(STRUCTURED_REPLY_MAGIC.to_be_bytes());
    output.extend(if done { REPLY_FLAG_DONE } else { 0 }.to_be_bytes());
    output.extend(kind.to_be_bytes());
    output.extend(cookie.to_be_bytes());
    output.extend(payload_bytes.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    const COOKIE: u64 = 0x0102_0304_0506_0708;

    fn hex(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut output = Vec::new();
        write(&mut output);
        output.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn simple_replies() {
        assert_eq!(hex(|out| simple(out, COOKIE, Ok(()))), "67446698000000000102030405060708");
        assert_eq!(hex(|out| simple(out, COOKIE, Err(Errno::ENOSPC))), "674466980000001c0102030405060708");
        let failed = hex(|out| failure(out, COOKIE, false, Errno::EIO, "not sent"));
        assert_eq!(failed, "67446698000000050102030405060708");
    }

    #[test]
    fn content_chunks() {
        assert_eq!(hex(|out| done(out, COOKIE)), "668e33ef00010000010203040506070800000000");
        assert_eq!(
            hex(|out| data_header(out, COOKIE, true, 0x1_0000_0200, 0x1000)),
            "668e33ef000100010102030405060708000010080000000100000200"
        );
        assert_eq!(
            hex(|out| hole(out, COOKIE, false, 0x200, u32::MAX)),
            "668e33ef0000000201020304050607080000000c0000000000000200ffffffff"
        );
    }

    #[test]
    fn error_chunks() {
        assert_eq!(
            hex(|out| error(out, COOKIE, Errno::EINVAL, "no", None)),
            "668e33ef00018001010203040506070800000008000000160002".to_owned() + "6e6f"
        );
        assert_eq!(
            hex(|out| error(out, COOKIE, Errno::EIO, "", Some(0x300))),
            "668e33ef0001800201020304050607080000000e00000005000000000000".to_owned() + "00000300"
        );
        let failed = hex(|out| failure(out, COOKIE, true, Errno::EIO, "a"));
        assert_eq!(failed, hex(|out| error(out, COOKIE, Errno::EIO, "a", None)));
    }

    #[test]
    fn messages_are_cut_between_characters() {
        let mut output = Vec::new();
        error(&mut output, COOKIE, Errno::EIO, &("a".to_owned() + &"\u{fc}".repeat(40_000)), Some(7));
        assert_eq!(output.len(), 20 + 6 + 4095 + 8);
        assert_eq!(output[16..20], (6u32 + 4095 + 8).to_be_bytes());
        assert_eq!(output[24..26], 4095u16.to_be_bytes());
        assert!(std::str::from_utf8(&output[26..26 + 4095]).is_ok());
    }

    #[test]
    fn block_status_chunks() {
        let extents = [Extent { length_bytes: 0x1000, flags: 3 }, Extent { length_bytes: 0x200, flags: 0 }];
        assert_eq!(
            hex(|out| block_status(out, COOKIE, true, 2, &extents)),
            "668e33ef0001000501020304050607080000001400000002000010000000000300000200".to_owned()
                + "00000000"
        );
        let many = vec![extents[0]; (1 << 20) + 1];
        let mut output = Vec::new();
        block_status(&mut output, COOKIE, true, 2, &many);
        assert_eq!(output.len(), 20 + 4 + (8 << 20));
    }
}
