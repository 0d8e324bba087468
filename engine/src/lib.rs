//! A crash-proof thin pool with snapshots.
//!
//! A [`Pool`] is a data file and a metadata file. Volumes are sparse disks that share 64 KiB blocks with their snapshots
//! and clones. What was flushed survives a power loss, what was answered survives the death of the process; how and why
//! stands in `docs/format.md`.
//!
//! ```
//! use vellum_engine::options::{CreateOptions, OpenOptions};
//! use vellum_engine::request::NewVolume;
//! use vellum_engine::storage::MemoryDisk;
//! use vellum_engine::Pool;
//!
//! # fn main() -> vellum_engine::error::Result<()> {
//! let named = |name: &str, uuid| NewVolume { name: name.into(), uuid: [uuid; 16], created_unix_s: 0 };
//! let options = CreateOptions { data_blocks: 64, log_blocks: 2, uuid: [1; 16], secret: 42, created_unix_s: 0 };
//! let mut pool =
//!     Pool::create(MemoryDisk::new(0), MemoryDisk::new(0), &options, &OpenOptions::default())?;
//!
//! let disk = pool.create_volume(named("disk", 2), 1 << 30)?;
//! pool.write(disk, 1000, &b"before"[..])?;
//! let snapshot = pool.snapshot(disk, named("disk@monday", 3))?;
//! pool.write(disk, 1000, &b"after!"[..])?;
//! pool.flush()?;
//!
//! assert_eq!(pool.read(disk, 1000, 6)?, b"after!");
//! assert_eq!(pool.read(snapshot, 1000, 6)?, b"before");
//! # pool.close().map(drop)
//! # }
//! ```
//!
//! # Where things are
//!
//! [`pool`] carries requests ([`request`]) to the core in [`data_path`] and its operations to disks ([`storage`]);
//! [`metadata`] knows what is where; [`mod@format`] turns that into bytes and back. Nothing points back up. A program with
//! many requests at a time drives a [`Core`] itself: [`Core::submit`], [`Core::turn`], [`Core::next_operation`],
//! [`Core::complete`], [`Core::next_reply`].

#![deny(unsafe_code)]

pub mod adopt;
pub mod canary;
pub mod check;
pub mod data_path;
pub mod error;
pub mod format;
pub mod hand_over;
pub mod inspect;
pub mod metadata;
pub mod options;
pub mod picture;
pub mod pool;
pub mod repair;
pub mod request;
pub mod settings;
pub mod shrink_pool;
pub mod storage;
pub mod transfer;
pub mod units;

pub use check::check;
pub use data_path::{
    CollapseStatus, Core, MetadataState, PoolStatus, Rates, Shortage, Side, SpaceEvent, SpaceState,
    StallStatus, VolumeInfo, open,
};
pub use metadata::create;
pub use pool::Pool;
pub use repair::repair;
pub use shrink_pool::shrink_pool;
