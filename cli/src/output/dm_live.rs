//! What is told about pools that the kernel has active, as text for people.
//!
//! Owns the wording, which is that of Vellum's own pools where both have the same to tell.

use super::table::{Align, fields, table};
use super::text::part;
use crate::size::Size;
use crate::views::{
    DmDeactivateView, DmDeviceView, DmMadeView, DmPoolView, DmStatusView, MetadataState, Shortage, SpaceState,
};

/// A pool that the kernel has.
pub fn status(view: &DmStatusView) -> String {
    let mut rows = vec![("pool", view.uuid.clone())];
    match &view.pool {
        Some(pool) => rows.extend(pool_rows(pool)),
        None => rows.push(("state", "not active: `vellum dm activate` makes its volumes devices".to_owned())),
    }
    if let Some(metadata) = &view.metadata {
        rows.push(("files", format!("data '{}', metadata '{metadata}'", view.data)));
    }
    if let Some(device) = view.frozen {
        let what = format!(
            "thin device {device} was suspended for a snapshot that was interrupted: `dmsetup resume`, or the next command that \
             changes something, lets it go on"
        );
        rows.push(("WARNING", what));
    }
    if !view.begun.is_empty() {
        let begun = view.begun.join(", ");
        let what = format!(
            "{begun}: begun by an interrupted activation; `vellum dm activate` makes them anew, `vellum dm deactivate` removes them"
        );
        rows.push(("WARNING", what));
    }
    let text = fields(&rows);
    if view.devices.is_empty() { text } else { format!("{text}\n\n{}", devices(&view.devices)) }
}

fn pool_rows(pool: &DmPoolView) -> Vec<(&'static str, String)> {
    let mut rows = vec![
        ("device", pool.path.clone()),
        ("state", state(pool)),
        ("size", Size(pool.size_bytes).to_string()),
        ("used", part(pool.used_bytes, pool.size_bytes)),
        ("free", part(pool.free_bytes, pool.size_bytes)),
        ("metadata", metadata(pool)),
        (
            "settings",
            format!("low-water={}, no-space={}, {}", Size(pool.low_water_bytes), pool.no_space, pool.discard),
        ),
        ("transaction", pool.transaction_id.to_string()),
        ("event", pool.event.to_string()),
    ];
    if pool.metadata_snapshot {
        rows.push(("metadata snapshot", "reserved".to_owned()));
    }
    if pool.suspended {
        rows.push(("WARNING", "suspended: its requests wait until `dmsetup resume`".to_owned()));
    }
    if pool.needs_check {
        rows.push((
            "WARNING",
            "the kernel asks for a check before it writes again: `vellum dm deactivate`".to_owned(),
        ));
    }
    rows
}

fn state(pool: &DmPoolView) -> String {
    let word = pool.space_state.name();
    match (&pool.failure, pool.space_state) {
        (Some(failure), _) => format!("{word} ({failure})"),
        (None, SpaceState::OutOfSpace) => {
            let remedy = match pool.shortage {
                Some(Shortage::Metadata) => "`vellum dm extend --metadata-size`",
                _ => "extend the pool by `vellum dm extend`, or discard",
            };
            format!("{word}: {remedy}")
        }
        (None, SpaceState::Low) if pool.free_bytes <= pool.low_water_bytes => {
            format!("{word}: less than {} is free", Size(pool.low_water_bytes))
        }
        (None, SpaceState::Low) => format!("{word}: few of the metadata is free"),
        (None, _) => word.to_owned(),
    }
}

fn metadata(pool: &DmPoolView) -> String {
    let room = format!("{}, {} used", Size(pool.metadata_bytes), Size(pool.metadata_used_bytes));
    match pool.metadata_state {
        MetadataState::Ok => room,
        MetadataState::NearFull => format!("{room}; NEARLY FULL: `vellum dm extend --metadata-size`"),
        MetadataState::Full => format!("{room}; FULL: `vellum dm extend --metadata-size`"),
    }
}

fn devices(devices: &[DmDeviceView]) -> String {
    let row = |device: &DmDeviceView| {
        let size = |bytes: Option<u64>| bytes.map_or_else(|| "-".to_owned(), |bytes| Size(bytes).to_string());
        let mut words = Vec::new();
        words.extend(device.read_only.then(|| "read-only".to_owned()));
        words.extend((device.open_count > 0).then(|| format!("open {}", device.open_count)));
        words.extend(device.suspended.then(|| "SUSPENDED: `dmsetup resume`".to_owned()));
        words.extend(device.mapped_bytes.is_none().then(|| "FAILED".to_owned()));
        [
            device.device.to_string(),
            device.name.clone().unwrap_or_else(|| "-".to_owned()),
            size(device.size_bytes),
            size(device.mapped_bytes),
            device.path.clone(),
            words.join(", "),
        ]
    };
    let columns = [
        ("DEVICE", Align::Right),
        ("NAME", Align::Left),
        ("SIZE", Align::Right),
        ("MAPPED", Align::Right),
        ("PATH", Align::Left),
        ("", Align::Left),
    ];
    table(columns, &devices.iter().map(row).collect::<Vec<_>>())
}

/// What was made.
pub fn made(what: &str, view: &DmMadeView) -> String {
    let path = view.path.as_ref().map_or_else(String::new, |path| format!(": {path}"));
    format!("made {what} '{}' of {} as thin device {}{path}", view.name, Size(view.size_bytes), view.device)
}

/// What was ended.
pub fn deactivated(view: &DmDeactivateView) -> String {
    let removed = view.removed.iter().map(|name| format!("removed {name}"));
    let rest = match &view.imported {
        Some(imported) => super::dm::import(imported),
        None => "the kernel keeps the pool: `vellum dm activate` brings its devices back".to_owned(),
    };
    removed.chain([rest]).collect::<Vec<_>>().join("\n")
}
