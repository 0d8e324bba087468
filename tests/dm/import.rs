//! Pools of dm-thin taken: those that were given away come back equal, others are adopted or copied; damage costs what it hit.

use crate::export::{Given, give, new_pool};
use crate::image::Image;
use crate::pools::{self, Pool as ThinPool, header, run};
use crate::round_trips::write;
use vellum_dm_bridge::export::Failure;
use vellum_dm_bridge::import::{ImportOptions, Imported, adopt, copy, disown, imported_mark};
use vellum_dm_bridge::{Metadata, Packing, Source};
use vellum_engine::Pool;
use vellum_engine::adopt::given;
use vellum_engine::error::ErrorKind;
use vellum_engine::options::OpenOptions;
use vellum_engine::request::Request;
use vellum_engine::storage::{Blocking, Disk, MemoryDisk};
use vellum_engine::units::{BLOCK_BYTES, VolumeId};
use vellum_tests::driver::multiplier;
use vellum_tests::rng::Rng;
use vellum_tests::thin::{content_of_pool, differs, fill_at_random, named};

pub fn options() -> ImportOptions {
    ImportOptions {
        uuid: [5; 16],
        secret: 99,
        nonce: 3,
        now_unix_s: 7,
        accepts_loss: true,
        ..ImportOptions::default()
    }
}

pub fn opened(mut data: MemoryDisk, mut metadata: MemoryDisk, what: &str) -> Pool<MemoryDisk> {
    let report = vellum_engine::check(&mut data, &mut metadata, &mut |_| {}).expect("it can be read");
    assert!(report.is_clean(), "{what}: {:?}", report.findings);
    Pool::open(data, metadata, &OpenOptions::default()).unwrap_or_else(|error| panic!("{what}: {error}"))
}

/// A data disk on which every data block holds its number.
fn data_of(blocks: u64, blocks_a_block: u64) -> MemoryDisk {
    let mut data = MemoryDisk::new(blocks * blocks_a_block * BLOCK_BYTES);
    let mut disk = Blocking::data(&mut data);
    for block in 0..blocks * blocks_a_block {
        disk.write(block * BLOCK_BYTES, (block + 1).to_le_bytes().repeat(64).into())
            .expect("it is long enough");
    }
    data
}

/// The number of the block of 64 KiB that a volume holds at a virtual block; none for zeros.
pub fn block_at(pool: &mut Pool<MemoryDisk>, volume: VolumeId, block: u64) -> Option<u64> {
    let bytes = pool.read(volume, block * BLOCK_BYTES, 512).expect("it can be read");
    u64::from_le_bytes(*bytes.first_chunk().expect("8 bytes")).checked_sub(1)
}

/// Data blocks of the log.
fn log_blocks(status: &vellum_engine::PoolStatus) -> u64 {
    status.log_pages.0.div_ceil(16)
}

/// What a device maps, by blocks of 64 KiB.
pub fn blocks_of(runs: &[vellum_dm_bridge::Run], blocks_a_block: u64) -> Vec<(u64, u64)> {
    let steps = runs.iter().flat_map(|run| {
        (0..run.length * blocks_a_block).map(move |step| {
            (run.virtual_begin * blocks_a_block + step, run.data_begin * blocks_a_block + step)
        })
    });
    steps.collect()
}

#[track_caller]
fn assert_holds(
    pool: &mut Pool<MemoryDisk>,
    imported: &Imported,
    thin: &ThinPool,
    blocks_a_block: u64,
    what: &str,
) {
    assert_eq!(imported.volumes.len(), thin.devices.len(), "{what}");
    for (volume, (id, _, runs)) in imported.volumes.iter().zip(&thin.devices) {
        assert_eq!(volume.device, *id, "{what}");
        let mut next = 0;
        for (at, block) in blocks_of(runs, blocks_a_block) {
            assert_eq!(block_at(pool, volume.record.id, at), Some(block), "{what}, device {id}, block {at}");
            if at > next {
                assert_eq!(block_at(pool, volume.record.id, next), None, "{what}, device {id}, block {next}");
            }
            next = at + 1;
        }
    }
}

