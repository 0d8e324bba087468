//! Makes a pool of a data file whose mappings somebody else knows.
//!
//! Owns the order of it. All of the pool's metadata goes to a new, empty file; of the data file only blocks are written that are not in
//! use: the log is put there. The superblocks come last, so that a cut leaves no pool. What data blocks hold is for the
//! caller to know, and volumes come in the order of their numbers.

use crate::error::{Error, ErrorKind, Result};
use crate::format::{
    Delta, Extent, FIRST_FREE_PAGE, LOST_RANGES, Properties, ROOT_SLOT_PAGES, RootSlot, SUPERBLOCK_PAGES,
    Superblock, VolumeRecord,
};
use crate::hand_over::{Mark, mark_of};
use crate::metadata::counts::Counts;
use crate::metadata::files::Files;
use crate::metadata::load::load_page;
use crate::metadata::recovery::recover_without_log;
use crate::metadata::tree::LAST_KEY;
use crate::metadata::{Fault, LOG_VOLUME, Metadata, Parts, SlotFacts, assemble, write_log, write_now};
use crate::options::{CreateOptions, Owner};
use crate::storage::{Disk, MemoryDisk};
use crate::units::{
    BLOCK_BYTES, DATA_BLOCKS_MAX, DataBlock, Generation, Incarnation, PAGE_BYTES, SECTOR_BYTES, SectorMask,
    Sequence, VirtualBlock, VolumeId,
};

/// Pieces of the data file that a log may have.
const LOG_EXTENTS_MAX: usize = 4;
/// A log of fewer blocks is not worth having, unless the pool is tiny.
const LOG_BLOCKS_AT_LEAST: u64 = 16;
/// Pages that are changed before they are written.
const DIRTY_PAGES_MAX: usize = 8192;
/// Memory for pages that are written, in bytes.
const CACHE_BYTES: usize = 64 << 20;
/// The file grows by so many pages when it has too few.
const GROWTH_PAGES: u64 = 1024;

/// What is known of a pool that the kernel has.
#[derive(Clone, Debug)]
pub struct Given {
    /// The pool's uuid.
    pub pool: [u8; 16],
    /// When it was made, in seconds since 1970.
    pub created_unix_s: u64,
    /// Data blocks that it had.
    pub data_blocks: u64,
    /// All volumes and snapshots that it had, by number.
    pub volumes: Vec<VolumeRecord>,
    /// The settings of the pool.
    pub settings: Properties,
    /// The number that the next volume gets.
    pub next_volume: VolumeId,
    /// The opening that gave it away.
    pub incarnation: Incarnation,
    /// The checkpoint that gave it away.
    pub generation: Generation,
}

impl Given {
    /// The hand-over that gave it away.
    pub fn mark(&self) -> Mark {
        mark_of(&self.pool, self.incarnation)
    }
}

/// Reads what is known of a pool that the kernel has. Fails with `Invalid` if the kernel does not have it.
pub fn given(metadata: &mut dyn Disk) -> Result<Given> {
    let mut nothing = MemoryDisk::new(0);
    let found = recover_without_log(&mut Files::new(&mut nothing, metadata))?;
    let state = found.metadata;
    state.superblock.refuse_read_only()?;
    let settings = state.volumes.get(LOG_VOLUME).map(|record| record.properties.clone()).unwrap_or_default();
    let is_there = |record: &&VolumeRecord| record.has_name();
    Ok(Given {
        pool: state.superblock.pool,
        created_unix_s: state.superblock.created_unix_s,
        data_blocks: state.slot.data_blocks,
        volumes: state.volumes.iter().filter(is_there).cloned().collect(),
        settings,
        next_volume: state.next_volume,
        incarnation: found.incarnation,
        generation: state.slot.generation,
    })
}

/// A pool that is being made.
pub struct Adoption<'f> {
    files: Files<'f>,
    state: Metadata,
    incarnation: Incarnation,
    any_lost: bool,
}

