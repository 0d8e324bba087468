//! A request on its way in: the operation finds its volumes, and the model notes what was asked for.
//!
//! Owns the translation of [`Op`] to [`Request`]. An operation that finds no volume to work on is left out.

use super::history::{History, Moment};
use super::{Asked, Key, Model, Pending, State, Volume};
use crate::tag::{UNIT, Value, payload};
use crate::workload::{Op, Selector, Span};
use std::collections::BTreeMap;
use vellum_engine::request::{NewVolume, Request, RequestId};
use vellum_engine::settings::{DiscardPolicy, NoSpace, Settings};
use vellum_engine::units::{BLOCK_BYTES, SECTOR_BYTES, VolumeId};

impl Model {
    /// Notes that `op` is asked for as request `id`, and makes the request. `None` if there is nothing to ask.
    pub fn issue(&mut self, id: RequestId, op: &Op) -> Option<Request> {
        let issued = self.tick();
        let (what, request) = match op {
            Op::Read(volume, span) => self.issue_read(*volume, *span)?,
            Op::Write(volume, span, fua) => self.issue_write(*volume, *span, *fua, issued)?,
            Op::WriteZeroes(volume, span, keep, fua) => {
                self.issue_write_zeroes(*volume, *span, *keep, *fua, issued)?
            }
            Op::Discard(volume, span, fua) => self.issue_discard(*volume, *span, *fua, issued)?,
            Op::Flush => (Asked::Flush, Request::Flush),
            Op::Create(blocks) => self.issue_create(*blocks),
            Op::Snapshot(sources) => self.issue_snapshot(sources)?,
            Op::Clone(snapshot) => self.issue_clone(*snapshot)?,
            Op::Delete(victims) => self.issue_delete(victims)?,
            Op::DeleteDeferred(snapshot) => self.issue_delete_deferred(*snapshot)?,
            Op::Resize(volume, sectors) => self.issue_resize(*volume, *sectors, issued)?,
            Op::Rename(volume) => self.issue_rename(*volume)?,
            Op::Rollback(snapshot) => self.issue_rollback(*snapshot, issued)?,
            Op::Hold(volume) => self.issue_hold(*volume)?,
            Op::Release(volume) => self.issue_release(*volume)?,
            Op::Collapse(volume) => self.issue_collapse(*volume)?,
            Op::Checkpoint => (Asked::Checkpoint, Request::Checkpoint),
            Op::Trim(first_block) => (Asked::Trim, Request::Trim { first_block: *first_block }),
            Op::Extend(data_blocks) => (Asked::Extend, Request::Extend { data_blocks: *data_blocks }),
            Op::Configure(selector) => (Asked::Configure, configure(*selector)),
            // Not the pool's affair.
            Op::HostRoom(..) => return None,
        };
        self.pending.insert(id, Pending { issued, what });
        Some(request)
    }

    /// Notes that the pool is asked to close, as request `id`.
    pub fn issue_close(&mut self, id: RequestId) -> Request {
        let issued = self.tick();
        self.pending.insert(id, Pending { issued, what: Asked::Close });
        Request::Close
    }

    pub(super) fn choose(
        &self,
        selector: Selector,
        fits: impl Fn(&Volume) -> bool,
    ) -> Option<(Key, VolumeId)> {
        let fitting: Vec<_> = self
            .volumes
            .iter()
            .filter(|(_, volume)| fits(volume))
            .filter_map(|(&key, volume)| volume.id.map(|id| (key, id)))
            .collect();
        let index = selector.checked_rem(fitting.len() as u64)?;
        fitting.get(index as usize).copied()
    }

    /// Also one that is being deleted, now and then: its clients may be late.
    fn choose_writable(&self, selector: Selector) -> Option<(Key, VolumeId)> {
        let late = selector >> 60 == 0;
        self.choose(selector, |volume| {
            !volume.is_snapshot && (volume.is_live() || late && volume.state == State::Deleting)
        })
    }

    fn clamp(&self, volume: Key, span: Span) -> (u64, u64) {
        let size_bytes = self.volumes[&volume].size_bytes;
        let offset_bytes = span.offset_bytes % size_bytes;
        (offset_bytes, span.length_bytes.min(size_bytes - offset_bytes))
    }

    fn issue_read(&mut self, selector: Selector, span: Span) -> Option<(Asked, Request)> {
        let late = selector >> 60 == 0;
        let fits = |volume: &Volume| volume.is_live() || late && volume.state == State::Deleting;
        let (volume, id) = self.choose(selector, fits)?;
        let (offset_bytes, length_bytes) = self.clamp(volume, span);
        let asked = Asked::Read { volume, offset_bytes, length_bytes };
        Some((asked, Request::Read { volume: id, offset_bytes, length_bytes }))
    }

