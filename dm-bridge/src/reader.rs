//! Reads metadata: the pool, its devices in order, and the mappings of a device in order, as runs.
//!
//! Owns the two ways of reading. Strict reading stops at the first thing that is wrong. Lenient reading gives what can be read
//! and tells for each device what is lost; where something is, it searches for nodes that nothing points at (`search/`). Memory
//! is a few nodes, whatever the size, but for the search; a subtree that devices share is read for each of them. Nothing is ever written.

use crate::device::{Blocks, Source};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{
    BlockTime, BtreeNode, DEVICE_ID_LIMIT, DeviceDetails, NodeFlags, Superblock, data_block_sectors_are_valid,
};
use crate::search::{Found, search};
use crate::stream::{PoolHeader, Run, Sink};
use crate::tree::{Entries, LostKeys, Row, TreeWalk};
use std::sync::OnceLock;

/// Opened metadata.
#[derive(Debug)]
pub struct Metadata<S> {
    blocks: Blocks<S>,
    superblock: Superblock,
    is_snapshot: bool,
    nr_data_blocks: u64,
    lenient: bool,
    found: OnceLock<Found>,
}

/// A thin device as metadata has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its number.
    pub id: u32,
    /// What the pool knows of it. Lenient reading gives zeros for what is lost.
    pub details: DeviceDetails,
    /// Root of its mappings. `None` only in lenient reading: the mappings are lost.
    pub root: Option<u64>,
}

/// Virtual blocks of a device whose mappings could not be read. They may have been mapped or not.
#[derive(Debug)]
pub struct LostRange {
    /// First virtual block.
    pub first: u64,
    /// Last virtual block; the largest number if the end of the device was lost.
    pub last: u64,
    /// What is wrong.
    pub error: Error,
}

/// What lenient reading could not read.
#[derive(Debug, Default)]
pub struct Salvage {
    /// Devices with lost ranges.
    pub devices: Vec<(u32, Vec<LostRange>)>,
    /// Ranges of device numbers where devices may have been, and why they cannot be read.
    pub device_numbers: Vec<LostRange>,
    /// Devices with mappings that nothing points at any more and that were searched for, and how many they are.
    pub found: Vec<(u32, u64)>,
}

impl Salvage {
    /// Whether everything was read, and nothing had to be searched for.
    pub fn is_whole(&self) -> bool {
        self.devices.is_empty() && self.device_numbers.is_empty() && self.found.is_empty()
    }
}

impl<S: Source> Metadata<S> {
    /// Opens the metadata of a pool that is not active.
    ///
    /// Fails with `Unsupported` if it is none, with `Damaged` if its superblock is.
    pub fn open(source: S) -> Result<Self> {
        Self::open_at(source, false)
    }

    /// Opens the metadata snapshot, which may be read while the kernel uses the pool.
    ///
    /// Fails with `Invalid` if there is none.
    pub fn open_snapshot(source: S) -> Result<Self> {
        Self::open_at(source, true)
    }

    fn open_at(source: S, snapshot: bool) -> Result<Self> {
        let blocks = Blocks::new(source)?;
        let live = Superblock::decode(&*blocks.read(0)?, 0)?;
        // The snapshot's own space maps are zeros, and devices only grow.
        let nr_data_blocks = live.data_space_map.nr_blocks;
        let superblock = match (snapshot, live.held_root) {
            (false, _) => live,
            (true, Some(root)) => Superblock::decode(&*blocks.read(root)?, root)?,
            (true, None) => return Err(Error::new(ErrorKind::Invalid, "the pool has no metadata snapshot")),
        };
        Ok(Self {
            blocks,
            superblock,
            is_snapshot: snapshot,
            nr_data_blocks,
            lenient: false,
            found: OnceLock::new(),
        })
    }

    /// Reads past damage from now on, and searches for what nothing leads to any more if something is lost.
    pub fn lenient(mut self) -> Self {
        self.lenient = true;
        self
    }

