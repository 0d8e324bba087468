//! Pages that are in use by the counts and that nothing leads to: they go back below the bad page that had them.
//!
//! Owns the proof that a page belongs there. A page is live if more parents are counted than were found. It fits below a
//! bad page by level, keys and generation. It goes there only if no other bad page could have it as well, and never
//! over another page's keys; when in doubt it is lost. Read next: `build.rs`.

use super::base::Base;
use super::census::Census;
use super::source::{Edge, Source, decode_node};
use crate::format::{self, FIRST_FREE_PAGE, PageKind, Pointer};
use crate::units::{PageNumber, VolumeId};
use rustc_hash::FxHashMap;

/// A whole mapping page that stands in the file.
struct Orphan {
    edge: Edge,
    volume_of_birth: VolumeId,
}

/// All whole mapping pages of a file that have fewer parents than counted.
pub(super) struct Orphans(FxHashMap<PageNumber, Orphan>);

impl Orphans {
    /// Looks at every page of the file once.
    pub fn find(source: &mut Source<'_, '_>, base: &Base) -> Self {
        let mut found = FxHashMap::default();
        for number in (FIRST_FREE_PAGE.0..source.pages()).map(PageNumber) {
            if base.index_pages.contains(&number) || base.counts.get(number).is_none_or(|count| count == 0) {
                continue;
            }
            if let Some(orphan) = orphan_at(source, base, number) {
                found.insert(orphan.edge.pointer.page, orphan);
            }
        }
        Self(found)
    }

    /// Gives every bad inner page its children back, the highest level first. Returns how many pages came back.
    pub fn reattach(&self, source: &mut Source<'_, '_>, base: &Base, census: &mut Census<'_>) -> u64 {
        let mut reattached = 0;
        while let Some(level) = highest_open_level(census) {
            let open = |bad: &super::census::Bad| bad.children.is_none() && bad.edge.level == level;
            let group: Vec<Edge> = census.bad.values().filter(|bad| open(bad)).map(|bad| bad.edge).collect();
            for parent in &group {
                let (children, complete) = self.children_of(parent, &group, base, census);
                reattached += children.len() as u64;
                if let Some(bad) = census.bad.get_mut(&parent.pointer.page) {
                    (bad.children, bad.complete) = (Some(children.clone()), complete);
                }
                for child in children {
                    census.visit(source, child);
                }
            }
        }
        reattached
    }

    /// The children of a bad page that can be told for certain, and whether they are all.
    fn children_of(
        &self,
        parent: &Edge,
        group: &[Edge],
        base: &Base,
        census: &Census<'_>,
    ) -> (Vec<Edge>, bool) {
        let fitting = self.0.values().filter(|orphan| orphan.fits(parent));
        let live = fitting.filter(|orphan| missing_parents(orphan, base, census) > 0);
        let (certain, doubtful): (Vec<&Orphan>, Vec<&Orphan>) = live.partition(|orphan| {
            let claims = group.iter().filter(|other| orphan.fits(other)).count() as u32;
            missing_parents(orphan, base, census) >= claims
        });
        let mut children: Vec<Edge> = certain.iter().map(|orphan| orphan.edge).collect();
        children.sort_by_key(|child| (child.low, child.pointer.page));
        let found = children.len();
        drop_overlapping(&mut children);
        let mapped: u64 = children.iter().map(|child| child.pointer.mapped).sum();
        let complete =
            doubtful.is_empty() && children.len() == found && mapped == parent.pointer.mapped && found > 0;
        // Where records are lost, their pages fit anywhere: only a sum that is right tells them apart.
        if !complete && base.records_doubtful {
            return (Vec::new(), false);
        }
        (children, complete)
    }

