//! Requests: any bytes, then any fields behind the right magic, on exports of any size.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vellum_fuzz::{padded, put};
use vellum_nbd_server::protocol::constants::REQUEST_MAGIC;
use vellum_nbd_server::protocol::{
    Command, Context, Export, MetaContext, PAYLOAD_BYTES_MAX, RequestHeader, Session, check,
};

fn session(size_bytes: u64, choice: u8) -> Session {
    let (name, description) = (String::new(), String::new());
    let read_only = choice & 1 != 0;
    let contexts = vec![Context { id: 1, kind: MetaContext::Allocation }; usize::from(choice >> 1 & 1)];
    Session {
        export: Export { name, description, size_bytes, read_only, preferred_block_bytes: 4096 },
        structured_replies: choice & 4 != 0,
        contexts,
    }
}

/// What is allowed must lie inside the export and in the limits.
fn decode_and_check(bytes: &[u8; RequestHeader::BYTES], session: &Session) {
    let Ok(header) = RequestHeader::decode(bytes) else { return };
    let length = header.length_bytes;
    match check(&header, session) {
        Err(_) | Ok(Command::Disconnect | Command::Flush) => {}
        Ok(command) => {
            let end = u128::from(header.offset_bytes) + u128::from(length);
            assert!(length == 0 || end <= u128::from(session.export.size_bytes));
            let has_payload = matches!(command, Command::Read { .. } | Command::Write { .. });
            assert!(!has_payload || length <= PAYLOAD_BYTES_MAX);
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let bytes = padded(data, RequestHeader::BYTES + 9);
    let (header, rest) = bytes.split_first_chunk().expect("there are enough");
    let (size, rest) = rest.split_first_chunk().expect("there are enough");
    let session = session(u64::from_le_bytes(*size), rest[0]);
    decode_and_check(header, &session);
    let mut header = *header;
    put(&mut header, 0, &REQUEST_MAGIC.to_be_bytes());
    let command = u16::from(header[7] % 10);
    put(&mut header, 6, &command.to_be_bytes());
    decode_and_check(&header, &session);
});