    fn issue_write(
        &mut self,
        selector: Selector,
        span: Span,
        fua: bool,
        issued: Moment,
    ) -> Option<(Asked, Request)> {
        let (volume, id) = self.choose_writable(selector)?;
        let (offset_bytes, length_bytes) = self.clamp(volume, span);
        let (write, record) = self.new_write(issued, fua);
        self.add_change(volume, offset_bytes..offset_bytes + length_bytes, Some(write), record);
        let bytes = payload(write, offset_bytes, length_bytes).into();
        Some((Asked::Change { volume, record }, Request::Write { volume: id, offset_bytes, bytes, fua }))
    }

    fn issue_write_zeroes(
        &mut self,
        selector: Selector,
        span: Span,
        keep_allocated: bool,
        fua: bool,
        issued: Moment,
    ) -> Option<(Asked, Request)> {
        let (volume, id) = self.choose_writable(selector)?;
        let (offset_bytes, length_bytes) = self.clamp(volume, span);
        let (_, record) = self.new_write(issued, fua);
        self.add_change(volume, offset_bytes..offset_bytes + length_bytes, None, record);
        // Zeros come by a write as well: where the pool looks for them they become holes.
        let request = if keep_allocated && issued.is_multiple_of(2) {
            let bytes = vec![0; length_bytes as usize].into();
            Request::Write { volume: id, offset_bytes, bytes, fua }
        } else {
            Request::WriteZeroes { volume: id, offset_bytes, length_bytes, keep_allocated, fua }
        };
        Some((Asked::Change { volume, record }, request))
    }

    fn issue_discard(
        &mut self,
        selector: Selector,
        span: Span,
        fua: bool,
        issued: Moment,
    ) -> Option<(Asked, Request)> {
        let (volume, id) = self.choose_writable(selector)?;
        let (offset_bytes, length_bytes) = self.clamp(volume, span);
        let (_, record) = self.new_write(issued, fua);
        let first = offset_bytes.next_multiple_of(SECTOR_BYTES);
        let end = (offset_bytes + length_bytes) / SECTOR_BYTES * SECTOR_BYTES;
        if first < end {
            self.add_change(volume, first..end, None, record);
        }
        Some((
            Asked::Change { volume, record },
            Request::Discard { volume: id, offset_bytes, length_bytes, fua },
        ))
    }

    pub(super) fn new_volume(
        &mut self,
        name: String,
        size_bytes: u64,
        units: Vec<History>,
        is_snapshot: bool,
    ) -> (Key, NewVolume) {
        let key = self.next_key;
        self.next_key += 1;
        let name = format!("{name}{key}");
        let mut uuid = [0x5a; 16];
        uuid[..8].copy_from_slice(&key.to_le_bytes());
        let new = NewVolume { name: name.clone(), uuid, created_unix_s: self.now };
        let state = State::Creating;
        let holds = BTreeMap::new();
        let volume = Volume {
            name,
            new_name: None,
            id: None,
            state,
            is_snapshot,
            cut: None,
            size_bytes,
            new_size_bytes: None,
            resized: 0,
            units,
            parent: None,
            deferred: Some(false),
            holds,
        };
        self.volumes.insert(key, volume);
        (key, new)
    }

    fn issue_create(&mut self, blocks: u64) -> (Asked, Request) {
        let size_bytes = blocks * BLOCK_BYTES;
        let units = vec![History::starting_with(Value::ZEROS); size_bytes as usize / UNIT];
        let (volume, new) = self.new_volume("v".to_owned(), size_bytes, units, false);
        (Asked::Create { volume }, Request::CreateVolume { new, size_bytes, reservation_bytes: 0 })
    }

    fn issue_snapshot(&mut self, sources: &[Selector]) -> Option<(Asked, Request)> {
        let fits = |volume: &Volume| volume.is_live() && !volume.is_snapshot && volume.is_certain();
        let chosen = sources.iter().filter_map(|&source| self.choose(source, fits));
        let mut chosen: Vec<_> = chosen.filter(|&(key, _)| !self.is_changing(key)).collect();
        chosen.sort_unstable();
        chosen.dedup();
        if chosen.is_empty() {
            return None;
        }
        let (mut pairs, mut cuts) = (Vec::new(), Vec::new());
        for (source, id) in chosen {
            let (name, size_bytes) =
                (format!("{}@s", self.volumes[&source].name), self.volumes[&source].size_bytes);
            let (snapshot, new) = self.new_volume(name, size_bytes, Vec::new(), true);
            self.volumes.entry(snapshot).and_modify(|volume| volume.parent = Some(source));
            pairs.push((source, snapshot));
            cuts.push((id, new));
        }
        Some((Asked::Snapshot { pairs }, Request::Snapshot { cuts }))
    }

