//! The control socket's file: private from its first moment, gone at the end.
//!
//! Owns the file. Knows no HTTP.

use crate::error::{Error, Result};
use crate::exit::Kind;
use rustix::fs::{Mode, fchmod};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

const BACKLOG: i32 = 64;

/// A listening socket and its file, which is removed when this is dropped.
#[derive(Debug)]
pub struct ControlSocket {
    path: PathBuf,
    listener: UnixListener,
}

impl ControlSocket {
    /// Listens on `path`, for this user only. A socket file without a listener is replaced; anything else is not.
    pub fn bind(path: &Path) -> Result<Self> {
        remove_stale(path)?;
        let listener = listen(path);
        let listener = listener.map_err(|cause| {
            Error::io(format!("cannot listen on '{}'", path.display()), &cause)
                .hint("a socket's path has at most 107 bytes; its directory must be writable")
        })?;
        Ok(Self { path: path.to_owned(), listener })
    }

    /// The socket for the runtime that this is called in.
    pub(super) fn listener(&self) -> Result<tokio::net::UnixListener> {
        let listener = self.listener.try_clone().and_then(|listener| {
            listener.set_nonblocking(true)?;
            tokio::net::UnixListener::from_std(listener)
        });
        listener.map_err(|cause| Error::io("cannot start the control server", &cause))
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // A file that stays behind is stale and will be replaced.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn remove_stale(path: &Path) -> Result<()> {
    let Ok(metadata) = path.symlink_metadata() else { return Ok(()) };
    if !metadata.file_type().is_socket() {
        return Err(Error::new(Kind::Exists, format!("'{}' is there, and is no socket", path.display()))
            .hint("remove it if nothing needs it"));
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(Error::new(Kind::InUse, format!("somebody listens on '{}' already", path.display()))),
        Err(_) => std::fs::remove_file(path)
            .map_err(|cause| Error::io(format!("cannot remove '{}'", path.display()), &cause)),
    }
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    let socket: OwnedFd =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // The file that `bind` makes takes the socket's mode, so at no moment can others connect.
    fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    if let Err(cause) = rustix::net::listen(&socket, BACKLOG) {
        let _ = std::fs::remove_file(path);
        return Err(cause.into());
    }
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_socket_is_private_and_goes_with_its_owner() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        let socket = ControlSocket::bind(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(ControlSocket::bind(&path).unwrap_err().kind(), Kind::InUse);
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_file_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        drop(ControlSocket::bind(&path).unwrap());
        std::fs::write(&path, "precious").unwrap();
        assert_eq!(ControlSocket::bind(&path).unwrap_err().kind(), Kind::Exists);
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }
}
