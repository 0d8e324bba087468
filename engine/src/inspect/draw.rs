//! Structures as text, a field a line.
//!
//! Owns the wording. Decodes nothing.

use super::{Checksum, Contents, Inspection, LogInspection, Structure, Summary};
use crate::format::{
    Delta, LogRecord, Mapping, PageHeader, Pointer, RootSlot, Superblock, VolumeRecord, uuid_text,
};
use crate::request::Uuid;
use std::fmt::{Display, Formatter, Result, Write as _};

/// Bytes of a body that could not be decoded which are shown.
const DUMP_BYTES: usize = 256;

impl Display for Checksum {
    fn fmt(&self, out: &mut Formatter<'_>) -> Result {
        out.write_str(match self {
            Self::Right => "checksum right",
            Self::Wrong => "CHECKSUM WRONG: what follows may be wrong too",
            Self::NeedsSecret => "checksum not checked: it needs the pool's secret",
            Self::None => "no checksum",
        })
    }
}

impl Display for Inspection {
    fn fmt(&self, out: &mut Formatter<'_>) -> Result {
        match &self.structure {
            Structure::Zeros => return out.write_str("zeros"),
            Structure::Unknown => out.write_str("nothing that is known")?,
            Structure::Superblock(found) => titled(out, "superblock", self.checksum, found, superblock)?,
            Structure::RootSlot(found, pool) => {
                titled(out, "root slot", self.checksum, found, |out, slot| root_slot(out, slot, pool))?;
            }
            Structure::LogHead(found) => titled(out, "log head", self.checksum, found, |out, head| {
                field(out, "pool", uuid_text(&head.pool))?;
                field(out, "incarnation", format_args!("{:#x}", head.incarnation.0))
            })?,
            Structure::LogRecord(found) => titled(out, "log record", self.checksum, found, log_record)?,
            Structure::TreePage { header, pool, contents: body } => {
                write!(out, "page of a tree, {}", self.checksum)?;
                page_header(out, header, pool)?;
                contents(out, header, body)?;
            }
        }
        self.problems.iter().try_for_each(|problem| write!(out, "\n  problem: {problem}"))
    }
}

