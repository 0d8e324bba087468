//! The flags of `vellum serve`.
//!
//! Owns their words and the forms of addresses and volumes. What they do is `serve/`'s.

use crate::size::Size;
use clap::{Args, ValueEnum};
use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;

/// How to serve a pool.
#[derive(Clone, Debug, Args)]
pub struct ServeArguments {
    /// Make the pool with this size if there is none.
    #[arg(long, value_name = "SIZE")]
    pub create: Option<Size>,

    /// Make this volume if there is none of the name; one of another size is an error. May be given several times.
    #[arg(long = "volume", value_name = "NAME=SIZE")]
    pub volumes: Vec<NamedSize>,

    /// Listen on a Unix socket there. Without --unix and --tcp: `nbd.sock` in the pool's directory.
    #[arg(long, value_name = "PATH")]
    pub unix: Option<PathBuf>,

    /// Listen on TCP: PORT (on 127.0.0.1 only) or HOST:PORT. NBD has no passwords: whoever reaches it can write.
    #[arg(long, value_name = "ADDR")]
    pub tcp: Option<TcpAddress>,

    /// How data reaches the disk; by default `cached` for files and `direct` for devices.
    #[arg(long, value_enum)]
    pub cache: Option<Cache>,

    /// Give this volume or snapshot to clients that name none.
    #[arg(long, value_name = "NAME")]
    pub default: Option<String>,

    /// Threads that serve clients; by default one a processor.
    #[arg(long, value_name = "N")]
    pub threads: Option<NonZeroUsize>,

    /// What carries data to disks and sockets.
    #[arg(long, value_enum, default_value_t = Io::Auto)]
    pub io: Io,

    /// Clients that may be connected at the same time.
    #[arg(long, value_name = "N", default_value = "64")]
    pub connections: NonZeroUsize,
}

/// How data reaches the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Cache {
    /// Reads and writes go past the host's page cache.
    Direct,
    /// Writes go past the page cache, reads through it: clones share what they have in common.
    Cached,
    /// Both go through the page cache: fastest without flushes, and a power loss may mix old and new inside a sector
    /// that was being overwritten.
    Writeback,
}

/// What carries data to disks and sockets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Io {
    /// io_uring where the kernel allows it, else threads.
    #[default]
    Auto,
    /// io_uring, or an error.
    Ring,
    /// Threads with plain reads and writes.
    Threads,
}

/// A volume to be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedSize {
    /// Its name.
    pub name: String,
    /// Its size.
    pub size: Size,
}

impl FromStr for NamedSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // A name may have a `=`, a size has none.
        let (name, size) = text.rsplit_once('=').ok_or("write it as NAME=SIZE, as in disk=10G")?;
        let size = size.parse().map_err(|cause: crate::size::BadSize| cause.to_string())?;
        Ok(Self { name: name.to_owned(), size })
    }
}

/// Where to listen on TCP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpAddress {
    /// A name or address, without brackets.
    pub host: String,
    /// The port; 0 lets the system choose.
    pub port: u16,
}

impl FromStr for TcpAddress {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        const FORM: &str = "write it as PORT or HOST:PORT, as in 10809, 0.0.0.0:10809 or [::1]:10809";
        let (host, port) = text.rsplit_once(':').unwrap_or(("127.0.0.1", text));
        let is_bracketed = host.starts_with('[') && host.ends_with(']');
        let host = if is_bracketed { &host[1..host.len() - 1] } else { host };
        if host.is_empty() || host.contains(['[', ']', '/', '@']) || (host.contains(':') && !is_bracketed) {
            return Err(FORM);
        }
        let port = port.bytes().all(|digit| digit.is_ascii_digit()).then(|| port.parse().ok()).flatten();
        Ok(Self { host: host.to_owned(), port: port.ok_or(FORM)? })
    }
}

impl fmt::Display for TcpAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(out, "[{host}]:{port}") } else { write!(out, "{host}:{port}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_alone_stays_on_this_machine() {
        let shown = |text: &str| text.parse::<TcpAddress>().map(|address| address.to_string());
        assert_eq!(shown("10809").unwrap(), "127.0.0.1:10809");
        assert_eq!(shown("0.0.0.0:1").unwrap(), "0.0.0.0:1");
        assert_eq!(shown("[::1]:10809").unwrap(), "[::1]:10809");
        assert_eq!(shown("storage.example:0").unwrap(), "storage.example:0");
        for wrong in ["", "host", ":1", "::1:1", "1:", "70000", "a:+1", "[]:1", "nbd://a:1"] {
            assert!(shown(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_volume_has_a_name_and_a_size() {
        let volume: NamedSize = "group/a=b=10G".parse().unwrap();
        assert_eq!((volume.name.as_str(), volume.size), ("group/a=b", Size(10 << 30)));
        assert!("disk".parse::<NamedSize>().is_err());
        assert!("disk=much".parse::<NamedSize>().unwrap_err().contains("10G"));
    }
}
