//! A pool behind a server: HTTP with JSON over its control socket.
//!
//! Owns the client's half of `control/`. One connection a request; errors come back as the server meant them.

use super::Manage;
use crate::control::encode_name;
use crate::error::{Error, Result};
use crate::exit::Kind;
use crate::names;
use crate::views::{
    ChangeView, ChangedView, DeletedView, DeletionView, ErrorView, ExtensionView, NamesView, NewCloneView,
    NewVolumeView, PoolView, SnapshotsView, VolumeView, VolumesView,
};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::ErrorKind as Cause;
use std::path::{Path, PathBuf};
use tokio::net::UnixStream;
use tokio::runtime::Runtime;

/// Of `sockaddr_un`: no server can listen on a longer path.
const SOCKET_PATH_BYTES_MAX: usize = 107;

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

    fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
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

impl Manage for Remote {
    fn status(&mut self) -> Result<PoolView> {
        self.get("/v1/pool")
    }

    fn extend(&mut self, size_bytes: u64) -> Result<PoolView> {
        self.post("/v1/pool/extensions", &ExtensionView { size_bytes })
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

    fn create_volume(&mut self, name: &str, size_bytes: u64) -> Result<VolumeView> {
        self.post("/v1/volumes", &NewVolumeView { name: name.to_owned(), size_bytes })
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