    /// What lenient reading has found by searching; it searches when this is first asked.
    fn found(&self) -> Option<&Found> {
        // Beside a metadata snapshot the pool may be active, and then what is not the snapshot's changes.
        let searches = self.lenient && !self.is_snapshot;
        searches.then(|| self.found.get_or_init(|| search(&self.blocks, &self.superblock)))
    }

    /// The superblock that reading starts from.
    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// The pool in the words of a stream. Strict reading fails with `Damaged` if the kernel could have no such pool.
    pub fn header(&self) -> Result<PoolHeader> {
        let superblock = &self.superblock;
        let sectors = superblock.data_block_sectors;
        if !self.lenient && !data_block_sectors_are_valid(sectors) {
            return Err(Error::damaged(0, 336, format!("data blocks cannot have {sectors} sectors")));
        }
        Ok(PoolHeader {
            uuid: superblock.uuid,
            time: superblock.time,
            transaction_id: superblock.transaction_id,
            needs_check: superblock.needs_check,
            data_block_sectors: sectors,
            nr_data_blocks: self.nr_data_blocks,
        })
    }

    /// The devices in the order of their numbers.
    ///
    /// Strict reading fails with `Damaged` if the tree of devices and that of details do not have the same keys.
    pub fn devices(&self) -> Devices<'_, S> {
        let walk = |root, bytes| Entries::new(TreeWalk::new(&self.blocks, root, bytes, self.lenient));
        Devices {
            roots: walk(self.superblock.mapping_root, 8),
            details: walk(self.superblock.details_root, DeviceDetails::BYTES),
            next_root: None,
            next_details: None,
            started: false,
            failed: false,
            lenient: self.lenient,
            found: self.found(),
            impossible: Vec::new(),
        }
    }

    /// The mappings of a device in the order of virtual blocks.
    pub fn runs(&self, device: &Device) -> Runs<'_, S> {
        let found = self.found();
        let walk = |root| TreeWalk::new(&self.blocks, root, BlockTime::BYTES, self.lenient).with_found(found);
        let found_root = found.and_then(|found| found.roots.get(&device.id)).copied();
        Runs {
            walk: device.root.map(walk),
            is_found: found_root.is_some() && found_root == device.root,
            found: 0,
            device: device.id,
            nr_data_blocks: self.nr_data_blocks,
            leaf: None,
            at: 0,
            pending: None,
            lost: Vec::new(),
            lenient: self.lenient,
        }
    }

    /// The root of a device's mappings, and the nodes right below it: those that a device shares it has in common with others.
    pub fn upper_nodes(&self, device: &Device) -> Result<Vec<u64>> {
        let Some(root) = device.root else { return Ok(Vec::new()) };
        let node = self.blocks.read(root).and_then(|bytes| BtreeNode::decode(bytes, root, BlockTime::BYTES));
        let node = node.map_err(|error| error.with_device(device.id.into()))?;
        let below = if node.flags() == NodeFlags::Internal { node.len() } else { 0 };
        // An empty root says nothing about what is shared.
        let own = (!node.is_empty()).then_some(root);
        Ok(own.into_iter().chain((0..below).map(|at| node.value_u64(at))).collect())
    }

    /// Gives the whole pool to `sink`, and tells what lenient reading passed over.
    pub fn copy_to(&self, sink: &mut impl Sink) -> Result<Salvage> {
        let mut salvage = Salvage::default();
        sink.begin(&self.header()?)?;
        let mut devices = self.devices();
        for device in &mut devices {
            let device = device?;
            let copied = self.copy_device(&device, sink);
            let (mut lost, found) = copied.map_err(|error| error.with_device(device.id.into()))?;
            if found > 0 {
                salvage.found.push((device.id, found));
            }
            if device.root.is_none() {
                let error = Error::new(ErrorKind::Damaged, "the tree of devices does not have this one");
                lost.push(LostRange { first: 0, last: u64::MAX, error: error.with_device(device.id.into()) });
            }
            if !lost.is_empty() {
                salvage.devices.push((device.id, lost));
            }
        }
        salvage.device_numbers = devices.take_lost();
        sink.end()?;
        Ok(salvage)
    }

    fn copy_device(&self, device: &Device, sink: &mut impl Sink) -> Result<(Vec<LostRange>, u64)> {
        let mut details = device.details;
        if self.lenient {
            // The number comes before the mappings, so what can be read is counted first.
            details.mapped_blocks = self.runs(device).flatten().map(|run| run.length).sum();
        }
        sink.device(device.id, &details)?;
        let mut runs = self.runs(device);
        let mut mapped_blocks = 0;
        while let Some(run) = runs.next().transpose()? {
            mapped_blocks += run.length;
            sink.run(&run)?;
        }
        self.require_count(device, mapped_blocks)?;
        sink.device_end()?;
        Ok((runs.take_lost(), runs.found()))
    }

    /// Unless reading is lenient: `Damaged` if a device has not as many mapped blocks as the pool counts.
    pub(crate) fn require_count(&self, device: &Device, mapped_blocks: u64) -> Result<()> {
        let told = device.details.mapped_blocks;
        if self.lenient || told == mapped_blocks {
            return Ok(());
        }
        let message = format!("the details have {told} mapped blocks, the mappings {mapped_blocks}");
        Err(Error::new(ErrorKind::Damaged, message).with_device(device.id.into()))
    }
}

