//! Snapshots on their way from one pool to another: a stream is drawn from one and put into the other.
//!
//! Owns the two ends of a transfer, over anything that answers requests; where the bytes go and come from is the caller's
//! affair. What stands in a stream is `format/stream.rs`'s, how a snapshot arrives `data_path/receive.rs`'s.
//! Read next: `send.rs`, `receive.rs`; `token.rs` says where a transfer goes on that broke off.

mod receive;
mod send;
mod token;

pub use receive::{Received, Receiver};
pub use send::{SendPlan, Sender};
pub use token::ResumeToken;

use crate::error::{Error, ErrorKind};
use crate::request::{Outcome, Reply, Request};

/// Whoever answers requests, one at a time.
pub trait Ask {
    /// Carries out a request and waits for its answer.
    fn ask(&mut self, request: Request) -> Reply;
}

impl<F: FnMut(Request) -> Reply> Ask for F {
    fn ask(&mut self, request: Request) -> Reply {
        self(request)
    }
}

fn unexpected(outcome: &Outcome) -> Error {
    Error::new(ErrorKind::Invalid, format!("a request of a transfer was answered with {outcome:?}"))
}
