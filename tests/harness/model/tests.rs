//! The model against hand-made histories: what it must accept, and what it must not.

use super::*;
use crate::tag::payload;
use crate::workload::{Op, Span};
use std::collections::{BTreeMap, BTreeSet};
use vellum_engine::request::{Outcome, Request, Segment};

struct Client {
    model: Model,
    next: u64,
}

const UNIT_0: Span = Span { offset_bytes: 0, length_bytes: 512 };

impl Client {
    fn new() -> Self {
        let mut client = Self { model: Model::new(Tolerance::Nothing), next: 0 };
        let (id, _) = client.ask(&Op::Create(1));
        client.answer(id, Outcome::Created(vec![VolumeId(1)])).unwrap();
        client
    }

    fn ask(&mut self, op: &Op) -> (RequestId, Request) {
        self.next += 1;
        let id = RequestId(self.next);
        (id, self.model.issue(id, op).unwrap())
    }

    fn answer(&mut self, id: RequestId, outcome: Outcome) -> Check {
        self.model.reply(id, Ok(outcome))
    }

    fn begin_write(&mut self, span: Span, fua: bool) -> (RequestId, Vec<u8>) {
        match self.ask(&Op::Write(u64::MAX, span, fua)) {
            (id, Request::Write { bytes, .. }) => (id, bytes.to_vec()),
            other => panic!("{other:?}"),
        }
    }

    fn write(&mut self, span: Span) -> Vec<u8> {
        let (id, bytes) = self.begin_write(span, false);
        self.answer(id, Outcome::Done).unwrap();
        bytes
    }

    fn flush(&mut self) {
        let (id, _) = self.ask(&Op::Flush);
        self.answer(id, Outcome::Done).unwrap();
    }

    fn read(&mut self, bytes: &[u8]) -> Check {
        let (id, _) = self.ask(&Op::Read(u64::MAX, UNIT_0));
        self.answer(id, Outcome::Data(vec![Segment::Bytes(bytes.to_vec().into())]))
    }

    fn holds_after(&self, end: End, bytes: &[u8]) -> bool {
        let mut all = vec![0; 65536];
        all[..bytes.len()].copy_from_slice(bytes);
        let volume = ObservedVolume {
            id: VolumeId(1),
            is_snapshot: false,
            deletion_deferred: false,
            bytes: all,
            holds: BTreeSet::new(),
            unreadable: Vec::new(),
        };
        let volumes = BTreeMap::from([("v1".to_owned(), volume)]);
        self.model.verdict(end, &Observed { volumes }).into_check().is_ok()
    }
}

const ZEROS: [u8; 512] = [0; 512];

#[test]
fn a_read_sees_what_was_answered_before_it() {
    let mut client = Client::new();
    client.read(&ZEROS).unwrap();
    let one = client.write(UNIT_0);
    client.read(&one).unwrap();
    client.read(&ZEROS).unwrap_err();
    let (_, two) = client.begin_write(UNIT_0, false);
    client.read(&one).unwrap();
    client.read(&two).unwrap();
    client.read(&payload(WriteNumber(99), 0, 512)).unwrap_err();
}

#[test]
fn of_two_writes_at_one_time_either_stays() {
    let mut client = Client::new();
    let (first, one) = client.begin_write(UNIT_0, false);
    let (second, two) = client.begin_write(UNIT_0, false);
    client.answer(second, Outcome::Done).unwrap();
    client.answer(first, Outcome::Done).unwrap();
    client.read(&one).unwrap();
    client.read(&two).unwrap();
    client.read(&ZEROS).unwrap_err();
}

#[test]
fn parts_of_units_are_judged_byte_by_byte() {
    let mut client = Client::new();
    let mut bytes = client.write(UNIT_0);
    let middle = client.write(Span { offset_bytes: 100, length_bytes: 50 });
    client.read(&bytes).unwrap_err();
    bytes[100..150].copy_from_slice(&middle);
    client.read(&bytes).unwrap();
    bytes[149] ^= 1;
    client.read(&bytes).unwrap_err();
}

