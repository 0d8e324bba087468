//! Random damage under right checksums: nothing panics or runs on, and what the check calls clean can be read.

use crate::image::Image;
use crate::pools::{Pool, header, run};
use crate::round_trips::write;
use vellum_dm_bridge::format::kind_of;
use vellum_dm_bridge::{Metadata, MetadataWriter, Packing, check};
use vellum_tests::rng::Rng;

/// Shared trees, counts above two, holes; small, so that damage hits what matters.
fn pool() -> Pool {
    let mut pool = Pool { header: header(20_000), devices: Vec::new() };
    let shared: Vec<_> = (0..300).map(|at| run(at * 2, at, 1, 0)).collect();
    pool.add(1, &shared);
    pool.add(2, &shared);
    pool.add(3, &[run(0, 0, 20, 0), run(50, 1000, 400, 1)]);
    pool.add(4, &[run(7, 0, 50, 0)]);
    pool
}

/// Changes one to four numbers. Most are small, as those of real structures are.
fn damage(image: &mut Image, blocks: u64, rng: &mut Rng) {
    for _ in 0..rng.between(1, 4) {
        let block = rng.below(blocks);
        if kind_of(image.block(block)).is_none() {
            continue;
        }
        let span = if rng.one_in(2) { 12 } else { 510 };
        let offset = 8 * rng.between(u64::from(block > 0), span) as usize;
        let value = match rng.below(5) {
            0 => rng.bits(),
            1 => u64::MAX,
            2 => image.u64(block, offset) ^ (1 << rng.below(64)),
            3 => rng.below(blocks),
            _ => rng.below(400),
        };
        image.put_u64(block, offset, value);
    }
}

#[test]
fn no_damage_makes_anything_panic() {
    let times: u64 = std::env::var("VELLUM_SEEDS").ok().and_then(|times| times.parse().ok()).unwrap_or(1);
    let (whole, written) = write(&pool(), 64 * 4096, Packing::Full);
    let (mut clean, mut readable) = (0, 0);
    for seed in 0..3000 * times {
        let mut rng = Rng::new(seed);
        let mut image = Image { bytes: whole.clone() };
        damage(&mut image, written.metadata_blocks_used, &mut rng);
        let report = check(&image.bytes).expect("memory can be read");
        let Ok(metadata) = Metadata::open(&image.bytes) else {
            assert!(!report.is_clean(), "seed {seed}");
            continue;
        };
        let strict = metadata.copy_to(&mut Pool::default());
        assert!(!report.is_clean() || strict.is_ok(), "seed {seed}: {strict:?}");
        clean += u64::from(report.is_clean());
        readable += u64::from(strict.is_ok());
        let metadata = metadata.lenient();
        metadata.copy_to(&mut Pool::default()).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let mut again = MetadataWriter::new(vec![0; 1 << 20], Packing::Shareable).expect("a size");
        let _ = metadata.copy_to(&mut again);
    }
    println!("{clean} clean and {readable} readable of {}", 3000 * times);
}
