//! What the engine costs. So far the floor under every measurement: the disk in memory that benches run on.

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use vellum_engine::storage::{Blocking, MemoryDisk};

fn memory_disk(criterion: &mut Criterion) {
    let mut disk = MemoryDisk::new(1 << 20);
    let bytes = Bytes::from(vec![1; 4096]);
    criterion.bench_function("memory disk: write 4 KiB", |bencher| {
        let mut blocking = Blocking::data(&mut disk);
        bencher.iter(|| blocking.write(8192, bytes.clone()));
    });
}

criterion_group!(engine, memory_disk);
criterion_main!(engine);
