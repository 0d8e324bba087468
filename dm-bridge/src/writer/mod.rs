//! Writes whole metadata from a stream: devices in order, their mappings in order.
//!
//! Owns the order of writes and what is refused. First a superblock that nobody accepts, so that neither a half-written device
//! nor an old superblock before new trees can be activated; an empty block would not do, for the kernel makes a new pool
//! of that. Then everything else, then a sync, then the superblock. Both space maps are exact. Memory goes with the data
//! blocks that are mapped (a byte each), not with the number of mappings.

mod blocks;
mod space_maps;
mod tree_builder;

pub use tree_builder::Packing;

use crate::device::Target;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{
    BLOCK_BYTES, Block, BlockTime, DATA_BLOCK_LIMIT, DEVICE_ID_LIMIT, DeviceDetails, ENTRIES_PER_BITMAP,
    MAX_METADATA_BLOCKS, Superblock, TIME_LIMIT, data_block_sectors_are_valid,
};
use crate::stream::{PoolHeader, Run, Sink};
use blocks::{OutBlocks, Tree};
use tree_builder::TreeBuilder;

/// What stands in block 0 while the rest is written.
const UNFINISHED: &[u8] = b"dm-thin metadata is being written here and is not complete\n";

/// Whose metadata it is while it is not finished; zeros for nobody's.
pub type Mark = [u8; 24];

/// The mark of the writer whose metadata on a device was not finished, by the first block of the device.
pub fn unfinished_mark(first_block: &[u8]) -> Option<Mark> {
    first_block.strip_prefix(UNFINISHED)?.first_chunk().copied()
}

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Thin devices.
    pub devices: u64,
    /// Mappings, each of one block.
    pub mappings: u64,
    /// Blocks of the metadata device that are in use now.
    pub metadata_blocks_used: u64,
    /// Blocks of the metadata device that dm-thin can use.
    pub metadata_blocks: u64,
    /// Data blocks with at least one owner.
    pub data_blocks_used: u64,
    /// How often a node was there already and got one more owner.
    pub shared_nodes: u64,
}

struct OpenDevice {
    id: u32,
    details: DeviceDetails,
    mappings: TreeBuilder,
    next_virtual: u64,
}

/// Takes a stream and writes it as metadata.
pub struct MetadataWriter<T> {
    out: OutBlocks<T>,
    metadata_blocks: u64,
    packing: Packing,
    mark: Mark,
    is_picture: bool,
    header: Option<PoolHeader>,
    devices: TreeBuilder,
    details: TreeBuilder,
    device: Option<OpenDevice>,
    next_device: u64,
    written: Written,
}

impl<T: Target> MetadataWriter<T> {
    /// Prepares writing to a device, whose size it takes: of more than 15.875 GiB, the part that dm-thin can use.
    /// Nothing is written before [`begin`](Sink::begin).
    pub fn new(target: T, packing: Packing) -> Result<Self> {
        let length = target.length_bytes().map_err(|error| Error::io(0, "asking for the size", error))?;
        let metadata_blocks = (length / BLOCK_BYTES as u64).min(MAX_METADATA_BLOCKS);
        Ok(Self {
            out: OutBlocks::new(target, metadata_blocks),
            metadata_blocks,
            packing,
            mark: [0; 24],
            is_picture: false,
            header: None,
            devices: TreeBuilder::new(Tree::Devices, Packing::Full),
            details: TreeBuilder::new(Tree::Details, Packing::Full),
            device: None,
            next_device: 0,
            written: Written::default(),
        })
    }

    /// Says whose the metadata is while it is not finished: see [`unfinished_mark`].
    pub fn with_mark(self, mark: Mark) -> Self {
        Self { mark, ..self }
    }

    /// The data belongs to somebody else: the kernel shall not write. It asks for a read-only device then, and as a second lock the
    /// metadata says that it needs a check.
    pub fn as_picture(self) -> Self {
        Self { is_picture: true, ..self }
    }

    /// What was written; complete once [`end`](Sink::end) has returned.
    pub fn written(&self) -> Written {
        self.written
    }

