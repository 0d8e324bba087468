//! Clients that vanish: at every byte of what they say, and while they are being answered.
//!
//! What must hold afterwards: nobody is connected, the next client is served, and nothing of the dead is kept.

use crate::fixture::{self, REACTORS, Serving};
use std::time::Duration;
use vellum_engine::storage::ReactorKind;
use vellum_nbd_server::Limits;
use vellum_tests::nbd_client::{
    NbdClient, command, context_data, info_data, option, option_bytes, request_bytes,
};

/// How a client goes.
#[derive(Clone, Copy, Debug)]
enum Way {
    Close,
    /// Says that it sends no more, and waits for the server to close.
    FinishSending,
}

const WAYS: [Way; 2] = [Way::Close, Way::FinishSending];
const SOON: Duration = Duration::from_secs(1);

fn go(client: NbdClient, way: Way, place: &str) {
    if let Way::FinishSending = way {
        // The server may have closed already, which is as good.
        let _ = client.finish_sending();
        let mut client = client;
        while client.receive(1).is_ok() {}
        assert!(client.is_dropped(), "{place}: the server does not close");
    }
}

/// What a client may say in a handshake, from its flags on.
fn conversations() -> Vec<(&'static str, Vec<u8>)> {
    let said = |options: &[Vec<u8>]| [&3u32.to_be_bytes()[..], &options.concat()].concat();
    let structured = option_bytes(option::STRUCTURED_REPLY, &[]);
    let contexts = context_data(b"disk", &["base:allocation", "x-vellum:shared"]);
    vec![
        ("EXPORT_NAME", said(&[option_bytes(option::EXPORT_NAME, b"disk")])),
        ("GO", said(&[option_bytes(option::GO, &info_data(b"disk", &[1, 3]))])),
        ("INFO", said(&[option_bytes(option::INFO, &info_data(b"disk", &[1, 3]))])),
        ("LIST", said(&[option_bytes(option::LIST, &[])])),
        ("ABORT", said(&[option_bytes(option::ABORT, &[])])),
        (
            "contexts",
            said(&[
                structured.clone(),
                option_bytes(option::LIST_META_CONTEXT, &contexts),
                option_bytes(option::SET_META_CONTEXT, &contexts),
                option_bytes(option::GO, &info_data(b"disk", &[])),
            ]),
        ),
    ]
}

#[test]
fn at_every_byte_of_a_handshake() {
    for reactor in REACTORS {
        let (_files, serving) = fixture::serve_within(reactor, many());
        for (name, said) in conversations() {
            for (way, at) in WAYS.iter().flat_map(|way| (0..=said.len()).map(move |at| (*way, at))) {
                let mut client = NbdClient::connect(&serving.socket).unwrap();
                client.send(&said[..at]).unwrap();
                go(client, way, &format!("{name} cut at {at}, {reactor:?}, {way:?}"));
            }
            serving.wait_until_alone(SOON);
            assert_serves(&serving);
        }
        serving.stop();
    }
}

#[test]
fn at_every_byte_of_a_write() {
    const PAYLOAD: usize = 300_000;
    let header = request_bytes(0, command::WRITE, 7, 1 << 20, PAYLOAD as u32);
    let said = [&header[..], &[0x77; PAYLOAD]].concat();
    let cuts =
        (0..=28).chain([29, 540, 4124, 131_071, 131_072, 131_073, 262_144, PAYLOAD + 27, PAYLOAD + 28]);
    for reactor in REACTORS {
        let (_files, serving) = fixture::serve_within(reactor, many());
        for (way, at) in WAYS.iter().flat_map(|way| cuts.clone().map(move |at| (*way, at))) {
            let mut client = serving.client("disk");
            client.send(&said[..at]).unwrap();
            go(client, way, &format!("write cut at {at}, {reactor:?}, {way:?}"));
            serving.wait_until_alone(SOON);
            let mut client = serving.client("disk");
            let read = client.read(0, 1 << 20, 4096).unwrap().unwrap();
            // A whole write may have been carried out, a part of one never.
            if at < said.len() {
                assert!(read.iter().all(|byte| *byte == 0), "a write cut at {at} was carried out");
            } else {
                assert!(read.iter().all(|byte| *byte == 0) || read.iter().all(|byte| *byte == 0x77));
                client.call(0, command::WRITE_ZEROES, 1 << 20, PAYLOAD as u32, &[]).unwrap();
            }
        }
        serving.stop();
    }
}

