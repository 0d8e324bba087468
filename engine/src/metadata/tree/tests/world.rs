//! A pool of trees with a disk made of a map, models of what every volume must hold, and a recount of everything.

use crate::error::ErrorKind;
use crate::format::{self, InnerPage, MapLeaf, Mapping, PageKind, Pointer};
use crate::metadata::cache::Node;
use crate::metadata::counts::{Counts, LoadedCounts};
use crate::metadata::tree::{Event, Fault, Forest, LAST_KEY, Root, TreeLimits};
use crate::units::{DataBlock, Generation, PageNumber, VirtualBlock, VolumeId};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::ControlFlow;

pub const POOL: [u8; 16] = [7; 16];

pub type Model = BTreeMap<u64, Mapping>;

#[derive(Clone)]
pub struct Volume {
    pub id: VolumeId,
    pub root: Root,
    pub model: Model,
}

/// What a root slot would lead to.
#[derive(Clone)]
pub struct Checkpoint {
    pub generation: Generation,
    pub volumes: Vec<Volume>,
    pub data_counts: Counts,
    pub page_counts: Counts,
}

pub struct World {
    pub forest: Forest,
    pub volumes: Vec<Volume>,
    pub disk: HashMap<PageNumber, Bytes>,
    /// The two newest, the older one first.
    pub slots: Vec<Checkpoint>,
    pub limits: TreeLimits,
    /// Blocks and pages that events named since the last proof.
    pub pending_blocks: HashSet<DataBlock>,
    pub pending_pages: HashSet<PageNumber>,
    /// Blocks that had two owners at any time since the last proof.
    shared_since_proof: HashSet<DataBlock>,
    pub faults: usize,
    pub refusals: usize,
}

#[derive(PartialEq, Debug)]
pub struct State {
    data: Vec<u32>,
    pages: Vec<u32>,
    roots: Vec<Root>,
    resident: BTreeMap<PageNumber, (Generation, Node)>,
    free: u64,
    waiting: u64,
    events: Vec<Event>,
}

impl World {
    pub fn new(data_blocks: u64, metadata_pages: u64, limits: TreeLimits) -> Self {
        let mut forest = Forest::new(POOL, data_blocks, metadata_pages).with_limits(limits);
        forest.start_generation(Generation(1));
        Self {
            forest,
            volumes: Vec::new(),
            disk: HashMap::new(),
            slots: Vec::new(),
            limits,
            pending_blocks: HashSet::new(),
            pending_pages: HashSet::new(),
            shared_since_proof: HashSet::new(),
            faults: 0,
            refusals: 0,
        }
    }

    /// Everything that an operation may change.
    pub fn state(&self) -> State {
        let values = |counts: &Counts| (0..counts.len()).map(|index| counts.get(index)).collect();
        let pages = self.forest.cache.iter();
        State {
            data: values(&self.forest.data_counts),
            pages: values(&self.forest.page_counts),
            roots: self.volumes.iter().map(|volume| volume.root).collect(),
            resident: pages.map(|(number, page)| (number, (page.generation, page.node.clone()))).collect(),
            free: self.forest.pages.free_pages(),
            waiting: self.forest.pages.waiting_pages(),
            events: self.forest.events.clone(),
        }
    }

    /// Runs an operation on one volume until no page is missing, and checks that faults and refusals change nothing.
    /// Nothing if there was no room.
    pub fn run<T>(
        &mut self,
        volume: usize,
        mut operation: impl FnMut(&mut Forest, VolumeId, &mut Root) -> Result<T, Fault>,
    ) -> Option<T> {
        loop {
            let before = self.state();
            let Volume { id, root, .. } = &mut self.volumes[volume];
            match operation(&mut self.forest, *id, root) {
                Ok(value) => {
                    self.check_events(&before);
                    return Some(value);
                }
                Err(Fault::Missing(pointer)) => {
                    assert_eq!(self.state(), before);
                    self.faults += 1;
                    self.load(&pointer);
                }
                Err(Fault::Failed(error)) => {
                    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
                    assert_eq!(self.state(), before);
                    self.refusals += 1;
                    return None;
                }
            }
        }
    }

