//! Where a server listens.
//!
//! Owns the default. Opens no socket.

use crate::arguments::serve::{ServeArguments, TcpAddress};
use crate::error::{Error, Result};
use crate::exit::Kind;
use crate::pool_directory::PoolDirectory;
use std::path::PathBuf;

/// Of `sockaddr_un`, without the zero at the end.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Where a server listens. Once it does, a port of 0 should be replaced by the real one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listening {
    /// The path of the Unix socket, absolute.
    pub unix: Option<PathBuf>,
    /// The address and port.
    pub tcp: Option<TcpAddress>,
}

impl Listening {
    /// What the arguments ask for; the socket in the pool's directory if they ask for nothing.
    pub fn new(arguments: &ServeArguments, directory: &PoolDirectory) -> Result<Self> {
        let unix = match (&arguments.unix, &arguments.tcp) {
            (None, None) => Some(directory.nbd_socket()),
            (unix, _) => unix.clone(),
        };
        let absolute = |path: PathBuf| {
            let path = std::path::absolute(&path)
                .map_err(|cause| Error::io(format!("'{}'", path.display()), &cause))?;
            if path.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
                return Err(Error::new(
                    Kind::Invalid,
                    format!("'{}' is too long for a socket", path.display()),
                )
                .hint("a socket's path has at most 107 bytes: give a shorter one by --unix"));
            }
            Ok(path)
        };
        Ok(Self { unix: unix.map(absolute).transpose()?, tcp: arguments.tcp.clone() })
    }
}
