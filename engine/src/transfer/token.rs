//! Where a transfer goes on: what the receiver says, and the sender takes.
//!
//! Owns the text of a token, `SNAPSHOT:BASE:POSITION`.

use crate::error::Error;
use crate::format::uuid_text;
use crate::request::{Partial, StreamBase, Uuid};
use crate::units::Generation;
use std::fmt;
use std::str::FromStr;

/// How far a snapshot has arrived, and from which base it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResumeToken {
    /// The snapshot's uuid.
    pub snapshot: Uuid,
    /// What its stream started from.
    pub base: StreamBase,
    /// What is before this byte has arrived.
    pub position_bytes: u64,
}

impl From<&Partial> for ResumeToken {
    fn from(partial: &Partial) -> Self {
        Self { snapshot: partial.uuid, base: partial.base, position_bytes: partial.position_bytes }
    }
}

impl fmt::Display for ResumeToken {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:", uuid_text(&self.snapshot))?;
        match self.base {
            StreamBase::Whole => write!(out, "whole")?,
            StreamBase::Snapshot(uuid) => write!(out, "from-{}", uuid_text(&uuid))?,
            StreamBase::Since(generation) => write!(out, "since-{generation}")?,
        }
        write!(out, ":{}", self.position_bytes)
    }
}

impl FromStr for ResumeToken {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = || Error::invalid("a token to resume is what `vellum receive --resume` printed");
        let mut parts = text.trim().split(':');
        let mut part = || parts.next().ok_or_else(wrong);
        let snapshot = parse_uuid(part()?).ok_or_else(wrong)?;
        let base = parse_base(part()?).ok_or_else(wrong)?;
        let position_bytes = part()?.parse().map_err(|_| wrong())?;
        if parts.next().is_some() {
            return Err(wrong());
        }
        Ok(Self { snapshot, base, position_bytes })
    }
}

fn parse_base(text: &str) -> Option<StreamBase> {
    if let Some(uuid) = text.strip_prefix("from-") {
        return parse_uuid(uuid).map(StreamBase::Snapshot);
    }
    if let Some(generation) = text.strip_prefix("since-") {
        return generation.parse().ok().map(|generation| StreamBase::Since(Generation(generation)));
    }
    (text == "whole").then_some(StreamBase::Whole)
}

fn parse_uuid(text: &str) -> Option<Uuid> {
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b'-').collect();
    let mut uuid = [0; 16];
    if digits.len() != 32 || text.len() != 36 {
        return None;
    }
    for (byte, pair) in uuid.iter_mut().zip(digits.chunks(2)) {
        let digit = |digit: u8| (digit as char).to_digit(16);
        *byte = (digit(pair[0])? * 16 + digit(pair[1])?) as u8;
    }
    Some(uuid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_its_text() {
        let bases = [StreamBase::Whole, StreamBase::Snapshot([0xab; 16]), StreamBase::Since(Generation(17))];
        for base in bases {
            let token = ResumeToken { snapshot: [0x1f; 16], base, position_bytes: 1 << 40 };
            assert_eq!(token.to_string().parse(), Ok(token));
        }
        let text = "1f1f1f1f-1f1f-1f1f-1f1f-1f1f1f1f1f1f:since-17:4096";
        assert_eq!(text.parse::<ResumeToken>().unwrap().to_string(), text);
        for wrong in ["", ":", "x:whole:0", &text[1..], &format!("{text}:1"), &text.replace("since", "until")]
        {
            assert!(wrong.parse::<ResumeToken>().is_err(), "{wrong}");
        }
    }
}
