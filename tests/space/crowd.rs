//! Several clients while writes wait for space: order, kills, snapshots and clones.

use crate::bench::{Bench, patience};
use crate::connection::{BLOCK, Waiting, content, fill, must_answer, must_be_filled};
use std::time::Duration;
use vellum_tests::nbd_client::{NbdClient, Reply, command};
use vellum_tests::program::wait_for;

const MIB: u64 = 1 << 20;
const FOR_EVER: [&str; 2] = ["no-space=stall", "no-space-timeout=0"];
const CLIENTS: u64 = 4;
/// Where the clients of [`queue`] write, a MiB each.
const QUEUE_OFFSET: u64 = 220 * MIB;

/// Clients with a write of one block each that waits, in this order.
fn queue(bench: &Bench, already: u64) -> Vec<(NbdClient, u64)> {
    let wait = |number: u64| {
        let mut client = bench.client("disk");
        let offset = QUEUE_OFFSET + number * MIB;
        let cookie =
            client.request(0, command::WRITE, offset, BLOCK as u32, &content(offset, BLOCK)).unwrap();
        bench.wait_for_waiting(already + number + 1);
        (client, cookie)
    };
    (0..CLIENTS).map(wait).collect()
}

/// Whether a reply comes soon.
fn is_answered(client: &mut NbdClient, cookie: u64) -> bool {
    client.stream().set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let reply = client.reply();
    client.stream().set_read_timeout(Some(patience())).unwrap();
    if let Ok(reply) = &reply {
        must_answer(reply, cookie);
    }
    reply.is_ok()
}

#[test]
fn who_waited_first_goes_on_first() {
    let bench = Bench::small(&FOR_EVER);
    let mut filler = bench.client("disk");
    let first = fill(&bench, &mut filler, 0);
    let mut waiting = queue(&bench, 1);
    let mut other = bench.client("disk");
    // Each discarded block is enough for one.
    let mut discard = |number: u64| {
        assert_eq!(other.call(0, command::TRIM, number * BLOCK, BLOCK as u32, &[]).unwrap(), 0);
    };
    discard(0);
    must_answer(&filler.reply().unwrap(), first.cookie);
    for number in 0..waiting.len() {
        for (client, cookie) in &mut waiting[number..] {
            assert!(!is_answered(client, *cookie), "somebody went on without a free block");
        }
        discard(number as u64 + 1);
        let (client, cookie) = &mut waiting[number];
        must_answer(&client.reply().unwrap(), *cookie);
    }
    assert_eq!(bench.status().number("waiting_writes"), 0);
    for number in 0..CLIENTS {
        let offset = QUEUE_OFFSET + number * MIB;
        let found = other.read(0, offset, BLOCK as u32).unwrap().unwrap();
        assert!(found == content(offset, BLOCK), "client {number}");
    }
    drop((filler, waiting, other));
    bench.finish();
}

#[test]
fn a_kill_while_writes_wait_loses_nothing_acknowledged() {
    let bench = Bench::small(&FOR_EVER);
    let mut filler = bench.client("disk");
    let first = fill(&bench, &mut filler, 0);
    let waiting = queue(&bench, 1);
    let bench = bench.kill_and_serve();
    drop((filler, waiting));
    let mut client = bench.client("disk");
    must_be_filled(&mut client, first.offset);
    for number in 0..CLIENTS {
        let offset = QUEUE_OFFSET + number * MIB;
        let found = client.read(0, offset, BLOCK as u32).unwrap().unwrap();
        assert_eq!(found, [0; BLOCK as usize], "nobody was told that this is written, and there was no room");
    }
    // As full as before, and no fuller.
    let again = fill(&bench, &mut client, first.offset);
    assert_eq!(again.offset, first.offset);
    let bench = bench.kill_and_serve();
    bench.pool.ok(&["pool", "extend", "256M"]);
    let mut client = bench.client("disk");
    must_be_filled(&mut client, first.offset);
    assert_eq!(client.write(first.offset, &content(first.offset, BLOCK)).unwrap(), 0);
    must_be_filled(&mut client, first.offset + BLOCK);
    drop(client);
    bench.finish();
}

