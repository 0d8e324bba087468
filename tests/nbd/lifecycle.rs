//! A server's end, and the socket file that it leaves or does not leave behind.

use crate::fixture::{self, PoolFiles, REACTORS};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use vellum_engine::error::ErrorKind;
use vellum_engine::request::Request;
use vellum_engine::storage::CacheMode;
use vellum_nbd_server::Limits;
use vellum_tests::nbd_client::{NbdClient, command, flag};

const WRITE_BYTES: usize = 20_000;

#[test]
fn a_stop_among_requests_keeps_what_was_answered() {
    for reactor in REACTORS {
        let (files, serving) = fixture::serve(reactor);
        let (tell, told) = mpsc::channel();
        let writers: Vec<_> = (0..4u64)
            .map(|writer| {
                let mut client = serving.client("disk");
                let tell = tell.clone();
                std::thread::spawn(move || write_until_the_end(&mut client, writer, &tell))
            })
            .collect();
        drop(tell);
        let mut answered: Vec<u64> = told.iter().take(400).collect();
        let started = Instant::now();
        serving.stop();
        assert!(started.elapsed() < Duration::from_secs(5), "a stop took {:?}", started.elapsed());
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        answered.extend(told.iter());

        let serving = files.serve(fixture::config(reactor, Limits::default()));
        let mut client = serving.client("disk");
        for at in &answered {
            let read = client.read(0, *at, WRITE_BYTES as u32).unwrap().unwrap();
            assert!(read == fixture::pattern(*at, WRITE_BYTES), "the write at {at} is lost, {reactor:?}");
        }
        drop(client);
        serving.stop();
        assert_eq!(files.check(), Vec::<String>::new());
    }
}

/// Several writes at a time, and the offset of each that was answered.
fn write_until_the_end(client: &mut NbdClient, writer: u64, tell: &mpsc::Sender<u64>) {
    let mut sent = Vec::new();
    for number in 0..2000u64 {
        let at = (writer * 2000 + number) * 30_000;
        let request =
            client.request(0, command::WRITE, at, WRITE_BYTES as u32, &fixture::pattern(at, WRITE_BYTES));
        let Ok(cookie) = request else { break };
        sent.push((cookie, at));
        if sent.len() >= 8 && !take_answer(client, &mut sent, tell) {
            return;
        }
    }
    while !sent.is_empty() && take_answer(client, &mut sent, tell) {}
}

fn take_answer(client: &mut NbdClient, sent: &mut Vec<(u64, u64)>, tell: &mpsc::Sender<u64>) -> bool {
    let Ok(reply) = client.reply() else { return false };
    let Some(index) = sent.iter().position(|(cookie, _)| *cookie == reply.cookie()) else { return false };
    let (_, at) = sent.swap_remove(index);
    if reply == (vellum_tests::nbd_client::Reply::Simple { error: 0, cookie: reply.cookie() }) {
        let _ = tell.send(at);
    }
    true
}

#[test]
fn a_stop_does_not_wait_for_who_does_not_read() {
    for reactor in REACTORS {
        let limits = Limits { drain: Duration::from_millis(300), ..Limits::default() };
        let (files, serving) = fixture::serve_within(reactor, limits.clone());
        let mut client = serving.client("disk");
        client.write(0, &fixture::pattern(1, 8 << 20)).unwrap();
        for _ in 0..20 {
            client.request(0, command::READ, 0, 8 << 20, &[]).unwrap();
        }
        client.receive(1000).unwrap();
        let handshake = NbdClient::connect(&serving.socket).unwrap();
        let started = Instant::now();
        serving.stop();
        assert!(started.elapsed() < Duration::from_secs(5), "a stop took {:?}", started.elapsed());
        drop((client, handshake));
        let serving = files.serve(fixture::config(reactor, limits));
        let read = serving.client("disk").read(0, 0, 8 << 20).unwrap().unwrap();
        assert!(read == fixture::pattern(1, 8 << 20));
        serving.stop();
    }
}

