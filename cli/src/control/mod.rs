//! The server's half of the control API: HTTP with JSON on a Unix socket in the pool's directory.
//!
//! Owns the socket, private to the pool's owner, and the thread that answers on it. What is asked goes to anything that
//! is [`Manage`]. Read next: `routes.rs`; the client is `manage/remote.rs`.

pub mod channel_body;
mod pictures;
mod routes;
mod socket;
mod streams;

use crate::error::{Error, Result};
use crate::exit::Kind;
use crate::manage::Manage;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
pub use routes::router;
pub use socket::ControlSocket;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::oneshot;

/// The pool that is asked, by one request at a time.
pub type Shared = Arc<Mutex<dyn Manage + Send>>;

/// Says with a stream how much data is to come, in bytes.
pub const DATA_BYTES_HEADER: &str = "vellum-data-bytes";

/// How long requests under way may take when the server is to end.
const FAREWELL: Duration = Duration::from_secs(2);

const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A name as one segment of a path.
pub fn encode_name(name: &str) -> String {
    utf8_percent_encode(name, UNRESERVED).to_string()
}

/// A control server on a thread of its own. Dropped, it ends too.
pub struct Control {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Control {
    /// Listens on `path`, with answers from `pool`.
    ///
    /// Call it while the pool's files are locked: then a socket file that is there already is nobody's, and replaced.
    /// Once this returns, clients can connect.
    pub fn start(path: &Path, pool: Shared) -> Result<Self> {
        let socket = ControlSocket::bind(path)?;
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name("control".to_owned()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
            let runtime = runtime.map_err(|cause| Error::io("cannot start the control server", &cause))?;
            let served = runtime.block_on(serve(socket, pool, stopped));
            // A request that hangs in the pool must not keep the program.
            runtime.shutdown_background();
            served
        });
        let thread = thread.map_err(|cause| Error::io("cannot start a thread", &cause))?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }

    /// Takes no more requests, lets those under way end, removes the socket.
    pub fn stop(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        drop(self.stop.take());
        match self.thread.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(served)) => served,
            Some(Err(_)) => Err(Error::new(Kind::Failure, "the control server has panicked")),
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // Whoever wants to know calls `stop`.
        let _ = self.end();
    }
}

/// Answers on `socket` until `stopped` is sent to or dropped. The socket's file is gone afterwards.
pub async fn serve(socket: ControlSocket, pool: Shared, stopped: oneshot::Receiver<()>) -> Result<()> {
    let listener = socket.listener()?;
    let (begin, begun) = oneshot::channel::<()>();
    let told = async move {
        let _ = stopped.await;
        drop(begin);
    };
    let server = axum::serve(listener, router(pool)).with_graceful_shutdown(told).into_future();
    let patience = async {
        let _ = begun.await;
        tokio::time::sleep(FAREWELL).await;
    };
    tokio::select! {
        served = server => served.map_err(|cause| Error::io("the control server has failed", &cause)),
        () = patience => Ok(()),
    }
}
