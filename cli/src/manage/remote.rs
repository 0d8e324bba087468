//! A pool behind a server: HTTP with JSON over its control socket.
//!
//! Owns the client's half of `control/`. One connection a request; errors come back as the server meant them.

use super::{Manage, Progress, Transfer};
use crate::control::channel_body::{ChannelBody, Pieces, channel_body};
use crate::control::{DATA_BYTES_HEADER, encode_name};
use crate::error::{Error, Result};
use crate::exit::Kind;
use crate::names;
use crate::views::{
    AbortedView, ArrivalView, ArrivalsView, AskDifferenceView, AskUsageView, ChangeView, ChangedView,
    ConfigurationView, DeletedView, DeletionView, DifferenceView, ErrorView, ExtensionView, NamesView,
    NewCloneView, NewVolumeView, PoolView, SendView, SnapshotsView, TrimView, TrimmedView, UsageView,
    VolumeView, VolumesView,
};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{ErrorKind as Cause, Read, Write};
use std::path::{Path, PathBuf};
use tokio::net::UnixStream;
use tokio::runtime::Runtime;

/// Of `sockaddr_un`: no server can listen on a longer path.
const SOCKET_PATH_BYTES_MAX: usize = 107;
/// What is read of a stream at once, in bytes.
const PIECE_BYTES: usize = 256 * 1024;

/// A server that has answered once.
pub struct Remote {
    socket: PathBuf,
    runtime: Runtime,
}

impl Remote {
    /// The server that listens on `socket`; none if there is none, be there a file of that name or not.
    pub fn connect(socket: &Path) -> Result<Option<Self>> {
        if socket.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
            return Ok(None);
        }
        match std::os::unix::net::UnixStream::connect(socket) {
            Ok(_) => {}
            Err(cause) if matches!(cause.kind(), Cause::NotFound | Cause::ConnectionRefused) => {
                return Ok(None);
            }
            Err(cause) if cause.kind() == Cause::NotADirectory => return Ok(None),
            Err(cause) => return Err(Error::io(format!("cannot reach '{}'", socket.display()), &cause)),
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
        let runtime = runtime.map_err(|cause| Error::io("cannot start a client", &cause))?;
        Ok(Some(Self { socket: socket.to_owned(), runtime }))
    }

    fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.exchange(Method::GET, path, Bytes::new())
    }

    pub(super) fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        let body = serde_json::to_vec(body).map_err(|cause| self.broken(&cause))?;
        self.exchange(Method::POST, path, body.into())
    }

    fn exchange<T: DeserializeOwned>(&self, method: Method, path: &str, body: Bytes) -> Result<T> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .header("content-type", "application/json")
            .body(Full::new(body))
            .map_err(|cause| self.broken(&cause))?;
        let (status, bytes) =
            self.runtime.block_on(send(&self.socket, request)).map_err(|cause| self.broken(&cause))?;
        if status.is_success() {
            return serde_json::from_slice(&bytes).map_err(|cause| self.broken(&cause));
        }
        match serde_json::from_slice::<ErrorView>(&bytes) {
            Ok(view) => Err(view.into()),
            Err(_) => Err(self.broken(&format!("HTTP status {status} without a reason"))),
        }
    }

    fn broken(&self, cause: &dyn std::fmt::Display) -> Error {
        Error::new(Kind::Failure, format!("the server on '{}' does not answer well: {cause}", self.socket.display()))
            .hint("check that the server runs and is of the same version; then look whether the command took effect")
    }
}

/// Where a volume or snapshot is.
fn path_of(name: &str) -> Result<String> {
    names::check_any(name)?;
    let list = if names::is_snapshot(name) { "snapshots" } else { "volumes" };
    Ok(format!("/v1/{list}/{}", encode_name(name)))
}

type AnyError = Box<dyn std::error::Error + Send + Sync>;

