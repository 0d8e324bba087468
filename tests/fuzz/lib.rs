//! What the fuzz targets share: pages made of fuzzer bytes, and checksums put right so that decoders go on behind them.
//!
//! Every target holds its decoder to the same two promises: no bytes make it panic, and what it accepts can be written
//! again and reads as the same. The targets are in `fuzz_targets/`, one a decoder.

use vellum_engine::format::{PageHeader, Pointer, Reader, crc32};

/// The pool that all structures made here belong to.
pub const POOL: [u8; 16] = *b"the fuzzer's own";
/// The secret of that pool.
pub const SECRET: u64 = 0x5ec2_e700_5ec2_e700;

/// `data` cut or filled up with zeros to `length` bytes.
pub fn padded(data: &[u8], length: usize) -> Vec<u8> {
    let mut bytes = data[..data.len().min(length)].to_vec();
    bytes.resize(length, 0);
    bytes
}

/// Overwrites the bytes at `offset`.
pub fn put(bytes: &mut [u8], offset: usize, field: &[u8]) {
    bytes[offset..offset + field.len()].copy_from_slice(field);
}

/// Makes the first four bytes the checksum of the rest.
pub fn fix_front_checksum(bytes: &mut [u8]) {
    let checksum = crc32(&bytes[4..]);
    put(bytes, 0, &checksum.to_le_bytes());
}

/// Makes the last four of the first 512 bytes the checksum of those before.
pub fn fix_tail_checksum(bytes: &mut [u8]) {
    let checksum = crc32(&bytes[..508]);
    put(bytes, 508, &checksum.to_le_bytes());
}

/// The pointer that a parent of the page in `bytes` would have.
pub fn pointer_to(header: &PageHeader, bytes: &[u8]) -> Pointer {
    let checksum = Reader::new(bytes).u32().expect("a page has a checksum");
    let PageHeader { number, copy, generation, .. } = *header;
    Pointer { page: number, copy, generation, checksum, mapped: 0 }
}
