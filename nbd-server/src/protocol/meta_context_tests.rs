//! Contexts in the handshake: listed, set, forgotten, each conversation cut at every position.

use super::constants::*;
use super::talk::{Client, Heard, context_data};
use super::{Context, MetaContext, Step};

const ALLOCATION: Context = Context { id: 1, kind: MetaContext::Allocation };
const SHARED: Context = Context { id: 2, kind: MetaContext::Shared };
const LIST: u32 = OPT_LIST_META_CONTEXT;
const SET: u32 = OPT_SET_META_CONTEXT;

fn agreed(client: Client) -> Vec<Context> {
    match client.talk().step {
        Step::Transmit(session) => session.contexts,
        step => panic!("no session: {step:?}"),
    }
}

/// Ids and names in the replies, which must end in an acknowledgement.
fn contexts(heard: &Heard) -> Vec<(u8, String)> {
    let mut replies = heard.replies();
    assert_eq!(replies.remove(0).1, REP_ACK);
    assert_eq!(replies.pop().unwrap().1, REP_ACK);
    let context = |(_, kind, payload): (u32, u32, Vec<u8>)| {
        assert_eq!((kind, &payload[..3]), (REP_META_CONTEXT, &[0, 0, 0][..]));
        (payload[3], String::from_utf8(payload[4..].to_vec()).unwrap())
    };
    replies.into_iter().map(context).collect()
}

fn listed(queries: &[&str]) -> Vec<(u8, String)> {
    contexts(&Client::new().structured().contexts(LIST, "disk", queries).talk())
}

#[test]
fn listing_without_queries_lists_all() {
    assert_eq!(listed(&[]), [(0, "base:allocation".into()), (0, "x-vellum:shared".into())]);
}

#[test]
fn listing_takes_wildcards_and_ignores_what_it_does_not_know() {
    assert_eq!(listed(&["base:"]), [(0, "base:allocation".into())]);
    assert_eq!(listed(&["x-vellum:"]), [(0, "x-vellum:shared".into())]);
    assert_eq!(listed(&["x-vellum:shared", "x-vellum:", "qemu:"]), [(0, "x-vellum:shared".into())]);
    assert_eq!(listed(&["qemu:", "x-other:thing", "base:nonsense"]), []);
}

#[test]
fn setting_selects_each_context_once() {
    let queries = ["x-vellum:shared", "qemu:dirty-bitmap:a", "base:allocation", "x-vellum:shared"];
    let client = Client::new().structured().contexts(SET, "disk", &queries);
    let answers = contexts(&client.talk());
    assert_eq!(answers, [(1, "base:allocation".into()), (2, "x-vellum:shared".into())]);
    assert_eq!(agreed(client.go("disk")), [ALLOCATION, SHARED]);
}

#[test]
fn setting_takes_no_wildcards() {
    for queries in [&[][..], &["base:", "x-vellum:"]] {
        let client = Client::new().structured().contexts(SET, "disk", queries);
        assert_eq!(contexts(&client.talk()), []);
        assert_eq!(agreed(client.go("disk")), []);
    }
}

#[test]
fn the_last_set_counts_even_when_it_fails() {
    let both = ["base:allocation", "x-vellum:shared"];
    let client = || Client::new().structured().contexts(SET, "disk", &both);
    assert_eq!(agreed(client().contexts(SET, "disk", &["base:allocation"]).go("disk")), [ALLOCATION]);
    assert_eq!(agreed(client().contexts(SET, "disk", &[]).go("disk")), []);
    assert_eq!(agreed(client().option(SET, b"nonsense").go("disk")), []);
    assert_eq!(agreed(client().contexts(SET, "gone", &both).go("disk")), []);
    assert_eq!(agreed(client().contexts(LIST, "disk", &[]).go("gone").go("disk")), [ALLOCATION, SHARED]);
}

#[test]
fn a_set_counts_for_its_own_export_only() {
    let client = |name| Client::new().structured().contexts(SET, name, &["base:allocation"]);
    assert_eq!(agreed(client("frozen").go("disk")), []);
    assert_eq!(agreed(client("").go("disk")), []);
    assert_eq!(agreed(client("").go("")), [ALLOCATION]);
    assert_eq!(agreed(client("disk").option(OPT_EXPORT_NAME, b"disk")), [ALLOCATION]);
}

#[test]
fn contexts_need_structured_replies_and_an_export() {
    for option in [LIST, SET] {
        let client = Client::new().contexts(option, "disk", &["base:allocation"]).structured();
        assert_eq!(client.talk().kinds(), [REP_ERR_INVALID, REP_ACK]);
        assert_eq!(agreed(client.go("disk")), []);
        let heard = Client::new().structured().contexts(option, "gone", &["base:"]).talk();
        assert_eq!(heard.kinds(), [REP_ACK, REP_ERR_UNKNOWN]);
    }
}

#[test]
fn malformed_queries_are_refused_in_sync() {
    let good = context_data(b"disk", &["base:allocation"]);
    let changed = |at: usize, byte: u8| {
        let mut data = good.clone();
        data[at] = byte;
        data
    };
    let long_query = format!("base:{}", "a".repeat(4092));
    let data = [
        vec![],
        good[..good.len() - 1].to_vec(),
        [&good[..], &[0]].concat(),
        changed(0, 0xff),
        changed(3, 5),
        changed(8, 0xff),
        changed(11, 2),
        changed(12, 0xff),
        changed(15, 14),
        changed(16, 0xff),
        changed(17, 0),
        context_data(b"di\0sk", &["base:allocation"]),
        context_data(b"disk", &[&long_query]),
        context_data(b"disk", &["base:allocation", "no-colon"]),
        context_data(b"disk", &[":leaf"]),
        context_data(b"disk", &[""]),
    ];
    for data in data {
        for option in [LIST, SET] {
            let heard = Client::new().structured().option(option, &data).go("disk").talk();
            assert_eq!(heard.kinds(), [REP_ACK, REP_ERR_INVALID, REP_INFO, REP_ACK], "{data:?}");
        }
    }
}

#[test]
fn too_many_queries_are_too_big() {
    for (count, kinds) in [(256, vec![REP_ACK, REP_ACK]), (257, vec![REP_ACK, REP_ERR_TOO_BIG])] {
        let queries = vec!["x-a:"; count];
        for option in [LIST, SET] {
            let heard = Client::new().structured().contexts(option, "disk", &queries).talk();
            assert_eq!(heard.kinds(), kinds);
        }
    }
}
