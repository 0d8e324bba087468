//! What can be set on a volume, in its record, in log deltas and in streams.
//!
//! Owns these fields and where they stand. What they mean is told where they are acted upon: `data_path/limits.rs` and
//! `data_path/reservations.rs`.

use super::codec::{from_body, to_body};
use crate::error::{Error, ErrorKind, Result};
use crate::request::NoSpacePolicy;

/// What can be set on a volume. A snapshot keeps what its volume had, without the reservation, for clones of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Properties {
    /// Space kept for the volume, in bytes.
    pub reservation_bytes: u64,
    /// Requests a second, 0 for no limit.
    pub limit_iops: u64,
    /// Bytes a second, 0 for no limit.
    pub limit_bytes_per_s: u64,
    /// What happens to a write that finds no space, by the number of a [`NoSpacePolicy`]. A number that is unknown is kept.
    pub policy: u8,
    /// Whatever the user wants to remember.
    pub labels: Vec<(String, String)>,
    /// Requests in flight, 0 for no limit. Stands behind the other fields of whatever the properties are part of.
    pub limit_in_flight: u32,
}

/// The fields of [`Properties`] that stand together on disk, in their order.
type FixedProperties = (u64, u64, u64, u8, Vec<(String, String)>);

impl Properties {
    /// What happens to a write that finds no space. A number that a newer program wrote counts as "as the pool says".
    pub fn no_space(&self) -> NoSpacePolicy {
        match self.policy {
            1 => NoSpacePolicy::Stall,
            2 => NoSpacePolicy::Error,
            _ => NoSpacePolicy::AsPool,
        }
    }

    /// Sets what happens to a write that finds no space.
    pub fn set_no_space(&mut self, policy: NoSpacePolicy) {
        self.policy = match policy {
            NoSpacePolicy::AsPool => 0,
            NoSpacePolicy::Stall => 1,
            NoSpacePolicy::Error => 2,
        };
    }

    /// Whether requests have to be counted.
    pub fn is_limited(&self) -> bool {
        self.limit_iops > 0 || self.limit_bytes_per_s > 0 || self.limit_in_flight > 0
    }

    /// What snapshots and clones take over: all but the reservation, which would be a promise that nobody asked for.
    #[must_use]
    pub fn inherited(&self) -> Self {
        Self { reservation_bytes: 0, ..self.clone() }
    }

    /// The bytes of properties that stand alone.
    pub fn encode(&self) -> Vec<u8> {
        [to_body(self), self.encode_tail()].concat()
    }

    /// The properties that `bytes` are, to the end. Fails with `Unsupported` for fields that are not known, otherwise
    /// `Damaged`.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let (mut properties, used): (Self, usize) = from_body(bytes)?;
        if properties.decode_tail(&bytes[used..])? < bytes.len() - used {
            let message = "properties of a volume that this program does not know; use a newer one";
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        Ok(properties)
    }

    /// What stands behind everything else: nothing without a limit of requests in flight.
    pub(super) fn encode_tail(&self) -> Vec<u8> {
        if self.limit_in_flight == 0 { Vec::new() } else { to_body(&self.limit_in_flight) }
    }

    /// Takes what [`Properties::encode_tail`] wrote from the front of `tail`, and says how many bytes that were.
    pub(super) fn decode_tail(&mut self, tail: &[u8]) -> Result<usize> {
        if tail.is_empty() {
            return Ok(0);
        }
        let (limit_in_flight, used) = from_body(tail)?;
        self.limit_in_flight = limit_in_flight;
        Ok(used)
    }
}

impl bincode::Encode for Properties {
    fn encode<E: bincode::enc::Encoder>(
        &self,
        encoder: &mut E,
    ) -> std::result::Result<(), bincode::error::EncodeError> {
        let fields =
            (self.reservation_bytes, self.limit_iops, self.limit_bytes_per_s, self.policy, &self.labels);
        bincode::Encode::encode(&fields, encoder)
    }
}

impl<C> bincode::Decode<C> for Properties {
    fn decode<D: bincode::de::Decoder<Context = C>>(
        decoder: &mut D,
    ) -> std::result::Result<Self, bincode::error::DecodeError> {
        let fields: FixedProperties = bincode::Decode::decode(decoder)?;
        let (reservation_bytes, limit_iops, limit_bytes_per_s, policy, labels) = fields;
        Ok(Self { reservation_bytes, limit_iops, limit_bytes_per_s, policy, labels, limit_in_flight: 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::super::golden::snapshot_record;
    use super::*;

    #[test]
    fn properties_alone_are_understood_to_their_end() {
        let plain = snapshot_record(7).properties;
        let limited = Properties { limit_in_flight: 32, ..plain.clone() };
        for properties in [&plain, &limited] {
            assert_eq!(Properties::decode(&properties.encode()).as_ref(), Ok(properties));
        }
        assert_eq!(plain.encode(), to_body(&plain), "a program that knows no limit of requests reads it");
        let newer = [limited.encode(), vec![1]].concat();
        assert_eq!(Properties::decode(&newer).unwrap_err().kind(), ErrorKind::Unsupported);
        let cut = &limited.encode()[..limited.encode().len() - 1];
        assert_eq!(Properties::decode(cut).unwrap_err().kind(), ErrorKind::Damaged);
    }

    #[test]
    fn an_unknown_policy_is_as_the_pool_says() {
        let of = |policy| Properties { policy, ..Properties::default() }.no_space();
        assert_eq!(
            [of(0), of(1), of(2)],
            [NoSpacePolicy::AsPool, NoSpacePolicy::Stall, NoSpacePolicy::Error]
        );
        assert_eq!(of(3), NoSpacePolicy::AsPool);
    }
}