async fn send(
    socket: &Path,
    request: Request<Full<Bytes>>,
) -> std::result::Result<(StatusCode, Bytes), AnyError> {
    let stream = TokioIo::new(UnixStream::connect(socket).await?);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await?;
    // On a runtime of one thread it runs whenever the exchange below waits.
    let connection = tokio::spawn(connection);
    let response = sender.send_request(request).await?;
    let status = response.status();
    let bytes = response.into_body().collect().await?.to_bytes();
    connection.abort();
    Ok((status, bytes))
}

impl Remote {
    /// The error that an answer without success is.
    fn refusal(&self, status: StatusCode, bytes: &[u8]) -> Error {
        match serde_json::from_slice::<ErrorView>(bytes) {
            Ok(view) => view.into(),
            Err(_) => self.broken(&format!("HTTP status {status} without a reason")),
        }
    }

    async fn download(
        &self,
        what: &SendView,
        out: &mut dyn Write,
        progress: &mut Progress<'_>,
    ) -> Result<()> {
        let body = serde_json::to_vec(what).map_err(|cause| self.broken(&cause))?;
        let request = request(Method::POST, "/v1/streams", Full::new(Bytes::from(body)));
        let request = request.map_err(|cause| self.broken(&cause))?;
        let (response, _connection) =
            open(&self.socket, request).await.map_err(|cause| self.broken(&cause))?;
        let status = response.status();
        let total =
            response.headers().get(DATA_BYTES_HEADER).and_then(|value| value.to_str().ok()?.parse().ok());
        let (mut body, total) = (response.into_body(), total.unwrap_or(0));
        if !status.is_success() {
            let bytes = body.collect().await.map_err(|cause| self.broken(&cause))?.to_bytes();
            return Err(self.refusal(status, &bytes));
        }
        let mut done = 0;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|cause| {
                Error::new(Kind::Io, format!("the server broke the stream off: {cause}"))
                    .hint("see what the server logged; what was received goes on with `--resume`")
            })?;
            let Ok(bytes) = frame.into_data() else { continue };
            done += bytes.len() as u64;
            progress(done.min(total), total);
            out.write_all(&bytes).map_err(|cause| Error::io("cannot write the stream", &cause))?;
        }
        out.flush().map_err(|cause| Error::io("cannot write the stream", &cause))
    }

    async fn upload(&self, path: &str, body: ChannelBody) -> Result<VolumeView> {
        let request = request(Method::POST, path, body).map_err(|cause| self.broken(&cause))?;
        let (response, _connection) =
            open(&self.socket, request).await.map_err(|cause| self.broken(&cause))?;
        let status = response.status();
        let bytes = response.into_body().collect().await.map_err(|cause| self.broken(&cause))?.to_bytes();
        if !status.is_success() {
            return Err(self.refusal(status, &bytes));
        }
        serde_json::from_slice(&bytes).map_err(|cause| self.broken(&cause))
    }
}

fn request<B>(method: Method, path: &str, body: B) -> hyper::http::Result<Request<B>> {
    Request::builder().method(method).uri(path).header("host", "localhost").body(body)
}

/// Ends the connection when nobody reads from it any more.
struct Connection(tokio::task::JoinHandle<hyper::Result<()>>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Sends a request, and gives the answer as soon as it begins.
async fn open<B>(
    socket: &Path,
    request: Request<B>,
) -> std::result::Result<(hyper::Response<hyper::body::Incoming>, Connection), AnyError>
where
    B: hyper::body::Body<Data = Bytes, Error: Into<AnyError>> + Send + 'static,
{
    let stream = TokioIo::new(UnixStream::connect(socket).await?);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await?;
    let connection = Connection(tokio::spawn(connection));
    Ok((sender.send_request(request).await?, connection))
}

/// Reads the input piece by piece, as long as somebody wants it.
fn pump(input: &mut (dyn Read + Send), pieces: &Pieces) {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let read = match input.read(&mut piece) {
            Ok(0) => return,
            Ok(length) => Ok(Bytes::copy_from_slice(&piece[..length])),
            Err(cause) if cause.kind() == Cause::Interrupted => continue,
            Err(cause) => Err(cause),
        };
        let failed = read.is_err();
        if pieces.blocking_send(read).is_err() || failed {
            return;
        }
    }
}

