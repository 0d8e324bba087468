//! What is told about dm-thin's metadata, as text for people.
//!
//! Owns the wording. Nothing parses it: programs take `--json`.

use super::table::{Align, table};
use crate::size::Size;
use crate::views::{
    DeletedView, DmCheckView, DmDumpView, DmExportView, DmFindingView, DmFoundView, DmImportView, DmLostView,
    DmPictureView, DmRestoreView, DmRevokeView,
};

/// What a check found.
pub fn check(view: &DmCheckView) -> String {
    let mut lines: Vec<String> = view.findings.iter().map(finding).collect();
    if view.unlisted_findings > 0 {
        lines.push(format!("and {} findings more", view.unlisted_findings));
    }
    if view.counts_incomplete {
        lines.push("note: damage hides owners, so counts that seem too high are not told".to_owned());
    }
    if view.is_picture {
        lines.push(
            "note: a picture of a pool that goes on; Linux takes it from a read-only device alone".to_owned(),
        );
    } else if view.needs_check {
        lines.push("note: the kernel asks for a check before it writes again".to_owned());
    }
    let verdict = if view.clean { "sound" } else { "DAMAGED" };
    lines.push(format!(
        "{verdict}: {} devices, {} mapped blocks, {} data blocks, {} metadata blocks looked at",
        view.devices, view.mappings, view.data_blocks_used, view.metadata_blocks_used
    ));
    lines.join("\n")
}

fn finding(finding: &DmFindingView) -> String {
    let place = finding.place.as_ref().map_or(String::new(), |place| format!(" ({place})"));
    let cost = finding.cost.as_ref().map_or(String::new(), |cost| format!("; {cost}"));
    format!("{}{place}: {}{cost}", finding.defect, finding.message)
}

/// What was dumped to a file.
pub fn dump(view: &DmDumpView) -> String {
    let mut lines = losses(&view.lost, &view.found);
    let output = view.output.as_deref().unwrap_or("standard output");
    lines.push(format!("{} devices and {} mapped blocks in '{output}'", view.devices, view.mappings));
    lines.join("\n")
}

/// What could not be read, and what was found by searching.
pub fn losses(lost: &[DmLostView], found: &[DmFoundView]) -> Vec<String> {
    let found = found.iter().map(|found| {
        format!(
            "found: device {}, {} mapped blocks to which nothing led any more",
            found.device, found.mappings
        )
    });
    lost.iter().map(self::lost).chain(found).collect()
}

fn lost(lost: &DmLostView) -> String {
    let what = match lost.device {
        Some(device) => format!("device {device}, blocks"),
        None => "devices with numbers".to_owned(),
    };
    let last = lost.last.map_or("the end".to_owned(), |last| last.to_string());
    format!("lost: {what} {} to {last}: {}", lost.first, lost.message)
}

/// What was restored.
pub fn restore(view: &DmRestoreView) -> String {
    let note = |corrected: &crate::views::DmCorrectedView| {
        let (device, declared, counted) = (corrected.device, corrected.declared, corrected.counted);
        format!("note: device {device} has {counted} mapped blocks, and the XML says {declared}")
    };
    let mut lines: Vec<String> = view.corrected.iter().map(note).collect();
    lines.push(format!(
        "{} devices and {} mapped blocks in '{}', {} of {}",
        view.devices,
        view.mappings,
        view.output,
        Size(view.metadata_used_bytes),
        Size(view.metadata_bytes)
    ));
    lines.join("\n")
}

/// What the kernel has now.
pub fn export(view: &DmExportView) -> String {
    let row = |device: &crate::views::DmThinView| {
        [
            device.device.to_string(),
            device.name.clone(),
            Size(device.size_bytes).to_string(),
            Size(device.mapped_bytes).to_string(),
        ]
    };
    let rows: Vec<_> = view.devices.iter().map(row).collect();
    let columns =
        [("DEVICE", Align::Right), ("NAME", Align::Left), ("SIZE", Align::Right), ("MAPPED", Align::Right)];
    format!(
        "{}\nthe kernel has the pool: metadata in '{}' ({} of {}), data in '{}'\n\
         table of the pool: 0 {} thin-pool METADATA DATA {} LOW-WATER",
        table(columns, &rows),
        view.metadata,
        Size(view.metadata_used_bytes),
        Size(view.metadata_bytes),
        view.data,
        view.data_blocks * view.data_block_sectors,
        view.data_block_sectors
    )
}

/// Who has the pool now.
pub fn revoke(view: &DmRevokeView) -> String {
    match view.untouched {
        true => "the pool is Vellum's, as it was: the kernel never had it".to_owned(),
        false => {
            "the pool is Vellum's, as it was when it was given away: what the kernel has written since is \
                  lost, or mixed into it: `vellum pool check` and a look at the file systems in it tell more"
                .to_owned()
        }
    }
}

/// What is shown, and what pins it.
pub fn picture(view: &DmPictureView) -> String {
    let row = |device: &crate::views::DmPinnedView| {
        [
            device.device.to_string(),
            device.name.clone(),
            Size(device.size_bytes).to_string(),
            Size(device.mapped_bytes).to_string(),
            device.pinned_by.clone(),
        ]
    };
    let rows: Vec<_> = view.devices.iter().map(row).collect();
    let columns = [
        ("DEVICE", Align::Right),
        ("NAME", Align::Left),
        ("SIZE", Align::Right),
        ("MAPPED", Align::Right),
        ("PINNED BY", Align::Left),
    ];
    format!(
        "{}\na read-only picture: metadata in '{}' ({} of {}), data in '{}', {} blocks of {} sectors, {} written anew",
        table(columns, &rows),
        view.metadata,
        Size(view.metadata_used_bytes),
        Size(view.metadata_bytes),
        view.data,
        view.data_blocks,
        view.data_block_sectors,
        Size(view.copied_bytes)
    )
}

/// What is pinned no more.
pub fn released(view: &DeletedView) -> String {
    let deleted = view.deleted.iter().map(|name| format!("released and deleted '{name}'"));
    let deferred = view
        .deferred
        .iter()
        .map(|name| format!("released '{name}', which others hold; it goes with their last hold"));
    deleted.chain(deferred).collect::<Vec<_>>().join("\n")
}

/// What the pool has now.
pub fn import(view: &DmImportView) -> String {
    let mut lines = losses(&view.lost, &view.found);
    let row = |volume: &crate::views::DmImportedView| {
        [volume.device.to_string(), volume.name.clone(), Size(volume.size_bytes).to_string()]
    };
    let changed = view.volumes.iter().filter(|volume| volume.changed);
    lines.extend(changed.map(|snapshot| {
        format!("note: the kernel has written to '{}', so it has a new uuid: send it whole", snapshot.name)
    }));
    let fewer = view.volumes.iter().filter(|volume| volume.mapped_blocks < volume.counted_blocks);
    lines.extend(fewer.map(|volume| {
        format!(
            "note: '{}' has {} mapped blocks, and the metadata counts {}: what is missing reads as zeros unless it is told above",
            volume.name, volume.mapped_blocks, volume.counted_blocks
        )
    }));
    let rows: Vec<_> = view.volumes.iter().map(row).collect();
    lines.push(table([("DEVICE", Align::Right), ("NAME", Align::Left), ("SIZE", Align::Right)], &rows));
    lines.push(match view.adopted {
        true => format!("a pool of {} on the data as it is", Size(view.size_bytes)),
        false => format!("a pool of {}, {} copied", Size(view.size_bytes), Size(view.copied_bytes)),
    });
    lines.join("\n")
}
