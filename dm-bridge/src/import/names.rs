//! Which volume a thin device becomes.
//!
//! Owns names, numbers and uuids. A device that a volume of the pool was given away as is that volume again; every other one gets a
//! new number, and a name of its own unless one was asked for. A snapshot whose volume is gone becomes a volume.

use super::census::Seen;
use super::{ImportOptions, Member};
use std::collections::{BTreeMap, BTreeSet};
use vellum_engine::adopt::Given;
use vellum_engine::format::{VolumeKind, VolumeRecord};
use vellum_engine::request::Uuid;
use vellum_engine::units::VolumeId;

/// The devices as volumes, in the order of the volumes' numbers. Sizes are those that are known, or 0.
pub(super) fn members(
    devices: Vec<Seen>,
    given: Option<&Given>,
    options: &ImportOptions,
    next_volume: VolumeId,
) -> Vec<Member> {
    let known = |seen: &Seen| {
        // What was given away was made at time 0; what the kernel makes since has a later one, also under an old number.
        given
            .filter(|_| seen.device.details.creation_time == 0)
            .and_then(|given| given.volumes.iter().find(|record| record.id.0 == u64::from(seen.device.id)))
            .cloned()
    };
    let mut members = Vec::with_capacity(devices.len());
    let mut new = Vec::new();
    for seen in devices {
        match known(&seen) {
            Some(record) => members.push(Member { seen, record, base: None }),
            None => new.push(seen),
        }
    }
    members.sort_by_key(|member| member.record.id);
    for (id, seen) in (next_volume.0..).zip(new) {
        let id = VolumeId(id);
        let uuid = uuid_of(&given.map_or(options.uuid, |given| given.pool), id, options.nonce);
        let name = format!("thin-{}", seen.device.id);
        let record = VolumeRecord {
            id,
            uuid,
            name,
            created_unix_s: options.now_unix_s,
            ..VolumeRecord::new_volume(0)
        };
        members.push(Member { seen, record, base: None });
    }
    rename(&mut members, options);
    members
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

fn rename(members: &mut [Member], options: &ImportOptions) {
    for member in members.iter_mut() {
        if let Some(name) = options.names.get(&member.seen.device.id) {
            member.record.name.clone_from(name);
            member.record.kind = if name.contains('@') { VolumeKind::Snapshot } else { VolumeKind::Volume };
        }
    }
    let volumes: BTreeMap<String, VolumeId> = members
        .iter()
        .filter(|member| member.record.kind == VolumeKind::Volume)
        .map(|member| (member.record.name.clone(), member.record.id))
        .collect();
    let mut taken: BTreeSet<String> = BTreeSet::new();
    for member in members {
        let record = &mut member.record;
        if let Some((volume, snapshot)) = record.name.split_once('@') {
            match volumes.get(volume).filter(|origin| **origin < record.id) {
                Some(origin) => {
                    record.origin = record.origin.or(Some(*origin).filter(|_| record.received.is_none()));
                }
                None => {
                    record.name = format!("{volume}-{snapshot}");
                    record.kind = VolumeKind::Volume;
                }
            }
        }
        let wanted = record.name.clone();
        let mut number = 1;
        while !taken.insert(record.name.clone()) {
            number += 1;
            record.name = format!("{wanted}-{number}");
        }
    }
}