    /// Writes everything but the superblock, and makes it durable. For whoever has something to do before the kernel may take the pool;
    /// [`Sink::end`] does both.
    ///
    /// Fails as that does.
    pub fn prepare(&mut self) -> Result<Superblock> {
        if self.device.is_some() {
            return Err(invalid("the pool ends inside a device"));
        }
        let header = self.header()?.clone();
        let empty = || TreeBuilder::new(Tree::Devices, Packing::Full);
        let mapping_root = std::mem::replace(&mut self.devices, empty()).finish(&mut self.out)?;
        let details_root = std::mem::replace(&mut self.details, empty()).finish(&mut self.out)?;
        self.out.own(mapping_root);
        self.out.own(details_root);
        let data_space_map = space_maps::write_data_space_map(&mut self.out, header.nr_data_blocks)?;
        let metadata_space_map = space_maps::write_metadata_space_map(&mut self.out, self.metadata_blocks)?;
        self.no_space()?;
        self.written.metadata_blocks_used = self.out.next();
        self.written.metadata_blocks = self.metadata_blocks;
        self.written.data_blocks_used = data_space_map.nr_allocated;
        self.written.shared_nodes = self.out.shared_nodes;
        let superblock = Superblock {
            needs_check: self.is_picture,
            unknown_flags: 0,
            is_picture: self.is_picture,
            uuid: header.uuid,
            time: header.time,
            transaction_id: header.transaction_id,
            held_root: None,
            data_space_map,
            metadata_space_map,
            mapping_root,
            details_root,
            data_block_sectors: header.data_block_sectors,
            metadata_blocks_at_format: self.metadata_blocks,
        };
        self.out.sync()?;
        Ok(superblock)
    }

    /// Writes the superblock that [`MetadataWriter::prepare`] made. Until here nothing on the device is believed; from here on,
    /// all of it.
    pub fn commit(&mut self, superblock: &Superblock) -> Result<()> {
        self.out.write_first(&superblock.encode(0))
    }

    /// Writes a first block that nobody takes for a superblock, and makes it durable. After a [`MetadataWriter::commit`] that failed
    /// the superblock may be there or not; after this it is not.
    pub fn retract(&mut self) -> Result<()> {
        let mut first: Block = [0; BLOCK_BYTES];
        first[..UNFINISHED.len()].copy_from_slice(UNFINISHED);
        first[UNFINISHED.len()..][..self.mark.len()].copy_from_slice(&self.mark);
        self.out.write_first(&first)
    }

    /// The device, to be read.
    pub fn target(&self) -> &T {
        self.out.target()
    }

    fn header(&self) -> Result<&PoolHeader> {
        self.header.as_ref().ok_or_else(|| invalid("a device before the pool"))
    }

    fn device(&mut self) -> Result<&mut OpenDevice> {
        self.device.as_mut().ok_or_else(|| invalid("mappings without a device"))
    }

    fn no_space(&self) -> Result<()> {
        if !self.out.is_full() {
            return Ok(());
        }
        let needed = self.out.next();
        let message = format!(
            "the metadata takes {needed} blocks ({} bytes), and the device has {} that can be used ({} bytes)",
            needed * BLOCK_BYTES as u64,
            self.metadata_blocks,
            self.metadata_blocks * BLOCK_BYTES as u64
        );
        let kind = if needed > MAX_METADATA_BLOCKS { ErrorKind::Limit } else { ErrorKind::NoSpace };
        Err(Error::new(kind, message))
    }
}

impl<T: Target> Sink for MetadataWriter<T> {
    /// Fails with `Invalid` or `Limit` if there can be no such pool, and with `NoSpace` if its empty space map alone does not
    /// fit; then nothing was written.
    fn begin(&mut self, header: &PoolHeader) -> Result<()> {
        check_header(header)?;
        let bitmaps = header.nr_data_blocks.div_ceil(ENTRIES_PER_BITMAP);
        // Two roots, two trees and a tree of counts, an index, and at least one bitmap of the device itself.
        let needed = bitmaps + bitmaps.div_ceil(168) + 7;
        if needed > self.metadata_blocks {
            let message = format!(
                "counting {} data blocks takes at least {needed} metadata blocks, and the device has {} that can be used",
                header.nr_data_blocks, self.metadata_blocks
            );
            let kind = if needed > MAX_METADATA_BLOCKS { ErrorKind::Limit } else { ErrorKind::NoSpace };
            return Err(Error::new(kind, message));
        }
        if self.header.replace(header.clone()).is_some() {
            return Err(invalid("a second pool"));
        }
        self.retract()
    }

