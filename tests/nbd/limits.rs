//! Limits of volumes on a whole server: a noisy neighbour, and a client in line that is disconnected.

use crate::fixture::{self, REACTORS, Serving};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use vellum_engine::request::{PropertiesChange, Request};
use vellum_nbd_server::Limits;
use vellum_tests::nbd_client::{command, request_bytes};

/// Reads a second of the noisy neighbour.
const LIMIT: u64 = 500;
/// How many of its reads are waited for.
const NOISE: u64 = 500;
const CLIENTS: u64 = 4;

fn limit(serving: &Serving, volume: &str, iops: u64) {
    let volume = serving.handle.volume(volume).expect("the volume is there").id;
    let change = PropertiesChange { limit_iops: Some(iops), ..PropertiesChange::default() };
    serving
        .handle
        .request(Request::SetProperties { volume, change: Box::new(change) })
        .expect("the limit can be set");
}

#[test]
fn a_noisy_neighbour_gets_its_rate_and_leaves_the_others_theirs() {
    for reactor in REACTORS {
        let (files, serving) = fixture::serve_within(reactor, Limits::default());
        limit(&serving, "disk", LIMIT);
        let (noise, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
        let mut quiet_reads = 0;
        let begin = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..CLIENTS {
                scope.spawn(|| {
                    let mut client = serving.client("disk");
                    while !is_over.load(Ordering::Relaxed) {
                        client.read(0, 0, 4096).unwrap().unwrap();
                        noise.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            let mut client = serving.client("huge");
            while noise.load(Ordering::Relaxed) < NOISE && begin.elapsed() < Duration::from_secs(60) {
                client.read(0, 0, 4096).unwrap().unwrap();
                quiet_reads += 1;
            }
            is_over.store(true, Ordering::Relaxed);
        });
        let took_ms = begin.elapsed().as_millis() as u64;
        let noise = noise.into_inner();
        assert!(noise >= NOISE, "{noise} reads in a minute: limited requests do not go on");
        let most = took_ms * LIMIT / 1000 + LIMIT / 10 + CLIENTS + 1;
        assert!(noise <= most, "{noise} reads in {took_ms} ms");
        assert!(quiet_reads >= 2 * NOISE, "{quiet_reads} reads beside {noise} of the neighbour");
        serving.stop();
        assert_eq!(files.check(), Vec::<String>::new());
    }
}

#[test]
fn a_client_in_line_is_in_nobodys_way_when_it_is_disconnected() {
    for reactor in REACTORS {
        let (files, serving) = fixture::serve_within(reactor, Limits::default());
        limit(&serving, "disk", 1);
        let mut client = serving.client("disk");
        for cookie in 0..100 {
            client.send(&request_bytes(0, command::TRIM, cookie, 0, 4096)).unwrap();
        }
        client.reply().expect("the first one goes at once");
        let volumes = vec![serving.handle.volume("disk").unwrap().id];
        let begin = Instant::now();
        serving.handle.request_forced(Request::Delete { volumes, deferred: false }).expect("it is deleted");
        assert!(begin.elapsed() < Duration::from_secs(30), "it waited for what nobody waits for");
        serving.stop();
        assert_eq!(files.check(), Vec::<String>::new());
    }
}

#[test]
fn a_server_that_stops_carries_out_what_is_in_line() {
    for reactor in REACTORS {
        let (files, serving) = fixture::serve_within(reactor, Limits::default());
        limit(&serving, "disk", 1);
        let mut client = serving.client("disk");
        let bytes = request_bytes(0, command::TRIM, 7, 0, 4096);
        (0..20).for_each(|_| client.send(&bytes).unwrap());
        client.reply().expect("the first one goes at once");
        let begin = Instant::now();
        serving.stop();
        assert!(begin.elapsed() < Duration::from_secs(15), "it waited for the limit");
        assert_eq!(files.check(), Vec::<String>::new());
    }
}
