//! The kernel's dm-thin, as far as its metadata goes: read, written, checked, dumped and restored by our own code.
//!
//! `format` has the bytes. [`Metadata`] reads, [`MetadataWriter`] writes; between them goes a stream
//! of devices and runs ([`Sink`]), which XML speaks too ([`XmlWriter`], [`read_xml`]). [`check`] believes nothing.
//! Told in `docs/dm-thin.md`.

mod check;
mod counts;
mod device;
mod error;
pub mod export;
pub mod format;
pub mod import;
pub mod live;
pub mod picture;
mod reader;
mod search;
mod stream;
mod tree;
mod writer;
mod xml;

pub use check::{Cost, Defect, DeviceRange, Finding, Report, check};
pub use device::{Source, Target, WithFirst};
pub use error::{Error, ErrorKind, Place, Result};
pub use reader::{Device, Devices, LostRange, Metadata, Runs, Salvage};
pub use stream::{PoolHeader, Run, Sink};
pub use writer::{MetadataWriter, Packing, Written, unfinished_mark};
pub use xml::{Corrected, XmlWriter, read_xml};
