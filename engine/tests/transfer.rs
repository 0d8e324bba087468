//! Streams from one pool to another: all snapshots arrive as they were, whatever interrupts them; what is broken or
//! hostile changes nothing.

#[allow(dead_code)]
mod common;

use common::{Random, disks, empty_pool, open_options};
use vellum_engine::Pool;
use vellum_engine::error::{Error, ErrorKind};
use vellum_engine::format::{StreamEncoder, StreamHeader};
use vellum_engine::request::{Base, NewVolume, Outcome, Partial, Request};
use vellum_engine::storage::MemoryDisk;
use vellum_engine::transfer::{Received, Receiver, ResumeToken, SendPlan, Sender};
use vellum_engine::units::{BLOCK_BYTES, SECTOR_BYTES, VolumeId};

fn named(name: &str, number: u64) -> NewVolume {
    let mut uuid = [0x77; 16];
    uuid[..8].copy_from_slice(&number.to_le_bytes());
    NewVolume { name: name.into(), uuid, created_unix_s: 7 }
}

fn partials(pool: &mut Pool<MemoryDisk>) -> Vec<Partial> {
    match pool.request(Request::Partials) {
        Ok(Outcome::Partials(partials)) => partials,
        other => panic!("{other:?}"),
    }
}

fn stream_of(
    pool: &mut Pool<MemoryDisk>,
    snapshot: VolumeId,
    base: Base,
    resume: Option<ResumeToken>,
) -> Result<Vec<u8>, Error> {
    let mut ask = |request| pool.request(request);
    let mut sender = Sender::start(&mut ask, SendPlan { snapshot, base, resume, stream: [5; 16] })?;
    let mut bytes = Vec::new();
    while let Some(some) = sender.next(&mut ask)? {
        bytes.extend_from_slice(&some);
    }
    assert_eq!(sender.sent_bytes(), sender.data_bytes());
    Ok(bytes)
}

fn receive(pool: &mut Pool<MemoryDisk>, name: Option<&str>, stream: &[u8]) -> Result<Received, Error> {
    let mut ask = |request| pool.request(request);
    let mut receiver = Receiver::new(name.map(str::to_owned));
    for piece in stream.chunks(10_000) {
        receiver.take(&mut ask, piece)?;
    }
    receiver.finish(&mut ask)
}

fn kill(pool: &mut Pool<MemoryDisk>) {
    let (data, metadata) = disks(pool);
    *pool = Pool::open(data, metadata, &open_options()).unwrap();
}

fn write_some(pool: &mut Pool<MemoryDisk>, random: &mut Random, disk: VolumeId, size: u64) {
    for _ in 0..8 {
        let offset_bytes = random.below(size / SECTOR_BYTES) * SECTOR_BYTES;
        let length_bytes = (1 + random.below(24)) * SECTOR_BYTES;
        let length_bytes = length_bytes.min(size - offset_bytes);
        if random.below(4) == 0 {
            let discard = Request::Discard { volume: disk, offset_bytes, length_bytes, fua: false };
            pool.request(discard).unwrap();
        } else {
            let bytes: Vec<u8> = (0..length_bytes).map(|at| (at as u8) ^ random.below(256) as u8).collect();
            pool.write(disk, offset_bytes, bytes).unwrap();
        }
    }
}

/// A pool with a volume, and its snapshots with what each holds.
fn source(seed: u64, snapshots: u64, size: u64) -> (Pool<MemoryDisk>, Vec<(VolumeId, Vec<u8>)>) {
    let mut random = Random::new(seed);
    let mut pool = empty_pool(2048, 8);
    let disk = pool.create_volume(named("disk", 1), size).unwrap();
    let taken = (0..snapshots).map(|number| {
        write_some(&mut pool, &mut random, disk, size);
        if random.below(4) == 0 {
            pool.request(Request::Checkpoint).unwrap();
        }
        let snapshot = pool.snapshot(disk, named(&format!("disk@{number}"), 10 + number)).unwrap();
        let bytes = pool.read(disk, 0, size).unwrap();
        (snapshot, bytes)
    });
    let taken = taken.collect();
    (pool, taken)
}