impl<'f> Adoption<'f> {
    /// Begins on `data`, of whose blocks those in use hold data already, and on `metadata`, an empty disk that grows. A pool that was given
    /// to the kernel keeps its uuid, and everything that was made for it before is refused from then on.
    ///
    /// `create` says how large the pool is; its log gets less if there is no more room, and at least 1 MiB. Fails with `NoSpace` and the
    /// bytes that lack if there is no room for that.
    pub fn begin(
        data: &'f mut dyn Disk,
        metadata: &'f mut dyn Disk,
        create: &CreateOptions,
        given: Option<&Given>,
        nonce: u32,
        is_used: &dyn Fn(DataBlock) -> bool,
    ) -> Result<Self> {
        if create.data_blocks > DATA_BLOCKS_MAX {
            return Err(Error::new(ErrorKind::Limit, "a pool has at most 2^32 data blocks: 256 TiB"));
        }
        let log = place_log(create, is_used)?;
        let mut files = Files::new(data, metadata);
        let state = first_state(create, given, log)?;
        let pages = state.forest.page_counts.len();
        files.metadata.allocate(0, pages * PAGE_BYTES as u64)?;
        let size_bytes = create.data_blocks * BLOCK_BYTES;
        if files.data.size_bytes() < size_bytes {
            files.data.allocate(size_bytes - BLOCK_BYTES, BLOCK_BYTES)?;
        }
        let before = given.map_or(Incarnation(0), |given| given.incarnation);
        Ok(Self { files, state, incarnation: before.next(nonce), any_lost: false })
    }

    /// Whether the free blocks of a pool of this size hold a log.
    pub fn has_room(create: &CreateOptions, is_used: &dyn Fn(DataBlock) -> bool) -> bool {
        place_log(create, is_used).is_ok()
    }

    /// Adds a volume, whose number is above all before. It starts with the mappings of `base`, or with none.
    pub fn volume(&mut self, record: VolumeRecord, base: Option<VolumeId>) -> Result<()> {
        let building = self.state.forest.building;
        // Pages are new, so nobody can be told what changed since an earlier checkpoint.
        let record =
            VolumeRecord { root: None, generation_of_birth: building, in_place_since: building, ..record };
        record.check()?;
        let id = record.id;
        self.apply(&match base {
            None => Delta::Create { record },
            Some(base) => Delta::Snapshot { cuts: vec![(base, record)] },
        })?;
        self.state.volumes.change(id)?.in_place_since = building;
        Ok(())
    }

    /// Keeps a setting of the pool that the engine does nothing about; an empty value is none.
    pub fn keep_setting(&mut self, key: &str, value: &str) -> Result<()> {
        let record = self.state.volumes.change(LOG_VOLUME)?;
        record.properties.labels.retain(|(kept, _)| kept != key);
        if !value.is_empty() {
            record.properties.labels.push((key.to_owned(), value.to_owned()));
        }
        record.check()
    }

    /// Maps a block of a volume to all of a data block, whatever it was mapped to.
    pub fn map(
        &mut self,
        volume: VolumeId,
        virtual_block: VirtualBlock,
        data_block: DataBlock,
    ) -> Result<()> {
        self.apply(&Delta::Publish { volume, virtual_block, data_block, sectors: SectorMask::FULL, crc: 0 })
    }

    /// Blocks of a volume read as zeros.
    pub fn unmap(&mut self, volume: VolumeId, first: VirtualBlock, last: VirtualBlock) -> Result<()> {
        self.apply(&Delta::Unmap { volume, first, last })
    }

    /// A block of a volume cannot be told any more: it reads as an error.
    pub fn lose(&mut self, volume: VolumeId, virtual_block: VirtualBlock) -> Result<()> {
        self.any_lost = true;
        self.retried(|state| {
            let root = &mut state.volumes.change(volume)?.root;
            state.forest.lose(volume, root, virtual_block, SectorMask::FULL)
        })
    }

    /// Writes a data block that nothing in use holds. It is durable when [`Adoption::finish`] returns.
    pub fn write(&mut self, block: DataBlock, bytes: bytes::Bytes) -> Result<()> {
        self.files.data.write(block.offset_bytes(), bytes)
    }

    /// Unmaps what is behind the end of a volume, sectors of its last block too.
    pub fn cut(&mut self, volume: VolumeId, size_bytes: u64) -> Result<()> {
        let end = VirtualBlock::containing(size_bytes);
        let inside = SectorMask::range(0, ((size_bytes - end.offset_bytes()) / SECTOR_BYTES) as u32);
        let mut behind = end;
        if !inside.is_empty() {
            let sectors = SectorMask::FULL.without(inside);
            self.apply(&Delta::Clear { volume, virtual_block: end, sectors })?;
            behind.0 += 1;
        }
        self.unmap(volume, behind, VirtualBlock(LAST_KEY))
    }