#[test]
fn a_deleted_snapshot_makes_room() {
    let bench = Bench::small(&FOR_EVER);
    let mut filler = bench.client("disk");
    for offset in (0..64 * MIB).step_by(MIB as usize) {
        assert_eq!(filler.write(offset, &content(offset, MIB)).unwrap(), 0);
    }
    bench.pool.ok(&["snapshot", "create", "disk@old"]);
    bench.pool.ok(&["clone", "create", "disk@old", "copy"]);
    // Every block is shared now: this needs as many again, and there are not so many.
    let first = fill(&bench, &mut filler, 0);
    assert!(first.offset < 64 * MIB, "the pool had more room than it says");
    let waiting = queue(&bench, 1);
    bench.pool.ok(&["snapshot", "create", "disk@stalled"]);
    assert_eq!(bench.status().number("waiting_writes"), 1 + CLIENTS, "a snapshot gives no room");
    must_hold_old(&bench, "copy");
    // The clone still has the blocks; then nobody.
    bench.pool.ok(&["snapshot", "delete", "disk@old"]);
    assert_eq!(bench.status().number("waiting_writes"), 1 + CLIENTS, "the clone has the blocks");
    bench.pool.ok(&["volume", "delete", "copy"]);
    must_go_on(&mut filler, &first, waiting);
    must_hold_snapshot(&bench, &first);
    drop(filler);
    bench.finish();
}

/// Everybody is answered, whoever waited.
fn must_go_on(filler: &mut NbdClient, first: &Waiting, mut waiting: Vec<(NbdClient, u64)>) {
    must_answer(&filler.reply().unwrap(), first.cookie);
    for (client, cookie) in &mut waiting {
        must_answer(&client.reply().unwrap(), *cookie);
    }
    must_be_filled(filler, 64 * MIB);
}

fn must_hold_old(bench: &Bench, export: &str) {
    let mut client = wait_for("the clone", || NbdClient::open(&bench.pool.file("nbd.sock"), export).ok());
    must_be_filled(&mut client, 64 * MIB);
}

/// The snapshot that was taken while writes waited has nothing of what waited.
fn must_hold_snapshot(bench: &Bench, first: &Waiting) {
    let mut client = bench.client("disk@stalled");
    must_be_filled(&mut client, first.offset);
    for number in 0..CLIENTS {
        let found = client.read(0, QUEUE_OFFSET + number * MIB, BLOCK as u32).unwrap().unwrap();
        assert_eq!(found, [0; BLOCK as usize]);
    }
}

#[test]
fn overlapping_writes_that_wait_end_in_one_of_them() {
    let bench = Bench::small(&FOR_EVER);
    let mut filler = bench.client("disk");
    let first = fill(&bench, &mut filler, 0);
    let mut clients = [bench.client("disk"), bench.client("disk")];
    let offset = QUEUE_OFFSET;
    for (number, client) in clients.iter_mut().enumerate() {
        client
            .request(0, command::WRITE, offset + number as u64 * 4096, 8192, &[number as u8 + 1; 8192])
            .unwrap();
    }
    bench.wait_for_waiting(2);
    bench.pool.ok(&["pool", "extend", "192M"]);
    must_answer(&filler.reply().unwrap(), first.cookie);
    for client in &mut clients {
        assert!(matches!(client.reply().unwrap(), Reply::Simple { error: 0, .. }));
    }
    let found = filler.read(0, offset, 16384).unwrap().unwrap();
    assert_eq!(found[..4096], [1; 4096]);
    assert!(found[4096..8192] == [1; 4096] || found[4096..8192] == [2; 4096], "neither of the two");
    assert_eq!(found[8192..12288], [2; 4096]);
    assert_eq!(found[12288..], [0; 4096]);
    drop((filler, clients));
    bench.finish();
}
