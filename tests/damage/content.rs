//! What every volume reads as, sector by sector, and the comparison of a damaged or repaired pool with it.
//!
//! Owns the rule of this test: a sector reads as it did, or as an error where that is allowed; never as anything else.

use std::collections::BTreeMap;
use vellum_engine::Pool;
use vellum_engine::error::{Error, ErrorKind, Place};
use vellum_engine::format::crc32;
use vellum_engine::repair::Loss;
use vellum_engine::request::{Outcome, Request};
use vellum_engine::storage::MemoryDisk;
use vellum_engine::units::{SECTOR_BYTES, VolumeId};

/// Bytes of one read.
const CHUNK: u64 = 1 << 20;

/// A volume: checksums of what can be read of its mapped sectors, and ranges that read as errors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Volume {
    sectors: BTreeMap<u64, u32>,
    /// By the end of the range.
    errors: BTreeMap<u64, u64>,
}

/// Of every volume what it reads as.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    volumes: BTreeMap<String, Volume>,
}

/// Reads all that is mapped.
pub fn content(pool: &mut Pool<MemoryDisk>) -> Content {
    let mut content = Content::default();
    for info in pool.volumes() {
        let mut volume = Volume::default();
        let mut offset = 0;
        while offset < info.size_bytes {
            let length_bytes = info.size_bytes - offset;
            let request = Request::Extents { volume: info.id, offset_bytes: offset, length_bytes };
            let extents = match pool.request(request) {
                Ok(Outcome::Extents(extents)) => extents,
                // A page is bad: what is where cannot be told from here on.
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
                    volume.errors.insert(info.size_bytes, offset);
                    break;
                }
                Ok(other) => panic!("extents were asked for: {other:?}"),
            };
            for extent in extents {
                if extent.mapped {
                    volume.read(pool, info.id, offset, offset + extent.length_bytes);
                }
                offset += extent.length_bytes;
            }
        }
        content.volumes.insert(info.name.clone(), volume);
    }
    content
}

impl Volume {
    fn read(&mut self, pool: &mut Pool<MemoryDisk>, volume: VolumeId, from: u64, to: u64) {
        let mut at = from;
        while at < to {
            let end = (at + CHUNK).min(to);
            match pool.read(volume, at, end - at) {
                Ok(bytes) => {
                    self.take(at, &bytes);
                    at = end;
                }
                Err(error) => {
                    let (start, length) = range_of(&error, at, end);
                    if at < start {
                        self.take(at, &pool.read(volume, at, start - at).unwrap());
                    }
                    at = start + length;
                    let joined = self.errors.remove(&start).unwrap_or(start);
                    self.errors.insert(at, joined);
                }
            }
        }
    }

    fn take(&mut self, at: u64, bytes: &[u8]) {
        for (index, sector) in bytes.chunks(SECTOR_BYTES as usize).enumerate() {
            self.sectors.insert(at + index as u64 * SECTOR_BYTES, crc32(sector));
        }
    }

    fn is_error(&self, sector: u64) -> bool {
        self.errors.range(sector + 1..).next().is_some_and(|(_, start)| *start <= sector)
    }
}

/// The lost range that an error tells; all that was asked for if a page is bad.
fn range_of(error: &Error, from: u64, to: u64) -> (u64, u64) {
    assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
    match error.place() {
        Some(Place::Range(_, start, length)) => (start, length),
        _ => (from, to - from),
    }
}

impl Content {
    /// A line for all neighbouring sectors that are alike: name, first byte and byte behind the last, checksum.
    pub fn to_text(&self) -> String {
        let mut lines = Vec::new();
        for (name, volume) in &self.volumes {
            let errors = volume.errors.iter().map(|(end, start)| (*start, *end, "error".to_owned()));
            let sectors = volume.sectors.iter();
            let sectors = sectors.map(|(at, crc)| (*at, at + SECTOR_BYTES, format!("{crc:08x}")));
            let mut all: Vec<(u64, u64, String)> = errors.chain(sectors).collect();
            all.sort();
            for alike in all.chunk_by(|a, b| a.1 == b.0 && a.2 == b.2) {
                let (first, last) = (&alike[0], &alike[alike.len() - 1]);
                lines.push(format!("{name} {} {} {}\n", first.0, last.1, first.2));
            }
        }
        lines.concat()
    }

    /// How many mapped sectors are among the losses.
    pub fn lost_sectors(&self, lost: &dyn Fn(&str, u64) -> bool) -> u64 {
        let of = |(name, volume): (&String, &Volume)| {
            volume.sectors.keys().filter(|sector| lost(name, **sector)).count() as u64
        };
        self.volumes.iter().map(of).sum()
    }

    /// What `found` reads otherwise than this: anything but errors where `may_fail` allows them. If `gone`, volumes may be
    /// missing altogether.
    pub fn differences(&self, found: &Self, may_fail: &dyn Fn(&str, u64) -> bool, gone: bool) -> Vec<String> {
        let mut differences = Vec::new();
        for (name, before) in &self.volumes {
            let Some(after) = found.volumes.get(name) else {
                if !gone {
                    differences.push(format!("'{name}' is gone"));
                }
                continue;
            };
            for (sector, checksum) in &before.sectors {
                match after.sectors.get(sector) {
                    Some(same) if same == checksum => {}
                    None if after.is_error(*sector) && may_fail(name, *sector) => {}
                    other => {
                        differences.push(format!("'{name}' at {sector}: {checksum:x} became {other:x?}"))
                    }
                }
            }
            let new = after.sectors.keys().filter(|sector| !before.sectors.contains_key(sector));
            differences.extend(new.map(|sector| format!("'{name}' at {sector} came from nowhere")));
        }
        let new = found.volumes.keys().filter(|name| !self.volumes.contains_key(*name));
        let new = new.filter(|name| !name.starts_with("recovered-"));
        differences.extend(new.map(|name| format!("'{name}' came from nowhere")));
        differences
    }

    /// Every readable sector that a volume of a new name has must be what some volume had there.
    pub fn strangers(&self, found: &Self) -> Vec<String> {
        let is_known = |sector: &u64, checksum: &u32| {
            self.volumes.values().any(|volume| volume.sectors.get(sector) == Some(checksum))
        };
        let new = found.volumes.iter().filter(|(name, _)| name.starts_with("recovered-"));
        let sectors = new.flat_map(|(name, volume)| volume.sectors.iter().map(move |entry| (name, entry)));
        let strangers = sectors.filter(|(_, (sector, checksum))| !is_known(sector, checksum));
        strangers.map(|(name, (sector, _))| format!("'{name}' at {sector}")).collect()
    }
}

/// Whether a repair says that a sector is lost.
pub fn is_lost(losses: &[Loss]) -> impl Fn(&str, u64) -> bool + '_ {
    move |name, sector| {
        losses.iter().any(|loss| {
            loss.name == name && (loss.offset_bytes..loss.offset_bytes + loss.length_bytes).contains(&sector)
        })
    }
}
