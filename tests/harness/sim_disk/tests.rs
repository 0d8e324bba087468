//! The simulated disk against the list that it opens with.

use super::*;
use bytes::Bytes;
use std::collections::BTreeSet;
use vellum_engine::storage::Buffer;

fn disk(pages: u64) -> SimDisk {
    let mut disk = SimDisk::new(1, false);
    run(&mut disk, Operation::Allocate { offset_bytes: 0, length_bytes: pages * 4096 }).unwrap();
    run(&mut disk, Operation::Sync).unwrap();
    disk
}

fn write(offset_bytes: u64, byte: u8, length: usize) -> Operation {
    Operation::Write { offset_bytes, bytes: Bytes::from(vec![byte; length]) }
}

fn run(disk: &mut SimDisk, operation: Operation) -> Result<(), DiskError> {
    disk.submit(Ticket(0), operation);
    disk.next_completion().unwrap().result
}

fn read(disk: &mut SimDisk, offset_bytes: u64) -> u8 {
    disk.submit(Ticket(9), Operation::Read { offset_bytes, buffer: Buffer::zeroed(512) });
    loop {
        let completion = disk.next_completion().unwrap();
        if let (Ticket(9), Operation::Read { buffer, .. }) = (completion.ticket, completion.operation) {
            return buffer[0];
        }
    }
}

/// What a unit can hold after a power cut now.
fn outcomes(disk: &SimDisk, offset_bytes: u64) -> BTreeSet<u8> {
    let mut rng = Rng::new(5);
    (0..200).map(|_| read(&mut disk.power_cut(&mut rng), offset_bytes)).collect()
}

#[test]
fn unsynced_units_survive_in_any_subset_and_order() {
    let mut disk = disk(4);
    run(&mut disk, write(0, 1, 8192)).unwrap();
    run(&mut disk, write(512, 2, 512)).unwrap();
    assert_eq!(read(&mut disk, 512), 2);
    assert_eq!(outcomes(&disk, 512), BTreeSet::from([0, 1, 2]));
    assert_eq!(outcomes(&disk, 4096), BTreeSet::from([0, 1]));
    let mut rng = Rng::new(3);
    let torn = (0..200).any(|_| {
        let mut cut = disk.power_cut(&mut rng);
        read(&mut cut, 0) != read(&mut cut, 1024)
    });
    assert!(torn);
}

#[test]
fn a_sync_covers_what_had_completed_before_it_and_nothing_else() {
    let mut disk = disk(4);
    run(&mut disk, write(0, 1, 512)).unwrap();
    disk.set_order(Order::Submission);
    disk.submit(Ticket(1), write(4096, 2, 512));
    disk.submit(Ticket(2), Operation::Sync);
    disk.submit(Ticket(3), write(8192, 3, 512));
    for _ in 0..3 {
        disk.next_completion().unwrap().result.unwrap();
    }
    assert_eq!(outcomes(&disk, 0), BTreeSet::from([1]));
    assert_eq!(outcomes(&disk, 4096), BTreeSet::from([0, 2]));
    assert_eq!(outcomes(&disk, 8192), BTreeSet::from([0, 3]));
    run(&mut disk, Operation::Sync).unwrap();
    assert_eq!(outcomes(&disk, 4096), BTreeSet::from([2]));
}

#[test]
fn a_write_behind_a_sync_does_not_bring_older_versions_back() {
    let mut disk = disk(1);
    run(&mut disk, write(0, 1, 512)).unwrap();
    run(&mut disk, write(0, 2, 512)).unwrap();
    run(&mut disk, Operation::Sync).unwrap();
    run(&mut disk, write(0, 3, 512)).unwrap();
    assert_eq!(outcomes(&disk, 0), BTreeSet::from([2, 3]));
}

#[test]
fn a_failed_sync_is_not_repaired_by_a_later_one() {
    let mut disk = disk(4);
    disk.set_faults(FaultPlan::one(Trigger::nth(OperationKind::Sync, 0), Fault::Io));
    run(&mut disk, write(0, 1, 512)).unwrap();
    assert_eq!(run(&mut disk, Operation::Sync), Err(DiskError::Io(Some(5))));
    run(&mut disk, Operation::Sync).unwrap();
    assert_eq!(read(&mut disk, 0), 1);
    assert_eq!(outcomes(&disk, 0), BTreeSet::from([0, 1]));
    run(&mut disk, write(0, 2, 512)).unwrap();
    run(&mut disk, Operation::Sync).unwrap();
    assert_eq!(outcomes(&disk, 0), BTreeSet::from([2]));
}

#[test]
fn a_failed_write_leaves_old_or_new() {
    let mut seen = BTreeSet::new();
    for seed in 0..40 {
        let mut disk = disk(4);
        disk.rng = Rng::new(seed);
        disk.set_faults(FaultPlan::one(Trigger::nth(OperationKind::Write, 0), Fault::Io));
        run(&mut disk, write(0, 1, 4096)).unwrap_err();
        run(&mut disk, Operation::Sync).unwrap();
        seen.insert(read(&mut disk, 0));
    }
    assert_eq!(seen, BTreeSet::from([0, 1]));
}