    /// Makes it a pool, which no next volume gets a number below `next_volume` in.
    pub fn finish(mut self, next_volume: VolumeId) -> Result<()> {
        self.state.next_volume = self.state.next_volume.max(next_volume);
        let log = self.state.slot.log.clone();
        // What the caller wrote to the data file becomes durable with the log.
        write_log(&mut self.files, &self.state.superblock.pool, &log, self.incarnation)?;
        for _ in ROOT_SLOT_PAGES {
            self.checkpoint()?;
        }
        let mut superblock = self.state.superblock.clone();
        if self.any_lost {
            superblock.incompatible |= LOST_RANGES;
        }
        for page in SUPERBLOCK_PAGES {
            self.files.metadata.write(page.offset_bytes(), superblock.encode().freeze())?;
        }
        self.files.metadata.sync()
    }

    fn apply(&mut self, delta: &Delta) -> Result<()> {
        self.retried(|state| state.apply(delta))
    }

    fn retried(
        &mut self,
        mut action: impl FnMut(&mut Metadata) -> std::result::Result<(), Fault>,
    ) -> Result<()> {
        loop {
            match action(&mut self.state) {
                Ok(()) => break,
                Err(Fault::Missing(pointer)) => load_page(&mut self.files, &mut self.state, &pointer)?,
                Err(Fault::Failed(error)) if error.kind() == ErrorKind::NoSpace => self.grow(GROWTH_PAGES)?,
                Err(Fault::Failed(error)) => return Err(error),
            }
        }
        self.state.forest.events.clear();
        if self.state.forest.dirty_pages() > DIRTY_PAGES_MAX { self.checkpoint() } else { Ok(()) }
    }

    /// Writes what changed, so that it need not stay in memory. Without superblocks nobody takes it for a pool.
    fn checkpoint(&mut self) -> Result<()> {
        let needed = 2 * self.state.checkpoint_pages_at_most() as u64 + 64;
        let free = self.state.forest.pages.free_pages();
        if free < needed {
            // Counts of the new pages take pages themselves.
            self.grow((needed - free) * 2)?;
        }
        let facts = SlotFacts {
            incarnation: self.incarnation,
            sequence: Sequence(0),
            log_position: 0,
            clean: true,
            owner: Owner::default(),
        };
        let generation = write_now(&mut self.files, &mut self.state, facts)?;
        let forest = &mut self.state.forest;
        forest.pages.release(generation);
        forest.cache.tick();
        forest.bound_cache(CACHE_BYTES, generation, forest.cache.clock());
        Ok(())
    }

    fn grow(&mut self, pages: u64) -> Result<()> {
        let now = self.state.forest.page_counts.len();
        self.files.metadata.allocate(now * PAGE_BYTES as u64, pages * PAGE_BYTES as u64)?;
        self.state.forest.grow_pages(now + pages);
        Ok(())
    }
}

fn first_state(create: &CreateOptions, given: Option<&Given>, log: Vec<Extent>) -> Result<Metadata> {
    let (pool, created_unix_s) =
        given.map_or((create.uuid, create.created_unix_s), |given| (given.pool, given.created_unix_s));
    let superblock = Superblock::new(pool, create.secret, created_unix_s, create.data_blocks);
    let mut page_counts = Counts::new(FIRST_FREE_PAGE.0);
    for page in 0..FIRST_FREE_PAGE.0 {
        page_counts.increment(page)?;
    }
    assemble(Parts {
        superblock,
        slot: RootSlot { log, ..RootSlot::default() },
        records: Vec::new(),
        settings: given.map(|given| given.settings.clone()).unwrap_or_default(),
        next_volume: VolumeId(1),
        page_counts,
        data_counts: Counts::new(create.data_blocks),
        building: Generation(given.map_or(0, |given| given.generation.0) + 1),
    })
}

