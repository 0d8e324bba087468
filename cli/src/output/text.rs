//! Views as text for people.
//!
//! Owns the wording. Nothing parses it: programs take `--json`.

use super::table::{Align, fields, table};
use crate::size::Size;
use crate::views::{
    AffectedView, ArrivalView, ChangedView, CheckView, DeletedView, DifferenceView, FindingView, InspectView,
    MetadataState, NoSpaceView, PoolView, PropertiesView, RepairView, ServeView, Shortage, ShrinkView,
    SpaceState, TrimReportView, UsageView, VolumeKind, VolumeUsageView, VolumeView,
};
use std::time::{Duration, UNIX_EPOCH};

/// The last second that the text of a time can show: the end of the year 9999.
const LAST_UNIX_S: u64 = 253_402_300_799;

fn size(bytes: u64) -> String {
    Size(bytes).to_string()
}

fn time(unix_s: u64) -> String {
    let time = UNIX_EPOCH + Duration::from_secs(unix_s.min(LAST_UNIX_S));
    humantime::format_rfc3339_seconds(time).to_string()
}

pub(super) fn part(bytes: u64, whole: u64) -> String {
    let percent = (u128::from(bytes) * 100).checked_div(u128::from(whole)).unwrap_or(0);
    format!("{} ({percent}%)", size(bytes))
}

/// The state of a pool.
pub fn pool(view: &PoolView) -> String {
    let mut rows = vec![
        ("pool", view.uuid.clone()),
        ("state", state(view)),
        ("served", if view.served { "yes" } else { "no" }.to_owned()),
        ("size", size(view.size_bytes)),
        ("used", part(view.used_bytes, view.size_bytes)),
        ("data", size(view.data_bytes)),
        ("free", part(view.free_bytes, view.size_bytes)),
        ("reserve", part(view.reserved_bytes, view.size_bytes)),
        ("log", format!("{}, {} in use", size(view.log_bytes), size(view.log_used_bytes))),
        ("metadata", metadata(view)),
    ];
    if let Some(bytes) = view.host_data_bytes {
        let metadata = view.host_metadata_bytes.unwrap_or(0);
        rows.push(("on the host", format!("data {}, metadata {}", size(bytes), size(metadata))));
    }
    if view.overwrites_need_room {
        let warning =
            "overwrites need new space on its file system: copy-on-write, or a file with shared extents";
        rows.push(("WARNING", warning.to_owned()));
    }
    rows.push(("settings", settings(view)));
    if view.waiting_bytes > 0 {
        rows.push(("waiting", format!("{} freed, not yet to be used again", size(view.waiting_bytes))));
    }
    rows.push(("volumes", format!("{}, together {}", view.volumes, size(view.volumes_bytes))));
    rows.push(("snapshots", view.snapshots.to_string()));
    rows.push(("mapped", format!("{}, what is shared counted for each", size(view.mapped_bytes))));
    if view.served {
        rows.push(("rates", rates(view)));
    }
    if view.deleting > 0 {
        rows.push(("being deleted", view.deleting.to_string()));
    }
    fields(&rows)
}

fn rates(view: &PoolView) -> String {
    let (given, freed) = (size(view.given_bytes_per_s), size(view.freed_bytes_per_s));
    let full = view.full_in_s.map_or_else(String::new, |seconds| {
        // Beyond a century it is a matter of other things.
        let seconds = Duration::from_secs(seconds.min(100 * 365 * 86_400));
        format!("; full in {} at that", humantime::format_duration(seconds))
    });
    format!("{given}/s given out, {freed}/s freed{full}")
}

/// What making a pool smaller came to.
pub fn shrunk(view: &ShrinkView) -> String {
    let mut rows = vec![
        ("size", format!("{}, {} before", size(view.size_bytes), size(view.size_before_bytes))),
        ("used", part(view.used_bytes, view.size_bytes)),
        ("moved", size(view.moved_bytes)),
    ];
    match view.returned_bytes.filter(|_| view.truncated) {
        Some(bytes) => rows.push(("back to the host", size(bytes))),
        None => rows.push((
            "on the host",
            "the device is as long as it was; its end is not used any more".to_owned(),
        )),
    }
    fields(&rows)
}

fn metadata(view: &PoolView) -> String {
    let room = format!("{}, {} free", size(view.metadata_bytes), size(view.metadata_free_bytes));
    match view.metadata_state {
        MetadataState::Ok => room,
        MetadataState::NearFull => format!("{room}; NEARLY FULL, and its file or device cannot grow"),
        MetadataState::Full => format!("{room}; FULL: writes wait or fail until its file or device can grow"),
    }
}

