//! The handshake, message by message, each conversation cut at every position.

use super::constants::*;
use super::talk::{Client, Heard, export, info_data};
use super::{CloseReason, Handshake, Limits, Step};

fn session(heard: Heard) -> super::Session {
    match heard.step {
        Step::Transmit(session) => session,
        step => panic!("no session: {step:?}"),
    }
}

#[test]
fn the_greeting() {
    let greeting = Handshake::new(Limits::default()).greeting();
    assert_eq!(greeting, *b"NBDMAGICIHAVEOPT\0\x03");
}

#[test]
fn flags_that_were_not_offered_close() {
    for flags in [4, 1 << 31, !0] {
        let heard = Client::with_flags(flags).go("disk").talk();
        assert_eq!(heard.step, Step::Close(CloseReason::UnknownClientFlags(flags)));
        assert_eq!((heard.consumed, heard.output.len()), (4, 0));
    }
    for flags in 0..4 {
        assert_eq!(session(Client::with_flags(flags).go("disk").talk()).export.name, "disk");
    }
}

#[test]
fn export_name_is_answered_with_or_without_zeroes() {
    let answer = [&[0, 0, 0, 0, 0, 0x10, 0, 0][..], &[0x0d, 0x6d]].concat();
    let heard = Client::with_flags(3).option(OPT_EXPORT_NAME, b"disk").talk();
    assert_eq!(heard.output, answer);
    assert_eq!(session(heard).export, export("disk", false));
    let heard = Client::with_flags(1).option(OPT_EXPORT_NAME, b"").talk();
    assert_eq!(heard.output, [answer, vec![0; 124]].concat());
    assert_eq!(session(heard).export, export("disk", false));
}

#[test]
fn export_name_cannot_say_no() {
    let heard = Client::new().option(OPT_EXPORT_NAME, b"gone").talk();
    assert_eq!(heard.step, Step::Close(CloseReason::UnknownExport("gone".into())));
    for name in [&b"di\0sk"[..], b"\xff", &[b'a'; 4097]] {
        let heard = Client::new().option(OPT_EXPORT_NAME, name).talk();
        assert_eq!((heard.output.len(), heard.step), (0, Step::Close(CloseReason::BadExportName)));
    }
}

#[test]
fn go_begins_transmission_right_behind_its_bytes() {
    let mut client = Client::new().structured().go("frozen");
    let handshake_bytes = client.0.len();
    client.0.extend(b"requests");
    let heard = client.talk();
    assert_eq!(heard.consumed, handshake_bytes);
    let replies = heard.replies();
    assert_eq!(replies[0], (OPT_STRUCTURED_REPLY, REP_ACK, vec![]));
    assert_eq!(replies[1], (OPT_GO, REP_INFO, vec![0, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0x05, 0x8f]));
    assert_eq!(replies[2], (OPT_GO, REP_ACK, vec![]));
    let session = session(heard);
    assert!(session.structured_replies && session.contexts.is_empty());
    assert_eq!(session.export, export("frozen", true));
}

#[test]
fn info_tells_what_is_asked_and_goes_on() {
    let asked = [INFO_BLOCK_SIZE, INFO_NAME, 77, INFO_DESCRIPTION, INFO_EXPORT];
    let heard = Client::new().option(OPT_INFO, &info_data(b"", &asked)).talk();
    assert_eq!(heard.step, Step::Continue);
    let infos: Vec<Vec<u8>> = heard.replies().into_iter().map(|(_, _, payload)| payload).collect();
    assert_eq!(infos[0], [0, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0x0d, 0x6d]);
    assert_eq!(infos[1], b"\0\x01disk");
    assert_eq!(infos[2], b"\0\x02about disk");
    assert_eq!(infos[3], [0, 3, 0, 0, 0, 1, 0, 0, 0x10, 0, 2, 0, 0, 0]);
    assert_eq!(heard.kinds(), [REP_INFO, REP_INFO, REP_INFO, REP_INFO, REP_ACK]);
    let repeated = Client::new().option(OPT_INFO, &info_data(b"disk", &[1, 1])).talk();
    assert_eq!(repeated.kinds(), [REP_INFO, REP_INFO, REP_ACK]);
}

