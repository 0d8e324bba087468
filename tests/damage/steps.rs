//! A repair that is interrupted, or that meets another pair of files than it made.

use super::pool::{make, open_options};
use super::{OPTIONS, repaired};
use vellum_engine::error::ErrorKind;
use vellum_engine::storage::{Completion, Disk, DiskError, MemoryDisk, Operation, Ticket};
use vellum_engine::{Pool, check, repair};

/// A disk that fails from some operation that changes it on.
struct Failing {
    disk: MemoryDisk,
    left: u64,
}

impl Disk for Failing {
    fn size_bytes(&self) -> u64 {
        self.disk.size_bytes()
    }

    fn submit(&mut self, ticket: Ticket, operation: Operation) {
        if !matches!(operation, Operation::Read { .. }) {
            self.left = self.left.saturating_sub(1);
        }
        self.disk.submit(ticket, operation);
    }

    fn next_completion(&mut self) -> Option<Completion> {
        let mut completion = self.disk.next_completion()?;
        let changes = !matches!(completion.operation, Operation::Read { .. });
        if changes && self.left == 0 {
            completion.result = Err(DiskError::Io(None));
        }
        Some(completion)
    }
}

/// Wherever the making of the new file ends, it is no pool yet or a complete one.
#[test]
fn an_interrupted_repair_leaves_no_half_of_a_pool() {
    let disks = make(8, false);
    let (mut data, mut metadata) = (disks.data.clone(), disks.metadata.clone());
    let mut operations = 1;
    loop {
        let mut target = Failing { disk: MemoryDisk::new(0), left: operations };
        let made = repair(&mut data, &mut metadata, &mut target, &OPTIONS, &mut |_| {});
        if made.is_ok() {
            break;
        }
        let Failing { disk: mut half, .. } = target;
        match check(&mut data, &mut half, &mut |_| {}) {
            Err(_) => {}
            Ok(report) => {
                let pool = Pool::open(data.clone(), half, &open_options());
                let one_superblock = report.findings.len() == 1 && pool.is_ok();
                assert!(report.is_clean() || one_superblock, "{operations}: {:?}", report.findings);
            }
        }
        operations += if operations > 20 && operations % 7 != 0 { 3 } else { 1 };
    }
    assert!(operations > 50);
}

/// Before the last step both pairs can be opened; after it the old metadata is refused by name.
#[test]
fn the_old_metadata_is_refused_after_the_last_step() {
    let disks = make(8, false);
    let (mut data, mut metadata) = (disks.data.clone(), disks.metadata.clone());
    let (made, target) = repaired(&mut data, &mut metadata).unwrap();
    assert!(made.report.found_nothing(), "{:?}", made.report);
    assert!(Pool::open(data.clone(), metadata.clone(), &open_options()).is_ok());
    assert!(Pool::open(data.clone(), target.clone(), &open_options()).is_ok());
    made.commit(&mut data).unwrap();
    made.commit(&mut data).unwrap();
    let refused = Pool::open(data.clone(), metadata.clone(), &open_options()).map(drop).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Mismatch);
    assert!(Pool::open(data, target, &open_options()).is_ok());
}

/// If the old pair was opened meanwhile, the new metadata is of another time, and refused.
#[test]
fn new_metadata_is_refused_when_the_old_was_opened_since() {
    let disks = make(8, false);
    let (mut data, mut metadata) = (disks.data.clone(), disks.metadata.clone());
    let (_, target) = repaired(&mut data, &mut metadata).unwrap();
    let pool = Pool::open(data, metadata, &open_options()).unwrap();
    let data = pool.data_disk().clone();
    let refused = Pool::open(data, target, &open_options()).map(drop).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Mismatch);
}

#[test]
fn what_does_not_belong_together_is_refused() {
    let disks = make(8, false);
    let mut other = super::pool::empty_pool(64, 1);
    other.request(vellum_engine::request::Request::Flush).unwrap();
    let (mut data, mut metadata) = (MemoryDisk::new(1 << 20), disks.metadata.clone());
    assert_eq!(repaired(&mut data, &mut metadata).map(drop).unwrap_err().kind(), ErrorKind::Mismatch);
    let mut nothing = MemoryDisk::new(1 << 20);
    let mut data = disks.data.clone();
    assert_eq!(repaired(&mut data, &mut nothing).map(drop).unwrap_err().kind(), ErrorKind::Unsupported);
    // Metadata of an earlier opening.
    let pool = Pool::open(disks.data.clone(), disks.metadata.clone(), &open_options()).unwrap();
    let mut newer = pool.data_disk().clone();
    let mut metadata = disks.metadata.clone();
    assert_eq!(repaired(&mut newer, &mut metadata).map(drop).unwrap_err().kind(), ErrorKind::Mismatch);
}