    fn issue_clone(&mut self, selector: Selector) -> Option<(Asked, Request)> {
        let fits = |volume: &Volume| volume.is_live() && volume.is_snapshot && volume.is_certain();
        let (snapshot, id) = self.choose(selector, fits).filter(|&(key, _)| !self.is_changing(key))?;
        let origin = &self.volumes[&snapshot];
        let view = Self::view_of_cut(origin.cut?);
        let units = origin.units.iter().map(|unit| unit.as_base(&self.records, &view)).collect();
        let size_bytes = origin.size_bytes;
        let (volume, new) = self.new_volume("c".to_owned(), size_bytes, units, false);
        Some((Asked::Clone { snapshot, volume }, Request::Clone { snapshot: id, new }))
    }

    pub(super) fn is_source(&self, key: Key) -> bool {
        self.pending.values().any(|pending| match &pending.what {
            Asked::Snapshot { pairs } => pairs.iter().any(|&(source, _)| source == key),
            Asked::Clone { snapshot, .. } => *snapshot == key,
            _ => false,
        })
    }

    fn issue_delete(&mut self, victims: &[Selector]) -> Option<(Asked, Request)> {
        let chosen = victims.iter().filter_map(|&victim| self.choose(victim, Volume::is_live));
        let mut chosen: Vec<_> = chosen.collect();
        // A volume goes with its snapshots; now and then it is tried without.
        if victims[0] >> 62 != 0 {
            chosen.extend(chosen.clone().into_iter().flat_map(|(key, _)| self.live_snapshots_of(key)));
        }
        chosen.retain(|&(key, _)| !self.is_source(key) && !self.is_changing(key));
        chosen.sort_unstable();
        chosen.dedup();
        if chosen.is_empty()
            || self.volumes.values().filter(|volume| volume.is_live()).count() <= chosen.len()
        {
            return None;
        }
        let (keys, ids): (Vec<Key>, Vec<VolumeId>) = chosen.into_iter().unzip();
        for key in &keys {
            self.volumes.entry(*key).and_modify(|volume| volume.state = State::Deleting);
        }
        Some((Asked::Delete { volumes: keys }, Request::Delete { volumes: ids, deferred: false }))
    }

    fn issue_hold(&mut self, selector: Selector) -> Option<(Asked, Request)> {
        let (volume, id) =
            self.choose(selector, Volume::is_live).filter(|&(key, _)| !self.is_changing(key))?;
        let tag = format!("h{}", self.now);
        self.volumes.get_mut(&volume)?.holds.insert(tag.clone(), false);
        Some((Asked::Hold { volume, tag: tag.clone() }, Request::Hold { volume: id, tag }))
    }

    fn issue_release(&mut self, selector: Selector) -> Option<(Asked, Request)> {
        let held = |volume: &Volume| volume.is_live() && volume.holds.values().any(|&certain| certain);
        let (volume, id) = self.choose(selector, held).filter(|&(key, _)| !self.is_changing(key))?;
        let held = self.volumes.get_mut(&volume)?;
        let (tag, certain) = held.holds.iter_mut().find(|(_, certain)| **certain)?;
        *certain = false;
        let tag = tag.clone();
        if held.deferred != Some(false) && !held.holds.values().any(|&certain| certain) {
            held.state = State::Deleting;
        }
        Some((Asked::Release { volume, tag: tag.clone() }, Request::Release { volume: id, tag }))
    }

    fn issue_collapse(&mut self, selector: Selector) -> Option<(Asked, Request)> {
        let (volume, id) = self.choose(selector, |volume| volume.is_live() && !volume.is_snapshot)?;
        Some((Asked::Collapse { volume }, Request::Collapse { volume: id }))
    }
}

/// What the pool does about space, at random: each byte of the number chooses one thing.
fn configure(selector: Selector) -> Request {
    let choice = |byte: u32, of: usize| (selector >> (8 * byte) & 0xff) as usize % of;
    let settings = Settings {
        discard: [DiscardPolicy::Eager, DiscardPolicy::Eager, DiscardPolicy::Lazy, DiscardPolicy::Off]
            [choice(0, 4)],
        detect_zeros: choice(1, 2) == 1,
        no_space: [NoSpace::Stall, NoSpace::Stall, NoSpace::Error][choice(2, 3)],
        no_space_timeout_s: [0, 5, 60][choice(3, 3)],
        auto_extend_bytes: [0, 0, 0, 64 * BLOCK_BYTES][choice(4, 4)],
        ..Settings::default()
    };
    Request::Configure { settings: Box::new(settings) }
}