#[test]
fn go_that_fails_keeps_negotiating() {
    let heard = Client::new().go("gone").option(OPT_INFO, &info_data(b"gone", &[])).go("disk").talk();
    assert_eq!(heard.kinds(), [REP_ERR_UNKNOWN, REP_ERR_UNKNOWN, REP_INFO, REP_ACK]);
    assert_eq!(session(heard).export.name, "disk");
}

#[test]
fn malformed_info_is_invalid_and_in_sync() {
    let mut long_name = info_data(b"disk", &[]);
    long_name[3] = 5;
    let mut huge_name = info_data(b"disk", &[]);
    huge_name[..4].fill(0xff);
    let mut few_requests = info_data(b"disk", &[3, 3]);
    few_requests.pop();
    let trailing = [info_data(b"disk", &[3]), vec![0]].concat();
    let data = [
        vec![],
        vec![0; 3],
        vec![0; 5],
        long_name,
        huge_name,
        few_requests,
        trailing,
        info_data(b"di\0sk", &[]),
        info_data(b"\xff\xfe", &[]),
        info_data(&[b'a'; 4097], &[]),
    ];
    for data in data {
        for option in [OPT_INFO, OPT_GO] {
            let heard = Client::new().option(option, &data).go("disk").talk();
            assert_eq!(heard.kinds(), [REP_ERR_INVALID, REP_INFO, REP_ACK], "{data:?}");
        }
    }
    let longest = Client::new().option(OPT_GO, &info_data(&[b'a'; 4096], &[])).talk();
    assert_eq!(longest.kinds(), [REP_ERR_UNKNOWN]);
}

#[test]
fn list_names_every_export() {
    let heard = Client::new().option(OPT_LIST, &[]).talk();
    let replies = heard.replies();
    assert_eq!(replies[0], (OPT_LIST, REP_SERVER, b"\0\0\0\x04diskabout disk".to_vec()));
    assert_eq!(replies[1], (OPT_LIST, REP_SERVER, b"\0\0\0\x06frozenabout frozen".to_vec()));
    assert_eq!(replies[2], (OPT_LIST, REP_ACK, vec![]));
    assert_eq!(heard.step, Step::Continue);
}

#[test]
fn data_where_none_belongs_is_invalid_and_in_sync() {
    let heard = Client::new().option(OPT_LIST, b"x").option(OPT_STRUCTURED_REPLY, b"xyz").go("disk").talk();
    assert_eq!(heard.kinds(), [REP_ERR_INVALID, REP_ERR_INVALID, REP_INFO, REP_ACK]);
    assert!(!session(heard).structured_replies);
}

#[test]
fn abort_is_acknowledged_with_and_without_data() {
    for data in [&b""[..], b"goodbye"] {
        let heard = Client::new().option(OPT_ABORT, data).option(OPT_LIST, &[]).talk();
        assert_eq!(heard.replies(), [(OPT_ABORT, REP_ACK, vec![])]);
        assert_eq!(heard.step, Step::Close(CloseReason::Aborted));
        assert_eq!(heard.consumed, 20 + data.len());
    }
}

#[test]
fn structured_replies_may_be_asked_for_twice() {
    let heard = Client::new().structured().structured().go("disk").talk();
    assert_eq!(heard.kinds(), [REP_ACK, REP_ACK, REP_INFO, REP_ACK]);
    assert!(session(heard).structured_replies);
}

#[test]
fn unknown_options_are_unsupported_and_in_sync() {
    for option in [0, 4, 5, 11, 0x8000_0001, !0] {
        let heard = Client::new().option(option, b"data").option(option, b"").go("disk").talk();
        assert_eq!(heard.kinds(), [REP_ERR_UNSUP, REP_ERR_UNSUP, REP_INFO, REP_ACK]);
        assert_eq!(heard.replies()[0].0, option);
    }
}

