//! Structured replies: chunks of a READ, and what BLOCK_STATUS tells of a range.

use crate::fixture::{self, DISK_BYTES, REACTORS, Serving};
use crate::table::Table;
use vellum_tests::nbd_client::{Extents, NbdClient, Reply, assemble, chunk, command, flag};

const KIB: u64 = 1024;
const HOLE_AND_ZERO: u32 = 3;
const BOTH: [&str; 2] = ["base:allocation", "x-vellum:shared"];

#[test]
fn structured_replies_conform() {
    for reactor in REACTORS {
        let (_files, serving) = fixture::serve(reactor);
        let mut client = serving.client("disk");
        client.write(64 * KIB, &[0xaa; 64 << 10]).unwrap();
        client.write(196 * KIB, &[0xbb; 4 << 10]).unwrap();
        client.write(204 * KIB, &[0xcc; 4 << 10]).unwrap();
        let mut table = Table::new(format!("structured replies, {reactor:?}"));
        reads(&serving, &mut table);
        status(&serving, &mut table);
        shared(&serving, &mut table);
        table.finish();
        drop(client);
        serving.stop();
    }
}

fn content(client: &mut NbdClient, flags: u16, offset: u64, length: u32) -> Vec<(u16, Vec<u8>)> {
    let cookie = client.request(flags, command::READ, offset, length, &[]).unwrap();
    client.chunks(cookie).unwrap().into_iter().filter(|(kind, _)| *kind != chunk::NONE).collect()
}

fn reads(serving: &Serving, table: &mut Table) {
    let mut client = serving.structured("disk", &[]);
    for (name, offset, length) in
        [("read past end", DISK_BYTES, 1), ("read of 33 MiB", 0, 33 << 20), ("read at 2^64-1", u64::MAX, 1)]
    {
        let told = content(&mut client, 0, offset, length);
        table.row(&format!("{name}: one error chunk"), told.first().map(|c| c.0), Some(chunk::ERROR));
        table.errno(name, client.read(0, offset, length).map(|read| read.err().unwrap_or(0)), "EINVAL");
    }
    table.errno("DF read of 33 MiB", client.call(flag::DF, command::READ, 0, 33 << 20, &[]), "EOVERFLOW");
    table.errno("unknown command", client.call(0, 99, 0, 0, &[]), "EINVAL");
    table.errno("unknown flag", client.call(flag::REQ_ONE, command::READ, 0, 0, &[]), "EINVAL");
    table.errno("read of length 0", client.call(0, command::READ, 5, 0, &[]), "OK");
    table.errno("write", client.write(1 << 20, b"x"), "OK");
    table.errno("write past end", client.write(DISK_BYTES, b"x"), "ENOSPC");

    let wanted = {
        let mut bytes = vec![0; 320 << 10];
        bytes[64 << 10..128 << 10].fill(0xaa);
        bytes[196 << 10..200 << 10].fill(0xbb);
        bytes[204 << 10..208 << 10].fill(0xcc);
        bytes
    };
    let told = content(&mut client, 0, 0, 320 << 10);
    let kinds: Vec<u16> = told.iter().map(|(kind, _)| *kind).collect();
    let (data, hole) = (chunk::DATA, chunk::HOLE);
    table.row("chunks of a range with holes", kinds, vec![hole, data, hole, data, hole, data, hole]);
    table.holds("its bytes", assemble(&told, 0, 320 << 10).unwrap().as_ref() == Ok(&wanted));
    let told = content(&mut client, 0, 128 * KIB, 32 << 10);
    table.row("a hole only", told.iter().map(|(kind, _)| *kind).collect(), vec![hole]);
    for (name, offset, length) in [
        ("DF of 64 KiB with holes inside", 192 * KIB, 64u32 << 10),
        ("DF of 320 KiB", 0, 320 << 10),
        ("DF of 32 MiB", 0, 32 << 20),
        ("DF at odd ends", 196 * KIB - 1, 8195),
        ("DF of a hole", 512 * KIB, 4096),
    ] {
        let told = content(&mut client, flag::DF, offset, length);
        table.row(&format!("{name}: chunks"), told.len(), 1);
        let read = assemble(&told, offset, length).unwrap().unwrap();
        let end = wanted.len().min(offset as usize + length as usize);
        let right = offset as usize >= end || read[..end - offset as usize] == wanted[offset as usize..end];
        table.holds(&format!("{name}: bytes"), right);
    }
    for offset in [64 * KIB - 1, 64 * KIB + 1, 196 * KIB + 511, 200 * KIB - 1] {
        let read = client.read(0, offset, 10_001).unwrap().unwrap();
        let right = read == wanted[offset as usize..][..10_001];
        table.holds(&format!("any alignment: {offset}+10001"), right);
    }
}

