//! Device-mapper, live: pools and thin devices that the kernel has active, and the loop devices under them.
//!
//! Nothing here decides; it speaks with the kernel through the programs `dmsetup` and `losetup`, with explicit arguments and
//! no shell. `names` says what devices are called, `tables` what they are made of, `status` what the kernel tells; these
//! three are pure. `mapper` and `loops` run the programs, by `run`. Told in `docs/dm-thin.md`, Active in the kernel.

pub mod loops;
mod mapper;
mod names;
mod run;
mod status;
mod tables;

pub use mapper::{DeviceMapper, MappedDevice, active_pool};
pub use names::{
    MemberUuid, PREFIX_BYTES_MAX, pool_name, prefix_is_valid, prefix_of_directory, prefix_of_pool, thin_name,
};
pub use run::{Error, ErrorKind};
pub use status::{PoolMode, PoolState, PoolStatus, ThinStatus};
pub use tables::{PoolTable, thin_table};