/// Devices of a pool, in order.
pub struct Devices<'a, S> {
    roots: Entries<'a, S>,
    details: Entries<'a, S>,
    next_root: Option<Row<u64>>,
    next_details: Option<Row<DeviceDetails>>,
    started: bool,
    failed: bool,
    lenient: bool,
    found: Option<&'a Found>,
    impossible: Vec<LostRange>,
}

impl<S: Source> Devices<'_, S> {
    /// Ranges of device numbers that lenient reading passed over.
    pub fn take_lost(&mut self) -> Vec<LostRange> {
        let mut lost = self.roots.take_lost();
        lost.extend(self.details.take_lost());
        lost.into_iter().map(LostRange::from).chain(self.impossible.drain(..)).collect()
    }

    fn fetch_root(&mut self) -> Result<()> {
        let row = self.roots.next::<8>()?;
        self.next_root = row.map(|(key, value, block, byte)| (key, u64::from_le_bytes(value), block, byte));
        Ok(())
    }

    fn fetch_details(&mut self) -> Result<()> {
        let row = self.details.next::<{ DeviceDetails::BYTES }>()?;
        self.next_details =
            row.map(|(key, value, block, byte)| (key, DeviceDetails::decode(&value), block, byte));
        Ok(())
    }

    fn step(&mut self) -> Result<Option<Device>> {
        if !self.started {
            self.started = true;
            self.fetch_root()?;
            self.fetch_details()?;
        }
        loop {
            let (root, details) = (self.next_root, self.next_details);
            let Some(id) = root.map(|row| row.0).into_iter().chain(details.map(|row| row.0)).min() else {
                return Ok(None);
            };
            let root = root.filter(|row| row.0 == id);
            let details = details.filter(|row| row.0 == id);
            if root.is_some() {
                self.fetch_root()?;
            }
            if details.is_some() {
                self.fetch_details()?;
            }
            match device_of(id, root, details) {
                Err(error) if !self.lenient => return Err(error),
                Err(error) if id >= DEVICE_ID_LIMIT => {
                    self.impossible.push(LostRange { first: id, last: id, error });
                }
                _ => {
                    let details = details.map(|row| row.1).unwrap_or_default();
                    let found = self.found.and_then(|found| found.roots.get(&(id as u32))).copied();
                    return Ok(Some(Device {
                        id: id as u32,
                        details,
                        root: root.map(|row| row.1).or(found),
                    }));
                }
            }
        }
    }
}

/// Fails with what is wrong about a row of the two trees.
fn device_of(id: u64, root: Option<Row<u64>>, details: Option<Row<DeviceDetails>>) -> Result<()> {
    let (block, byte) =
        root.map(|row| (row.2, row.3)).or(details.map(|row| (row.2, row.3))).unwrap_or_default();
    let damaged = |message: &str| Err(Error::damaged(block, byte, message).with_device(id));
    if id >= DEVICE_ID_LIMIT {
        return damaged("numbers of devices end at 16777215");
    }
    match (root, details) {
        (Some(_), Some(_)) => Ok(()),
        (None, _) => damaged("the device has details and no mappings"),
        (_, None) => damaged("the device has mappings and no details"),
    }
}

