//! Power cuts while a snapshot arrives: it is there whole or not at all, and what had arrived goes on to the same end.
//!
//! Cuts fall between any two requests of the receiver, on copies; the transfer itself goes on untouched.

use vellum_engine::Pool;
use vellum_engine::options::{CreateOptions, OpenOptions};
use vellum_engine::request::{Base, NewVolume, Outcome, Reply, Request};
use vellum_engine::storage::{Disk, MemoryDisk};
use vellum_engine::transfer::{Receiver, ResumeToken, SendPlan, Sender};
use vellum_engine::units::{BLOCK_BYTES, SECTOR_BYTES, VolumeId};
use vellum_tests::driver::multiplier;
use vellum_tests::rng::Rng;
use vellum_tests::sim_disk::SimDisk;

const SEEDS: u64 = 40;
const SIZE: u64 = 60 * BLOCK_BYTES;

fn named(name: &str, uuid: u8) -> NewVolume {
    NewVolume { name: name.into(), uuid: [uuid; 16], created_unix_s: 0 }
}

fn create<D: Disk>(data: D, metadata: D) -> Pool<D> {
    let create =
        CreateOptions { data_blocks: 512, log_blocks: 4, uuid: [1; 16], secret: 42, created_unix_s: 0 };
    Pool::create(data, metadata, &create, &options(1)).unwrap()
}

fn options(nonce: u32) -> OpenOptions {
    OpenOptions { slab_blocks: 16, nonce, ..OpenOptions::default() }
}

/// A snapshot to be sent: its base, and what it holds.
struct Sent {
    snapshot: VolumeId,
    base: Base,
    name: &'static str,
    bytes: Vec<u8>,
}

fn source(rng: &mut Rng) -> (Pool<MemoryDisk>, [Sent; 2]) {
    let mut pool = create(MemoryDisk::new(0), MemoryDisk::new(0));
    let disk = pool.create_volume(named("disk", 2), SIZE).unwrap();
    let mut base = Base::Nothing;
    let sent = [("disk@a", 3), ("disk@b", 4)].map(|(name, uuid)| {
        for _ in 0..20 {
            let offset_bytes = rng.below(SIZE / SECTOR_BYTES) * SECTOR_BYTES;
            let length_bytes = ((1 + rng.below(30)) * SECTOR_BYTES).min(SIZE - offset_bytes);
            if rng.one_in(4) {
                let discard = Request::Discard { volume: disk, offset_bytes, length_bytes, fua: false };
                pool.request(discard).unwrap();
            } else {
                pool.write(disk, offset_bytes, vec![rng.bits() as u8; length_bytes as usize]).unwrap();
            }
        }
        let snapshot = pool.snapshot(disk, named(name, uuid)).unwrap();
        let bytes = pool.read(snapshot, 0, SIZE).unwrap();
        let sent = Sent { snapshot, base, name, bytes };
        base = Base::Volume(snapshot);
        sent
    });
    (pool, sent)
}

fn stream_of(from: &mut Pool<MemoryDisk>, sent: &Sent, resume: Option<ResumeToken>) -> Vec<u8> {
    let mut ask = |request| from.request(request);
    let plan = SendPlan { snapshot: sent.snapshot, base: sent.base, resume, stream: [9; 16] };
    let mut sender = Sender::start(&mut ask, plan).unwrap();
    let chunks = std::iter::from_fn(|| sender.next(&mut ask).unwrap());
    chunks.collect::<Vec<_>>().concat()
}

type Disks = (SimDisk, SimDisk);

fn cut(pool: &Pool<SimDisk>, rng: &mut Rng) -> Disks {
    (pool.data_disk().power_cut(rng), pool.metadata_disk().power_cut(rng))
}

/// Receives a stream; what the disks are after cuts comes back, with whether the snapshot was acknowledged before.
fn receive(to: &mut Pool<SimDisk>, stream: &[u8], rng: &mut Rng) -> Vec<(Disks, bool)> {
    let mut cuts = Vec::new();
    let mut receiver = Receiver::new(None);
    let mut ask = |request: Request| -> Reply {
        if rng.one_in(6) {
            cuts.push((cut(to, rng), false));
        }
        let is_end = matches!(request, Request::FinishReceive { .. });
        let reply = to.request(request);
        if is_end {
            cuts.push((cut(to, rng), true));
        }
        reply
    };
    for (number, piece) in stream.chunks(100_000).enumerate() {
        receiver.take(&mut ask, piece).unwrap();
        if number % 3 == 0 {
            receiver.interrupt(&mut ask);
        }
    }
    receiver.finish(&mut ask).unwrap();
    cuts
}

fn partial(pool: &mut Pool<SimDisk>) -> Option<ResumeToken> {
    let Ok(Outcome::Partials(partials)) = pool.request(Request::Partials) else { panic!("no list") };
    assert!(partials.len() <= 1);
    partials.first().map(ResumeToken::from)
}

/// Opens what a cut left, brings the transfer to its end, and compares.
fn examine(from: &mut Pool<MemoryDisk>, sent: &Sent, disks: Disks, acknowledged: bool) -> usize {
    let mut pool = Pool::open(disks.0, disks.1, &options(2)).unwrap();
    let token = partial(&mut pool);
    let there = pool.find(sent.name);
    assert!(there.is_some() || !acknowledged, "{} was acknowledged and is gone", sent.name);
    assert!(there.is_none() || token.is_none(), "{} is there and arriving", sent.name);
    if there.is_none() {
        let stream = stream_of(from, sent, token);
        let mut ask = |request| pool.request(request);
        let mut receiver = Receiver::new(None);
        receiver.take(&mut ask, &stream).unwrap();
        receiver.finish(&mut ask).unwrap();
    }
    let snapshot = pool.find(sent.name).unwrap();
    assert!(
        pool.read(snapshot, 0, SIZE).unwrap() == sent.bytes,
        "{} has arrived as something else",
        sent.name
    );
    let (mut data, mut metadata) = pool.close().unwrap();
    let report = vellum_engine::check(&mut data, &mut metadata, &mut |_| {}).unwrap();
    assert!(report.is_clean(), "{:?}", report.findings);
    usize::from(token.is_some_and(|token| token.position_bytes > 0))
}

#[test]
fn a_snapshot_arrives_whole_or_goes_on_arriving() {
    let (mut cuts, mut resumed) = (0, 0);
    for seed in 0..SEEDS * multiplier() {
        println!("seed {seed}");
        let mut rng = Rng::new(seed);
        let (mut from, all) = source(&mut rng);
        let mixing = rng.one_in(2);
        let mut to = create(SimDisk::new(seed, mixing), SimDisk::new(seed + 1, mixing));
        for sent in &all {
            let stream = stream_of(&mut from, sent, None);
            for (disks, acknowledged) in receive(&mut to, &stream, &mut rng) {
                cuts += 1;
                resumed += examine(&mut from, sent, disks, acknowledged);
            }
        }
    }
    println!("{cuts} cuts, after {resumed} of them the transfer went on in the middle");
    assert!(resumed > 50, "{resumed} of {cuts}");
}