    pub fn load(&mut self, pointer: &Pointer) {
        assert!(self.forest.cache.get(pointer.page).is_none());
        let bytes = &self.disk[&pointer.page];
        assert!(pointer.copy.is_none_or(|copy| self.disk[&copy] == *bytes));
        self.forest.insert_loaded(pointer, bytes).unwrap();
        assert!(self.forest.cache.get(pointer.page).is_some());
    }

    /// Changes the body of the root page on the disk, and makes checksum and pointer fit.
    pub fn forge_root_page(&mut self, root: &mut Root, change: impl FnOnce(&mut Vec<u8>)) {
        let Some((_, pointer)) = root else { return };
        let (header, body) = format::open(&self.disk[&pointer.page], &POOL, pointer).unwrap();
        let mut body = body.to_vec();
        change(&mut body);
        let (bytes, checksum) = format::seal(&header, &POOL, &body);
        self.disk.insert(pointer.page, bytes.freeze());
        pointer.checksum = checksum;
    }

    fn check_events(&mut self, before: &State) {
        let events = std::mem::take(&mut self.forest.events);
        for (index, &old) in before.data.iter().enumerate() {
            let (block, new) = (DataBlock(index as u64), self.forest.data_counts.get(index as u64));
            assert_eq!(old > 0 && new == 0, old > 0 && events.contains(&Event::BlockFreed(block)), "{block}");
            assert!(old < 2 || new != 1 || events.contains(&Event::BlockExclusive(block)), "{block}");
            if new == 0 {
                self.shared_since_proof.remove(&block);
            }
        }
        for (index, &old) in before.pages.iter().enumerate() {
            let (page, new) = (PageNumber(index as u64), self.forest.page_counts.get(index as u64));
            assert!(old < 2 || new != 1 || events.contains(&Event::PageExclusive(page)), "{page}");
        }
        for event in events {
            match event {
                Event::BlockFreed(_) => {}
                Event::BlockExclusive(block) => drop(self.pending_blocks.insert(block)),
                Event::PageExclusive(page) => drop(self.pending_pages.insert(page)),
                Event::PageInherits { from, to } if self.pending_pages.contains(&from) => {
                    self.pending_pages.insert(to);
                }
                Event::PageInherits { .. } => {}
            }
        }
    }

    /// Everything up to now is proven.
    pub fn prove(&mut self) {
        self.pending_blocks.clear();
        self.pending_pages.clear();
        self.shared_since_proof =
            self.owners().into_iter().filter(|(_, owners)| *owners > 1).map(|(b, _)| b).collect();
    }

    /// How many volumes, or places in them, name each block, by the models.
    fn owners(&self) -> HashMap<DataBlock, usize> {
        let mut owners = HashMap::new();
        let mappings = self.volumes.iter().flat_map(|volume| volume.model.values());
        mappings
            .flat_map(|mapping| mapping.blocks())
            .for_each(|block| *owners.entry(block).or_default() += 1);
        owners
    }

    pub fn snapshot(&mut self, source: usize, id: u64) {
        let Volume { root, model, .. } = self.volumes[source].clone();
        self.forest.share(&root);
        self.volumes.push(Volume { id: VolumeId(id), root, model });
    }

    /// A checkpoint that comes to nothing: changes go on in the same pages.
    pub fn seal_in_vain(&mut self) {
        self.forest.seal_dirty(self.volumes.iter_mut().map(|volume| &mut volume.root), &mut |_, _| {});
    }

    /// Seals, writes, makes durable.
    pub fn checkpoint(&mut self) {
        let generation = self.forest.building;
        let dirty_pages = self.forest.dirty_pages();
        let mut pages = Vec::new();
        let roots = self.volumes.iter_mut().map(|volume| &mut volume.root);
        self.forest.seal_dirty(roots, &mut |number, bytes| pages.push((number, bytes)));
        self.forest.start_generation(Generation(generation.0 + 1));
        assert_eq!(pages.len(), dirty_pages);
        let mut written = HashSet::new();
        for (number, bytes) in pages {
            assert!(written.insert(number), "page {number} sealed twice");
            self.disk.insert(number, bytes);
        }
        // A cut may come now.
        self.verify_slots();
        self.slots.push(Checkpoint {
            generation,
            volumes: self.volumes.clone(),
            data_counts: self.forest.data_counts.clone(),
            page_counts: self.forest.page_counts.clone(),
        });
        if self.slots.len() > 2 {
            self.slots.remove(0);
        }
        self.forest.pages.release(generation);
    }

