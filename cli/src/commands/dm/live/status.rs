//! `vellum dm status`: what of a pool is active in the kernel, and how it is off for space.
//!
//! Owns the way from the kernel's words to those of Vellum's own pools. Changes nothing.

use super::{Known, Live, explained, unreadable};
use crate::arguments::dm_live::DmStatus;
use crate::error::{Error, Result};
use crate::exit::Kind;
use crate::output::{Output, dm_live as text};
use crate::pool_directory::PoolDirectory;
use crate::views::{DmDeviceView, DmPoolView, DmStatusView, MetadataState, Shortage, SpaceState, VolumeKind};
use std::time::{Duration, Instant};
use vellum_dm_bridge::format::BLOCK_BYTES;
use vellum_dm_bridge::live::{
    DeviceMapper, MappedDevice, PoolMode, PoolState, PoolStatus, PoolTable, ThinStatus,
};
use vellum_engine::format::uuid_text;

/// Bytes of a sector in what device-mapper tells.
const SECTOR_BYTES: u64 = 512;

pub fn run(flags: &DmStatus, directory: &PoolDirectory, output: Output) -> Result<()> {
    if let Some(event) = flags.after {
        // Whoever waits must not keep others from the pool.
        let (pool, mapper) = {
            let live = Live::look(directory)?;
            (live.require_active(&live.members()?)?, live.mapper)
        };
        wait_behind(&mapper, pool, event, flags.timeout.map(Duration::from_secs))?;
    }
    output.result(&view(&Live::look(directory)?)?, text::status)
}

/// Waits until there was an event behind `event`, at most for some time. The kernel waits for the next one only.
fn wait_behind(
    mapper: &DeviceMapper,
    mut pool: MappedDevice,
    event: u64,
    limit: Option<Duration>,
) -> Result<()> {
    let started = Instant::now();
    while pool.event <= event {
        let left = limit.map(|limit| limit.saturating_sub(started.elapsed()));
        if !mapper.wait(&pool.name, pool.event, left).map_err(explained)? {
            return Ok(());
        }
        let devices = mapper.devices().map_err(explained)?;
        let Some(now) = devices.into_iter().find(|device| device.uuid == pool.uuid) else {
            return Err(Error::new(Kind::NotFound, "the pool is not active any more")
                .hint("`vellum dm activate` makes it so"));
        };
        pool = now;
    }
    Ok(())
}

/// What is active.
pub(super) fn view(live: &Live<'_>) -> Result<DmStatusView> {
    let members = live.members()?;
    let known = live.known()?;
    let statuses = if members.thins.is_empty() {
        Default::default()
    } else {
        live.mapper.thin_statuses().map_err(explained)?
    };
    let devices = members.thins.iter().map(|(number, device)| {
        let line = statuses.get(&device.name).map_or("", String::as_str);
        device_view(*number, device, line, &known)
    });
    Ok(DmStatusView {
        uuid: uuid_text(&live.given.pool),
        active: members.pool.is_some(),
        metadata: live.files.metadata().map(|path| path.display().to_string()),
        data: live.data()?.display().to_string(),
        devices: devices.collect::<Result<_>>()?,
        begun: members.begun.iter().map(|device| device.name.clone()).collect(),
        frozen: live.files.frozen(&live.given)?,
        pool: members.pool.as_ref().map(|pool| pool_view(live, pool)).transpose()?,
    })
}

fn pool_view(live: &Live<'_>, pool: &MappedDevice) -> Result<DmPoolView> {
    let table = live.table(pool)?;
    let view = of_state(&live.pool_state(pool)?, &table);
    Ok(DmPoolView {
        name: pool.name.clone(),
        path: pool.path().display().to_string(),
        suspended: pool.suspended,
        event: pool.event,
        ..view
    })
}

/// What the kernel tells, without what the device is called.
fn of_state(state: &PoolState, table: &PoolTable) -> DmPoolView {
    match state {
        PoolState::Working(status) => of_status(status, table),
        PoolState::Failed(word) => DmPoolView {
            space_state: SpaceState::ReadOnly,
            failure: Some(format!("the kernel says {word}")),
            size_bytes: table.size_bytes(),
            low_water_bytes: table.low_water_bytes(),
            no_space: policy(table.has("error_if_no_space")),
            ..DmPoolView::default()
        },
    }
}

fn of_status(status: &PoolStatus, table: &PoolTable) -> DmPoolView {
    let block_bytes = table.block_sectors * SECTOR_BYTES;
    let metadata = |blocks: u64| blocks * BLOCK_BYTES as u64;
    let (space_state, shortage, failure) = space_of(status, table);
    DmPoolView {
        space_state,
        shortage,
        metadata_state: metadata_state(status),
        failure,
        needs_check: status.needs_check,
        size_bytes: status.data_blocks * block_bytes,
        used_bytes: status.data_used_blocks * block_bytes,
        free_bytes: free_blocks(status) * block_bytes,
        low_water_bytes: table.low_water_bytes(),
        metadata_bytes: metadata(status.metadata_blocks),
        metadata_used_bytes: metadata(status.metadata_used_blocks),
        metadata_low_water_bytes: status.metadata_low_water_blocks.map(metadata),
        no_space: policy(status.error_if_no_space),
        discard: status.discard.clone(),
        transaction_id: status.transaction_id,
        metadata_snapshot: status.held_root.is_some(),
        ..DmPoolView::default()
    }
}