#[test]
fn while_being_answered() {
    for reactor in REACTORS {
        let (_files, serving) = fixture::serve_within(reactor, many());
        let mut client = serving.client("disk");
        client.write(0, &fixture::pattern(1, 32 << 20)).unwrap();
        drop(client);
        for (way, taken) in WAYS.iter().flat_map(|way| [0, 1, 16, 17, 100_000, 20 << 20].map(|n| (*way, n))) {
            let mut client = serving.client("disk");
            client.request(0, command::READ, 0, 32 << 20, &[]).unwrap();
            client.request(0, command::READ, 5, 32 << 20, &[]).unwrap();
            client.receive(taken).unwrap();
            if let Way::Close = way {
                drop(client);
            } else {
                client.finish_sending().unwrap();
                // What was asked for is answered all the same, to the last byte.
                client.receive(2 * (16 + (32 << 20)) - taken).unwrap();
                assert!(client.is_dropped());
            }
            serving.wait_until_alone(SOON);
        }
        assert_serves(&serving);
        serving.stop();
    }
}

#[test]
fn five_hundred_times_without_a_trace() {
    for reactor in REACTORS {
        let alone = fixture::alone();
        let (_files, serving) = fixture::serve_unshared(reactor, many());
        serving.client("disk").write(0, &fixture::pattern(1, 4 << 20)).unwrap();
        vanish_often(&serving, reactor, 60);
        let before = (fixture::descriptors(), fixture::resident_bytes());
        vanish_often(&serving, reactor, 500);
        let after = (fixture::descriptors(), fixture::resident_bytes());
        assert_eq!(after.0, before.0, "descriptors, {reactor:?}");
        let grown = after.1.saturating_sub(before.1) >> 20;
        println!("{reactor:?}: {} MiB resident, {grown} MiB more after 500 clients", before.1 >> 20);
        assert!(grown < 24, "{grown} MiB more, {reactor:?}");
        serving.stop();
        drop(alone);
    }
}

fn vanish_often(serving: &Serving, reactor: ReactorKind, rounds: usize) {
    let said: Vec<Vec<u8>> = conversations().into_iter().map(|(_, said)| said).collect();
    for round in 0..rounds {
        let way = WAYS[round % 2];
        let mut client = match round % 3 {
            0 => {
                let mut client = NbdClient::connect(&serving.socket).unwrap();
                let said = &said[round % said.len()];
                client.send(&said[..round * 7 % said.len()]).unwrap();
                client
            }
            1 => {
                let mut client = serving.client("disk");
                client.send(&request_bytes(0, command::WRITE, 1, 8 << 20, 4 << 20)).unwrap();
                client.send(&vec![1; round * 1000]).unwrap();
                client
            }
            _ => {
                let mut client = serving.client("disk");
                client.request(0, command::READ, 0, 4 << 20, &[]).unwrap();
                client.receive(round).unwrap();
                client
            }
        };
        if round % 5 == 0 {
            let _ = client.send(b"?");
        }
        if round % 3 == 2 {
            drop(client);
        } else {
            go(client, way, &format!("round {round}, {reactor:?}"));
        }
    }
    serving.wait_until_alone(SOON);
    assert_serves(serving);
}

fn assert_serves(serving: &Serving) {
    let mut client = serving.client("disk");
    assert_eq!(client.write(100 << 20, b"still here").unwrap(), 0);
    assert_eq!(client.read(0, 100 << 20, 10).unwrap().unwrap(), b"still here");
    drop(client);
    serving.wait_until_alone(SOON);
}

/// Clients come faster than the dead are noticed.
fn many() -> Limits {
    Limits { connections: 10_000, ..Limits::default() }
}
