//! Which volume a thin device becomes.
//!
//! Owns names, numbers and uuids. A device that a volume of the pool was given away as is that volume again; every other one keeps its
//! number if it can, and gets a name of its own unless one was asked for. A snapshot whose volume is gone becomes a volume.

use super::census::Seen;
use super::{ImportOptions, Member};
use crate::export::is_unchanged;
use crate::format::DEVICE_ID_LIMIT;
use std::collections::{BTreeMap, BTreeSet};
use vellum_engine::adopt::Given;
use vellum_engine::error::Error as PoolError;
use vellum_engine::format::{VolumeKind, VolumeRecord};
use vellum_engine::request::Uuid;
use vellum_engine::units::VolumeId;

/// New volumes have the numbers of their devices up to here, so that enough is left for those that are made later.
const KEPT_NUMBERS_END: u64 = DEVICE_ID_LIMIT / 2;

/// The devices as volumes, in the order of the volumes' numbers. Sizes are those that are known, or 0.
///
/// Fails with `Invalid` if a device is to be called a snapshot of one that came later.
pub(super) fn members(
    devices: Vec<Seen>,
    given: Option<&Given>,
    options: &ImportOptions,
    next_volume: VolumeId,
) -> Result<Vec<Member>, PoolError> {
    let pool = given.map_or(options.uuid, |given| given.pool);
    let mut members = Vec::with_capacity(devices.len());
    let mut new = Vec::new();
    for seen in devices {
        match known(&seen, given) {
            Some((given, record)) => members.push(known_member(seen, record.clone(), given, options)),
            None => new.push(seen),
        }
    }
    for (id, seen) in numbered(new, next_volume) {
        let record = VolumeRecord {
            id,
            uuid: uuid_of(&pool, id, options.nonce),
            name: format!("thin-{}", seen.device.id),
            created_unix_s: options.now_unix_s,
            ..VolumeRecord::new_volume(0)
        };
        members.push(Member { seen, record, base: None, is_changed: false });
    }
    members.sort_by_key(|member| member.record.id);
    rename(&mut members, options)?;
    Ok(members)
}

/// The volume that a device was given away as.
fn known<'g>(seen: &Seen, given: Option<&'g Given>) -> Option<(&'g Given, &'g VolumeRecord)> {
    // What was given away was made at time 0; what the kernel makes since has a later one, also under an old number.
    let given = given.filter(|_| seen.device.details.creation_time == 0)?;
    let record = given.volumes.iter().find(|record| record.id.0 == u64::from(seen.device.id))?;
    Some((given, record))
}

/// A snapshot that the kernel has written to is another one: whoever has received it has not what it is now.
fn known_member(seen: Seen, record: VolumeRecord, given: &Given, options: &ImportOptions) -> Member {
    let is_whole = seen.lost.is_empty() && is_unchanged(&record, seen.mapped_blocks, seen.newest_time);
    let mut member = Member { seen, record, base: None, is_changed: false };
    if member.record.kind == VolumeKind::Snapshot && !is_whole {
        let uuid = uuid_of(&given.pool, member.record.id, options.nonce);
        member.record.become_another(uuid, given.pool, given.generation);
        member.is_changed = true;
    }
    member
}

/// A number for every new volume, so that exports give it the one that it had: LVM goes by them. Numbers of volumes are never used again, and
/// there is no volume 0: if one cannot keep its number none does, so that they stay in order.
fn numbered(new: Vec<Seen>, next_volume: VolumeId) -> Vec<(VolumeId, Seen)> {
    let can_keep = |seen: &Seen| (next_volume.0..KEPT_NUMBERS_END).contains(&u64::from(seen.device.id));
    if new.iter().all(can_keep) {
        return new.into_iter().map(|seen| (VolumeId(u64::from(seen.device.id)), seen)).collect();
    }
    (next_volume.0..).map(VolumeId).zip(new).collect()
}

/// Another uuid for every volume, out of the pool's, which is random.
fn uuid_of(pool: &Uuid, id: VolumeId, nonce: u32) -> Uuid {
    let mut uuid = *pool;
    let salt = id.0.to_le_bytes().into_iter().chain(nonce.to_le_bytes());
    uuid.iter_mut().zip(salt).for_each(|(byte, salt)| *byte ^= salt ^ 0xa5);
    // What a version 4 uuid has at these places stays.
    uuid[6] = pool[6];
    uuid[8] = pool[8];
    uuid
}

fn rename(members: &mut [Member], options: &ImportOptions) -> Result<(), PoolError> {
    call_as_asked(members, options);
    let volumes: BTreeMap<String, VolumeId> = members
        .iter()
        .filter(|member| member.record.kind == VolumeKind::Volume)
        .map(|member| (member.record.name.clone(), member.record.id))
        .collect();
    let mut orphans = Vec::new();
    for (at, member) in members.iter_mut().enumerate() {
        let device = member.seen.device.id;
        let record = &mut member.record;
        let Some((volume, _)) = record.name.split_once('@') else { continue };
        match volumes.get(volume) {
            Some(origin) if can_be_of(record, *origin) => {
                record.origin = record.origin.or(Some(*origin).filter(|_| record.received.is_none()));
            }
            Some(_) if options.names.contains_key(&device) => {
                return Err(older_than_its_volume(device, &record.name));
            }
            // What was received need not have a volume.
            None if record.received.is_some() => {}
            _ => orphans.push(at),
        }
    }
    let mut taken: BTreeSet<String> = BTreeSet::new();
    for (_, member) in members.iter_mut().enumerate().filter(|(at, _)| !orphans.contains(at)) {
        make_unique(&mut member.record.name, &mut taken);
    }
    for at in orphans {
        let record = &mut members[at].record;
        record.name = record.name.replace('@', "-");
        record.kind = VolumeKind::Volume;
        make_unique(&mut record.name, &mut taken);
    }
    Ok(())
}

fn make_unique(name: &mut String, taken: &mut BTreeSet<String>) {
    let wanted = name.clone();
    let mut number = 1;
    while !taken.insert(name.clone()) {
        number += 1;
        *name = format!("{wanted}-{number}");
    }
}

/// What has a name was asked for; snapshots of a volume that gets another name go with it.
fn call_as_asked(members: &mut [Member], options: &ImportOptions) {
    let mut renamed = BTreeMap::new();
    for member in members.iter_mut() {
        let Some(name) = options.names.get(&member.seen.device.id) else { continue };
        let before = std::mem::replace(&mut member.record.name, name.clone());
        member.record.kind = if name.contains('@') { VolumeKind::Snapshot } else { VolumeKind::Volume };
        if !name.contains('@') {
            renamed.insert(before, name);
        }
    }
    for member in members.iter_mut().filter(|member| !options.names.contains_key(&member.seen.device.id)) {
        let name = &mut member.record.name;
        if let Some((volume, snapshot)) = name.split_once('@')
            && let Some(volume) = renamed.get(volume)
        {
            *name = format!("{volume}@{snapshot}");
        }
    }
}

/// A snapshot was made from an earlier volume, unless it was received.
fn can_be_of(snapshot: &VolumeRecord, volume: VolumeId) -> bool {
    snapshot.origin.is_some() || snapshot.received.is_some() || volume < snapshot.id
}

fn older_than_its_volume(device: u32, name: &str) -> PoolError {
    PoolError::invalid(format!(
        "device {device} cannot be '{name}': it is older than that volume; give it a name without '@'"
    ))
}