#[test]
fn a_stop_does_not_wait_for_a_long_request() {
    for reactor in REACTORS {
        let limits = Limits { drain: Duration::from_millis(20), ..Limits::default() };
        let (files, serving) = fixture::serve_within(reactor, limits);
        let mut client = serving.client("disk");
        client.write(250 << 20, b"acknowledged").unwrap();
        client.request(flag::NO_HOLE, command::WRITE_ZEROES, 0, 240 << 20, &[]).unwrap();
        let mapped = || serving.handle.volume("disk").is_some_and(|info| info.mapped_blocks > 100);
        assert!(fixture::until(Duration::from_secs(5), mapped));
        let started = Instant::now();
        serving.stop();
        assert!(started.elapsed() < Duration::from_secs(5), "a stop took {:?}", started.elapsed());
        drop(client);
        assert_eq!(files.check(), Vec::<String>::new());
        let serving = files.serve(fixture::config(reactor, Limits::default()));
        let read = serving.client("disk").read(0, 250 << 20, 12).unwrap().unwrap();
        assert_eq!(read, b"acknowledged");
        serving.stop();
    }
}

#[test]
fn who_asks_a_stopped_server_is_told_so() {
    for reactor in REACTORS {
        let (_files, serving) = fixture::serve(reactor);
        let handle = serving.handle.clone();
        serving.server.stop().unwrap();
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            let answer = handle.request(Request::Flush).map(drop).map_err(|error| error.kind());
            let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
            handle.connect(one.into());
            let _ = tell.send((answer, handle.connections()));
        });
        let answer = told.recv_timeout(Duration::from_secs(5)).expect("an answer rather than none for ever");
        assert_eq!(answer, (Err(ErrorKind::Io), 0));
    }
}

#[test]
fn a_volume_in_use_is_not_deleted() {
    for reactor in REACTORS {
        let (_files, serving) = fixture::serve(reactor);
        let id = serving.handle.volume("disk").unwrap().id;
        let delete = || serving.handle.request(Request::Delete { volumes: vec![id], deferred: false });
        let client = serving.client("disk");
        assert_eq!(delete().unwrap_err().kind(), ErrorKind::Busy);
        drop(client);
        serving.wait_until_alone(Duration::from_secs(1));
        delete().unwrap();
        assert!(NbdClient::open(&serving.socket, "disk").is_err());
        serving.stop();
    }
}

#[test]
fn a_socket_file_is_private_and_never_somebody_elses() {
    for reactor in REACTORS {
        let files = PoolFiles::create(CacheMode::Writeback).unwrap();
        let socket = files.path("socket");
        // Left behind by a server that was killed.
        drop(UnixListener::bind(&socket).unwrap());
        let mut serving = files.serve(fixture::config(reactor, Limits::default()));
        let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        serving.create_volume("disk", 1 << 20);
        drop(serving.client("disk"));

        assert!(serving.server.listen_unix(&socket).is_err(), "a live socket was replaced");
        drop(serving.client("disk"));
        let file = files.path("file");
        std::fs::write(&file, "precious").unwrap();
        assert!(serving.server.listen_unix(&file).is_err(), "a file was replaced");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
        let link = files.path("link");
        std::os::unix::fs::symlink(files.path("nowhere"), &link).unwrap();
        assert!(serving.server.listen_unix(&link).is_err(), "a link was replaced");
        let datagram = files.path("datagram");
        let _alive = UnixDatagram::bind(&datagram).unwrap();
        assert!(serving.server.listen_unix(&datagram).is_err(), "a live socket of another kind was replaced");
        assert!(serving.server.listen_unix(&files.path("no/such/folder")).is_err());

        let second = files.path("second");
        serving.server.listen_unix(&second).unwrap();
        drop(NbdClient::open(&second, "disk").unwrap());
        serving.stop();
        for (path, stays) in [(&socket, false), (&second, false), (&file, true), (&link, true)] {
            assert_eq!(fixture::is_there(path), stays, "{}", path.display());
        }
        let left = std::fs::read_dir(files.path("")).unwrap().count();
        assert_eq!(left, 5, "data, metadata, file, link and datagram");
    }
}