    /// Opens the newest root slot as after a crash: what happened since is gone.
    pub fn reopen(&mut self) {
        let Some(newest) = self.slots.last().cloned() else { return };
        let (data, pages) = (&newest.data_counts, &newest.page_counts);
        let mut forest = Forest::new(POOL, data.len(), pages.len()).with_limits(self.limits);
        reload(&mut forest.data_counts, data);
        reload(&mut forest.page_counts, pages);
        forest.find_free_pages();
        forest.start_generation(Generation(newest.generation.0 + 1));
        if let [older, _] = &self.slots[..] {
            let used = (0..older.page_counts.len()).filter(|page| !older.page_counts.is_zero(*page));
            used.for_each(|page| forest.keep_page(PageNumber(page), newest.generation));
        }
        self.forest = forest;
        self.volumes = newest.volumes;
        self.prove();
    }

    /// Counts everything again from the roots, and compares trees with models and both slots with the disk.
    pub fn verify(&mut self) {
        assert_eq!(self.forest.damage(), None);
        let mut walk = Walk::new(self, true);
        let volumes = &self.volumes;
        volumes.iter().for_each(|volume| walk.volume(volume));
        let Walk { page_references, block_references, .. } = walk;
        compare(&self.forest.page_counts, page_references.into_iter().map(|(page, count)| (page.0, count)));
        compare(
            &self.forest.data_counts,
            block_references.into_iter().map(|(block, count)| (block.0, count)),
        );
        let pages = &self.forest.pages;
        let used = self.forest.page_counts.in_use() + format::FIRST_FREE_PAGE.0;
        assert_eq!(used + pages.free_pages() + pages.waiting_pages(), pages.len());
        for (number, page) in self.forest.cache.iter() {
            assert!(!self.forest.page_counts.is_zero(number.0), "page {number} is resident and free");
            assert_eq!(page.copy.is_some(), page.node.level() > 0);
        }
        self.verify_slots();
        self.verify_lookups();
    }

    /// The trees of both slots are on the disk.
    fn verify_slots(&self) {
        for slot in &self.slots {
            let mut walk = Walk::new(self, false);
            slot.volumes.iter().for_each(|volume| walk.volume(volume));
        }
    }

    /// Lookups agree with the models; exclusive is what the models call so; and what became exclusive is announced.
    fn verify_lookups(&mut self) {
        let owners = self.owners();
        self.shared_since_proof
            .extend(owners.iter().filter(|(_, owners)| **owners > 1).map(|(block, _)| *block));
        for index in 0..self.volumes.len() {
            let mut listed = Model::new();
            let mut next = VirtualBlock(0);
            while let Err(fault) = {
                let root = self.volumes[index].root;
                self.forest.mappings(&root, next, VirtualBlock(LAST_KEY), |block, mapping| {
                    listed.insert(block.0, mapping);
                    next = VirtualBlock(block.0 + 1);
                    ControlFlow::Continue(())
                })
            } {
                let Fault::Missing(pointer) = fault else { panic!("{fault:?}") };
                self.load(&pointer);
            }
            assert_eq!(listed, self.volumes[index].model);
            let root = self.volumes[index].root;
            for (&at, &mapping) in listed.iter().step_by(1 + listed.len() / 50) {
                let found = self.forest.lookup(&root, VirtualBlock(at)).unwrap();
                assert_eq!(found.mapping, Some(mapping));
                for block in mapping.blocks() {
                    let exclusive = found.exclusive_path && self.forest.data_counts.get(block.0) == 1;
                    assert_eq!(exclusive, owners[&block] == 1, "virtual block {at}, data block {block}");
                    let announced = self.pending_blocks.contains(&block)
                        || found.path.pages().any(|page| self.pending_pages.contains(&page));
                    assert!(
                        !exclusive || announced || !self.shared_since_proof.contains(&block),
                        "data block {block}"
                    );
                }
            }
        }
    }
}

fn reload(counts: &mut Counts, from: &Counts) {
    for first in (0..from.len()).step_by(format::COUNTS_PER_LEAF as usize) {
        let bytes = from.leaf_bytes((first / format::COUNTS_PER_LEAF) as usize);
        counts.load_leaf(first, LoadedCounts::Each(&bytes)).unwrap();
    }
    from.overflow().for_each(|(index, count)| counts.load_overflow(index, count).unwrap());
    counts.finish_load().unwrap();
}

