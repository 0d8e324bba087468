//! Random bytes, and messages with something wrong in them: nothing that a client says breaks the server.
//!
//! A panic of a serving thread ends the process, and with it this test.

use crate::fixture::{self, REACTORS, Serving};
use std::time::Duration;
use vellum_nbd_server::Limits;
use vellum_tests::nbd_client::{NbdClient, command, context_data, info_data, option_bytes, request_bytes};
use vellum_tests::rng::Rng;

const ROUNDS: u64 = 1500;
/// So small that nothing takes long, whatever is asked for.
const VOLUME_BYTES: u64 = (2 << 20) + 8192;

#[test]
fn nothing_that_is_said_breaks_the_server() {
    for reactor in REACTORS {
        let limits = Limits { connections: 10_000, ..Limits::default() };
        let (files, serving) = fixture::serve_within(reactor, limits);
        serving.create_volume("noise", VOLUME_BYTES);
        serving.client("disk").write(0, b"untouched").unwrap();
        for seed in 0..ROUNDS {
            let mut rng = Rng::new(seed);
            match seed % 3 {
                0 => anything(&serving, &mut rng),
                1 => options(&serving, &mut rng),
                _ => requests(&serving, &mut rng),
            }
        }
        serving.wait_until_alone(Duration::from_secs(2));
        assert_eq!(serving.client("disk").read(0, 0, 9).unwrap().unwrap(), b"untouched");
        serving.stop();
        assert_eq!(files.check(), Vec::<String>::new());
    }
}

fn random_bytes(rng: &mut Rng, longest: u64) -> Vec<u8> {
    let length = rng.below(longest);
    fixture::pattern(rng.bits(), length as usize)
}

/// Everything that comes until the server closes.
fn listen(mut client: NbdClient) {
    let _ = client.finish_sending();
    while client.receive(1).is_ok() {}
    assert!(client.is_dropped(), "the server does not close");
}

fn anything(serving: &Serving, rng: &mut Rng) {
    let mut client = NbdClient::connect(&serving.socket).unwrap();
    if rng.one_in(2) {
        let _ = client.send(&3u32.to_be_bytes());
    }
    let _ = client.send(&random_bytes(rng, 2000));
    listen(client);
}

fn options(serving: &Serving, rng: &mut Rng) {
    let mut client = serving.greeted();
    for _ in 0..rng.between(1, 8) {
        let data = match rng.below(4) {
            0 => random_bytes(rng, 300),
            1 => info_data(b"noise", &[rng.below(5) as u16, rng.bits() as u16]),
            2 => context_data(b"noise", &["base:allocation", "x-vellum:"]),
            _ => Vec::new(),
        };
        let mut bytes = option_bytes(rng.below(12) as u32, &data);
        if rng.one_in(4) {
            let at = rng.below(bytes.len() as u64) as usize;
            bytes[at] ^= 1 << rng.below(8);
        }
        // The server may have closed already.
        let _ = client.send(&bytes);
    }
    listen(client);
}

fn requests(serving: &Serving, rng: &mut Rng) {
    let contexts: &[&str] = if rng.one_in(2) { &["base:allocation", "x-vellum:shared"] } else { &[] };
    let mut client = match rng.one_in(2) {
        true => serving.structured("noise", contexts),
        false => serving.client("noise"),
    };
    for _ in 0..rng.between(1, 20) {
        let offset = if rng.one_in(4) { rng.bits() } else { rng.below(VOLUME_BYTES + 4096) };
        let length = *rng.clone().pick(&[0, 1, 511, 4096, 70_000, u64::from(u32::MAX)]);
        let length = if rng.one_in(3) { rng.below(300_000) } else { length } as u32;
        let flags = if rng.one_in(2) { 0 } else { rng.bits() as u16 & 0x1f };
        let command = rng.below(10) as u16;
        let mut bytes = request_bytes(flags, command, rng.bits(), offset, length).to_vec();
        if command == command::WRITE {
            bytes.extend(vec![rng.bits() as u8; length.min(300_000) as usize]);
        }
        if rng.one_in(20) {
            let at = rng.below(28) as usize;
            bytes[at] ^= 1 << rng.below(8);
        }
        if client.send(&bytes).is_err() {
            break;
        }
    }
    listen(client);
}
