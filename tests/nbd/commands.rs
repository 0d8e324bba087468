//! Commands with simple replies: errors, limits, alignment, what is durable when, and how a connection ends.

use crate::fixture::{self, DISK_BYTES, HUGE_BYTES, REACTORS, Serving};
use crate::table::Table;
use std::collections::HashSet;
use std::io;
use std::time::Duration;
use vellum_nbd_server::Limits;
use vellum_tests::nbd_client::{NbdClient, Reply, command, flag, request_bytes};

const MIB: u32 = 1 << 20;

#[test]
fn commands_conform() {
    for reactor in REACTORS {
        let (_files, serving) = fixture::serve(reactor);
        let mut table = Table::new(format!("commands, {reactor:?}"));
        ends(&serving, &mut table);
        snapshots(&serving, &mut table);
        lengths(&serving, &mut table);
        flags(&serving, &mut table);
        zeroes(&serving, &mut table);
        goodbyes(&serving, &mut table);
        table.finish();
        serving.wait_until_alone(Duration::from_secs(1));
        serving.stop();
    }
}

fn ends(serving: &Serving, table: &mut Table) {
    let mut client = serving.client("disk");
    let mut tried = |name: &str, command, offset, length: u32, wanted| {
        let payload = if command == command::WRITE { vec![1; length as usize] } else { Vec::new() };
        table.errno(name, client.call(0, command, offset, length, &payload), wanted);
    };
    let last = DISK_BYTES - 1;
    tried("write past end", command::WRITE, last, 2, "ENOSPC");
    tried("write from the end", command::WRITE, DISK_BYTES, 1, "ENOSPC");
    tried("write at 2^64-1", command::WRITE, u64::MAX, 1, "ENOSPC");
    tried("zeroes past end", command::WRITE_ZEROES, last, 2, "ENOSPC");
    tried("zeroes at 2^64-1", command::WRITE_ZEROES, u64::MAX, u32::MAX, "ENOSPC");
    tried("read past end", command::READ, last, 2, "EINVAL");
    tried("read at 2^64-1", command::READ, u64::MAX, 1, "EINVAL");
    tried("trim past end", command::TRIM, last, 2, "EINVAL");
    tried("trim at 2^64-4096", command::TRIM, u64::MAX - 4095, 8192, "EINVAL");
    tried("cache past end", command::CACHE, last, 2, "EINVAL");
    tried("block status without structured replies", command::BLOCK_STATUS, 0, 4096, "EINVAL");
    tried("write of the last byte", command::WRITE, last, 1, "OK");
    tried("cache of the last byte", command::CACHE, last, 1, "OK");
    tried("unknown command 8", 8, 0, 0, "EINVAL");
    tried("unknown command 0xffff", 0xffff, 0, 0, "EINVAL");
}

fn snapshots(serving: &Serving, table: &mut Table) {
    serving.client("disk").write(0, b"before").unwrap();
    serving.snapshot("disk", "frozen");
    let mut client = serving.client("disk@frozen");
    table.errno("write on a snapshot", client.write(0, b"after!"), "EPERM");
    table.errno("zeroes on a snapshot", client.call(0, command::WRITE_ZEROES, 0, 6, &[]), "EPERM");
    table.errno("trim on a snapshot", client.call(0, command::TRIM, 0, 4096, &[]), "EPERM");
    table.errno("flush on a snapshot", client.flush(), "OK");
    serving.client("disk").write(0, b"after!").unwrap();
    table.row("read on a snapshot", client.read(0, 0, 6).unwrap(), Ok(b"before".to_vec()));
}

fn lengths(serving: &Serving, table: &mut Table) {
    let mut client = serving.client("disk");
    for offset in [0, 12345, DISK_BYTES, u64::MAX] {
        for (name, command) in
            [("write", 1), ("trim", command::TRIM), ("cache", command::CACHE), ("zeroes", 6)]
        {
            let tried = client.call(0, command, offset, 0, &[]);
            table.errno(&format!("{name} of length 0 at {offset}"), tried, "OK");
        }
        let read = client.read(0, offset, 0).unwrap();
        table.row(&format!("read of length 0 at {offset}"), read, Ok(Vec::new()));
    }
    table.errno("flush with offset and length", client.call(0, command::FLUSH, 4096, 512, &[]), "OK");
    let bytes = fixture::pattern(3, 32 << 20);
    table.errno("write of 32 MiB", client.write(999, &bytes), "OK");
    table.holds("read of 32 MiB", client.read(0, 999, 32 * MIB).unwrap().is_ok_and(|read| read == bytes));
    table.errno("read of 33 MiB", client.call(0, command::READ, 0, 33 * MIB, &[]), "EINVAL");
    table.errno("read of 65 MiB", client.call(0, command::READ, 0, 65 * MIB, &[]), "EINVAL");
    for mib in [33, 65] {
        let refused = client.write(0, &vec![0xee; mib << 20]);
        table.errno(&format!("write of {mib} MiB"), refused, "EINVAL");
        let read = client.read(0, 0, 6).unwrap();
        table.row("after it: connection up, nothing written", read, Ok(b"after!".to_vec()));
    }
    let mut huge = serving.client("huge");
    huge.write(1 << 40, b"bytes").unwrap();
    let at = (1 << 40) - 100;
    table.errno("trim of 4 GiB-1", huge.call(0, command::TRIM, at, u32::MAX, &[]), "OK");
    huge.write(1 << 41, b"bytes").unwrap();
    let at = (1 << 41) - 100;
    table.errno("zeroes of 4 GiB-1", huge.call(0, command::WRITE_ZEROES, at, u32::MAX, &[]), "OK");
    let read = huge.read(0, 1 << 41, 5).unwrap();
    table.row("after it", read, Ok(vec![0; 5]));
    let at = HUGE_BYTES - u64::from(u32::MAX);
    table.errno("cache of 4 GiB-1 at the end", huge.call(0, command::CACHE, at, u32::MAX, &[]), "OK");
}