fn compare(counts: &Counts, references: impl Iterator<Item = (u64, u32)>) {
    let references: BTreeMap<u64, u32> = references.collect();
    let counted = (0..counts.len()).map(|index| (index, counts.get(index))).filter(|(_, count)| *count > 0);
    assert_eq!(counted.collect::<BTreeMap<_, _>>(), references);
}

/// A walk over trees that believes nothing.
struct Walk<'a> {
    world: &'a World,
    /// Whether pages may come from memory.
    resident: bool,
    page_references: HashMap<PageNumber, u32>,
    block_references: HashMap<DataBlock, u32>,
    visited: BTreeSet<PageNumber>,
}

impl<'a> Walk<'a> {
    fn new(world: &'a World, resident: bool) -> Self {
        let (page_references, block_references) = (HashMap::new(), HashMap::new());
        Self { world, resident, page_references, block_references, visited: BTreeSet::new() }
    }

    fn volume(&mut self, volume: &Volume) {
        let mut found = Model::new();
        if let Some((level, pointer)) = &volume.root {
            self.page(pointer, *level, (0, LAST_KEY), &mut found);
        }
        assert_eq!(found, volume.model, "volume {}", volume.id);
    }

    /// Returns nothing and counts references; a page's own children only once.
    fn page(&mut self, pointer: &Pointer, level: u8, keys: (u64, u64), found: &mut Model) {
        *self.page_references.entry(pointer.page).or_default() += 1;
        let is_new = self.visited.insert(pointer.page);
        if let (true, Some(copy)) = (is_new, pointer.copy) {
            assert_eq!(self.page_references.insert(copy, 1), None);
        }
        let node = self.node(pointer);
        assert_eq!((node.level(), node.mapped()), (level, pointer.mapped));
        match node {
            Node::Leaf(leaf) => self.leaf(&leaf, is_new, keys, found),
            Node::Inner(inner) => {
                assert!(inner.entries.len() <= self.world.limits.inner_entries && !inner.entries.is_empty());
                assert!(inner.entries.is_sorted_by(|left, right| left.0 < right.0));
                assert!(inner.entries[0].0 >= keys.0);
                let ends = inner.entries.iter().skip(1).map(|(key, _)| key - 1).chain([keys.1]);
                for ((key, child), end) in inner.entries.iter().zip(ends) {
                    let before = self.page_references.get(&child.page).copied().unwrap_or(0);
                    self.page(child, level - 1, (*key, end), found);
                    if !is_new {
                        self.page_references.insert(child.page, before);
                    }
                }
            }
        }
    }

    fn leaf(&mut self, leaf: &MapLeaf, is_new: bool, keys: (u64, u64), found: &mut Model) {
        assert!(leaf.encoded_bytes() <= self.world.limits.leaf_bytes && !leaf.is_empty());
        for (block, mapping) in leaf.iter() {
            assert!((keys.0..=keys.1).contains(&block.0) && mapping.is_valid());
            assert_eq!(found.insert(block.0, mapping), None);
            if is_new {
                mapping.blocks().for_each(|block| *self.block_references.entry(block).or_default() += 1);
            }
        }
    }

    fn node(&self, pointer: &Pointer) -> Node {
        let cached = self.world.forest.cache.get(pointer.page).filter(|_| self.resident);
        if let Some(cached) = cached {
            assert_eq!((cached.generation, cached.copy), (pointer.generation, pointer.copy));
            if cached.generation < self.world.forest.building {
                assert_eq!(cached.node, self.on_disk(pointer), "page {} was changed in place", pointer.page);
            }
            return cached.node.clone();
        }
        self.on_disk(pointer)
    }

    fn on_disk(&self, pointer: &Pointer) -> Node {
        let (header, body) = format::open(&self.world.disk[&pointer.page], &POOL, pointer).unwrap();
        match header.kind {
            PageKind::MapLeaf => {
                Node::Leaf(MapLeaf::decode(body, header.first_key, header.last_key).unwrap())
            }
            _ => Node::Inner(InnerPage::decode(header.level, body).unwrap()),
        }
    }
}
