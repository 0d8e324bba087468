//! Limits of volumes, in simulated time: what goes when, and what never waits.

#[allow(dead_code)]
mod common;

use common::new_volume;
use common::timed::{MIB, Timed, read, write};
use vellum_engine::error::ErrorKind;
use vellum_engine::request::{NewVolume, Outcome, PropertiesChange, Request, RequestId, Segment};
use vellum_engine::storage::{Disk, Operation};
use vellum_engine::units::BLOCK_BYTES;

const MINUTE_MS: u64 = 60_000;

/// Keeps `depth` requests of each kind under way until `until_ms`; how many were answered of each.
fn load(timed: &mut Timed, kinds: &[Request], depth: usize, until_ms: u64) -> Vec<u64> {
    let mut answered = vec![0; kinds.len()];
    let mut under_way: Vec<(RequestId, usize)> = Vec::new();
    for kind in (0..kinds.len()).flat_map(|kind| std::iter::repeat_n(kind, depth)) {
        let id = timed.submit(kinds[kind].clone());
        under_way.push((id, kind));
    }
    timed.settle();
    loop {
        for (id, _, reply) in std::mem::take(&mut timed.answers) {
            reply.unwrap();
            let index = under_way.iter().position(|(other, _)| *other == id).unwrap();
            let (_, kind) = under_way.remove(index);
            answered[kind] += 1;
            let id = timed.submit(kinds[kind].clone());
            under_way.push((id, kind));
        }
        timed.core.turn(timed.now_ms);
        timed.settle();
        if timed.answers.is_empty() && !timed.pass_time(until_ms) {
            return answered;
        }
    }
}

#[test]
fn requests_a_second_are_exact_over_a_minute() {
    for limit in [1, 7, 500, 1999] {
        let mut timed = Timed::new(4096, true);
        let volume = timed.limited(1, limit, 0, 0);
        let answered = load(&mut timed, &[read(volume, 0, 4096)], 32, MINUTE_MS)[0];
        let (least, burst) = (60 * limit, limit / 10 + 2);
        assert!((least..=least + burst).contains(&answered), "{limit} a second: {answered}");
    }
}

#[test]
fn bytes_a_second_are_exact_over_a_minute_whatever_the_size_of_requests() {
    for length in [4096, 65536, 3 * MIB] {
        let mut timed = Timed::new(4096, true);
        let volume = timed.limited(1, 0, MIB, 0);
        let answered = load(&mut timed, &[write(volume, 0, length, 1)], 8, MINUTE_MS)[0] * length;
        let (least, debt) = (60 * MIB, MIB / 10 + length);
        assert!((least..=least + debt).contains(&answered), "{length}: {answered}");
    }
}

#[test]
fn discards_and_zeroes_count_as_requests_without_bytes() {
    let mut timed = Timed::new(4096, true);
    let volume = timed.limited(1, 100, MIB, 0);
    let discard = Request::Discard { volume, offset_bytes: 0, length_bytes: 32 * MIB, fua: false };
    let zeroes = Request::WriteZeroes {
        volume,
        offset_bytes: 0,
        length_bytes: 32 * MIB,
        keep_allocated: false,
        fua: false,
    };
    let answered: u64 = load(&mut timed, &[discard, zeroes], 4, MINUTE_MS).iter().sum();
    assert!((6000..=6012).contains(&answered), "{answered}");
}

#[test]
fn a_huge_request_goes_into_debt_and_the_next_waits_until_it_is_paid() {
    let mut timed = Timed::new(4096, true);
    let volume = timed.limited(1, 0, MIB, 0);
    timed.ask(write(volume, 0, 10 * MIB, 1)).unwrap();
    let next = timed.submit(write(volume, 0, 4096, 2));
    timed.settle();
    while timed.pass_time(MINUTE_MS) {}
    let (_, at_ms, reply) = timed.answers.iter().find(|(id, ..)| *id == next).unwrap();
    assert!(reply.is_ok());
    assert!((9_900..=9_901).contains(at_ms), "ten seconds less the burst of a tenth: {at_ms}");
}

#[test]
fn a_line_keeps_its_order_and_other_volumes_and_flushes_pass() {
    let mut timed = Timed::new(4096, true);
    let (slow, free) = (timed.limited(1, 10, 0, 0), timed.volume(2));
    timed.answers.clear();
    let queued: Vec<RequestId> = (0..20).map(|byte| timed.submit(write(slow, 0, 4096, byte))).collect();
    timed.settle();
    let before = timed.answers.len();
    assert!(before < 3, "{before} of a line that is limited were answered at once");
    timed.answers.clear();
    timed.ask(write(free, 0, 4096, 1)).unwrap();
    timed.ask(Request::Flush).unwrap();
    timed.answers.clear();
    while timed.pass_time(MINUTE_MS) {}
    let order: Vec<RequestId> = timed.answers.iter().map(|(id, ..)| *id).collect();
    assert_eq!(order, queued[before..]);
    assert!((1_800..2_000).contains(&timed.answers.last().unwrap().1), "a tenth of a second each");
    assert_eq!(timed.core.wants_turn_at_ms(), None, "nothing waits any more");
    let Outcome::Data(data) = timed.ask(read(slow, 0, 1)).unwrap() else { panic!() };
    assert!(matches!(&data[..], [Segment::Bytes(bytes)] if bytes[0] == 19));
}

