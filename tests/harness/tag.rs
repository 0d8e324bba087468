//! What clients of the simulation write: every unit says which write it came from and where it belongs.
//!
//! Owns the pattern. A unit of a write is one 8-byte word over and over, so that a mixture of two writes, a unit of
//! another place and foreign bytes are all recognised, at any alignment. Read next: `model/history.rs`.

use std::rc::Rc;
use vellum_engine::units::UNIT_BYTES;

/// Bytes of a unit, as an index.
pub const UNIT: usize = UNIT_BYTES as usize;

/// Number of a write, unique in a run, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WriteNumber(pub u64);

/// What a unit holds, or the part of it that one write brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// One word over and over; zeros are the word 0.
    Word(u64),
    /// Bytes that several writes brought together.
    Mixed(Rc<[u8; UNIT]>),
}

impl Value {
    /// Zeros.
    pub const ZEROS: Self = Self::Word(0);

    /// What write number `write` puts into unit `unit` of a volume.
    pub fn written(write: WriteNumber, unit: u64) -> Self {
        Self::Word(write.0 << 20 | unit & 0xf_ffff)
    }

    /// The value of a whole unit that was read.
    pub fn of(bytes: &[u8]) -> Self {
        let word = first_word(bytes);
        if is_word(word, bytes) {
            return Self::Word(word);
        }
        let mut mixed = [0; UNIT];
        mixed.copy_from_slice(bytes);
        Self::Mixed(Rc::new(mixed))
    }

    /// The byte at position `at` of the unit.
    pub fn byte(&self, at: usize) -> u8 {
        match self {
            Self::Word(word) => word.to_le_bytes()[at % 8],
            Self::Mixed(bytes) => bytes[at],
        }
    }

    /// Whether `bytes`, which start at position `from` of the unit, are this value's.
    pub fn matches(&self, from: usize, bytes: &[u8]) -> bool {
        match self {
            Self::Word(word) if from == 0 && bytes.len() == UNIT => is_word(*word, bytes),
            _ => bytes.iter().enumerate().all(|(index, &byte)| byte == self.byte(from + index)),
        }
    }
}

impl std::fmt::Display for Value {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Word(0) => write!(out, "zeros"),
            Self::Word(word) => write!(out, "write {} for unit {}", word >> 20, word & 0xf_ffff),
            Self::Mixed(bytes) => {
                let mut words: Vec<u64> =
                    bytes.as_chunks::<8>().0.iter().map(|&word| u64::from_le_bytes(word)).collect();
                words.dedup();
                let shown: Vec<String> =
                    words.iter().take(6).map(|&word| Self::Word(word).to_string()).collect();
                write!(out, "a mixture [{}{}]", shown.join(", "), if words.len() > 6 { ", …" } else { "" })
            }
        }
    }
}

/// The bytes of a write of `length` bytes at `offset` of a volume.
pub fn payload(write: WriteNumber, offset: u64, length: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length as usize);
    let mut at = offset;
    while at < offset + length {
        let (unit, from) = (at / UNIT_BYTES, (at % UNIT_BYTES) as usize);
        let piece = (UNIT - from).min((offset + length - at) as usize);
        let value = Value::written(write, unit);
        bytes.extend((from..from + piece).map(|position| value.byte(position)));
        at += piece as u64;
    }
    bytes
}

/// Whether a write to a disk carries what clients write (every unit one word over and over), and no structure.
pub fn is_client_data(bytes: &[u8]) -> bool {
    bytes.chunks(UNIT).all(|unit| unit.len() == UNIT && is_word(first_word(unit), unit))
}

fn first_word(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |word| u64::from_le_bytes(*word))
}

fn is_word(word: u64, bytes: &[u8]) -> bool {
    bytes.as_chunks::<8>().0.iter().all(|&other| u64::from_le_bytes(other) == word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_recognised_unit_by_unit() {
        let bytes = payload(WriteNumber(9), 300, 1000);
        assert!(Value::written(WriteNumber(9), 0).matches(300, &bytes[..212]));
        assert!(Value::written(WriteNumber(9), 1).matches(0, &bytes[212..724]));
        assert!(!Value::written(WriteNumber(8), 1).matches(0, &bytes[212..724]));
        assert_eq!(Value::of(&bytes[212..724]), Value::written(WriteNumber(9), 1));
        assert!(matches!(Value::of(&bytes[..512]), Value::Mixed(_)));
        assert!(is_client_data(&bytes[212..724]) && !is_client_data(&bytes[..512]));
    }
}
