//! Requests: what is carried out, and what is answered instead, in which order.

use super::constants::*;
use super::talk::export;
use super::{BadMagic, Command, Context, Errno, MetaContext, RequestHeader, Session, check};

const MIB: u32 = 1 << 20;
/// All commands, with their own flags.
const COMMANDS: [(u16, u16); 8] = [
    (CMD_READ, CMD_FLAG_DF),
    (CMD_WRITE, 0),
    (CMD_DISC, !0),
    (CMD_FLUSH, 0),
    (CMD_TRIM, 0),
    (CMD_CACHE, 0),
    (CMD_WRITE_ZEROES, CMD_FLAG_NO_HOLE | CMD_FLAG_FAST_ZERO),
    (CMD_BLOCK_STATUS, CMD_FLAG_REQ_ONE),
];

fn session() -> Session {
    let contexts = vec![Context { id: 1, kind: MetaContext::Allocation }];
    Session { export: export("disk", false), structured_replies: true, contexts }
}

fn huge() -> Session {
    let mut session = session();
    session.export.size_bytes = u64::MAX;
    session
}

fn read_only() -> Session {
    Session { export: export("frozen", true), ..session() }
}

fn header(command: u16, flags: u16, offset_bytes: u64, length_bytes: u32) -> RequestHeader {
    RequestHeader { flags, command, cookie: 7, offset_bytes, length_bytes }
}

fn refused(header: RequestHeader, session: &Session) -> Option<Errno> {
    check(&header, session).err()
}

#[test]
fn golden_request() {
    let mut bytes =
        *b"\x25\x60\x95\x13\0\x01\0\x06\x01\x02\x03\x04\x05\x06\x07\x08\0\0\0\x01\0\0\x02\0\0\0\x10\0";
    let expected = RequestHeader {
        flags: CMD_FLAG_FUA,
        command: CMD_WRITE_ZEROES,
        cookie: 0x0102_0304_0506_0708,
        offset_bytes: 0x1_0000_0200,
        length_bytes: 0x1000,
    };
    assert_eq!(RequestHeader::decode(&bytes), Ok(expected));
    bytes[3] ^= 1;
    assert_eq!(RequestHeader::decode(&bytes), Err(BadMagic));
}

#[test]
fn only_a_write_has_payload() {
    for (command, _) in COMMANDS.into_iter().chain([(8, 0), (0x101, 0)]) {
        let payload = header(command, 0, 0, u32::MAX).payload_bytes();
        assert_eq!(payload, if command == CMD_WRITE { u32::MAX } else { 0 });
    }
}

#[test]
fn commands_come_with_their_flags() {
    let allowed = |command, flags| check(&header(command, flags, 0, 512), &session());
    assert_eq!(allowed(CMD_READ, CMD_FLAG_DF), Ok(Command::Read { df: true }));
    assert_eq!(allowed(CMD_WRITE, CMD_FLAG_FUA), Ok(Command::Write { fua: true }));
    assert_eq!(allowed(CMD_TRIM, CMD_FLAG_FUA), Ok(Command::Trim { fua: true }));
    let zeroes = |fua, no_hole, fast| Ok(Command::WriteZeroes { fua, no_hole, fast });
    assert_eq!(allowed(CMD_WRITE_ZEROES, 0), zeroes(false, false, false));
    assert_eq!(allowed(CMD_WRITE_ZEROES, CMD_FLAG_FUA | CMD_FLAG_NO_HOLE), zeroes(true, true, false));
    assert_eq!(allowed(CMD_WRITE_ZEROES, CMD_FLAG_FAST_ZERO), zeroes(false, false, true));
    assert_eq!(allowed(CMD_BLOCK_STATUS, CMD_FLAG_REQ_ONE), Ok(Command::BlockStatus { one: true }));
}

#[test]
fn fua_is_accepted_on_every_command_and_foreign_flags_on_none() {
    for (command, own) in COMMANDS {
        assert!(check(&header(command, CMD_FLAG_FUA, 0, 512), &session()).is_ok(), "{command}");
        for bit in (0..16).map(|shift| 1 << shift).filter(|bit| bit & (own | CMD_FLAG_FUA) == 0) {
            let expected = Some(Errno::EINVAL);
            assert_eq!(refused(header(command, bit, 0, 512), &session()), expected, "{command} {bit:#x}");
            assert_eq!(refused(header(command, bit, 0, 512), &read_only()), expected, "{command} {bit:#x}");
        }
    }
}

#[test]
fn dont_fragment_needs_structured_replies() {
    let simple = Session { structured_replies: false, ..session() };
    assert_eq!(refused(header(CMD_READ, CMD_FLAG_DF, 0, 512), &simple), Some(Errno::EINVAL));
    assert_eq!(refused(header(CMD_READ, 0, 0, 512), &simple), None);
}