#[test]
fn a_killed_process_keeps_what_completed_and_makes_nothing_certain() {
    let mut rng = Rng::new(4);
    let mut in_flight = BTreeSet::new();
    for seed in 0..100 {
        let mut disk = disk(4);
        disk.rng = Rng::new(seed);
        run(&mut disk, write(0, 1, 512)).unwrap();
        disk.submit(Ticket(1), write(4096, 2, 4096));
        let mut killed = disk.kill(&mut rng);
        assert_eq!(read(&mut killed, 0), 1);
        assert_eq!(outcomes(&killed, 0), BTreeSet::from([0, 1]));
        in_flight.insert((read(&mut killed, 4096), read(&mut killed, 4608)));
        run(&mut killed, Operation::Sync).unwrap();
        assert_eq!(outcomes(&killed, 0), BTreeSet::from([1]));
    }
    assert_eq!(in_flight, BTreeSet::from([(0, 0), (0, 2), (2, 0), (2, 2)]));
}

#[test]
fn extensions_and_punches_may_be_undone_until_a_sync() {
    let mut disk = disk(1);
    run(&mut disk, write(0, 1, 4096)).unwrap();
    run(&mut disk, Operation::Sync).unwrap();
    run(&mut disk, Operation::Punch { offset_bytes: 0, length_bytes: 512 }).unwrap();
    run(&mut disk, Operation::Allocate { offset_bytes: 4096, length_bytes: 4096 }).unwrap();
    assert_eq!((read(&mut disk, 0), disk.size_bytes()), (0, 8192));
    assert_eq!(outcomes(&disk, 0), BTreeSet::from([0, 1]));
    let mut rng = Rng::new(4);
    let sizes: BTreeSet<u64> = (0..50).map(|_| disk.power_cut(&mut rng).size_bytes()).collect();
    assert_eq!(sizes, BTreeSet::from([4096, 8192]));
    run(&mut disk, Operation::Sync).unwrap();
    assert_eq!(disk.power_cut(&mut rng).size_bytes(), 8192);
    assert_eq!(run(&mut disk, write(8192, 1, 512)), Err(DiskError::Short));
}

#[test]
fn of_two_writes_in_flight_together_either_wins_and_reads_see_either() {
    let (mut winners, mut seen) = (BTreeSet::new(), BTreeSet::new());
    for seed in 0..200 {
        let mut disk = disk(1);
        disk.rng = Rng::new(seed);
        disk.submit(Ticket(1), write(0, 1, 512));
        disk.submit(Ticket(2), write(0, 2, 512));
        seen.insert(read(&mut disk, 0));
        while disk.next_completion().is_some() {}
        winners.insert(read(&mut disk, 0));
    }
    assert_eq!(winners, BTreeSet::from([1, 2]));
    assert_eq!(seen, BTreeSet::from([0, 1, 2]));
}

#[test]
fn unsynced_units_mix_only_where_the_mode_says_so() {
    let mut disk = disk(1);
    disk.byte_mixing = true;
    run(&mut disk, write(0, 0xff, 512)).unwrap();
    let mut rng = Rng::new(4);
    let mut mixed = || {
        let mut cut = disk.power_cut(&mut rng);
        cut.submit(Ticket(0), Operation::Read { offset_bytes: 0, buffer: Buffer::zeroed(512) });
        let Operation::Read { buffer, .. } = cut.next_completion().unwrap().operation else { unreachable!() };
        buffer.contains(&0) && buffer.contains(&0xff)
    };
    assert!((0..100).any(|_| mixed()));
}

#[test]
fn power_ends_in_the_middle_and_what_was_in_flight_may_survive() {
    let mut all = BTreeSet::new();
    for seed in 0..20 {
        let mut disk = disk(2);
        disk.rng = Rng::new(seed);
        disk.set_power(PowerSupply::lasting(1));
        disk.submit(Ticket(1), write(0, 1, 512));
        disk.submit(Ticket(2), write(4096, 2, 512));
        while let Some(completion) = disk.next_completion() {
            assert_eq!(completion.result, Err(DiskError::Io(None)));
        }
        all.extend(outcomes(&disk, 0));
        assert_eq!(outcomes(&disk, 4096), BTreeSet::from([0]));
    }
    assert_eq!(all, BTreeSet::from([0, 1]));
}

#[test]
fn silent_faults_do_what_they_say() {
    for (fault, here) in [(Fault::Lost, false), (Fault::Misdirected, false), (Fault::BitFlip, true)] {
        let mut disk = disk(64);
        disk.set_faults(FaultPlan::one(Trigger::nth(OperationKind::Write, 1), fault));
        run(&mut disk, write(0, 1, 512)).unwrap();
        run(&mut disk, write(4096, 2, 512)).unwrap();
        assert_eq!(read(&mut disk, 0), 1);
        let content = disk.visible.unit(1, 0);
        assert_eq!(content.iter().filter(|&&byte| byte == 2).count() >= 511, here, "{fault:?}");
        assert!(content != [2; 512]);
        assert_eq!(disk.strikes()[0].fault, fault);
    }
}
