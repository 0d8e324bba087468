//! fio fills a pool: the writes that need more than there is wait, or fail in time, as the pool's settings say.

use crate::bench::{Bench, Status, must_be_well, stall_time};
use std::thread;
use std::time::{Duration, Instant};
use vellum_tests::program::wait_for;

const MIB: u64 = 1 << 20;
const ENOSPC: u32 = 28;

/// Somebody waits, and the status says so in all its words.
fn must_tell_of_a_stall(bench: &Bench, status: &Status) {
    assert!(status.is_stalled(), "{status:?}");
    // Blocks may have come a moment ago, and be gone in the next.
    wait_for("a status that tells people of the stall", || {
        let people = bench.pool.ok(&["pool", "status"]);
        (people.contains("out-of-space") && people.contains("waiting")).then_some(())
    });
}

#[test]
fn a_full_pool_stalls_and_goes_on_when_it_is_extended() {
    let bench = Bench::small(&["no-space=stall", "no-space-timeout=0"]);
    let fio = bench.fio(1, 200, &[]);
    must_tell_of_a_stall(&bench, &bench.wait_for_waiting(1));
    thread::sleep(stall_time());
    let status = bench.status();
    let waited = Duration::from_secs(status.number("oldest_wait_s") + 1);
    assert!(waited >= stall_time() && !fio.is_finished(), "waited {waited:?}: {status:?}");
    bench.pool.ok(&["pool", "extend", "256M"]);
    must_be_well(fio);
    assert_eq!(bench.status().number("waiting_writes"), 0);
    bench.finish();
}

#[test]
fn four_clients_stall_and_go_on() {
    let bench = Bench::small(&["no-space=stall", "no-space-timeout=0"]);
    let fio = bench.fio(4, 50, &[]);
    must_tell_of_a_stall(&bench, &bench.wait_for_waiting(4));
    // A little at a time: some go on and the rest waits again.
    for size in ["144M", "160M", "176M"] {
        bench.pool.ok(&["pool", "extend", size]);
        must_tell_of_a_stall(&bench, &bench.wait_for_waiting(1));
        assert!(!fio.is_finished());
    }
    bench.pool.ok(&["pool", "extend", "256M"]);
    must_be_well(fio);
    bench.finish();
}

#[test]
fn another_setting_ends_the_waiting() {
    let bench = Bench::small(&["no-space=stall", "no-space-timeout=0"]);
    let fio = bench.fio(1, 200, &[]);
    bench.wait_for_waiting(1);
    bench.pool.ok(&["pool", "set", "no-space=error"]);
    must_tell_enospc(fio);
    bench.wait_for_nobody();
    bench.finish();
}

#[test]
fn a_time_out_tells_the_client_and_the_pool_goes_on() {
    let timeout = format!("no-space-timeout={}", stall_time().as_secs());
    let bench = Bench::small(&["no-space=stall", &timeout]);
    let fio = bench.fio(1, 200, &[]);
    bench.wait_for_waiting(1);
    let begin = Instant::now();
    must_tell_enospc(fio);
    // The first may have waited for a while already when it was seen.
    assert!(begin.elapsed() + Duration::from_secs(1) >= stall_time(), "only {:?}", begin.elapsed());
    must_go_on(&bench);
    bench.finish();
}

#[test]
fn errors_come_at_once_where_they_are_wanted() {
    let bench = Bench::small(&["no-space=error"]);
    must_tell_enospc(bench.fio(1, 200, &[]));
    must_go_on(&bench);
    bench.finish();
}

fn must_tell_enospc(fio: thread::JoinHandle<vellum_tests::program::Ran>) {
    let ran = fio.join().expect("fio ends");
    let said = format!("{}{}", ran.out, ran.err);
    assert_ne!(ran.code, Some(0), "fio was told of no error: {said}");
    assert!(said.contains("No space left on device"), "{said}");
}

/// A full pool serves all that needs no new block; and everything, once it has room.
fn must_go_on(bench: &Bench) {
    bench.wait_for_nobody();
    let mut client = bench.client("disk");
    let new_block = 240 * MIB;
    // Nobody waits again before there was room.
    let begin = Instant::now();
    assert_eq!(client.write(new_block, &[1; 65536]).unwrap(), ENOSPC);
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    let owned = (0..200 * MIB).step_by(65536).find(|offset| is_written(&mut client, *offset));
    let owned = owned.expect("fio has written something");
    assert_eq!(client.write(owned, &[2; 4096]).unwrap(), 0, "what is there can be overwritten");
    assert_eq!(client.read(0, owned, 4096).unwrap().unwrap(), [2; 4096]);
    assert_eq!(client.flush().unwrap(), 0);
    // A discard makes room for as much.
    assert_eq!(client.call(0, vellum_tests::nbd_client::command::TRIM, owned, 65536, &[]).unwrap(), 0);
    wait_for("the discarded block", || (client.write(new_block, &[3; 65536]).unwrap() == 0).then_some(()));
    bench.pool.ok(&["pool", "extend", "256M"]);
    assert_eq!(client.write(new_block + MIB, &[4; 65536]).unwrap(), 0);
    assert_eq!(client.read(0, new_block, 65536).unwrap().unwrap(), [3; 65536]);
    assert_eq!(client.read(0, new_block + MIB, 65536).unwrap().unwrap(), [4; 65536]);
    must_be_well(bench.fio(1, 200, &[]));
}

/// Whether the whole block has been written by fio, whose blocks are never zero throughout.
fn is_written(client: &mut vellum_tests::nbd_client::NbdClient, offset: u64) -> bool {
    let bytes = client.read(0, offset, 65536).unwrap().expect("a block can be read");
    bytes.chunks(4096).all(|sector| sector.iter().any(|byte| *byte != 0))
}