#[test]
fn unknown_commands_are_invalid() {
    for command in [8, 9, 0x100, u16::MAX] {
        assert_eq!(refused(header(command, 0, 0, 0), &session()), Some(Errno::EINVAL));
        assert_eq!(refused(header(command, 0, 0, 0), &read_only()), Some(Errno::EINVAL));
    }
}

#[test]
fn disconnect_never_fails() {
    let disconnect = header(CMD_DISC, !0, u64::MAX, u32::MAX);
    assert_eq!(check(&disconnect, &read_only()), Ok(Command::Disconnect));
}

#[test]
fn a_read_only_export_is_not_written() {
    for command in [CMD_WRITE, CMD_TRIM, CMD_WRITE_ZEROES] {
        for (offset, length) in [(0, 512), (0, 0), (u64::MAX, u32::MAX)] {
            assert_eq!(refused(header(command, 0, offset, length), &read_only()), Some(Errno::EPERM));
        }
    }
    for command in [CMD_READ, CMD_FLUSH, CMD_CACHE, CMD_BLOCK_STATUS] {
        assert_eq!(refused(header(command, 0, 0, 512), &read_only()), None);
    }
}

#[test]
fn past_the_end() {
    let commands = [
        (CMD_READ, Errno::EINVAL),
        (CMD_WRITE, Errno::ENOSPC),
        (CMD_TRIM, Errno::EINVAL),
        (CMD_CACHE, Errno::EINVAL),
        (CMD_WRITE_ZEROES, Errno::ENOSPC),
        (CMD_BLOCK_STATUS, Errno::EINVAL),
    ];
    for (command, errno) in commands {
        assert_eq!(refused(header(command, 0, 0, MIB), &session()), None);
        assert_eq!(refused(header(command, 0, u64::from(MIB) - 1, 1), &session()), None);
        for (offset, length) in [(0, MIB + 1), (1, MIB), (u64::from(MIB), 1), (u64::MAX, 1), (u64::MAX, MIB)]
        {
            let request = header(command, 0, offset, length);
            assert_eq!(refused(request, &session()), Some(errno), "{request:?}");
        }
    }
    let fast = CMD_FLAG_FAST_ZERO | CMD_FLAG_NO_HOLE;
    assert_eq!(refused(header(CMD_WRITE_ZEROES, fast, 1, MIB), &session()), Some(Errno::ENOSPC));
}

#[test]
fn lengths() {
    let longest = 32 * MIB;
    assert_eq!(refused(header(CMD_READ, CMD_FLAG_DF, 0, longest), &huge()), None);
    assert_eq!(refused(header(CMD_READ, 0, 0, longest + 1), &huge()), Some(Errno::EINVAL));
    assert_eq!(refused(header(CMD_READ, CMD_FLAG_DF, 0, longest + 1), &huge()), Some(Errno::EOVERFLOW));
    assert_eq!(refused(header(CMD_WRITE, 0, 0, longest), &huge()), None);
    assert_eq!(refused(header(CMD_WRITE, 0, 0, longest + 1), &huge()), Some(Errno::EINVAL));
    for command in [CMD_TRIM, CMD_CACHE, CMD_WRITE_ZEROES, CMD_BLOCK_STATUS] {
        assert_eq!(refused(header(command, 0, 0, u32::MAX), &huge()), None);
    }
}

#[test]
fn zero_length_is_nothing_to_do() {
    for (command, _) in COMMANDS.into_iter().filter(|(command, _)| *command != CMD_BLOCK_STATUS) {
        for offset in [0, u64::from(MIB), u64::MAX] {
            assert_eq!(refused(header(command, 0, offset, 0), &session()), None, "{command} at {offset}");
        }
    }
    assert_eq!(refused(header(CMD_BLOCK_STATUS, 0, 0, 0), &session()), Some(Errno::EINVAL));
}

#[test]
fn zeroes_that_must_be_written_are_not_fast() {
    let both = CMD_FLAG_FAST_ZERO | CMD_FLAG_NO_HOLE;
    assert_eq!(refused(header(CMD_WRITE_ZEROES, both, 0, 512), &session()), Some(Errno::ENOTSUP));
    assert_eq!(refused(header(CMD_WRITE_ZEROES, both, 0, 0), &session()), None);
    assert_eq!(refused(header(CMD_WRITE_ZEROES, both, 0, 512), &read_only()), Some(Errno::EPERM));
}

#[test]
fn block_status_needs_contexts() {
    let without = Session { contexts: Vec::new(), ..session() };
    assert_eq!(refused(header(CMD_BLOCK_STATUS, 0, 0, 512), &without), Some(Errno::EINVAL));
}
