//! One connection while a write of it waits for space: everything else on it goes on, and its end ends the waiting.

use crate::bench::{Bench, patience, stall_time};
use std::io::ErrorKind;
use std::thread;
use std::time::{Duration, Instant};
use vellum_tests::nbd_client::{NbdClient, Reply, command, flag};
use vellum_tests::tag::{WriteNumber, payload};

pub const BLOCK: u64 = 64 << 10;
const MIB: u64 = 1 << 20;
const FOR_EVER: [&str; 2] = ["no-space=stall", "no-space-timeout=0"];

/// What [`fill`] writes at an offset.
pub fn content(offset: u64, length: u64) -> Vec<u8> {
    payload(WriteNumber(7), offset, length)
}

/// A write that waits for space.
pub struct Waiting {
    pub cookie: u64,
    pub offset: u64,
}

/// Writes block after block from `offset` on, until one waits. All before it are acknowledged.
pub fn fill(bench: &Bench, client: &mut NbdClient, mut offset: u64) -> Waiting {
    client.stream().set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    loop {
        let cookie =
            client.request(0, command::WRITE, offset, BLOCK as u32, &content(offset, BLOCK)).unwrap();
        let deadline = Instant::now() + patience();
        let is_waiting = loop {
            match client.reply() {
                Ok(reply) => {
                    must_answer(&reply, cookie);
                    break false;
                }
                Err(cause) if cause.kind() == ErrorKind::WouldBlock => {}
                Err(cause) => panic!("{cause}"),
            }
            if bench.status().is_stalled() {
                break true;
            }
            assert!(Instant::now() < deadline, "a write is neither answered nor waiting");
        };
        if is_waiting {
            client.stream().set_read_timeout(Some(patience())).unwrap();
            return Waiting { cookie, offset };
        }
        offset += BLOCK;
    }
}

/// The reply is the one to `cookie`, and tells no error.
pub fn must_answer(reply: &Reply, cookie: u64) {
    assert!(
        matches!(reply, Reply::Simple { error: 0, cookie: of } if *of == cookie),
        "{reply:?}, not {cookie}"
    );
}

/// Everything below `end` that [`fill`] wrote is there.
pub fn must_be_filled(client: &mut NbdClient, end: u64) {
    for offset in (0..end).step_by(MIB as usize) {
        let length = MIB.min(end - offset);
        let bytes = client.read(0, offset, length as u32).unwrap().expect("what was written can be read");
        assert!(bytes == content(offset, length), "not what was written in the MiB at {offset}");
    }
}

#[test]
fn everything_else_goes_on() {
    let bench = Bench::small(&FOR_EVER);
    let mut client = bench.client("disk");
    let waiting = fill(&bench, &mut client, 0);
    // Each is answered before the write that waits; a reply to that would be another cookie.
    assert_eq!(client.read(0, MIB, 4096).unwrap().unwrap(), content(MIB, 4096));
    assert_eq!(client.read(0, waiting.offset, 4096).unwrap().unwrap(), [0; 4096]);
    assert_eq!(client.write(0, &[9; 4096]).unwrap(), 0);
    assert_eq!(client.write(512, &[8; 512]).unwrap(), 0);
    assert_eq!(client.flush().unwrap(), 0);
    assert_eq!(client.call(flag::FUA, command::WRITE, 4096, 4096, &[7; 4096]).unwrap(), 0);
    // Half of a block: nothing becomes free.
    assert_eq!(client.call(0, command::TRIM, 8192, 4096, &[]).unwrap(), 0);
    assert_eq!(client.flush().unwrap(), 0);
    assert_eq!(client.call(0, command::CACHE, 0, 4096, &[]).unwrap(), 0);
    let begin = Instant::now();
    while begin.elapsed() < stall_time() {
        assert_eq!(client.flush().unwrap(), 0);
        thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(bench.status().number("waiting_writes"), 1);
    bench.pool.ok(&["pool", "extend", "192M"]);
    must_answer(&client.reply().unwrap(), waiting.cookie);
    assert_eq!(client.flush().unwrap(), 0);
    assert_eq!(client.read(0, 0, 16384).unwrap().unwrap()[..512], [9; 512]);
    assert_eq!(client.read(0, 512, 512).unwrap().unwrap(), [8; 512]);
    assert_eq!(client.read(0, 4096, 4096).unwrap().unwrap(), [7; 4096]);
    assert_eq!(client.read(0, 8192, 4096).unwrap().unwrap(), [0; 4096]);
    let last = client.read(0, waiting.offset, BLOCK as u32).unwrap().unwrap();
    assert_eq!(last, content(waiting.offset, BLOCK));
    drop(client);
    bench.finish();
}

#[test]
fn a_flush_behind_the_waiting_write_waits_for_nobody() {
    let bench = Bench::small(&FOR_EVER);
    let mut client = bench.client("disk");
    let waiting = fill(&bench, &mut client, 0);
    // Another connection's flush does not wait either, and a write with FUA waits as any other.
    assert_eq!(bench.client("disk").flush().unwrap(), 0);
    let flush = client.request(0, command::FLUSH, 0, 0, &[]).unwrap();
    let offset = waiting.offset + BLOCK;
    let durable =
        client.request(flag::FUA, command::WRITE, offset, BLOCK as u32, &content(offset, BLOCK)).unwrap();
    must_answer(&client.reply().unwrap(), flush);
    bench.wait_for_waiting(2);
    bench.pool.ok(&["pool", "extend", "192M"]);
    let mut cookies = [client.reply().unwrap(), client.reply().unwrap()].map(|reply| {
        assert!(matches!(reply, Reply::Simple { error: 0, .. }), "{reply:?}");
        reply.cookie()
    });
    cookies.sort_unstable();
    assert_eq!(cookies, [waiting.cookie, durable]);
    must_be_filled(&mut client, offset + BLOCK);
    drop(client);
    bench.finish();
}

#[test]
fn a_client_that_goes_away_waits_no_more() {
    let bench = Bench::small(&FOR_EVER);
    let mut client = bench.client("disk");
    let waiting = fill(&bench, &mut client, 0);
    let cookie = client.request(0, command::WRITE, 250 * MIB, 4096, &[1; 4096]).unwrap();
    assert!(cookie > waiting.cookie);
    bench.wait_for_waiting(2);
    drop(client);
    bench.wait_for_nobody();
    // Nothing of it is kept: its block goes to whoever comes next, and the volume can go.
    let mut other = bench.client("disk");
    must_be_filled(&mut other, waiting.offset);
    let last = fill(&bench, &mut other, 200 * MIB);
    assert_eq!(other.read(0, 250 * MIB, 4096).unwrap().unwrap(), [0; 4096]);
    assert_eq!(last.offset, 200 * MIB, "the pool is as full as before");
    drop(other);
    bench.wait_for_nobody();
    bench.pool.ok(&["volume", "delete", "disk"]);
    bench.finish();
}

#[test]
fn a_server_that_is_told_to_stop_does_not_wait_for_space() {
    let bench = Bench::small(&FOR_EVER);
    let mut client = bench.client("disk");
    fill(&bench, &mut client, 0);
    bench.finish();
    drop(client);
}
