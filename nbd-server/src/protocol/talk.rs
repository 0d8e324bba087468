//! Plays the client in tests: writes options, reads replies, and cuts what it sends at every position.
//!
//! Owns the claim that the result of a handshake does not depend on where bytes were split.

use super::constants::*;
use super::fields::Fields;
use super::{Export, Exports, Handshake, Limits, Step};

/// An export of 1 MiB.
pub fn export(name: &str, read_only: bool) -> Export {
    let description = format!("about {name}");
    Export { name: name.into(), description, size_bytes: 1 << 20, read_only, preferred_block_bytes: 4096 }
}

/// Two exports, "disk" and "frozen"; "" is "disk".
pub struct Two;

impl Exports for Two {
    fn find(&self, name: &str) -> Option<Export> {
        match name {
            "" | "disk" => Some(export("disk", false)),
            "frozen" => Some(export("frozen", true)),
            _ => None,
        }
    }

    fn list(&self) -> Vec<(String, String)> {
        ["disk", "frozen"].map(|name| (name.into(), format!("about {name}"))).to_vec()
    }
}

/// What a client says.
pub struct Client(pub Vec<u8>);

impl Client {
    /// A client that knows fixed newstyle and wants no zeroes.
    pub fn new() -> Self {
        Self::with_flags(3)
    }

    pub fn with_flags(flags: u32) -> Self {
        Self(flags.to_be_bytes().to_vec())
    }

    pub fn option(mut self, option: u32, data: &[u8]) -> Self {
        self.0.extend(IHAVEOPT.to_be_bytes());
        self.0.extend(option.to_be_bytes());
        self.0.extend((data.len() as u32).to_be_bytes());
        self.0.extend(data);
        self
    }

    pub fn structured(self) -> Self {
        self.option(OPT_STRUCTURED_REPLY, &[])
    }

    pub fn go(self, name: &str) -> Self {
        self.option(OPT_GO, &info_data(name.as_bytes(), &[]))
    }

    pub fn contexts(self, option: u32, name: &str, queries: &[&str]) -> Self {
        self.option(option, &context_data(name.as_bytes(), queries))
    }

    /// What comes of it, wherever the bytes are split.
    pub fn talk(&self) -> Heard {
        self.talk_within(Limits::default())
    }

    pub fn talk_within(&self, limits: Limits) -> Heard {
        let heard = hear(limits, &[&self.0]);
        for at in 0..=self.0.len() {
            let (front, back) = self.0.split_at(at);
            assert_eq!(hear(limits, &[front, back]), heard, "split at {at}");
        }
        assert_eq!(hear(limits, &self.0.chunks(1).collect::<Vec<_>>()), heard, "in single bytes");
        heard
    }
}

/// What a client got to hear.
#[derive(Debug, PartialEq)]
pub struct Heard {
    pub consumed: usize,
    pub output: Vec<u8>,
    pub step: Step,
}

impl Heard {
    /// Option, type and payload of every reply.
    pub fn replies(&self) -> Vec<(u32, u32, Vec<u8>)> {
        let mut fields = Fields(&self.output);
        let mut replies = Vec::new();
        while let Some(magic) = fields.u64() {
            assert_eq!(magic, OPTION_REPLY_MAGIC);
            let (option, kind, length) =
                (fields.u32().unwrap(), fields.u32().unwrap(), fields.u32().unwrap());
            replies.push((option, kind, fields.bytes(length as usize).unwrap().to_vec()));
        }
        assert!(fields.0.is_empty());
        replies
    }

    /// The types of the replies. Every refusal must have a message.
    pub fn kinds(&self) -> Vec<u32> {
        let replies = self.replies();
        assert!(replies.iter().all(|(_, kind, payload)| kind >> 31 == 0 || !payload.is_empty()));
        replies.into_iter().map(|(_, kind, _)| kind).collect()
    }
}

/// Gives the pieces to a new handshake, one after the other.
pub fn hear(limits: Limits, pieces: &[&[u8]]) -> Heard {
    let mut handshake = Handshake::new(limits);
    let mut heard = Heard { consumed: 0, output: Vec::new(), step: Step::Continue };
    for piece in pieces {
        let (consumed, step) = handshake.receive(piece, &Two, &mut heard.output);
        assert!(consumed <= piece.len() && (consumed == piece.len() || step != Step::Continue));
        heard.consumed += consumed;
        heard.step = step;
        if heard.step != Step::Continue {
            break;
        }
    }
    heard
}

/// The data of INFO and GO.
pub fn info_data(name: &[u8], requests: &[u16]) -> Vec<u8> {
    let mut data = (name.len() as u32).to_be_bytes().to_vec();
    data.extend(name);
    data.extend((requests.len() as u16).to_be_bytes());
    data.extend(requests.iter().flat_map(|request| request.to_be_bytes()));
    data
}

/// The data of LIST_META_CONTEXT and SET_META_CONTEXT.
pub fn context_data(name: &[u8], queries: &[&str]) -> Vec<u8> {
    let mut data = (name.len() as u32).to_be_bytes().to_vec();
    data.extend(name);
    data.extend((queries.len() as u32).to_be_bytes());
    for query in queries {
        data.extend((query.len() as u32).to_be_bytes());
        data.extend(query.as_bytes());
    }
    data
}