fn titled<T>(
    out: &mut Formatter<'_>,
    name: &str,
    checksum: Checksum,
    found: &Option<T>,
    draw: impl FnOnce(&mut Formatter<'_>, &T) -> Result,
) -> Result {
    write!(out, "{name}, {checksum}")?;
    found.as_ref().map_or(Ok(()), |found| draw(out, found))
}

fn field(out: &mut Formatter<'_>, name: &str, value: impl Display) -> Result {
    write!(out, "\n  {name}: {value}")
}

fn superblock(out: &mut Formatter<'_>, found: &Superblock) -> Result {
    field(out, "format version", found.version)?;
    field(out, "incompatible features", format_args!("{:#x}", found.incompatible))?;
    field(out, "read-only compatible features", format_args!("{:#x}", found.read_only_compatible))?;
    field(out, "bytes of a block", found.block_bytes)?;
    field(out, "bytes of a sector", found.sector_bytes)?;
    field(out, "bytes of a page", found.page_bytes)?;
    field(out, "pool", uuid_text(&found.pool))?;
    field(out, "created", format_args!("{} s after 1970", found.created_unix_s))?;
    field(out, "data blocks at creation", found.data_blocks_at_creation)
}

fn root_slot(out: &mut Formatter<'_>, slot: &RootSlot, pool: &Uuid) -> Result {
    field(out, "pool", uuid_text(pool))?;
    field(out, "generation", slot.generation)?;
    field(out, "incarnation", format_args!("{:#x}", slot.incarnation.0))?;
    field(out, "last record", slot.sequence)?;
    field(out, "log goes on at ring page", slot.log_position)?;
    field(out, "closed", slot.clean)?;
    let owner = &slot.owner;
    field(
        out,
        "owner",
        format_args!("host '{}', process {}, kernel {}", owner.host, owner.pid, owner.kernel),
    )?;
    field(out, "next volume", slot.next_volume)?;
    field(out, "data blocks", slot.data_blocks)?;
    field(out, "metadata pages", slot.metadata_pages)?;
    let trees = [
        ("volumes", &slot.volumes),
        ("data counts", &slot.data_counts),
        ("data overflow", &slot.data_overflow),
        ("page counts", &slot.page_counts),
        ("page overflow", &slot.page_overflow),
    ];
    for (name, root) in trees {
        field(out, name, root.as_ref().map_or("none".to_owned(), pointer))?;
    }
    for extent in &slot.log {
        field(out, "log", format_args!("{} data blocks from {}", extent.blocks, extent.first))?;
    }
    if !slot.unknown_tail.is_empty() {
        field(out, "unknown fields", format_args!("{} bytes", slot.unknown_tail.len()))?;
    }
    Ok(())
}

fn pointer(pointer: &Pointer) -> String {
    let Pointer { page, copy, generation, checksum, mapped } = pointer;
    if page.0 == 0 {
        return format!("no page, all counts are {checksum}");
    }
    let copy = copy.map_or(String::new(), |copy| format!(" and {copy}"));
    format!("page {page}{copy}, generation {generation}, checksum {checksum:#010x}, {mapped} blocks mapped")
}

fn log_record(out: &mut Formatter<'_>, record: &LogRecord) -> Result {
    field(out, "sequence", record.sequence)?;
    field(out, "incarnation", format_args!("{:#x}", record.incarnation.0))?;
    field(out, "synced", record.synced)?;
    field(out, "pages", record.pages)?;
    record.deltas.iter().try_for_each(|found| field(out, "delta", delta(found)))
}

fn delta(found: &Delta) -> String {
    match found {
        Delta::Publish { volume, virtual_block, data_block, sectors, crc } => format!(
            "publish volume {volume} block {virtual_block} at data block {data_block}, sectors {:016b}, CRC {crc:#010x}",
            sectors.0
        ),
        Delta::Clear { volume, virtual_block, sectors } => {
            format!("clear volume {volume} block {virtual_block}, sectors {:016b}", sectors.0)
        }
        Delta::Unmap { volume, first, last } => format!("unmap volume {volume} blocks {first} to {last}"),
        Delta::Create { record } => format!("create {}", volume(record)),
        Delta::Snapshot { cuts } => {
            let cuts = cuts.iter().map(|(source, record)| format!("{} of volume {source}", volume(record)));
            format!("snapshot {}", cuts.collect::<Vec<_>>().join(", "))
        }
        Delta::Update { volume, name, size_bytes, holds, .. } => {
            format!("update volume {volume}: name '{name}', {size_bytes} bytes, holds {holds:?}")
        }
        Delta::Delete { volumes } => {
            let volumes: Vec<String> = volumes.iter().map(ToString::to_string).collect();
            format!("delete volumes {}", volumes.join(", "))
        }
        Delta::Forget { volume } => format!("forget volume {volume}"),
        Delta::Rollback { volume, snapshot, old } => {
            format!("roll volume {volume} back to {snapshot}, delete what it had as {old}")
        }
        Delta::Receive { volume, position_bytes } => {
            format!("volume {volume} has arrived up to {position_bytes}")
        }
        Delta::Arrive { volume, name, size_bytes, .. } => {
            format!("volume {volume} has arrived as '{name}', {size_bytes} bytes")
        }
    }
}

fn volume(record: &VolumeRecord) -> String {
    let VolumeRecord { id, name, kind, state, size_bytes, origin, root, .. } = record;
    let mut text = format!("{id} '{name}': {kind:?}, {state:?}, {size_bytes} bytes");
    // Writing into memory succeeds.
    let _ = match origin {
        Some(origin) => write!(text, ", made from {origin}"),
        None => Ok(()),
    };
    let _ = match root {
        Some((level, root)) => write!(text, ", root at level {level}: {}", pointer(root)),
        None => write!(text, ", nothing mapped"),
    };
    text
}

fn page_header(out: &mut Formatter<'_>, header: &PageHeader, pool: &Uuid) -> Result {
    field(out, "kind", format_args!("{:?}, level {}", header.kind, header.level))?;
    field(out, "entries", header.entries)?;
    field(out, "page", header.number)?;
    field(out, "copy", header.copy.map_or("none".to_owned(), |copy| copy.to_string()))?;
    field(out, "generation", header.generation)?;
    field(out, "keys", format_args!("{} to {}", header.first_key, header.last_key))?;
    field(out, "volume of birth", header.volume_of_birth)?;
    field(out, "pool", uuid_text(pool))
}

fn contents(out: &mut Formatter<'_>, header: &PageHeader, contents: &Contents) -> Result {
    match contents {
        Contents::Mappings(leaf) => leaf.iter_entries().try_for_each(|entry| {
            let first = leaf.base().0 + u64::from(entry.offset);
            write!(out, "\n    block {first}, {} long: {}", entry.length, mapping(entry.mapping))
        }),
        Contents::Pointers(inner) => inner
            .entries
            .iter()
            .try_for_each(|(key, child)| write!(out, "\n    key {key}: {}", pointer(child))),
        Contents::Volumes(records) => {
            records.iter().try_for_each(|record| write!(out, "\n    volume {}", volume(record)))
        }
        Contents::Counts(counts) => {
            let groups = counts.chunk_by(|left, right| left == right);
            let mut first = header.first_key;
            groups.into_iter().try_for_each(|group| {
                let from = first;
                first = first.saturating_add(group.len() as u64);
                let count = group.first().copied().unwrap_or_default();
                write!(out, "\n    {from} and up, {} of them: {count}", group.len())
            })
        }
        Contents::Overflow(entries) => {
            entries.iter().try_for_each(|(index, count)| write!(out, "\n    {index}: {count}"))
        }
        Contents::Bytes(bytes) => {
            bytes.chunks(32).take(DUMP_BYTES / 32).enumerate().try_for_each(|(row, bytes)| {
                write!(out, "\n    {:04x}:", row * 32)?;
                bytes.iter().try_for_each(|byte| write!(out, " {byte:02x}"))
            })
        }
    }
}

fn mapping(mapping: Mapping) -> String {
    let layer = |layer: crate::format::Layer| match layer.is_lost() {
        true => format!("lost, sectors {:016b}", layer.mask.0),
        false => format!("data block {}, sectors {:016b}", layer.block, layer.mask.0),
    };
    let lower = mapping.lower.map_or(String::new(), |lower| format!("; below: {}", layer(lower)));
    layer(mapping.upper) + &lower
}

impl Display for LogInspection {
    fn fmt(&self, out: &mut Formatter<'_>) -> Result {
        self.heads.iter().try_for_each(|head| writeln!(out, "{head}"))?;
        write!(out, "ring of {} pages, {} records", self.pages, self.entries.len())?;
        for entry in &self.entries {
            let header = &entry.header;
            write!(
                out,
                "\n{:?} record {} at byte {}: incarnation {:#x}, synced {}, {} pages, {} deltas",
                entry.state,
                header.sequence,
                entry.offset_bytes,
                header.incarnation.0,
                header.synced,
                header.pages,
                header.deltas
            )?;
            let deltas = entry.record.iter().flat_map(|record| &record.deltas);
            deltas.into_iter().try_for_each(|found| write!(out, "\n    {}", delta(found)))?;
        }
        Ok(())
    }
}

impl Display for Summary {
    fn fmt(&self, out: &mut Formatter<'_>) -> Result {
        for (index, (page, found)) in self.pages.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            match found {
                Ok(found) => write!(out, "{separator}page {page}: {found}")?,
                Err(error) => write!(out, "{separator}page {page}: {error}")?,
            }
        }
        Ok(())
    }
}