impl<S: Source> Iterator for Devices<'_, S> {
    type Item = Result<Device>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let result = self.step().transpose();
        self.failed = matches!(result, Some(Err(_)));
        result
    }
}

impl From<LostKeys> for LostRange {
    fn from(lost: LostKeys) -> Self {
        Self { first: lost.first, last: lost.last, error: lost.error }
    }
}

/// Mappings of a device, in order.
pub struct Runs<'a, S> {
    walk: Option<TreeWalk<'a, S>>,
    /// Whether the whole device was found by searching.
    is_found: bool,
    found: u64,
    device: u32,
    nr_data_blocks: u64,
    leaf: Option<(u64, BtreeNode)>,
    at: usize,
    pending: Option<Run>,
    lost: Vec<LostRange>,
    lenient: bool,
}

impl<S: Source> Runs<'_, S> {
    /// How many mappings until now were found by searching.
    pub fn found(&self) -> u64 {
        self.found
    }

    /// What lenient reading passed over until now.
    pub fn take_lost(&mut self) -> Vec<LostRange> {
        let mut lost = std::mem::take(&mut self.lost);
        if let Some(walk) = &mut self.walk {
            lost.extend(walk.take_lost().into_iter().map(LostRange::from));
        }
        for range in &mut lost {
            let error = std::mem::replace(&mut range.error, Error::new(ErrorKind::Damaged, ""));
            range.error = error.with_device(self.device.into());
        }
        lost.sort_by_key(|range| range.first);
        lost
    }

    fn step(&mut self) -> Result<Option<Run>> {
        while let Some(next) = self.next_mapping()? {
            match &mut self.pending {
                Some(run) if run.is_continued_by(&next) => run.length += 1,
                pending => {
                    if let Some(run) = pending.replace(next) {
                        return Ok(Some(run));
                    }
                }
            }
        }
        Ok(self.pending.take())
    }

    fn next_mapping(&mut self) -> Result<Option<Run>> {
        loop {
            if let Some((block, node)) = self.leaf.as_ref().filter(|(_, node)| self.at < node.len()) {
                let (block, at) = (*block, self.at);
                self.at += 1;
                let (key, value) = (node.key(at), BlockTime::unpack(node.value_u64(at)));
                if value.block < self.nr_data_blocks {
                    let BlockTime { block, time } = value;
                    return Ok(Some(Run { virtual_begin: key, data_begin: block, length: 1, time }));
                }
                let error = beyond_data(&value, self.nr_data_blocks, block, node.value_offset(at));
                self.lose(key, error)?;
                continue;
            }
            let Some(walk) = &mut self.walk else { return Ok(None) };
            self.leaf = walk.next_leaf()?;
            self.at = 0;
            let Some((_, leaf)) = &self.leaf else { return Ok(None) };
            if self.is_found || walk.is_at_found() {
                self.found += leaf.len() as u64;
            }
        }
    }

    fn lose(&mut self, key: u64, error: Error) -> Result<()> {
        if !self.lenient {
            return Err(error);
        }
        match self.lost.last_mut() {
            Some(range) if range.last.checked_add(1) == Some(key) => range.last = key,
            _ => self.lost.push(LostRange { first: key, last: key, error }),
        }
        Ok(())
    }
}

pub(crate) fn beyond_data(value: &BlockTime, nr_data_blocks: u64, block: u64, byte: usize) -> Error {
    let message = format!("a mapping to data block {} of {nr_data_blocks}", value.block);
    Error::damaged(block, byte, message)
}

impl<S: Source> Iterator for Runs<'_, S> {
    type Item = Result<Run>;

    fn next(&mut self) -> Option<Self::Item> {
        let result = self.step().map_err(|error| error.with_device(self.device.into()));
        if result.is_err() {
            self.walk = None;
            self.leaf = None;
            self.pending = None;
        }
        result.transpose()
    }
}