#[test]
fn what_was_given_comes_back_equal() {
    let (mut shared, mut volumes) = (0, 0);
    for seed in 0..25 * multiplier() {
        let mut rng = Rng::new(seed);
        let mut pool = new_pool(4000);
        let size_bytes = 4096 * rng.between(1, 700);
        fill_at_random(&mut pool, &mut rng, size_bytes, 120);
        let before: Vec<_> = pool.volumes();
        let Given { mut data, mut metadata, thin, content, .. } = give(pool);
        let known = given(&mut metadata).expect("the kernel has it");
        let mut target = MemoryDisk::new(0);
        let thin = Metadata::open(&thin).expect("it is whole");
        let imported = adopt(&thin, &mut data, &mut target, Some(&known), &options(), &mut |_| {});
        let imported = imported.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert!(imported.lost.is_whole());
        let mut pool = opened(data, target, &format!("seed {seed}"));
        assert_eq!(content_of_pool(&mut pool), content, "seed {seed}");
        let identity =
            |info: &vellum_engine::VolumeInfo| (info.id, info.uuid, info.kind, info.origin, info.size_bytes);
        let after = pool.volumes();
        assert!(before.iter().map(identity).eq(after.iter().map(identity)), "seed {seed}");
        // Sharing is what it was: nothing is mapped twice that was mapped once.
        let status = pool.status();
        shared += after.iter().map(|info| info.mapped_blocks).sum::<u64>()
            - (status.used_blocks - log_blocks(&status));
        volumes += after.len();
        // It can be written and given away again.
        let disk = pool.find("disk").expect("it is there");
        pool.write(disk, 0, vec![9; 512]).expect("there is room");
        let mut again = give(pool);
        differs(&again.thin, &mut again.data, &again.content)
            .unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
    }
    println!("{volumes} volumes and snapshots, {shared} mappings of blocks that others have");
    assert!(shared > 1000);
}

#[test]
fn pools_of_the_kernel_are_adopted_or_say_what_to_extend() {
    let (mut adopted, mut full) = (0, 0);
    for seed in 0..24 * multiplier() {
        let thin = pools::random(seed);
        let blocks = thin.header.nr_data_blocks;
        if blocks > 3000 {
            continue;
        }
        let (image, written) = write(&thin, 8 << 20, Packing::Shareable);
        let metadata = Metadata::open(&image).expect("it is whole");
        let (mut data, mut target) = (data_of(blocks, 1), MemoryDisk::new(0));
        let what = format!("seed {seed}");
        let imported = match adopt(&metadata, &mut data, &mut target, None, &options(), &mut |_| {}) {
            Ok(imported) => imported,
            Err(Failure::Pool(error)) if error.kind() == ErrorKind::NoSpace => {
                assert!(error.message().contains("larger"), "{error}");
                full += 1;
                Blocking::data(&mut data).allocate(blocks * BLOCK_BYTES, 2000 * BLOCK_BYTES).expect("memory");
                target = MemoryDisk::new(0);
                adopt(&metadata, &mut data, &mut target, None, &options(), &mut |_| {})
                    .expect("there is room now")
            }
            Err(error) => panic!("{what}: {error}"),
        };
        adopted += 1;
        let mut pool = opened(data, target, &what);
        assert_holds(&mut pool, &imported, &thin, 1, &what);
        let status = pool.status();
        assert_eq!(status.used_blocks - log_blocks(&status), written.data_blocks_used, "{what}");
        assert_eq!(imported.transaction_id, 12);
    }
    println!("{adopted} adopted, {full} of them full before");
    assert!(adopted > 5 && full > 1);
}

