//! What a run is like: the pool, how it is opened, the clients, and where it is cut.
//!
//! Owns the mix of seeds. Small numbers everywhere, so that every mechanism of the engine is met within a few
//! dozen requests: the log goes round, checkpoints run, space runs out, slices end in the middle.

use crate::model::{End, Tolerance};
use crate::rng::Rng;
use crate::workload::{Op, WorkloadConfig, crowd, generate};
use vellum_engine::options::{CreateOptions, OpenOptions};

/// Everything about a run but its requests.
#[derive(Clone, Debug)]
pub struct RunConfig {
    /// Decides everything.
    pub seed: u64,
    /// How the pool is made.
    pub create: CreateOptions,
    /// How the pool is opened.
    pub open: OpenOptions,
    /// What the clients ask for.
    pub workload: WorkloadConfig,
    /// Whether the pool and its hosts run short of space, and writes wait for it.
    pub crowded: bool,
    /// Which errors are right.
    pub tolerance: Tolerance,
    /// The core has its turn at one in so many steps.
    pub turn_one_in: u64,
    /// Requests in flight at most.
    pub in_flight: usize,
    /// Whether unsynced units may come out mixed (mode `writeback`).
    pub byte_mixing: bool,
    /// Cut a copy of the machine at one in so many disk events; 0 for never.
    pub cut_one_in: u64,
    /// Out of so many cuts one cuts the recovery too.
    pub recovery_cut_one_in: u64,
    /// Out of so many cuts one is followed by a second one right after the recovery.
    pub second_cut_one_in: u64,
    /// Out of so many cuts one is followed by `check`.
    pub check_one_in: u64,
    /// One in so many requests ends the opening for good; the run goes on with what is left. 0 for never.
    pub end_one_in: u64,
}

impl RunConfig {
    /// A run without any end, in which nothing may fail.
    pub fn quiet(seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0x0c0f_f19e);
        // Numbers of their own, so that a seed stands for the same run as before these options came.
        let mut own = Rng::new(!seed);
        let (written_ahead_blocks, sync_window) = (*own.pick(&[0, 0, 4]), *own.pick(&[2, 8]));
        let (spare_blocks, punch_rest_ms) = (*own.pick(&[0, 1, 8]), *own.pick(&[0, 0, 20]));
        let reclaim_after_ms = *own.pick(&[0, 100, 1000]);
        let data_is_device = seed % 5 == 4;
        let roomy = !seed.is_multiple_of(3);
        let crowded = !roomy && own.one_in(2);
        let data_blocks = if roomy { 320 } else { rng.between(16, 48) };
        Self {
            seed,
            create: CreateOptions {
                data_blocks,
                log_blocks: rng.between(1, 3),
                uuid: [7; 16],
                secret: seed.wrapping_mul(0x2545_f491_4f6c_dd1d),
                created_unix_s: 1,
            },
            open: OpenOptions {
                written_ahead_blocks,
                sync_window,
                can_wait: crowded,
                spare_blocks,
                punch_rest_ms,
                reclaim_after_ms,
                data_is_device,
                ..small_options(&mut rng)
            },
            workload: workload(&mut rng),
            crowded,
            tolerance: if roomy { Tolerance::Nothing } else { Tolerance::Space },
            in_flight: *rng.pick(&[1, 3, 8, 16]),
            turn_one_in: *rng.pick(&[1, 2, 12]),
            byte_mixing: false,
            cut_one_in: 0,
            recovery_cut_one_in: 6,
            second_cut_one_in: 8,
            check_one_in: 4,
            end_one_in: 0,
        }
    }

    /// A run that is cut at every disk event, and ended for good a few times.
    pub fn crashing(seed: u64) -> Self {
        let quiet = Self::quiet(seed);
        Self { cut_one_in: 1, end_one_in: 40, byte_mixing: seed % 4 == 3, ..quiet }
    }

    /// A small run without ends, for one fault; requests are made of whole units, so that client data is recognised.
    pub fn faulty(seed: u64) -> Self {
        let mut config = Self { tolerance: Tolerance::Faults, ..Self::quiet(seed) };
        config.workload.unaligned_one_in = 0;
        config.workload.operations = 40;
        config
    }

    /// The operations of the seed.
    pub fn operations(&self) -> Vec<Op> {
        let ops = generate(&self.workload, &mut Rng::new(self.seed ^ 0x0b5e_55ed));
        if !self.crowded {
            return ops;
        }
        crowd(ops, self.create.data_blocks, &mut Rng::new(self.seed ^ 0xc0a3d))
    }

    /// A power cut of these disks.
    pub fn power_cut(&self) -> End {
        if self.byte_mixing { End::PowerCutMixing } else { End::PowerCut }
    }
}

fn small_options(rng: &mut Rng) -> OpenOptions {
    OpenOptions {
        unproven_limit_bytes: *rng.pick(&[128 << 10, 512 << 10, 64 << 20]),
        log_writes_in_flight: *rng.pick(&[1, 2, 4]),
        slab_blocks: *rng.pick(&[1, 4, 16]),
        recycle_blocks: *rng.pick(&[0, 2, 16]),
        slice_mappings: *rng.pick(&[1, 3, 64]),
        checkpoint_pages: *rng.pick(&[4, 16, 256]),
        metadata_step_pages: *rng.pick(&[8, 32]),
        cache_bytes: *rng.pick(&[0, 12 << 10, 64 << 20]),
        ..OpenOptions::default()
    }
}

fn workload(rng: &mut Rng) -> WorkloadConfig {
    WorkloadConfig {
        operations: *rng.pick(&[60, 120, 200]),
        volume_blocks: *rng.pick(&[2, 4, 6]),
        hot_blocks: *rng.pick(&[1, 2]),
        unaligned_one_in: *rng.pick(&[0, 4, 10]),
        fua_one_in: *rng.pick(&[3, 10, 40]),
        flush_one_in: *rng.pick(&[6, 12, 40]),
        administration_one_in: *rng.pick(&[4, 8, 16]),
    }
}