/// Sends until all has arrived, cut off at random places, with both pools killed in between.
fn transfer_with_cuts(
    from: &mut Pool<MemoryDisk>,
    to: &mut Pool<MemoryDisk>,
    (snapshot, base): (VolumeId, Base),
    random: &mut Random,
) -> Received {
    let mut resume = None;
    for attempt in 0.. {
        let stream = stream_of(from, snapshot, base, resume).unwrap();
        let length = if attempt < 4 { random.below(stream.len() as u64 + 1) as usize } else { stream.len() };
        let received = receive(to, None, &stream[..length]);
        if let Ok(received) = received {
            assert_eq!(length, stream.len());
            return received;
        }
        assert_eq!(received.unwrap_err().kind(), ErrorKind::Io);
        if random.below(2) == 0 {
            kill(to);
        }
        if random.below(4) == 0 {
            kill(from);
        }
        let partials = partials(to);
        assert!(partials.len() <= 1);
        resume = partials.first().map(|partial| {
            let token = ResumeToken::from(partial);
            token.to_string().parse().unwrap()
        });
    }
    unreachable!()
}

#[test]
fn every_snapshot_arrives_as_it_was_however_often_it_is_interrupted() {
    let size = 300 * BLOCK_BYTES;
    for seed in 0..12 {
        println!("seed {seed}");
        let mut random = Random::new(seed + 100);
        let (mut from, snapshots) = source(seed, 20, size);
        let mut to = empty_pool(2048, 8);
        let mut base = Base::Nothing;
        for (number, (snapshot, bytes)) in snapshots.iter().enumerate() {
            let received = transfer_with_cuts(&mut from, &mut to, (*snapshot, base), &mut random);
            assert_eq!(received.name, format!("disk@{number}"));
            assert!(partials(&mut to).is_empty());
            assert!(to.read(received.snapshot, 0, size).unwrap() == *bytes, "snapshot {number}");
            base = Base::Volume(*snapshot);
        }
        kill(&mut to);
        for (info, (_, bytes)) in to.volumes().into_iter().zip(&snapshots) {
            assert!(to.read(info.id, 0, size).unwrap() == *bytes, "{}", info.name);
        }
        let (mut data, mut metadata) = to.close().unwrap();
        let report = vellum_engine::check(&mut data, &mut metadata, &mut |_| {}).unwrap();
        assert!(report.is_clean(), "{:?}", report.findings);
    }
}

