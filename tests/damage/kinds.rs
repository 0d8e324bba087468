//! Which kind of page stands where in the metadata file, told by the trees of both root slots of a sound pool.
//!
//! Owns the names of the rows in the table.

use std::collections::BTreeMap;
use vellum_engine::format::{self, InnerPage, PageKind, Pointer, VolumeRecord};
use vellum_engine::metadata::files::Files;
use vellum_engine::units::PageNumber;

/// A page that a root slot needs.
#[derive(Clone, Debug)]
pub struct Known {
    pub kind: &'static str,
    /// Where its second copy stands.
    pub copy: Option<u64>,
    /// The bytes of volumes that it may map; none for all pages that map none.
    pub bytes: Option<(u64, u64)>,
}

/// Every page that the slots need, first copies only.
pub fn known_pages(files: &mut Files<'_>) -> BTreeMap<u64, Known> {
    let mut known = BTreeMap::new();
    for (page, kind, copy) in
        [(0, "superblock", Some(3)), (1, "root slot", None), (2, "root slot", None), (3, "superblock", None)]
    {
        known.insert(page, Known { kind, copy, bytes: None });
    }
    let superblock = files.superblock().unwrap();
    for slot in files.root_slots(&superblock.pool) {
        let slot = slot.unwrap();
        let mut walk = Walk { files, pool: superblock.pool, known: &mut known, records: Vec::new() };
        let trees = [
            (slot.volumes, ["volume leaf", "volume inner"]),
            (slot.data_counts, ["count leaf", "count inner"]),
            (slot.page_counts, ["count leaf", "count inner"]),
            (slot.data_overflow, ["overflow leaf", "overflow inner"]),
            (slot.page_overflow, ["overflow leaf", "overflow inner"]),
        ];
        for (root, kinds) in trees {
            root.into_iter().for_each(|pointer| walk.page(pointer, &kinds));
        }
        for record in std::mem::take(&mut walk.records) {
            // The log's own are made anew, whatever happens to them.
            let kinds = match record.id.0 {
                0 => ["log map leaf", "log map inner 1", "log map inner 2"],
                _ => ["map leaf", "map inner 1", "map inner 2"],
            };
            record.root.into_iter().for_each(|(_, pointer)| walk.page(pointer, &kinds));
        }
    }
    known
}

struct Walk<'w, 'f> {
    files: &'w mut Files<'f>,
    pool: [u8; 16],
    known: &'w mut BTreeMap<u64, Known>,
    records: Vec<VolumeRecord>,
}

impl Walk<'_, '_> {
    fn page(&mut self, pointer: Pointer, kinds: &[&'static str]) {
        if pointer.page == PageNumber(0) || self.known.contains_key(&pointer.page.0) && kinds.len() > 2 {
            return;
        }
        let bytes = self.files.page(&self.pool, &pointer).unwrap();
        let (header, body) = format::open(&bytes, &self.pool, &pointer).unwrap();
        let level = usize::from(header.level).min(kinds.len() - 1);
        let block = vellum_engine::units::BLOCK_BYTES;
        let maps = matches!(header.kind, PageKind::MapLeaf) || kinds.len() > 2;
        let bytes =
            maps.then(|| (header.first_key * block, header.last_key.saturating_add(1).saturating_mul(block)));
        let copy = pointer.copy.map(|copy| copy.0);
        self.known.insert(pointer.page.0, Known { kind: kinds[level], copy, bytes });
        if header.kind == PageKind::VolumeLeaf {
            self.records.extend(format::decode_volume_leaf(body).unwrap());
        }
        if header.kind == PageKind::Inner {
            let inner = InnerPage::decode(header.level, body).unwrap();
            inner.entries.into_iter().for_each(|(_, child)| self.page(child, kinds));
        }
    }
}