/// How a pool is off for space, what it lacks, and why it takes no writes if that is something else.
fn space_of(status: &PoolStatus, table: &PoolTable) -> (SpaceState, Option<Shortage>, Option<String>) {
    let metadata_state = metadata_state(status);
    let is_low = free_blocks(status) <= table.low_water_blocks || metadata_state != MetadataState::Ok;
    let read_only = |why: &str| (SpaceState::ReadOnly, None, Some(why.to_owned()));
    match status.mode {
        // It takes nothing before the check, however much room it gets.
        PoolMode::ReadOnly | PoolMode::OutOfDataSpace if status.needs_check => {
            read_only("it wants a check first")
        }
        PoolMode::Write if is_low => (SpaceState::Low, None, None),
        PoolMode::Write => (SpaceState::Ok, None, None),
        PoolMode::OutOfDataSpace => (SpaceState::OutOfSpace, Some(Shortage::Blocks), None),
        PoolMode::ReadOnly if metadata_state == MetadataState::Full => {
            (SpaceState::OutOfSpace, Some(Shortage::Metadata), None)
        }
        PoolMode::ReadOnly if table.has("read_only") => read_only("activated so"),
        PoolMode::ReadOnly => read_only("the kernel takes no writes any more"),
        PoolMode::Unknown => read_only("in a mode that is not known here"),
    }
}

fn free_blocks(status: &PoolStatus) -> u64 {
    status.data_blocks.saturating_sub(status.data_used_blocks)
}

fn policy(fails: bool) -> String {
    if fails { "error" } else { "stall" }.to_owned()
}

fn metadata_state(status: &PoolStatus) -> MetadataState {
    let free = status.metadata_blocks.saturating_sub(status.metadata_used_blocks);
    match status.metadata_low_water_blocks {
        _ if free == 0 => MetadataState::Full,
        Some(mark) if free <= mark => MetadataState::NearFull,
        _ => MetadataState::Ok,
    }
}

fn device_view(number: u32, device: &MappedDevice, status: &str, known: &[Known]) -> Result<DmDeviceView> {
    let mapped_bytes = match ThinStatus::parse(status).map_err(unreadable)? {
        ThinStatus::Mapped(sectors) => Some(sectors * SECTOR_BYTES),
        ThinStatus::Failed => None,
    };
    let known = known.iter().find(|known| known.device == number);
    let is_snapshot = known.is_some_and(|known| known.is_snapshot);
    Ok(DmDeviceView {
        device: number,
        name: known.map(|known| known.name.clone()),
        kind: if is_snapshot { VolumeKind::Snapshot } else { VolumeKind::Volume },
        size_bytes: known.map(|known| known.size_bytes),
        mapped_bytes,
        path: device.path().display().to_string(),
        read_only: device.read_only,
        open_count: device.open_count,
        suspended: device.suspended,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(status: &str) -> DmPoolView {
        let table = "0 131072 thin-pool 7:1 7:0 128 100 0".parse().unwrap();
        of_state(&PoolState::parse(&format!("0 131072 thin-pool {status}")).unwrap(), &table)
    }

    #[test]
    fn the_kernel_speaks_as_our_own_pools_do() {
        let tail = "discard_passdown queue_if_no_space - 256";
        let state = |numbers: &str, mode: &str| {
            let view = seen(&format!("0 {numbers} - {mode} {tail}"));
            (view.space_state, view.shortage, view.metadata_state)
        };
        let (ok, near, full) = (MetadataState::Ok, MetadataState::NearFull, MetadataState::Full);
        assert_eq!(state("100/1024 900/1024", "rw"), (SpaceState::Ok, None, ok));
        assert_eq!(state("100/1024 924/1024", "rw"), (SpaceState::Low, None, ok));
        assert_eq!(state("800/1024 1/1024", "rw"), (SpaceState::Low, None, near));
        let blocks = Some(Shortage::Blocks);
        assert_eq!(state("100/1024 1024/1024", "out_of_data_space"), (SpaceState::OutOfSpace, blocks, ok));
        let metadata = Some(Shortage::Metadata);
        assert_eq!(state("1024/1024 1/1024", "ro"), (SpaceState::OutOfSpace, metadata, full));
        assert_eq!(state("100/1024 1/1024", "ro"), (SpaceState::ReadOnly, None, ok));
        assert!(
            text::status(&status_of(seen("0 1/1024 1024/1024 - out_of_data_space x y -"))).contains("extend")
        );
    }

    #[test]
    fn what_comes_first_is_told_first() {
        let text = text::status(&status_of(seen("0 1024/1024 1024/1024 - ro x y needs_check -")));
        assert!(text.contains("wants a check") && !text.contains("extend the pool"), "{text}");
        assert!(text.contains("tank-begun") && text.contains("thin device 1 was suspended"), "{text}");
    }

    fn status_of(pool: DmPoolView) -> DmStatusView {
        DmStatusView {
            uuid: String::new(),
            active: true,
            metadata: None,
            data: String::new(),
            pool: Some(pool),
            devices: Vec::new(),
            begun: vec!["tank-begun".to_owned()],
            frozen: Some(1),
        }
    }

    #[test]
    fn sizes_are_in_bytes_and_what_failed_says_so() {
        let view = seen("4 130/1024 24/1024 45 rw discard_passdown error_if_no_space needs_check 256");
        assert_eq!((view.size_bytes, view.used_bytes, view.free_bytes), (1 << 26, 24 << 16, 1000 << 16));
        assert_eq!((view.metadata_bytes, view.metadata_used_bytes), (1024 << 12, 130 << 12));
        assert_eq!((view.low_water_bytes, view.metadata_low_water_bytes), (100 << 16, Some(256 << 12)));
        assert!(view.needs_check && view.metadata_snapshot && view.no_space == "error");
        let failed = seen("Fail");
        assert_eq!(
            (failed.space_state, failed.failure.as_deref()),
            (SpaceState::ReadOnly, Some("the kernel says Fail"))
        );
    }
}
