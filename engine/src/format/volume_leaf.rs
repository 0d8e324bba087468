//! Volume leaves: volume records, numbers rising.
//!
//! Owns the shape of the leaf; the records are `volume_record.rs`.

use super::codec::Reader;
use super::page::BODY_BYTES;
use super::volume_record::VolumeRecord;
use crate::error::{Error, Result};

// body: records, one behind the other, numbers rising; see `volume_record.rs`
/// The body of a leaf with `records`.
///
/// Fails when a record cannot be stored. Panics when numbers do not rise or the records do not fit in a page.
pub fn encode_volume_leaf(records: &[VolumeRecord]) -> Result<Vec<u8>> {
    assert!(records.is_sorted_by(|left, right| left.id < right.id), "volume numbers rise");
    let mut body = Vec::new();
    for record in records {
        body.extend_from_slice(&record.encode()?);
    }
    assert!(body.len() <= BODY_BYTES, "{} bytes of records do not fit in a leaf", body.len());
    Ok(body)
}

/// The records of a leaf. Fails with `Damaged` when it is none, `Unsupported` for records of another version.
pub fn decode_volume_leaf(body: &[u8]) -> Result<Vec<VolumeRecord>> {
    let mut reader = Reader::new(body);
    let mut records = Vec::new();
    while !reader.is_empty() {
        records.push(VolumeRecord::read(&mut reader)?);
    }
    if body.len() > BODY_BYTES || !records.is_sorted_by(|left, right| left.id < right.id) {
        return Err(Error::damaged("volume leaf: too long, or volume numbers do not rise"));
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::super::golden::{self, snapshot_record};
    use super::*;
    use crate::units::VolumeId;

    #[test]
    fn round_trip() {
        let records = vec![snapshot_record(4), snapshot_record(9), snapshot_record(10)];
        assert_eq!(decode_volume_leaf(&encode_volume_leaf(&records).unwrap()), Ok(records));
        assert_eq!(decode_volume_leaf(&[]), Ok(Vec::new()));
    }

    #[test]
    fn golden_bytes() {
        let bytes = encode_volume_leaf(&[snapshot_record(4), snapshot_record(9)]).unwrap();
        golden::assert_golden(&bytes, "01000b010400000000000000", 0x3600_a543_9fb5_8509);
    }

    #[test]
    fn numbers_must_rise() {
        let one = encode_volume_leaf(&[snapshot_record(4)]).unwrap();
        assert!(decode_volume_leaf(&[one.clone(), one.clone()].concat()).is_err());
        golden::damage(&one, |bytes| drop(decode_volume_leaf(bytes)));
    }

    #[test]
    fn a_record_that_cannot_be_stored_is_refused() {
        let record = VolumeRecord { id: VolumeId(1 << 48), ..snapshot_record(1) };
        assert!(encode_volume_leaf(&[record]).is_err());
    }
}
