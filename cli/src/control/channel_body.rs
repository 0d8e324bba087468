//! A body of HTTP whose pieces come from another thread.
//!
//! Owns the hand-over: a few pieces wait at most, so whoever is faster waits for the other.

use hyper::body::{Body, Bytes, Frame};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::mpsc;

/// Pieces that wait between the two threads.
const PIECES: usize = 4;

/// What the other thread puts in.
pub type Pieces = mpsc::Sender<io::Result<Bytes>>;

/// The body that comes out.
pub struct ChannelBody(mpsc::Receiver<io::Result<Bytes>>);

/// A body and its other end. The body ends when that is dropped; an error breaks it off.
pub fn channel_body() -> (Pieces, ChannelBody) {
    let (pieces, body) = mpsc::channel(PIECES);
    (pieces, ChannelBody(body))
}

impl Body for ChannelBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|bytes| bytes.map(Frame::data)))
    }
}
