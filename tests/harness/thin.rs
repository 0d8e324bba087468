//! Small pools with everything that dm-thin has no word for, and what thin devices hold by the metadata of dm-thin.
//!
//! Owns a reader of thin devices that knows neither the engine nor the kernel: mappings from the bridge, bytes from the data
//! disk. For `tests/dm` and `tests/crash`.

use crate::rng::Rng;
use crate::sim_disk::SimDisk;
use std::cell::RefCell;
use std::io;
use vellum_dm_bridge::{Metadata, Source, Target};
use vellum_engine::Pool;
use vellum_engine::request::{NewVolume, Request};
use vellum_engine::storage::{Blocking, Disk};
use vellum_engine::units::{BLOCK_BYTES, SECTOR_BYTES, VolumeId};

/// What every volume and snapshot holds, by number.
pub type Content = Vec<(VolumeId, String, Vec<u8>)>;

/// Something to be made.
pub fn named(name: &str, uuid: u8) -> NewVolume {
    NewVolume { name: name.into(), uuid: [uuid; 16], created_unix_s: 0 }
}

/// Fills a new pool: volumes, snapshots and clones of `size_bytes`, written to and discarded sector by sector and in larger
/// pieces, some deleted again.
pub fn fill_at_random<D: Disk>(pool: &mut Pool<D>, rng: &mut Rng, size_bytes: u64, operations: u8) {
    let disk = pool.create_volume(named("disk", 1), size_bytes).expect("a volume");
    pool.create_volume(named("empty", 2), size_bytes).expect("a volume");
    let mut volumes = vec![disk];
    for number in 0..operations {
        let volume = *rng.pick(&volumes);
        match rng.below(12) {
            0 | 1 => {
                let info = pool.volumes().into_iter().find(|info| info.id == volume).expect("it is there");
                let snapshot = named(&format!("{}@{number}", info.name), number.wrapping_add(10));
                let snapshot = pool.snapshot(volume, snapshot).expect("a snapshot");
                match rng.below(3) {
                    0 => {
                        let mut clone = named(&format!("clone{number}"), number);
                        clone.uuid[0] = 0xcc;
                        volumes.push(pool.clone_snapshot(snapshot, clone).expect("a clone"));
                    }
                    1 => pool.delete(snapshot).expect("nothing holds it"),
                    _ => {}
                }
            }
            _ => change_some(pool, volume, rng, size_bytes),
        }
    }
}

fn change_some<D: Disk>(pool: &mut Pool<D>, volume: VolumeId, rng: &mut Rng, size_bytes: u64) {
    let offset_bytes = rng.below(size_bytes / SECTOR_BYTES) * SECTOR_BYTES;
    let most = if rng.one_in(3) { 60 } else { 6 };
    let length_bytes = (rng.between(1, most) * SECTOR_BYTES).min(size_bytes - offset_bytes);
    let request = if rng.one_in(4) {
        Request::Discard { volume, offset_bytes, length_bytes, fua: false }
    } else {
        let bytes: Vec<u8> = (0..length_bytes / 8).flat_map(|_| rng.bits().to_le_bytes()).collect();
        Request::Write { volume, offset_bytes, bytes: bytes.into(), fua: false }
    };
    pool.request(request).expect("there is room");
}

/// What a pool holds.
pub fn content_of_pool<D: Disk>(pool: &mut Pool<D>) -> Content {
    let volumes = pool.volumes();
    let read = |info: vellum_engine::VolumeInfo| {
        let bytes = pool.read(info.id, 0, info.size_bytes).expect("it can be read");
        (info.id, info.name, bytes)
    };
    volumes.into_iter().map(read).collect()
}

/// What is wrong with thin devices that should hold `expected`: device N what volume N holds, and no other devices.
pub fn differs(metadata: impl Source, data: &mut dyn Disk, expected: &Content) -> Result<(), String> {
    let metadata = Metadata::open(metadata).map_err(|error| error.to_string())?;
    let devices: Result<Vec<_>, _> = metadata.devices().collect();
    let devices = devices.map_err(|error| error.to_string())?;
    let numbers: Vec<u64> = devices.iter().map(|device| device.id.into()).collect();
    let wanted: Vec<u64> = expected.iter().map(|(id, ..)| id.0).collect();
    if numbers != wanted {
        return Err(format!("devices {numbers:?}, not {wanted:?}"));
    }
    let mut data = Blocking::data(data);
    for (device, (_, name, expected)) in devices.iter().zip(expected) {
        let mut found = vec![0; expected.len().next_multiple_of(BLOCK_BYTES as usize)];
        for run in metadata.runs(device) {
            let run = run.map_err(|error| error.to_string())?;
            let length = (run.length * BLOCK_BYTES) as usize;
            let bytes = data.read(run.data_begin * BLOCK_BYTES, length).map_err(|error| error.to_string())?;
            let at = (run.virtual_begin * BLOCK_BYTES) as usize;
            let place = found.get_mut(at..at + length).ok_or(format!("'{name}' is mapped behind its end"))?;
            place.copy_from_slice(&bytes);
        }
        if let Some(at) = (0..expected.len()).find(|at| expected[*at] != found[*at]) {
            return Err(format!("device {} ('{name}') differs from byte {at} on", device.id));
        }
    }
    Ok(())
}

/// A simulated disk for metadata of dm-thin.
pub struct ThinDisk(pub RefCell<SimDisk>);

fn failed(error: vellum_engine::error::Error) -> io::Error {
    io::Error::other(error.to_string())
}

impl Source for ThinDisk {
    fn length_bytes(&self) -> io::Result<u64> {
        Ok(self.0.borrow().size_bytes())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let bytes = Blocking::data(&mut *self.0.borrow_mut()).read(offset, buffer.len()).map_err(failed)?;
        buffer.copy_from_slice(&bytes);
        Ok(())
    }
}

impl Target for ThinDisk {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        Blocking::data(self.0.get_mut()).write(offset, bytes.to_vec().into()).map_err(failed)
    }

    fn sync(&mut self) -> io::Result<()> {
        Blocking::data(self.0.get_mut()).sync().map_err(failed)
    }
}
