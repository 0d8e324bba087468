//! A pool as XML, in the words of thin_dump and thin_restore.
//!
//! Owns the names of elements and attributes. What is written is the subset that thin_restore takes in versions 0.9 and 1.x:
//! no declaration, flat, sorted, no empty-element devices. What is read is both dialects.

mod read;
mod write;

pub use read::{Corrected, read_xml};
pub use write::XmlWriter;

const SUPERBLOCK: &str = "superblock";
const DEVICE: &str = "device";
const DEF: &str = "def";
const REF: &str = "ref";
const SINGLE_MAPPING: &str = "single_mapping";
const RANGE_MAPPING: &str = "range_mapping";
const VERSION: u64 = 2;
