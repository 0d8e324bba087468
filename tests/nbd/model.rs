//! One volume against a plain vector: random reads, writes, zeroes and trims at any byte.
//!
//! Owns the vector. Everything comes from a seed.

use crate::fixture::{self, PoolFiles, REACTORS};
use vellum_engine::storage::{CacheMode, ReactorKind};
use vellum_nbd_server::Limits;
use vellum_tests::nbd_client::{NbdClient, command, flag};
use vellum_tests::rng::Rng;

/// No multiple of a block.
const VOLUME_BYTES: u64 = (3 << 20) + 4096;
const SECTOR: u64 = 4096;
const ROUNDS: usize = 400;

#[test]
fn a_volume_is_what_was_written_to_it() {
    for mode in [CacheMode::Direct, CacheMode::Cached, CacheMode::Writeback] {
        for reactor in REACTORS {
            match PoolFiles::create(mode) {
                Some(files) => compare(&files, reactor, mode),
                None => println!("skipped: this file system has no mode {}", mode.name()),
            }
        }
    }
}

fn compare(files: &PoolFiles, reactor: ReactorKind, mode: CacheMode) {
    let serving = files.serve(fixture::config(reactor, Limits::default()));
    serving.create_volume("disk", VOLUME_BYTES);
    let mut bytes = vec![0; VOLUME_BYTES as usize];
    let mut frozen = Vec::new();
    let mut rng = Rng::new(mode as u64);
    let mut clients = [serving.client("disk"), serving.structured("disk", &[])];
    for round in 0..ROUNDS {
        let client = &mut clients[rng.below(2) as usize];
        step(client, &mut bytes, &mut rng, &format!("{reactor:?} {mode:?} round {round}"));
        if round % 150 == 149 {
            serving.snapshot("disk", &round.to_string());
            frozen.push((format!("disk@{round}"), bytes.clone()));
        }
    }
    drop(clients);
    serving.stop();
    assert_eq!(files.check(), Vec::<String>::new());

    let serving = files.serve(fixture::config(reactor, Limits::default()));
    frozen.push(("disk".to_owned(), bytes));
    for (name, bytes) in frozen {
        let mut client = serving.structured(&name, &[]);
        assert!(client.read(0, 0, VOLUME_BYTES as u32).unwrap().unwrap() == bytes, "{name} after reopening");
    }
    serving.stop();
}

fn step(client: &mut NbdClient, bytes: &mut [u8], rng: &mut Rng, place: &str) {
    let length = rng.between(1, 200_000).min(VOLUME_BYTES);
    let offset = rng.below(VOLUME_BYTES - length + 1);
    let fua = if rng.one_in(10) { flag::FUA } else { 0 };
    let range = offset as usize..(offset + length) as usize;
    let length = length as u32;
    match rng.below(10) {
        0..4 => {
            let written = fixture::pattern(rng.bits(), length as usize);
            assert_eq!(client.call(fua, command::WRITE, offset, length, &written).unwrap(), 0, "{place}");
            bytes[range].copy_from_slice(&written);
        }
        4 | 5 => {
            let flags = fua | if rng.one_in(2) { flag::NO_HOLE } else { 0 };
            assert_eq!(client.call(flags, command::WRITE_ZEROES, offset, length, &[]).unwrap(), 0, "{place}");
            bytes[range].fill(0);
        }
        6 => {
            assert_eq!(client.call(fua, command::TRIM, offset, length, &[]).unwrap(), 0, "{place}");
            // Whole sectors go, the edges stay.
            let from = offset.next_multiple_of(SECTOR);
            let to = (offset + u64::from(length)) / SECTOR * SECTOR;
            if from < to {
                bytes[from as usize..to as usize].fill(0);
            }
        }
        _ => {
            let read = client.read(fua, offset, length).unwrap().unwrap();
            if let Some(at) = (0..read.len()).find(|at| read[*at] != bytes[range.start + at]) {
                panic!("{place}: read of {offset}+{length} is wrong from byte {at} on");
            }
        }
    }
}
