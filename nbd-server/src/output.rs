//! What is to be sent to one client: headers and payloads in order, payloads without a copy.
//!
//! Owns the bytes between a reply and the send that takes it. All replies of a turn go in one send.

use bytes::Bytes;

/// Payloads up to this are copied between the headers: a slice of its own costs more.
const COPIED_BYTES: usize = 1024;
static ZEROS: [u8; 256 * 1024] = [0; 256 * 1024];

/// Bytes on their way to a client.
#[derive(Default)]
pub struct Output {
    parts: Vec<Bytes>,
    /// What comes behind `parts`.
    tail: Vec<u8>,
    /// Bytes in `parts`.
    parts_bytes: u64,
}

impl Output {
    /// Where headers are appended.
    pub fn headers(&mut self) -> &mut Vec<u8> {
        &mut self.tail
    }

    /// Appends a payload.
    pub fn payload(&mut self, bytes: Bytes) {
        if bytes.len() <= COPIED_BYTES {
            self.tail.extend_from_slice(&bytes);
        } else {
            self.cut();
            self.push(bytes);
        }
    }

    /// Appends zeros.
    pub fn zeros(&mut self, mut length_bytes: u64) {
        while length_bytes > 0 {
            let length = length_bytes.min(ZEROS.len() as u64);
            self.payload(Bytes::from_static(&ZEROS[..length as usize]));
            length_bytes -= length;
        }
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty() && self.tail.is_empty()
    }

    /// How much there is to send.
    pub fn len_bytes(&self) -> u64 {
        self.parts_bytes + self.tail.len() as u64
    }

    /// Everything, for one send.
    pub fn take(&mut self) -> Vec<Bytes> {
        self.cut();
        self.parts_bytes = 0;
        std::mem::take(&mut self.parts)
    }

    fn cut(&mut self) {
        if !self.tail.is_empty() {
            // The next turn is likely to need about as much.
            let next = Vec::with_capacity(self.tail.len());
            let tail = std::mem::replace(&mut self.tail, next);
            self.push(Bytes::from(tail));
        }
    }

    fn push(&mut self, part: Bytes) {
        self.parts_bytes += part.len() as u64;
        self.parts.push(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_and_payloads_stay_in_order() {
        let mut output = Output::default();
        output.headers().extend_from_slice(b"one");
        output.payload(Bytes::from_static(b"two"));
        output.payload(Bytes::from(vec![3; 5000]));
        output.headers().push(4);
        output.zeros(300 * 1024);
        let all: Vec<u8> = output.take().concat();
        assert!(output.is_empty() && output.len_bytes() == 0);
        assert_eq!(&all[..6], b"onetwo");
        assert!(all[6..5006].iter().all(|byte| *byte == 3) && all[5006] == 4);
        assert!(all[5007..].iter().all(|byte| *byte == 0));
        assert_eq!(all.len(), 5007 + 300 * 1024);
    }
}