#[test]
fn blocks_of_other_sizes_are_copied_and_stay_shared() {
    for (seed, blocks_a_block) in [(3, 1), (5, 2), (9, 2), (7, 16), (11, 16)] {
        let mut tries = 0;
        let mut thin = pools::random(seed);
        while thin.header.nr_data_blocks * blocks_a_block > 6_000 {
            tries += 100;
            thin = pools::random(seed + tries);
        }
        thin.header.data_block_sectors = 128 * blocks_a_block as u32;
        let what = format!("seed {seed}, {blocks_a_block} blocks a block");
        let (image, written) = write(&thin, 8 << 20, Packing::Full);
        let metadata = Metadata::open(&image).expect("it is whole");
        let source = Numbers(thin.header.nr_data_blocks * blocks_a_block);
        let (mut data, mut target) = (MemoryDisk::new(0), MemoryDisk::new(0));
        let imported = copy(&metadata, &source, &mut data, &mut target, &options(), &mut |_| {});
        let imported = imported.unwrap_or_else(|error| panic!("{what}: {error}"));
        let mut pool = opened(data, target, &what);
        for (volume, (id, _, runs)) in imported.volumes.iter().zip(&thin.devices) {
            for (at, block) in blocks_of(runs, blocks_a_block) {
                let expected = Some(block).filter(|block| !is_zero(*block));
                assert_eq!(
                    block_at(&mut pool, volume.record.id, at),
                    expected,
                    "{what}, device {id}, block {at}"
                );
            }
        }
        let status = pool.status();
        assert_eq!((status.used_blocks - log_blocks(&status)) * BLOCK_BYTES, imported.copied_bytes, "{what}");
        assert!(
            imported.copied_bytes < written.data_blocks_used * blocks_a_block * BLOCK_BYTES
                || written.data_blocks_used < 8
        );
        let small = ImportOptions { data_blocks: Some(3), ..options() };
        let error =
            copy(&metadata, &source, &mut MemoryDisk::new(0), &mut MemoryDisk::new(0), &small, &mut |_| {});
        assert!(
            matches!(error, Err(Failure::Pool(error)) if error.kind() == ErrorKind::NoSpace)
                || written.data_blocks_used == 0
        );
    }
}

fn is_zero(block: u64) -> bool {
    block.is_multiple_of(7)
}

/// A data device on which every block of 64 KiB holds its number, or zeros.
struct Numbers(u64);