/// The extents of the only context.
fn allocation(client: &mut NbdClient, flags: u16, offset: u64, length: u32) -> Result<Extents, u32> {
    client.status(flags, offset, length).unwrap().map(|contexts| {
        assert_eq!(contexts.len(), 1);
        contexts[0].1.clone()
    })
}

fn sum(extents: &Extents) -> u64 {
    extents.iter().map(|(length, _)| u64::from(*length)).sum()
}

fn status(serving: &Serving, table: &mut Table) {
    let mut client = serving.structured("disk", &BOTH[..1]);
    for (name, offset, length) in
        [("block status past end", DISK_BYTES - 1, 2), ("block status of length 0", 0, 0)]
    {
        table.row(name, allocation(&mut client, 0, offset, length), Err(22));
    }
    let cache = client.call(flag::REQ_ONE, command::CACHE, 0, 1, &[]);
    table.errno("REQ_ONE on another command", cache, "EINVAL");
    let k = |kib: u32| kib << 10;
    let told = allocation(&mut client, 0, 0, k(320));
    let map = vec![
        (k(64), HOLE_AND_ZERO),
        (k(64), 0),
        (k(68), HOLE_AND_ZERO),
        (k(4), 0),
        (k(4), HOLE_AND_ZERO),
        (k(4), 0),
        (k(112), HOLE_AND_ZERO),
    ];
    table.row("extents", told, Ok(map));
    let told = allocation(&mut client, flag::FUA, 64 * KIB + 1, 10);
    table.row("extents of 10 bytes, with FUA", told, Ok(vec![(10, 0)]));
    for (offset, length, wanted) in [
        (0, k(320), (k(64), HOLE_AND_ZERO)),
        (0, 100, (100, HOLE_AND_ZERO)),
        (70 * KIB, k(320), (k(58), 0)),
        (DISK_BYTES - 7, 7, (7, HOLE_AND_ZERO)),
    ] {
        let told = allocation(&mut client, flag::REQ_ONE, offset, length);
        table.row(&format!("REQ_ONE {offset}+{length}"), told, Ok(vec![wanted]));
    }
    let mut huge = serving.structured("huge", &BOTH[..1]);
    let told = allocation(&mut huge, 0, 0, u32::MAX);
    table.row("4 GiB-1 of a hole", told, Ok(vec![(u32::MAX, HOLE_AND_ZERO)]));

    // Every other sector: more extents than one answer has.
    let mut writer = serving.client("huge");
    for numbers in [0..1400u64, 1400..2800, 2800..4200] {
        for number in numbers.clone() {
            writer.request(0, command::WRITE, (1 << 30) + number * 8192, 4096, &[9; 4096]).unwrap();
        }
        for _ in numbers {
            assert!(matches!(writer.reply().unwrap(), Reply::Simple { error: 0, .. }));
        }
    }
    let (mut at, mut answers, mut mapped) = (1u64 << 30, 0, 0);
    let end = at + 4200 * 8192;
    while at < end {
        let told = allocation(&mut huge, 0, at, (end - at) as u32).unwrap();
        assert!(!told.is_empty() && at + sum(&told) <= end, "an answer goes on, and not past the end");
        mapped +=
            told.iter().filter(|(_, flags)| *flags == 0).map(|(length, _)| u64::from(*length)).sum::<u64>();
        at += sum(&told);
        answers += 1;
    }
    table.row("8400 extents: mapped bytes", mapped, 4200 * 4096);
    table.holds("in few answers", answers <= 4);
}

fn shared(serving: &Serving, table: &mut Table) {
    let mut client = serving.structured("disk", &BOTH);
    let range = (64 * KIB, 64u32 << 10);
    let mut told = |name: &str, allocation: Extents, shared: Extents| {
        let told = client.status(0, range.0, range.1).unwrap();
        table.row(name, told, Ok(vec![(1, allocation), (2, shared)]));
    };
    told("both contexts", vec![(64 << 10, 0)], vec![(64 << 10, 0)]);
    serving.snapshot("disk", "monday");
    told("both after a snapshot", vec![(64 << 10, 0)], vec![(64 << 10, 1)]);
    let mut writer = serving.client("disk");
    writer.write(64 * KIB, &[0xdd; 64 << 10]).unwrap();
    told("both after a write of all of it", vec![(64 << 10, 0)], vec![(64 << 10, 0)]);
    let mut frozen = serving.structured("disk@monday", &BOTH);
    let told = frozen.status(0, range.0, range.1).unwrap();
    let wanted = vec![(1, vec![(64 << 10, 0)]), (2, vec![(64 << 10, 0)])];
    table.row("the snapshot's own block", told, Ok(wanted));
    let one = client.status(flag::REQ_ONE, 0, 320 << 10).unwrap().unwrap();
    table.row("REQ_ONE, both contexts: extents", one.iter().map(|c| c.1.len()).collect(), vec![1, 1]);
}