fn flags(serving: &Serving, table: &mut Table) {
    let mut client = serving.client("disk");
    let commands = [
        ("READ", command::READ, flag::FUA),
        ("WRITE", command::WRITE, flag::FUA),
        ("FLUSH", command::FLUSH, flag::FUA),
        ("TRIM", command::TRIM, flag::FUA),
        ("CACHE", command::CACHE, flag::FUA),
        ("WRITE_ZEROES", command::WRITE_ZEROES, flag::FUA | flag::NO_HOLE | flag::FAST_ZERO),
    ];
    for (name, command, known) in commands {
        let payload = if command == command::WRITE { &b"after!"[..] } else { &[] };
        let mut tried = |flags| {
            if command != command::READ {
                return client.call(flags, command, 0, 6, payload);
            }
            client.read(flags, 0, 6).map(|read| read.err().unwrap_or(0))
        };
        table.errno(&format!("{name} with FUA"), tried(flag::FUA), "OK");
        let foreign = (0..16).map(|bit| 1u16 << bit).filter(|bit| bit & known == 0);
        let refused = foreign.filter(|bit| tried(*bit).is_ok_and(|error| error == 22)).count();
        table.row(&format!("{name}: foreign flags with EINVAL"), refused as u32, 16 - known.count_ones());
    }
    let both = flag::FAST_ZERO | flag::NO_HOLE;
    let mut tried = |name: &str, flags, offset, length, wanted| {
        table.errno(name, client.call(flags, command::WRITE_ZEROES, offset, length, &[]), wanted);
    };
    tried("FAST_ZERO", flag::FAST_ZERO, 0, 1 << 20, "OK");
    tried("FAST_ZERO with NO_HOLE", both, 0, 1 << 20, "ENOTSUP");
    tried("FAST_ZERO with NO_HOLE past end", both, DISK_BYTES, 1, "ENOSPC");
}

/// nbd-server zeroes the first 64 MiB of this over and over.
fn zeroes(serving: &Serving, table: &mut Table) {
    let mut client = serving.structured("disk", &["base:allocation"]);
    let probes: Vec<u64> = (0..50).map(|at| ((at * 4) << 20) + 3).collect();
    for &at in &probes {
        assert_eq!(client.write(at, b"Q").unwrap(), 0);
    }
    let length = 199 * MIB;
    let done = client.call(flag::NO_HOLE, command::WRITE_ZEROES, 1, length, &[]);
    table.errno("zeroes with NO_HOLE over 199 MiB", done, "OK");
    let zeroed = probes.iter().filter(|&&at| client.read(0, at, 1).unwrap() == Ok(vec![0])).count();
    table.row("of 50 bytes written before, zeroed", zeroed, 50);
    let mut at = 1;
    let mut holes = 0;
    while at < u64::from(length) {
        let told = client.status(0, at, length + 1 - at as u32).unwrap().unwrap();
        for (count, flags) in &told[0].1 {
            at += u64::from(*count);
            holes += u32::from(flags & 1 == 1);
        }
    }
    table.row("holes afterwards", holes, 0);
    let done = client.call(0, command::WRITE_ZEROES, 0, 200 * MIB, &[]);
    table.errno("zeroes over 200 MiB", done, "OK");
    let told = client.status(flag::REQ_ONE, 0, 199 * MIB).unwrap().unwrap();
    table.row("one hole afterwards", told, vec![(1, vec![(199 * MIB, 3)])]);
}

fn goodbyes(serving: &Serving, table: &mut Table) {
    let mut client = serving.client("disk");
    client.send(&[0x25; 28]).unwrap();
    table.holds("bad request magic: dropped", client.is_dropped());
    for flags in [0, flag::FUA, 0x8000, !0] {
        let mut client = serving.client("disk");
        client.request(flags, command::DISC, 77, 77, &[]).unwrap();
        table.holds(&format!("DISC with flags {flags:#x}: closed without a reply"), client.is_dropped());
    }
    let mut client = serving.client("disk");
    let read = client.request(0, command::READ, 0, 32 * MIB, &[]).unwrap();
    client.request(0, command::DISC, 0, 0, &[]).unwrap();
    let answered = client.reply().is_ok_and(|reply| reply.cookie() == read);
    let whole = answered && client.receive(32 << 20).is_ok() && client.is_dropped();
    table.holds("READ of 32 MiB, DISC: answered, then closed", whole);
}