/// Free blocks for the log: as few pieces as can be, and as much of the wanted size as there is in them.
fn place_log(create: &CreateOptions, is_used: &dyn Fn(DataBlock) -> bool) -> Result<Vec<Extent>> {
    let wanted = create.log_blocks.max(1);
    let mut largest: Vec<Extent> = Vec::new();
    let mut block = 0;
    while block < create.data_blocks {
        let first = block;
        while block < create.data_blocks && block - first < wanted && !is_used(DataBlock(block)) {
            block += 1;
        }
        if block - first == wanted {
            return Ok(vec![Extent { first: DataBlock(first), blocks: wanted }]);
        }
        if block > first {
            largest.push(Extent { first: DataBlock(first), blocks: block - first });
            largest.sort_by_key(|extent| std::cmp::Reverse(extent.blocks));
            largest.truncate(LOG_EXTENTS_MAX);
        }
        block += 1;
    }
    let mut rest = wanted;
    for extent in &mut largest {
        extent.blocks = extent.blocks.min(rest);
        rest -= extent.blocks;
    }
    largest.retain(|extent| extent.blocks > 0);
    let least = wanted.min(LOG_BLOCKS_AT_LEAST);
    if wanted - rest < least {
        let message = format!(
            "the log needs {least} free blocks in at most {LOG_EXTENTS_MAX} pieces, and there are {}: make the data file or device {} bytes larger",
            wanted - rest,
            least * BLOCK_BYTES
        );
        return Err(Error::new(ErrorKind::NoSpace, message));
    }
    Ok(largest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::OpenOptions;
    use crate::pool::Pool;

    fn create(data_blocks: u64, log_blocks: u64) -> CreateOptions {
        CreateOptions { data_blocks, log_blocks, uuid: [3; 16], secret: 7, created_unix_s: 9 }
    }

    #[test]
    fn the_log_goes_where_nothing_is() {
        let log = |used: &[u64], data_blocks, wanted| {
            let placed = place_log(&create(data_blocks, wanted), &|block| used.contains(&block.0));
            placed.map(|log| log.iter().map(|extent| (extent.first.0, extent.blocks)).collect::<Vec<_>>())
        };
        assert_eq!(log(&[], 100, 20), Ok(vec![(0, 20)]));
        assert_eq!(log(&[0, 1, 25], 100, 20), Ok(vec![(2, 20)]));
        assert_eq!(log(&[0, 10, 22], 41, 30), Ok(vec![(23, 18), (11, 11), (1, 1)]));
        assert_eq!(log(&[0, 10, 22], 32, 30), Ok(vec![(11, 11), (1, 9), (23, 9)]));
        let error = log(&(0..90).collect::<Vec<_>>(), 100, 20).unwrap_err();
        assert!(error.kind() == ErrorKind::NoSpace && error.message().contains("1048576 bytes"), "{error}");
    }

    #[test]
    fn what_is_mapped_is_read_and_shared() {
        let mut data = MemoryDisk::new(64 * BLOCK_BYTES);
        for block in 0..8 {
            let bytes = vec![block as u8 + 1; BLOCK_BYTES as usize];
            crate::storage::Blocking::data(&mut data).write(block * BLOCK_BYTES, bytes.into()).unwrap();
        }
        let mut metadata = MemoryDisk::new(0);
        let adoption =
            Adoption::begin(&mut data, &mut metadata, &create(64, 4), None, 5, &|block| block.0 < 8);
        let mut adoption = adoption.unwrap();
        let record = |id: u64, name: &str| VolumeRecord {
            id: VolumeId(id),
            name: name.into(),
            uuid: [id as u8; 16],
            ..VolumeRecord::new_volume(1 << 20)
        };
        adoption.volume(record(1, "a"), None).unwrap();
        for block in 0..4 {
            adoption.map(VolumeId(1), VirtualBlock(block), DataBlock(block)).unwrap();
        }
        adoption.volume(record(4, "b"), Some(VolumeId(1))).unwrap();
        adoption.map(VolumeId(4), VirtualBlock(1), DataBlock(7)).unwrap();
        adoption.unmap(VolumeId(4), VirtualBlock(2), VirtualBlock(2)).unwrap();
        adoption.lose(VolumeId(4), VirtualBlock(3)).unwrap();
        adoption.finish(VolumeId(9)).unwrap();
        let report = crate::check(&mut data, &mut metadata, &mut |_| {}).unwrap();
        assert!(report.is_clean(), "{:?}", report.findings);
        let mut pool = Pool::open(data, metadata, &OpenOptions::default()).unwrap();
        let mut read =
            |volume, block: u64| pool.read(VolumeId(volume), block * BLOCK_BYTES, 1).map(|bytes| bytes[0]);
        assert_eq!([0, 1, 2, 3, 4].map(|block| read(1, block).unwrap()), [1, 2, 3, 4, 0]);
        assert_eq!([0, 1, 2].map(|block| read(4, block).unwrap()), [1, 8, 0]);
        assert_eq!(read(4, 3).unwrap_err().kind(), ErrorKind::Damaged);
        assert_eq!(pool.status().used_blocks, 4 + 1 + 4);
    }
}
