//! The URIs of exports, and commands of common clients that fit them.
//!
//! Owns their forms. `nbd+unix:///NAME?socket=PATH` and `nbd://HOST:PORT/NAME`, percent-encoded; without NAME for the
//! default export.

use super::listening::Listening;
use crate::arguments::serve::TcpAddress;
use crate::views::{ExportView, VolumeKind, VolumeView};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const KEPT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

const DEFAULT_PORT: u16 = 10809;

/// One socket of a server.
#[derive(Clone, Copy)]
enum Socket<'s> {
    Unix(&'s Path),
    Tcp(&'s TcpAddress),
}

/// Every volume and snapshot on every socket. The default export comes first, without its name.
pub fn exports(listening: &Listening, volumes: &[VolumeView], default: Option<&str>) -> Vec<ExportView> {
    let unix = listening.unix.as_deref().map(Socket::Unix);
    let sockets = unix.into_iter().chain(listening.tcp.as_ref().map(Socket::Tcp));
    let of_socket = |socket: Socket<'_>| {
        let default = volumes.iter().filter(|volume| Some(volume.name.as_str()) == default);
        let default = default.map(|volume| export(socket, volume, true));
        default.chain(volumes.iter().map(|volume| export(socket, volume, false))).collect::<Vec<_>>()
    };
    sockets.flat_map(of_socket).collect()
}

fn export(socket: Socket<'_>, volume: &VolumeView, default: bool) -> ExportView {
    let name = if default { "" } else { &volume.name };
    let read_only = volume.kind == VolumeKind::Snapshot;
    let uri = uri(socket, name);
    ExportView {
        name: volume.name.clone(),
        default,
        read_only,
        size_bytes: volume.size_bytes,
        commands: commands(socket, name, read_only, &uri),
        uri,
    }
}

fn uri(socket: Socket<'_>, name: &str) -> String {
    let name = percent_encode(name.as_bytes(), KEPT);
    match socket {
        Socket::Unix(path) => {
            format!("nbd+unix:///{name}?socket={}", percent_encode(path.as_os_str().as_bytes(), KEPT))
        }
        Socket::Tcp(address) if address.port == DEFAULT_PORT => {
            format!("nbd://{}/{name}", address.to_string().trim_end_matches(":10809"))
        }
        Socket::Tcp(address) => format!("nbd://{address}/{name}"),
    }
}

fn commands(socket: Socket<'_>, name: &str, read_only: bool, uri: &str) -> Vec<String> {
    let uri = quoted(uri);
    vec![
        format!("nbdinfo {uri}"),
        format!("qemu-img info {uri}"),
        kernel_command(socket, name, read_only),
        format!("nbdcopy {uri} copy.img"),
    ]
}

/// Makes it a block device of this machine's kernel.
fn kernel_command(socket: Socket<'_>, name: &str, read_only: bool) -> String {
    let target = match socket {
        Socket::Unix(path) => format!("-unix {}", quoted(&path.to_string_lossy())),
        Socket::Tcp(TcpAddress { host, port }) => format!("{} {port}", quoted(host)),
    };
    let name = if name.is_empty() { String::new() } else { format!(" -N {}", quoted(name)) };
    let read_only = if read_only { " -R" } else { "" };
    format!("nbd-client {target} /dev/nbd0{name}{read_only}")
}

/// As one word of a POSIX shell.
fn quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._/:@%+=,".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(name: &str, kind: VolumeKind) -> VolumeView {
        VolumeView {
            number: 1,
            uuid: String::new(),
            name: name.to_owned(),
            kind,
            origin: None,
            size_bytes: 4096,
            mapped_bytes: 0,
            created_unix_s: 0,
            generation: 0,
            holds: Vec::new(),
            deletion_deferred: false,
            properties: Default::default(),
            usage: None,
        }
    }

    fn unix() -> Listening {
        Listening { unix: Some("/run/my pool/nbd.sock".into()), tcp: None }
    }

    #[test]
    fn names_and_paths_are_encoded_and_quoted() {
        let exports = exports(&unix(), &[volume("group/it's@1", VolumeKind::Snapshot)], None);
        assert_eq!(exports.len(), 1);
        assert_eq!(exports[0].uri, "nbd+unix:///group/it%27s%401?socket=/run/my%20pool/nbd.sock");
        assert_eq!(
            exports[0].commands,
            [
                "nbdinfo 'nbd+unix:///group/it%27s%401?socket=/run/my%20pool/nbd.sock'",
                "qemu-img info 'nbd+unix:///group/it%27s%401?socket=/run/my%20pool/nbd.sock'",
                r"nbd-client -unix '/run/my pool/nbd.sock' /dev/nbd0 -N 'group/it'\''s@1' -R",
                "nbdcopy 'nbd+unix:///group/it%27s%401?socket=/run/my%20pool/nbd.sock' copy.img",
            ]
        );
    }

    #[test]
    fn the_default_export_is_there_twice() {
        let volumes = [volume("a", VolumeKind::Volume), volume("b", VolumeKind::Volume)];
        let address = |text: &str| Listening { unix: None, tcp: Some(text.parse().unwrap()) };
        let uris = |listening: &Listening| -> Vec<String> {
            exports(listening, &volumes, Some("b")).into_iter().map(|export| export.uri).collect()
        };
        assert_eq!(uris(&address("[::1]:7")), ["nbd://[::1]:7/", "nbd://[::1]:7/a", "nbd://[::1]:7/b"]);
        assert_eq!(uris(&address("10809"))[1], "nbd://127.0.0.1/a");
        let kernel = &exports(&address("7"), &volumes, Some("b"))[0].commands[2];
        assert_eq!(kernel, "nbd-client 127.0.0.1 7 /dev/nbd0");
    }
}