fn state(view: &PoolView) -> String {
    let word = view.space_state.name();
    match (&view.failure, view.space_state) {
        (Some(failure), _) => format!("{word} ({failure})"),
        (None, SpaceState::OutOfSpace) => {
            let writes = if view.waiting_writes == 1 { "write" } else { "writes" };
            let waiting =
                format!("{} {writes} waiting, oldest {} s", view.waiting_writes, view.oldest_wait_s);
            format!("{word} ({waiting}): {}", remedy(view))
        }
        (None, SpaceState::Low) => format!("{word}: less than {} is free", size(view.low_water_bytes)),
        (None, _) => word.to_owned(),
    }
}

/// What a trim came to.
pub fn trim(view: &TrimReportView) -> String {
    let mut rows = vec![("free and punched", size(view.punched_bytes))];
    rows.extend(view.returned_bytes.map(|bytes| ("came back to the host", size(bytes))));
    rows.extend(view.host_data_bytes.map(|bytes| ("on the host", format!("data {}", size(bytes)))));
    fields(&rows)
}

/// What makes room.
fn remedy(view: &PoolView) -> &'static str {
    match view.shortage {
        Some(Shortage::Blocks) if view.hole_bytes == 0 => "extend the pool, delete, or discard",
        Some(Shortage::Blocks | Shortage::Host) => {
            "the file system of the data file is full; free some there"
        }
        Some(Shortage::Metadata) | None => {
            "the metadata cannot grow; free some on its file system, or delete"
        }
    }
}

/// What the pool does about space.
fn settings(view: &PoolView) -> String {
    let sizes = ["auto-extend", "low-water"];
    let shown = view.settings.iter().filter(|(_, value)| !value.is_empty()).map(|(key, value)| match value {
        none if key == "auto-extend" && none == "0" => format!("{key}=off"),
        bytes if sizes.contains(&key.as_str()) => {
            bytes.parse().map_or_else(|_| format!("{key}={bytes}"), |bytes| format!("{key}={}", Size(bytes)))
        }
        other => format!("{key}={other}"),
    });
    shown.collect::<Vec<_>>().join(", ")
}

/// A list of volumes or snapshots; nothing for an empty one.
pub fn volumes(volumes: &[VolumeView]) -> String {
    if volumes.is_empty() {
        return String::new();
    }
    if volumes.iter().any(|volume| volume.usage.is_some()) {
        return usages(volumes);
    }
    let columns = [
        ("NAME", Align::Left),
        ("SIZE", Align::Right),
        ("MAPPED", Align::Right),
        ("ORIGIN", Align::Left),
        ("CREATED", Align::Left),
        ("HOLDS", Align::Left),
    ];
    let row = |volume: &VolumeView| {
        [
            volume.name.clone(),
            size(volume.size_bytes),
            size(volume.mapped_bytes),
            volume.origin.clone().unwrap_or_else(|| "-".to_owned()),
            time(volume.created_unix_s),
            holds(volume, "-", volume.holds.len().to_string()),
        ]
    };
    table(columns, &volumes.iter().map(row).collect::<Vec<_>>())
}

/// A list of volumes or snapshots with what each has alone.
fn usages(volumes: &[VolumeView]) -> String {
    let columns = [
        ("NAME", Align::Left),
        ("SIZE", Align::Right),
        ("MAPPED", Align::Right),
        ("EXCLUSIVE", Align::Right),
        ("SHARED", Align::Right),
        ("FREED IF DELETED", Align::Right),
    ];
    let row = |volume: &VolumeView| {
        let of_usage = |bytes: fn(&VolumeUsageView) -> u64| {
            volume.usage.as_ref().map_or_else(|| "-".to_owned(), |usage| size(bytes(usage)))
        };
        [
            volume.name.clone(),
            size(volume.size_bytes),
            size(volume.mapped_bytes),
            of_usage(|usage| usage.exclusive_bytes),
            of_usage(|usage| usage.shared_bytes),
            of_usage(|usage| usage.freed_if_deleted_bytes),
        ]
    };
    table(columns, &volumes.iter().map(row).collect::<Vec<_>>())
}

/// What volumes and snapshots have alone, all together.
pub fn usage(view: &UsageView) -> String {
    let mut rows = vec![("names", view.names.join(", ")), ("mapped", size(view.mapped_bytes))];
    if let Some(bytes) = view.mapped_sectors_bytes {
        rows.push(("in sectors", size(bytes)));
    }
    let upper_bound = if view.names.len() > 1 { "at most " } else { "" };
    rows.extend([
        ("freed if deleted", size(view.freed_if_deleted_bytes)),
        ("shared", format!("{upper_bound}{}", size(view.shared_bytes))),
        ("metadata freed", size(view.freed_metadata_bytes)),
        ("exact at", format!("generation {}, record {}", view.generation, view.sequence)),
    ]);
    fields(&rows)
}