#[test]
fn a_power_cut_goes_back_to_the_last_flush_and_a_kill_to_nothing() {
    let mut client = Client::new();
    let one = client.write(UNIT_0);
    assert!(client.holds_after(End::PowerCut, &ZEROS) && client.holds_after(End::PowerCut, &one));
    assert!(!client.holds_after(End::Kill, &ZEROS) && client.holds_after(End::Kill, &one));
    client.flush();
    assert!(!client.holds_after(End::PowerCut, &ZEROS) && client.holds_after(End::PowerCut, &one));
    let two = client.write(UNIT_0);
    let three = client.write(UNIT_0);
    assert!([&one, &two, &three].iter().all(|bytes| client.holds_after(End::PowerCut, bytes)));
    assert!(!client.holds_after(End::Kill, &two) && client.holds_after(End::Kill, &three));
    let mut torn = two.clone();
    torn[..100].copy_from_slice(&three[..100]);
    assert!(!client.holds_after(End::PowerCut, &torn) && client.holds_after(End::PowerCutMixing, &torn));
    assert!(!client.holds_after(End::PowerCutMixing, &ZEROS));
}

#[test]
fn a_flush_covers_only_what_was_answered_before_it_was_asked_for() {
    let mut client = Client::new();
    let (flush, _) = client.ask(&Op::Flush);
    let one = client.write(UNIT_0);
    client.answer(flush, Outcome::Done).unwrap();
    assert!(client.holds_after(End::PowerCut, &ZEROS) && client.holds_after(End::PowerCut, &one));
    let (id, two) = client.begin_write(UNIT_0, true);
    client.answer(id, Outcome::Done).unwrap();
    assert!(!client.holds_after(End::PowerCut, &one) && client.holds_after(End::PowerCut, &two));
}

#[test]
fn a_cut_that_has_a_write_has_what_was_answered_before_it() {
    let mut client = Client::new();
    let (snapshot, _) = client.ask(&Op::Snapshot(vec![0]));
    let unit_1 = Span { offset_bytes: 512, length_bytes: 512 };
    let first = client.write(UNIT_0);
    let second = client.write(unit_1);
    client.answer(snapshot, Outcome::Created(vec![VolumeId(2)])).unwrap();
    let holds = |units: [&[u8]; 2]| {
        let mut bytes = vec![0; 65536];
        bytes[..512].copy_from_slice(units[0]);
        bytes[512..1024].copy_from_slice(units[1]);
        let mut live = vec![0; 65536];
        live[..1024].copy_from_slice(&[first.clone(), second.clone()].concat());
        let volume = |id, is_snapshot, bytes| ObservedVolume {
            id,
            is_snapshot,
            deletion_deferred: false,
            bytes,
            holds: BTreeSet::new(),
            unreadable: Vec::new(),
        };
        let volumes = BTreeMap::from([
            ("v1".to_owned(), volume(VolumeId(1), false, live)),
            ("v1@s2".to_owned(), volume(VolumeId(2), true, bytes)),
        ]);
        client.model.verdict(End::Kill, &Observed { volumes }).into_check().is_ok()
    };
    assert!(holds([&ZEROS, &ZEROS]) && holds([&first, &ZEROS]) && holds([&first, &second]));
    assert!(!holds([&ZEROS, &second]));
}

#[test]
fn volumes_are_neither_lost_nor_invented() {
    let mut client = Client::new();
    assert!(client.model.verdict(End::PowerCut, &Observed::default()).into_check().is_err());
    let (id, _) = client.ask(&Op::Create(1));
    assert!(client.holds_after(End::PowerCut, &ZEROS));
    client.answer(id, Outcome::Created(vec![VolumeId(2)])).unwrap();
    assert!(!client.holds_after(End::PowerCut, &ZEROS));
}