#[test]
fn fifty_writes_then_disc_lose_nothing() {
    for reactor in REACTORS {
        let (files, serving) = fixture::serve(reactor);
        let mut client = serving.client("disk");
        for number in 0..50 {
            let bytes = fixture::pattern(number, 70_000);
            client.request(0, command::WRITE, number * 100_000, 70_000, &bytes).unwrap();
        }
        client.request(0, command::DISC, 0, 0, &[]).unwrap();
        let answered: HashSet<u64> = std::iter::from_fn(|| client.reply().ok()).map(|r| r.cookie()).collect();
        assert_eq!(answered.len(), 50, "all are finished before the connection ends");
        serving.wait_until_alone(Duration::from_secs(1));
        serving.stop();

        let serving = files.serve(fixture::config(reactor, Limits::default()));
        let mut client = serving.client("disk");
        for number in 0..50 {
            let read = client.read(0, number * 100_000, 70_000).unwrap().unwrap();
            assert!(read == fixture::pattern(number, 70_000), "write {number} with {reactor:?}");
        }
        drop(client);
        serving.stop();
        assert_eq!(files.check(), Vec::<String>::new());
    }
}

#[test]
fn connections_share_what_was_written_and_flushed() {
    for reactor in REACTORS {
        let (_files, serving) = fixture::serve(reactor);
        let mut clients: Vec<NbdClient> = (0..4).map(|_| serving.client("disk")).collect();
        for round in 0..200u64 {
            let bytes = fixture::pattern(round, 9000);
            let (one, two, three) = (round % 4, (round + 1) % 4, (round + 2) % 4);
            assert_eq!(clients[one as usize].write(round * 3000, &bytes).unwrap(), 0);
            assert_eq!(clients[two as usize].flush().unwrap(), 0);
            assert!(clients[three as usize].read(0, round * 3000, 9000).unwrap().unwrap() == bytes);
        }
        drop(clients);
        serving.stop();
    }
}

#[test]
fn two_hundred_requests_are_told_apart_by_their_cookies() {
    const EACH: u32 = 20_000;
    for reactor in REACTORS {
        let (_files, serving) = fixture::serve(reactor);
        let mut client = serving.client("disk");
        for number in 0..200 {
            client.write(number * 30_000, &fixture::pattern(number, EACH as usize)).unwrap();
        }
        for _ in 0..5 {
            // Cookies are the client's own business: these have all their bits in use.
            let cookie = |number: u64| number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let mut bytes = Vec::new();
            for number in 0..200 {
                bytes.extend(request_bytes(0, command::READ, cookie(number), number * 30_000, EACH));
                bytes.extend(request_bytes(0, command::FLUSH, !cookie(number), 0, 0));
            }
            client.send(&bytes).unwrap();
            let mut waiting: HashSet<u64> = (0..200).flat_map(|n| [cookie(n), !cookie(n)]).collect();
            while !waiting.is_empty() {
                let Ok(Reply::Simple { error: 0, cookie: of }) = client.reply() else { panic!("an error") };
                assert!(waiting.remove(&of), "a cookie that nobody waits for");
                if let Some(number) = (0..200).find(|number| cookie(*number) == of) {
                    let read = client.receive(EACH as usize).unwrap();
                    assert!(read == fixture::pattern(number, EACH as usize), "read {number}");
                }
            }
        }
        drop(client);
        serving.stop();
    }
}

/// The whole of what a client may say about FUA: every answered write is on disk.
#[test]
fn fua_holds_without_a_flush() -> io::Result<()> {
    for reactor in REACTORS {
        let (files, serving) = fixture::serve(reactor);
        let mut client = serving.client("disk");
        client.write(0, &[1; 300_000])?;
        client.call(flag::FUA, command::WRITE, 5, 3, b"fua")?;
        client.call(flag::FUA, command::TRIM, 65536, 65536, &[])?;
        client.call(flag::FUA | flag::NO_HOLE, command::WRITE_ZEROES, 200_000, 50_000, &[])?;
        drop(client);
        // Dropped and not stopped: what a killed process leaves.
        drop(serving);
        let serving = files.serve(fixture::config(reactor, Limits::default()));
        let read = serving.client("disk").read(0, 0, 300_000)?.unwrap();
        assert_eq!(&read[4..9], b"\x01fua\x01");
        assert!(read[65536..131_072].iter().chain(&read[200_000..250_000]).all(|byte| *byte == 0));
        assert!(read[131_072..200_000].iter().chain(&read[250_000..]).all(|byte| *byte == 1));
        serving.stop();
    }
    Ok(())
}