/// What keeps it, and whether it goes afterwards.
fn holds(view: &VolumeView, none: &str, some: String) -> String {
    let holds = if view.holds.is_empty() { none.to_owned() } else { some };
    if view.deletion_deferred { format!("{holds}, then deleted") } else { holds }
}

/// One volume or snapshot.
pub fn volume(view: &VolumeView) -> String {
    let kind = serde_json::to_value(view.kind).ok();
    let kind = kind.as_ref().and_then(|kind| kind.as_str()).unwrap_or_default();
    let mut rows = vec![
        ("name", view.name.clone()),
        ("kind", kind.to_owned()),
        ("uuid", view.uuid.clone()),
        ("number", view.number.to_string()),
        ("origin", view.origin.clone().unwrap_or_else(|| "none".to_owned())),
        ("size", format!("{} ({} bytes)", size(view.size_bytes), view.size_bytes)),
        ("mapped", part(view.mapped_bytes, view.size_bytes)),
        ("created", time(view.created_unix_s)),
        ("holds", holds(view, "none", view.holds.join(", "))),
        ("generation", view.generation.to_string()),
    ];
    if let Some(usage) = &view.usage {
        rows.extend([
            ("exclusive", size(usage.exclusive_bytes)),
            ("shared", size(usage.shared_bytes)),
            ("freed if deleted", size(usage.freed_if_deleted_bytes)),
        ]);
    }
    if view.kind == VolumeKind::Volume {
        rows.extend(properties(&view.properties));
    }
    fields(&rows)
}

/// What is set on a volume; what is not set only where people look for it.
fn properties(view: &PropertiesView) -> Vec<(&'static str, String)> {
    let reservation =
        if view.reservation_bytes > 0 { size(view.reservation_bytes) } else { "none".to_owned() };
    let no_space = match view.no_space {
        NoSpaceView::Pool => "as the pool",
        NoSpaceView::Stall => "stall",
        NoSpaceView::Error => "error",
    };
    let labels = view.labels.iter().map(|(name, value)| format!("{name}={value}"));
    let mut rows =
        vec![("reservation", reservation), ("limits", limits(view)), ("no space", no_space.to_owned())];
    if !view.labels.is_empty() {
        rows.push(("labels", labels.collect::<Vec<_>>().join(", ")));
    }
    rows
}

fn limits(view: &PropertiesView) -> String {
    let limits = [
        view.limit_iops.map(|limit| format!("{limit} requests/s")),
        view.limit_bytes_per_s.map(|limit| format!("{}/s", size(limit))),
        view.limit_in_flight.map(|limit| format!("{limit} requests in flight")),
    ];
    let limits: Vec<String> = limits.into_iter().flatten().collect();
    if limits.is_empty() { "none".to_owned() } else { limits.join(", ") }
}