impl Transfer for Remote {
    fn difference(&mut self, what: &AskDifferenceView) -> Result<DifferenceView> {
        self.post("/v1/differences", what)
    }

    fn send(&mut self, what: &SendView, out: &mut dyn Write, progress: &mut Progress<'_>) -> Result<()> {
        self.runtime.block_on(self.download(what, out, progress))
    }

    fn receive(&mut self, name: Option<&str>, input: &mut (dyn Read + Send)) -> Result<VolumeView> {
        let path =
            name.map_or("/v1/arrivals".to_owned(), |name| format!("/v1/arrivals/{}", encode_name(name)));
        let (pieces, body) = channel_body();
        std::thread::scope(|scope| {
            scope.spawn(move || pump(input, &pieces));
            self.runtime.block_on(self.upload(&path, body))
        })
    }

    fn arrivals(&mut self) -> Result<Vec<ArrivalView>> {
        let ArrivalsView { arrivals } = self.get("/v1/arrivals")?;
        Ok(arrivals)
    }

    fn abort(&mut self, uuid: &str) -> Result<()> {
        let path = format!("/v1/arrivals/{}", encode_name(uuid));
        let _: AbortedView = self.exchange(Method::DELETE, &path, Bytes::new())?;
        Ok(())
    }
}

impl Manage for Remote {
    fn status(&mut self) -> Result<PoolView> {
        self.get("/v1/pool")
    }

    fn extend(&mut self, size_bytes: u64) -> Result<PoolView> {
        self.post("/v1/pool/extensions", &ExtensionView { size_bytes })
    }

    fn trim(&mut self, part: &TrimView) -> Result<TrimmedView> {
        self.post("/v1/pool/trims", part)
    }

    fn configure(&mut self, change: &ConfigurationView) -> Result<PoolView> {
        let body = serde_json::to_vec(change).map_err(|cause| self.broken(&cause))?;
        self.exchange(Method::PATCH, "/v1/pool", body.into())
    }

    fn volumes(&mut self) -> Result<Vec<VolumeView>> {
        let VolumesView { mut volumes } = self.get("/v1/volumes")?;
        let SnapshotsView { snapshots } = self.get("/v1/snapshots")?;
        volumes.extend(snapshots);
        volumes.sort_by_key(|volume| volume.number);
        Ok(volumes)
    }

    fn volume(&mut self, name: &str) -> Result<VolumeView> {
        self.get(&path_of(name)?)
    }

    fn usage(&mut self, what: &AskUsageView) -> Result<UsageView> {
        self.post("/v1/usages", what)
    }

    fn create_volume(&mut self, name: &str, size_bytes: u64, reservation_bytes: u64) -> Result<VolumeView> {
        self.post("/v1/volumes", &NewVolumeView { name: name.to_owned(), size_bytes, reservation_bytes })
    }

    fn create_snapshots(&mut self, names: &[String]) -> Result<Vec<VolumeView>> {
        let SnapshotsView { snapshots } = self.post("/v1/snapshots", &NamesView { names: names.to_vec() })?;
        Ok(snapshots)
    }

    fn create_clone(&mut self, snapshot: &str, name: &str) -> Result<VolumeView> {
        self.post("/v1/clones", &NewCloneView { snapshot: snapshot.to_owned(), name: name.to_owned() })
    }

    fn delete(&mut self, deletion: &DeletionView) -> Result<DeletedView> {
        self.post("/v1/deletions", deletion)
    }

    fn change(&mut self, name: &str, change: &ChangeView) -> Result<ChangedView> {
        let body = serde_json::to_vec(change).map_err(|cause| self.broken(&cause))?;
        self.exchange(Method::PATCH, &path_of(name)?, body.into())
    }
}
