//! The handshake: any bytes as a client's, then the same as options behind right headers, whole and in pieces.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vellum_nbd_server::protocol::constants::IHAVEOPT;
use vellum_nbd_server::protocol::{Export, Exports, Handshake, Limits, Step};

struct One;

impl Exports for One {
    fn find(&self, name: &str) -> Option<Export> {
        let (name, description) = (name.to_owned(), String::new());
        let export =
            Export { name, description, size_bytes: 1 << 20, read_only: false, preferred_block_bytes: 4096 };
        (export.name.len() < 4).then_some(export)
    }

    fn list(&self) -> Vec<(String, String)> {
        vec![("one".into(), "the only one".into())]
    }
}

fn hear(pieces: &mut dyn Iterator<Item = &[u8]>) -> (usize, Vec<u8>, Step) {
    let mut handshake = Handshake::new(Limits { options_max: 100, option_bytes_max: 1000 });
    let (mut total, mut output, mut step) = (0, Vec::new(), Step::Continue);
    for piece in pieces {
        let consumed;
        (consumed, step) = handshake.receive(piece, &One, &mut output);
        assert!(consumed <= piece.len());
        total += consumed;
        if step != Step::Continue {
            break;
        }
        assert_eq!(consumed, piece.len());
    }
    (total, output, step)
}

fn check(bytes: &[u8], size: usize) {
    let whole = hear(&mut std::iter::once(bytes));
    assert!(whole.0 <= bytes.len());
    assert_eq!(hear(&mut bytes.chunks(size)), whole);
}

/// Client flags, then options of the numbers and lengths that `data` says.
fn as_options(mut data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 0, 3];
    while let [option, length, rest @ ..] = data {
        let (body, behind) = rest.split_at(usize::from(*length).min(rest.len()));
        bytes.extend(IHAVEOPT.to_be_bytes());
        bytes.extend(u32::from(option % 12).to_be_bytes());
        bytes.extend((body.len() as u32).to_be_bytes());
        bytes.extend(body);
        data = behind;
    }
    bytes
}

fuzz_target!(|data: &[u8]| {
    let Some((&size, data)) = data.split_first() else { return };
    let size = usize::from(size).max(1);
    check(data, size);
    check(&as_options(data), size);
});
