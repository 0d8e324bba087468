//! The routes of the control API that take long: those that move streams, what belongs to them, counting, and trims.
//!
//! Owns the way between the bodies of HTTP and threads that may block. Each has a way to the pool of its own, so
//! other requests do not wait for it.

use super::channel_body::{ChannelBody, channel_body};
use super::routes::{Answer, Body, Failure, Name, answer, answer_apart, ask};
use super::{DATA_BYTES_HEADER, Shared};
use crate::error::{Error, Result};
use crate::exit::Kind;
use crate::manage::Manage;
use crate::names;
use crate::views::{
    AbortedView, ArrivalsView, AskDifferenceView, AskUsageView, DifferenceView, SendView, TrimView,
    TrimmedView, UsageView, VolumeView,
};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use hyper::body::Bytes;
use std::io::{self, Read, Write};
use tokio::sync::{mpsc, oneshot};

/// What is read of a stream that was refused, so that its sender gets to read why.
const DRAIN_BYTES_MAX: usize = 64 << 20;

/// A way to the pool that nobody else waits for.
async fn way_in(pool: Shared) -> Result<Box<dyn Manage + Send>> {
    ask(pool, |pool| {
        pool.fork()
            .ok_or_else(|| Error::new(Kind::Unsupported, "this pool is not served by a server of transfers"))
    })
    .await
}

pub(super) async fn difference(
    State(pool): State<Shared>,
    Body(what): Body<AskDifferenceView>,
) -> Answer<DifferenceView> {
    answer(pool, StatusCode::OK, move |pool| pool.difference(&what)).await
}

/// Takes its time while clients use the pool.
pub(super) async fn trim(State(pool): State<Shared>, Body(part): Body<TrimView>) -> Answer<TrimmedView> {
    answer_apart(pool, StatusCode::OK, move |pool| pool.trim(&part)).await
}

/// Walks through trees.
pub(super) async fn usage(State(pool): State<Shared>, Body(what): Body<AskUsageView>) -> Answer<UsageView> {
    answer_apart(pool, StatusCode::OK, move |pool| pool.usage(&what)).await
}

/// Answers when it is known that there will be a stream, and how long.
pub(super) async fn send(
    State(pool): State<Shared>,
    Body(what): Body<SendView>,
) -> std::result::Result<Response, Failure> {
    let mut pool = way_in(pool).await?;
    let (pieces, body) = channel_body();
    let (begin, begun) = oneshot::channel();
    tokio::task::spawn_blocking(move || {
        let mut begin = Some(begin);
        let mut out = Pieces(pieces.clone());
        let mut progress = |_, data_bytes| {
            if let Some(begin) = begin.take() {
                // Whoever does not want to know has left, and the next piece tells.
                let _ = begin.send(Ok(data_bytes));
            }
        };
        let sent = pool.send(&what, &mut out, &mut progress);
        match (sent, begin) {
            (Ok(()), _) => {}
            (Err(error), Some(begin)) => drop(begin.send(Err(error))),
            (Err(error), None) => {
                log::warn!("a stream of '{}' broke off: {}", what.snapshot, error.message());
                let _ = pieces.blocking_send(Err(io::Error::other(error.message().to_owned())));
            }
        }
    });
    let gone = |_| Error::new(Kind::Failure, "the request has panicked");
    let data_bytes: u64 = begun.await.map_err(gone)??;
    let headers = [
        ("content-type", "application/octet-stream".to_owned()),
        (DATA_BYTES_HEADER, data_bytes.to_string()),
    ];
    Ok((headers, axum::body::Body::new::<ChannelBody>(body)).into_response())
}

/// Where a blocking thread writes the body of an answer.
struct Pieces(super::channel_body::Pieces);

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Ok(Bytes::copy_from_slice(bytes)));
        sent.map(|()| bytes.len()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(super) async fn receive(
    State(pool): State<Shared>,
    body: axum::body::Body,
) -> std::result::Result<(StatusCode, Json<VolumeView>), Failure> {
    take_in(pool, None, body).await
}

pub(super) async fn receive_as(
    State(pool): State<Shared>,
    Name(name): Name,
    body: axum::body::Body,
) -> std::result::Result<(StatusCode, Json<VolumeView>), Failure> {
    take_in(pool, Some(name), body).await
}

async fn take_in(
    pool: Shared,
    name: Option<String>,
    mut body: axum::body::Body,
) -> std::result::Result<(StatusCode, Json<VolumeView>), Failure> {
    if let Some(name) = &name {
        names::check_snapshot(name)?;
    }
    let mut pool = way_in(pool).await?;
    let (pieces, arriving) = mpsc::channel(4);
    let task = tokio::task::spawn_blocking(move || {
        pool.receive(name.as_deref(), &mut Incoming { pieces: arriving, current: Bytes::new() })
    });
    let mut drained = 0;
    while let Some(frame) = body.frame().await {
        let piece = match frame {
            Ok(frame) => match frame.into_data() {
                Ok(bytes) => Ok(bytes),
                Err(_) => continue,
            },
            Err(cause) => Err(io::Error::other(cause.to_string())),
        };
        let length = piece.as_ref().map_or(0, |bytes| bytes.len());
        if pieces.send(piece).await.is_err() {
            drained += length;
            if drained > DRAIN_BYTES_MAX {
                break;
            }
        }
    }
    drop(pieces);
    let received = task.await.map_err(|_| Error::new(Kind::Failure, "the request has panicked"))??;
    Ok((StatusCode::CREATED, Json(received)))
}

/// Where a blocking thread reads the body of a request.
struct Incoming {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
}

impl Read for Incoming {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.current = piece?,
                None => return Ok(0),
            }
        }
        let length = out.len().min(self.current.len());
        out[..length].copy_from_slice(&self.current.split_to(length));
        Ok(length)
    }
}

pub(super) async fn arrivals(State(pool): State<Shared>) -> Answer<ArrivalsView> {
    answer(pool, StatusCode::OK, |pool| Ok(ArrivalsView { arrivals: pool.arrivals()? })).await
}

pub(super) async fn abort(State(pool): State<Shared>, Name(uuid): Name) -> Answer<AbortedView> {
    let act = |pool: &mut dyn Manage| {
        pool.abort(&uuid)?;
        Ok(AbortedView { aborted: vec![uuid] })
    };
    answer(pool, StatusCode::OK, act).await
}
