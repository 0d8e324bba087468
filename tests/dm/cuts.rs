//! Power cuts while metadata is written over that of another pool: what is there then is the old pool, the new one, or nothing
//! that anybody takes for a pool.

use crate::pools::{self, Pool};
use crate::round_trips::write;
use std::io;
use vellum_dm_bridge::{Metadata, MetadataWriter, Packing, Source, Target, check};
use vellum_tests::rng::Rng;

const METADATA_BYTES: usize = 2 << 20;
const SECTOR: usize = 512;

enum Step {
    Write(usize, Vec<u8>),
    Sync,
}

/// Keeps what was asked for, in order.
struct Recorder {
    bytes: Vec<u8>,
    steps: Vec<Step>,
}

impl Source for Recorder {
    fn length_bytes(&self) -> io::Result<u64> {
        self.bytes.length_bytes()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.bytes.read_at(offset, buffer)
    }
}

impl Target for Recorder {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.steps.push(Step::Write(offset as usize, bytes.to_vec()));
        self.bytes.write_at(offset, bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.steps.push(Step::Sync);
        Ok(())
    }
}

/// The device after a cut behind `steps`: of what was not synced, any sectors may be missing.
fn after_cut(old: &[u8], steps: &[Step], rng: &mut Rng) -> Vec<u8> {
    let synced = steps.iter().rposition(|step| matches!(step, Step::Sync)).unwrap_or(0);
    let mut bytes = old.to_vec();
    for (at, step) in steps.iter().enumerate() {
        let Step::Write(offset, written) = step else { continue };
        for (sector, written) in written.chunks(SECTOR).enumerate() {
            if at < synced || rng.one_in(2) {
                let start = offset + sector * SECTOR;
                bytes[start..start + written.len()].copy_from_slice(written);
            }
        }
    }
    bytes
}

fn read(image: &Vec<u8>) -> Option<Pool> {
    let mut pool = Pool::default();
    let metadata = Metadata::open(image).ok()?;
    metadata.copy_to(&mut pool).expect("what has a superblock is whole");
    assert!(check(image).expect("memory can be read").is_clean());
    Some(pool)
}

#[test]
fn a_cut_leaves_one_pool_or_none() {
    let (mut old_seen, mut new_seen, mut none_seen) = (0, 0, 0);
    for seed in 0..8 {
        let (old, new) = (pools::random(seed), pools::random(seed + 100));
        let (image, _) = write(&old, METADATA_BYTES, Packing::Full);
        let mut recorder = Recorder { bytes: image.clone(), steps: Vec::new() };
        let mut writer = MetadataWriter::new(&mut recorder, Packing::Full).expect("a size");
        new.give(&mut writer).expect("it fits");
        let mut rng = Rng::new(seed);
        for cut in 0..=recorder.steps.len() {
            for _ in 0..6 {
                let bytes = after_cut(&image, &recorder.steps[..cut], &mut rng);
                match read(&bytes) {
                    Some(pool) if pool == old => old_seen += 1,
                    Some(pool) if pool == new => new_seen += 1,
                    Some(pool) => panic!("seed {seed}, cut {cut}: neither pool: {pool:?}"),
                    None => {
                        none_seen += 1;
                        // The kernel makes a new pool where the first block is zero.
                        assert!(bytes[..4096].iter().any(|byte| *byte != 0));
                    }
                }
            }
        }
    }
    println!("cuts: {old_seen} old, {new_seen} new, {none_seen} none");
    assert!(old_seen > 0 && new_seen > 0 && none_seen > 0);
}