#[test]
fn two_lines_get_what_each_was_promised() {
    let mut timed = Timed::new(4096, true);
    let (one, other) = (timed.limited(1, 300, 0, 0), timed.limited(2, 20, 0, 0));
    let answered = load(&mut timed, &[read(one, 0, 4096), read(other, 0, 4096)], 64, MINUTE_MS);
    assert!(
        (18_000..=18_032).contains(&answered[0]) && (1_200..=1_204).contains(&answered[1]),
        "{answered:?}"
    );
}

#[test]
fn no_more_are_in_flight_than_may_be() {
    let mut timed = Timed::new(4096, true);
    let volume = timed.limited(1, 0, 0, 3);
    timed.ask(write(volume, 0, BLOCK_BYTES, 1)).unwrap();
    timed.answers.clear();
    for index in 0..10 {
        timed.submit(read(volume, index * 4096, 4096));
    }
    let mut answered = 0;
    while answered < 10 {
        timed.core.turn(0);
        assert_eq!(timed.core.wants_turn_at_ms(), None, "time does not help");
        let operations: Vec<_> = std::iter::from_fn(|| timed.core.next_operation()).collect();
        let reads = operations.iter().filter(|(_, _, operation)| matches!(operation, Operation::Read { .. }));
        assert_eq!(reads.count(), 3.min(10 - answered), "{answered} were answered");
        operations.into_iter().for_each(|(_, ticket, operation)| timed.data.submit(ticket, operation));
        while let Some(completion) = timed.data.next_completion() {
            timed.core.complete(completion);
        }
        answered += std::iter::from_fn(|| timed.core.next_reply()).count();
    }
}

#[test]
fn what_waits_goes_on_when_the_limit_goes_and_ends_when_the_volume_or_the_pool_does() {
    let mut timed = Timed::new(4096, true);
    let slow = |timed: &mut Timed, number| {
        let volume = timed.limited(number, 1, 0, 0);
        let ids: Vec<RequestId> = (0..5).map(|_| timed.submit(write(volume, 0, 4096, 9))).collect();
        timed.settle();
        (volume, ids)
    };
    let reply = |timed: &Timed, id: RequestId| {
        timed.answers.iter().find(|(other, ..)| *other == id).map(|a| a.2.clone())
    };

    let (volume, ids) = slow(&mut timed, 1);
    assert!(reply(&timed, ids[4]).is_none());
    timed.core.abandon(ids[3]);
    timed.settle();
    assert_eq!(reply(&timed, ids[3]).unwrap().unwrap_err().kind(), ErrorKind::Busy);
    timed.set(volume, PropertiesChange { limit_iops: Some(0), ..PropertiesChange::default() });
    assert!(reply(&timed, ids[2]).unwrap().is_ok() && reply(&timed, ids[4]).unwrap().is_ok());

    let (volume, ids) = slow(&mut timed, 2);
    timed.ask(Request::Delete { volumes: vec![volume], deferred: false }).unwrap();
    assert_eq!(reply(&timed, ids[4]).unwrap().unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(timed.core.wants_turn_at_ms(), None);

    let (_, ids) = slow(&mut timed, 3);
    timed.ask(Request::Close).unwrap();
    assert!(reply(&timed, ids[4]).unwrap().is_ok(), "what was asked for before the end is carried out");
}

#[test]
fn tools_are_not_limited_and_clones_take_limits_over() {
    let mut timed = Timed::new(4096, false);
    let volume = timed.limited(1, 1, 0, 0);
    (0..5).for_each(|_| drop(timed.ask(write(volume, 0, 4096, 1)).unwrap()));

    let mut timed = Timed::new(4096, true);
    let volume = timed.limited(1, 2, 0, 0);
    let cuts = vec![(volume, NewVolume { uuid: [8; 16], ..new_volume("v1@s") })];
    let Outcome::Created(made) = timed.ask(Request::Snapshot { cuts }).unwrap() else { panic!() };
    (0..5).for_each(|_| drop(timed.ask(read(made[0], 0, 4096)).unwrap()));
    let new = NewVolume { uuid: [7; 16], ..new_volume("copy") };
    let Outcome::Created(made) = timed.ask(Request::Clone { snapshot: made[0], new }).unwrap() else {
        panic!()
    };
    timed.answers.clear();
    (0..5).for_each(|_| _ = timed.submit(read(made[0], 0, 4096)));
    timed.settle();
    assert_eq!(timed.answers.len(), 1, "the clone has its own line");
}
