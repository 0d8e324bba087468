//! Where clients arrive: a Unix socket that only its owner may use, or a TCP port.
//!
//! Owns one thread a place. A socket file that a killed server left behind is replaced, one that is alive is not.

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;
use vellum_engine::storage::Waker;

/// How long to wait when there is no descriptor for one more client.
const RETRY: Duration = Duration::from_millis(100);

/// A place where clients arrive, until it is dropped.
pub struct Listener {
    thread: Option<JoinHandle<()>>,
    stop: Waker,
    socket_file: Option<PathBuf>,
}

enum Socket {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Listener {
    /// Hands every client of the Unix socket `path` to `arrive`. The file is new, or replaces one that nobody answers at.
    pub fn unix(path: &Path, arrive: impl Fn(OwnedFd) + Send + 'static) -> io::Result<Self> {
        refuse_foreign(path)?;
        // Under its name only when it has its permissions: nobody can slip in before.
        // A short name, for a socket's path may not be long.
        let unready = path.with_file_name(format!(".{}", std::process::id()));
        let _ = std::fs::remove_file(&unready);
        let bound = UnixListener::bind(&unready).and_then(|listener| {
            std::fs::set_permissions(&unready, std::fs::Permissions::from_mode(0o600))?;
            std::fs::rename(&unready, path)?;
            Ok(listener)
        });
        let listener = bound.inspect_err(|_| drop(std::fs::remove_file(&unready)))?;
        Self::start(Socket::Unix(listener), Some(path.to_owned()), arrive)
    }

    /// Hands every client of a TCP address to `arrive`. The second value is the address, with the port that was chosen
    /// if 0 was asked for.
    pub fn tcp(
        address: SocketAddr,
        arrive: impl Fn(OwnedFd) + Send + 'static,
    ) -> io::Result<(Self, SocketAddr)> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        Ok((Self::start(Socket::Tcp(listener), None, arrive)?, address))
    }

    fn start(
        socket: Socket,
        socket_file: Option<PathBuf>,
        arrive: impl Fn(OwnedFd) + Send + 'static,
    ) -> io::Result<Self> {
        let stop = Waker::new()?;
        let told = stop.clone();
        let thread = std::thread::Builder::new().name("listener".to_owned());
        let thread = thread.spawn(move || listen(&socket, &told, arrive))?;
        Ok(Self { thread: Some(thread), stop, socket_file })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        if let Some(path) = &self.socket_file {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Replaces only a socket that nobody answers at. Any other failure than a refusal (a socket of another kind, or one that
/// we may not use) says that somebody may well be there.
fn refuse_foreign(path: &Path) -> io::Result<()> {
    let Ok(metadata) = std::fs::symlink_metadata(path) else { return Ok(()) };
    let refused = |cause: io::Error| cause.kind() == io::ErrorKind::ConnectionRefused;
    if metadata.file_type().is_socket() && UnixStream::connect(path).is_err_and(refused) {
        return Ok(());
    }
    Err(io::ErrorKind::AddrInUse.into())
}

fn listen(socket: &Socket, stop: &Waker, arrive: impl Fn(OwnedFd)) {
    loop {
        let mut waits = [PollFd::new(socket, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
        match poll(&mut waits, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(cause) => return log::error!("waiting for clients: {cause}"),
        }
        if !waits[1].revents().is_empty() {
            return;
        }
        if waits[0].revents().is_empty() {
            continue;
        }
        match socket.accept() {
            Ok(client) => arrive(client),
            Err(cause) => {
                log::warn!("a client could not be accepted: {cause}");
                std::thread::sleep(RETRY);
            }
        }
    }
}

impl Socket {
    fn accept(&self) -> io::Result<OwnedFd> {
        match self {
            Self::Unix(listener) => Ok(listener.accept()?.0.into()),
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept()?;
                // Replies are whole when they are sent: waiting for more to send would only delay them.
                // If that fails, or the next, the client has gone already, which its first receive will tell.
                let _ = stream.set_nodelay(true);
                let _ = rustix::net::sockopt::set_socket_keepalive(&stream, true);
                Ok(stream.into())
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        match self {
            Self::Unix(listener) => listener.as_fd(),
            Self::Tcp(listener) => listener.as_fd(),
        }
    }
}
