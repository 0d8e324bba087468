//! Buffers that the kernel knows beforehand, and more of them than there are: the same bytes either way.

use std::sync::Arc;
use vellum_engine::storage::{
    Buffer, CacheMode, DiskFile, Event, Operation, ReactorKind, Ticket, Waker, reactor, reserve_buffers,
};

const PIECES: u64 = 64;
const PIECE_BYTES: u64 = 8192;

#[test]
fn registered_and_other_buffers_carry_the_same_bytes() {
    // Eight slots for 64 buffers: most of them come from elsewhere.
    reserve_buffers(8 << 16);
    for mode in [CacheMode::Direct, CacheMode::Cached, CacheMode::Writeback] {
        let directory = tempfile::tempdir().unwrap();
        let file = DiskFile::create(directory.path().join("file"), PIECES * PIECE_BYTES, mode).unwrap();
        let waker = Waker::new().unwrap();
        let (mut ring, _) = reactor(ReactorKind::Ring, &[Arc::new(file)], &waker).unwrap();
        let mut wait_for_all = |operations: Vec<Operation>| {
            for (index, operation) in operations.into_iter().enumerate() {
                ring.start(0, Ticket(index as u64), operation);
            }
            let mut done = Vec::new();
            while done.len() < PIECES as usize {
                ring.wait(None, &mut done).unwrap();
            }
            done
        };
        let write = |index: u64| Operation::Write {
            offset_bytes: index * PIECE_BYTES,
            bytes: Buffer::copy_of(&[index as u8; PIECE_BYTES as usize]).freeze(),
        };
        wait_for_all((0..PIECES).map(write).collect());
        let read = |index: u64| Operation::Read {
            offset_bytes: index * PIECE_BYTES,
            buffer: Buffer::zeroed(PIECE_BYTES as usize),
        };
        for event in wait_for_all((0..PIECES).map(read).collect()) {
            let Event::Disk(completion) = event else { panic!("{event:?}") };
            completion.result.unwrap();
            let Operation::Read { buffer, .. } = completion.operation else { panic!() };
            assert!(buffer.iter().all(|byte| u64::from(*byte) == completion.ticket.0));
        }
    }
}