#[test]
fn a_wrong_magic_closes() {
    let mut client = Client::new().go("gone").go("disk");
    let second = client.0.len() - 26;
    client.0[second] ^= 1;
    let heard = client.talk();
    assert_eq!(heard.step, Step::Close(CloseReason::BadOptionMagic(IHAVEOPT ^ 1 << 56)));
    assert_eq!(heard.kinds(), [REP_ERR_UNKNOWN]);
}

#[test]
fn an_option_that_is_too_long_closes_at_its_header() {
    for length in [64 << 10 | 1, 1 << 31, u32::MAX] {
        let mut client = Client::new().option(OPT_GO, &[]);
        client.0[16..20].copy_from_slice(&length.to_be_bytes());
        let heard = client.talk();
        let reason = CloseReason::OptionTooLong { option: OPT_GO, length_bytes: length };
        assert_eq!((heard.consumed, heard.step), (20, Step::Close(reason)));
    }
    // The longest that is let through, in two pieces: to try every split would take long.
    let client = Client::new().option(OPT_GO, &vec![b'a'; 64 << 10]).go("disk");
    let heard = super::talk::hear(Limits::default(), &[&client.0[..40_000], &client.0[40_000..]]);
    assert_eq!(heard.kinds(), [REP_ERR_INVALID, REP_INFO, REP_ACK]);
}

#[test]
fn too_many_options_close() {
    let limits = Limits { options_max: 3, ..Limits::default() };
    let client = Client::new().option(99, &[]).option(99, b"a").option(99, &[]);
    let heard = client.talk_within(limits);
    assert_eq!((heard.kinds(), heard.step), (vec![REP_ERR_UNSUP; 3], Step::Continue));
    let heard = client.go("disk").talk_within(limits);
    assert_eq!((heard.kinds().len(), heard.step), (3, Step::Close(CloseReason::TooManyOptions)));
    let mut most = Client::new();
    for _ in 0..4095 {
        most = most.option(99, &[]);
    }
    session(super::talk::hear(Limits::default(), &[&most.go("disk").0]));
}

#[test]
fn too_long_answers_close() {
    struct Long;
    impl super::Exports for Long {
        fn find(&self, _: &str) -> Option<super::Export> {
            None
        }

        fn list(&self) -> Vec<(String, String)> {
            vec![("a".repeat(4096), "b".repeat(5000)); 1024]
        }
    }
    let client = (0..10).fold(Client::new(), |client, _| client.option(OPT_LIST, &[]));
    let mut output = Vec::new();
    let (consumed, step) = Handshake::new(Limits::default()).receive(&client.0, &Long, &mut output);
    assert_eq!((consumed, step), (4 + 3 * 16, Step::Close(CloseReason::TooManyAnswers)));
    assert_eq!(output.len(), 2 * (1024 * (20 + 4 + 2 * 4096) + 20));
}

#[test]
fn a_handshake_that_ended_takes_nothing() {
    let mut handshake = Handshake::new(Limits::default());
    let mut output = Vec::new();
    let client = Client::new().go("disk");
    assert!(matches!(handshake.receive(&client.0, &super::talk::Two, &mut output).1, Step::Transmit(_)));
    let again = handshake.receive(&client.0, &super::talk::Two, &mut output);
    assert_eq!(again, (0, Step::Close(CloseReason::Over)));
}

#[test]
fn reasons_can_be_read() {
    let reasons = [
        (CloseReason::UnknownClientFlags(4), "unknown client flags 0x4"),
        (CloseReason::BadOptionMagic(1), "an option begins with 0x0000000000000001"),
        (CloseReason::OptionTooLong { option: 7, length_bytes: 9 }, "option 7 has 9 bytes of data"),
        (CloseReason::UnknownExport("a\n".into()), "there is no export \"a\\n\""),
    ];
    for (reason, text) in reasons {
        assert_eq!(reason.to_string(), text);
    }
}
