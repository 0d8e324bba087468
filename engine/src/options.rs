//! Every setting of a pool, with its default spelled out.
//!
//! Owns defaults and their limits. Knows units only.

/// What a new pool is made with. Stays with the pool.
#[derive(Clone, Debug)]
pub struct CreateOptions {
    /// Data blocks of 64 KiB that the pool may use, log included.
    pub data_blocks: u64,
    /// Data blocks that the log takes. At least 1; [`CreateOptions::log_blocks_for`] sizes it to a pool.
    pub log_blocks: u64,
    /// The pool's uuid. Comes from outside, as all randomness does.
    pub uuid: [u8; 16],
    /// Seeds the checksums of log records, so that no user data can pass for one. Must be random.
    pub secret: u64,
    /// When the pool is made, in seconds since 1970.
    pub created_unix_s: u64,
}

impl CreateOptions {
    /// A log of 1/256 of the pool, from 4 MiB to 256 MiB, and never more than a quarter of a tiny pool.
    pub fn log_blocks_for(data_blocks: u64) -> u64 {
        (data_blocks / 256).clamp(64, 4096).min(data_blocks / 4).max(1)
    }
}

/// How a pool is run. May differ from opening to opening.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// Published data that recovery may have to check, in bytes. A proof is asked for at half of it.
    pub unproven_limit_bytes: u64,
    /// What was appended to the log is made durable and proven after this much time, in milliseconds.
    pub proof_after_ms: u64,
    /// Log records whose writes run at the same time.
    pub log_writes_in_flight: usize,
    /// Data blocks made ready (allocated and synced) at a time.
    pub slab_blocks: u64,
    /// Free blocks that stay on the host for the next writes; what is freed beyond that is punched.
    pub recycle_blocks: u64,
    /// Free blocks that stay on the host while nobody writes, so that the next write does not wait for one.
    pub spare_blocks: u64,
    /// After so much time without a new block what is kept beyond the reserve goes back to the host, in milliseconds.
    pub reclaim_after_ms: u64,
    /// Rest between two punches while somebody uses the pool, in milliseconds.
    pub punch_rest_ms: u64,
    /// Free blocks that are written with zeros before they are given out, while syncs are frequent; 0 for none.
    pub written_ahead_blocks: u64,
    /// The data is on a block device: what is made ready there takes nothing of the host until it is written, and no journal notes the first
    /// write, so nothing is written ahead. That is believed of one opening: what an earlier one left there is found by a trim.
    pub data_is_device: bool,
    /// Syncs and new blocks after which it is judged anew whether syncs are frequent.
    pub sync_window: u64,
    /// Mappings that one slice of a discard or deletion takes down.
    pub slice_mappings: u64,
    /// Bytes that joining layers in the background may copy in a second, on average; 0 for none.
    pub collapse_bytes_per_s: u64,
    /// Changed metadata pages that start a checkpoint.
    pub checkpoint_pages: usize,
    /// Memory for pages of mappings that a disk has too, in bytes. Pages that the next checkpoint will write come on top:
    /// at most twice `checkpoint_pages`, of 8 KiB at most. A single range that needs more pages at a time is served, too.
    pub cache_bytes: usize,
    /// Pages by which the metadata file grows.
    pub metadata_step_pages: u64,
    /// Requests of volumes with limits wait for their turn; whoever opens the pool has to call
    /// [`crate::data_path::Core::turn`] at the time that [`crate::data_path::Core::wants_turn_at_ms`] names.
    pub enforce_limits: bool,
    /// Whether anybody can make room while a write waits for it: others ask too, or the pool grows by itself. If not,
    /// writes that find no room fail at once.
    pub can_wait: bool,
    /// Marks this opening, so that records of two copies of a pool are never taken for one log. Must be random.
    pub nonce: u32,
    /// Who opens the pool; stands in the root slot while it is open.
    pub owner: Owner,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            unproven_limit_bytes: 64 << 20,
            proof_after_ms: 1000,
            log_writes_in_flight: 2,
            slab_blocks: 1024,
            recycle_blocks: 1024,
            spare_blocks: 8,
            reclaim_after_ms: 1000,
            punch_rest_ms: 20,
            written_ahead_blocks: 128,
            data_is_device: false,
            sync_window: 64,
            slice_mappings: 64 * 1024,
            collapse_bytes_per_s: 32 << 20,
            checkpoint_pages: 4096,
            cache_bytes: 64 << 20,
            metadata_step_pages: 256,
            enforce_limits: false,
            can_wait: false,
            nonce: 0,
            owner: Owner::default(),
        }
    }
}

/// Who has a pool: enough for a person to find the process, and for a program to see that it is gone.
#[derive(Clone, Debug, Default, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct Owner {
    /// Name of the host.
    pub host: String,
    /// The host's boot id.
    pub boot_id: [u8; 16],
    /// The process on that host; 0 for "nobody".
    pub pid: u32,
    /// The kernel's dm-thin has the data file; nobody else may write.
    pub kernel: bool,
}