/// What was made, one a line.
pub fn made(what: &str, volumes: &[VolumeView]) -> String {
    let line = |volume: &VolumeView| format!("made {what} '{}' of {}", volume.name, size(volume.size_bytes));
    volumes.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// What became of `name`.
pub fn changed(name: &str, view: &ChangedView) -> String {
    view.volume.as_ref().map_or_else(|| format!("deleted '{name}'"), volume)
}

/// What was deleted or will be, one a line.
pub fn deleted(view: &DeletedView) -> String {
    let deleted = view.deleted.iter().map(|name| format!("deleted '{name}'"));
    let deferred = view.deferred.iter().map(|name| format!("'{name}' is held, and goes with its last hold"));
    deleted.chain(deferred).collect::<Vec<_>>().join("\n")
}

/// What has arrived.
pub fn received(volume: &VolumeView) -> String {
    format!("received snapshot '{}' of {}", volume.name, size(volume.size_bytes))
}

/// What has arrived in part, one a line: all that is to be told, or the tokens alone.
pub fn arrivals(arrivals: &[ArrivalView], tokens_alone: bool) -> String {
    if tokens_alone {
        return arrivals.iter().filter_map(|arrival| arrival.token.clone()).collect::<Vec<_>>().join("\n");
    }
    if arrivals.is_empty() {
        return String::new();
    }
    let columns =
        [("NAME", Align::Left), ("ARRIVED", Align::Right), ("SIZE", Align::Right), ("TOKEN", Align::Left)];
    let row = |arrival: &ArrivalView| {
        let token = arrival.token.as_deref().unwrap_or("none: a picture");
        [arrival.name.clone(), size(arrival.position_bytes), size(arrival.size_bytes), token.to_owned()]
    };
    table(columns, &arrivals.iter().map(row).collect::<Vec<_>>())
}

/// What was dropped, one a line.
pub fn aborted(uuids: &[String]) -> String {
    uuids.iter().map(|uuid| format!("dropped what had arrived of {uuid}")).collect::<Vec<_>>().join("\n")
}

/// What differs, one range a line: kind, offset and length in bytes.
pub fn difference(view: &DifferenceView) -> String {
    let columns = [("", Align::Left), ("OFFSET", Align::Right), ("BYTES", Align::Right)];
    let row = |range: &crate::views::RangeView| {
        let kind = if range.absent { "absent" } else { "changed" };
        [kind.to_owned(), range.offset_bytes.to_string(), range.length_bytes.to_string()]
    };
    match &view.ranges[..] {
        [] => String::new(),
        ranges => table(columns, &ranges.iter().map(row).collect::<Vec<_>>()),
    }
}

/// What a check found.
pub fn check(view: &CheckView) -> String {
    let mut lines: Vec<String> = view.findings.iter().map(finding).collect();
    if view.unlisted_findings > 0 {
        lines.push(format!("and {} findings more", view.unlisted_findings));
    }
    lines.extend(view.information.iter().map(|text| format!("note: {text}")));
    let verdict = if view.clean { "sound" } else { "DAMAGED" };
    lines.push(format!(
        "{verdict}: {} pages, {} mapped blocks, {} volumes and snapshots looked at",
        view.pages, view.mappings, view.volumes
    ));
    lines.join("\n")
}

fn finding(finding: &FindingView) -> String {
    let place = finding.place.as_ref().map_or(String::new(), |place| format!(" ({place})"));
    let mut text = format!("{}{place}: {}", finding.kind, finding.message);
    for affected in &finding.affected {
        let (name, bytes, offset) = (&affected.name, size(affected.length_bytes), affected.offset_bytes);
        text += &format!("\n  lost: {bytes} of '{name}' from byte {offset} on");
    }
    text
}

/// What a repair found, saved and lost.
pub fn repair(view: &RepairView) -> String {
    let mut lines: Vec<String> = view.problems.iter().map(finding).collect();
    let mut note = |holds: bool, text: String| lines.extend(holds.then(|| format!("note: {text}")));
    note(view.reattached_pages > 0, format!("{} pages were found by their counts", view.reattached_pages));
    note(view.log_records > 0, format!("{} log records are part of the new metadata", view.log_records));
    note(view.records_lost, "records of volumes are lost: volumes may be missing".to_owned());
    note(
        view.skipped_changes > 0,
        format!("{} changes of volumes without a record are lost", view.skipped_changes),
    );
    for name in &view.recovered_volumes {
        note(true, format!("mappings without a record are the volume '{name}' now"));
    }
    let lost = |loss: &AffectedView| {
        let (name, bytes, offset) = (&loss.name, size(loss.length_bytes), loss.offset_bytes);
        format!("lost: {bytes} of '{name}' from byte {offset} on")
    };
    lines.extend(view.losses.iter().map(lost));
    let saved = format!("{} volumes and snapshots saved, {} lost", view.volumes, size(view.lost_bytes));
    let bytes = size(view.metadata_bytes);
    lines.push(match (&view.output, &view.kept) {
        (Some(_), Some(kept)) => format!("repaired: {saved}; the old metadata is kept as '{kept}'"),
        (Some(path), None) => format!("written to '{path}': {saved}; the pool is as it was"),
        (None, _) => format!(
            "nothing was written: {saved}; the new metadata takes {bytes}, --output or --commit writes it"
        ),
    });
    lines.join("\n")
}

/// Structures on disk.
pub fn structures(view: &InspectView) -> String {
    view.structures.iter().map(|structure| structure.text.clone()).collect::<Vec<_>>().join("\n")
}

/// Where a server can be reached, and how.
pub fn serve(view: &ServeView) -> String {
    let export = |export: &crate::views::ExportView| {
        let rights = if export.read_only { ", read-only" } else { "" };
        let default = if export.default { ", default export" } else { "" };
        let title = format!("{} ({}{rights}{default})", export.name, size(export.size_bytes));
        let commands = export.commands.iter().map(|command| format!("    {command}"));
        let lines = [title, format!("  {}", export.uri)].into_iter().chain(commands);
        lines.collect::<Vec<_>>().join("\n")
    };
    view.exports.iter().map(export).collect::<Vec<_>>().join("\n")
}