    /// The number of mapped blocks in `details` is not used: mappings are counted.
    fn device(&mut self, id: u32, details: &DeviceDetails) -> Result<()> {
        self.header()?;
        let number = u64::from(id);
        let refuse = |message: String| Err(invalid(message).with_device(number));
        if self.device.is_some() {
            return refuse("a device inside another".into());
        }
        if number >= DEVICE_ID_LIMIT {
            return refuse(format!("numbers of devices end at {}", DEVICE_ID_LIMIT - 1));
        }
        if number < self.next_device {
            return refuse(format!("device {id} after device {}", self.next_device - 1));
        }
        let mappings = TreeBuilder::new(Tree::Mappings, self.packing);
        self.device = Some(OpenDevice {
            id,
            details: DeviceDetails { mapped_blocks: 0, ..*details },
            mappings,
            next_virtual: 0,
        });
        Ok(())
    }

    fn run(&mut self, run: &Run) -> Result<()> {
        let header = self.header()?;
        let (limit, pool_time) = (header.nr_data_blocks, header.time);
        let device = self.device.as_mut().ok_or_else(|| invalid("mappings without a device"))?;
        check_run(run, device, limit, pool_time).map_err(|error| error.with_device(device.id.into()))?;
        for step in 0..run.length {
            let value = BlockTime { block: run.data_begin + step, time: run.time }.pack();
            device.mappings.push(run.virtual_begin + step, &value.to_le_bytes(), &mut self.out)?;
        }
        device.next_virtual = run.virtual_begin + run.length;
        device.details.mapped_blocks += run.length;
        Ok(())
    }

    fn device_end(&mut self) -> Result<()> {
        let device = self.device()?;
        let id = u64::from(device.id);
        let OpenDevice { details, mappings, .. } =
            self.device.take().ok_or_else(|| invalid("mappings without a device"))?;
        let root = mappings.finish(&mut self.out)?;
        self.devices.push(id, &root.to_le_bytes(), &mut self.out)?;
        self.details.push(id, &details.encode(), &mut self.out)?;
        self.next_device = id + 1;
        self.written.devices += 1;
        self.written.mappings += details.mapped_blocks;
        Ok(())
    }

    /// Fails with `NoSpace`, or `Limit` if no device is large enough, and says how many blocks it takes; the device then has
    /// a superblock that nobody accepts.
    fn end(&mut self) -> Result<()> {
        let superblock = self.prepare()?;
        self.commit(&superblock)
    }
}

fn check_header(header: &PoolHeader) -> Result<()> {
    let sectors = header.data_block_sectors;
    if !data_block_sectors_are_valid(sectors) {
        return Err(invalid(format!(
            "data blocks of {sectors} sectors; dm-thin has 128 to 2097152, in steps of 128"
        )));
    }
    if header.nr_data_blocks > DATA_BLOCK_LIMIT {
        let message =
            format!("{} data blocks; dm-thin has at most {DATA_BLOCK_LIMIT}", header.nr_data_blocks);
        return Err(Error::new(ErrorKind::Limit, message));
    }
    Ok(())
}

fn check_run(run: &Run, device: &OpenDevice, nr_data_blocks: u64, pool_time: u32) -> Result<()> {
    if run.length == 0 {
        return Err(invalid("a run of no blocks"));
    }
    if run.virtual_begin < device.next_virtual {
        let message = format!("virtual block {} after {}", run.virtual_begin, device.next_virtual - 1);
        return Err(invalid(message));
    }
    // The end itself must be a number, because the next run is compared with it.
    if run.virtual_begin.checked_add(run.length).is_none() {
        return Err(invalid(format!("{} blocks from virtual block {} on", run.length, run.virtual_begin)));
    }
    if run.data_begin.checked_add(run.length).is_none_or(|end| end > nr_data_blocks) {
        let message =
            format!("{} blocks from data block {} on, of {nr_data_blocks}", run.length, run.data_begin);
        return Err(invalid(message));
    }
    if run.time > pool_time || run.time >= TIME_LIMIT {
        let message =
            format!("a mapping of time {} in a pool of time {pool_time}; times end at 16777215", run.time);
        return Err(invalid(message));
    }
    Ok(())
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, message)
}
