//! Any bytes at all: nothing panics, nothing is consumed that was not given, and splits do not matter.

use super::constants::*;
use super::talk::{Client, context_data, hear, info_data};
use super::{Limits, RequestHeader, Session, Step, check};
use proptest::prelude::*;

/// Options that are almost right, so that much of the handshake is reached.
fn option_data() -> impl Strategy<Value = Vec<u8>> {
    let names = prop::sample::select(vec!["", "disk", "frozen", "gone", "di\0sk"]);
    let queries = prop::collection::vec(
        prop::sample::select(vec!["base:", "base:allocation", "x-vellum:shared", "x-a:b", "none"]),
        0..4,
    );
    let info = (names.clone(), prop::collection::vec(0u16..5, 0..5))
        .prop_map(|(name, requests)| info_data(name.as_bytes(), &requests));
    let contexts =
        (names.clone(), queries).prop_map(|(name, queries)| context_data(name.as_bytes(), &queries));
    let name = names.prop_map(|name| name.as_bytes().to_vec());
    prop_oneof![info, contexts, name, Just(vec![]), prop::collection::vec(any::<u8>(), 0..40)]
}

prop_compose! {
    fn conversation()(
        flags in prop_oneof![4 => 0u32..4, 1 => any::<u32>()],
        options in prop::collection::vec((0u32..13, option_data()), 0..8),
        damage in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
        tail in prop::collection::vec(any::<u8>(), 0..20),
    ) -> Vec<u8> {
        let client = Client::with_flags(flags);
        let client = options.iter().fold(client, |client, (option, data)| client.option(*option, data));
        let mut bytes = client.0;
        if let Some((at, byte)) = damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.extend(tail);
        bytes
    }
}

fn limits() -> Limits {
    Limits { options_max: 6, option_bytes_max: 100 }
}

proptest! {
    #[test]
    fn splits_do_not_matter(bytes in conversation(), size in 1usize..30) {
        let heard = hear(limits(), &[&bytes]);
        prop_assert!(heard.consumed <= bytes.len());
        prop_assert!(heard.step != Step::Continue || heard.consumed == bytes.len());
        prop_assert_eq!(&hear(limits(), &bytes.chunks(size).collect::<Vec<_>>()), &heard);
        prop_assert_eq!(&hear(limits(), &bytes.chunks(1).collect::<Vec<_>>()), &heard);
        heard_is_well_formed(&heard);
    }

    #[test]
    fn random_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert_eq!(&hear(limits(), &bytes.chunks(1).collect::<Vec<_>>()), &hear(limits(), &[&bytes]));
    }

    #[test]
    fn any_request_is_decoded_and_checked(
        bytes in any::<[u8; 24]>(),
        command in prop_oneof![0u16..9, any::<u16>()],
        size_bytes in prop_oneof![any::<u64>(), 0u64..1 << 33, Just(u64::MAX)],
        read_only in any::<bool>(),
        structured_replies in any::<bool>(),
    ) {
        let mut header = [0; RequestHeader::BYTES];
        header[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
        header[4..].copy_from_slice(&bytes);
        header[6..8].copy_from_slice(&command.to_be_bytes());
        let header = RequestHeader::decode(&header).unwrap();
        let mut export = super::talk::export("disk", read_only);
        export.size_bytes = size_bytes;
        let session = Session { export, structured_replies, contexts: Vec::new() };
        let allowed = check(&header, &session).is_ok();
        let end = u128::from(header.offset_bytes) + u128::from(header.length_bytes);
        let ranged = ![CMD_DISC, CMD_FLUSH].contains(&command) && header.length_bytes > 0;
        prop_assert!(!(allowed && ranged) || end <= u128::from(size_bytes));
    }
}

/// Nothing but whole replies, unless it ended with the answer to EXPORT_NAME, which is none. GO ends with an
/// acknowledgement: its last bytes are the type and a length of 0.
fn heard_is_well_formed(heard: &super::talk::Heard) {
    let by_name =
        matches!(heard.step, Step::Transmit(_)) && !heard.output.ends_with(&[0, 0, 0, 1, 0, 0, 0, 0]);
    if !by_name {
        heard.kinds();
    }
}
