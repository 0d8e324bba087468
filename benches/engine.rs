//! What the engine costs a request, on a disk in memory: no sockets, no system calls, so what is left is deciding.
//!
//! Read: from one block. Write: in place, to a new block, after a snapshot. Control: snapshot and deletion.

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use vellum_engine::Pool;
use vellum_engine::options::{CreateOptions, OpenOptions};
use vellum_engine::request::NewVolume;
use vellum_engine::storage::{Buffer, MemoryDisk};
use vellum_engine::units::{BLOCK_BYTES, SECTOR_BYTES, VolumeId};

const DATA_BLOCKS: u64 = 8192;
const FILLED_BLOCKS: u64 = 1024;

fn filled_pool() -> (Pool<MemoryDisk>, VolumeId) {
    let options = CreateOptions {
        data_blocks: DATA_BLOCKS,
        log_blocks: 256,
        uuid: [1; 16],
        secret: 1,
        created_unix_s: 0,
    };
    let mut pool = Pool::create(MemoryDisk::new(0), MemoryDisk::new(0), &options, &OpenOptions::default())
        .expect("a new pool");
    let disk = pool.create_volume(named("disk"), 1 << 40).expect("a volume");
    let block = Buffer::zeroed(BLOCK_BYTES as usize).freeze();
    for index in 0..FILLED_BLOCKS {
        pool.write(disk, index * BLOCK_BYTES, block.clone()).expect("a write");
    }
    prove(&mut pool);
    (pool, disk)
}

/// Flushes and lets the idle proof happen, so that writes in place do not wait.
fn prove(pool: &mut Pool<MemoryDisk>) {
    pool.flush().expect("a flush");
    (0..4).for_each(|_| pool.idle(2000));
}

fn named(name: &str) -> NewVolume {
    NewVolume { name: name.to_owned(), uuid: [2; 16], created_unix_s: 0 }
}

fn sector() -> Bytes {
    Buffer::zeroed(SECTOR_BYTES as usize).freeze()
}

/// A sector among the filled blocks, another one each time.
fn random_offset(count: &mut u64) -> u64 {
    *count = count.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*count >> 33) % (FILLED_BLOCKS * BLOCK_BYTES / SECTOR_BYTES) * SECTOR_BYTES
}

fn data_path(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("4 KiB");
    group.throughput(Throughput::Elements(1));
    let (mut pool, disk) = filled_pool();
    let mut count = 1;
    group.bench_function("read", |bencher| {
        bencher.iter(|| pool.read(disk, random_offset(&mut count), SECTOR_BYTES).expect("a read"));
    });
    group.bench_function("overwrite in place", |bencher| {
        bencher.iter(|| pool.write(disk, random_offset(&mut count), sector()).expect("a write"));
    });
    let mut next = FILLED_BLOCKS;
    group.bench_function("write to a new block, then discard", |bencher| {
        bencher.iter(|| {
            next = if next < 1 << 23 { next + 1 } else { FILLED_BLOCKS };
            pool.write(disk, next * BLOCK_BYTES, sector()).expect("a write");
            discard(&mut pool, disk, next * BLOCK_BYTES);
        });
    });
    group.finish();
}

fn discard(pool: &mut Pool<MemoryDisk>, volume: VolumeId, offset_bytes: u64) {
    let request = vellum_engine::request::Request::Discard {
        volume,
        offset_bytes,
        length_bytes: BLOCK_BYTES,
        fua: false,
    };
    pool.request(request).expect("a discard");
}

fn after_snapshot(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("1000 random 4 KiB writes");
    group.sample_size(10).throughput(Throughput::Elements(1000));
    group.bench_function("after a snapshot", |bencher| {
        let fresh = || {
            let (mut pool, disk) = filled_pool();
            pool.snapshot(disk, named("disk@one")).expect("a snapshot");
            prove(&mut pool);
            (pool, disk)
        };
        bencher.iter_batched(
            fresh,
            |(mut pool, disk)| {
                let mut count = 7;
                for _ in 0..1000 {
                    pool.write(disk, random_offset(&mut count), sector()).expect("a write");
                }
                pool
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

fn control(criterion: &mut Criterion) {
    let (mut pool, disk) = filled_pool();
    criterion.bench_function("snapshot and deletion", |bencher| {
        bencher.iter(|| {
            let snapshot = pool.snapshot(disk, named("disk@one")).expect("a snapshot");
            pool.delete(snapshot).expect("a deletion");
        });
    });
}

criterion_group!(engine, data_path, after_snapshot, control);
criterion_main!(engine);