impl Source for Numbers {
    fn length_bytes(&self) -> std::io::Result<u64> {
        Ok(self.0 * BLOCK_BYTES)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> std::io::Result<()> {
        let block = offset / BLOCK_BYTES;
        assert!(offset.is_multiple_of(BLOCK_BYTES) && buffer.len() as u64 == BLOCK_BYTES && block < self.0);
        let number = if is_zero(block) { 0 } else { block + 1 };
        buffer.as_chunks_mut::<8>().0.iter_mut().for_each(|place| *place = number.to_le_bytes());
        Ok(())
    }
}

#[test]
fn what_the_kernel_made_and_deleted_meanwhile_is_there_and_gone() {
    let mut pool = new_pool(200);
    let disk = pool.create_volume(named("disk", 1), 10 * BLOCK_BYTES - 4096).expect("a volume");
    pool.write(disk, 0, vec![1; 9 * BLOCK_BYTES as usize]).expect("room");
    pool.snapshot(disk, named("disk@a", 2)).expect("a snapshot");
    let gone = pool.create_volume(named("gone", 3), BLOCK_BYTES).expect("a volume");
    pool.snapshot(gone, named("gone@b", 4)).expect("a snapshot");
    let Given { mut data, mut metadata, thin, .. } = give(pool);
    let mut changed = ThinPool::default();
    Metadata::open(&thin).and_then(|metadata| metadata.copy_to(&mut changed)).expect("it is whole");
    // What the kernel would do: device 3 deleted, device 77 a snapshot of device 1, which gets its tenth block.
    changed.devices.retain(|(id, ..)| *id != gone.0 as u32);
    let first = changed.devices[0].clone();
    changed.devices.push((77, first.1, first.2.clone()));
    let free = (0..200).find(|block| {
        !first.2.iter().any(|run| (run.data_begin..run.data_begin + run.length).contains(block))
    });
    let free = free.expect("there is room");
    changed.devices[0].2.push(run(9, free, 1, 1));
    Blocking::data(&mut data)
        .write(free * BLOCK_BYTES, vec![8; BLOCK_BYTES as usize].into())
        .expect("it is there");
    let (image, _) = write(&changed, 1 << 20, Packing::Full);
    let known = given(&mut metadata).expect("the kernel has it");
    let mut target = MemoryDisk::new(0);
    let metadata = Metadata::open(&image).expect("it is whole");
    let imported =
        adopt(&metadata, &mut data, &mut target, Some(&known), &options(), &mut |_| {}).expect("room");
    let names: Vec<_> = imported.volumes.iter().map(|volume| volume.record.name.as_str()).collect();
    assert_eq!(names, ["disk", "disk@a", "gone-b", "thin-77"]);
    let mut pool = opened(data, target, "changed");
    let sizes: Vec<_> = pool.volumes().iter().map(|info| (info.id.0, info.size_bytes)).collect();
    // The last sector of what was larger than its volume is cut; a new device is whole blocks.
    assert_eq!(
        sizes,
        [
            (1, 10 * BLOCK_BYTES - 4096),
            (2, 10 * BLOCK_BYTES - 4096),
            (4, BLOCK_BYTES),
            (77, 10 * BLOCK_BYTES - 4096)
        ]
    );
    assert_eq!(pool.read(disk, 9 * BLOCK_BYTES, 512).expect("it is there"), [8; 512]);
    assert_eq!(pool.read(VolumeId(77), 9 * BLOCK_BYTES, 512).expect("it is there"), [0; 512]);
    // Numbers are never used again.
    assert_eq!(pool.create_volume(named("new", 9), 4096).expect("a volume"), VolumeId(78));
}

/// A pool with a volume and two snapshots of it, given away; and its metadata as a stream.
fn given_with_snapshots() -> (Given, ThinPool) {
    let mut pool = new_pool(200);
    let disk = pool.create_volume(named("disk", 1), 8 * BLOCK_BYTES).expect("a volume");
    pool.write(disk, 0, vec![1; 4 * BLOCK_BYTES as usize]).expect("room");
    for (name, uuid) in [("disk@a", 2), ("disk@b", 3), ("disk@c", 4)] {
        pool.snapshot(disk, named(name, uuid)).expect("a snapshot");
        // So that the snapshot alone has a block.
        pool.write(disk, 0, vec![uuid; BLOCK_BYTES as usize]).expect("room");
    }
    let given = give(pool);
    let mut stream = ThinPool::default();
    Metadata::open(&given.thin).and_then(|metadata| metadata.copy_to(&mut stream)).expect("it is whole");
    (given, stream)
}

#[test]
fn a_snapshot_that_the_kernel_wrote_to_is_another() {
    let (Given { mut data, mut metadata, .. }, mut changed) = given_with_snapshots();
    let times = |runs: &[vellum_dm_bridge::Run]| runs.iter().map(|run| run.time).collect::<Vec<_>>();
    assert!(changed.devices[1..].iter().all(|(.., runs)| times(runs).iter().all(|time| *time == 0)));
    assert!(times(&changed.devices[0].2).contains(&1));
    // One block of the second snapshot is written, one of the third forgotten.
    changed.devices[2].2.push(run(6, 150, 1, 1));
    let last = changed.devices[3].2.last_mut().expect("runs");
    last.length -= 1;
    if last.length == 0 {
        changed.devices[3].2.pop();
    }
    let (image, _) = write(&changed, 1 << 20, Packing::Full);
    let known = given(&mut metadata).expect("the kernel has it");
    let thin = Metadata::open(&image).expect("it is whole");
    let mut target = MemoryDisk::new(0);
    let imported = adopt(&thin, &mut data, &mut target, Some(&known), &options(), &mut |_| {}).expect("room");
    let told: Vec<_> = imported
        .volumes
        .iter()
        .map(|volume| {
            let before =
                known.volumes.iter().find(|record| record.id == volume.record.id).expect("it was there");
            (volume.record.name.as_str(), volume.is_changed, volume.record.uuid == before.uuid)
        })
        .collect();
    assert_eq!(
        told,
        [("disk", false, true), ("disk@a", false, true), ("disk@b", true, false), ("disk@c", true, false)]
    );
    opened(data, target, "changed");
}

#[test]
fn only_the_metadata_that_it_was_given_away_with_brings_a_pool_back() {
    let (Given { mut data, mut metadata, .. }, stream) = given_with_snapshots();
    let known = given(&mut metadata).expect("the kernel has it");
    let mut take = |change: &dyn Fn(&mut ThinPool), options: &ImportOptions| {
        let mut thin = stream.clone();
        change(&mut thin);
        let (image, _) = write(&thin, 1 << 20, Packing::Full);
        let thin = Metadata::open(&image).expect("it is whole");
        let mut target = MemoryDisk::new(0);
        adopt(&thin, &mut data, &mut target, Some(&known), options, &mut |_| {}).map(|_| target.size_bytes())
    };
    let refused = |result: Result<u64, Failure>| match result {
        Err(Failure::Pool(error)) if error.kind() == ErrorKind::Mismatch => error.message().to_owned(),
        other => panic!("{other:?}"),
    };
    let without = |thin: &mut ThinPool| thin.header.uuid = [0; 16];
    assert!(refused(take(&without, &options())).contains("thin_repair"));
    assert!(refused(take(&|thin| thin.header.uuid[15] ^= 1, &options())).contains("not the metadata"));
    assert!(refused(take(&|thin| thin.header.nr_data_blocks -= 1, &options())).contains("199 data blocks"));
    take(&|_| {}, &options()).expect("it is the one");
    take(&without, &ImportOptions { accepts_unmarked: true, ..options() }).expect("asked for");
}

#[test]
fn what_lvm_compares_is_carried() {
    // There is no volume 0, and numbers far behind would leave too few.
    let cases: [(&[u32], &[u64]); 3] =
        [(&[3, 4, 900], &[3, 4, 900]), (&[0, 3, 4], &[1, 2, 3]), (&[3, 1 << 23], &[1, 2])];
    for (devices, numbers) in cases {
        let mut thin = ThinPool { header: header(400), devices: Vec::new() };
        for id in devices {
            thin.add(*id, &[run(0, u64::from(id % 9) * 10, 5, 1)]);
        }
        let (image, _) = write(&thin, 1 << 20, Packing::Full);
        let metadata = Metadata::open(&image).expect("it is whole");
        let (mut data, mut target) = (data_of(400, 1), MemoryDisk::new(0));
        let imported = adopt(&metadata, &mut data, &mut target, None, &options(), &mut |_| {}).expect("room");
        let given_numbers: Vec<_> = imported.volumes.iter().map(|volume| volume.record.id.0).collect();
        assert_eq!(given_numbers, numbers);
        let given = give(opened(data, target, "imported"));
        let metadata = Metadata::open(&given.thin).expect("it is whole");
        assert_eq!((metadata.superblock().transaction_id, thin.header.transaction_id), (12, 12));
        let again: Vec<_> =
            metadata.devices().map(|device| u64::from(device.expect("it is whole").id)).collect();
        assert_eq!(again, numbers);
    }
}

#[test]
fn a_pool_whose_free_space_is_in_pieces_takes_what_is_behind_it() {
    let (Given { mut data, mut metadata, .. }, mut stream) = given_with_snapshots();
    // The kernel has written everywhere, and discarded every other block.
    let free: Vec<_> = (0..200)
        .step_by(2)
        .filter(|block| {
            let mut runs = stream.devices.iter().flat_map(|(.., runs)| runs);
            !runs.any(|run| (run.data_begin..run.data_begin + run.length).contains(block))
        })
        .collect();
    let runs: Vec<_> = (0..).zip(&free).map(|(at, block)| run(at * 2, *block, 1, 2)).collect();
    stream.add(90, &runs);
    stream.devices.last_mut().expect("it was added").1.creation_time = 2;
    stream.header.time = 2;
    let (image, _) = write(&stream, 1 << 20, Packing::Full);
    let thin = Metadata::open(&image).expect("it is whole");
    let known = given(&mut metadata).expect("the kernel has it");
    let mut target = MemoryDisk::new(0);
    let refused = adopt(&thin, &mut data, &mut target, Some(&known), &options(), &mut |_| {});
    assert!(matches!(refused, Err(Failure::Pool(error)) if error.kind() == ErrorKind::NoSpace));
    Blocking::data(&mut data).allocate(200 * BLOCK_BYTES, 100 * BLOCK_BYTES).expect("memory");
    let mut target = MemoryDisk::new(0);
    let taken = adopt(&thin, &mut data, &mut target, Some(&known), &options(), &mut |_| {}).expect("room");
    assert_eq!((taken.data_blocks, taken.volumes.len()), (300, 5));
    opened(data, target, "in pieces");
}

#[test]
fn nothing_is_adopted_that_lacks_mappings() {
    let mut thin = ThinPool { header: header(4000), devices: Vec::new() };
    thin.add(1, &[run(0, 0, 600, 1)]);
    let (bytes, _) = write(&thin, 1 << 20, Packing::Full);
    let mut image = Image { bytes };
    // A leaf that is whole, and short: no range is known to be lost.
    let leaf = image.child(image.device_root(0), 0);
    image.put_u32(leaf, 16, 50);
    let strict = ImportOptions { accepts_loss: false, ..options() };
    let adopted = |metadata: &Metadata<&Vec<u8>>, options: &ImportOptions| {
        let (mut data, mut target) = (data_of(4000, 1), MemoryDisk::new(0));
        let adopted = adopt(metadata, &mut data, &mut target, None, options, &mut |_| {});
        adopted.map(|imported| imported.volumes[0].mapped_blocks)
    };
    let metadata = Metadata::open(&image.bytes).expect("a superblock");
    assert!(matches!(adopted(&metadata, &strict), Err(Failure::Thin(_))));
    let lenient = metadata.lenient();
    let refused = adopted(&lenient, &strict);
    assert!(matches!(refused, Err(Failure::Pool(error)) if error.kind() == ErrorKind::Unsupported));
    assert!(adopted(&lenient, &options()).expect("asked for") < 600);
    // With a leaf that is lost and known to be, too.
    image.bytes[leaf as usize * 4096..][..4096].fill(0);
    let lenient = Metadata::open(&image.bytes).expect("a superblock").lenient();
    let refused = adopted(&lenient, &strict);
    assert!(matches!(refused, Err(Failure::Pool(error)) if error.kind() == ErrorKind::Unsupported));
}

#[test]
fn names_go_with_their_volumes() {
    let (Given { mut data, mut metadata, thin, .. }, _) = given_with_snapshots();
    let known = given(&mut metadata).expect("the kernel has it");
    let thin = Metadata::open(&thin).expect("it is whole");
    let mut take = |names: &[(u32, &str)]| {
        let names = names.iter().map(|(device, name)| (*device, (*name).to_owned())).collect();
        let mut target = MemoryDisk::new(0);
        let options = ImportOptions { names, ..options() };
        let imported = adopt(&thin, &mut data, &mut target, Some(&known), &options, &mut |_| {})?;
        let mut copy = data.clone();
        let report = vellum_engine::check(&mut copy, &mut target, &mut |_| {})?;
        assert!(report.is_clean(), "{:?}", report.findings);
        Ok::<_, Failure>(imported.volumes.into_iter().map(|volume| volume.record.name).collect::<Vec<_>>())
    };
    assert_eq!(take(&[(1, "root")]).expect("room"), ["root", "root@a", "root@b", "root@c"]);
    assert_eq!(take(&[(3, "disk@x")]).expect("room"), ["disk", "disk@a", "disk@x", "disk@c"]);
    assert_eq!(take(&[(2, "x@y"), (3, "disk@a")]).expect("room"), ["disk", "x-y", "disk@a", "disk@c"]);
    assert_eq!(take(&[(2, "x@y"), (3, "x-y")]).expect("room"), ["disk", "x-y-2", "x-y", "disk@c"]);
    assert_eq!(take(&[(1, "a@b")]).expect("room"), ["a-b", "disk-a", "disk-b", "disk-c"]);
    // A snapshot is younger than its volume.
    let refused = take(&[(3, "other"), (1, "other@x")]).expect_err("impossible");
    assert!(refused.to_string().contains("older"), "{refused}");
}

#[test]
fn a_lost_leaf_costs_what_it_mapped() {
    let mut thin = ThinPool { header: header(4000), devices: Vec::new() };
    thin.add(1, &[run(0, 0, 600, 1)]);
    thin.add(2, &[run(0, 1000, 600, 1)]);
    let (bytes, _) = write(&thin, 1 << 20, Packing::Full);
    let mut image = Image { bytes };
    let leaf = image.child(image.device_root(0), 1);
    let lost = image.u64(leaf, 32)..image.u64(leaf, 32) + u64::from(image.u32(leaf, 16));
    image.bytes[leaf as usize * 4096..][..4096].fill(0);
    let (mut data, mut target) = (data_of(4000, 1), MemoryDisk::new(0));
    let strict = Metadata::open(&image.bytes).expect("a superblock");
    assert!(adopt(&strict, &mut data, &mut target, None, &options(), &mut |_| {}).is_err());
    let mut target = MemoryDisk::new(0);
    let lenient = Metadata::open(&image.bytes).expect("a superblock").lenient();
    let imported =
        adopt(&lenient, &mut data, &mut target, None, &options(), &mut |_| {}).expect("the rest is whole");
    let ranges: Vec<_> = imported.lost.devices[0].1.iter().map(|range| (range.first, range.last)).collect();
    assert_eq!((imported.lost.devices.len(), ranges), (1, vec![(lost.start, lost.end - 1)]));
    let mut pool = opened(data, target, "lenient");
    let volume = imported.volumes[0].record.id;
    for block in 0..600 {
        let read = pool.read(volume, block * BLOCK_BYTES, 512);
        assert_eq!(read.is_err(), lost.contains(&block), "block {block}");
        assert_eq!(block_at(&mut pool, imported.volumes[1].record.id, block), Some(1000 + block));
    }
    // What is lost can be written again.
    pool.write(volume, lost.start * BLOCK_BYTES, vec![3; BLOCK_BYTES as usize]).expect("there is room");
    assert!(pool.read(volume, lost.start * BLOCK_BYTES, 512).is_ok());
    pool.request(Request::Discard { volume, offset_bytes: 0, length_bytes: 600 * BLOCK_BYTES, fua: false })
        .expect("so it goes");
    assert_eq!(block_at(&mut pool, volume, lost.start + 1), None);
}

#[test]
fn metadata_that_was_imported_is_not_taken_again() {
    let (mut image, _) = write(&pools::random(1), 4 << 20, Packing::Full);
    disown(&mut image, &[4; 16]).expect("memory");
    assert_eq!(imported_mark(&image), Some([4; 16]));
    assert!(Metadata::open(&image).is_err());
    assert!(
        image[..4096].iter().any(|byte| *byte != 0),
        "the kernel makes a new pool where the first block is zero"
    );
}

#[test]
fn data_that_is_too_short_is_refused() {
    let mut thin = ThinPool { header: header(100), devices: Vec::new() };
    thin.add(1, &[run(0, 0, 5, 1)]);
    let (image, _) = write(&thin, 1 << 20, Packing::Full);
    let metadata = Metadata::open(&image).expect("it is whole");
    let (mut data, mut target) = (data_of(99, 1), MemoryDisk::new(0));
    let result = adopt(&metadata, &mut data, &mut target, None, &options(), &mut |_| {});
    assert!(matches!(result, Err(Failure::Pool(error)) if error.kind() == ErrorKind::Mismatch));
    assert_eq!(target.size_bytes(), 0);
}

#[test]
fn devices_that_no_volume_can_be_are_refused() {
    for virtual_block in [1 << 40, 1 << 48, u64::MAX - 1] {
        let mut thin = ThinPool { header: header(1000), devices: Vec::new() };
        thin.add(1, &[run(virtual_block, 0, 1, 1)]);
        let (image, _) = write(&thin, 1 << 20, Packing::Full);
        let metadata = Metadata::open(&image).expect("it is whole");
        let sized = |size| ImportOptions { sizes: [(1, size)].into(), ..options() };
        for options in [options(), sized(4096), sized(u64::MAX), sized(u64::MAX - 4095)] {
            let (mut data, mut target) = (data_of(1000, 1), MemoryDisk::new(0));
            let result = adopt(&metadata, &mut data, &mut target, None, &options, &mut |_| {});
            let Err(Failure::Pool(error)) = result else { panic!("block {virtual_block}: {result:?}") };
            assert!(matches!(error.kind(), ErrorKind::Limit | ErrorKind::Invalid), "{error}");
        }
    }
}