#[test]
fn a_snapshot_arrives_from_a_base_that_the_sender_has_no_more() {
    let size = 100 * BLOCK_BYTES;
    let (mut from, snapshots) = source(3, 2, size);
    let [(first, _), (second, bytes)] = &snapshots[..] else { panic!() };
    let since = from.volumes().into_iter().find(|info| info.id == *first).unwrap().generation;
    let whole = stream_of(&mut from, *first, Base::Nothing, None).unwrap();
    from.delete(*first).unwrap();
    from.idle(5000);
    let changed = stream_of(&mut from, *second, Base::Generation(since), None).unwrap();
    let mut to = empty_pool(1024, 8);
    assert_eq!(receive(&mut to, None, &changed).unwrap_err().kind(), ErrorKind::NotFound);
    receive(&mut to, Some("copy@a"), &whole).unwrap();
    let received = receive(&mut to, Some("copy@b"), &changed).unwrap();
    assert!(to.read(received.snapshot, 0, size).unwrap() == *bytes);
    // Whoever else was receiving it comes too late to drop it, and to write.
    let volume = received.snapshot;
    let late = to.request(Request::AbortReceive { volume }).unwrap_err();
    assert_eq!(late.kind(), ErrorKind::NotFound);
    assert_eq!(to.write(volume, 0, vec![1; 4096]).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(receive(&mut to, Some("copy@c"), &whole).unwrap_err().kind(), ErrorKind::Exists);
    assert!(partials(&mut to).is_empty());
}

/// What is received can be made writable, sent on, and deleted like any snapshot.
#[test]
fn what_arrived_is_a_snapshot_like_others() {
    let size = 50 * BLOCK_BYTES;
    let (mut from, snapshots) = source(4, 2, size);
    let mut to = empty_pool(1024, 8);
    let mut third = empty_pool(1024, 8);
    let whole = stream_of(&mut from, snapshots[0].0, Base::Nothing, None).unwrap();
    let changed = stream_of(&mut from, snapshots[1].0, Base::Volume(snapshots[0].0), None).unwrap();
    let first = receive(&mut to, None, &whole).unwrap().snapshot;
    let second = receive(&mut to, None, &changed).unwrap().snapshot;
    for (snapshot, base) in [(first, Base::Nothing), (second, Base::Volume(first))] {
        let again = stream_of(&mut to, snapshot, base, None).unwrap();
        receive(&mut third, None, &again).unwrap();
    }
    let last = third.find("disk@1").unwrap();
    assert!(third.read(last, 0, size).unwrap() == snapshots[1].1);
    let clone = to.clone_snapshot(second, named("clone", 99)).unwrap();
    to.write(clone, 0, vec![9; 4096]).unwrap();
    to.delete(first).unwrap();
    to.idle(5000);
    assert!(to.read(second, 0, size).unwrap() == snapshots[1].1);
    assert!(to.write(second, 0, vec![9; 4096]).is_err());
}

#[test]
fn what_arrives_is_not_to_be_seen_before_all_of_it_has() {
    let (mut from, snapshots) = source(5, 1, 100 * BLOCK_BYTES);
    let stream = stream_of(&mut from, snapshots[0].0, Base::Nothing, None).unwrap();
    let mut to = empty_pool(1024, 8);
    let used = to.status().used_blocks;
    assert_eq!(receive(&mut to, None, &stream[..stream.len() - 1]).unwrap_err().kind(), ErrorKind::Io);
    let partial = partials(&mut to).pop().unwrap();
    assert!(to.volumes().is_empty() && to.find("disk@0").is_none() && partial.position_bytes > 0);
    let volume = partial.volume;
    let hold = Request::Hold { volume, tag: "x".into() };
    assert_eq!(to.request(hold).unwrap_err().kind(), ErrorKind::NotFound);
    let cut = Request::Snapshot { cuts: vec![(volume, named("a@b", 50))] };
    assert_eq!(to.request(cut).unwrap_err().kind(), ErrorKind::NotFound);
    // Its name is not taken until it has arrived.
    let disk = to.create_volume(named("disk", 51), 1 << 20).unwrap();
    to.snapshot(disk, named("disk@0", 52)).unwrap();
    assert_eq!(receive(&mut to, None, &stream).unwrap_err().kind(), ErrorKind::Exists);
    assert_eq!(to.delete(volume).unwrap_err().kind(), ErrorKind::NotFound);
    to.request(Request::AbortReceive { volume }).unwrap();
    to.idle(5000);
    to.idle(5000);
    assert!(partials(&mut to).is_empty());
    assert_eq!(to.status().used_blocks, used);
    assert_eq!(receive(&mut to, Some("disk@1"), &stream).unwrap().name, "disk@1");
}

#[test]
fn a_volume_that_shrank_arrives_with_its_size() {
    // There is no shrinking in this test's engine: two snapshots of different sizes are made by hand.
    let (mut from, snapshots) = source(6, 1, 64 * BLOCK_BYTES);
    let whole = stream_of(&mut from, snapshots[0].0, Base::Nothing, None).unwrap();
    let mut to = empty_pool(1024, 8);
    receive(&mut to, None, &whole).unwrap();
    let described =
        from.request(Request::Describe { snapshot: snapshots[0].0, base: Base::Volume(snapshots[0].0) });
    let Ok(Outcome::Snapshot(mut arrival)) = described else { panic!() };
    arrival.new = named("disk@small", 60);
    arrival.size_bytes = 10 * BLOCK_BYTES + SECTOR_BYTES;
    let header = StreamHeader { stream: [6; 16], arrival: *arrival, data_bytes: 0 };
    let (encoder, mut stream) = StreamEncoder::start(&header);
    stream.extend(encoder.end());
    let small = receive(&mut to, None, &stream).unwrap().snapshot;
    let size = 10 * BLOCK_BYTES + SECTOR_BYTES;
    assert!(to.read(small, 0, size).unwrap() == snapshots[0].1[..size as usize]);
    assert!(to.read(small, size, 1).is_err());
    let (mut data, mut metadata) = to.close().unwrap();
    let report = vellum_engine::check(&mut data, &mut metadata, &mut |_| {}).unwrap();
    assert!(report.is_clean(), "{:?}", report.findings);
}

fn small_stream() -> Vec<u8> {
    let mut from = empty_pool(64, 2);
    let disk = from.create_volume(named("disk", 1), 16 * BLOCK_BYTES).unwrap();
    from.write(disk, SECTOR_BYTES, vec![3; SECTOR_BYTES as usize]).unwrap();
    from.write(disk, 9 * BLOCK_BYTES, vec![4; SECTOR_BYTES as usize]).unwrap();
    let snapshot = from.snapshot(disk, named("disk@0", 2)).unwrap();
    stream_of(&mut from, snapshot, Base::Nothing, None).unwrap()
}

/// What users see of a pool, and what it uses once all is at rest.
fn look(pool: &mut Pool<MemoryDisk>) -> (usize, Vec<u8>, u64) {
    (0..4).for_each(|_| pool.idle(2000));
    let volumes = pool.volumes();
    let bytes = pool.read(volumes[0].id, 0, 4 * BLOCK_BYTES).unwrap();
    (volumes.len(), bytes, pool.status().used_blocks)
}

fn target() -> Pool<MemoryDisk> {
    let mut pool = empty_pool(64, 2);
    let disk = pool.create_volume(named("mine", 80), 16 * BLOCK_BYTES).unwrap();
    pool.write(disk, 0, vec![8; 3 * BLOCK_BYTES as usize]).unwrap();
    pool
}

fn abort_all(pool: &mut Pool<MemoryDisk>) {
    for partial in partials(pool) {
        pool.request(Request::AbortReceive { volume: partial.volume }).unwrap();
    }
}

#[test]
fn a_broken_stream_changes_nothing() {
    let stream = small_stream();
    let mut pool = target();
    let before = look(&mut pool);
    for at in 0..stream.len() {
        let mut broken = stream.clone();
        broken[at] ^= 1 << (at % 8);
        let error = receive(&mut pool, None, &broken).unwrap_err();
        assert_ne!(error.kind(), ErrorKind::ReadOnly, "byte {at}: {error}");
        if error.kind() == ErrorKind::Io {
            // A length that says more than there is: for all that is known it was cut off.
            abort_all(&mut pool);
        }
        assert!(partials(&mut pool).is_empty(), "byte {at}");
        if at % 512 == 0 {
            assert!(look(&mut pool) == before, "byte {at}");
        }
    }
    assert!(look(&mut pool) == before);
    for length in (0..stream.len()).step_by(13) {
        assert_eq!(receive(&mut pool, None, &stream[..length]).unwrap_err().kind(), ErrorKind::Io);
        abort_all(&mut pool);
    }
    assert!(look(&mut pool) == before);
    receive(&mut pool, None, &stream).unwrap();
}

/// Streams that are right in form, and ask for what must not be.
#[test]
fn a_hostile_stream_changes_nothing() {
    let mut pool = target();
    let before = look(&mut pool);
    let (mut from, snapshots) = source(7, 1, 16 * BLOCK_BYTES);
    let Ok(Outcome::Snapshot(arrival)) =
        from.request(Request::Describe { snapshot: snapshots[0].0, base: Base::Nothing })
    else {
        panic!()
    };
    let header = StreamHeader { stream: [6; 16], arrival: *arrival, data_bytes: 0 };
    let mut refused = |change: &dyn Fn(&mut StreamHeader), kind: ErrorKind| {
        let mut header = header.clone();
        change(&mut header);
        let (encoder, mut bytes) = StreamEncoder::start(&header);
        bytes.extend(encoder.end());
        assert_eq!(receive(&mut pool, None, &bytes).unwrap_err().kind(), kind);
        assert!(partials(&mut pool).is_empty());
    };
    refused(&|header| header.arrival.size_bytes = 0, ErrorKind::Invalid);
    refused(&|header| header.arrival.size_bytes = 1 << 63, ErrorKind::Invalid);
    refused(&|header| header.arrival.size_bytes = 5000, ErrorKind::Damaged);
    refused(&|header| header.arrival.position_bytes = 4096, ErrorKind::Mismatch);
    refused(&|header| header.arrival.new.name = "mine".into(), ErrorKind::Damaged);
    refused(&|header| header.arrival.new.name = "a@b\n".into(), ErrorKind::Damaged);
    refused(&|header| header.arrival.new.uuid = named("", 80).uuid, ErrorKind::Exists);
    refused(&|header| header.arrival.properties = vec![0xff; 40].into(), ErrorKind::Damaged);
    assert!(look(&mut pool) == before);
}

/// The promise, whole: 1 GiB with 20 snapshots, interrupted and resumed at random. Compares by checksum.
#[test]
#[ignore = "moves gigabytes in memory"]
fn a_gibibyte_with_twenty_snapshots() {
    let (size, mut random) = (1u64 << 30, Random::new(1));
    let mut from = empty_pool(40_000, 64);
    let mut to = empty_pool(40_000, 64);
    let disk = from.create_volume(named("disk", 1), size).unwrap();
    for at in (0..size).step_by(4 << 20) {
        from.write(disk, at, vec![(at >> 22) as u8 | 1; 4 << 20]).unwrap();
    }
    let checksum = |pool: &mut Pool<MemoryDisk>, volume: VolumeId| -> Vec<u32> {
        let parts = (0..size).step_by(4 << 20);
        parts.map(|at| vellum_engine::format::crc32(&pool.read(volume, at, 4 << 20).unwrap())).collect()
    };
    let (mut base, mut moved, start) = (Base::Nothing, 0, std::time::Instant::now());
    let mut spent = std::time::Duration::ZERO;
    for number in 0..20 {
        for _ in 0..50 {
            write_some(&mut from, &mut random, disk, size);
        }
        let snapshot = from.snapshot(disk, named(&format!("disk@{number}"), 10 + number)).unwrap();
        let stream = stream_of(&mut from, snapshot, base, None).unwrap();
        let begin = std::time::Instant::now();
        let again = stream_of(&mut from, snapshot, base, None).unwrap();
        let received = if number % 2 == 0 {
            receive(&mut to, None, &again).unwrap()
        } else {
            transfer_with_cuts(&mut from, &mut to, (snapshot, base), &mut random)
        };
        if number == 0 {
            spent = begin.elapsed();
        }
        moved += stream.len();
        assert_eq!(checksum(&mut from, snapshot), checksum(&mut to, received.snapshot), "snapshot {number}");
        base = Base::Volume(snapshot);
    }
    println!("{moved} bytes of streams, {:?} in all; the whole first one {spent:?}", start.elapsed());
}