    /// The roots of trees whose volume records are lost, the highest first. None if some page below a bad page is not
    /// known, for then it could be one of those.
    pub fn roots(&self, source: &mut Source<'_, '_>, base: &Base, census: &mut Census<'_>) -> Vec<Edge> {
        let unknown = |bad: &super::census::Bad| bad.edge.level > 0 && !bad.complete;
        let mut roots = Vec::new();
        if census.bad.values().any(unknown) {
            return roots;
        }
        let mut all: Vec<&Orphan> = self.0.values().collect();
        all.sort_by_key(|orphan| (std::cmp::Reverse(orphan.edge.level), orphan.edge.pointer.page));
        for orphan in all {
            if missing_parents(orphan, base, census) > 0 && orphan.volume_of_birth < base.slot.next_volume {
                census.visit(source, orphan.edge);
                roots.push(orphan.edge);
            }
        }
        roots
    }
}

impl Orphan {
    fn fits(&self, parent: &Edge) -> bool {
        self.edge.level + 1 == parent.level
            && parent.low <= self.edge.low
            && self.edge.high <= parent.high
            && self.edge.pointer.generation <= parent.pointer.generation
    }
}

fn missing_parents(orphan: &Orphan, base: &Base, census: &Census<'_>) -> u32 {
    let page = orphan.edge.pointer.page;
    base.counts.get(page).unwrap_or(0).saturating_sub(census.references(page))
}

fn highest_open_level(census: &Census<'_>) -> Option<u8> {
    let open = census.bad.values().filter(|bad| bad.children.is_none() && bad.edge.level > 0);
    open.map(|bad| bad.edge.level).max()
}

fn orphan_at(source: &mut Source<'_, '_>, base: &Base, number: PageNumber) -> Option<Orphan> {
    let (header, bytes) = source.whole_page_at(number)?;
    let body = format::inspect(&bytes).ok()?.body;
    // The log's mappings are derived, and pages of index trees belong to no volume either.
    let is_mapping =
        matches!(header.kind, PageKind::MapLeaf | PageKind::Inner) && header.volume_of_birth.0 != 0;
    let is_possible = header.generation <= base.slot.generation
        && header.volume_of_birth < base.slot.next_volume
        && (header.level > 0) == header.copy.is_some();
    if !is_mapping || !is_possible {
        return None;
    }
    let node = decode_node(&header, body, header.level).ok()?;
    let checksum = u32::from_le_bytes(bytes.first_chunk().copied()?);
    let pointer = Pointer {
        page: header.number,
        copy: header.copy,
        generation: header.generation,
        checksum,
        mapped: node.mapped(),
    };
    let edge = Edge { pointer, level: header.level, low: header.first_key, high: header.last_key };
    Some(Orphan { edge, volume_of_birth: header.volume_of_birth })
}

/// Two pages for one key cannot both be right, and which is cannot be told.
fn drop_overlapping(sorted: &mut Vec<Edge>) {
    let mut overlaps = vec![false; sorted.len()];
    let mut furthest = 0;
    for index in 1..sorted.len() {
        if sorted[index].low <= sorted[furthest].high {
            (overlaps[index], overlaps[furthest]) = (true, true);
        }
        if sorted[index].high > sorted[furthest].high {
            furthest = index;
        }
    }
    let mut overlaps = overlaps.into_iter();
    sorted.retain(|_| !overlaps.next().unwrap_or(false));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Generation;

    #[test]
    fn what_overlaps_goes_and_nothing_else() {
        let pointer = |page| Pointer {
            page: PageNumber(page),
            copy: None,
            generation: Generation(1),
            checksum: 0,
            mapped: 1,
        };
        let edge = |(low, high)| Edge { pointer: pointer(low), level: 0, low, high };
        let kept = |ranges: &[(u64, u64)]| {
            let mut edges: Vec<Edge> = ranges.iter().copied().map(edge).collect();
            drop_overlapping(&mut edges);
            edges.into_iter().map(|edge| edge.low).collect::<Vec<_>>()
        };
        assert_eq!(kept(&[(0, 9), (10, 19), (20, 29)]), [0, 10, 20]);
        assert_eq!(kept(&[(0, 9), (9, 19), (20, 29)]), [20]);
        assert_eq!(kept(&[(0, 90), (10, 19), (20, 29), (100, 101)]), [100]);
        assert_eq!(kept(&[]), [0; 0]);
    }
}
