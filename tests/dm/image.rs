//! Metadata in memory, to be broken on purpose: blocks are changed and get their checksum back.

use vellum_dm_bridge::format::{BLOCK_BYTES, Block, Superblock, kind_of, seal};

pub struct Image {
    pub bytes: Vec<u8>,
}

impl Image {
    pub fn superblock(&self) -> Superblock {
        Superblock::decode(self.block(0), 0).expect("it is whole")
    }

    pub fn block(&self, number: u64) -> &Block {
        self.bytes.as_chunks::<BLOCK_BYTES>().0[number as usize].first_chunk().expect("a block")
    }

    /// Changes a block and mends its checksum.
    pub fn change(&mut self, number: u64, change: impl FnOnce(&mut Block)) {
        let block = &mut self.bytes.as_chunks_mut::<BLOCK_BYTES>().0[number as usize];
        let kind = kind_of(block).expect("it is whole");
        change(block);
        seal(block, kind);
    }

    pub fn put_u64(&mut self, number: u64, offset: usize, value: u64) {
        self.change(number, |block| block[offset..offset + 8].copy_from_slice(&value.to_le_bytes()));
    }

    pub fn put_u32(&mut self, number: u64, offset: usize, value: u32) {
        self.change(number, |block| block[offset..offset + 4].copy_from_slice(&value.to_le_bytes()));
    }

    pub fn u64(&self, number: u64, offset: usize) -> u64 {
        u64::from_le_bytes(*self.block(number)[offset..].first_chunk().expect("inside"))
    }

    pub fn u32(&self, number: u64, offset: usize) -> u32 {
        u32::from_le_bytes(*self.block(number)[offset..].first_chunk().expect("inside"))
    }

    /// The byte where value `at` of a node stands.
    pub fn value_offset(&self, node: u64, at: usize) -> usize {
        32 + 8 * self.u32(node, 20) as usize + self.u32(node, 24) as usize * at
    }

    /// The root of the mappings of the device at a place in the tree of devices, which is one leaf.
    pub fn device_root(&self, at: usize) -> u64 {
        let node = self.superblock().mapping_root;
        self.u64(node, self.value_offset(node, at))
    }

    /// A child of an internal node.
    pub fn child(&self, node: u64, at: usize) -> u64 {
        assert_eq!(self.u32(node, 4), 1, "block {node} is no internal node");
        self.u64(node, self.value_offset(node, at))
    }

    /// Sets the two bits of a block in the data space map.
    pub fn set_data_bits(&mut self, data_block: u64, raw: u8) {
        let index = self.superblock().data_space_map.bitmap_root;
        let bitmap = self.u64(index, self.value_offset(index, (data_block / 16320) as usize));
        self.set_bits(bitmap, data_block % 16320, raw);
    }

    pub fn set_metadata_bits(&mut self, block: u64, raw: u8) {
        let index = self.superblock().metadata_space_map.bitmap_root;
        let bitmap = self.u64(index, 16 + 16 * (block / 16320) as usize);
        self.set_bits(bitmap, block % 16320, raw);
    }

    /// `raw` as on the device: 1 stands for two, 2 for one.
    fn set_bits(&mut self, bitmap: u64, entry: u64, raw: u8) {
        self.change(bitmap, |block| {
            let byte = &mut block[16 + entry as usize / 4];
            let shift = entry % 4 * 2;
            *byte = *byte & !(3 << shift) | raw << shift;
        });
    }
}
